"""Pairs to judge lists by: those that are given, and those that are held out of a fit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.estimators._sides import Sides
from crossfm.solvers.ranking import HeldOut, Lists

__all__ = ["held_out", "known", "split"]


def held_out(sides: Sides, table: pa.Table, k: int, seen: Lists | None, place: str) -> HeldOut:
    """Pairs that are not among `seen`: a list for each user, or for each user and context.

    Raises:
        DataError: no pair is left; `place` is what the table is called.
    """
    owner, taken = sides.user_units(table), sides.item_numbers(table)
    if seen is not None:
        n_items = len(sides.item_rows)
        users = np.repeat(np.arange(len(seen.offsets) - 1), np.diff(seen.offsets))
        before = users * np.int64(n_items) + seen.items
        new = ~np.isin(owner.astype(np.int64) * n_items + taken, before) | (taken < 0)
        table, owner, taken = table.filter(pa.array(new)), owner[new], taken[new]
    if not len(owner):
        raise DataError(
            f"{place} has no pair that was not seen in training, so there is nothing to judge"
        )
    keys = table.column(sides.user).combine_chunks().dictionary_encode()
    keys = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    code = keys.indices.to_numpy()  # users that are not known are lists of their own
    if sides.context:
        code = _told_apart(code, sides.contexts(table))
    _, first, query_of = np.unique(code, return_index=True, return_inverse=True)
    queries = sides.queries(table.take(first), sides.users.rows.take(owner[first]))
    once = np.unique(np.stack([query_of, taken]), axis=1)
    return HeldOut(queries, known(owner[first]), once[0], once[1], k)


def split(
    sides: Sides, table: pa.Table, fraction: float, k: int, seed: int
) -> tuple[NDArray[np.int64], HeldOut]:
    """Which pairs to train on, and a fraction drawn to judge by.

    No user is left without a pair, and no pair is on both sides.

    Raises:
        DataError: no user has two items.
    """
    owner, taken = sides.user_units(table), sides.item_numbers(table)
    rng = np.random.default_rng([seed, 1])
    key = owner.astype(np.int64) * len(sides.item_rows) + taken
    _, first, pair = np.unique(key, return_index=True, return_inverse=True)
    place = rng.permutation(len(first))
    order = np.lexsort((place, owner[first]))
    left = np.ones(len(first), bool)
    left[order[np.r_[True, np.diff(owner[first][order]) != 0]]] = False
    chosen = left & (place < max(1, round(len(first) * fraction)))
    if not chosen.any():
        raise DataError(
            "no user took two items, so that none can be held out; give eval_set, or"
            " early_stopping=False"
        )
    watch = held_out(sides, table.take(first[chosen]), k, None, "interactions")
    return np.flatnonzero(~chosen[pair]), watch


def known(units: NDArray[np.integer]) -> NDArray[np.int64]:
    """Users by unit, -1 for those that are not known."""
    return np.where(units > 0, units, -1).astype(np.int64)


def _told_apart(code: NDArray[np.integer], rows: Rows) -> NDArray[np.int64]:
    """A number for each that differs, of codes and rows together."""
    offsets, numbers = rows.row_offsets(), dict[tuple[int, bytes, bytes], int]()
    out = np.empty(len(code), np.int64)
    for row, (low, high) in enumerate(pairwise(offsets)):
        values = b"" if rows.values is None else rows.values[low:high].tobytes()
        key = int(code[row]), rows.ids[low:high].tobytes(), values
        out[row] = numbers.setdefault(key, len(numbers))
    return out
