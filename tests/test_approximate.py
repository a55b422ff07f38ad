"""Approximate search: as much is found as was promised, and nothing that is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossfm as cf
from crossfm.errors import DataError
from crossfm.model import FactorModel
from crossfm.retrieval import ItemIndex, Retriever
from crossfm.retrieval.clusters import Clusters

N, D = 20_000, 9


def like_a_model(n: int, rng: np.random.Generator) -> Any:
    """Vectors in groups, and a few that are long."""
    centres = rng.normal(size=(40, D - 1))
    found = np.empty((n, D), np.float32)
    found[:, 1:] = centres[rng.integers(0, 40, n)] + 0.5 * rng.normal(size=(n, D - 1))
    found[:, 0] = rng.gumbel(size=n)
    return found


@pytest.fixture(scope="module")
def made() -> tuple[Any, Clusters, ItemIndex]:
    vectors = like_a_model(N, np.random.default_rng(0))
    exact = ItemIndex(D)
    exact.put(np.arange(N), vectors)
    return vectors, Clusters(vectors), exact


def queries(n: int, seed: int) -> Any:
    found = like_a_model(n, np.random.default_rng(seed))
    found[:, 0] = 1
    return found


def shares(found: Any, best: Any) -> float:
    """Of the best that were found."""
    pairs = zip(found.tolist(), best.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


@pytest.mark.parametrize("recall", [0.5, 0.9, 0.99, 1.0])
def test_the_share_that_was_measured_is_found(made: Any, recall: float) -> None:
    vectors, clusters, exact = made
    own = queries(200, 1)
    best, _ = exact.top(own, 50)
    measured = clusters.tune(own, best, recall)
    rows, scores = clusters.top(own, 50)
    assert shares(rows, best) == pytest.approx(measured, abs=1e-12)
    assert measured >= recall
    there = rows >= 0  # low shares may find fewer than were asked for
    products = np.einsum("nd,nkd->nk", own, vectors[rows])
    np.testing.assert_allclose(scores[there], products[there], rtol=1e-4, atol=1e-4)
    assert np.isneginf(scores[~there]).all()
    others = queries(200, 2)
    found = shares(clusters.top(others, 50)[0], exact.top(others, 50)[0])
    assert found > recall - 0.05
    if recall <= 0.9:
        assert clusters.probes < clusters.n_clusters / 4


def test_threads_and_numbers_of_queries_change_nothing(made: Any) -> None:
    _, clusters, exact = made
    own = queries(64, 3)
    clusters.tune(own, exact.top(own, 20)[0], 0.9)
    rows, scores = clusters.top(own, 20)
    again, same = clusters.top(own, 20, n_jobs=2)
    np.testing.assert_array_equal(rows, again)
    np.testing.assert_array_equal(scores, same)
    alone = np.concatenate([clusters.top(own[i : i + 1], 20)[0] for i in range(64)])
    np.testing.assert_array_equal(rows, alone)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 200])
def test_few_vectors(n: int) -> None:
    vectors = like_a_model(n, np.random.default_rng(n))
    clusters, exact = Clusters(vectors), ItemIndex(D)
    exact.put(np.arange(n), vectors)
    own = queries(5, 4)
    best, _ = exact.top(own, min(n, 10))
    clusters.tune(own, best, 1.0)
    np.testing.assert_array_equal(clusters.top(own, min(n, 10))[0], best)
    rows, scores = clusters.top(own, n + 3)
    assert ((rows == -1) == np.isneginf(scores)).all()
    same = Clusters(np.ones((n, D), np.float32))  # all alike: one cluster, or a few
    assert sorted(same.top(own[:1], n)[0][0].tolist()) == list(range(n))


def shop(n: int = 3_000, **more: Any) -> tuple[Retriever, Any]:
    rng = np.random.default_rng(5)
    items = {"item": np.arange(n), "kind": rng.integers(0, 9, n)}
    fields = [cf.Categorical("user"), cf.Categorical("item"), cf.Categorical("kind")]
    schema = cf.Schema(fields).fit({"user": np.arange(n) % 50, **items})
    size = schema.n_features_
    model = FactorModel(
        0.5, rng.normal(size=size), rng.normal(size=(size, 6)), field_of=schema.field_of_,
        schema=schema,
    )  # fmt: skip
    found = Retriever(model, items, query_fields="user", item_fields=["item", "kind"], **more)
    return found, items


USERS = {"user": list(range(50))}


def test_a_retriever_on_request(tmp_path: Path) -> None:
    films, items = shop()
    exact = films.recommend(USERS, 20)
    assert films.approximate(0.9, k=20, queries=USERS) is films
    assert films.recall >= 0.9
    assert f"recall@20 {films.recall:.3f}" in repr(films)
    found = films.recommend(USERS, 20)
    assert shares(found.ids, exact.ids) == pytest.approx(films.recall)
    np.testing.assert_array_equal(films.recommend(USERS, 20, exact=True).ids, exact.ids)
    only = films.recommend(USERS, 5, only=list(range(100)))
    assert (only.ids < 100).all()
    flags = np.arange(len(items["item"])) % 2 == 0
    kept = films.recommend(USERS, 5, filter=flags)
    assert (kept.ids % 2 == 0).all()
    for left_out in (exact.ids[0, :5].tolist(), exact.ids[:, :5].tolist()):
        rest = films.recommend(USERS, 20, exclude=left_out)
        lists = left_out if isinstance(left_out[0], list) else [left_out] * 50
        for row, out in zip(rest.ids.tolist(), lists, strict=True):
            assert not set(row) & set(out)
            assert len(set(row)) == 20
    films.save(tmp_path / "items")
    again = Retriever.load(tmp_path / "items", films.sides.model)
    assert again.recall == films.recall
    np.testing.assert_array_equal(again.recommend(USERS, 20).ids, found.ids)


def test_items_that_come_and_go_are_found_at_once(tmp_path: Path) -> None:
    films, items = shop()
    films.approximate(0.8, k=10, queries=USERS)
    best = films.recommend({"user": [3]}, 3).ids[0].tolist()
    films.remove(best[0])
    assert best[0] not in films.recommend({"user": [3]}, 50).ids
    kinds = dict(zip(items["item"].tolist(), items["kind"].tolist(), strict=True))
    films.put({"item": [best[0]], "kind": [kinds[best[0]]]})
    assert films.recommend({"user": [3]}, 1).ids[0, 0] == best[0]
    changed = {"item": [best[1]], "kind": [(kinds[best[1]] + 1) % 9]}
    films.put(changed)
    found = films.recommend({"user": [3]}, 2_999)
    at = found.ids[0].tolist().index(best[1])
    expected = films.sides.model.score(
        films.sides.model.schema.transform({"user": [3], **changed})  # type: ignore[union-attr]
    )
    assert found.scores[0, at] == pytest.approx(float(expected[0]), rel=1e-5)
    films.save(tmp_path / "items")
    again = Retriever.load(tmp_path / "items", films.sides.model)
    assert best[0] in again.recommend({"user": [3]}, 20).ids


def test_queries_are_drawn_where_none_are_given() -> None:
    films, _ = shop(storage="bfloat16")
    films.approximate(0.9, k=10)
    exact = films.recommend(USERS, 10, exact=True)
    assert shares(films.recommend(USERS, 10).ids, exact.ids) > 0.8
    everything = films.recommend({"user": [1]}, 5_000).ids[0]
    assert len({one for one in everything.tolist() if one is not None}) == 3_000


@pytest.mark.parametrize(("wrong", "words"), [
    ({"recall": 0.0}, "recall"), ({"recall": 1.1}, "recall"), ({"k": 0}, "k is 0"),
])  # fmt: skip
def test_what_cannot_be_promised_is_refused(wrong: Any, words: str) -> None:
    films, items = shop(40)
    with pytest.raises(DataError, match=words):
        films.approximate(**wrong)
    films.remove(items["item"].tolist())
    with pytest.raises(DataError, match="no items"):
        films.approximate()
