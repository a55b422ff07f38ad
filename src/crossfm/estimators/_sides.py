"""Users and items as two tables by key, read as the features of one machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crossfm.data import inputs
from crossfm.data.fields import Categorical
from crossfm.data.relations import Relation, Relations, expect_column
from crossfm.data.rows import Rows, side_by_side
from crossfm.data.schema import Schema
from crossfm.errors import DataError, SchemaError

__all__ = ["Sides", "read_interactions"]


@dataclass(frozen=True, eq=False)
class Sides:
    """The features of each user and each item, by key, and of the context of each pair.

    Attributes:
        schema: of all of them together.
        users: its unit 0 is a user that is not known.
        items: its unit 0 is an item that is not known, and no candidate.
        context: fields whose columns come with each pair.
    """

    schema: Schema
    users: Relation
    items: Relation
    context: tuple[str, ...] = ()

    @staticmethod
    def learn(
        interactions: pa.Table, users: Any, items: Any, user: str, item: str,
        context: Sequence[str], schema: Schema | None,
    ) -> Sides:  # fmt: skip
        """All keys of the interactions and of the two tables, and what the tables say of them.

        Raises:
            SchemaError: a column that is missing, or in two of the tables; a side without fields.
            DataError: a key that is missing in a table, or there twice.
        """
        given = (("users", users, user), ("items", items, item))
        tables = [_units(frame, interactions.column(key), key, name) for name, frame, key in given]
        around = _context(interactions, context)
        _expect_apart({"users": tables[0], "items": tables[1], "the context": around})
        parts = [
            _fields(table, key, name, schema)
            for (name, _, key), table in zip(given, tables, strict=True)
        ]
        if context:
            parts.append(_context_fields(around, schema))
        if schema is not None:
            known = {name for part in parts for name in part.field_names}
            lost = [name for name in schema.field_names if name not in known]
            if lost:
                raise SchemaError(
                    f"the schema has the fields {lost}, whose columns neither users nor items has,"
                    f" and context does not name; users has {tables[0].column_names}, items has"
                    f" {tables[1].column_names}"
                )
        learned = [*tables, interactions] if context else tables
        whole = Schema.joined([part.fit(table) for part, table in zip(parts, learned, strict=True)])
        own_users, own_items = (
            Relation.learn(key, key, part, whole, table)
            for (_, _, key), part, table in zip(given, parts, tables, strict=False)
        )
        around_fields = tuple(parts[2].field_names) if context else ()
        return Sides(whole, own_users, own_items, around_fields)

    @property
    def user(self) -> str:
        """The column of users."""
        return self.users.column

    @property
    def item(self) -> str:
        """The column of items."""
        return self.items.column

    @property
    def item_rows(self) -> Rows:
        """The features of each item."""
        return self.items.rows[1:]

    @property
    def item_keys(self) -> NDArray[Any]:
        """The key of each item."""
        return _array(self.items)

    @property
    def user_keys(self) -> NDArray[Any]:
        """The key of each user, from unit 1 on."""
        return _array(self.users)

    @property
    def context_columns(self) -> list[str]:
        """The columns that come with each pair beside the keys."""
        return self.schema.columns_of(self.context) if self.context else []

    def read(self, frame: Any, place: str) -> pa.Table:
        """A table of pairs and their context, no key of which is missing.

        Raises:
            SchemaError: a column is not there.
            DataError: a key is missing.
        """
        table = read_interactions(frame, self.user, self.item, place)
        self.expect_context(table, place)
        return table

    def expect_context(self, table: pa.Table, place: str) -> None:
        """Raise SchemaError where a column of the context is not there."""
        missing = [name for name in self.context_columns if name not in table.column_names]
        if missing:
            raise SchemaError(
                f"{place} has no column {missing[0]!r}: the fit had the context"
                f" {self.context_columns}, so that each row needs these, missing values where"
                f" nothing is known; there are {table.column_names}"
            )

    def queries(self, table: pa.Table, users: Rows) -> Rows:
        """The features of the users and of the context of each row."""
        if not self.context:
            return users
        return side_by_side([users, self.contexts(table)])

    def contexts(self, table: pa.Table) -> Rows:
        """The features of the context of each row."""
        return self.schema.transform(table, fields=self.context)

    def user_units(self, table: pa.Table) -> NDArray[np.int32]:
        """The unit of each row's user; 0 where it is not known."""
        return self.users.units(table).astype(np.int32)

    def item_numbers(self, table: pa.Table) -> NDArray[np.int32]:
        """The item of each row; -1 where it is not known."""
        return self.items.units(table).astype(np.int32) - np.int32(1)

    def to_bytes(self) -> bytes:
        """Both tables as bytes."""
        return Relations((self.users, self.items)).to_bytes()

    @staticmethod
    def from_bytes(data: bytes, schema: Schema) -> Sides:
        """The inverse of `to_bytes`.

        Raises:
            ValueError, KeyError, CrossfmError: it is broken.
        """
        parts = Relations.from_bytes(data, schema).parts
        if len(parts) != 2:
            raise ValueError("something else than users and items")
        own = {*parts[0].fields, *parts[1].fields}
        if not own <= set(schema.field_names):
            raise ValueError("users and items do not fit the schema")
        return Sides(schema, *parts, tuple(name for name in schema.field_names if name not in own))


