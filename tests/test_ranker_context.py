"""FMRanker with a context: what comes with each pair is part of the query, everywhere."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import crossfm as cf
from crossfm import FMRanker
from crossfm.data import recent_items
from crossfm.errors import DataError, SchemaError
from crossfm.retrieval import Retriever
from crossfm.runtime import Runtime

N_USERS, N_ITEMS = 20, 90
FILMS = {"item": np.arange(N_ITEMS), "kind": [f"k{i % 3}" for i in range(N_ITEMS)]}
SCHEMA = cf.Schema(
    [cf.Categorical("user"), cf.Categorical("hour"), cf.Bag("lately"), cf.Categorical("item"),
     cf.Categorical("kind")]
)  # fmt: skip


def log(seed=0, n=900):
    """What is taken depends on the hour alone, and on what was taken before."""
    rng = np.random.default_rng(seed)
    hour = rng.integers(0, 3, n)
    item = 3 * rng.integers(0, N_ITEMS // 3, n) + hour
    made = {"user": rng.integers(0, N_USERS, n), "item": item, "hour": hour, "time": np.arange(n)}
    return {**made, "lately": recent_items(made, 2).to_pylist()}


def fitted(**options):
    ranker = FMRanker(8, n_epochs=8, learning_rate=0.2, random_state=0, **options)
    return ranker.fit(log(), items=FILMS, context=["hour", "lately"])


@pytest.fixture(scope="module")
def made():
    return fitted(schema=SCHEMA)


def scores(ranker, row):
    """Of all items in one user's context."""
    n = len(ranker.items_)
    pairs = {name: [value] * n for name, value in row.items()}
    return ranker.predict({**pairs, "item": ranker.items_})


ROWS = [
    {"user": 3, "hour": 0, "lately": [4, 7]}, {"user": 3, "hour": 2, "lately": []},
    {"user": 99, "hour": 1, "lately": [5]}, {"user": 5, "hour": None, "lately": None},
]  # fmt: skip
ASKED = {name: [row[name] for row in ROWS] for name in ROWS[0]}


def test_fields(made):
    assert made.user_fields_ == ["user"]
    assert made.context_fields_ == ["hour", "lately"]
    assert made.item_fields_ == ["item", "kind"]
    assert set(made.schema_.field_names) == {"user", "hour", "lately", "item", "kind"}
    assert FMRanker(2, n_epochs=1).fit(log(), items=FILMS).context_fields_ == []


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
def test_lists_are_brute_force(interactions):
    ranker = fitted(schema=SCHEMA, interactions=interactions)
    found = ranker.recommend(ASKED, k=7, exclude_seen=False)
    for row, ids, best in zip(ROWS, found.ids, found.scores, strict=True):
        wanted = scores(ranker, row)
        order = np.argsort(-wanted, kind="stable")[:7]
        np.testing.assert_array_equal(ids, ranker.items_[order])
        np.testing.assert_allclose(best, wanted[order], rtol=1e-5, atol=1e-6)


def test_the_context_moves_the_list(made):
    for hour in (0, 1, 2):
        best = made.recommend({"user": [4], "hour": [hour], "lately": [[]]}, 5, exclude_seen=False)
        assert [int(i) % 3 for i in best.ids[0]] == [hour] * 5


def test_seen_items_are_the_users(made):
    table = log()
    mine = set(np.asarray(table["item"])[np.asarray(table["user"]) == 3].tolist())
    best = made.recommend(ASKED, k=N_ITEMS)
    assert set(best.ids[0].tolist()) - {None} == set(range(N_ITEMS)) - mine
    assert set(best.ids[2].tolist()) == set(range(N_ITEMS))  # a user without a history


def test_evaluate_by_definition(made):
    later = {"user": [3, 3, 3, 8, 3], "item": [1, 4, 2, 9, 1], "hour": [1, 1, 2, 0, 1],
             "lately": [[1], [1], [1], [], [1]]}  # fmt: skip
    found = made.evaluate(later, k=5, exclude_seen=False)
    recall, reciprocal = [], []
    for right, row in (({1, 4}, 0), ({2}, 2), ({9}, 3)):  # a list for each user and context
        line = scores(made, {name: later[name][row] for name in ("user", "hour", "lately")})
        order = made.items_[np.argsort(-line, kind="stable")].tolist()
        recall.append(sum(item in order[:5] for item in right) / len(right))
        reciprocal.append(1 / (1 + min(order.index(item) for item in right)))
    assert found["recall@5"] == pytest.approx(np.mean(recall))
    assert found["mrr"] == pytest.approx(np.mean(reciprocal))


