"""FullRanking: by definition, with ties, block by block."""

from __future__ import annotations

import numpy as np
import pytest

from crossfm.errors import DataError
from crossfm.metrics import FullRanking, ndcg_at_k, recall_at_k


def made(seed, tied=False):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (6, 9)).astype(float) if tied else rng.normal(size=(6, 9))
    right = rng.random((6, 9)) < 0.3
    right[0], right[1, 4] = False, True
    return scores, right


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("tied", [False, True])
def test_what_the_metrics_of_all_pairs_say(k, tied):
    scores, right = made(3, tied)
    lists = FullRanking(k)
    for part in (slice(0, 2), slice(2, 6)):
        lists.add(scores[part], *np.nonzero(right[part]))
    assert lists.n_queries == 6
    groups = np.repeat(np.arange(6), 9)
    has = right.any(axis=1)[groups]
    given = right.ravel()[has].astype(float), scores.ravel()[has]
    found = lists.metrics()
    assert found[f"ndcg@{k}"] == pytest.approx(ndcg_at_k(*given, groups=groups[has], k=k))
    assert found[f"recall@{k}"] == pytest.approx(recall_at_k(*given, groups=groups[has], k=k))


def test_reciprocal_rank_and_what_is_missed():
    scores = np.array([[3.0, 2.0, 2.0, -np.inf], [1.0, 4.0, 5.0, 0.0]])
    lists = FullRanking(2)
    # A tie stands last; what no list may hold, and what is no candidate, is missed.
    lists.add(scores, np.array([0, 0, 1, 1]), np.array([1, 3, 1, -1]))
    found = lists.metrics()
    assert found["mrr"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert found["recall@2"] == pytest.approx((0.5 / 2 + 1 / 2) / 2)
    second = 1 / np.log2(3)
    assert found["ndcg@2"] == pytest.approx((0.5 * second + second) / (1 + second) / 2)


@pytest.mark.parametrize("k", [0, -1, True, 2.5, "10"])
def test_lengths_refused(k):
    with pytest.raises(DataError, match="k is"):
        FullRanking(k)


def test_nothing_to_rank_for():
    lists = FullRanking(3)
    with pytest.raises(DataError, match="no query has a right item"):
        lists.metrics()
    lists.add(np.ones((2, 3)), np.empty(0, np.int64), np.empty(0, np.int64))
    with pytest.raises(DataError, match="no query has a right item"):
        lists.metrics()
