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

__all__ = ["Examples", "column_names", "read_table", "read_text", "split"]


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
    table = as_table([str(path) for path in paths], columns, types, dictionaries=True)
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
    from crossfm.estimators._watching import held_out

    n = len(examples)
    strata = np.unique(examples.y, return_inverse=True)[1] if by_class else None
    try:
        kept, held = held_out(n, share, strata, seed)
    except DataError as error:
        raise DataError(
            f"{n} rows are too few to hold out {share:g} of them; take --valid 0, a larger share,"
            " or --valid-data FILE"
        ) from error
    return examples.take(kept), examples.take(held)


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
