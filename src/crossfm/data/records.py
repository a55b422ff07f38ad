"""RecordSchema: a fitted schema that encodes plain Python records, without Arrow or a DataFrame."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.data.fields import KINDS, Bag, Categorical, Field, Numeric
from crossfm.data.plain_values import Known, as_kind, known, number, text_of
from crossfm.data.rows import Rows
from crossfm.errors import DataError, SchemaError, did_you_mean

__all__ = ["Lookup", "RecordSchema", "Scale"]


# The local id and the value of each of one record's features.
Features: TypeAlias = Iterable[tuple[int, float]]


class Lookup(NamedTuple):
    """What a field of values knows.

    Attributes:
        kind: of its values; None: it knows none, or hashes them.
        index: the core's, of their positions.
        size: number of values, or of buckets.
    """

    kind: str | None
    index: Any
    size: int


class Scale(NamedTuple):
    """What a field of numbers knows: ``(x - mean) / std``, or the inner edges of its buckets."""

    mean: float
    std: float
    edges: NDArray[np.float64]


class RecordSchema:
    """What `Schema.transform` does, for a few records at a time, in a tenth of the time.

    It takes plain Python values and needs neither Arrow nor pandas, which is what a service wants
    that scores a request at a time. Ids and values are those of the schema that it was made from,
    `Schema.records` or its JSON; it encodes only, and learns nothing.

    Args:
        fields: what the columns are.
        learned: of each field.
        runs: field and count of consecutive ids, as the schema has them.

    Example:
        >>> from crossfm.data import Schema
        >>> log = {"user": [7, 9, 7], "age": [20.0, 40.0, 60.0], "tags": [["a", "b"], [], None]}
        >>> schema = Schema([Categorical("user"), Numeric("age"), Bag("tags")]).fit(log)
        >>> records = RecordSchema.from_json(schema.to_json())
        >>> rows = records.transform([{"user": "9", "age": None, "tags": ["b", "new"]}])
        >>> schema.feature_names(rows.ids)
        ['user=9', 'age=<missing>', 'tags=b', 'tags=<unknown>']
    """

    def __init__(
        self,
        fields: Sequence[Field],
        learned: Sequence[Lookup | Scale],
        runs: Sequence[tuple[int, int]],
    ) -> None:
        self.fields = tuple(fields)
        self._coders: list[_Coder] = [
            _CODERS[type(field)](field, one) for field, one in zip(fields, learned, strict=True)
        ]
        self.n_features_ = sum(n for _, n in runs)
        self.field_of_ = np.repeat([f for f, _ in runs], [n for _, n in runs]).astype(np.int32)
        self._starts: list[list[int]] = [[] for _ in self.fields]  # of each run of a field
        self._ends: list[list[int]] = [[] for _ in self.fields]  # the local id after each
        first = 0
        for f, n in runs:
            self._starts[f].append(first)
            self._ends[f].append((self._ends[f] or [0])[-1] + n)
            first += n

    @staticmethod
    def from_json(text: str | bytes) -> RecordSchema:
        """From the text of a fitted schema, `Schema.to_json`.

        Raises:
            SchemaError: text that is no schema, is broken, or of one that is not fitted.
        """
        try:
            document = json.loads(text)
            if document["format"] != "crossfm-schema" or document["version"] != 1:
                raise SchemaError("it is of another format or version")
            fields, learned = [], []
            for entry in document["fields"]:
                options = {name: x for name, x in entry.items() if name not in ("kind", "fitted")}
                fields.append(KINDS[entry["kind"]](**options))
                if entry["fitted"] is None:
                    raise SchemaError("the schema is not fitted")
                learned.append(_learned(fields[-1], entry["fitted"]))
            runs = [(int(f), int(n)) for f, n in document["runs"]]
            found = RecordSchema(fields, learned, runs)
            sizes = [(ends or [0])[-1] for ends in found._ends]
        except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
            raise SchemaError(f"the text is no fitted schema: {error!r}") from error
        for coder, size in zip(found._coders, sizes, strict=True):
            if coder.size != size:
                name = coder.columns[0]
                raise SchemaError(f"field {name!r} has {coder.size} features but {size} ids")
        return found

    @property
    def field_names(self) -> list[str]:
        """The name of each field, in order."""
        return [field.name for field in self.fields]

    def transform(self, frame: Any, *, fields: Sequence[str] | None = None) -> Rows:
        """The features of records.

        Args:
            frame: a list of dicts, one a row; or a dict of columns (lists, arrays) of equal length.
            fields: names of the fields that the rows are to have; None: all.

        Raises:
            SchemaError: no such field; a column that is missing, or of a type that its field cannot
                take.
            DataError: infinity; columns of different lengths.
        """
        places = self._places(fields)
        columns, n = self._columns(frame, places)
        parts = [
            self._coders[f].features(*(columns[name] for name in self._coders[f].columns))
            for f in places
        ]
        ids: list[int] = []
        values: list[float] = []
        lengths = np.zeros(n, np.int64)
        for r, row in enumerate(zip(*parts, strict=True)):
            before = len(ids)
            for f, features in zip(places, row, strict=True):
                starts, ends = self._starts[f], self._ends[f]
                for local, value in features:
                    run = 0
                    while local >= ends[run]:
                        run += 1
                    ids.append(starts[run] + local - (ends[run - 1] if run else 0))
                    values.append(value)
            lengths[r] = len(ids) - before
        wide = self.n_features_ > np.iinfo(np.int32).max
        numbers = np.array(values, np.float32)
        offsets = np.zeros(n + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return Rows(
            np.array(ids, np.int64 if wide else np.int32),
            None if (numbers == 1).all() else numbers,
            offsets,
            n_rows=n,
        )

    def _places(self, fields: Sequence[str] | None) -> list[int]:
        names = self.field_names
        for name in fields or ():
            if name not in names:
                raise SchemaError(
                    f"no field {name!r}.{did_you_mean(name, names)} The fields are {names}"
                )
        return [f for f, name in enumerate(names) if fields is None or name in fields]

    def _columns(self, frame: Any, places: list[int]) -> tuple[dict[str, list[Any]], int]:
        names = list(dict.fromkeys(name for f in places for name in self._coders[f].columns))
        if isinstance(frame, Mapping):
            for name in names:
                if name not in frame:
                    _refuse(name, list(frame))
            columns = {name: _listed(frame[name]) for name in names}
            sizes = {name: len(column) for name, column in columns.items()}
            if len(set(sizes.values())) > 1:
                raise DataError(f"columns have different lengths: {sizes}")
            return columns, next(iter(sizes.values()), 0)
        if not isinstance(frame, list | tuple) or not all(isinstance(r, Mapping) for r in frame):
            raise SchemaError(
                f"expected a list of dicts or a dict of columns, got {type(frame).__name__};"
                " DataFrames and files need the whole Schema"
            )
        for record in frame:
            for name in names:
                if name not in record:
                    _refuse(name, list(record))
        return {name: [record[name] for record in frame] for name in names}, len(frame)


class _LookupCoder:
    """Values of a vocabulary, or buckets, by local id; 0: unknown or missing."""

    def __init__(self, field: Categorical | Bag, learned: Lookup) -> None:
        self.name, self.buckets = field.name, field.hash_buckets
        self.kind, self._index, self._size = learned

    @property
    def size(self) -> int:
        return 1 + self._size

    def find(self, values: Iterable[Any]) -> list[int]:
        """The local id of each value."""
        name, kind = self.name, self.kind
        given = [known(value, name) for value in values]
        if self.buckets is not None:
            texts = ["" if value is None else text_of(value) for value in given]
            found = _native.hash_strings(*_bytes(texts), self.buckets) + 1
            return [
                0 if value is None else i for value, i in zip(given, found.tolist(), strict=True)
            ]
        if kind is None or not given:
            return [0] * len(given)
        wanted = [as_kind(value, kind, name) for value in given]
        there = [i for i, value in enumerate(wanted) if value is not None]
        out = [0] * len(given)
        found = self._index.find(*_arguments([wanted[i] for i in there], kind))
        for i, place in zip(there, found.tolist(), strict=True):
            out[i] = place + 1 if place < self._size else 0  # the index may have grown since
        return out


class _CategoricalCoder(_LookupCoder):
    def __init__(self, field: Categorical, learned: Lookup) -> None:
        super().__init__(field, learned)
        self.columns = [field.name]

    def features(self, column: list[Any]) -> Iterable[Features]:
        return [((local, 1.0),) for local in self.find(column)]


class _BagCoder(_LookupCoder):
    def __init__(self, field: Bag, learned: Lookup) -> None:
        super().__init__(field, learned)
        self.field = field
        self.columns = [field.name] + ([field.weights] if field.weights else [])

    def features(self, column: list[Any], weights: list[Any] | None = None) -> Iterable[Features]:
        bags = [_elements(bag, self.name, self.field.sep) for bag in column]
        locals_ = iter(self.find([value for bag in bags if bag is not None for value in bag]))
        for row, (bag, given) in enumerate(zip(bags, weights or repeat(None), strict=False)):
            if bag is None:
                yield ((0, 1.0),)
                continue
            w = [1.0] * len(bag)
            if weights is not None:
                w = self._weights(given, len(bag), row)
            if self.field.pooling != "sum":
                mean = self.field.pooling == "mean"
                norm = sum(w) if mean else math.sqrt(sum(x * x for x in w))
                w = [x / (norm or 1.0) for x in w]
            merged: dict[int, float] = {}
            for x in w:
                local = next(locals_)
                merged[local] = merged.get(local, 0.0) + x
            yield merged.items()

    def _weights(self, given: Any, n: int, row: int) -> list[float]:
        name = str(self.field.weights)
        w = [number(x, name) for x in _elements(given, name, self.field.sep) or ()]
        if len(w) != n:
            raise DataError(
                f"row {row}: column {name!r} has {len(w)} weights for {n} values of"
                f" {self.name!r}; they must be as many"
            )
        negative_too = self.field.pooling == "sum"
        for x in w:
            if math.isnan(x) or (x < 0 and not negative_too):
                expected = "a number" if negative_too else "a number that is not negative"
                raise DataError(
                    f"row {row}: a weight in column {name!r} is {x}, expected {expected}"
                )
        return w


class _NumericCoder:
    def __init__(self, field: Numeric, learned: Scale) -> None:
        self.field, self.columns = field, [field.name]
        self.mean, self.std, self.edges = learned
        if field.scale == "raw":
            self.mean, self.std = 0.0, 1.0

    @property
    def size(self) -> int:
        return 2 + len(self.edges)

    def features(self, column: list[Any]) -> Iterable[Features]:
        return [(self._feature(number(value, self.field.name)),) for value in column]

    def _feature(self, x: float) -> tuple[int, float]:
        if math.isnan(x):
            return 0, 1.0
        if self.field.scale == "bucket":
            return int(np.searchsorted(self.edges, x, side="right")) + 1, 1.0
        if self.field.scale == "log":
            x = math.copysign(math.log1p(abs(x)), x)
        scaled = (x - self.mean) / self.std
        if abs(scaled) > 3.4028235e38:
            raise DataError(
                f"column {self.field.name!r}: the value is {scaled} when scaled, which float32"
                " cannot hold; clip it, or make it missing"
            )
        return 1, scaled


_Coder: TypeAlias = _CategoricalCoder | _BagCoder | _NumericCoder
_CODERS: dict[Any, Callable[..., _Coder]] = {
    Categorical: _CategoricalCoder, Bag: _BagCoder, Numeric: _NumericCoder,
}  # fmt: skip


def _learned(field: Field, state: Mapping[str, Any]) -> Lookup | Scale:
    """From a schema's JSON."""
    if isinstance(field, Numeric):
        edges = np.array(state.get("edges", []), np.float64)
        return Scale(float(state.get("mean", 0.0)), float(state.get("std", 1.0)), edges)
    if field.hash_buckets is not None:
        return Lookup(None, None, field.hash_buckets)
    kind, values = state["kind"], state["values"]
    index: Any = _native.StringIndex() if kind == "string" else _native.IntIndex()
    index.insert(*_arguments(values, kind))
    if len(index) != len(values):
        raise SchemaError(f"values of {field.name!r} repeat")
    return Lookup(kind, index, len(values))


