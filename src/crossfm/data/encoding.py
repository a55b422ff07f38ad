"""Fitted encodings: what a schema learns of each field, and a column's way to ids and values.

An encoding numbers its features from 0 (local ids); the schema places them in the id space.
Local id 0 of every field is "missing", and for categories "unknown" as well.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crossfm.data.bags import Bags, pool, read_bags
from crossfm.data.coded import Coded, Codes, coded
from crossfm.data.fields import Bag, Categorical, Field, Numeric
from crossfm.data.hashing import bucket_of
from crossfm.data.records import Lookup, Scale
from crossfm.data.values import Values, canonical, numbers
from crossfm.data.vocabulary import Vocabulary
from crossfm.errors import DataError, SchemaError

__all__ = [
    "Counts",
    "Encoded",
    "Encoding",
    "LocalIds",
    "Looked",
    "Pooled",
    "Scaled",
    "encoding_for",
]


class Counts(NamedTuple):
    """Values of a field that got its unknown id in the last transform, and why."""

    unknown: int
    missing: int


@dataclass(frozen=True, slots=True)
class LocalIds:
    """A feature a row, with value 1."""

    ids: NDArray[Any]  # int32 or int64 [n]
    missing: int  # of the rows with id 0


@dataclass(frozen=True, slots=True)
class Looked:
    """A feature a row, with value 1, by the row's code."""

    parts: tuple[Codes, ...]
    ids: NDArray[Any]  # of each distinct value, int32 or int64
    missing: int  # of the rows with id 0


@dataclass(frozen=True, slots=True)
class Scaled:
    """A number a row: id 1 with the value ``(x - mean) / std``; where x is NaN, id 0 with 1."""

    x: NDArray[np.float64]  # [n]
    mean: float
    std: float
    beyond: Callable[[int], DataError]  # the error for a row whose value float32 cannot hold


@dataclass(frozen=True, slots=True)
class Pooled:
    """`lengths` many features a row."""

    ids: NDArray[Any]  # [nnz]
    values: NDArray[np.float32] | None  # None: all ones
    lengths: NDArray[np.int64]  # [n]
    counts: Counts


Encoded: TypeAlias = LocalIds | Looked | Scaled | Pooled  # ids are local


