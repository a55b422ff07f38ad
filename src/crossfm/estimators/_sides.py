"""Users and items as two tables by key, read as the features of one machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crossfm.data import inputs
from crossfm.data.fields import Categorical
from crossfm.data.relations import Relation, Relations, expect_column
from crossfm.data.rows import Rows
from crossfm.data.schema import Schema
from crossfm.errors import DataError, SchemaError

__all__ = ["Sides", "read_interactions"]


@dataclass(frozen=True, eq=False)
class Sides:
    """The features of each user and each item, by key.

    Attributes:
        schema: of both sides together.
        users: its unit 0 is a user that is not known.
        items: its unit 0 is an item that is not known, and no candidate.
    """

    schema: Schema
    users: Relation
    items: Relation

    @staticmethod
    def learn(
        interactions: pa.Table, users: Any, items: Any, user: str, item: str, schema: Schema | None
    ) -> Sides:
        """All keys of the interactions and of the two tables, and what the tables say of them.

        Raises:
            SchemaError: a column that is missing, or in both tables; a side without fields.
            DataError: a key that is missing in a table, or there twice.
        """
        given = (("users", users, user), ("items", items, item))
        tables = [_units(frame, interactions.column(key), key, name) for name, frame, key in given]
        twice = set(tables[0].column_names) & set(tables[1].column_names)
        if twice:
            raise SchemaError(
                f"the columns {sorted(twice)} are in users and in items; rename them in one of the"
                " tables, or leave them out"
            )
        parts = [
            _fields(table, key, name, schema)
            for (name, _, key), table in zip(given, tables, strict=True)
        ]
        if schema is not None:
            known = {name for part in parts for name in part.field_names}
            lost = [name for name in schema.field_names if name not in known]
            if lost:
                raise SchemaError(
                    f"the schema has the fields {lost}, whose columns neither users nor items has;"
                    f" users has {tables[0].column_names}, items has {tables[1].column_names}"
                )
        whole = Schema.joined([part.fit(table) for part, table in zip(parts, tables, strict=True)])
        relations = (
            Relation.learn(key, key, part, whole, table)
            for (_, _, key), part, table in zip(given, parts, tables, strict=True)
        )
        return Sides(whole, *relations)

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
        if len(parts) != 2 or {*parts[0].fields, *parts[1].fields} != set(schema.field_names):
            raise ValueError("users and items do not fit the schema")
        return Sides(schema, *parts)


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


def _array(side: Relation) -> NDArray[Any]:
    keys = pa.array(side.keys.categories(side.key))
    return np.asarray(keys.to_numpy(zero_copy_only=False))
