"""DataFrames to Arrow tables: the one place that knows DataFrame libraries (through narwhals)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import narwhals as nw
import narwhals.exceptions
import numpy as np
import pyarrow as pa

from crossfm.errors import SchemaError, did_you_mean

__all__ = ["column_names", "is_frame", "missing_column", "to_arrow"]


def is_frame(x: object) -> bool:
    """Whether `to_arrow` reads `x`: a DataFrame, lazy or not, a dict of columns, records.

    >>> is_frame({"user": [1, 2]}), is_frame([{"user": 1}]), is_frame([[1.0, 2.0]])
    (True, True, False)
    """
    if isinstance(x, Mapping):
        return True
    if isinstance(x, list):
        return bool(x) and isinstance(x[0], Mapping)
    if isinstance(x, pa.Table | pa.RecordBatch | nw.DataFrame | nw.LazyFrame):
        return True
    try:
        return nw.from_native(x, pass_through=True) is not x
    except narwhals.exceptions.DuplicateError:
        return True


def to_arrow(frame: Any, columns: Sequence[str] | None = None) -> pa.Table:
    """An Arrow table of a frame's columns, without a copy where the frame is Arrow inside.

    Args:
        frame: a DataFrame of pandas, polars (lazy ones are collected), pyarrow, or anything
            else that narwhals reads; a dict of columns; a list of records (dicts). A dict
            with a scalar in it is one record.
        columns: the columns to take, in this order; None: all. Others are not converted.

    Raises:
        SchemaError: a column that is not there, two of the same name, a column of mixed types.

    Example:
        >>> to_arrow({"user": [1, 2], "tags": [["a"], []]}, ["tags"]).column_names
        ['tags']
    """
    if isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    if isinstance(frame, Mapping):
        frame = _wrap_record(frame)
    if isinstance(frame, Mapping | list):
        return _from_python(frame, columns)
    if isinstance(frame, pa.Table):
        _check_names(frame.column_names)
        return frame if columns is None else frame.select(_pick(columns, frame.column_names))
    return _from_narwhals(_wrap(frame), columns)


def column_names(frame: Any) -> list[str]:
    """The names of a frame's columns, without converting any.

    >>> column_names({"user": [1, 2], "item": [3, 4]})
    ['user', 'item']
    """
    if isinstance(frame, pa.Table | pa.RecordBatch):
        names = list(frame.schema.names)
    elif isinstance(frame, Mapping):
        names = [str(name) for name in frame]
    elif isinstance(frame, list):
        names = _record_names(frame)
    else:
        wrapped = _wrap(frame)
        lazy = isinstance(wrapped, nw.LazyFrame)
        names = [str(name) for name in (wrapped.collect_schema() if lazy else wrapped.columns)]
    _check_names(names)
    return names


def missing_column(name: object, available: Iterable[str]) -> SchemaError:
    """The error for a column that a frame does not have, naming the nearest one.

    >>> print(missing_column("usr", ["user", "item"]))
    no column 'usr'. Did you mean 'user'? The columns are 'user', 'item'
    """
    names = [repr(n) for n in available]
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    listed = f"The columns are {shown}" if names else "The frame has no columns"
    hint = did_you_mean(name, (n[1:-1] for n in names))
    return SchemaError(f"no column {name!r}.{hint} {listed}")


def _wrap(frame: Any) -> nw.DataFrame[Any] | nw.LazyFrame[Any]:
    """The narwhals view of a frame."""
    try:
        return nw.from_native(frame)
    except narwhals.exceptions.DuplicateError as error:
        raise _duplicates(getattr(frame, "columns", ())) from error
    except TypeError as error:
        raise SchemaError(
            f"expected a DataFrame (pandas, polars, pyarrow ...), a dict of columns or a list of"
            f" records, got {type(frame).__name__}"
        ) from error


def _from_narwhals(
    frame: nw.DataFrame[Any] | nw.LazyFrame[Any], columns: Sequence[str] | None
) -> pa.Table:
    if isinstance(frame, nw.LazyFrame):
        names = frame.collect_schema().names()
        frame = frame.select(names if columns is None else _pick(columns, names)).collect()
    by_name: dict[str, Any] = {str(name): name for name in frame.columns}
    if len(by_name) < len(frame.columns):  # 0 and "0" in pandas
        raise _duplicates(frame.columns)
    picked = list(by_name) if columns is None else _pick(columns, by_name)
    if frame.implementation.is_polars():
        table = frame.select(picked).to_arrow()
        return table if isinstance(table, pa.Table) else pa.table(table)
    if not picked:
        return _empty(len(frame))
    return pa.table({name: _column(frame.get_column(by_name[name]), name) for name in picked})


def _column(series: nw.Series[Any], name: str) -> pa.Array | pa.ChunkedArray:
    """One column of a frame that is not Arrow throughout (pandas and its kin)."""
    try:
        array = series.to_arrow()
    except OverflowError:  # integers beyond int64 in an object column
        return _array(series.to_list(), name)
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError) as error:
        raise _mixed(name, series.to_list()) from error
    kind = array.type
    if isinstance(kind, pa.DictionaryType) and isinstance(kind.value_type, pa.BaseExtensionType):
        # pandas.cut: a category is an interval
        categories = [str(value) for value in series.to_native().cat.categories]
        chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
        return pa.chunked_array(
            [pa.DictionaryArray.from_arrays(chunk.indices, pa.array(categories, pa.string()))
             for chunk in chunks],
            pa.dictionary(kind.index_type, pa.string()),
        )  # fmt: skip
    if isinstance(kind, pa.BaseExtensionType):
        missing = series.is_null().to_list()
        values = zip(series.to_list(), missing, strict=True)
        return pa.array([None if null else str(value) for value, null in values], pa.string())
    return array


def _wrap_record(frame: Mapping[Any, Any]) -> Mapping[Any, Any] | list[Mapping[Any, Any]]:
    """A dict of columns as it is; a dict with a scalar in it is one record."""
    return [frame] if any(map(_is_scalar, frame.values())) else frame


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | bytes) or not hasattr(value, "__len__")


def _from_python(
    frame: Mapping[Any, Any] | list[Mapping[Any, Any]], columns: Sequence[str] | None
) -> pa.Table:
    if isinstance(frame, list):
        strays = [type(record).__name__ for record in frame if not isinstance(record, Mapping)]
        if strays:
            raise SchemaError(f"expected records (dicts), got a {strays[0]} among them")
        names = _record_names(frame) if columns is None else list(columns)
        known = _record_names(frame)
        _pick(names, known)
        frame = {name: [record.get(name) for record in frame] for name in names}
    by_name = {str(name): name for name in frame}
    if len(by_name) < len(frame):
        raise _duplicates(frame)
    picked = list(by_name) if columns is None else _pick(columns, by_name)
    arrays = {name: _array(frame[by_name[name]], name) for name in picked}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise SchemaError(f"columns differ in length: {told}")
    return pa.table(arrays)


def _array(values: Any, name: str) -> pa.Array | pa.ChunkedArray:
    """An Arrow array of Python or numpy values, NaN as null."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, np.ndarray) and values.ndim == 2:
        values = list(values)
    try:
        wrapped = nw.from_native(values, series_only=True, pass_through=True)
        if isinstance(wrapped, nw.Series):
            return _column(wrapped, name)
        try:
            return pa.array(values, from_pandas=True)
        except OverflowError:
            return pa.array(values, pa.uint64(), from_pandas=True)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise _mixed(name, values) from error


def _record_names(records: Sequence[Mapping[Any, Any]]) -> list[str]:
    return list(dict.fromkeys(str(name) for record in records for name in record))


def _empty(n_rows: int) -> pa.Table:
    """A table without columns that still has a number of rows."""
    return pa.table({"": pa.nulls(n_rows)}).select([])


def _pick(columns: Sequence[str], available: Iterable[str]) -> list[str]:
    known = dict.fromkeys(available)
    for name in columns:
        if name not in known:
            raise missing_column(name, known)
    return list(columns)


def _check_names(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise _duplicates(names)


def _duplicates(names: Iterable[Any]) -> SchemaError:
    twice = [name for name, count in Counter(map(str, names)).items() if count > 1]
    return SchemaError(
        f"{len(twice)} column name(s) stand more than once: "
        f"{', '.join(map(repr, twice))}; rename or drop the others"
    )


def _mixed(name: str, values: Iterable[Any]) -> SchemaError:
    kinds = Counter(type(v).__name__ for v in values if v is not None and v == v is not False)
    found = ", ".join(kind for kind, _ in kinds.most_common(4)) or "values"
    return SchemaError(
        f"column {name!r} holds values of mixed or unknown types ({found}); make them one type,"
        f" for example with astype(str)"
    )
