"""Criteo display advertising: clicks, 13 counts and 26 categories.

Source: Criteo Labs. Display Advertising Challenge, 2014. For research only; the official home
asks for consent, so nothing is downloaded here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from crossfm.datasets.fetch import locate
from crossfm.errors import DatasetError

__all__ = ["iter_criteo", "load_criteo"]

HOME = "https://ailab.criteo.com/ressources/"
COUNTS = [f"I{j}" for j in range(1, 14)]
CATEGORIES = [f"C{j}" for j in range(1, 27)]
COLUMNS = ["label", *COUNTS, *CATEGORIES]
# (folder, file), in the order in which they are looked for
PLACES = (("criteo", "train.txt"), ("criteo", "criteo.csv"), ("criteo-20k", "criteo.csv"))


def load_criteo(path: str | Path | None = None, *, n_rows: int | None = None) -> pa.Table:
    """Load a Criteo click log as raw columns.

    Two forms are read: the text of the Kaggle competition (no header, tabs; ``train.txt`` with
    labels, ``test.txt`` without) and CSV with a header of Label, I1 to I13, C1 to C26 in any
    case and order, an Id column left out. Either may be gzipped.

    Args:
        path: the file; None: ``criteo/train.txt``, ``criteo/criteo.csv`` or
            ``criteo-20k/criteo.csv`` in the folder that ``CROSSFM_DATA`` names.
        n_rows: read the first rows only.

    Returns:
        A table with `label` (int8, absent from test.txt), I1 to I13 (int32, null where
        missing) and C1 to C26 (strings, null where missing). A category that a CSV variant
        wrote as a float, ``461.0``, becomes ``461``.

    Raises:
        DatasetError: no such file, or not a Criteo log.

    Example:
        >>> load_criteo(n_rows=5).num_columns  # doctest: +SKIP
        40
    """
    batches: list[pa.Table] = []
    missing = n_rows
    for table in iter_criteo(path):
        batches.append(table if missing is None else table.slice(0, missing))
        if missing is not None:
            missing -= batches[-1].num_rows
            if missing <= 0:
                break
    return pa.concat_tables(batches).combine_chunks()


def iter_criteo(path: str | Path | None = None) -> Iterator[pa.Table]:
    """The tables of `load_criteo` in pieces of some ten thousand rows, in bounded memory."""
    found = _locate() if path is None else Path(path)
    try:
        with pa.input_stream(str(found), compression="detect") as stream:
            first = stream.read(4096).split(b"\n", 1)[0].decode("utf-8", "replace").rstrip("\r")
        names, skip, separator = _layout(first)
        with pa.input_stream(str(found), compression="detect") as stream:
            reader = pa.csv.open_csv(
                stream,
                pa.csv.ReadOptions(column_names=names, skip_rows=skip, block_size=4 << 20),
                pa.csv.ParseOptions(delimiter=separator),
                pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    include_columns=[name for name in COLUMNS if name in names],
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )
            empty = True
            for batch in reader:
                empty = False
                yield _typed(pa.Table.from_batches([batch]))
            if empty:
                raise DatasetError("it has no rows")
    except FileNotFoundError as error:
        raise DatasetError(f"no file {found}; Criteo's logs are at {HOME}") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(f"{found} is not a Criteo log: {error}") from error


def _locate() -> Path:
    for folder, file in PLACES[:-1]:
        try:
            return locate("Criteo", folder, [[file]], home=HOME) / file
        except DatasetError:
            continue
    folder, file = PLACES[-1]
    return locate("Criteo", folder, [[file]], home=HOME) / file


def _layout(first: str) -> tuple[list[str], int, str]:
    """Column names, lines to skip and separator, from the first line."""
    cells = first.split("\t")
    if len(cells) in (len(COLUMNS), len(COLUMNS) - 1) and not cells[0].lower().startswith("label"):
        return COLUMNS[-len(cells) :], 0, "\t"
    separator = "\t" if len(cells) > 1 else ","
    names = [name.strip().strip('"') for name in first.split(separator)]
    known = {name.lower(): name for name in COLUMNS} | {"click": "label"}
    names = [known.get(name.lower(), name) for name in names]
    absent = [name for name in COLUMNS[1:] if name not in names]
    if absent or len(set(names)) < len(names):
        raise DatasetError(
            f"expected {len(COLUMNS)} columns between tabs, or a"
            f" header with label, I1 to I13, C1 to C26; its first line begins {first[:60]!r}"
        )
    return names, 1, separator


def _typed(table: pa.Table) -> pa.Table:
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in CATEGORIES:
            columns[name] = _whole(pc.replace_substring_regex(column, r"^(-?\d+)\.0+$", r"\1"))
            continue
        try:
            whole = column.cast(pa.float64()).cast(pa.int32())
            columns[name] = whole.cast(pa.int8()) if name == "label" else whole
        except pa.ArrowInvalid as error:
            raise DatasetError(f"column {name}: expected whole numbers: {error}") from error
    return pa.table(columns)


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Large numbers that were written as powers of ten, ``1.0047882E7``, in full: ``10047882``."""
    powers = pc.match_substring_regex(column, r"^\d(\.\d+)?[eE]\+?\d{1,2}$")
    if not pc.any(powers).as_py():
        return column
    numbers = pc.cast(pc.if_else(powers, column, None), pa.float64())
    whole = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less(numbers, 2.0**53))
    written = pc.cast(pc.cast(pc.if_else(whole, numbers, None), pa.int64()), column.type)
    return pc.coalesce(written, column)
