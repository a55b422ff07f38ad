"""FMRanker: lists by brute force, evaluation by definition, files, users and items of all kinds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import crossfm as cf
from crossfm import FMRanker
from crossfm.errors import CrossfmError, DataError, ModelFileError, SchemaError
from crossfm.retrieval import Retriever

N_USERS, N_ITEMS = 30, 24


def log(seed=0, n=600):
    """Users take items of their own kind, of three."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, N_USERS, n), rng.integers(0, N_ITEMS, n)
    own = user % 3 == item % 3
    return {"user": user[own], "item": item[own]}


FILMS = {"item": np.arange(N_ITEMS + 6), "kind": [f"k{i % 3}" for i in range(N_ITEMS + 6)]}
PEOPLE = {"user": np.arange(N_USERS), "likes": [f"k{u % 3}" for u in range(N_USERS)]}
SCHEMA = cf.Schema([cf.Categorical(name) for name in ("user", "likes", "item", "kind")])


@pytest.fixture(scope="module")
def made():
    """A ranker with features of both sides; the last six films nobody took."""
    ranker = FMRanker(8, n_epochs=20, learning_rate=0.2, schema=SCHEMA, random_state=0)
    return ranker.fit(log(), users=PEOPLE, items=FILMS)


def table(ranker, users):
    """Scores of all items for users, pair by pair."""
    pairs = {
        "user": np.repeat(users, len(ranker.items_)),
        "item": np.tile(ranker.items_, len(users)),
    }
    return ranker.predict(pairs).reshape(len(users), -1)


def seen_of(pairs, user):
    return set(np.asarray(pairs["item"])[np.asarray(pairs["user"]) == user].tolist())


# --- lists --------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_recommend_is_brute_force(made, exclude_seen):
    users = np.array([3, 0, 29, 3])
    found = made.recommend(users, k=9, exclude_seen=exclude_seen)
    for row, user in enumerate(users):
        scores = table(made, [user])[0]
        left = [
            (-score, place)
            for place, score in enumerate(scores)
            if not (exclude_seen and made.items_[place] in seen_of(log(), user))
        ]
        wanted = [place for _, place in sorted(left)[:9]]
        np.testing.assert_allclose(found.scores[row], scores[wanted], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found.ids[row], made.items_[wanted])
    assert len(found) == 4


def test_only_and_short_lists(made):
    left = [int(i) for i in range(N_ITEMS) if i not in seen_of(log(), 4)][:2]
    taken = sorted(seen_of(log(), 4))[:1]
    found = made.recommend([4], k=3, only=left + taken)
    assert set(found.ids[0, :2]) == set(left)
    assert found.ids[0, 2] is None
    assert found.scores[0, 2] == -np.inf
    assert made.recommend([4], k=3, only=[]).ids.tolist() == [[None] * 3]
    more = made.recommend([4], k=100, exclude_seen=False)
    assert more.ids.shape == (1, 100)
    assert set(more.ids[0, :30]) == set(range(30))
    assert more.ids[0, 30] is None


def test_ties_stand_in_the_order_of_items():
    ranker = FMRanker(2, n_epochs=1, learning_rate=1e-9, init_scale=0.0, random_state=0)
    ranker.fit(log())
    found = ranker.recommend([0], k=4, exclude_seen=False)
    np.testing.assert_allclose(found.scores, 0, atol=1e-6)
    order = np.argsort(-table(ranker, [0])[0], kind="stable")[:4]
    np.testing.assert_array_equal(found.ids[0], ranker.items_[order])


def test_a_retriever_finds_the_same(made):
    keys = {"item": FILMS["item"], "kind": FILMS["kind"]}
    shelf = Retriever(
        made.model_, keys, query_fields=made.user_fields_, item_fields=made.item_fields_, id="item"
    )
    users = {"user": [5, 8], "likes": ["k2", "k2"]}
    theirs = shelf.recommend(users, 5)
    ours = made.recommend([5, 8], 5, exclude_seen=False)
    np.testing.assert_array_equal(theirs.ids, ours.ids)
    np.testing.assert_allclose(theirs.scores, ours.scores, rtol=1e-5, atol=1e-6)


def test_it_ranks_what_is_liked(made):
    for user in range(6):
        best = made.recommend([user], k=3, exclude_seen=False).ids[0]
        assert [int(i) % 3 for i in best] == [user % 3] * 3


