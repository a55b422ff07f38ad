"""Design: the rows of a fit, laid out for sweeps over features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.data.rows import Rows
from crossfm.errors import DataError

__all__ = ["Block", "Design"]

WORTH_SHARING = 0.7  # different bags a row, up to which rows share what equal bags do
DENSE = 4  # ids are counted, not sorted, where their range is so many times their number


@dataclass(frozen=True)
class Block:
    """Features that rows share: the rows of a table of their own, and which of them each row has.

    Attributes:
        rows: the table; ids are those of the whole model.
        unit_of: int32 ``[n]``, the row of the table that belongs to each row of the fit.
    """

    rows: Rows
    unit_of: NDArray[np.int32]

    def used(self) -> Block:
        """The block without the rows of its table that no row has."""
        if len(self.unit_of) < len(self.rows):  # no pass over a table far longer than the rows
            few, unit_of = np.unique(self.unit_of, return_inverse=True)
            return Block(self.rows.take(few), unit_of.astype(np.int32))
        units = np.flatnonzero(np.bincount(self.unit_of, minlength=len(self.rows)))
        if len(units) == len(self.rows):
            return self
        place = np.zeros(len(self.rows), np.int32)
        place[units] = np.arange(len(units))
        return Block(self.rows.take(units), place[self.unit_of])


class Design:
    """What a sweep needs to know of the rows: which features each has, member by member.

    A field of at most one feature a row is a member of its own. A field that holds several, a
    bag, becomes a block of its different bags. Features without rows stand in the first member.
    Rows are put into the order of the member with the most features, which then are visited one
    after another.

    Args:
        rows: features, targets unused.
        n_features: number of ids.
        field_of: int32 ``[n_features]``, or None: positions of a row are taken as fields where
            no id is seen in two of them, and all ids as one field otherwise.
        across_fields: whether only different fields meet.
        group_of: int32 ``[n_features]``, whose hyperparameters a feature has.
        n_groups: number of groups.
        blocks: relation blocks; their ids are no ids of ``rows``.
        weights: float32 ``[n]``, or None.
        variational: whether variances are swept too.
        sweeper: what makes the sweeper; the core's, or one with the same methods.

    Attributes:
        order: int64 ``[n]``, the rows as the design has them.
        feature_at: int64 ``[n_features]``, the id of each feature as the design has them.

    Raises:
        DataError: a row holds an id twice where that is two features, which no coordinate-wise
            solver can take apart.
    """

    def __init__(
        self,
        rows: Rows,
        n_features: int,
        field_of: NDArray[np.int32] | None,
        *,
        across_fields: bool,
        group_of: NDArray[np.int32],
        n_groups: int,
        blocks: Sequence[Block] = (),
        weights: NDArray[np.float32] | None = None,
        variational: bool = False,
        sweeper: Callable[..., Any] = _native.Sweeper,
    ) -> None:
        blocks = [block.used() for block in blocks]
        stats = rows.validate(n_features)
        if not across_fields and (
            stats.has_repeats
            or any(block.rows.validate(n_features).has_repeats for block in blocks)
        ):
            raise DataError(
                "a row holds the same feature twice, and the two would interact; sum their values"
                ' into one, or take interactions="across_fields", which pools them'
            )
        self.n_rows = len(rows)
        self.n_features = n_features
        fields, blocks_of_fields = _members(rows, n_features, field_of)
        described = [block.rows for block in blocks]
        _expect_apart([rows, *described], n_features)
        tables = [
            *blocks_of_fields,
            *(_Table.of(block.rows, block.unit_of, field_of, n_features) for block in blocks),
        ]
        members: list[_Field | _Table] = sorted([*fields, *tables], key=lambda member: member.field)
        seen = np.zeros(n_features, bool)
        for member in members:
            seen[member.ids] = True
        rest = np.flatnonzero(~seen)
        if len(rest):
            members.append(
                _Field(0, rest, np.zeros(self.n_rows, np.int32), np.zeros(self.n_rows, np.float32))
            )
        self.feature_at = np.concatenate([member.ids for member in members])
        self.place = np.empty(n_features, np.int64)
        self.place[self.feature_at] = np.arange(n_features)
        longest = max(members, key=lambda member: member.units)
        narrow = longest.unit_of.astype(np.uint16 if longest.units <= 1 << 16 else np.uint32)
        self.order = np.argsort(narrow, kind="stable")  # of 16 bits in linear time
        self.sweeper = sweeper(
            n_rows=self.n_rows,
            group_of=np.ascontiguousarray(group_of[self.feature_at], np.int32),
            n_groups=n_groups,
            row_weights=None if weights is None else self.arrange(weights),
            vb=variational,
        )
        for member in members:
            member.add_to(self.sweeper, self.order, across_fields)

    def arrange(self, of_rows: NDArray[Any]) -> NDArray[np.float32]:
        """Numbers of rows, in the design's order."""
        return np.ascontiguousarray(of_rows[self.order], np.float32)


