"""Columns of categories as codes of distinct values, so that a value is handled once, not a row.

Dictionary columns of Arrow (Parquet's strings, pandas' and polars' categories) are taken as they
are; the values of other columns are numbered in one pass of the native core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crossfm import _native
from crossfm.data.hashing import PositionIndex, bitmap, buffers
from crossfm.data.values import Values, canonical
from crossfm.errors import DataError, SchemaError

__all__ = ["Coded", "Codes", "as_dictionary", "coded", "count_values", "decoded", "order_values"]

FEW = 64  # values of a dictionary that cost nothing, whatever the rows


class Codes(NamedTuple):
    """Some rows of a column: code c stands for the column's value ``first + c``."""

    codes: NDArray[np.int32]  # [n]
    valid: NDArray[np.uint8] | None  # Arrow's bitmap; None: no row is missing
    bit: int  # of the bitmap, where the first row is
    first: int
    size: int  # codes lie below


@dataclass(frozen=True, slots=True)
class Coded:
    """A column of categories.

    Args:
        kind: of the values, as in `Values`; None: nothing but missing.
        values: the distinct ones, null where a category is missing. They may repeat, and need
            not all occur.
        parts: the rows, in order.
        empty: how many rows have no code.
    """

    kind: str | None
    values: Any  # pa.Array of ARROW[kind]
    parts: tuple[Codes, ...]
    empty: int

    def counts(self) -> NDArray[np.int64]:
        """How many rows have each value."""
        counts = np.zeros(len(self.values), np.int64)
        for part in self.parts:
            counts[part.first : part.first + part.size] += _counts(part)
        return counts

    @property
    def missing(self) -> int:
        """How many rows have no value."""
        if not self.values.null_count:
            return self.empty
        nulls = self.values.is_null().to_numpy(zero_copy_only=False)
        return self.empty + int(self.counts()[nulls].sum())

    def counted(self) -> tuple[Values, NDArray[np.int64]]:
        """The values that occur, and how often."""
        counts = self.counts()
        kept = counts > 0
        if self.values.null_count:
            kept &= self.values.is_valid().to_numpy(zero_copy_only=False)
        if kept.all() and len(kept):
            return Values(self.kind, self.values), counts
        values = self.values.filter(pa.array(kept))
        return Values(self.kind if len(values) else None, values), counts[kept]


def coded(column: pa.ChunkedArray, name: str) -> Coded | None:
    """The dictionary column's categories, as `canonical` would have them.

    None where the column is better decoded: it is no dictionary column, its dictionaries are
    larger than the column, or its values are not categories, which `canonical` then says.

    Raises:
        DataError: codes beyond their dictionary.
    """
    if not isinstance(column.type, pa.DictionaryType):
        return None
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    dictionaries: dict[Any, tuple[pa.Array, int]] = {}
    size = 0
    places = []
    for chunk in chunks:
        dictionary = chunk.dictionary
        key = _identity(dictionary)
        if key not in dictionaries:
            dictionaries[key] = dictionary, size
            size += len(dictionary)
        places.append(dictionaries[key][1])
    if size > max(FEW, len(column)) or not chunks:
        return None
    parts = tuple(
        _codes(chunk.indices, first, len(chunk.dictionary), name)
        for chunk, first in zip(chunks, places, strict=True)
    )
    empty = sum(chunk.indices.null_count for chunk in chunks)
    try:
        values = pa.concat_arrays([dictionary for dictionary, _ in dictionaries.values()])
        if _is_text(values.type):
            return Coded(*canonical(values, name), parts, empty)
        # What a column of anything else is, only the values that occur say.
        counts = Coded(None, values, parts, empty).counts()
        used = counts > 0
        kind, array = canonical(values.filter(pa.array(used)), name)
        place = pa.array(np.cumsum(used) - 1, mask=~used)
        return Coded(kind, array.take(place), parts, empty)
    except (SchemaError, DataError, ValueError, NotImplementedError):
        return None  # an Arrow error is one of the latter two


