"""Tables as files, and encoded rows as tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from crossfm.data.coded import decoded
from crossfm.data.fields import Bag, Numeric
from crossfm.data.files import packing, replacing
from crossfm.data.frames import to_arrow
from crossfm.data.rows import Rows
from crossfm.data.tables import table_format
from crossfm.errors import DataError, SchemaError

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["rows_table", "table_rows", "write_table"]

LISTS = ("ids", "values", "fields")  # columns of a table of rows, a list a row
NUMBERS = ("target", "weight")


def write_table(path: str | os.PathLike[str], frame: Any) -> None:
    r"""Write a frame, or `Rows`, as a Parquet, CSV or TSV file that `read_table` reads.

    Args:
        path: the file to make or replace, in one step. The form follows from the name:
            ``.parquet`` ``.pq`` ``.parq``, or ``.csv`` ``.tsv`` ``.tab``, these packed where
            ``.gz`` or ``.zst`` follows.
        frame: anything that `to_arrow` reads; Rows are written as `rows_table`.

    Raises:
        DataError: a name that says no form; lists in a CSV file; a folder that cannot be
            written to.
        SchemaError: nothing that is a frame.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "ratings.tsv.gz"
        >>> write_table(path, {"user": ["ann", "bob"], "rating": [5, None]})
        >>> from crossfm.data import read_table
        >>> read_table(path).to_pydict()
        {'user': ['ann', 'bob'], 'rating': [5, None]}
    """
    separator = table_format(path)
    table = rows_table(frame) if isinstance(frame, Rows) else to_arrow(frame)
    if separator is None:
        with replacing(path) as file:
            pyarrow.parquet.write_table(table, file)
        return
    table = decoded(table)
    for field in table.schema:
        if pa.types.is_nested(field.type):
            raise DataError(
                f"{os.fspath(path)}: column {field.name!r} holds {field.type}, for which CSV has"
                " no place; write a Parquet file, or rows as libsvm or libffm text"
            )
    with replacing(path) as whole, packing(whole, path) as file:
        options = pyarrow.csv.WriteOptions(delimiter=separator)
        pyarrow.csv.write_csv(table, file, options)


def rows_table(rows: Rows, schema: Schema | None = None) -> pa.Table:
    """Encoded rows as a table, to be written or used elsewhere.

    Without a schema: the columns `ids`, `values` (where they are not all 1) and `fields` (where
    the rows carry them) of lists, and `target` and `weight` of numbers. `table_rows` is the way
    back.

    With the schema that encoded them: a column for each field, under its name. Categories and
    buckets are ids, unknown and missing ones the field's first id; numbers are the scaled values,
    null where missing; bags are lists of ids, and where their features have weights these are
    lists in the column ``NAME.weight``. Without bags such a table fits a CSV file.

    Raises:
        SchemaError: the schema is not fitted; a field whose name another column needs.
        DataError: rows that this schema has not encoded.

    Example:
        >>> from crossfm.data import Categorical, Schema
        >>> log = {"user": ["ann", "bob", "ann"], "age": [20.0, 40.0, None]}
        >>> schema = Schema([Categorical("user"), Numeric("age")]).fit(log)
        >>> rows = schema.transform(log, targets=[1, 0, 1])
        >>> rows_table(rows, schema).to_pydict()
        {'user': [1, 2, 1], 'age': [-1.0, 1.0, None], 'target': [1.0, 0.0, 1.0]}
        >>> rows_table(rows).to_pydict()["ids"]
        [[1, 4], [2, 4], [1, 3]]
    """
    columns = _lists(rows) if schema is None else _by_field(rows, schema)
    for name, numbers in zip(NUMBERS, (rows.targets, rows.weights), strict=True):
        if numbers is not None:
            if name in columns:
                raise SchemaError(
                    f"the {name}s of the rows need a column {name!r}, which is also a field;"
                    f" leave them out with rows.replace({name}s=None)"
                )
            columns[name] = pa.array(numbers)
    return pa.table(columns)


def table_rows(frame: Any) -> Rows:
    """The rows that `rows_table` made a table of, without a schema.

    Raises:
        SchemaError: no column `ids`, or a column of another type than those of `rows_table`.
        DataError: something missing in a list, lists of different lengths.

    Example:
        >>> table_rows({"ids": [[3, 7], [1]], "target": [1.0, 0.0]}).offsets
        array([0, 2, 3])
    """
    table = to_arrow(frame)
    arrays: dict[str, Any] = {}
    lengths = None
    for name in ("ids", *(name for name in table.column_names if name != "ids")):
        if name not in (*LISTS, *NUMBERS):
            raise SchemaError(f"unknown column {name!r}; a table of rows has {LISTS + NUMBERS}")
        column = to_arrow(table, [name]).column(name)  # names a column that is not there
        if name in NUMBERS:
            arrays[name] = _numbers(column, name, pa.float32())
            continue
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            raise SchemaError(f"column {name!r} holds {column.type}, expected lists of numbers")
        own = _numbers(pa.compute.list_value_length(column), name, pa.int64())
        if lengths is None:
            lengths = own
        elif (own != lengths).any():
            row = int(np.argmax(own != lengths))
            raise DataError(f"row {row}: {own[row]} {name} for {lengths[row]} ids")
        flat = pa.chunked_array([c.flatten() for c in column.chunks], column.type.value_type)
        wide = pa.types.is_int64(flat.type)
        kinds = {"ids": pa.int64() if wide else pa.int32(), "values": pa.float32()}
        arrays[name] = _numbers(flat, name, kinds.get(name, pa.int32()))
    assert lengths is not None
    n = len(lengths)
    offsets = None
    if n == 0 or (lengths != lengths[0]).any():
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Rows(
        arrays["ids"],
        arrays.get("values"),
        offsets,
        arrays.get("fields"),
        arrays.get("target"),
        arrays.get("weight"),
        n,
    )


def _lists(rows: Rows) -> dict[str, pa.Array]:
    arrays = {name: getattr(rows, name) for name in LISTS}
    return {
        name: _list(rows.row_offsets(), array)
        for name, array in arrays.items()
        if array is not None
    }


def _list(offsets: Any, values: Any) -> pa.Array:
    large = int(offsets[-1]) > np.iinfo(np.int32).max
    kind: Callable[..., pa.Array] = (pa.LargeListArray if large else pa.ListArray).from_arrays
    return kind(pa.array(offsets, pa.int64() if large else pa.int32()), pa.array(values))


def _by_field(rows: Rows, schema: Schema) -> dict[str, pa.Array]:
    rows.validate(schema.n_features_)
    n, columns = len(rows), {}
    of_row = np.repeat(np.arange(n), rows.row_lengths())
    of_entry = schema.field_of_[rows.ids]
    for f, field in enumerate(schema.fields):
        here = np.flatnonzero(of_entry == f)
        ids = rows.ids[here]
        values = None if rows.values is None else rows.values[here]
        if isinstance(field, Bag):
            offsets = np.concatenate([[0], np.cumsum(np.bincount(of_row[here], minlength=n))])
            columns[field.name] = _list(offsets, ids)
            if values is not None and (values != 1).any():
                weight = f"{field.name}.weight"
                if weight in schema.field_names:
                    raise SchemaError(f"{weight!r} is a field, and the weights of {field.name!r}")
                columns[weight] = _list(offsets, values)
            continue
        if len(ids) != n or (of_row[here] != np.arange(n)).any():
            raise DataError(
                f"field {field.name!r} does not have one feature in each row; give the schema that"
                " encoded the rows"
            )
        if isinstance(field, Numeric) and field.scale != "bucket":
            missing = ids == schema.block(field.name)[0]
            x = np.ones(n, np.float32) if values is None else values
            columns[field.name] = pa.array(x, mask=missing)
        else:
            columns[field.name] = pa.array(ids)
    return columns


def _numbers(column: Any, name: str, kind: pa.DataType) -> Any:
    """A column as numbers of a type; nothing may be missing."""
    if column.null_count:
        raise DataError(f"column {name!r}: something is missing; rows have numbers throughout")
    try:
        safe = not pa.types.is_floating(kind)
        return column.cast(kind, safe=safe).to_numpy()
    except pa.ArrowException as error:
        raise SchemaError(f"column {name!r} is not of numbers: {error}") from error
