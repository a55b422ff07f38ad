"""Learning to rank in the core: gradients by definition, what is drawn, threads, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from ranking_oracle import Machine, train_batch, train_pair
from scipy.stats import chi2

from crossfm import _native
from crossfm.data.rows import Rows
from crossfm.errors import DataError, DivergedError
from crossfm.solvers import AdaGrad
from crossfm.solvers.ranking import HeldOut, Pairs, RankingOptions, RankTrainer, fit_ranking

RTOL, ATOL = 2e-4, 2e-6  # float32 over three passes, against differences in float64


def problem(seed=0, n_queries=5, n_items=7):
    """Queries of fields 0 and 1, items of 2 to 4; bags with values, repeated ids, empty bags."""
    rng = np.random.default_rng(seed)
    field_of = np.repeat(np.arange(5), [n_queries, 3, n_items, 4, 2]).astype(np.int32)
    start = np.r_[0, np.cumsum(np.bincount(field_of))]

    def side(n, fields):
        lines = []
        for row in range(n):
            line = [(int(start[fields[0]]) + row, 1.0)]
            for f in fields[1:]:
                ids = rng.integers(start[f], start[f + 1], rng.integers(0, 4)).tolist()
                line += [(one, float(np.float32(rng.uniform(-1, 2)))) for one in ids]
            lines.append(line)
        return lines

    queries, items = side(n_queries, [0, 1]), side(n_items, [2, 3, 4])
    query_of = np.r_[np.arange(n_queries), rng.integers(0, n_queries, 8)].astype(np.int32)
    item_of = rng.integers(0, n_items - 2, len(query_of)).astype(np.int32)
    weights = rng.uniform(0.2, 2, len(query_of)).astype(np.float32)
    return queries, items, query_of, item_of, weights, field_of


def as_rows(lines):
    flat = [one for line in lines for one in line]
    ids, values = zip(*flat, strict=True)
    offsets = np.r_[0, np.cumsum([len(line) for line in lines])]
    return Rows(np.array(ids), np.array(values, np.float32), offsets)


def trainer_of(options, ranking, made):
    queries, items, query_of, item_of, weights, field_of = made
    pairs = Pairs(as_rows(queries), as_rows(items), query_of, item_of, weights=weights)
    return RankTrainer(options, ranking, pairs, len(field_of), field_of)


def machine_of(trainer, field_of):
    model, o = trainer.models()[0], trainer.options
    return Machine(
        model.factors, model.weights, o.learning_rate, o.l2_linear, o.l2_factors,
        o.interactions == "across_fields", field_of,
    )  # fmt: skip


def expect_equal(trainer, machine):
    model = trainer.models()[0]
    V = [[machine.v["v", i, f] for f in range(machine.k)] for i in range(len(model.weights))]
    w = [machine.v["w", i, 0] for i in range(len(model.weights))]
    np.testing.assert_allclose(model.factors, V, rtol=RTOL, atol=ATOL)
    np.testing.assert_allclose(model.weights, w, rtol=RTOL, atol=ATOL)
    assert model.bias == 0


def shares(ranking, item_of, n_items):
    """Chance of each item, by definition."""
    if ranking.negatives == "uniform":
        return np.full(n_items, 1 / n_items)
    count = np.bincount(item_of, minlength=n_items).astype(float)
    power = ranking.popularity_power if ranking.negatives == "popularity" else 1.0
    weight = np.where(count > 0, count**power, 0.0)
    return weight / weight.sum()


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
@pytest.mark.parametrize("n_factors", [1, 5, 16])
@pytest.mark.parametrize(
    "ranking",
    [
        RankingOptions("bpr"),
        RankingOptions("bpr", "popularity"),
        RankingOptions("warp", max_trials=4),
        RankingOptions("softmax", n_negatives=3),
        RankingOptions("softmax", "popularity", n_negatives=2, popularity_power=0.5),
    ],
    ids=lambda r: f"{r.loss}-{r.negatives}",
)
def test_steps_are_those_of_the_definition(ranking, interactions, n_factors):
    made = problem()
    queries, items, query_of, item_of, weights, field_of = made
    options = AdaGrad(
        n_factors=n_factors, interactions=interactions, learning_rate=0.2, l2_linear=0.01,
        l2_factors=0.03, init_scale=0.4, seed=3,
    )  # fmt: skip
    trainer = trainer_of(options, ranking, made)
    machine = machine_of(trainer, field_of)
    share = shares(ranking, item_of, len(items))
    seen = [set(item_of[query_of == q].tolist()) for q in range(len(queries))]
    order = np.random.default_rng(1).permutation(len(query_of))
    for epoch in range(3):
        told, expected = trainer.train(epoch, order), 0.0
        for pair in order:
            q, own = query_of[pair], int(item_of[pair])
            n = {"bpr": 1, "warp": ranking.max_trials, "softmax": ranking.n_negatives}[ranking.loss]
            drawn = trainer.negatives(int(pair), epoch, n).tolist()
            if min(drawn) < 0:
                continue
            unseen = sum(share[j] for j in range(len(items)) if j not in seen[q])
            expected += train_pair(
                machine, ranking.loss, queries[q], own, drawn, items, weight=float(weights[pair]),
                n_unseen=len(items) - len(seen[q]), expected=[n * share[j] / unseen for j in drawn],
            )  # fmt: skip
        np.testing.assert_allclose(told, expected, rtol=RTOL)
    expect_equal(trainer, machine)


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
def test_batches_are_those_of_the_definition(interactions):
    made = problem(seed=2)
    queries, items, query_of, item_of, weights, field_of = made
    ranking = RankingOptions("softmax", "in_batch", batch_size=5)
    options = AdaGrad(
        n_factors=6, interactions=interactions, learning_rate=0.1, l2_factors=0.02, init_scale=0.3
    )
    trainer = trainer_of(options, ranking, made)
    machine = machine_of(trainer, field_of)
    share = shares(ranking, item_of, len(items))
    seen = [set(item_of[query_of == q].tolist()) for q in range(len(queries))]
    order = np.random.default_rng(4).permutation(len(query_of))
    told, expected = trainer.train(0, order), 0.0
    for low in range(0, len(order), 5):
        batch = []
        for pair in order[low : low + 5]:
            q = query_of[pair]
            others = [int(item_of[other]) for other in order[low : low + 5]]
            others = [j for j in others if j not in seen[q]]
            unseen = sum(share[j] for j in range(len(items)) if j not in seen[q])
            often = [len(others) * share[j] / unseen for j in others]
            batch.append((queries[q], int(item_of[pair]), float(weights[pair]), others, often))
        expected += train_batch(machine, batch, items)
    np.testing.assert_allclose(told, expected, rtol=RTOL)
    expect_equal(trainer, machine)


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
def test_vectors_give_the_score(interactions):
    made = problem(seed=5)
    queries, items, *_, field_of = made
    options = AdaGrad(n_factors=5, interactions=interactions, init_scale=0.5, learning_rate=0.3)
    trainer = trainer_of(options, RankingOptions(), made)
    trainer.train(0)
    machine = machine_of(trainer, field_of)
    ((part, scores),) = trainer.scores(as_rows(queries))
    assert part == slice(0, len(queries))
    whole = np.array([[machine.score(q + i) for i in items] for q in queries])
    alone = np.array([machine.score(q) for q in queries])
    np.testing.assert_allclose(scores, whole - alone[:, None], rtol=1e-4, atol=1e-5)


# --- what is drawn ------------------------------------------------------------------------------


def plain(n_users, n_items, user_of, item_of):
    """Pairs of users and items alone."""
    queries = Rows(np.arange(n_users)[:, None])
    items = Rows(n_users + np.arange(n_items)[:, None])
    return Pairs(queries, items, np.asarray(user_of, np.int32), np.asarray(item_of, np.int32))


def trained_on(pairs, ranking, **options):
    n = len(pairs.queries) + len(pairs.items)
    return RankTrainer(AdaGrad(n_factors=4, **options), ranking, pairs, n, None)


@pytest.mark.parametrize(
    ("negatives", "power"), [("uniform", 0.75), ("popularity", 1.0), ("popularity", 0.5)]
)
def test_draws_keep_off_the_seen_and_follow_their_chance(negatives, power):
    rng = np.random.default_rng(0)
    item_of = np.r_[np.repeat(np.arange(12), np.arange(12) + 1), [0, 3, 5]]
    user_of = np.r_[rng.integers(1, 6, 78), [0, 0, 0]]
    ranking = RankingOptions("bpr", negatives, popularity_power=power)
    trainer = trained_on(plain(6, 14, user_of, item_of), ranking, seed=7)
    drawn = trainer.negatives(len(user_of) - 1, 1, 20_000)
    assert not set(drawn.tolist()) & {0, 3, 5}
    chance = np.ones(14)
    if negatives == "popularity":
        count = np.bincount(item_of, minlength=14).astype(float)
        chance = np.where(count > 0, count**power, 0)
    chance[[0, 3, 5]] = 0
    expected = 20_000 * chance / chance.sum()
    found = np.bincount(drawn, minlength=14)
    assert not found[expected == 0].any()
    some = expected > 0
    square = ((found - expected)[some] ** 2 / expected[some]).sum()
    assert square < chi2.ppf(0.999, some.sum() - 1)  # of a fixed seed


def test_draws_where_nearly_all_is_seen():
    # Two of 3,000 items are left: mostly they are counted out, not met by chance.
    seen = np.setdiff1d(np.arange(3000), [17, 2999])
    trainer = trained_on(plain(1, 3000, np.zeros(2998), seen), RankingOptions(), seed=1)
    drawn = trainer.negatives(0, 0, 400)
    found = np.unique(drawn, return_counts=True)
    assert found[0].tolist() == [17, 2999]
    assert abs(found[1][0] - 200) < 4 * 10  # four deviations of a fair coin


@pytest.mark.parametrize("loss", ["bpr", "warp", "softmax"])
def test_a_user_who_has_seen_everything_teaches_nothing(loss):
    trainer = trained_on(plain(2, 3, [0, 0, 0], [0, 1, 2]), RankingOptions(loss))
    before = trainer.models()[0]
    assert trainer.negatives(0, 0, 3).tolist() == [-1, -1, -1]
    assert trainer.train(0) == 0
    np.testing.assert_array_equal(trainer.models()[0].factors, before.factors)


def test_draws_are_of_seed_epoch_and_pair():
    def drawn(seed, epoch, pair):
        pairs = plain(3, 500, [0, 1, 2], [0, 1, 2])
        return trained_on(pairs, RankingOptions(), seed=seed).negatives(pair, epoch, 20).tolist()

    assert drawn(0, 1, 2) == drawn(0, 1, 2)
    others = [drawn(1, 1, 2), drawn(0, 2, 2), drawn(0, 1, 1)]
    assert drawn(0, 1, 2) not in others


# --- threads, the loop, refusals ----------------------------------------------------------------


def blocks(n_users=60, n_items=40, seed=0):
    """Users take items of their own kind, of two."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, n_users, 1500), rng.integers(0, n_items, 1500)
    own = user % 2 == item % 2
    return plain(n_users, n_items, user[own], item[own])