def read_interactions(frame: Any, user: str, item: str, place: str = "interactions") -> pa.Table:
    """A table of pairs, no key of which is missing.

    Raises:
        SchemaError: a column is not there.
        DataError: a key is missing.
    """
    table = inputs.as_table(frame)
    for name in (user, item):
        expect_column(table, name, place)
        column = table.column(name)
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy()))
            raise DataError(f"row {row} of {place} has no {name!r}; drop it")
    return table


def _units(frame: Any, found: pa.ChunkedArray, key: str, name: str) -> pa.Table:
    """A row each key: those of the table, then those of the interactions that it lacks."""
    found = _plain(found)
    if frame is None:
        return pa.table({key: pc.unique(found)})
    table = inputs.as_table(frame)
    expect_column(table, key, name)
    keys = _plain(table.column(key))
    if keys.null_count:
        row = int(np.argmax(keys.is_null().to_numpy()))
        raise DataError(f"row {row} of {name} has no {key!r}; drop it")
    counts = pc.value_counts(keys)
    often = pc.max(counts.field("counts")).as_py() if len(keys) else 0
    if often > 1:
        at = int(np.argmax(counts.field("counts").to_numpy()))
        raise DataError(
            f"{key} {counts.field('values')[at].as_py()!r} is {often} times in {name}, which holds"
            " a row for each; keep one of them, or gather what they have into a bag"
        )
    try:
        found = found.cast(keys.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(
            f"the column {key!r} holds {found.type} in the interactions and {keys.type} in {name};"
            " make them one type"
        ) from error
    table = table.set_column(table.column_names.index(key), key, keys)
    extra = pc.unique(found)
    extra = extra.filter(pc.invert(pc.is_in(extra, value_set=pc.unique(keys))))
    more = {
        one.name: extra if one.name == key else pa.nulls(len(extra), one.type)
        for one in table.schema
    }
    return pa.concat_tables([table, pa.table(more, schema=table.schema)])


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Keys that were coded, as themselves."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _fields(table: pa.Table, key: str, name: str, schema: Schema | None) -> Schema:
    """The fields of one side: those given whose columns it has, or the key and what it infers."""
    if schema is None:
        if table.column_names == [key]:
            return Schema([Categorical(key)])
        try:
            guessed = Schema.infer(table, exclude=key)
        except SchemaError:  # nothing but constants beside the key
            return Schema([Categorical(key)])
        part = Schema([Categorical(key), *guessed.fields])
        part.guesses = guessed.guesses
        return part
    own = [field for field in schema.fields if field.name in table.column_names]
    if not own:
        raise SchemaError(
            f"the schema has no field of {name}, whose columns are {table.column_names}; add"
            f" Categorical({key!r}), or fields of other columns"
        )
    return Schema(own)


def _context(interactions: pa.Table, names: Sequence[str]) -> pa.Table:
    """The columns of the interactions that tell of a pair's context."""
    for name in names:
        expect_column(interactions, name, "interactions")
    return interactions.select(list(dict.fromkeys(names)))


def _context_fields(table: pa.Table, schema: Schema | None) -> Schema:
    """The fields of the context: those given, or those inferred, of each column."""
    if schema is None:
        part = Schema.infer(table)
        unused = [guess for guess in part.guesses if guess.name not in part.field_names]
        if unused:
            raise SchemaError(
                f"the column {unused[0].name!r} of the context was left out by the guess"
                f" ({unused[0].reason}); leave it out, or say what it is with schema="
            )
        return part
    own = [field for field in schema.fields if field.name in table.column_names]
    lost = set(table.column_names) - {field.name for field in own}
    if lost:
        raise SchemaError(f"the schema has no field of the columns {sorted(lost)} of the context")
    return Schema(own)


def _expect_apart(tables: dict[str, pa.Table]) -> None:
    for (one, left), (two, right) in combinations(tables.items(), 2):
        twice = set(left.column_names) & set(right.column_names)
        if twice:
            raise SchemaError(
                f"the columns {sorted(twice)} are in {one} and in {two}; rename them in one of the"
                " tables, or leave them out"
            )


def _array(side: Relation) -> NDArray[Any]:
    keys = pa.array(side.keys.categories(side.key))
    return np.asarray(keys.to_numpy(zero_copy_only=False))
