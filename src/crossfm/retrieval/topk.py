"""Exact top-k: vectors in panels, scanned by the core; what a search returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.data.threads import thread_count
from crossfm.errors import DataError

__all__ = ["ItemIndex", "Storage", "TopK", "packed", "products"]

Storage = Literal["float32", "bfloat16"]
LANES = 16  # items of a panel
UNIT = 2.0**-8  # of bfloat16: the largest relative error of a rounded number, with room
MORE = 2  # times as many items as wanted are looked at exactly, at first


@dataclass(frozen=True, eq=False)
class TopK:
    """The best items of each query, best first.

    Attributes:
        ids: ``[queries, k]``; None (or -1, of places) where fewer items are allowed.
        scores: of the model, float32 ``[queries, k]``; -inf there.
    """

    ids: NDArray[Any]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)


class ItemIndex:
    """Vectors of items by place, and the exact search for the highest inner products.

    One query costs one pass over the vectors, at the speed that memory gives them; many together
    are multiplied while a part of the items is in the cache.

    Args:
        dimension: length of a vector.
        storage: "float32"; or "bfloat16" for half the memory and half the time of one query. What
            comes out is the same: candidates are scored again by vectors kept in float32, enough
            of them that rounding cannot have hidden a better one. These take their memory too
            (capacity: ``4 d`` bytes an item, or ``6 d``).
    """

    def __init__(self, dimension: int, storage: Storage = "float32") -> None:
        if storage not in ("float32", "bfloat16"):
            raise DataError(f"storage is {storage!r}, expected 'float32' or 'bfloat16'")
        self.dimension, self.storage = dimension, storage
        self._scan = _native.ItemScan(dimension, storage == "bfloat16")
        self._exact = np.empty((0, dimension), np.float32)
        self._sizes = np.zeros(dimension, np.float32)  # the largest number of each dimension

    def __len__(self) -> int:
        return int(self._scan.count)

    @property
    def nbytes(self) -> int:
        """Memory of the vectors."""
        return int(self._scan.nbytes + self._exact.nbytes)

    def put(self, places: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add or replace vectors; places from the length on are new.

        Raises:
            DataError: numbers that are not finite.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        places = np.ascontiguousarray(places, np.int64)
        if not np.isfinite(vectors).all():
            raise DataError("vectors hold numbers that are not finite")
        self._scan.put(places, vectors)
        if self.storage == "bfloat16" and len(places):
            if len(self) > len(self._exact):
                room = (
                    len(self) if not len(self._exact) else max(len(self), len(self._exact) * 3 // 2)
                )
                grown = np.zeros((room, self.dimension), np.float32)
                grown[: len(self._exact)] = self._exact
                self._exact = grown
            self._exact[places] = vectors
            np.maximum(self._sizes, np.abs(vectors).max(axis=0), out=self._sizes)

    def vectors(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of some places, ``[m, d]``."""
        if self.storage == "bfloat16":
            return self._exact[places]
        out = np.empty((len(places), self.dimension), np.float32)
        self._scan.get(np.ascontiguousarray(places, np.int64), out)
        return out

    def top(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_] | None = None,
        n_jobs: int = 1,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The places of the k highest products with each query ``[n, d]``, and the products.

        Best first, equal ones by place; -1 and -inf where fewer items are allowed.

        Args:
            queries: ``[n, d]``.
            k: at least 1.
            allowed: bool ``[len]``; None: all.
            n_jobs: threads; the result does not depend on their number.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        bits = None if allowed is None else packed(allowed)
        threads = thread_count(n_jobs)
        if self.storage == "float32":
            return self._search(queries, k, bits, threads)
        return self._search_rounded(queries, k, bits, threads)

    def _search(
        self, queries: NDArray[np.float32], k: int, bits: NDArray[np.uint16] | None, threads: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        places = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        self._scan.top(queries, k, bits, places, scores, threads)
        return places, scores

    def _search_rounded(
        self, queries: NDArray[np.float32], k: int, bits: NDArray[np.uint16] | None, threads: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Candidates by rounded vectors, scored by the exact ones, until none can be missing."""
        out = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, np.float32)
        slack = UNIT * (np.abs(queries) @ self._sizes)  # how far rounding can move a product
        open_, wanted = np.arange(len(queries)), MORE * k
        while len(open_):
            wanted = min(wanted, max(len(self), 1))
            places, rough = self._search(queries[open_], wanted, bits, threads)
            missing = places < 0
            vectors = self._exact[np.where(missing, 0, places)]  # [m, wanted, d]
            exact = np.einsum("md,mwd->mw", queries[open_], vectors)
            exact[missing] = -np.inf
            order = np.lexsort((places, -exact))[:, :k]
            found = np.take_along_axis(exact, order, 1)
            width = found.shape[1]
            out[1][open_, :width] = found
            out[0][open_, :width] = np.take_along_axis(places, order, 1)
            if wanted >= len(self):
                break
            # What was not looked at is below the last candidate's rounded product, and a slack.
            last = found[:, -1] if width == k else np.full(len(open_), -np.inf)
            unsure = (rough[:, -1] + slack[open_] >= last) & ~missing[:, -1]
            open_, wanted = open_[unsure], 4 * wanted
        return out


def products(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products ``[n, m]`` of a few queries with a few vectors, all of them finite."""
    with np.errstate(invalid="ignore"):  # OpenBLAS may raise the flag in lanes that it discards
        found: NDArray[np.float32] = queries @ vectors.T
    return found


def packed(allowed: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """A bit an item, sixteen a panel, as the core takes them."""
    n = -(-len(allowed) // LANES) * 2
    found = np.zeros(n, np.uint8)
    found[: -(-len(allowed) // 8)] = np.packbits(allowed, bitorder="little")
    return found.view("<u2").astype(np.uint16)
