"""Vocabulary: the values of a categorical column and their positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crossfm.data.coded import count_values, order_values
from crossfm.data.hashing import PositionIndex
from crossfm.data.values import (
    ARROW,
    Values,
    common_kind,
    convert,
    first_value,
    mixed_kinds,
    strings,
)
from crossfm.errors import SchemaError

__all__ = ["Vocabulary"]


class Vocabulary:
    """Values in the order of their positions: by falling frequency when fitted, then as they came.

    Args:
        min_count: a value is taken up when it has been seen this often. Counts of values seen
            less often are kept, so that a value gathers them over several batches.

    Example:
        >>> words = Vocabulary()
        >>> words.add(Values("string", pa.array(["b", "a", "b", None], pa.large_string())))
        >>> words.find(Values("string", pa.array(["a", "b", "c", None], pa.large_string())))
        array([ 1,  0, -1, -1], dtype=int32)
    """

    def __init__(self, min_count: int = 1) -> None:
        self.min_count = min_count
        self.kind: str | None = None
        self._parts: list[pa.Array] = []
        self._index: PositionIndex | None = None  # made when first needed
        self.rare: pa.Array = pa.nulls(0)  # seen, but less than min_count times
        self.rare_counts: NDArray[np.int64] = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None}

    @property
    def values(self) -> pa.Array:
        """The values in the order of their positions."""
        if len(self._parts) != 1:
            kind = pa.null() if self.kind is None else ARROW[self.kind]
            self._parts = [pa.concat_arrays([pa.array([], kind), *self._parts])]
        return self._parts[0]

    def check(self, column: Values, name: str) -> None:
        """Raise SchemaError for dates beside values of another kind."""
        kinds = {self.kind, column.kind}
        if "datetime" in kinds and not kinds <= {"datetime", "string", None}:
            raise mixed_kinds(name, str(column.kind), str(self.kind), first_value(column.array))

    def add(self, column: Values) -> None:
        """Take up the column's new values, by falling count, ties by value.

        The column has passed `check`.
        """
        if column.kind is None:
            return
        array = self._adopt(column)
        self._take_up(*count_values(Values(self.kind, array)))

    def add_counted(self, column: Values, counts: NDArray[np.int64]) -> None:
        """As `add`, of values that were counted before; none is missing, repeated ones add up."""
        if column.kind is None or not len(column.array):
            return
        array = self._adopt(column)
        self._take_up(*count_values(Values(self.kind, array), counts))

    def _take_up(self, values: pa.Array, counts: NDArray[np.int64]) -> None:
        """Take up distinct values of the vocabulary's kind."""
        if len(self):
            new = self._positions(values) < 0
            values, counts = values.filter(pa.array(new)), counts[new]
        if self.min_count > 1 and len(values) + len(self.rare):
            if len(self.rare):
                both = Values(self.kind, pa.concat_arrays([self.rare, values]))
                values, counts = count_values(both, np.concatenate([self.rare_counts, counts]))
            often = counts >= self.min_count
            rare, self.rare_counts = values.filter(pa.array(~often)), counts[~often]
            order = order_values(rare, np.zeros(len(rare), np.int64))
            self.rare, self.rare_counts = rare.take(order), self.rare_counts[order.to_numpy()]
            values, counts = values.filter(pa.array(often)), counts[often]
        order = order_values(values, counts)
        values = values.take(order)
        if len(values):
            self._parts.append(values)  # not joined here: growth costs what the batch brings
            if self._index is not None:
                self._index.insert(values)

    def find(self, column: Values) -> NDArray[np.int32]:
        """The position of each value, ``[n]``; -1 where it is missing or not known.

        The column has passed `check`.
        """
        if column.kind is None or self.kind is None:
            return np.full(len(column.array), -1, np.int32)
        return self._positions(convert(column, self.kind))

    def beginning_with(self, prefix: str) -> pa.Array:
        """The values whose text begins with a prefix, in any case, in order."""
        if not prefix or self.kind is None:
            return self.values
        text = strings(Values(self.kind, self.values))
        return self.values.filter(pc.starts_with(text, prefix, ignore_case=True))

    def label(self, position: int) -> str:
        """The text of one value."""
        if self.kind == "datetime":  # Python's dates end with the year 9999
            return str(strings(Values(self.kind, self.values.slice(position, 1)))[0].as_py())
        return str(self.values[position].as_py())

    @property
    def index(self) -> Any:
        """The core's index of the positions; None where no value is known."""
        return None if self.kind is None else self._found_index().native

    def _positions(self, array: pa.Array) -> NDArray[np.int32]:
        return self._found_index().find(array)

    def _found_index(self) -> PositionIndex:
        index = self._index
        if index is None:
            index = PositionIndex(str(self.kind))
            index.insert(self.values)
            self._index = index  # filled before another thread may look into it
        return index

    def _adopt(self, column: Values) -> pa.Array:
        """The column as the vocabulary's kind, which is widened where a value would be lost."""
        if self.kind is None:
            self._become(str(column.kind))
        array = convert(column, str(self.kind))
        if array.null_count == column.array.null_count:
            return array
        integers = [a for a in (*self._parts, column.array) if pa.types.is_integer(a.type)]
        nonnegative = all((pc.min(a).as_py() or 0) >= 0 for a in integers)
        kind = common_kind(self.kind, column.kind, nonnegative)
        if kind == "float":  # integers that floats cannot tell apart
            own = convert(Values(self.kind, self.values), kind)
            kind = "string" if own.null_count else kind
        self._become(str(kind))
        return convert(column, str(kind))

    def _become(self, kind: str) -> None:
        self._parts = [convert(Values(self.kind, self.values), kind)]
        self._index = None
        self.rare = convert(Values(self.kind, self.rare), kind)
        self.kind = kind

    def state(self) -> dict[str, Any]:
        """What `from_state` needs, of JSON's types."""
        state = {"kind": self.kind, "values": _to_json(self.values)}
        if len(self.rare):
            state["rare"] = _to_json(self.rare)
            state["rare_counts"] = self.rare_counts.tolist()
        return state

    @staticmethod
    def from_state(state: dict[str, Any], min_count: int) -> Vocabulary:
        """The vocabulary of a state.

        Raises:
            SchemaError: a state that `state` cannot have returned.
        """
        self = Vocabulary(min_count)
        kind = state["kind"]
        if kind is not None and kind not in ARROW:
            raise SchemaError(
                f"unknown kind of values {kind!r}, expected one of {', '.join(ARROW)}"
            )
        self.kind = kind
        self._parts = [_from_json(state["values"], kind)]
        self.rare = _from_json(state.get("rare", []), kind)
        self.rare_counts = np.array(state.get("rare_counts", []), dtype=np.int64)
        if len(self.rare) != len(self.rare_counts):
            raise SchemaError(f"{len(self.rare)} rare values have {len(self.rare_counts)} counts")
        both = pa.concat_arrays([self.values, self.rare])
        if both.null_count or len(both.unique()) < len(both):
            raise SchemaError("values repeat, or are missing")
        return self


def _to_json(array: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    return array.to_pylist()


def _from_json(values: Any, kind: str | None) -> pa.Array:
    if not isinstance(values, list):
        raise SchemaError(f"values are {type(values).__name__}, expected a list")
    if kind is None:
        if values:
            raise SchemaError("values without a kind")
        return pa.nulls(0)
    expected = {"bool": bool, "float": float, "string": str}.get(kind, int)
    strays = [v for v in values if type(v) is not expected]
    if strays:
        raise SchemaError(f"value {strays[0]!r} in a vocabulary of kind {kind!r}")
    if kind == "datetime":
        return pa.array(values, pa.int64()).cast(ARROW[kind])
    array = pa.array(values, ARROW[kind])
    if kind == "float" and not pc.all(pc.is_finite(array)).as_py() and len(array):
        raise SchemaError("a value that is not finite")
    return array
