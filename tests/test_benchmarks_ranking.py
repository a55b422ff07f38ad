"""benchmarks.ranking: parts in the order of time, nothing told of what is held out, the bars."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import quality, ranking
from benchmarks.figures import Figure, Report
from benchmarks.ranking import Films, Likes


def likes(n=400, n_users=12, n_items=20):
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, n_users, n), rng.integers(0, n_items, n)
    _, once = np.unique(user * n_items + item, return_index=True)
    user, item = user[once], item[once]
    order = rng.permutation(len(user))
    return Likes(user[order], item[order], np.arange(len(user)) * 10, n_users, n_items)


def films(n_items=20):
    items = {
        "item": np.arange(n_items), "year": np.full(n_items, 1999),
        "genres": [["a"] if i % 2 else [] for i in range(n_items)],
    }  # fmt: skip
    tags = {"user": [0, 0, 1, 1], "item": [3, 4, 5, 6], "tag": ["Odd", "odd", "ODD", "rare"],
            "timestamp": [0, 0, 10**6, 0]}  # fmt: skip
    return Films(pa.table(items), pa.table(tags))


def test_the_last_fifth_of_each_user():
    every = likes()
    train, test = every.split(0.2)
    assert len(train) + len(test) == len(every)
    for user in range(12):
        before, after = train.time[train.user == user], test.time[test.user == user]
        assert len(after) == round(0.2 * (len(before) + len(after)))
        assert before.max() < after.min()


def test_ages():
    some = likes()
    age = some.age()
    for user in range(12):
        own = age[some.user == user]
        assert own[0] == 1
        assert own[-1] == 0
        assert (np.diff(own) < 0).all()


def test_validation_parts_lie_before_the_test_part():
    train, _ = likes().split(0.2)
    (first, watch), (second, other) = ranking.cuts(train)
    assert len(first) + len(watch) == len(train)
    assert len(second) + len(other) == len(first)
    for user in range(12):
        parts = [part.time[part.user == user] for part in (second, other, watch)]
        assert parts[0].max() < parts[1].min() <= parts[1].max() < parts[2].min()


def test_tags_given_later_are_not_told(monkeypatch):
    monkeypatch.setattr(ranking, "MIN_TAGGED", 2)
    told = films().features(likes())["tags"].to_pylist()
    assert told[3] == told[4] == ["odd"]
    assert told[5] == []  # given after the user's last positive
    assert told[6] == []  # on one film alone


def test_places():
    keys = np.array([7, 3, 9])
    np.testing.assert_array_equal(ranking.place_of(np.array([9, 7, 3, 7]), keys), [2, 0, 1, 0])


def test_lists_leave_out_what_was_liked_before():
    zero = np.zeros(1, int)
    train, test = Likes(zero, zero, zero, 1, 12), Likes(zero, zero + 11, zero, 1, 12)
    scores = np.arange(12.0)[::-1][None]
    scores[0, 11] = 2.5  # behind eight others, of which the first was seen
    found = ranking.judge(scores, train, test)
    assert found["recall@10"] == 1
    assert found["mrr"] == pytest.approx(1 / 9)
    assert found["ndcg@10"] == pytest.approx(1 / np.log2(10))


class Popular:
    """Stands for the process of implicit: scores are counts."""

    def __init__(self, name):
        assert name == "implicit"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def ask(self, _, *, pairs, scores, method, options):
        assert method in ("als", "bpr")
        assert "random_state" in options
        found = np.load(pairs)
        assert found["confidence"].mean() == pytest.approx(1)
        counts = np.bincount(found["item"], minlength=found["shape"][1])
        np.save(scores, np.tile(counts.astype(np.float32), (found["shape"][0], 1)))


@pytest.mark.parametrize("trials", [0, 2])
def test_a_whole_run(trials, monkeypatch, capsys):
    monkeypatch.setattr(ranking, "movielens", lambda: (likes(), films()))
    monkeypatch.setattr(ranking, "Worker", Popular)
    monkeypatch.setattr(ranking, "SEEDS", (0, 1))
    short = {name: replace(one, lengths=(1, 2)) for name, one in ranking.METHODS.items()}
    monkeypatch.setattr(ranking, "METHODS", short)
    report = ranking.run(trials)
    names = [figure.name for figure in report.figures]
    assert names == [
        f"ranking_{metric}_10_over_{peer}"
        for metric in ("ndcg", "recall")
        for peer in ("als", "recent_als", "bpr")
    ]
    found = report.details["methods"]
    assert found["als"]["test"] == pytest.approx(found["popular"]["test"])
    assert report.figures[0].bar == found["als"]["test"]["ndcg@10"]
    assert report.figures[0].value == found["context"]["test"]["ndcg@10"]
    printed = capsys.readouterr().out
    assert "last likes" in printed
    json.dumps(report.details)


@pytest.mark.parametrize("recent", [0, 2])
def test_scores_are_those_of_the_ranker(recent):
    every, known = likes(), films()
    setting = {"n_factors": 4, "n_epochs": 2, "interactions": "across_fields", "recent": recent}
    ranker = ranking.ranker_for(known, every, setting, 0, features=True)
    scores = ranking.full_scores(ranker, every, known.features(every), recent)
    pairs = {"user": [3, 11], "item": [0, 19]}
    if recent:
        pairs["lately"] = [every.item[every.user == user][-recent:].tolist() for user in (3, 11)]
    np.testing.assert_allclose(
        scores[[3, 11], [0, 19]], ranker.predict(pairs), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(("value", "status"), [(0.3, 0), (0.1, 1)])
def test_check_fails_below_the_bar(value, status, monkeypatch, tmp_path, capsys):
    def run(_):
        return Report("quality ranking", [Figure("ranking_ndcg_10_over_als", value, 0.2, ">=")])

    monkeypatch.setattr(quality.ranking, "run", run)
    monkeypatch.setattr(quality.peers, "ensure", lambda *names: None)
    monkeypatch.setattr(Report, "save", lambda self, folder=None: tmp_path / "none")
    assert quality.main(["ranking", "--check"]) == status
    assert quality.main(["ranking"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    "arguments",
    [["frappe", "--tune", "3"], ["ranking", "--tune", "-1"], ["ranking", "--solver", "mcmc"],
     ["ranking", "--peers", "myfm"]],
)  # fmt: skip
def test_arguments_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        quality.main(arguments)
    assert "ranking" in capsys.readouterr().err