def test_items_that_nobody_took_stand_by_their_features(made):
    scores = table(made, [0])[0]
    place = {int(key): at for at, key in enumerate(made.items_)}
    cold = {i % 3: scores[place[i]] for i in range(N_ITEMS, N_ITEMS + 3)}
    assert cold[0] > max(cold[1], cold[2])


# --- evaluation ---------------------------------------------------------------------------------


def judged(ranker, pairs, k, exclude_seen):
    """NDCG, recall and reciprocal rank by definition; scores without ties."""
    ndcg, recall, reciprocal = [], [], []
    for user in dict.fromkeys(np.asarray(pairs["user"]).tolist()):
        seen = seen_of(log(), user) if exclude_seen else set()
        right = seen_of(pairs, user) - seen
        if not right:
            continue
        scores = table(ranker, [user])[0]
        order = [int(ranker.items_[at]) for at in np.argsort(-scores)]
        order = [item for item in order if item not in seen]
        hits = [order.index(item) for item in right if item in order]
        gain = sum(1 / np.log2(rank + 2) for rank in hits if rank < k)
        best = sum(1 / np.log2(rank + 2) for rank in range(min(k, len(right))))
        ndcg.append(gain / best)
        recall.append(sum(rank < k for rank in hits) / len(right))
        reciprocal.append(1 / (min(hits) + 1) if hits else 0.0)
    return {
        f"ndcg@{k}": np.mean(ndcg), f"recall@{k}": np.mean(recall), "mrr": np.mean(reciprocal)
    }  # fmt: skip


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_evaluate_is_the_definition(made, exclude_seen):
    test = log(seed=1, n=200)
    # An item that is not known is missed.
    test = {name: np.r_[part, {"user": 2, "item": 999}[name]] for name, part in test.items()}
    found = made.evaluate(test, k=4, exclude_seen=exclude_seen)
    wanted = judged(made, test, 4, exclude_seen)
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    assert 0.1 < found["ndcg@4"] < 1


def test_what_was_seen_is_not_judged(made):
    test, known = log(seed=1, n=200), log()
    both = {name: np.r_[test[name], known[name][:50]] for name in test}
    judged_alone = {
        user for user, item in zip(test["user"], test["item"], strict=True)
        if item not in seen_of(known, user)
    }  # fmt: skip
    only = {name: part[np.isin(both["user"], list(judged_alone))] for name, part in both.items()}
    assert made.evaluate(only) == made.evaluate(test)
    with pytest.raises(DataError, match="nothing to judge"):
        made.evaluate(known)


def test_eval_set_and_early_stopping():
    train, test = log(), log(seed=1, n=200)
    ranker = FMRanker(4, n_epochs=60, learning_rate=0.5, patience=2, eval_k=5, random_state=0)
    ranker.fit(train, eval_set=test)
    best = ranker.history_[ranker.best_epoch_ - 1]
    assert ranker.n_iter_ == len(ranker.history_) == ranker.best_epoch_ + 2
    assert best["ndcg@5"] == max(epoch["ndcg@5"] for epoch in ranker.history_)
    found = ranker.evaluate(test, k=5)
    assert found == pytest.approx({name: best[name] for name in found}, rel=1e-5)


def test_pairs_are_held_out_without_an_eval_set():
    ranker = FMRanker(4, n_epochs=3, early_stopping=True, validation_fraction=0.2, random_state=0)
    ranker.fit(log())
    assert {"ndcg@10", "recall@10", "mrr"} < set(ranker.history_[0])
    # What was held out counts as seen afterwards.
    assert not set(ranker.recommend([0], 5).ids[0]) & seen_of(log(), 0)


# --- fitting ------------------------------------------------------------------------------------


def test_the_same_to_the_bit():
    fits = [FMRanker(4, n_epochs=2, random_state=3).fit(log(), items=FILMS) for _ in range(2)]
    np.testing.assert_array_equal(fits[0].model_.factors, fits[1].model_.factors)
    other = FMRanker(4, n_epochs=2, random_state=4).fit(log(), items=FILMS)
    assert not np.array_equal(other.model_.factors, fits[0].model_.factors)


def test_forms_of_tables_agree(tmp_path):
    wanted = FMRanker(4, n_epochs=2, random_state=0).fit(log(), items=FILMS).model_.factors
    pd.DataFrame(log()).to_parquet(tmp_path / "log.parquet")
    for pairs, films in (
        (pd.DataFrame(log()), pd.DataFrame(FILMS)),
        (pa.table(log()), pa.table(FILMS)),
        (str(tmp_path / "log.parquet"), FILMS),
    ):
        found = FMRanker(4, n_epochs=2, random_state=0).fit(pairs, items=films).model_.factors
        np.testing.assert_array_equal(found, wanted)


