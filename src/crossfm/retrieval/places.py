"""Places of items by their ids: a table, a sorted list or a dict, whichever the ids allow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm.errors import DataError

__all__ = ["Places"]

SPAN = 8  # ids are looked up in a table where their range is at most so many times their number


class Places:
    """Which item an id names.

    Args:
        ids: of the items, whole numbers or anything hashable, no two the same.
        name: what they are called in messages.

    Raises:
        DataError: an id that is there twice, or missing.

    Example:
        >>> places = Places(np.array([30, 10, 20]), "film")
        >>> places.of([10, 10, 30])
        array([1, 1, 0])
        >>> places.of([11], unknown="skip")
        array([-1])
    """

    def __init__(self, ids: ArrayLike, name: str) -> None:
        found = np.asarray(ids)
        self.name, self._n = name, len(found)
        self._table: NDArray[np.int64] | None = None
        self._sorted: NDArray[Any] | None = None
        self._dict: dict[Any, int] = {}
        if found.dtype.kind in "iu" and len(found):
            self._low, high = int(found.min()), int(found.max())
            order = np.argsort(found, kind="stable")
            if (np.diff(found[order]) == 0).any():
                twice = found[order][:-1][np.diff(found[order]) == 0][0]
                raise DataError(f"{name} {twice} is there twice")
            if high - self._low < SPAN * len(found):
                self._table = np.full(high - self._low + 1, -1)
                self._table[found - self._low] = np.arange(len(found))
            else:
                self._sorted, self._order = found[order], order
            return
        listed = found.tolist()
        self._dict = {one: place for place, one in enumerate(listed)}
        if len(self._dict) < len(listed):
            seen: set[Any] = set()
            twice = next(one for one in listed if one in seen or seen.add(one))  # type: ignore[func-returns-value]
            raise DataError(f"{name} {twice!r} is there twice")
        if None in self._dict:
            raise DataError(f"row {self._dict[None]} has no {name}")

    def __len__(self) -> int:
        return self._n

    def of(self, ids: Any, *, unknown: str = "raise") -> NDArray[np.int64]:
        """The place of each id.

        Args:
            ids: one a candidate.
            unknown: "raise", or "skip": -1 for ids that no item has.

        Raises:
            DataError: such an id.
        """
        if self._table is None and self._sorted is None:
            get = self._dict.get
            listed = ids.tolist() if isinstance(ids, np.ndarray) else ids
            found = np.fromiter((get(one, -1) for one in listed), np.int64, len(listed))
        else:
            given = np.asarray(ids)
            if not len(given):
                return np.zeros(0, np.int64)
            if given.dtype == object:  # of numbers, perhaps
                given = np.array(given.tolist())
            if given.dtype.kind not in "iu":
                raise DataError(f"{self.name}s are numbers, got {given.dtype}: {given.flat[0]!r}")
            found = self._numbers(given)
        if unknown == "raise" and len(found) and found.min() < 0:
            at = int(np.argmin(found))
            raise DataError(f"no item has the {self.name} {ids[at]!r}")
        return found

    def _numbers(self, given: NDArray[Any]) -> NDArray[np.int64]:
        if self._table is not None:
            at = given.astype(np.int64, copy=False) - self._low
            inside = (at >= 0) & (at < len(self._table))
            if inside.all():
                return self._table[at]
            return np.where(inside, self._table[np.where(inside, at, 0)], -1)
        assert self._sorted is not None
        at = np.minimum(np.searchsorted(self._sorted, given), len(self._sorted) - 1)
        return np.where(self._sorted[at] == given, self._order[at], -1)
