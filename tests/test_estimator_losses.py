"""Losses of the estimators: what they predict, beside scikit-learn's linear models of the kind."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import (
    HuberRegressor,
    LinearRegression,
    PoissonRegressor,
    QuantileRegressor,
    SGDClassifier,
)
from sklearn.metrics import mean_pinball_loss, mean_poisson_deviance

import crossfm as cf
from crossfm.errors import DataError
from crossfm.losses import get_loss
from crossfm.store import load_model

LINEAR = {"n_factors": 0, "n_epochs": 60, "early_stopping": False, "random_state": 0}


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 3))
    return X, X @ [0.6, -0.4, 0.3], rng


def test_huber_is_not_moved_by_outliers(problem):
    X, signal, rng = problem
    y = 5 + 10 * signal + rng.normal(size=4000)
    dirty = np.where(rng.random(4000) < 0.1, y + 300, y)
    fm = cf.FMRegressor(loss="huber", **LINEAR).fit(X, dirty)
    theirs = HuberRegressor().fit(X, dirty)
    squared = LinearRegression().fit(X, dirty)
    np.testing.assert_allclose(fm.coef_, theirs.coef_, atol=0.3)
    # Half a deviation of the targets: the pull of a tenth of the rows, each of 1.35 deviations.
    error = np.abs(fm.predict(X) - (5 + 10 * signal)).mean()
    assert error < 0.2 * np.abs(squared.predict(X) - (5 + 10 * signal)).mean()


def test_poisson_predicts_the_mean_of_counts(problem):
    X, signal, rng = problem
    y = rng.poisson(20 * np.exp(signal)).astype(float)
    fm = cf.FMRegressor(loss="poisson", **LINEAR).fit(X, y)
    theirs = PoissonRegressor(alpha=0).fit(X, y)
    np.testing.assert_allclose(fm.coef_, theirs.coef_, atol=0.02)
    assert fm.intercept_ == pytest.approx(theirs.intercept_, abs=0.02)
    p = fm.predict(X)
    assert p.dtype == np.float32
    assert p.mean() == pytest.approx(y.mean(), rel=0.02)
    assert mean_poisson_deviance(y, p) < mean_poisson_deviance(y, theirs.predict(X)) + 0.01
    assert fm.history_[-1]["loss"] == pytest.approx(mean_poisson_deviance(y, p) / 2, rel=0.02)
    model = fm.model_
    assert model.metadata == {"loss": "poisson"}
    scores = model.score(cf.Rows(np.tile(np.arange(3), (4000, 1)), X.ravel()))
    np.testing.assert_allclose(get_loss("poisson").mean(scores), p, rtol=1e-4)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_quantiles_cover_their_share(problem, level):
    X, signal, rng = problem
    y = 100 + 10 * signal + 2 * rng.exponential(size=4000)
    fm = cf.FMRegressor(loss="quantile", quantile=level, **LINEAR).fit(X, y)
    theirs = QuantileRegressor(quantile=level, alpha=0).fit(X, y)
    p = fm.predict(X)
    assert np.mean(y <= p) == pytest.approx(level, abs=0.04)
    best = mean_pinball_loss(y, theirs.predict(X), alpha=level)
    assert mean_pinball_loss(y, p, alpha=level) < 1.05 * best


def test_hinge_separates(problem):
    X, signal, rng = problem
    y = np.where(signal + 0.3 * rng.normal(size=4000) > 0.2, "yes", "no")
    fm = cf.FMClassifier(loss="hinge", **LINEAR).fit(X, y)
    theirs = SGDClassifier(loss="hinge", alpha=1e-4, random_state=0, average=True).fit(X, y)
    assert fm.score(X, y) > theirs.score(X, y) - 0.01
    assert ((fm.decision_function(X) > 0) == (fm.predict(X) == "yes")).all()


def test_hinge_of_several_classes(problem):
    X, _, rng = problem
    y = (X @ rng.normal(size=(3, 4))).argmax(axis=1)
    fm = cf.FMClassifier(loss="hinge", n_factors=4, n_epochs=40, random_state=0).fit(X, y)
    theirs = SGDClassifier(loss="hinge", alpha=1e-4, random_state=0, average=True).fit(X, y)
    assert fm.decision_function(X).shape == (4000, 4)
    assert fm.score(X, y) > theirs.score(X, y) - 0.01


def test_hinge_has_no_probabilities(problem):
    X, signal, _ = problem
    fm = cf.FMClassifier(loss="hinge", n_epochs=2, random_state=0).fit(X, signal > 0)
    assert not hasattr(fm, "predict_proba")
    with pytest.raises(AttributeError) as caught:
        fm.predict_proba(X)
    assert "loss='hinge'" in str(caught.value.__cause__)
    assert hasattr(cf.FMClassifier(), "predict_proba")


def crossed_log():
    rng = np.random.default_rng(3)
    user, item = rng.integers(0, 12, 6000), rng.integers(0, 9, 6000)
    likes = np.where((user % 2) == (item % 3 == 0), 1.0, -1.0)
    return {"user": user.astype(str), "item": item.astype(str)}, likes, rng


def test_factors_are_learned_under_every_loss():
    """The target depends on the pair alone, which no linear model can see."""
    log, likes, rng = crossed_log()
    fit = {"n_factors": 8, "n_epochs": 40, "random_state": 0, "init_scale": 0.1}
    counts = rng.poisson(np.exp(1 + likes))
    poisson = cf.FMRegressor(loss="poisson", **fit).fit(log, counts)
    assert np.corrcoef(poisson.predict(log), np.exp(1 + likes))[0, 1] > 0.98
    noisy = likes + 0.1 * rng.normal(size=6000)
    for loss in ("huber", "quantile"):
        assert cf.FMRegressor(loss=loss, **fit).fit(log, noisy).score(log, noisy) > 0.9
    assert cf.FMClassifier(loss="hinge", **fit).fit(log, likes).score(log, likes) > 0.99


@pytest.mark.parametrize("loss", ["huber", "poisson", "quantile"])
def test_what_is_loaded_predicts_the_same(tmp_path, loss):
    log, likes, _ = crossed_log()
    y = 3 + likes
    fm = cf.FMRegressor(loss=loss, quantile=0.7, n_epochs=3, random_state=0).fit(log, y)
    path = tmp_path / "m.crossfm"
    fm.save(path)
    again = cf.load(path)
    np.testing.assert_array_equal(again.predict(log), fm.predict(log))
    assert load_model(path).models[0].metadata == {"loss": loss}
    assert (again.loss, again.quantile) == (loss, 0.7)
    again.partial_fit(log, y)  # goes on with the loss of before
    assert again.history_[-1]["loss"] < fm.history_[0]["loss"]


def test_a_loaded_classifier_of_hinge(tmp_path):
    log, likes, _ = crossed_log()
    fm = cf.FMClassifier(loss="hinge", n_epochs=3, random_state=0).fit(log, likes)
    fm.save(tmp_path / "m.crossfm")
    again = cf.load(tmp_path / "m.crossfm")
    np.testing.assert_array_equal(again.decision_function(log), fm.decision_function(log))
    np.testing.assert_array_equal(again.predict(log), fm.predict(log))
    assert not hasattr(again, "predict_proba")


@pytest.mark.parametrize(
    ("estimator", "metric"),
    [
        (cf.FMRegressor(loss="huber"), "mae"),
        (cf.FMRegressor(loss="poisson"), "poisson_deviance"),
        (cf.FMRegressor(loss="quantile", quantile=0.25), "pinball@0.25"),
        (cf.FMClassifier(loss="hinge"), "hinge_loss"),
    ],
    ids=lambda o: getattr(o, "loss", o),
)
def test_validation_goes_by_the_metric_of_the_loss(estimator, metric):
    log, likes, _ = crossed_log()
    y = likes + 1
    estimator.set_params(n_epochs=4, random_state=0).fit(log, y, eval_set=(log, y))
    assert metric in estimator.history_[0]
    known = cf.metrics.get_metric(metric)
    shown = estimator.predict(log)
    if metric == "hinge_loss":
        y, shown = y > 0, estimator.decision_function(log)
    best = estimator.history_[estimator.best_epoch_ - 1][metric]
    assert best == pytest.approx(known(y, shown), rel=1e-5)


def test_rare_counts_and_none_at_all():
    X = np.arange(20.0)[:, None]
    fm = cf.FMRegressor(loss="poisson", random_state=0).fit(X, np.zeros(20))
    assert (fm.predict(X) > 0).all()
    assert fm.predict(X).max() < 1e-3
    with pytest.raises(DataError, match=r"row 2: the target is negative, and loss='poisson'"):
        cf.FMRegressor(loss="poisson").fit(X, np.r_[1, 2, -1, np.zeros(17)])


def test_equal_targets_are_predicted():
    X = np.arange(20.0)[:, None]
    for loss in ("huber", "quantile", "poisson"):
        fm = cf.FMRegressor(loss=loss, random_state=0).fit(X, np.full(20, 7.0))
        np.testing.assert_allclose(fm.predict(X), 7, rtol=0.05)
    mostly = np.r_[np.full(15, 7.0), np.arange(5)]  # the median distance is 0
    fm = cf.FMRegressor(loss="huber", random_state=0).fit(X, mostly)
    assert np.isfinite(fm.predict(X)).all()


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (cf.FMRegressor(loss="hinge"), "loss is 'hinge', expected one of 'squared'"),
        (cf.FMRegressor(loss="huber", epsilon=0), "epsilon is 0, expected"),
        (cf.FMRegressor(loss="quantile", quantile=1.0), "quantile is 1.0, .* below 1"),
        (cf.FMClassifier(loss="squared"), "loss is 'squared', expected one of 'logistic', 'hinge'"),
    ],
)
def test_bad_losses_are_named(estimator, message):
    with pytest.raises(DataError, match=message):
        estimator.fit(np.zeros((4, 1)), [0, 1, 0, 1])


@pytest.mark.parametrize("change", [{"loss": "huber"}, {"quantile": 0.9}])
def test_a_fit_does_not_go_on_with_another_loss(change):
    log, likes, _ = crossed_log()
    fm = cf.FMRegressor(loss="quantile", n_epochs=1, warm_start=True).fit(log, likes)
    fm.set_params(**change)
    with pytest.raises(DataError, match="the model to go on from was fitted to 'quantile'"):
        fm.fit(log, likes)
    with pytest.raises(DataError, match="fitted to 'quantile'"):
        fm.partial_fit(log, likes)