def test_names_of_columns():
    pairs = {"who": log()["user"], "what": log()["item"]}
    ranker = FMRanker(4, n_epochs=2, random_state=0).fit(pairs, user="who", item="what")
    assert (ranker.user_fields_, ranker.item_fields_) == (["who"], ["what"])
    plain = FMRanker(4, n_epochs=2, random_state=0).fit(log())
    np.testing.assert_array_equal(
        ranker.predict({"who": [3], "what": [4]}), plain.predict({"user": [3], "item": [4]})
    )


def test_weights():
    pairs = log()
    weight = np.where(pairs["item"] < 12, 1.0, 0.0)
    ranker = FMRanker(4, n_epochs=5, learning_rate=0.3, random_state=0)
    scores = table(ranker.fit(pairs, sample_weight=weight), np.arange(N_USERS))
    few = np.array([int(i) < 12 for i in ranker.items_])
    assert scores[:, few].mean() > scores[:, ~few].mean()
    # Unweighted pairs still count as seen.
    assert not set(ranker.recommend([0], 4).ids[0]) & seen_of(pairs, 0)
    named = FMRanker(4, n_epochs=5, learning_rate=0.3, random_state=0)
    named.fit({**pairs, "w": weight}, sample_weight="w")
    np.testing.assert_array_equal(named.model_.factors, ranker.model_.factors)


def test_progress_and_lines(capsys):
    told = []
    FMRanker(2, n_epochs=3, verbose=2, random_state=0).fit(log())
    assert capsys.readouterr().out.count("epoch") == 3
    FMRanker(2, n_epochs=3, random_state=0).fit(
        log(), progress=lambda event, more: told.append((event, more["epoch"]))
    )
    assert told == [("epoch", 1), ("epoch", 2), ("epoch", 3)]


@pytest.mark.parametrize("loss", ["bpr", "warp", "softmax"])
def test_losses_and_modes(loss):
    for interactions in ("all", "across_fields"):
        ranker = FMRanker(
            4, loss=loss, n_negatives=8, n_epochs=10, learning_rate=0.3, interactions=interactions,
            n_jobs=2, random_state=0,
        )  # fmt: skip
        ranker.fit(log(), users=PEOPLE, items=FILMS)
        assert ranker.model_.interactions == interactions
        assert ranker.evaluate(log(seed=1, n=200))["recall@10"] > 0.8


# --- users and items of all kinds ---------------------------------------------------------------


def test_users_that_are_not_known(made):
    found = made.recommend([777, 3], k=5)
    assert found.ids.shape == (2, 5)
    assert None not in found.ids
    assert np.isfinite(made.predict({"user": [777, 3], "item": [2, 999]})).all()
    assert made.evaluate({"user": [777], "item": [2]})["recall@10"] in (0.0, 1.0)


def test_users_told_by_their_features(made):
    found = made.recommend({"user": [777], "likes": ["k1"]}, k=3)
    assert [int(i) % 3 for i in found.ids[0]] == [1, 1, 1]
    known = made.recommend({"user": [4], "likes": ["k1"]}, k=3)  # and seen items are left out
    np.testing.assert_array_equal(known.ids, made.recommend([4], k=3).ids)
    alone = made.recommend({"user": [4]}, k=3)
    np.testing.assert_array_equal(known.ids, alone.ids)


def test_one_user_and_one_item():
    ranker = FMRanker(2, n_epochs=2, random_state=0).fit({"user": ["a"], "item": ["x"]})
    assert ranker.recommend(["a"], 2).ids.tolist() == [[None, None]]
    assert ranker.recommend(["a"], 2, exclude_seen=False).ids.tolist() == [["x", None]]
    assert np.isfinite(ranker.predict({"user": ["a", "b"], "item": ["x", "y"]})).all()
    two = FMRanker(2, n_epochs=30, learning_rate=0.5, random_state=0)
    two.fit({"user": ["a"], "item": ["x"]}, items={"item": ["x", "y"]})
    x, y = two.predict({"user": ["a", "a"], "item": ["x", "y"]})
    assert x > y


