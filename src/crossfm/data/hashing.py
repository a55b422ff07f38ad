"""Arrow columns at the native core's hash functions: buckets, and a vocabulary's index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crossfm import _native
from crossfm.data.values import ARROW, Values, strings

__all__ = ["PositionIndex", "bitmap", "bucket_of", "buffers"]


def bucket_of(column: Values, n_buckets: int) -> NDArray[np.int64]:
    """The bucket of each value, ``[n]``; -1 where it is missing.

    ``fmix64(FNV-1a(text)) mod n_buckets`` over the UTF-8 bytes of the value's text, so that 1,
    1.0 and "1" share a bucket, on every machine and in every run.

    Example:
        >>> bucket_of(Values("int", pa.array([1, 2, None])), 1000).tolist()
        [782, 630, -1]
        >>> bucket_of(Values("string", pa.array(["1", "2"], pa.large_string())), 1000).tolist()
        [782, 630]
    """
    kind, array = column
    if kind is None:
        return np.full(len(array), -1, np.int64)
    if kind == "int":
        buckets = _native.hash_ints(_bits(array), n_buckets)
    else:
        buckets = _native.hash_strings(*buffers(strings(column)), n_buckets)
    return _unset_nulls(buckets, array)


class PositionIndex:
    """Finds the positions of values of one kind in the order in which they were inserted.

    Example:
        >>> index = PositionIndex("int")
        >>> index.insert(pa.array([30, 10]))
        >>> index.find(pa.array([10, 20, 30]))
        array([ 1, -1,  0], dtype=int32)
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.native: Any = _native.StringIndex() if kind == "string" else _native.IntIndex()

    def __len__(self) -> int:
        return len(self.native)

    def insert(self, array: pa.Array) -> None:
        """Append values, distinct and not missing. Costs in proportion to them alone."""
        self.native.insert(*_arguments(array))

    def find(self, array: pa.Array) -> NDArray[np.int32]:
        """The position of each value; -1 where it is missing or was never inserted."""
        return _unset_nulls(self.native.find(*_arguments(array)), array)

    def encode(self, array: pa.Array) -> NDArray[np.int32]:
        """As `find`, but values that were never inserted are."""
        return self.native.encode(*_arguments(array), *bitmap(array))

    def take(self) -> pa.Array:
        """The values in the order of their positions; the index is empty afterwards."""
        if self.kind == "string":
            offsets, data = self.native.take()
            parts = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
            return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, parts)
        bits = self.native.take()
        if self.kind == "bool":
            return pa.array(bits).cast(pa.bool_())
        return pa.Array.from_buffers(ARROW[self.kind], len(bits), [None, pa.py_buffer(bits)])


def bitmap(array: pa.Array) -> tuple[NDArray[np.uint8] | None, int]:
    """Arrow's bitmap of the values that are there, and the bit of the first; None: all are."""
    valid = array.buffers()[0] if array.null_count else None
    return (None, 0) if valid is None else (np.frombuffer(valid, np.uint8), array.offset)


def _arguments(array: pa.Array) -> tuple[NDArray[Any], ...]:
    if pa.types.is_large_string(array.type):
        return buffers(array)
    return (_bits(array),)


def buffers(array: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Offsets int64 ``[n + 1]`` and bytes of an array of strings, without a copy."""
    _, offsets, data = array.buffers()
    if offsets is None or not len(array):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    starts = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return starts, np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)


def _bits(array: pa.Array) -> NDArray[np.int64]:
    """The 64 bits of each number, as int64; of a null, anything."""
    if pa.types.is_boolean(array.type):
        return array.cast(pa.int64()).fill_null(0).to_numpy()
    data = array.buffers()[1]
    if data is None or not len(array):
        return np.zeros(len(array), np.int64)
    return np.frombuffer(data, np.int64)[array.offset : array.offset + len(array)]


def _unset_nulls(places: NDArray[Any], array: pa.Array) -> NDArray[Any]:
    if array.null_count:
        places[array.is_null().to_numpy(zero_copy_only=False)] = -1
    return places
