"""Metrics against scikit-learn, and against slow oracles written from the definitions."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics as sk

from crossfm import metrics
from crossfm.errors import DataError

RTOL = 1e-12  # float64 sums of at most a few thousand terms
SIZES = [2, 3, 17, 64, 1001]
WEIGHTED = [False, True]


def draw(seed: int, n: int, weighted: bool, ties: bool = True):
    """Labels of both classes, probabilities (many of them tied), weights (some of them 0)."""
    rng = np.random.default_rng([seed, n])
    y = rng.integers(0, 2, n)
    y[:2] = [0, 1]
    p = rng.random(n)
    if ties:
        p = np.round(p, 1) * 0.98 + 0.01
    w = None
    if weighted:
        w = rng.random(n) * rng.integers(0, 3, n)
        w[:2] = [0.5, 2.0]
    return y, p, w


# --- against scikit-learn -------------------------------------------------------------------


@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("n", SIZES)
def test_values_equal_sklearn(n, weighted):
    _, p, w = draw(1, n, weighted)
    y = np.random.default_rng(n).normal(size=n) * 10
    np.testing.assert_allclose(
        metrics.rmse(y, p, sample_weight=w),
        sk.root_mean_squared_error(y, p, sample_weight=w),
        rtol=RTOL,
    )
    np.testing.assert_allclose(
        metrics.mae(y, p, sample_weight=w),
        sk.mean_absolute_error(y, p, sample_weight=w),
        rtol=RTOL,
    )


@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_auc_equals_sklearn(n, ties, weighted):
    y, p, w = draw(2, n, weighted, ties)
    got = metrics.auc(y, p, sample_weight=w)
    np.testing.assert_allclose(got, sk.roc_auc_score(y, p, sample_weight=w), rtol=RTOL)
    assert metrics.auc(2 * y - 1, p, sample_weight=w) == got
    assert metrics.auc(y == 1, np.log(p), sample_weight=w) == pytest.approx(got, rel=RTOL)


@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("n", SIZES)
def test_log_loss_equals_sklearn(n, weighted):
    y, p, w = draw(3, n, weighted)
    want = sk.log_loss(y, p, sample_weight=w)
    np.testing.assert_allclose(metrics.log_loss(y, p, sample_weight=w), want, rtol=RTOL)
    both = np.column_stack([1 - p, p])
    np.testing.assert_allclose(metrics.log_loss(y, both, sample_weight=w), want, rtol=RTOL)


@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("n_classes", [3, 7])
def test_multiclass_log_loss_equals_sklearn(n_classes, weighted):
    rng = np.random.default_rng(n_classes)
    y = rng.integers(0, n_classes, 201)
    p = rng.dirichlet(np.ones(n_classes), 201) * 0.99 + 0.01 / n_classes
    w = rng.random(201) if weighted else None
    want = sk.log_loss(y, p, sample_weight=w, labels=np.arange(n_classes))
    np.testing.assert_allclose(metrics.log_loss(y, p, sample_weight=w), want, rtol=RTOL)
    labels = np.array([f"c{i}" for i in rng.permutation(n_classes)])
    got = metrics.log_loss(labels[y], p, sample_weight=w, labels=labels)
    np.testing.assert_allclose(got, want, rtol=RTOL)


@pytest.mark.parametrize("k", [1, 3, 10, None])
@pytest.mark.parametrize("gain", ["linear", "exponential"])
def test_ndcg_equals_sklearn_list_by_list(k, gain):
    rng = np.random.default_rng(5)
    lists = rng.integers(2, 30, 40)
    group = np.repeat(rng.permutation(40), lists)
    y, s = rng.integers(0, 5, group.size), rng.integers(0, 6, group.size) / 3
    shuffle = rng.permutation(group.size)
    group, y, s = group[shuffle], y[shuffle], s[shuffle]
    y[group == 7] = 0
    got = metrics.ndcg_at_k(y, s, groups=group, k=k, gain=gain)
    gains = y if gain == "linear" else 2.0**y - 1
    want = [
        sk.ndcg_score(gains[None, group == g], s[None, group == g], k=k)
        for g in range(40)
        if g != 7
    ]
    np.testing.assert_allclose(got, np.mean(want), rtol=RTOL)
    assert (got.n_groups, got.n_skipped) == (39, 1)


@pytest.mark.parametrize("n_bins", [1, 5, 10, 33])
def test_reliability_curve_equals_sklearn(n_bins):
    y, p, _ = draw(6, 1001, False, ties=False)
    p[:4] = [0.0, 1.0, 0.2, 0.4]
    curve = metrics.reliability_curve(y, p, n_bins=n_bins)
    observed, predicted = sklearn.calibration.calibration_curve(y, p, n_bins=n_bins)
    np.testing.assert_allclose(curve.observed, observed, rtol=RTOL)
    np.testing.assert_allclose(curve.predicted, predicted, rtol=RTOL)
    assert curve.weight.sum() == 1001


# --- against slow oracles -------------------------------------------------------------------


def slow_auc(y, s, w):
    """The definition: every pair of a positive and a negative row."""
    won = total = 0.0
    for i, j in itertools.product(range(len(y)), repeat=2):
        if y[i] == 1 and y[j] == 0:
            total += w[i] * w[j]
            won += w[i] * w[j] * ((s[i] > s[j]) + (s[i] == s[j]) / 2)
    return won / total if total else None


@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("key", [int, str])
def test_grouped_auc_equals_pairs_within_groups(key, weighted):
    y, p, w = draw(7, 301, weighted)
    group = np.random.default_rng(8).integers(0, 60, 301)
    got = metrics.grouped_auc(y, p, groups=group.astype(key), sample_weight=w)
    w = np.ones(301) if w is None else w
    parts = [(slow_auc(y[m], p[m], w[m]), w[m].sum()) for m in (group == g for g in set(group))]
    kept = [(a, c) for a, c in parts if a is not None]
    values, mass = zip(*kept, strict=True)
    np.testing.assert_allclose(got, np.average(values, weights=mass), rtol=1e-11)
    assert got.n_groups == len(kept)
    assert got.n_skipped == len(parts) - len(kept) > 0


def test_grouped_auc_of_one_group_is_auc():
    y, p, w = draw(9, 257, True)
    got = metrics.grouped_auc(y, p, groups=np.zeros(257), sample_weight=w)
    assert got == pytest.approx(metrics.auc(y, p, sample_weight=w), rel=RTOL)


def orders(s):
    """Every order of the rows that has falling scores."""
    runs = [[i for i in range(len(s)) if s[i] == v] for v in sorted(set(s), reverse=True)]
    for choice in itertools.product(*(itertools.permutations(r) for r in runs)):
        yield [i for run in choice for i in run]


def slow_recall(y, s, k):
    hits = [sum(y[i] > 0 for i in order[:k]) for order in orders(s)]
    return np.mean(hits) / sum(v > 0 for v in y)


def slow_mrr(y, s, k):
    ranks = [next(r for r, i in enumerate(o, 1) if y[i] > 0) for o in orders(s)]
    return np.mean([1 / r if k is None or r <= k else 0 for r in ranks])


def slow_ndcg(y, s, k):
    def dcg(order):
        return sum(y[i] / math.log2(1 + r) for r, i in enumerate(order[:k], 1))

    best = sorted(range(len(y)), key=lambda i: -y[i])
    return np.mean([dcg(o) for o in orders(s)]) / dcg(best)


@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("k", [1, 2, 4, None])
@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        (metrics.recall_at_k, slow_recall),
        (metrics.mrr, slow_mrr),
        (metrics.ndcg_at_k, slow_ndcg),
    ],
)
def test_lists_equal_the_mean_over_all_orders(fast, slow, k, weighted):
    rng = np.random.default_rng(11)
    group = rng.integers(0, 25, 120)
    y, s = rng.integers(0, 3, 120) * rng.integers(0, 2, 120), rng.integers(0, 3, 120) / 2
    w = rng.random(120) if weighted else np.ones(120)
    got = fast(y, s, groups=group, k=k, sample_weight=w if weighted else None)
    masks = [group == g for g in set(group)]
    kept = [m for m in masks if (y[m] > 0).any()]
    want = np.average([slow(y[m], s[m], k) for m in kept], weights=[w[m].mean() for m in kept])
    np.testing.assert_allclose(got, want, rtol=1e-11)
    assert (got.n_groups, got.n_skipped) == (len(kept), len(masks) - len(kept))


@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("n", [1, 2, 17, 500])
def test_ece_equals_bin_by_bin(n, strategy, weighted):
    y, p, w = draw(12, max(n, 2), weighted)
    y, p = y[:n], p[:n]
    w = None if w is None else w[:n]
    got = metrics.ece(y, p, sample_weight=w, n_bins=7, strategy=strategy)
    mass = np.ones(n) if w is None else w
    if strategy == "uniform":
        cuts = [b / 7 for b in range(1, 7)]
    else:
        order = np.argsort(p)
        share = np.cumsum(mass[order]) / mass.sum()
        cuts = [p[order][np.flatnonzero(share >= b / 7 - 1e-9)[0]] for b in range(1, 7)]
    total = 0.0
    for b in range(7):
        low, high = ([-1, *cuts])[b], ([*cuts, 1])[b]
        inside = (p > low) & (p <= high)
        if mass[inside].sum():
            rate = np.average(y[inside], weights=mass[inside])
            claim = np.average(p[inside], weights=mass[inside])
            total += mass[inside].sum() / mass.sum() * abs(rate - claim)
    np.testing.assert_allclose(got, total, rtol=1e-10, atol=1e-14)


# --- known answers --------------------------------------------------------------------------


def test_normalized_entropy_of_the_base_rate_is_one():
    y = np.r_[np.ones(30), np.zeros(70)]
    assert metrics.normalized_entropy(y, np.full(100, 0.3)) == pytest.approx(1, rel=RTOL)
    assert metrics.normalized_entropy(y, np.full(100, 0.4)) > 1
    w = np.where(y == 1, 7.0, 3.0)
    assert metrics.normalized_entropy(y, np.full(100, 0.5), sample_weight=w) == pytest.approx(
        1, rel=RTOL
    )


def test_sure_and_wrong_is_finite():
    assert metrics.log_loss([1, 0], [0.0, 1.0]) == pytest.approx(-math.log(1e-7))
    assert metrics.log_loss([1, 0], [[1.0, 0.0], [0.0, 1.0]]) == pytest.approx(-math.log(1e-7))


def test_a_constant_score_earns_chance():
    y = np.r_[np.ones(20), np.zeros(80)]
    assert metrics.auc(y, np.zeros(100)) == 0.5
    assert metrics.recall_at_k(y, np.zeros(100), k=10) == pytest.approx(0.1)


@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("name", list(metrics.METRICS))
def test_the_order_of_rows_and_the_scale_of_weights_do_not_matter(name, weighted):
    y, p, w = draw(13, 97, weighted)
    w = np.ones(97) if w is None else w
    group = np.random.default_rng(3).integers(0, 9, 97)
    shuffle = np.random.default_rng(4).permutation(97)
    metric = metrics.get_metric(name)
    first = metric(y, p, sample_weight=w, groups=group)
    again = metric(y[shuffle], p[shuffle], sample_weight=3 * w[shuffle], groups=group[shuffle])
    np.testing.assert_allclose(first, again, rtol=1e-11)


@pytest.mark.parametrize("name", ["rmse", "mae", "log_loss", "ece", "auc", "grouped_auc"])
def test_a_weight_of_two_is_the_row_twice(name):
    y, p, _ = draw(14, 60, False)
    group = np.arange(60) % 4
    times = np.random.default_rng(5).integers(0, 4, 60)
    metric = metrics.get_metric(name)
    twice = [np.repeat(a, times) for a in (y, p, group)]
    np.testing.assert_allclose(
        metric(y, p, sample_weight=times, groups=group),
        metric(twice[0], twice[1], groups=twice[2]),
        rtol=1e-11,
    )


def test_grouped_score_survives_copies():
    score = metrics.GroupedScore(0.25, n_groups=3, n_skipped=1)
    for other in (copy.deepcopy(score), pickle.loads(pickle.dumps(score))):  # noqa: S301 - our own bytes
        assert (other, other.n_groups, other.n_skipped) == (0.25, 3, 1)


# --- the registry ---------------------------------------------------------------------------


def test_registry_directions_by_perfect_and_useless_predictions():
    y = np.tile([0, 1], 50)
    rng = np.random.default_rng(0)
    group = np.arange(100) // 25
    for metric in metrics.METRICS.values():
        good = metric(y, np.clip(y, 0.01, 0.99), groups=group)
        poor = metric(y, rng.random(100), groups=group)
        assert metric.improves(good, poor), metric.name
        assert metric.improves(poor, metric.worst)
        assert not metric.improves(float("nan"), poor)


def test_names_at_k():
    y, s = [0, 1, 1, 0], [0.9, 0.8, 0.7, 0.6]
    assert metrics.get_metric("recall@2")(y, s) == 0.5
    assert metrics.get_metric("mrr@1")(y, s) == 0.0
    assert metrics.get_metric("ndcg@3").name == "ndcg@3"
    for name in ("recall@0", "recall@", "auc@3", "ndcg@x", "ndcg@²"):
        with pytest.raises(DataError, match="no metric"):
            metrics.get_metric(name)


def test_own_functions_get_only_what_they_take():
    def plain(y_true, y_pred):
        return int(np.sum(np.asarray(y_pred) - np.asarray(y_true)))

    def full(y_true, y_pred, sample_weight=None, groups=None):
        return len(groups) + sum(sample_weight)

    weights, groups = [1, 2], ["a", "b"]
    metric = metrics.get_metric(plain, greater_is_better=False, needs="score")
    assert metric([1, 2], [3, 4], sample_weight=weights, groups=groups) == 4.0
    assert (metric.name, metric.needs, metric.greater_is_better) == ("plain", "score", False)
    metric = metrics.get_metric(full)
    assert metric([1, 2], [3, 4], sample_weight=weights, groups=groups) == 5.0
    assert metrics.get_metric(metric) is metric
    with pytest.raises(DataError, match="returned 'high', expected a number"):
        metrics.get_metric(lambda y_true, y_pred: "high")([1], [1])
    with pytest.raises(DataError, match="a name or a function"):
        metrics.get_metric(3)
    with pytest.raises(DataError, match="needs is 'logit'"):
        metrics.get_metric(plain, needs="logit")
    with pytest.raises(DataError, match="needs groups"):
        metrics.get_metric("grouped_auc")([0, 1], [0, 1])


# --- bad input ------------------------------------------------------------------------------

EVERY = [(m.name, m) for m in metrics.METRICS.values()]


@pytest.mark.parametrize(
    ("y", "p", "options", "message"),
    [
        ([0, 1], [0.5], {}, "lengths differ: y_true has 2, y_.* has 1"),
        ([], [], {}, "is empty"),
        ([0, np.nan], [0.1, 0.2], {}, "y_true row 1 is nan"),
        ([0, 1], [0.1, np.inf], {}, "row 1 is inf"),
        ([0, 1], ["a", "b"], {}, "must be numbers"),
        ([[0, 1]], [0.1, 0.2], {}, "y_true has shape"),
        ([0, 1], [0.1, 0.2], {"sample_weight": [1]}, "sample_weight has 1 rows, y_true has 2"),
        ([0, 1], [0.1, 0.2], {"sample_weight": [1, -1]}, "sample_weight row 1 is -1.0"),
        ([0, 1], [0.1, 0.2], {"sample_weight": [0, 0]}, "zero in every row"),
        ([0, 1], [0.1, 0.2], {"sample_weight": [1, np.nan]}, "sample_weight row 1 is nan"),
    ],
)
@pytest.mark.parametrize(("name", "metric"), EVERY)
def test_bad_input_names_the_place(name, metric, y, p, options, message):
    with pytest.raises(DataError, match=message):
        metric(y, p, groups=np.zeros(len(np.ravel(y))), **options)


@pytest.mark.parametrize("name", ["auc", "grouped_auc", "normalized_entropy"])
@pytest.mark.parametrize("y", [[0, 0, 0], [1, 1, 1]])
def test_a_single_class(name, y):
    with pytest.raises(DataError, match=r"one class|holds both classes"):
        metrics.get_metric(name)(y, [0.1, 0.2, 0.3], groups=[1, 1, 2])


def test_a_class_without_weight_counts_as_absent():
    with pytest.raises(DataError, match="one class only"):
        metrics.auc([0, 1, 1], [0.1, 0.2, 0.3], sample_weight=[0, 1, 1])


@pytest.mark.parametrize("name", ["ndcg_at_k", "recall_at_k", "mrr"])
def test_nothing_relevant(name):
    with pytest.raises(DataError, match="no group holds a relevant row"):
        metrics.get_metric(name)([0, 0], [0.1, 0.2])


@pytest.mark.parametrize("name", ["log_loss", "ece", "normalized_entropy"])
def test_scores_are_not_probabilities(name):
    with pytest.raises(DataError, match=r"row 1 is 1.5, expected probabilities.*sigmoid"):
        metrics.get_metric(name)([0, 1], [0.5, 1.5])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.auc([0, 2], [0, 1]), "y_true holds 0, 2; expected labels 0 and 1"),
        (lambda: metrics.auc([-1, 0, 1], [0, 1, 2]), "expected labels 0 and 1"),
        (lambda: metrics.log_loss([0, 3], [[0.5, 0.5]] * 2), "row 1 is 3, expected a column"),
        (lambda: metrics.log_loss([0, 1], [[0.5, 0.4]] * 2), "row 0 sums to 0.9"),
        (lambda: metrics.log_loss([0, 1], [[0.5, 0.5], [np.nan, 0.5]]), "y_prob row 1 is"),
        (lambda: metrics.log_loss([], np.zeros((0, 2))), "y_prob is empty"),
        (lambda: metrics.log_loss([0], [[0.5, 0.5]] * 2), "lengths differ"),
        (lambda: metrics.log_loss([0, 0], [[1.0]] * 2), "one column"),
        (lambda: metrics.log_loss([[0]], [[0.5, 0.5]]), "y_true has shape"),
        (lambda: metrics.log_loss([0], [0.5], eps=0.0), "eps is 0.0"),
        (
            lambda: metrics.log_loss(["bat"], [[0.5, 0.5]], labels=["cat", "dog"]),
            "not among the labels. Did you mean 'cat'",
        ),
        (lambda: metrics.log_loss([1], [[0.5, 0.5]], labels=[1, 1]), "same label twice"),
        (lambda: metrics.log_loss([1], [[0.5, 0.5]], labels=[1]), "labels has shape"),
        (lambda: metrics.ece([0], [0.5], n_bins=0), "n_bins is 0"),
        (lambda: metrics.ece([0], [0.5], strategy="even"), "strategy is 'even'"),
        (lambda: metrics.ndcg_at_k([-1, 1], [0, 1]), "row 0 is -1, expected a relevance"),
        (lambda: metrics.ndcg_at_k([9999, 1], [0, 1], gain="exponential"), "overflows"),
        (lambda: metrics.ndcg_at_k([1], [0], gain="square"), "gain is 'square'"),
        (lambda: metrics.recall_at_k([1], [0], k=0), "k is 0"),
        (lambda: metrics.recall_at_k([1], [0], k=1.5), "k is 1.5"),
        (lambda: metrics.mrr([1], [0], groups=[1, 2]), "groups has 2 rows"),
        (lambda: metrics.mrr([1], [0], groups=[[1]]), "groups has shape"),
        (lambda: metrics.mrr([1], [0], groups=[np.nan]), "groups row 0 is nan"),
        (
            lambda: metrics.mrr([1, 0], [0, 1], groups=np.array([1, "a"], dtype=object)),
            "groups mixes types",
        ),
    ],
)
def test_bad_options_say_what_is_expected(call, message):
    with pytest.raises(DataError, match=message):
        call()
