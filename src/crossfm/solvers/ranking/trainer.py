"""Pairs of queries and items in training: parameters, passes, vectors, lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final, get_args

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.by_field import group_fields
from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.metrics.full_ranking import FullRanking
from crossfm.solvers.options import AdaGrad
from crossfm.solvers.parameters import Parameters
from crossfm.solvers.ranking.options import RankingOptions, RankLoss

__all__ = ["HeldOut", "Lists", "Pairs", "RankTrainer"]

LOSSES = {name: number for number, name in enumerate(get_args(RankLoss))}
SCORES_AT_ONCE = 1 << 22  # 16 MB of float32

Numbers = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which items are right for which queries.

    Attributes:
        queries: features of each query.
        items: features of each item.
        query_of: int32 ``[n_pairs]``, row of `queries`.
        item_of: int32 ``[n_pairs]``, row of `items`.
        user_of: int32 ``[n_pairs]``, whose seen items are never set against the pair; None:
            each query is a user of its own.
        n_users: numbers in `user_of` are below it.
        weights: float32 ``[n_pairs]`` or None.

    The items of a user's pairs are those that he has seen.
    """

    queries: Rows
    items: Rows
    query_of: Numbers
    item_of: Numbers
    user_of: Numbers | None = None
    n_users: int | None = None
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.query_of)

    @property
    def users(self) -> Numbers:
        """The user of each pair."""
        return self.query_of if self.user_of is None else self.user_of

    @cached_property
    def seen(self) -> Lists:
        """The items that each user has seen."""
        n_users = len(self.queries) if self.n_users is None else self.n_users
        return Lists.of(self.users, self.item_of, n_users, len(self.items))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Pairs of each item."""
        return np.bincount(self.item_of, minlength=len(self.items))


@dataclass(frozen=True, eq=False)
class Lists:
    """Items by user, each once and rising: ``items[offsets[u]:offsets[u + 1]]``."""

    offsets: NDArray[np.int64]
    items: Numbers

    @staticmethod
    def of(users: NDArray[Any], items: NDArray[Any], n_users: int, n_items: int) -> Lists:
        """The lists of pairs.

        >>> Lists.of(np.array([1, 0, 1, 1]), np.array([2, 0, 1, 2]), 3, 4)[1].tolist()
        [1, 2]
        """
        key = np.unique(users.astype(np.int64) * max(n_items, 1) + items)
        user, item = np.divmod(key, max(n_items, 1))
        offsets = np.zeros(n_users + 1, np.int64)
        np.cumsum(np.bincount(user, minlength=n_users), out=offsets[1:])
        return Lists(offsets, item.astype(np.int32))

    def __getitem__(self, user: int) -> Numbers:
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def hide(self, scores: NDArray[np.float32], users: NDArray[np.integer]) -> None:
        """Put -inf for what the user of each row has seen; users below 0 have seen nothing."""
        for row, user in enumerate(users):
            if user >= 0:
                scores[row, self[user]] = -np.inf


@final
class RankTrainer(Parameters):
    """A machine of queries and items in training by AdaGrad on differences of scores.

    Args:
        options: factors, interactions, learning rate, penalties, seed, threads.
        ranking: the loss and what items are drawn.
        pairs: to train on.
        n_features: ids are below it.
        field_of: int32 ``[n_features]``.

    What a query has alone, its features' weights and their interactions among themselves, is the
    same for all its items, and has no gradient: these weights stay 0. Features that no query and
    no item that can be drawn has keep zero vectors.

    Example:
        >>> queries, items = Rows(np.array([[0], [1]])), Rows(np.array([[2], [3]]))
        >>> right = Pairs(queries, items, np.array([0, 1], np.int32), np.array([0, 1], np.int32))
        >>> options = AdaGrad(n_factors=4, learning_rate=0.3, init_scale=0.1)
        >>> trainer = RankTrainer(options, RankingOptions(), right, 4, None)
        >>> losses = [trainer.train(epoch) for epoch in range(50)]
        >>> losses[-1] < 0.2 < losses[0]
        True
    """

    def __init__(
        self,
        options: AdaGrad,
        ranking: RankingOptions,
        pairs: Pairs,
        n_features: int,
        field_of: NDArray[np.int32] | None,
    ) -> None:
        super().__init__(options, n_features, field_of)
        if not len(pairs):
            raise DataError("there are no pairs of a query and an item to learn from")
        if options.interactions == "across_fields" and field_of is None:
            raise DataError("interactions across fields need the field of each feature")
        self.ranking, self.pairs = ranking, pairs
        self.n_epochs = 0
        self._queries, self._items = self.side(pairs.queries), self.side(pairs.items)
        share = self._share()
        seen = pairs.seen
        self._pairs = _native.RankingPairs(
            queries=self._queries, items=self._items,
            query_of=_int32(pairs.query_of), item_of=_int32(pairs.item_of),
            user_of=_int32(pairs.users), weights=pairs.weights,
            seen_offsets=seen.offsets, seen=seen.items, share=share,
        )  # fmt: skip
        possible = np.ones(len(pairs.items), bool) if share is None else pairs.counts > 0
        ids = [pairs.queries.take(np.unique(pairs.query_of)).ids]
        ids.append(pairs.items.take(np.flatnonzero(possible)).ids)
        self._start(np.unique(np.concatenate(ids)).astype(np.int64))

    def _share(self) -> NDArray[np.float64] | None:
        """Chance of each item to be drawn; None: all alike."""
        o, counts = self.ranking, self.pairs.counts.astype(np.float64)
        if o.negatives == "uniform":
            return None
        power = 1.0 if o.negatives == "in_batch" else o.popularity_power
        weights = np.where(counts > 0, counts**power, 0.0)
        return np.asarray(weights / weights.sum())

    def side(self, rows: Rows) -> Any:
        """Rows of queries or of items, as the core takes them."""
        rows.validate(self.n_features)
        across = self.options.interactions == "across_fields"
        if across:
            rows = group_fields(rows, self.field_of)
        return _native.RankingSide(
            ids=rows.ids.astype(np.int64), values=rows.values, offsets=rows.row_offsets(),
            field_of=self.field_of if across else None, n_features=self.n_features,
        )  # fmt: skip

    def train(self, epoch: int, order: NDArray[np.int64] | None = None) -> float:
        """Train on the pairs of `order` (None: all); the weighted sum of losses before the steps.

        What is drawn for a pair is a function of the seed, the epoch and the pair.
        """
        o, r = self.options, self.ranking
        assert isinstance(o.l2_linear, int | float)
        assert isinstance(o.l2_factors, int | float)
        loss: float = self._pairs.train(
            order=order, factors=self._factors, linear=self._linear, k=self.padded,
            loss=LOSSES[r.loss], in_batch=r.batch_size if r.negatives == "in_batch" else 0,
            n_negatives=r.n_negatives, max_trials=r.max_trials, learning_rate=o.learning_rate,
            l2_linear=o.l2_linear, l2_factors=o.l2_factors, seed=o.seed, epoch=epoch,
            threads=self.threads,
        )  # fmt: skip
        return loss

    def negatives(self, pair: int, epoch: int, count: int) -> NDArray[np.int64]:
        """The first items that are drawn for a pair in an epoch; -1 where there are none."""
        out = np.empty(count, np.int64)
        self._pairs.negatives(pair=pair, seed=self.options.seed, epoch=epoch, out=out)
        return out

    def vectors(self, side: Any, n_rows: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """``S`` ``[n, padded]`` and ``b`` ``[n]`` of the rows of a side."""
        S, b = np.empty((n_rows, self.padded), np.float32), np.empty(n_rows, np.float32)
        wide, narrow = self._widths()
        side.vectors(
            factors=self._factors, stride=wide, linear=self._linear, linear_stride=narrow,
            S=S, b=b, threads=self.threads,
        )  # fmt: skip
        return S, b

    def scores(self, queries: Rows) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Scores of all items less each query's own constant, block by block of queries."""
        V, b = self.vectors(self._items, len(self.pairs.items))
        Q, _ = self.vectors(self.side(queries), len(queries))
        size = max(1, SCORES_AT_ONCE // len(V))
        for low in range(0, len(Q), size):
            part = slice(low, min(low + size, len(Q)))
            yield part, Q[part] @ V.T + b


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Pairs to judge lists by.

    Attributes:
        queries: features of each query, a row a list.
        users: whose seen items each list leaves out; -1: of none.
        query_of: row of `queries` of each right item.
        item_of: the right items; -1: one that is no candidate.
        k: length of the lists.
    """

    queries: Rows
    users: NDArray[np.integer]
    query_of: NDArray[np.integer]
    item_of: NDArray[np.integer]
    k: int

    def judge(
        self, blocks: Iterator[tuple[slice, NDArray[np.float32]]], seen: Lists | None
    ) -> dict[str, float]:
        """Metrics of lists over all items by their scores."""
        lists = FullRanking(self.k)
        order = np.argsort(self.query_of, kind="stable")
        query, item = self.query_of[order], self.item_of[order]
        for part, scores in blocks:
            if seen is not None:
                seen.hide(scores, self.users[part])
            low, high = np.searchsorted(query, [part.start, part.stop])
            lists.add(scores, query[low:high] - part.start, item[low:high])
        return lists.metrics()


def _int32(numbers: NDArray[Any]) -> Numbers:
    return np.ascontiguousarray(numbers, np.int32)
