"""What each user took last before a moment, out of a log."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crossfm.data import inputs
from crossfm.data.frames import missing_column
from crossfm.errors import DataError, SchemaError

__all__ = ["recent_items"]


def recent_items(
    log: Any,
    n: int = 5,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    at: Any = None,
) -> pa.ListArray:
    """The last `n` items of the log that each row's user took before the row's time.

    Strictly before: what was taken at the very moment is not told, so that a row of the log does
    not tell of itself. As a column of the log it is a context that `FMRanker` can learn from.

    Args:
        log: a row for each item that was taken, in any form of table.
        n: items a row, at most; fewer where the user has taken fewer.
        user: name of the column of users.
        item: that of what they took.
        time: that to order by, of any type that has an order; None: the log is in order, and before
            means above.
        at: a table of rows to tell of, with the users' column, and with that of time or, without
            it, as of the end of the log. None: the rows of `log`.

    Returns:
        A list for each row of `at`, from the oldest to the latest; empty for users that the log
        does not have.

    Raises:
        SchemaError: a column is missing, or of another type in `at` than in `log`.
        DataError: an `n` below 1; a user, item or time that is missing.

    Example:
        >>> log = {"user": [1, 1, 2, 1], "item": ["a", "b", "c", "d"], "time": [10, 20, 20, 30]}
        >>> recent_items(log, 2).to_pylist()
        [[], ['a'], [], ['a', 'b']]
        >>> recent_items(log, 2, at={"user": [1, 2, 3]}).to_pylist()
        [['b', 'd'], ['c'], []]
    """
    count = _count(n)
    table = inputs.as_table(log)
    asked = table if at is None else inputs.as_table(at)
    moments = None if time is None else _column(table, time, "log")
    taken = _column(table, item, "log")
    who, users = _users(_column(table, user, "log"), _column(asked, user, "at"))
    when, until, n_moments = _order(table, moments, asked, time, whole=at is not None)
    span = np.int64(n_moments + 1)
    order = np.lexsort((when, who))
    key = who[order] * span + when[order]
    start = np.searchsorted(key, users * span)
    stop = np.searchsorted(key, users * span + until)
    low = np.maximum(start, stop - count)
    lengths = np.where(users >= 0, stop - low, 0)
    offsets = np.zeros(len(users) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise DataError(
            f"{len(users)} rows of up to {count} items are more than a column of lists can hold;"
            " take a smaller n, or the log in parts"
        )
    places = np.arange(offsets[-1]) + np.repeat(low - offsets[:-1], lengths)
    return pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), taken.take(pa.array(order[places]))
    )


def _count(n: Any) -> int:
    try:
        count = 0 if isinstance(n, bool) else operator.index(n)
    except TypeError:
        count = 0
    if count < 1:
        raise DataError(f"n is {n!r}, expected an integer of at least 1")
    return count


def _column(table: pa.Table, name: str, place: str) -> pa.Array:
    """A column without chunks, codes or missing values."""
    if name not in table.column_names:
        raise missing_column(name, table.column_names)
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    empty = pc.is_null(column, nan_is_null=True).to_numpy()
    if empty.any():
        raise DataError(f"row {int(np.argmax(empty))} of {place} has no {name!r}; drop it")
    flat = column.combine_chunks()
    return pa.concat_arrays(flat.chunks) if isinstance(flat, pa.ChunkedArray) else flat


def _users(ours: pa.Array, theirs: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A number for each user of the log; of the rows asked for, -1 for others."""
    known = pc.unique(ours)
    numbers = (
        pc.fill_null(pc.index_in(_as(one, known.type), value_set=known), -1).to_numpy()
        for one in (ours, theirs)
    )
    who, users = (number.astype(np.int64) for number in numbers)
    return who, users


def _order(
    table: pa.Table, moments: pa.Array | None, asked: pa.Table, time: str | None, *, whole: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Ranks of the log's times from 0, those that each row's items are below, and how many."""
    n = table.num_rows
    if moments is None or (whole and time not in asked.column_names):
        when = np.arange(n) if moments is None else _ranks(moments)
        until = np.full(asked.num_rows, n) if whole else when
        return when, until, n
    assert time is not None
    if not whole:
        when = _ranks(moments)
        return when, when, n
    both = _ranks(pa.concat_arrays([moments, _as(_column(asked, time, "at"), moments.type)]))
    return both[:n], both[n:], len(both)


def _ranks(moments: pa.Array) -> NDArray[np.int64]:
    try:
        ranks = pc.rank(moments, tiebreaker="dense").to_numpy()
    except pa.ArrowNotImplementedError as error:
        raise SchemaError(f"times of type {moments.type} have no order") from error
    return np.asarray(ranks, np.int64) - 1


def _as(values: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(
            f"a column holds {values.type} in at and {kind} in the log; make them one type"
        ) from error