def _elements(bag: Any, name: str, sep: str | None) -> list[Any] | None:
    """The elements of a bag; None: it is missing."""
    if bag is None or (isinstance(bag, float) and math.isnan(bag)):
        return None
    if isinstance(bag, list | tuple | np.ndarray):
        return list(bag)
    if sep is None:
        raise SchemaError(
            f"column {name!r} holds {str(bag)[:40]!r}, expected lists; a string is split where the"
            f" field says so: Bag({name!r}, sep='|')"
        )
    text = known(bag, name)
    parts = [] if text is None else [part.strip() for part in text_of(text).split(sep)]
    return [part for part in parts if part]


def _listed(column: Any) -> list[Any]:
    if isinstance(column, np.ndarray):
        exact = column.dtype.kind != "f" or column.dtype.itemsize == 8
        return column.tolist() if exact and column.dtype.kind != "M" else list(column)
    if isinstance(column, str | bytes) or not hasattr(column, "__len__"):
        raise SchemaError(f"a column is {column!r}, expected a list or an array of values")
    return list(column)


def _arguments(values: Sequence[Any], kind: str | None) -> tuple[NDArray[Any], ...]:
    """Values as the core's index takes them."""
    return _bytes(values) if kind == "string" else (_bits(values, kind),)


def _bytes(texts: Sequence[Any]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Offsets and bytes, as the core takes strings."""
    try:
        encoded = [text.encode() for text in texts]
    except UnicodeEncodeError as error:
        raise DataError(f"a string is no Unicode text: {error}") from error
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(one) for one in encoded], out=offsets[1:])
    return offsets, np.frombuffer(b"".join(encoded), np.uint8)


def _bits(values: Sequence[Known], kind: str | None) -> NDArray[np.int64]:
    """The 64 bits of each value."""
    if kind == "float":
        return np.array(values, np.float64).view(np.int64)
    if kind == "uint":
        return np.array(values, np.uint64).view(np.int64)
    if kind == "datetime" and values and not isinstance(values[0], int):
        return np.array(values, "M8[us]").astype(np.int64)
    return np.array(values, np.int64)


def _refuse(name: str, names: list[str]) -> None:
    hint = did_you_mean(name, names)
    raise SchemaError(f"no column {name!r}.{hint} There are {names}; give None where it is missing")
