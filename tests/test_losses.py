"""Losses against finite differences, scipy's functions and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sklearn.metrics

from crossfm.errors import DataError
from crossfm.losses import (
    LOSSES,
    Hinge,
    Huber,
    Logistic,
    Poisson,
    Quantile,
    Softmax,
    Squared,
    get_loss,
    log_softmax,
    logit,
    sigmoid,
    softmax,
    softplus,
)

STEP = 1e-6
ATOL = 1e-8  # central differences: step^2 of truncation, 1e-16 / step of rounding


def draw(name: str, n: int):
    rng = np.random.default_rng(n)
    if name == "softmax":
        return rng.normal(size=(n, 5)) * 3, rng.integers(0, 5, n)
    if name in ("squared", "huber", "quantile"):
        target = rng.normal(size=n)
    else:
        target = rng.integers(0, 5 if name == "poisson" else 2, n)
    return rng.normal(size=n) * 3, target


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("name", list(LOSSES))
def test_gradient_equals_finite_differences(name, n):
    loss = get_loss(name)
    score, target = draw(name, n)
    got = loss.gradient(score, target)
    assert got.shape == score.shape
    if score.ndim == 1:
        up, down = loss.value(score + STEP, target), loss.value(score - STEP, target)
        np.testing.assert_allclose(got, (up - down) / (2 * STEP), atol=ATOL, rtol=1e-7)
        return
    for c in range(score.shape[1]):
        step = np.zeros_like(score)
        step[:, c] = STEP
        slope = (loss.value(score + step, target) - loss.value(score - step, target)) / (2 * STEP)
        np.testing.assert_allclose(got[:, c], slope, atol=ATOL)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "hinge"])
def test_link_and_mean_undo_each_other(name):
    loss = get_loss(name)
    score, _ = draw(name, 33)
    again = loss.link(loss.mean(score))
    if name == "softmax":  # scores count up to a constant a row
        score = score - score.mean(axis=1, keepdims=True)
        again = again - again.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(again, score, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["squared", "logistic", "poisson"])
def test_the_initial_score_is_the_best_constant(name, weighted):
    loss = get_loss(name)
    _, target = draw(name, 64)
    weight = np.random.default_rng(1).random(64) if weighted else None
    best = scipy.optimize.minimize_scalar(
        lambda s: loss.average(np.full(64, s), target, weight), bounds=(-9, 9), method="bounded"
    )
    np.testing.assert_allclose(loss.initial_score(target, weight), best.x, atol=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "loss", [Quantile(0.1), Quantile(0.5), Quantile(0.9), Hinge()], ids=lambda o: o.name
)
def test_no_constant_is_better_than_the_initial_score(loss, weighted):
    """Losses with corners may have a flat valley, or none but the start."""
    _, target = draw(loss.name, 64)
    weight = np.random.default_rng(1).random(64) if weighted else None
    start = loss.average(np.full(64, loss.initial_score(target, weight)), target, weight)
    others = [loss.average(np.full(64, s), target, weight) for s in np.linspace(-4, 4, 4001)]
    assert start <= min(others) + 1e-12


def test_several_outputs_of_hinge_are_each_class_against_the_rest():
    score, target = np.random.default_rng(0).normal(size=(50, 4)), np.arange(50) % 4
    alone = [Hinge().value(score[:, c], target == c) for c in range(4)]
    np.testing.assert_allclose(Hinge().value(score, target), np.sum(alone, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(
        Hinge().gradient(score, target),
        np.column_stack([Hinge().gradient(score[:, c], target == c) for c in range(4)]),
    )
    np.testing.assert_array_equal(Hinge().initial_score(target, n_classes=4), np.full(4, -1.0))


def test_values_equal_scikit_learns():
    s, y = draw("poisson", 200)
    deviance = sklearn.metrics.mean_poisson_deviance(y, np.exp(s))
    assert 2 * Poisson().average(s, y) == pytest.approx(deviance, rel=1e-12)
    s, y = draw("quantile", 200)
    pinball = sklearn.metrics.mean_pinball_loss(y, s, alpha=0.8)
    assert Quantile(0.8).average(s, y) == pytest.approx(pinball, rel=1e-12)
    s, y = draw("hinge", 200)
    assert Hinge().average(s, y) == pytest.approx(sklearn.metrics.hinge_loss(y, s), rel=1e-12)
    s, y = draw("huber", 200)
    want = scipy.special.huber(0.7, s - y)
    np.testing.assert_allclose(Huber(0.7).value(s, y), want, rtol=1e-12)


def test_the_initial_softmax_scores_give_the_shares():
    target, weight = np.array([0, 2, 2, 2]), np.array([1.0, 1.0, 2.0, 0.0])
    score = Softmax().initial_score(target, weight, n_classes=4)
    np.testing.assert_allclose(softmax(score), [0.25, 0, 0.75, 0], atol=3e-6)
    assert np.isfinite(score).all()
    assert score.mean() == pytest.approx(0, abs=1e-12)


def test_single_class_starts_finite():
    assert Logistic().initial_score([1.0, 1.0]) == pytest.approx(13.8155, abs=1e-4)
    assert Logistic().initial_score([0.0, 0.0]) == pytest.approx(-13.8155, abs=1e-4)


def test_helpers_equal_scipy():
    s = np.r_[np.linspace(-40, 40, 999), -700.0, 709.0, 1e4, -1e4, 0.0]
    np.testing.assert_allclose(sigmoid(s), scipy.special.expit(s), rtol=1e-14)
    np.testing.assert_allclose(softplus(s), -scipy.special.log_expit(-s), rtol=1e-14)
    p = scipy.special.expit(s[:999])
    np.testing.assert_allclose(logit(p), scipy.special.logit(p), rtol=1e-9, atol=1e-15)
    table = np.random.default_rng(0).normal(size=(9, 6)) * 500
    np.testing.assert_allclose(softmax(table), scipy.special.softmax(table, axis=1), atol=1e-15)
    np.testing.assert_allclose(
        log_softmax(table), scipy.special.log_softmax(table, axis=1), rtol=1e-13
    )


def test_scores_of_any_size_stay_finite():
    s = np.array([-1e308, -1e5, 1e5, 1e308])
    for target in (np.zeros(4), np.ones(4)):
        assert np.isfinite(Logistic().value(s, target)).all()
        assert np.isfinite(Logistic().gradient(s, target)).all()
        assert np.isfinite(Poisson().gradient(s, target)).all()
        assert np.isfinite(Poisson().value(s / 1e20, target)).all()
        assert np.isfinite(Hinge().value(s, target)).all()
    wide = np.array([[1e300, -1e300, 0.0]])
    assert np.isfinite(Softmax().value(wide, [1])).all()
    assert np.isfinite(Softmax().gradient(wide, [1])).all()


def test_softmax_of_two_classes_is_logistic():
    score, target = draw("logistic", 50)
    both = np.column_stack([np.zeros(50), score])
    np.testing.assert_allclose(
        Softmax().value(both, target), Logistic().value(score, target), rtol=1e-12
    )


def test_squared_is_half():
    assert Squared().average([3.0, 1.0], [1.0, 1.0], [1.0, 3.0]) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_loss("hing"), "no loss 'hing'. Did you mean 'hinge'"),
        (lambda: Softmax().value([[0.0, 1.0]], [2]), "row 0 is 2, expected a class number 0 to 1"),
        (lambda: Softmax().value([[0.0, 1.0]], [0.5]), "row 0 is 0.5"),
        (lambda: Softmax().value([0.0, 1.0], [0, 1]), "expected \\[n, n_classes\\]"),
        (lambda: Softmax().value([[0.0, 1.0]], [0, 1]), "2 targets for 1 rows"),
        (lambda: Softmax().value([[0.0, 1.0]], [[0]]), "targets have shape"),
        (lambda: Hinge().mean([0.0]), "no probabilities"),
        (lambda: Hinge().link([0.5]), "no probabilities"),
        (lambda: softmax(np.zeros((2, 0))), "at least one class"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(DataError, match=message):
        call()