def test_a_user_who_has_seen_everything():
    pairs = {"user": [0] * 4 + [1], "item": [0, 1, 2, 3, 0]}
    ranker = FMRanker(2, n_epochs=3, random_state=0).fit(pairs)
    found = ranker.recommend([0, 1], 3)
    assert found.ids[0].tolist() == [None] * 3
    assert set(found.ids[1]) == {1, 2, 3}


def test_no_users_at_all(made):
    found = made.recommend([], k=3)
    assert found.ids.shape == found.scores.shape == (0, 3)
    assert made.predict({"user": [], "item": []}).shape == (0,)


def test_text_keys_and_bags():
    pairs = {name: [f"{name}{i}" for i in part] for name, part in log().items()}
    films = {"item": [f"item{i}" for i in range(N_ITEMS)], "tags": [["a"], ["b", "c"], []] * 8}
    ranker = FMRanker(4, n_epochs=3, random_state=0).fit(pairs, items=films)
    assert ranker.item_fields_ == ["item", "tags"]
    assert all(str(i).startswith("item") for i in ranker.recommend(["user3"], 2).ids[0])


# --- files --------------------------------------------------------------------------------------


def test_save_and_load(made, tmp_path):
    made.save(tmp_path / "r.crossfm", metadata={"by": "us"})
    again = cf.load(tmp_path / "r.crossfm")
    assert isinstance(again, FMRanker)
    kept = {name: value for name, value in made.get_params().items() if name != "schema"}
    assert {name: again.get_params()[name] for name in kept} == kept
    pairs = log(seed=1)
    np.testing.assert_array_equal(again.predict(pairs), made.predict(pairs))
    for part in ("ids", "scores"):
        one, two = (getattr(r.recommend([3, 777], 6), part) for r in (made, again))
        np.testing.assert_array_equal(one, two)
    assert again.evaluate(pairs) == made.evaluate(pairs)
    assert (again.history_, again.best_epoch_) == (made.history_, made.best_epoch_)
    np.testing.assert_array_equal(again.items_, made.items_)


def test_a_smaller_file(made, tmp_path):
    made.save(tmp_path / "r.crossfm", precision="float16")
    again = cf.load(tmp_path / "r.crossfm")
    np.testing.assert_allclose(again.predict(log()), made.predict(log()), atol=0.01)
    assert again.recommend([3], 4).ids.shape == (1, 4)


def test_the_small_runtime_and_the_server_read_it(made, tmp_path):
    from crossfm.runtime import Runtime
    from crossfm.serving.served import Served
    from crossfm.serving.settings import Settings

    made.save(tmp_path / "r.crossfm")
    row = {"user": 3, "likes": "k0", "item": 7, "kind": "k1"}
    score = made.predict({"user": [3], "item": [7]})
    np.testing.assert_array_equal(Runtime.load(tmp_path / "r.crossfm").predict([row]), score)
    pd.DataFrame(FILMS).to_parquet(tmp_path / "films.parquet")
    served = Served.load(Settings(tmp_path / "r.crossfm", tmp_path / "films.parquet"))
    assert (served.query_fields, served.item_fields) == (["user", "likes"], ["item", "kind"])
    assert served.predict([row])[0] == pytest.approx(score.tolist())


def test_commands_on_rows_say_what_it_is(made, tmp_path, monkeypatch):
    from cli_runs import crossfm_runs, error_of

    monkeypatch.chdir(tmp_path)
    made.save("r.crossfm")
    pd.DataFrame({"user": [3], "item": [7], "rating": [1]}).to_csv("rows.csv", index=False)
    for words in (
        "predict r.crossfm rows.csv --out out.csv", "evaluate r.crossfm rows.csv --target rating",
        "explain r.crossfm rows.csv",
    ):  # fmt: skip
        assert "holds an FMRanker" in error_of(*words.split())
    assert "likes" in crossfm_runs("info", "r.crossfm").stdout


def test_broken_files(made, tmp_path, monkeypatch):
    from crossfm.estimators import _ranker_saving as saving

    path = tmp_path / "r.crossfm"
    made.save(path)
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:at])
        with pytest.raises(ModelFileError):
            cf.load(path)
    # A file that is whole, but of lists that are none.
    lists = made._seen
    for broken in (
        saving.Lists(lists.offsets[:-1], lists.items),
        saving.Lists(lists.offsets, lists.items + 10_000),
        saving.Lists(lists.offsets[::-1].copy(), lists.items),
    ):
        monkeypatch.setattr(made, "_seen", broken)
        made.save(path)
        monkeypatch.undo()
        with pytest.raises(ModelFileError, match="broken description"):
            cf.load(path)