@pytest.mark.parametrize("loss", ["bpr", "warp", "softmax"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_it_learns(loss, n_jobs):
    pairs = blocks()
    trainer = trained_on(
        pairs, RankingOptions(loss, n_negatives=8), learning_rate=0.2, n_jobs=n_jobs
    )
    history = fit_ranking(trainer, n_epochs=15)
    assert history.epochs[-1].loss < 0.7 * history.epochs[0].loss
    ((_, scores),) = trainer.scores(pairs.queries)
    right = np.arange(60)[:, None] % 2 == np.arange(40) % 2
    assert scores[right].mean() > scores[~right].mean() + 1


@pytest.mark.parametrize("negatives", ["uniform", "popularity", "in_batch"])
def test_one_thread_is_the_same_to_the_bit(negatives):
    def fitted():
        ranking = RankingOptions("softmax", negatives, n_negatives=4, batch_size=16)
        trainer = trained_on(blocks(), ranking, seed=5)
        fit_ranking(trainer, n_epochs=3)
        return trainer.models()[0]

    one, two = fitted(), fitted()
    np.testing.assert_array_equal(one.factors, two.factors)
    np.testing.assert_array_equal(one.weights, two.weights)


def test_early_stopping_puts_the_best_back():
    pairs = blocks()
    watch = HeldOut(pairs.queries, np.full(60, -1), np.arange(60), np.arange(60) % 40, 5)
    trainer = trained_on(pairs, RankingOptions(), learning_rate=1.5)
    kept = {}

    def keep(_, told):
        kept[told["epoch"]] = trainer.models()[0]

    history = fit_ranking(trainer, n_epochs=60, watch=watch, patience=2, progress=keep)
    values = [epoch.metrics["ndcg@5"] for epoch in history.epochs]
    assert history.stopped == "early"
    assert len(values) == history.best_epoch + 2 < 60
    assert values[history.best_epoch - 1] == max(values)
    np.testing.assert_array_equal(trainer.models()[0].factors, kept[history.best_epoch].factors)


def test_the_loop_ends_when_it_is_told_to():
    trainer = trained_on(blocks(), RankingOptions())
    history = fit_ranking(trainer, n_epochs=9, progress=lambda _, told: told["epoch"] == 2)
    assert (history.stopped, len(history.epochs)) == ("callback", 2)


def test_a_fit_that_diverges_says_so():
    trainer = trained_on(blocks(), RankingOptions("softmax", n_negatives=2), learning_rate=1e30)
    with pytest.raises(DivergedError, match="learning_rate"):
        fit_ranking(trainer, n_epochs=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"negatives": "popular"}, "Did you mean 'popularity'"),
        ({"loss": "bpr", "negatives": "in_batch"}, "softmax"),
        ({"loss": "warp", "negatives": "popularity"}, "uniform"),
        ({"n_negatives": 0}, "n_negatives is 0"),
        ({"max_trials": True}, "max_trials is True"),
        ({"batch_size": 1}, "at least 2"),
        ({"popularity_power": -0.5}, "popularity_power is -0.5"),
        ({"popularity_power": float("nan")}, "popularity_power is nan"),
    ],
)
def test_options_refused(options, message):
    with pytest.raises(DataError, match=message):
        RankingOptions(**options)


