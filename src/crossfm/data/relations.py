"""Relation blocks: columns of users, items or histories, kept once a key instead of once a row."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crossfm.data import inputs
from crossfm.data.fields import Categorical
from crossfm.data.rows import Rows, side_by_side
from crossfm.data.schema import Schema
from crossfm.errors import DataError, SchemaError, did_you_mean

__all__ = ["Relation", "RelationBlock", "Relations", "expect_column"]


@dataclass(frozen=True, eq=False)
class RelationBlock:
    """A table of what belongs to a key: the age of each user, the genres and year of each film.

    A machine that is fitted with it is the one fitted to X left-joined with the table, at the cost
    of the table's rows instead of X's: with u users of m columns each, a sweep over n ratings
    takes O((u m + n) k) for them instead of O(n m k).

    Args:
        frame: a DataFrame, dict of columns or path (Parquet, CSV) with one row a key. All other
            columns become fields; none may have the name of a column that X has as a field.
        key: the column of `frame` with the keys: no two the same, none missing.
        on: the column of X with the keys, where it has another name.
        schema: fields of the table's columns; None: guessed, as those of X are. Scales and
            vocabularies are learned from the table, each key counting once.

    Rows of X whose key the table lacks are as with a left join: every column is missing.

    Raises:
        SchemaError: an argument that is no such thing.

    Example:
        >>> import crossfm as cf
        >>> films = {"film": ["a", "b"], "genres": [["crime"], ["crime", "love"]]}
        >>> log = {"user": [1, 2, 2, 1], "film": ["a", "b", "a", "b"]}
        >>> model = cf.FMRegressor(solver="mcmc", n_epochs=20, random_state=0)
        >>> model = model.fit(log, [4, 3, 5, 2], blocks=cf.RelationBlock(films, key="film"))
        >>> model.schema_.field_names
        ['user', 'film', 'genres']
        >>> model.predict(log).shape
        (4,)

    Source: Rendle 2013, Scaling Factorization Machines to Relational Data.
    """

    frame: Any
    key: str
    on: str | None = None
    schema: Schema | None = None

    def __post_init__(self) -> None:
        for name, value in (("key", self.key), ("on", self.on)):
            if not (isinstance(value, str) and value) and not (name == "on" and value is None):
                raise SchemaError(f"RelationBlock: {name} is {value!r}, expected a column's name")
        if self.schema is not None and not isinstance(self.schema, Schema):
            raise SchemaError(
                f"RelationBlock(key={self.key!r}): schema is a {type(self.schema).__name__},"
                " expected a Schema of fields"
            )

    @property
    def column(self) -> str:
        """The column of X with the keys."""
        return self.on or self.key


@dataclass(frozen=True, eq=False)
class Relation:
    """A block as a schema encodes it: units, and which of them a key means.

    Attributes:
        column: of X, with the keys.
        keys: schema of the key alone; its ids are the units, 0 that of keys the table lacks.
        fields: names of the fields that the table has.
        rows: features of each unit, ids as in the schema of the whole model.
    """

    column: str
    keys: Schema
    fields: tuple[str, ...]
    rows: Rows

    @staticmethod
    def learn(column: str, key: str, part: Schema, whole: Schema, table: pa.Table) -> Relation:
        """A table as `whole` encodes it, of which `part` are the table's fields."""
        fields = tuple(part.field_names)
        keys = Schema([Categorical(key)]).fit(table)
        order = np.argsort(_places(keys, table))
        types = table.schema
        none = pa.table({name: pa.nulls(1, types.field(name).type) for name in part.columns})
        rows = [whole.transform(one, fields=fields) for one in (none, table)]
        return Relation(column, keys, fields, Rows.concatenate(rows).take(np.r_[0, 1 + order]))

    @property
    def key(self) -> str:
        """The column of the table with the keys."""
        return self.keys.field_names[0]

    def units(self, table: pa.Table) -> NDArray[Any]:
        """The unit of each row of X, ``[n]``."""
        return self.keys.transform(pa.table({self.key: table.column(self.column)})).ids

    def updated(self, table: pa.Table, schema: Schema) -> Relation:
        """With the units of another table added, or put in the place of those there were."""
        expect_column(table, self.key, f"the relation block of {self.key!r}")
        keys = self.keys.copy().partial_fit(table.select([self.key]))
        place = _places(keys, table)
        origin = np.zeros(keys.n_features_, np.int64)
        origin[: len(self.rows)] = np.arange(len(self.rows))
        origin[place] = len(self.rows) + np.arange(len(place))
        new = schema.transform(table, fields=self.fields)
        rows = Rows.concatenate([self.rows, new]).take(origin)
        return Relation(self.column, keys, self.fields, rows)