def test_the_history_is_that_of_evaluate():
    ranker = FMRanker(4, n_epochs=3, schema=SCHEMA, random_state=0, patience=3)
    ranker.fit(log(), items=FILMS, context=["hour", "lately"], eval_set=log(1, 200))
    best = ranker.history_[ranker.best_epoch_ - 1]
    for name, value in ranker.evaluate(log(1, 200)).items():
        assert best[name] == pytest.approx(value, rel=1e-5)


def test_held_out_without_an_eval_set():
    ranker = FMRanker(4, n_epochs=4, early_stopping=True, random_state=0)
    ranker.fit(log(), items=FILMS, context="hour")
    assert "ndcg@10" in ranker.history_[0]
    assert ranker.context_fields_ == ["hour"]


def test_weights_go_with_their_pairs():
    """What pairs of weight 0 say of their context changes nothing."""
    schema = cf.Schema([cf.Categorical(name) for name in ("user", "hour", "item")])
    weight = (np.arange(900) % 3 > 0).astype(float)
    told, models = log(), []
    for hours in (told["hour"], np.where(weight > 0, told["hour"], 2 - told["hour"])):
        ranker = FMRanker(4, n_epochs=2, schema=schema, random_state=0)
        ranker.fit({**told, "hour": hours}, context="hour", sample_weight=weight)
        models.append(ranker.model_)
    np.testing.assert_array_equal(models[0].factors, models[1].factors)
    other = FMRanker(4, n_epochs=2, schema=schema, random_state=0).fit(told, context="hour")
    assert not np.array_equal(other.model_.factors, models[0].factors)


def test_schema_is_guessed():
    ranker = fitted()
    assert ranker.context_fields_ == ["hour", "lately"]
    assert isinstance(ranker.schema_.fields[-1], cf.Bag)


def test_forms_of_tables_agree(made, tmp_path):
    frame = pd.DataFrame(log())
    path = tmp_path / "log.parquet"
    frame.to_parquet(path)
    for form in (frame, path):
        other = FMRanker(8, n_epochs=8, learning_rate=0.2, random_state=0, schema=SCHEMA)
        other.fit(form, items=FILMS, context=["hour", "lately"])
        np.testing.assert_array_equal(other.model_.factors, made.model_.factors)


def test_save_load_and_the_small_runtime(made, tmp_path):
    path = tmp_path / "ranker.crossfm"
    made.save(path)
    again = cf.load(path)
    assert again.context_fields_ == ["hour", "lately"]
    np.testing.assert_array_equal(again.recommend(ASKED, 5).ids, made.recommend(ASKED, 5).ids)
    records = [{**row, "item": 4, "kind": "k1"} for row in ROWS]
    pairs = {**ASKED, "item": [4] * len(ROWS)}
    np.testing.assert_allclose(
        Runtime.load(path).scores(records), made.predict(pairs), rtol=1e-5, atol=1e-6
    )


def test_a_retriever_finds_the_same(made):
    shelf = Retriever(
        made.model_, FILMS, query_fields=made.user_fields_ + made.context_fields_,
        item_fields=made.item_fields_, id="item",
    )  # fmt: skip
    theirs, ours = shelf.recommend(ASKED, 5), made.recommend(ASKED, 5, exclude_seen=False)
    np.testing.assert_array_equal(theirs.ids, ours.ids)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"context": "hours"}, "no column 'hours'. Did you mean 'hour'"),
        ({"context": ["user"]}, r"\['user'\] are in users and in the context"),
        ({"context": ["kind"]}, "no column 'kind'"),
        ({"context": ["same"]}, "left out by the guess|no column"),
    ],
)
def test_contexts_refused(given, message):
    table = {**log(), "same": [1] * 900}
    with pytest.raises(SchemaError, match=message):
        FMRanker(2, n_epochs=1).fit(table, items=FILMS, **given)


def test_schemas_refused():
    lacks = cf.Schema([cf.Categorical("user"), cf.Categorical("item")])
    with pytest.raises(SchemaError, match=r"no field of the columns \['hour'\] of the context"):
        FMRanker(2, n_epochs=1, schema=lacks).fit(log(), context="hour")
    with pytest.raises(SchemaError, match="context does not name"):
        FMRanker(2, n_epochs=1, schema=SCHEMA).fit(log(), items=FILMS, context="hour")


def test_questions_without_a_context(made):
    message = r"has no column 'hour': the fit had the context \['hour', 'lately'\]"
    with pytest.raises(SchemaError, match=f"users {message}"):
        made.recommend([3, 4])
    with pytest.raises(SchemaError, match=f"pairs {message}"):
        made.predict({"user": [1], "item": [2]})
    with pytest.raises(SchemaError, match=f"interactions {message}"):
        made.evaluate({"user": [1], "item": [2], "lately": [[]]})
    with pytest.raises(DataError, match="no pair"):
        made.evaluate({"user": [], "item": [], "hour": [], "lately": []})
