"""Full ranking: every item is a candidate of every query, and none is sampled away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfm.errors import DataError

__all__ = ["FullRanking"]


@dataclass(frozen=True, eq=False)
class _Places:
    """Right items: of which query, how many items stand ahead, how many share the place."""

    query: NDArray[np.int64]
    before: NDArray[np.int64]
    tied: NDArray[np.int64]


class FullRanking:
    r"""NDCG, recall and reciprocal rank of lists over all items, gathered block by block.

    What `ndcg_at_k` and `recall_at_k` say of all pairs of a query and an item, without ever holding
    them together. Items of equal score share their places, as there. The reciprocal rank is that of
    the best-placed right item, in the order that puts ties last.

    Args:
        k: length of the lists.

    Raises:
        DataError: a k that is none.

    Example:
        >>> lists = FullRanking(k=2)
        >>> lists.add(np.array([[3.0, 2.0, 1.0]]), np.array([0, 0]), np.array([1, 2]))
        >>> {name: round(value, 3) for name, value in lists.metrics().items()}
        {'ndcg@2': 0.387, 'recall@2': 0.5, 'mrr': 0.5}

    Source: Krichene and Rendle 2020, On Sampled Metrics for Item Recommendation.
    """

    def __init__(self, k: int = 10) -> None:
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise DataError(f"k is {k!r}, expected a whole number of at least 1")
        self.k = int(k)
        self.n_queries = 0
        self._parts: list[_Places] = []

    def add(
        self, scores: NDArray[np.floating], row: NDArray[np.integer], item: NDArray[np.integer]
    ) -> None:
        """Lists of more queries.

        Args:
            scores: ``[queries, items]``; -inf for an item that no list may hold.
            row: of `scores`, one for each right item.
            item: column of each right item; -1 for one that is no candidate, and thus is missed.
        """
        known = np.maximum(item, 0)
        own = scores[row, known].astype(scores.dtype)
        own[item < 0] = -np.inf
        before = np.empty(len(row), np.int64)
        tied = np.empty(len(row), np.int64)
        order = np.argsort(row, kind="stable")
        for low in range(0, len(order), 256):
            part = order[low : low + 256]
            candidates = scores[row[part]]
            before[part] = (candidates > own[part, None]).sum(axis=1)
            tied[part] = (candidates == own[part, None]).sum(axis=1)
        lost = own == -np.inf
        before[lost], tied[lost] = np.iinfo(np.int32).max, 1
        self._parts.append(_Places(row + np.int64(self.n_queries), before, tied))
        self.n_queries += len(scores)

    def metrics(self) -> dict[str, float]:
        """Means over the queries that have a right item.

        Raises:
            DataError: no query has one.
        """
        parts = self._parts
        query = np.concatenate([part.query for part in parts]) if parts else np.empty(0, np.int64)
        if not len(query):
            raise DataError("no query has a right item, so that there is nothing to rank for")
        before = np.concatenate([part.before for part in parts])
        tied = np.concatenate([part.tied for part in parts])
        n_right = np.bincount(query, minlength=self.n_queries)
        has = n_right > 0
        discount = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(self.k) + 2))]  # [k + 1]
        first, last = np.minimum(before, self.k), np.minimum(before + tied, self.k)
        gain = np.bincount(query, (discount[last] - discount[first]) / tied, self.n_queries)
        hits = np.bincount(query, (last - first) / tied, self.n_queries)
        best = discount[np.minimum(n_right, self.k)]
        reciprocal = np.zeros(self.n_queries)
        np.maximum.at(reciprocal, query, 1.0 / (before + tied))
        return {
            f"ndcg@{self.k}": float((gain[has] / best[has]).mean()),
            f"recall@{self.k}": float((hits[has] / n_right[has]).mean()),
            "mrr": float(reciprocal[has].mean()),
        }