class Relations:
    """The relation blocks of a model.

    Rows are read with one id more for each, beyond those of features, which names the row's unit
    (`link`); they are sliced and picked as any, and come apart again where they are used (`part`).

    Args:
        parts: none, one or several.
    """

    def __init__(self, parts: Iterable[Relation] = ()) -> None:
        self.parts = tuple(parts)

    def __bool__(self) -> bool:
        return bool(self.parts)

    @staticmethod
    def learn(main: Schema, blocks: Iterable[RelationBlock]) -> tuple[Schema, Relations]:
        """The schema of X and of all blocks together, and the blocks as it encodes them.

        Raises:
            SchemaError: a key's column that is missing, or a field that is in two of the tables.
            DataError: a key that is missing, or there twice.
        """
        parts, tables = [main], []
        taken = dict.fromkeys(main.field_names, "X")
        blocks = list(blocks)
        for block in blocks:
            place = f"the relation block of {block.key!r}"
            table = _read(block)
            schema = block.schema or Schema.infer(table, exclude=block.key)
            for name in schema.field_names:
                if name in taken:
                    raise SchemaError(
                        f"the field {name!r} is in {taken[name]} and in {place}; rename the column"
                        " in one of them, or leave it out"
                    )
                taken[name] = place
            parts.append(schema.copy() if schema.is_fitted else schema.copy().fit(table))
            tables.append(table)
        joined = Schema.joined(parts)
        found = zip(blocks, parts[1:], tables, strict=True)
        return joined, Relations(
            Relation.learn(block.column, block.key, part, joined, table)
            for block, part, table in found
        )

    def updated(self, blocks: Iterable[RelationBlock], schema: Schema, *, learn: bool) -> Relations:
        """With units of blocks added or replaced; `learn`: their new values are new features.

        Raises:
            SchemaError: a block of another key than those there are.
        """
        by_key = {(part.key, part.column): part for part in self.parts}
        for block in blocks:
            before = by_key.get((block.key, block.column))
            if before is None:
                known = [f"{key!r} (of X: {column!r})" for key, column in by_key]
                raise SchemaError(
                    f"no relation block of the key {block.key!r} (of X: {block.column!r}) was"
                    f" fitted; there are {', '.join(known) or 'none'}"
                )
            table = _read(block, schema.column_types | before.keys.column_types)
            if learn:
                schema.partial_fit(table, fields=before.fields)
            by_key[before.key, before.column] = before.updated(table, schema)
        return Relations(by_key.values())

    @property
    def columns(self) -> list[str]:
        """The columns of X with keys."""
        return [part.column for part in self.parts]

    @property
    def column_types(self) -> dict[str, Any]:
        """Arrow types to read these from text with."""
        return {
            part.column: kind for part in self.parts for kind in part.keys.column_types.values()
        }

    def others(self, fields: Iterable[str]) -> list[str]:
        """Those of the fields that no block has."""
        of_blocks = {name for part in self.parts for name in part.fields}
        return [name for name in fields if name not in of_blocks]

    def link(self, rows: Rows, table: pa.Table, n_features: int) -> Rows:
        """Rows of a table that end in the ids of their units."""
        units = [
            part.units(table).astype(np.int64) + start
            for part, start in zip(self.parts, self._starts(n_features), strict=True)
        ]
        most = max(int(unit.max(initial=0)) for unit in units)
        kind = np.int64 if most > np.iinfo(np.int32).max else rows.ids.dtype
        linked = side_by_side([rows, *(Rows(unit[:, None].astype(kind)) for unit in units)])
        return linked.replace(targets=rows.targets, weights=rows.weights)

    def part(
        self, rows: Rows, n_features: int
    ) -> tuple[Rows, list[tuple[Rows, NDArray[np.int32]]]]:
        """Rows without the ids of units; of each block its units' rows, and which unit each has."""
        starts, n_links = self._starts(n_features), len(self.parts)
        first = rows.row_offsets()[1:] - n_links  # of the links of each row
        units = [(rows.ids[first + j] - start).astype(np.int32) for j, start in enumerate(starts)]
        keep = np.ones(rows.nnz, bool)
        for j in range(n_links):
            keep[first + j] = False
        offsets = rows.offsets
        if offsets is not None:
            offsets = offsets - n_links * np.arange(len(rows) + 1)
        own = Rows(
            rows.ids[keep], None if rows.values is None else rows.values[keep], offsets, None,
            rows.targets, rows.weights, len(rows),
        )  # fmt: skip
        return own, [(part.rows, unit) for part, unit in zip(self.parts, units, strict=True)]

    # --- saving -----------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """All of it as a safetensors file; nothing where there are no blocks."""
        if not self:
            return b""
        from safetensors.numpy import save

        told, arrays = [], {}
        for number, part in enumerate(self.parts):
            rows = part.rows
            arrays[f"{number}.ids"], arrays[f"{number}.offsets"] = rows.ids, rows.row_offsets()
            if rows.values is not None:
                arrays[f"{number}.values"] = rows.values
            text = np.frombuffer(part.keys.to_json().encode(), np.uint8)
            arrays[f"{number}.keys"] = text
            told.append({"column": part.column, "fields": list(part.fields)})
        return save(arrays, {"relations": json.dumps(told)})

    @staticmethod
    def from_bytes(data: bytes, schema: Schema | None) -> Relations:
        """The inverse of `to_bytes`, for the schema of all fields.

        Raises:
            ValueError, KeyError, SchemaError, DataError: it is broken.
        """
        if not data:
            return Relations()
        from safetensors import SafetensorError
        from safetensors.numpy import load

        if schema is None:
            raise ValueError("relation blocks without a schema")
        try:
            arrays = load(data)
        except SafetensorError as error:
            raise ValueError(f"relation blocks that are none: {error}") from error
        (length,) = struct.unpack("<Q", data[:8])
        told = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["relations"])
        parts = []
        for number, one in enumerate(told):
            ids, offsets, keys = (arrays[f"{number}.{name}"] for name in ("ids", "offsets", "keys"))
            rows = Rows(ids, arrays.get(f"{number}.values"), offsets)
            rows.validate(schema.n_features_)
            key, fields = Schema.from_json(keys.tobytes()), tuple(map(str, one["fields"]))
            if len(key.fields) != 1 or key.n_features_ != len(rows):
                raise ValueError("units and keys do not fit together")
            if not set(fields) <= set(schema.field_names):
                raise ValueError("fields that the schema does not have")
            parts.append(Relation(str(one["column"]), key, fields, rows))
        return Relations(parts)

    def _starts(self, n_features: int) -> list[int]:
        sizes = [len(part.rows) for part in self.parts]
        return [n_features + sum(sizes[:j]) for j in range(len(sizes))]


def _read(block: RelationBlock, types: Any = None) -> pa.Table:
    """The table of a block, of which is known that it has keys."""
    table = inputs.as_table(block.frame, None, types, dictionaries=True)
    expect_column(table, block.key, f"the relation block of {block.key!r}")
    return table


def expect_column(table: pa.Table, name: str, place: str) -> None:
    """Refuse a table without a column; `place`: what the table is called."""
    if name not in table.column_names:
        names = table.column_names
        raise SchemaError(
            f"{place} has no column {name!r}.{did_you_mean(name, names)} Its columns are {names}"
        )


def _places(keys: Schema, table: pa.Table) -> NDArray[Any]:
    """The unit of each row of a table: each once, and none of them missing."""
    units = keys.transform(table).ids
    name = keys.field_names[0]
    if len(units) and units.min() == 0:
        raise DataError(
            f"row {int(np.argmin(units))} of the relation block of {name!r} has no key; drop it"
        )
    counts = np.bincount(units)
    if counts.max(initial=0) > 1:
        unit = int(np.argmax(counts > 1))
        raise DataError(
            f"{keys.feature_name(unit)} is {counts[unit]} times in its relation block, which holds"
            " a row for each key; keep one of them, or gather what they have into a bag"
        )
    return units
