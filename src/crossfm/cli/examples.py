"""Rows with their targets, from files: read whole, split, taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossfm.cli.columns import Wanted
from crossfm.cli.task import labels_of, target_of
from crossfm.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from crossfm.data.rows import Rows

__all__ = ["Examples", "column_names", "is_table", "paths_of", "read_table", "read_text", "split"]


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows, their targets, their weights.

    Attributes:
        X: an Arrow table, or Rows of a text file.
        y: targets ``[n]``.
        weight: weights ``[n]``, or None.
    """

    X: pa.Table | Rows
    y: NDArray[Any]
    weight: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: NDArray[np.int64]) -> Examples:
        """Some of the rows, in the order of `index`."""
        weight = None if self.weight is None else self.weight[index]
        return Examples(self.X.take(index), self.y[index], weight)


def paths_of(data: Sequence[Path]) -> list[Path]:
    """The files named; a folder stands for the files in it, in order.

    Raises:
        DataError: a file that is not there, a folder without files.
    """
    from crossfm.data.files import existing_file

    paths: list[Path] = []
    for path in data:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and p.name[0] not in "._")
            if not inside:
                raise DataError(f"the folder {path} holds no files")
            paths += inside
        else:
            paths.append(existing_file(path))
    return paths


def is_table(paths: Sequence[Path]) -> bool:
    """Whether the files have columns with names; libsvm and libffm text has none.

    Raises:
        DataError: files of both sorts.
    """
    from crossfm.data.inputs import file_format

    formats = {file_format(path) in ("parquet", "csv") for path in paths}
    if len(formats) > 1:
        raise DataError(
            "some of the files are tables (Parquet, CSV), others libsvm or libffm text; give one"
            " kind"
        )
    return formats == {True}


def column_names(path: Path) -> list[str]:
    """The columns of a table's file, without reading it whole."""
    from crossfm.data.tables import iter_tables
    from crossfm.data.tables import read_table as read_whole

    for table in iter_tables(path, 1):
        return list(table.column_names)
    return list(read_whole(path).column_names)  # no rows: the names are there all the same


def read_table(paths: Sequence[Path], wanted: Wanted, types: dict[str, Any]) -> Examples:
    """The rows of Parquet or CSV files, and their targets; `wanted` is resolved.

    Raises:
        SchemaError: a column that is not there; files whose columns do not agree.
        DataError: damaged files; rows without a target or weight; no rows.
    """
    from crossfm.data.inputs import as_table
    from crossfm.data.values import numbers

    columns = wanted.columns(column_names(paths[0]))
    table = as_table([str(path) for path in paths], columns, types)
    if table.num_rows == 0:
        raise DataError(f"{_named(paths)} holds no rows")
    assert wanted.target is not None
    y = target_of(table, wanted.target)
    weight = None
    if wanted.weight is not None:
        weight = numbers(table.column(wanted.weight), wanted.weight)
        _check_weight(weight, wanted.weight)
    dropped = {wanted.target, wanted.weight}
    return Examples(table.select([n for n in columns if n not in dropped]), y, weight)


def read_text(paths: Sequence[Path]) -> Examples:
    """The rows of libsvm or libffm files, which carry their targets.

    Raises:
        DataError: a malformed line, no rows.
    """
    from crossfm.data.inputs import as_rows

    rows = as_rows([str(path) for path in paths])
    if len(rows) == 0:
        raise DataError(f"{_named(paths)} holds no rows")
    assert rows.targets is not None
    return Examples(rows.replace(targets=None), labels_of(rows.targets))


def split(
    examples: Examples, share: float, seed: int, *, by_class: bool
) -> tuple[Examples, Examples]:
    """The rows for training and a random share of them for validation, each in file order.

    Args:
        examples: all rows.
        share: of the rows that are held out.
        seed: of the choice.
        by_class: hold out the same share of each class.

    Raises:
        DataError: too few rows for that.
    """
    n = len(examples)
    strata = np.unique(examples.y, return_inverse=True)[1] if by_class else np.zeros(n, np.intp)
    place = np.random.default_rng([seed, 1]).random(n)
    order = np.lexsort((place, strata))  # by stratum, shuffled inside
    sizes = np.bincount(strata)
    rank = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held = np.zeros(n, bool)
    held[order[rank < np.repeat(np.floor(sizes * share + 0.5), sizes)]] = True
    if not held.any() or held.all():
        raise DataError(
            f"{n} rows are too few to hold out {share:g} of them; take --valid 0, a larger share,"
            " or --valid-data FILE"
        )
    return examples.take(np.flatnonzero(~held)), examples.take(np.flatnonzero(held))


def _check_weight(weight: NDArray[np.float64], name: str) -> None:
    bad = ~np.isfinite(weight) | (weight < 0)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"column {name!r}, row {row}: the weight is {weight[row]:g}, expected a finite number"
            " of at least 0"
        )


def _named(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and the other files"