@dataclass
class _Field:
    """At most one feature a row."""

    field: int
    ids: NDArray[np.int64]
    unit_of: NDArray[np.int32]
    values: NDArray[np.float32] | None

    @property
    def units(self) -> int:
        return len(self.ids)

    def add_to(self, sweeper: Any, order: NDArray[np.int64], across_fields: bool) -> None:
        values = None if self.values is None else self.values[order]
        sweeper.add_field(features=len(self.ids), unit_of=self.unit_of[order], values=values)


@dataclass
class _Table:
    """A block: columns of features over units."""

    field: int
    ids: NDArray[np.int64]
    unit_of: NDArray[np.int32]
    units: int
    starts: NDArray[np.int64]
    entries: NDArray[np.int32]
    values: NDArray[np.float32] | None
    fields: NDArray[np.int32]

    @staticmethod
    def of(
        rows: Rows,
        unit_of: NDArray[np.int32],
        field_of: NDArray[np.int32] | None,
        n_features: int,
    ) -> _Table:
        row = np.repeat(np.arange(len(rows), dtype=np.int32), rows.row_lengths())
        ids = rows.ids.astype(np.int64)
        fields = _fields_of(rows, field_of)
        # By field, feature and row; entries of one feature in one row become one.
        order = np.lexsort((row, ids, fields))
        row, ids, fields = row[order], ids[order], fields[order]
        values = np.ones(len(ids), np.float32) if rows.values is None else rows.values[order]
        if len(ids):
            new = np.r_[True, (np.diff(ids) != 0) | (np.diff(row) != 0)]
            values = np.add.reduceat(values, np.flatnonzero(new)).astype(np.float32)
            row, ids, fields = row[new], ids[new], fields[new]
        found, first, counts = np.unique(ids, return_index=True, return_counts=True)
        by_field = np.argsort(first, kind="stable")
        return _Table(
            int(fields[0]) if len(fields) else 0,
            found[by_field],
            unit_of,
            len(rows),
            np.r_[0, np.cumsum(counts[by_field])].astype(np.int64),
            np.ascontiguousarray(row),
            None if (values == 1.0).all() else values,
            np.ascontiguousarray(fields[first[by_field]], np.int32),
        )

    def add_to(self, sweeper: Any, order: NDArray[np.int64], across_fields: bool) -> None:
        sweeper.add_block(
            units=self.units,
            unit_of=self.unit_of[order],
            columns=self.starts,
            column_units=self.entries,
            column_values=self.values,
            column_fields=self.fields if across_fields else None,
        )


def _expect_apart(tables: list[Rows], n_features: int) -> None:
    """No id may be in two tables: features of a block are the block's alone."""
    taken = np.zeros(n_features, bool)
    for rows in tables if len(tables) > 1 else ():
        own = np.zeros(n_features, bool)
        own[rows.ids] = True
        if (own & taken).any():
            shared = int(np.argmax(own & taken))
            raise DataError(f"feature {shared} is in two of the rows and relation blocks")
        taken |= own