def test_a_trainer_refuses():
    with pytest.raises(DataError, match="no pairs"):
        trained_on(plain(2, 2, [], []), RankingOptions())
    with pytest.raises(DataError, match="field"):
        trained_on(plain(1, 2, [0], [0]), RankingOptions(), interactions="across_fields")


def test_what_the_core_refuses():
    ids, offsets = np.array([0, 1]), np.array([0, 1, 2])

    def side(**changed):
        given = {"ids": ids, "values": None, "offsets": offsets, "field_of": None, "n_features": 2}
        return _native.RankingSide(**given | changed)

    for changed in (
        {"ids": np.array([0, 2])}, {"ids": np.array([-1, 0])}, {"offsets": np.array([0, 2, 1])},
        {"offsets": np.array([1, 2])}, {"values": np.ones(1, np.float32)},
        {"field_of": np.zeros(3, np.int32)},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"must|range"):
            side(**changed)

    def pairs(**changed):
        zero = np.zeros(1, np.int32)
        given = {
            "queries": side(), "items": side(), "query_of": zero, "item_of": zero, "user_of": zero,
            "weights": None, "seen_offsets": np.array([0, 1]), "seen": zero, "share": None,
        }  # fmt: skip
        return _native.RankingPairs(**given | changed)

    for changed in (
        {"query_of": np.array([2], np.int32)}, {"item_of": np.array([-1], np.int32)},
        {"user_of": np.array([1], np.int32)}, {"seen": np.array([2], np.int32)},
        {"seen_offsets": np.array([0, 2])}, {"weights": np.ones(2, np.float32)},
        {"seen_offsets": np.array([0, 2]), "seen": np.array([1, 0], np.int32)},
        {"share": np.ones(3)}, {"items": side(n_features=3)},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"must|range|as long"):
            pairs(**changed)
    held = pairs()
    table = {"factors": np.ones(16, np.float32), "linear": np.ones(4, np.float32), "k": 4}
    rest = {
        "order": None, "loss": 0, "in_batch": 0, "n_negatives": 1, "max_trials": 1,
        "learning_rate": 0.1, "l2_linear": 0.0, "l2_factors": 0.0, "seed": 0, "epoch": 0,
        "threads": 1,
    }  # fmt: skip
    assert held.train(**table, **rest) > 0
    for changed in (
        {"order": np.array([1])}, {"loss": 3}, {"in_batch": 2}, {"n_negatives": 0}, {"k": 3},
        {"factors": np.ones(15, np.float32)}, {"linear": np.ones(3, np.float32)},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"range|loss|softmax|positive|padded|small"):
            held.train(**(table | rest | changed))
    with pytest.raises(ValueError, match="range"):
        held.negatives(pair=1, seed=0, epoch=0, out=np.empty(1, np.int64))