def as_dictionary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same column of strings with one dictionary of its values."""
    text = column.cast(pa.large_string())
    index = PositionIndex("string")
    codes = [index.encode(chunk) for chunk in text.chunks]
    values = index.take()
    if values.nbytes < 2**31:
        values = values.cast(pa.string())
    chunks = [
        pa.DictionaryArray.from_arrays(
            pa.array(part, mask=part < 0 if chunk.null_count else None), values
        )
        for part, chunk in zip(codes, text.chunks, strict=True)
    ]
    return pa.chunked_array(chunks, pa.dictionary(pa.int32(), values.type))


def decoded(table: pa.Table) -> pa.Table:
    """The table with its dictionary columns as columns of their values."""
    for j, field in enumerate(table.schema):
        if isinstance(field.type, pa.DictionaryType):
            values = table.column(j).cast(field.type.value_type)
            table = table.set_column(j, field.with_type(values.type), values)
    return table


def count_values(
    column: Values, weights: NDArray[np.int64] | None = None
) -> tuple[pa.Array, NDArray[np.int64]]:
    """The distinct values of a column, without the missing, and how often each occurs.

    Args:
        column: of any kind but None.
        weights: how often each of its values counts; None: once.

    Example:
        >>> values, counts = count_values(Values("int", pa.array([5, 2, None, 5])))
        >>> values.to_pylist(), counts.tolist()
        ([5, 2], [2, 1])
    """
    index = PositionIndex(str(column.kind))
    codes = index.encode(column.array)
    if weights is None:
        counts = _native.count_codes(codes, *bitmap(column.array), len(index))
    else:
        known = codes >= 0
        sums = np.bincount(codes[known], weights[known], len(index))  # exact below 2^53
        counts = sums.astype(np.int64)
    return index.take(), counts


def order_values(values: pa.Array, counts: NDArray[np.int64]) -> pa.Array:
    """The order of distinct values by falling count, ties by value.

    Example:
        >>> order_values(pa.array([5, 2, 9]), np.array([1, 1, 4])).to_pylist()
        [2, 1, 0]
    """
    if pa.types.is_large_string(values.type):
        return pa.array(_native.order_strings(*buffers(values), counts))
    return pc.sort_indices(
        pa.table({"value": values, "count": counts}),
        sort_keys=[("count", "descending"), ("value", "ascending")],
    )


def _counts(part: Codes) -> NDArray[np.int64]:
    return _native.count_codes(part.codes, part.valid, part.bit, part.size)


def _codes(indices: pa.Array, first: int, size: int, name: str) -> Codes:
    kind = indices.type
    if pa.types.is_int64(kind) or pa.types.is_uint64(kind):
        indices = indices.cast(pa.int32())
    valid, bit = bitmap(indices)
    data = indices.buffers()[1]
    codes = np.frombuffer(data, indices.type.to_pandas_dtype())
    codes = codes[indices.offset : indices.offset + len(indices)]
    if pa.types.is_uint32(kind):
        codes = codes.view(np.int32)  # what is beyond becomes negative, and is refused
    found = Codes(codes.astype(np.int32, copy=False), valid, bit, first, size)
    if int(found.codes.view(np.uint32).max()) >= size:  # perhaps where nothing stands
        try:
            _counts(found)
        except ValueError as error:
            raise DataError(
                f"column {name!r} has codes that are not below {size}, the size of its dictionary;"
                " the table is broken"
            ) from error
    return found


def _identity(array: pa.Array) -> Any:
    """Equal for arrays that look into the same memory at the same place."""
    if pa.types.is_nested(array.type) or isinstance(array.type, pa.BaseExtensionType):
        return id(array)
    places = tuple(None if b is None else b.address for b in array.buffers())
    return places, array.offset, len(array)


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