def _fields_of(rows: Rows, field_of: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """The field of each entry."""
    if rows.fields is not None:
        return rows.fields
    if field_of is not None:
        return field_of[rows.ids]
    return np.zeros(rows.nnz, np.int32)


def _members(
    rows: Rows, n_features: int, field_of: NDArray[np.int32] | None
) -> tuple[list[_Field], list[_Table]]:
    """The fields of single features, and the bags."""
    n = len(rows)
    lengths = rows.row_lengths()
    row = np.repeat(np.arange(n, dtype=np.int32), lengths)
    if field_of is None and rows.fields is None:
        of = _positions(rows, lengths)
    else:
        of = _fields_of(rows, field_of)
    fields: list[_Field] = []
    tables: list[_Table] = []
    for name, entries in _entries(of, rows):
        at, ids = row[entries], rows.ids[entries]
        values = None if rows.values is None else rows.values[entries]
        if len(at) > 1 and (np.diff(at) == 0).any():
            tables.append(_shared_bags(n, name, at, ids, values, n_features))
        else:
            fields.append(_single(n, name, at, ids, values))
    return fields, tables


def _entries(of: NDArray[np.int32], rows: Rows) -> Iterator[tuple[int, slice | NDArray[np.int64]]]:
    """The entries of each field, in the order of rows."""
    n_columns = rows.nnz // len(rows) if rows.offsets is None else 0
    if n_columns and (of.reshape(-1, n_columns) == of[:n_columns]).all():  # a column a field
        names = of[:n_columns]
        if len(np.unique(names)) == n_columns:
            for at in np.argsort(names).tolist():
                yield int(names[at]), slice(at, None, n_columns)
            return
    order = np.argsort(of, kind="stable")
    found, starts = np.unique(of[order], return_index=True)
    bounds = [*starts.tolist(), len(of)]
    for number, name in enumerate(found.tolist()):
        yield name, order[bounds[number] : bounds[number + 1]]


def _numbered(ids: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The different ids, rising, and the place of each entry's among them."""
    low = int(ids.min()) if len(ids) else 0
    span = int(ids.max()) - low + 1 if len(ids) else 0
    if span > DENSE * len(ids):
        found, units = np.unique(ids, return_inverse=True)
        return found.astype(np.int64), units.astype(np.int32)
    seen = np.zeros(span, bool)
    seen[ids - low] = True
    place = np.cumsum(seen, dtype=np.int32) - np.int32(1)
    return np.flatnonzero(seen) + low, place[ids - low]


def _positions(rows: Rows, lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    """Places within rows, where each id keeps to one of them; else zeros."""
    none = np.zeros(rows.nnz, np.int32)
    if not rows.nnz or lengths.min() != lengths.max():
        return none
    place = np.tile(np.arange(lengths[0], dtype=np.int32), len(rows))
    of = np.empty(int(rows.ids.max()) + 1, np.int32)
    of[rows.ids] = place
    return place if (of[rows.ids] == place).all() else none


def _single(
    n: int,
    name: int,
    at: NDArray[np.int32],
    ids: NDArray[Any],
    values: NDArray[np.float32] | None,
) -> _Field:
    found, units = _numbered(ids)
    if len(at) == n and (values is None or (values == 1.0).all()):
        unit_of = np.empty(n, np.int32)
        unit_of[at] = units
        return _Field(name, found, unit_of, None)
    unit_of, x = np.zeros(n, np.int32), np.zeros(n, np.float32)  # without an entry: x is 0
    unit_of[at] = units
    x[at] = 1.0 if values is None else values
    return _Field(name, found, unit_of, x)


def _shared_bags(
    n: int,
    name: int,
    at: NDArray[np.int32],
    ids: NDArray[Any],
    values: NDArray[np.float32] | None,
    n_features: int,
) -> _Table:
    """A block of the field's bags; equal ones once, where that saves much."""
    counts = np.bincount(at, minlength=n)
    offsets = np.r_[0, np.cumsum(counts)].astype(np.int64)
    bags = Rows(ids, values, offsets)
    first, unit_of = _equal_bags(bags)
    if len(first) <= WORTH_SHARING * n:
        bags = bags.take(first)
    else:
        unit_of = np.arange(n, dtype=np.int32)
    of = np.full(n_features, name, np.int32)
    return _Table.of(bags, unit_of, of, n_features)


def _equal_bags(bags: Rows) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The first of each set of equal rows, and which set each row is in."""
    width = bags.ids.dtype.itemsize
    ids = bags.ids.view(np.uint8).reshape(-1, width) if bags.nnz else np.empty((0, width), np.uint8)
    parts = [ids]
    if bags.values is not None:
        parts.append(bags.values.view(np.uint8).reshape(-1, 4))
    data = np.ascontiguousarray(np.concatenate(parts, axis=1)).tobytes()
    size = width + (4 if bags.values is not None else 0)
    assert bags.offsets is not None
    known: dict[bytes, int] = {}
    first: list[int] = []
    unit_of = np.empty(len(bags), np.int32)
    bounds = (bags.offsets * size).tolist()
    for r in range(len(bags)):
        key = data[bounds[r] : bounds[r + 1]]
        unit = known.setdefault(key, len(first))
        if unit == len(first):
            first.append(r)
        unit_of[r] = unit
    return np.array(first, np.int64), unit_of