class Encoding(abc.ABC):
    """What one field has learned of its column."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of local ids."""

    @abc.abstractmethod
    def read(self, table: pa.Table) -> Any:
        """The field's column in the form that `learn` takes. Raises what is wrong with it."""

    @abc.abstractmethod
    def learn(self, column: Any) -> None:
        """Learn from a column; after the first one, only by adding ids at the end."""

    @abc.abstractmethod
    def encode(self, table: pa.Table) -> Encoded:
        """The rows' features."""

    @abc.abstractmethod
    def label(self, local: int) -> str:
        """The name of one feature, such as ``user=42``."""

    @property
    @abc.abstractmethod
    def column_types(self) -> dict[str, pa.DataType]:
        """Types that a reader of text must not guess otherwise, by column."""

    @abc.abstractmethod
    def for_records(self) -> Lookup | Scale:
        """What a `RecordSchema` needs of it."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """What `restore` needs, of JSON's types."""

    @abc.abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state. Raises SchemaError, KeyError or TypeError where it is broken."""

    @abc.abstractmethod
    def describe(self) -> tuple[str, int | None]:
        """How the field is encoded, in words, and the number of distinct values (if it has)."""


class LookupEncoding(Encoding):
    """What categories and bags share: 0 unknown or missing, then values or buckets."""

    def __init__(self, name: str, min_count: int, hash_buckets: int | None) -> None:
        self.name = name
        self.buckets = hash_buckets
        self.vocabulary = Vocabulary(min_count)

    @property
    def size(self) -> int:
        return 1 + (len(self.vocabulary) if self.buckets is None else self.buckets)

    def learn(self, column: Values | Coded) -> None:
        if self.buckets is not None:
            return
        if isinstance(column, Coded):
            self.vocabulary.add_counted(*column.counted())
        else:
            self.vocabulary.add(column)

    def label(self, local: int) -> str:
        if local == 0:
            return f"{self.name}=<unknown>"
        if self.buckets is not None:
            return f"{self.name}=<bucket {local - 1}>"
        return f"{self.name}={self.vocabulary.label(local - 1)}"

    @property
    def column_types(self) -> dict[str, pa.DataType]:
        return {self.name: pa.string()} if self.vocabulary.kind == "string" else {}

    def for_records(self) -> Lookup:
        if self.buckets is not None:
            return Lookup(None, None, self.buckets)
        return Lookup(self.vocabulary.kind, self.vocabulary.index, len(self.vocabulary))

    def state(self) -> dict[str, Any]:
        return {} if self.buckets is not None else self.vocabulary.state()

    def restore(self, state: dict[str, Any]) -> None:
        if self.buckets is None:
            self.vocabulary = Vocabulary.from_state(state, self.vocabulary.min_count)

    def describe(self) -> tuple[str, int | None]:
        if self.buckets is not None:
            return f"{self.buckets:,} hash buckets", None
        least = self.vocabulary.min_count
        seen = f", seen {least} times or more" if least > 1 else ""
        return f"vocabulary{seen}", len(self.vocabulary)

    def _checked(self, column: Any) -> Values:
        """The values of a column, of a kind that goes with those known."""
        values = canonical(column, self.name)
        if self.buckets is None:
            self.vocabulary.check(values, self.name)
        return values

    def _find(self, column: Values) -> NDArray[Any]:
        """Local ids, 0 where missing or unknown."""
        if self.buckets is None:
            ids: NDArray[Any] = self.vocabulary.find(column)
        else:
            ids = bucket_of(column, self.buckets)
        ids += 1
        return ids


class CategoricalEncoding(LookupEncoding):
    """One value a row."""

    def __init__(self, field: Categorical) -> None:
        super().__init__(field.name, field.min_count, field.hash_buckets)

    def read(self, table: pa.Table) -> Values | Coded:
        column = table.column(self.name)
        found = coded(column, self.name)
        if found is None:
            return self._checked(column)
        if self.buckets is None:
            self.vocabulary.check(Values(found.kind, found.values), self.name)
        return found

    def encode(self, table: pa.Table) -> Encoded:
        column = self.read(table)
        if isinstance(column, Coded):
            ids = self._find(Values(column.kind, column.values))
            return Looked(column.parts, ids, column.missing)
        return LocalIds(self._find(column), column.array.null_count)


class BagEncoding(LookupEncoding):
    """Any number of values a row; a null bag is id 0, an empty bag has no feature."""

    def __init__(self, field: Bag) -> None:
        super().__init__(field.name, field.min_count, field.hash_buckets)
        self.field = field

    def read(self, table: pa.Table) -> Values:
        return self._checked(self._bags(table).values)

    def _bags(self, table: pa.Table) -> Bags:
        return read_bags(table.column(self.name), self.name, self.field.sep)

    def encode(self, table: pa.Table) -> Encoded:
        bags = self._bags(table)
        column = self._checked(bags.values)
        ids, missing = self._find(column), column.array.null_count
        unknown = int(np.count_nonzero(ids == 0)) - missing
        weights = None if self.field.weights is None else table.column(self.field.weights)
        ids, values, lengths = pool(bags, ids, self.field, weights)
        nulls = int(np.count_nonzero(bags.missing))
        return Pooled(ids, values, lengths, Counts(unknown, missing + nulls))

    @property
    def column_types(self) -> dict[str, pa.DataType]:
        if self.field.sep is None:
            return {}
        return {name: pa.string() for name in (self.name, self.field.weights) if name}

    def describe(self) -> tuple[str, int | None]:
        words, distinct = super().describe()
        field = self.field
        split = f", split at {field.sep!r}" if field.sep else ""
        weighted = f", weighted by {field.weights}" if field.weights else ""
        return f"{field.pooling} of a {words}{split}{weighted}", distinct


class NumericEncoding(Encoding):
    """Local ids: 0 missing, then the value (1), or the buckets (1 to B)."""

    def __init__(self, field: Numeric) -> None:
        self.field = field
        self.seen = 0  # numbers that the scale was learned from
        self.mean, self.std = 0.0, 1.0
        self.edges: NDArray[np.float64] = np.zeros(0)

    @property
    def size(self) -> int:
        return 2 + (len(self.edges) if self.field.scale == "bucket" else 0)

    def read(self, table: pa.Table) -> NDArray[np.float64]:
        return numbers(table.column(self.field.name), self.field.name)

    def learn(self, column: NDArray[np.float64]) -> None:
        if self.seen:  # another scale would change what the fitted weights mean
            return
        x = column[~np.isnan(column)]
        self.seen = len(x)
        if not self.seen or self.field.scale == "raw":
            return
        if self.field.scale == "bucket":
            self.edges = _edges(x, self.field.n_buckets)
            return
        if self.field.scale == "log":
            x = _signed_log(x)
        largest = float(np.abs(x).max()) or 1.0  # so that no square overflows
        x = x / largest
        mean, std = float(x.mean()), float(x.std())
        self.mean = mean * largest
        self.std = std * largest if std > 1e-12 else 1.0  # a constant, but for rounding

    def encode(self, table: pa.Table) -> Encoded:
        x = self.read(table)
        if self.field.scale == "bucket":
            missing = np.isnan(x)
            ids = np.searchsorted(self.edges, x, side="right") + 1
            ids[missing] = 0
            return LocalIds(ids, int(np.count_nonzero(missing)))
        if self.field.scale == "log":
            x = _signed_log(x)
        mean, std = (0.0, 1.0) if self.field.scale == "raw" else (self.mean, self.std)

        def beyond(row: int) -> DataError:
            return DataError(
                f"column {self.field.name!r}, row {row}: the value is {self.read(table)[row]},"
                f" {(x[row] - mean) / std} when scaled, which float32 cannot hold; clip it, or"
                " make it missing"
            )

        return Scaled(x, mean, std, beyond)

    def label(self, local: int) -> str:
        name = self.field.name
        if local == 0:
            return f"{name}=<missing>"
        if self.field.scale != "bucket":
            return name
        edges = self.edges
        if not len(edges):
            return name
        if local == 1:
            return f"{name}<{edges[0]:g}"
        if local == len(edges) + 1:
            return f"{name}>={edges[-1]:g}"
        return f"{edges[local - 2]:g}<={name}<{edges[local - 1]:g}"

    @property
    def column_types(self) -> dict[str, pa.DataType]:
        return {}

    def for_records(self) -> Scale:
        return Scale(self.mean, self.std, self.edges)

    def state(self) -> dict[str, Any]:
        if self.field.scale == "bucket":
            return {"seen": self.seen, "edges": self.edges.tolist()}
        return {"seen": self.seen, "mean": self.mean, "std": self.std}

    def restore(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]
        if type(self.seen) is not int or self.seen < 0:
            raise SchemaError(f"seen is {self.seen!r}, expected a count")
        if self.field.scale == "bucket":
            edges = np.array(state["edges"], dtype=np.float64).reshape(-1)
            if not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
                raise SchemaError("bucket edges do not rise")
            self.edges = edges
            return
        for name in ("mean", "std"):
            number = state[name]
            if type(number) not in (int, float) or not np.isfinite(number):
                raise SchemaError(f"{name} is {number!r}, expected a finite number")
        self.mean, self.std = float(state["mean"]), float(state["std"])
        if self.std <= 0:
            raise SchemaError(f"std is {self.std!r}, expected a number above 0")

    def describe(self) -> tuple[str, int | None]:
        scale = self.field.scale
        if scale == "bucket":
            return "one-hot buckets", len(self.edges) + 1
        if scale == "raw":
            return "as it is", None
        shown = f" (mean {self.mean:.3g}, std {self.std:.3g})" if self.seen else ""
        return ("log, " if scale == "log" else "") + f"standardised{shown}", None


def encoding_for(field: Field) -> Encoding:
    """An encoding that has learned nothing yet."""
    if isinstance(field, Categorical):
        return CategoricalEncoding(field)
    if isinstance(field, Bag):
        return BagEncoding(field)
    return NumericEncoding(field)


def _signed_log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.copysign(np.log1p(np.abs(x)), x)


def _edges(x: NDArray[np.float64], n_buckets: int) -> NDArray[np.float64]:
    """Inner edges of the buckets: at quantiles, or between the values where they are few."""
    x = np.sort(x)
    distinct = x[np.flatnonzero(np.diff(x, prepend=np.nan) != 0)]  # sorted, so first of each
    if len(distinct) <= n_buckets:
        return distinct[:-1] + (distinct[1:] - distinct[:-1]) / 2
    at = (np.arange(1, n_buckets) * len(x)) // n_buckets
    edges = np.unique(x[at])
    return edges[edges > x[0]]