# --- the contract, refusals ---------------------------------------------------------------------


def test_scikit_learn(made):
    ranker = FMRanker(5, loss="warp", max_trials=7, random_state=1)
    copy = clone(ranker)
    assert copy.get_params() == ranker.get_params()
    assert copy.get_params()["max_trials"] == 7
    assert copy.set_params(loss="bpr").loss == "bpr"
    with pytest.raises(ValueError, match="Invalid parameter"):
        copy.set_params(losses="bpr")
    assert "loss='warp'" in repr(ranker)
    fresh = clone(made)
    for call in (
        lambda: fresh.predict(log()), lambda: fresh.recommend([1]), lambda: fresh.evaluate(log()),
        lambda: fresh.save("nowhere"),
    ):  # fmt: skip
        with pytest.raises(NotFittedError):
            call()
    given = made.get_params()
    assert given["schema"] is SCHEMA
    assert not SCHEMA.is_fitted  # fit leaves what it was given


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "bpR"}, "loss is 'bpR'"),
        ({"n_factors": -1}, "n_factors is -1"),
        ({"n_epochs": 0}, "n_epochs is 0"),
        ({"learning_rate": -0.1}, "got -0.1"),
        ({"l2_factors": -1}, "l2_factors"),
        ({"loss": "warp", "negatives": "in_batch"}, "softmax"),
        ({"eval_k": 0}, "eval_k is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"validation_fraction": 1.5}, "validation_fraction"),
        ({"early_stopping": "yes"}, "early_stopping is 'yes'"),
        ({"interactions": "some"}, "got 'some'"),
        ({"n_jobs": -2}, "n_jobs is -2"),
        ({"random_state": "x"}, "random_state is 'x'"),
    ],
)
def test_parameters_refused(parameters, message):
    with pytest.raises(DataError, match=message):
        FMRanker(**parameters).fit(log())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"interactions": {"user": [], "item": []}}, DataError, "no rows"),
        ({"interactions": {"usr": [1], "item": [1]}}, SchemaError, "user"),
        ({"interactions": {"user": [1, None], "item": [1, 2]}}, DataError, "row 1 of interactions"),
        ({"items": {"film": [1]}}, SchemaError, "item"),
        ({"items": {"item": [1, 1]}}, DataError, "2 times in items"),
        ({"interactions": {"user": [1], "item": ["a"]}, "items": {"item": [1]}}, SchemaError,
         "make them one type"),
        ({"users": {"user": [None]}}, DataError, "row 0 of users"),
        ({"users": {"user": [1], "kind": [2]}, "items": {"item": [1], "kind": [3]}}, SchemaError,
         "users and in items"),
        ({"sample_weight": "w"}, DataError, "no column of interactions"),
        ({"sample_weight": [1.0]}, CrossfmError, "sample_weight"),
        ({"sample_weight": np.zeros(len(log()["user"]))}, ValueError, "non-zero"),
        ({"eval_set": {"user": [], "item": []}}, DataError, "nothing to judge"),
    ],
)  # fmt: skip
def test_input_refused(given, error, message):
    with pytest.raises(error, match=message):
        FMRanker(2, n_epochs=1).fit(**({"interactions": log()} | given))


def test_schemas_refused():
    alone = cf.Schema([cf.Categorical("user")])
    with pytest.raises(SchemaError, match="no field of items"):
        FMRanker(schema=alone).fit(log())
    lost = cf.Schema([*map(cf.Categorical, ("user", "item", "director"))])
    with pytest.raises(SchemaError, match="director"):
        FMRanker(schema=lost).fit(log(), items=FILMS)


def test_nothing_to_hold_out():
    pairs = {"user": [0, 1, 2], "item": [0, 1, 2]}
    with pytest.raises(DataError, match="early_stopping=False"):
        FMRanker(early_stopping=True).fit(pairs)


def test_questions_refused(made):
    with pytest.raises(DataError, match="k is 0"):
        made.recommend([1], 0)
    with pytest.raises(DataError, match="only holds 999"):
        made.recommend([1], only=[1, 999])
    with pytest.raises(SchemaError, match="usr"):
        made.recommend({"usr": [1]})
    with pytest.raises(SchemaError, match="item"):
        made.predict({"user": [1]})
    with pytest.raises(DataError, match="row 0 of pairs"):
        made.predict({"user": [None], "item": [1]})
    with pytest.raises(DataError, match="k is 0"):
        made.evaluate(log(seed=1), k=0)
