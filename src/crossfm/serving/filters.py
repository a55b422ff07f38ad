"""Filters on the columns of a catalogue, as requests send them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossfm.errors import DataError, SchemaError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["mask_of"]


def mask_of(table: pa.Table, filter: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Which rows pass all conditions, bool ``[n]``.

    Args:
        table: the items' columns.
        filter: by column: a value; a list of values, one of which it is; or ``{"min": x, "max":
            y}``. A column of lists passes where one of its elements does.

    Raises:
        SchemaError: no such column.
        DataError: a condition of another form, or values that the column cannot be compared to.

    Example:
        >>> import pyarrow as pa
        >>> films = pa.table({"year": [1990, 2005], "genres": [["war"], ["love", "war"]]})
        >>> mask_of(films, {"year": {"min": 2000}, "genres": ["love", "crime"]}).tolist()
        [False, True]
    """
    mask = np.ones(table.num_rows, bool)
    for name, condition in filter.items():
        if name not in table.column_names:
            hint = did_you_mean(name, table.column_names)
            raise SchemaError(f"filter: no column {name!r}.{hint} They are {table.column_names}")
        mask &= _passes(table.column(name), condition, name)
    return mask


def _passes(column: Any, condition: Any, name: str) -> NDArray[np.bool_]:
    import pyarrow as pa
    import pyarrow.compute as pc

    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if isinstance(array.type, pa.DictionaryType):
        array = array.dictionary_decode()
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        found = _compared(array.flatten(), condition, name)
        row = pc.list_parent_indices(array).to_numpy()
        return np.bincount(row[found], minlength=len(array)) > 0
    return _compared(array, condition, name)


def _compared(array: Any, condition: Any, name: str) -> NDArray[np.bool_]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(condition, Mapping) and (set(condition) - {"min", "max"} or not condition):
        raise DataError(
            f"filter: {name!r} has {dict(condition)}, expected a value, a list of values, or"
            ' {"min": x, "max": y}'
        )
    try:
        if isinstance(condition, Mapping):
            found = pc.is_valid(array)
            if "min" in condition:
                found = pc.and_(
                    found, pc.greater_equal(array, _scalar(condition["min"], array.type))
                )
            if "max" in condition:
                found = pc.and_(found, pc.less_equal(array, _scalar(condition["max"], array.type)))
        else:
            wanted = condition if isinstance(condition, list) else [condition]
            one = [_scalar(value, array.type).as_py() for value in wanted]
            found = pc.is_in(array, pa.array(one, array.type))
        mask: NDArray[np.bool_] = pc.fill_null(found, False).to_numpy(zero_copy_only=False)
        return mask
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"filter: {name!r} holds {array.type}, which cannot be compared with"
            f" {str(condition)[:80]}"
        ) from error


def _scalar(value: Any, kind: Any) -> Any:
    """A value to compare with; dates come as texts."""
    import pyarrow as pa

    found = pa.scalar(value)
    if isinstance(value, str) and pa.types.is_temporal(kind):
        return found.cast(kind)
    return found
