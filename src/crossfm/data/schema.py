"""Schema: columns to features and back. Fields in order, their fitted encodings, the id space."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from crossfm.data.assembling import assemble
from crossfm.data.encoding import Counts, Encoding, LookupEncoding, encoding_for
from crossfm.data.fields import KINDS, Bag, Categorical, Field, Numeric
from crossfm.data.frames import to_arrow
from crossfm.data.infer import Guess, infer
from crossfm.data.learning import learn_encodings
from crossfm.data.records import RecordSchema
from crossfm.data.rows import Rows
from crossfm.data.show import schema_table
from crossfm.data.threads import on_threads, threads_for
from crossfm.data.values import numbers
from crossfm.errors import DataError, SchemaError, did_you_mean

__all__ = ["Schema"]

FORMAT, VERSION = "crossfm-schema", 1


class Schema:
    """Fields in order, and once fitted the encoding of each: columns to `Rows`, ids to names.

    Each field has a block of ids, in field order. The first id of a block is the field's
    unknown or missing id; the values follow by falling frequency, ties by value. Rows hold
    their features in field order. Values added later (`partial_fit`) get ids at the end of
    the whole id space, so that no id ever changes its meaning.

    Args:
        fields: `Categorical`, `Numeric` and `Bag` fields, each of a column of its own.

    Attributes:
        n_features_: number of ids.
        field_of_: the field of each id, int32 ``[n_features]``.
        unseen_: of the last `transform`, for each field with any: how many values were unknown
            and how many missing.
        guesses: what `infer` made of each column of the frame, with the reason.

    Raises:
        SchemaError: no fields, two of one name, or something that is not a field.

    Example:
        >>> log = {"user": [7, 7, 9], "age": [20.0, 40.0, None], "tags": ["a|b", "", None]}
        >>> schema = Schema([Categorical("user"), Numeric("age"), Bag("tags", sep="|")]).fit(log)
        >>> schema.n_features_
        8
        >>> rows = schema.transform(log)
        >>> schema.feature_names(rows[:1].ids), rows[:1].values
        (['user=7', 'age', 'tags=a', 'tags=b'], array([ 1., -1.,  1.,  1.], dtype=float32))
        >>> schema.unseen_
        {'age': Counts(unknown=0, missing=1), 'tags': Counts(unknown=0, missing=1)}
        >>> Schema.from_json(schema.to_json()) == schema
        True
    """

    def __init__(self, fields: Iterable[Field]) -> None:
        self.fields = _checked(fields)
        self.guesses: list[Guess] = []
        self.unseen_: dict[str, Counts] = {}
        self._encodings: list[Encoding] = []
        self._runs: list[tuple[int, int]] = []  # (field, count) of consecutive ids
        self._cache: dict[str, Any] = {}

    # --- fitting ----------------------------------------------------------------------------

    @staticmethod
    def infer(frame: Any, exclude: str | Sequence[str] = ()) -> Schema:
        """A schema guessed from a frame, not fitted yet. Print it to see each guess and why.

        Args:
            frame: anything that `to_arrow` reads.
            exclude: columns to leave out, such as the target.

        Raises:
            SchemaError: an excluded column that is not there, or no column of any use.

        Example:
            >>> log = {"user": [1, 2, 1, 3], "price": [9.5, 120.0, 3.0, 4.5], "one": [1, 1, 1, 1]}
            >>> schema = Schema.infer(log)
            >>> schema.fields
            (Categorical('user'), Numeric('price'))
        """
        fields, guesses = infer(
            to_arrow(frame), (exclude,) if isinstance(exclude, str) else exclude
        )
        schema = Schema(fields)
        schema.guesses = guesses
        return schema

    def fit(self, frame: Any) -> Schema:
        """Learn every encoding from the frame's rows, forgetting earlier ones.

        Raises:
            SchemaError: a column that is missing, or of a type that its field cannot take.
            DataError: no rows, infinity in a column.
        """
        table = to_arrow(frame, self.columns)
        if table.num_rows == 0:
            raise DataError("the frame has no rows to fit the schema to")
        encodings = [encoding_for(field) for field in self.fields]
        on_threads(lambda one: one.learn(one.read(table)), encodings, threads_for(table.num_rows))
        return self._adopt(encodings)

    def fit_batches(self, frames: Iterable[Any]) -> Schema:
        """Learn every encoding from rows that come in batches; as `fit` to all of them at once.

        Memory grows with the distinct values of categories and bags, not with the rows. Scales
        and bucket edges of more than 500,000 rows are those of an even sample of them.

        Raises:
            SchemaError, DataError: as `fit`.
        """
        tables = (to_arrow(frame, self.columns) for frame in frames)
        return self._adopt(learn_encodings(self.fields, tables))

    def _adopt(self, encodings: list[Encoding]) -> Schema:
        """Take over what was learned, forgetting earlier encodings."""
        runs = [(f, encoding.size) for f, encoding in enumerate(encodings)]
        _check_size(runs)
        self._encodings, self._runs, self._cache = encodings, runs, {}
        return self

    @staticmethod
    def joined(parts: Sequence[Schema]) -> Schema:
        """The fields of several schemas in one; ids of a part that has not grown keep their order.

        Fitted ones are fitted together too, and are shared no further.

        Raises:
            SchemaError: two fields of one name.

        Example:
            >>> users = Schema([Categorical("user")]).fit({"user": [7, 9]})
            >>> ages = Schema([Numeric("age")]).fit({"age": [20.0, 40.0, 60.0]})
            >>> Schema.joined([users, ages]).feature_names()
            ['user=<unknown>', 'user=7', 'user=9', 'age=<missing>', 'age']
        """
        schema = Schema([field for part in parts for field in part.fields])
        schema.guesses = [guess for part in parts for guess in part.guesses]
        if not all(part.is_fitted for part in parts):
            return schema
        schema._encodings = [encoding for part in parts for encoding in part.copy()._encodings]
        firsts, grown, start = [], [], 0
        for part in parts:
            runs = [(start + f, count) for f, count in part._runs]
            firsts += runs[: len(part.fields)]
            grown += runs[len(part.fields) :]
            start += len(part.fields)
        schema._runs = firsts + grown
        _check_size(schema._runs)
        return schema

    def partial_fit(self, frame: Any, *, fields: Sequence[str] | None = None) -> Schema:
        """Add the frame's new values at the end of the id space; `fit` where nothing is yet.

        Scales and bucket edges of numeric fields stay as first learned: other ones would
        change what a model's weights mean.

        Args:
            frame: anything that `to_arrow` reads.
            fields: names of those that the frame has; None: all.

        Raises:
            SchemaError, DataError: as `fit`; the schema is then as before.
        """
        if not self._encodings:
            return self.fit(frame)
        places = self._places(fields)
        table = to_arrow(frame, self.columns_of(fields))
        encodings = [self._encodings[f] for f in places]
        read = [encoding.read(table) for encoding in encodings]  # what can raise does it here
        for f, encoding, column in zip(places, encodings, read, strict=True):
            before = encoding.size
            encoding.learn(column)
            if encoding.size > before:
                self._runs.append((f, encoding.size - before))
                self._cache = {}
        return self

    def copy(self) -> Schema:
        """An independent copy, with what was fitted."""
        return copy.deepcopy(self)

    # --- encoding ---------------------------------------------------------------------------

    def transform(
        self,
        frame: Any,
        targets: str | ArrayLike | None = None,
        weights: str | ArrayLike | None = None,
        *,
        fields: Sequence[str] | None = None,
    ) -> Rows:
        """The frame's rows as features.

        Args:
            frame: anything that `to_arrow` reads; columns of no field are ignored.
            targets: numbers ``[n]``, or the name of the column that holds them.
            weights: the same, for the weight of each row.
            fields: names of the fields that the rows are to have; None: all.

        Raises:
            SchemaError: not fitted; no such field; a column that is missing, or of a type that
                its field cannot take.
            DataError: infinity in a column; targets or weights that are missing, not finite or
                not as many as the rows.
        """
        places, known = self._places(fields), self._fitted()
        encodings = [known[f] for f in places]
        others = [c for c in (targets, weights) if isinstance(c, str)]
        table = to_arrow(frame, list(dict.fromkeys([*self.columns_of(fields), *others])))
        threads = threads_for(table.num_rows)
        parts = on_threads(lambda encoding: encoding.encode(table), encodings, threads)
        wide = self.n_features_ > np.iinfo(np.int32).max
        ids, values, offsets, unseen = assemble(
            parts, [self._blocks[f] for f in places], table.num_rows,
            np.int64 if wide else np.int32, threads,
        )  # fmt: skip
        named = zip([self.fields[f].name for f in places], unseen, strict=True)
        self.unseen_ = {name: counts for name, counts in named if any(counts)}
        return Rows(
            ids,
            values,
            offsets,
            targets=_target(table, targets, "target"),
            weights=_target(table, weights, "weight"),
            n_rows=table.num_rows,
        )

    def records(self) -> RecordSchema:
        """The same encoding for single records of plain Python values, without a copy of it.

        What the schema learns later the records do not know.

        Raises:
            SchemaError: not fitted.
        """
        learned = [encoding.for_records() for encoding in self._fitted()]
        return RecordSchema(self.fields, learned, self._runs)

    # --- names ------------------------------------------------------------------------------

    @property
    def columns(self) -> list[str]:
        """The columns that the fields read, bags' weights included."""
        return self.columns_of(None)

    def columns_of(self, fields: Sequence[str] | None) -> list[str]:
        """The columns that some of the fields read; None: all of them."""
        read = [self.fields[f] for f in self._places(fields)]
        names = [[f.name, f.weights] if isinstance(f, Bag) else [f.name] for f in read]
        return list(dict.fromkeys(name for pair in names for name in pair if name))

    def _places(self, fields: Sequence[str] | None) -> list[int]:
        """Where fields are, in the schema's order."""
        names = self.field_names
        for name in fields or ():
            if name not in names:
                raise SchemaError(
                    f"no field {name!r}.{did_you_mean(name, names)} The fields are {names}"
                )
        return [f for f, name in enumerate(names) if fields is None or name in fields]

    @property
    def column_types(self) -> dict[str, pa.DataType]:
        """Arrow types to read text files with: strings where the values known are strings.

        So a zip code such as 01234 does not come back from a CSV file as 1234.
        """
        types: dict[str, pa.DataType] = {}
        for encoding in self._encodings or map(encoding_for, self.fields):
            types.update(encoding.column_types)
        return types

    @property
    def field_names(self) -> list[str]:
        """The name of each field, in order."""
        return [field.name for field in self.fields]

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` has been called."""
        return bool(self._encodings)

    @property
    def n_features_(self) -> int:
        """Number of ids."""
        self._fitted()
        return sum(count for _, count in self._runs)

    @property
    def field_of_(self) -> NDArray[np.int32]:
        """The field of each id, int32 ``[n_features]``."""
        self._fitted()
        if "field_of" not in self._cache:
            fields, counts = zip(*self._runs, strict=True)
            self._cache["field_of"] = np.repeat(np.array(fields, np.int32), counts)
        return self._cache["field_of"]

    def feature_name(self, feature: int) -> str:
        """The name of one id: ``user=42``, ``user=<unknown>``, ``age``, ``genres=Comedy``.

        Raises:
            SchemaError: not fitted, or no such id.
        """
        return self.feature_names([feature])[0]

    def feature_names(self, features: ArrayLike | None = None) -> list[str]:
        """The names of ids, None: of all of them in order."""
        encodings = self._fitted()
        ids = np.arange(self.n_features_) if features is None else np.asarray(features)
        if ids.size and (ids.min() < 0 or ids.max() >= self.n_features_):
            raise SchemaError(
                f"no feature {ids.min() if ids.min() < 0 else ids.max()}, the schema has"
                f" {self.n_features_} features (ids 0 to {self.n_features_ - 1})"
            )
        first, field, local = self._run_table
        run = np.searchsorted(first, ids, side="right") - 1
        return [
            encodings[f].label(at)
            for f, at in zip(
                field[run].tolist(), (ids - first[run] + local[run]).tolist(), strict=True
            )
        ]

    def block(self, name: str) -> NDArray[np.int64]:
        """All ids of one field: its unknown id first, then its values in order.

        Raises:
            SchemaError: not fitted, or no such field.
        """
        self._fitted()
        if name not in self.field_names:
            hint = did_you_mean(name, self.field_names)
            raise SchemaError(f"no field {name!r}.{hint} The fields are {self.field_names}")
        starts, ends = self._blocks[self.field_names.index(name)]
        sizes = np.diff(ends, prepend=0)
        return np.concatenate([np.arange(s, s + n) for s, n in zip(starts, sizes, strict=True)])

    def categories(self, name: str, prefix: str = "", limit: int | None = None) -> list[Any]:
        """The values known of a categorical field or bag, in the order of their ids.

        Fitted at once, these are in the order of falling frequency.

        Args:
            name: of the field.
            prefix: only those whose text begins so, in any case.
            limit: as many at most; None: all.

        Raises:
            SchemaError: not fitted, no such field, or one that keeps no values.
        """
        self.block(name)  # says what is missing
        encoding = self._encodings[self.field_names.index(name)]
        if not isinstance(encoding, LookupEncoding) or encoding.buckets is not None:
            raise SchemaError(f"the field {name!r} keeps no values: it holds numbers, or hashes")
        found = encoding.vocabulary.beginning_with(prefix)
        listed: list[Any] = found.slice(0, limit).to_pylist()
        return listed

    @property
    def _run_table(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of each run of consecutive ids: the first id, the field, the first local id."""
        if "runs" not in self._cache:
            field, count = np.array(self._runs, np.int64).reshape(-1, 2).T
            local = np.zeros(len(field), np.int64)
            sizes = np.zeros(len(self.fields), np.int64)
            for r, (f, n) in enumerate(self._runs):
                local[r] = sizes[f]
                sizes[f] += n
            self._cache["runs"] = np.cumsum(count) - count, field, local
        return self._cache["runs"]

    @property
    def _blocks(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Of each field: the first id of each of its runs, and the local id after each."""
        if "blocks" not in self._cache:
            first, field, local = self._run_table
            counts = np.array([count for _, count in self._runs])
            self._cache["blocks"] = [
                (first[field == f], (local + counts)[field == f]) for f in range(len(self.fields))
            ]
        return self._cache["blocks"]

    def _fitted(self) -> list[Encoding]:
        if not self._encodings:
            raise SchemaError("the schema is not fitted; call schema.fit(frame) first")
        return self._encodings

    # --- saving -----------------------------------------------------------------------------

    def to_json(self) -> str:
        """The schema as JSON text, with what was fitted. `from_json` reads it."""
        fields = []
        for f, field in enumerate(self.fields):
            kind = next(k for k, cls in KINDS.items() if cls is type(field))
            options = {name: getattr(field, name) for name in type(field).__dataclass_fields__}
            fitted = self._encodings[f].state() if self._encodings else None
            fields.append({"kind": kind, **options, "fitted": fitted})
        document = {
            "format": FORMAT,
            "version": VERSION,
            "fields": fields,
            "runs": self._runs,
            "guesses": self.guesses,
        }
        return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes) -> Schema:
        """The schema that `to_json` wrote, encoding the same.

        Raises:
            SchemaError: text that is no schema, is broken, or is of a later version.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SchemaError(f"the text is not JSON: {error}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise SchemaError(f"the JSON is not a schema: its format is not {FORMAT!r}")
        version = document.get("version")
        if version != VERSION:
            raise SchemaError(
                f"the schema is of version {version!r}, this crossfm reads version {VERSION};"
                " read it with the crossfm that wrote it, or a newer one"
            )
        try:
            return _from_document(document)
        except SchemaError as error:
            raise SchemaError(f"the schema is broken: {error}") from error
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            # an Arrow error is one of these too
            raise SchemaError(f"the schema is broken: {type(error).__name__} {error}") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schema):
            return NotImplemented
        return self.fields == other.fields and self._state() == other._state()

    __hash__ = None  # type: ignore[assignment]  # a fitted schema changes in partial_fit

    def _state(self) -> Any:
        return self._runs, [encoding.state() for encoding in self._encodings]

    # --- showing ----------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Schema([{', '.join(map(repr, self.fields))}])"

    def __str__(self) -> str:
        return self.describe()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # IPython and notebooks
        printer.text(self.describe())

    def describe(self) -> str:
        """A table: field, kind, encoding, distinct values, and the reason of a guess."""
        return schema_table(self)


def _checked(fields: Iterable[Field]) -> tuple[Field, ...]:
    if isinstance(fields, str | Categorical | Numeric | Bag):
        fields = [fields]
    fields = tuple(fields)
    for field in fields:
        if not isinstance(field, Categorical | Numeric | Bag):
            raise SchemaError(
                f"expected Categorical, Numeric or Bag fields, got {field!r}"
                + (f"; write Categorical({field!r})" if isinstance(field, str) else "")
            )
    if not fields:
        raise SchemaError("a schema needs at least one field")
    names = [field.name for field in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SchemaError(f"more than one field of the name {', '.join(map(repr, twice))}")
    return fields


def _check_size(runs: list[tuple[int, int]]) -> None:
    n_features = sum(count for _, count in runs)
    if n_features >= 2**62:
        raise SchemaError(f"{n_features} features are more than ids can number; use fewer buckets")


def _target(table: Any, targets: str | ArrayLike | None, word: str) -> NDArray[np.float32] | None:
    """Targets or weights as float32 ``[n]``, from their column or as given."""
    if targets is None:
        return None
    if isinstance(targets, str):
        y = numbers(table.column(targets), targets)
    else:
        y = np.asarray(targets)
        if y.dtype.kind not in "fiub":
            raise DataError(f"{word}s are of type {y.dtype}, expected numbers")
        if y.shape != (table.num_rows,):
            raise DataError(f"{word}s have shape {y.shape}, the frame has {table.num_rows} rows")
    with np.errstate(over="ignore"):
        narrow = np.asarray(y, np.float32)
    bad = ~np.isfinite(narrow)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"row {row}: {word} is {y[row]}, expected a finite number; drop the row or fill it in"
        )
    return narrow


def _from_document(document: dict[str, Any]) -> Schema:
    fields: list[Field] = []
    states = []
    for entry in document["fields"]:
        entry = dict(entry)
        kind, state = entry.pop("kind"), entry.pop("fitted")
        if kind not in KINDS:
            raise SchemaError(f"unknown kind of field {kind!r}")
        fields.append(KINDS[kind](**entry))
        states.append(state)
    schema = Schema(fields)
    schema.guesses = [Guess(*map(str, guess)) for guess in document["guesses"]]
    if all(state is None for state in states):
        if document["runs"]:
            raise SchemaError("ids without encodings")
        return schema
    schema._encodings = [encoding_for(field) for field in fields]
    sizes = [0] * len(fields)
    for f, n in document["runs"]:
        if type(f) is not int or type(n) is not int or not 0 <= f < len(fields) or n < 1:
            raise SchemaError(f"a run of {n!r} ids of field {f!r}")
        schema._runs.append((f, n))
        sizes[f] += n
    for field, encoding, state, size in zip(fields, schema._encodings, states, sizes, strict=True):
        encoding.restore(state)
        if encoding.size != size:
            raise SchemaError(f"field {field.name!r} has {encoding.size} features but {size} ids")
    if [f for f, _ in schema._runs[: len(fields)]] != list(range(len(fields))):
        raise SchemaError("the first blocks of ids are not those of the fields in order")
    _check_size(schema._runs)
    return schema
