"""Ordered levels by Gibbs sampling: probabilities, expected ratings, files."""

from __future__ import annotations

import numpy as np
import pytest
from made_up import ratings
from scipy.stats import norm
from test_bayes import definition

import crossfm as cf
from crossfm import OrdinalFMRegressor, Sampling
from crossfm.errors import DataError
from crossfm.solvers.sweeps.latents import Cutpoints


def stars(n=3000, seed=0):
    X, y = ratings(n, seed)
    y = y + np.random.default_rng(seed + 1).normal(size=n)
    return X, np.digitize(y, [0.5, 2.5, 3.0, 4.5]) * 2.0 + 1  # levels 1, 3, 5, 7, 9


def halves(X, y):
    cut = len(y) * 3 // 4
    first, second = ({k: v[part] for k, v in X.items()} for part in (slice(cut), slice(cut, None)))
    return first, y[:cut], second, y[cut:]


def test_levels_are_learned_with_their_distances():
    X, y, X_new, y_new = halves(*stars())
    fm = OrdinalFMRegressor(4, random_state=0).fit(X, y)
    assert fm.levels_.tolist() == [1, 3, 5, 7, 9]
    assert fm.score(X_new, y_new) > 0.5
    p = fm.predict_proba(X_new)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-6)
    place = np.searchsorted(fm.levels_, y_new)
    seen = np.bincount(np.searchsorted(fm.levels_, y), minlength=5) / len(y)
    np.testing.assert_allclose(fm.predict_proba(X).mean(axis=0), seen, atol=0.03)
    sure = p.max(axis=1)
    right = p.argmax(axis=1) == place
    np.testing.assert_allclose(right.mean(), sure.mean(), atol=0.05)  # as often right as it says
    losses = [epoch["loss"] for epoch in fm.history_]
    assert losses[-1] < 0.9 * losses[0]


def test_probabilities_are_means_over_draws():
    X, y = stars(300)
    fm = OrdinalFMRegressor(2, n_epochs=12, random_state=0).fit(X, y)
    rows = fm.schema_.transform(X)
    p = np.zeros((len(y), 5))
    cutpoints = fm.traces_["cutpoints"][0, 1:]
    for draw, inner in zip(fm.draws_, cutpoints, strict=True):
        limits = np.r_[-np.inf, inner, np.inf] - definition(draw, rows)[:, None]
        p += np.diff(norm.cdf(limits), axis=1) / len(fm.draws_)
    np.testing.assert_allclose(fm.predict_proba(X), p, atol=1e-5)
    np.testing.assert_allclose(fm.predict(X), p @ fm.levels_, rtol=1e-5)
    quantiles = fm.predict_quantiles(X, (0.2, 0.9))
    for at, share in enumerate((0.2, 0.9)):
        place = np.searchsorted(fm.levels_, quantiles[:, at])
        below = p.cumsum(axis=1)
        row = np.arange(len(y))
        assert (below[row, place] >= share - 1e-5).all()
        assert (np.where(place > 0, below[row, place - 1], 0.0) < share + 1e-5).all()


def test_validation_files_and_going_on(tmp_path):
    X, y, X_new, y_new = halves(*stars(400))
    fm = OrdinalFMRegressor(2, n_epochs=10, sampling=Sampling(n_chains=2), random_state=0)
    fm.fit(X, y, eval_set=(X_new, y_new))
    rmse = np.sqrt(np.mean((fm.predict(X_new) - y_new) ** 2))
    np.testing.assert_allclose(fm.history_[-1]["rmse"], rmse, rtol=1e-5)
    fm.save(tmp_path / "a.crossfm")
    again = cf.load(tmp_path / "a.crossfm")
    assert isinstance(again, OrdinalFMRegressor)
    np.testing.assert_array_equal(again.predict_proba(X_new), fm.predict_proba(X_new))
    np.testing.assert_array_equal(again.levels_, fm.levels_)
    again.set_params(warm_start=True, n_epochs=5).fit(X, y)
    assert again.traces_["cutpoints"].shape == (2, 15, 4)
    assert len(again.draws_) == 2 * (9 + 5)


def test_refusals():
    X, y = stars(300)
    for targets, message in (
        (np.full(300, 2.0), "all targets are 2"),
        (np.random.default_rng(0).normal(size=300), "300 different numbers"),
        (np.where(np.arange(300) == 7, np.nan, y), "NaN: row 7"),
    ):
        with pytest.raises(DataError, match=message):
            OrdinalFMRegressor(2, n_epochs=2).fit(X, targets)
    fm = OrdinalFMRegressor(2, n_epochs=2, random_state=0).fit(X, y)
    with pytest.raises(DataError, match="row 0: target 2 is none of the levels 1, 3, 5"):
        OrdinalFMRegressor(2, n_epochs=2).fit(X, y, eval_set=(X, np.full(300, 2.0)))
    with pytest.raises(DataError, match="level is 0"):
        fm.predict_quantiles(X, 0.0)
    assert not hasattr(fm, "partial_fit")


# --- limits of the levels -------------------------------------------------------------------------


def log_density(t, scores, levels, weights):
    """Of limits on the line, from the definition."""
    limits = np.r_[-np.inf, np.cumsum(np.r_[t[0], np.exp(t[1:])]), np.inf]
    p = norm.cdf(limits[levels + 1] - scores) - norm.cdf(limits[levels] - scores)
    return weights @ np.log(p) - np.square(t).sum() / 50


@pytest.mark.parametrize(("n", "n_levels"), [(40, 2), (200, 3), (3000, 6)])
def test_slope_and_curvature_of_the_limits(n, n_levels):
    rng = np.random.default_rng(n)
    scores = rng.normal(size=n).astype(np.float32)
    levels = np.searchsorted(np.sort(rng.normal(size=n_levels - 1)), scores + rng.normal(size=n))
    weights = rng.uniform(0.5, 2, n).astype(np.float32)
    limits = Cutpoints(levels.astype(np.float32), n_levels, weights)
    at = limits._mode + 0.2 * rng.normal(size=n_levels - 1)
    value, slope, curve = limits._local(scores, at)
    assert value == pytest.approx(log_density(at, scores, levels, weights), rel=1e-9)
    step = 1e-4 * np.eye(n_levels - 1)
    for k, d in enumerate(step):
        up, down = (log_density(at + sign * d, scores, levels, weights) for sign in (1, -1))
        assert slope[k] == pytest.approx((up - down) / 2e-4, rel=1e-4, abs=1e-3)
        up, down = (limits._local(scores, at + sign * d)[1] for sign in (1, -1))
        np.testing.assert_allclose(-curve[k], (up - down) / 2e-4, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("moves", ["newton", "walk"])
def test_limits_are_drawn_from_their_conditional(moves):
    """Of one limit, whose density is summed up on a grid."""
    rng = np.random.default_rng(5)
    scores = rng.normal(size=60).astype(np.float32)
    levels = (scores + rng.normal(size=60) > 1.0).astype(np.int64)
    limits = Cutpoints(levels.astype(np.float32), 2, None, moves)
    drawn = []
    for iteration in range(4200):
        limits.draw(rng, scores, iteration)
        drawn.append(limits.inner[0])
    grid = np.linspace(-1, 4, 2001)
    logs = np.array([log_density([c], scores, levels, np.ones(60)) for c in grid])
    p = np.exp(logs - logs.max())
    p /= p.sum()
    mean = p @ grid
    deviation = np.sqrt(p @ (grid - mean) ** 2)
    kept = np.array(drawn[200:])
    assert kept.mean() == pytest.approx(mean, abs=0.15 * deviation)
    assert kept.std() == pytest.approx(deviation, rel=0.1)


def test_limits_far_from_where_they_belong():
    """Newton's way back, from a start that no step of full length leads out of."""
    rng = np.random.default_rng(0)
    scores = rng.normal(scale=30, size=500).astype(np.float32)
    levels = np.searchsorted([-20.0, 5.0, 40.0], scores).astype(np.float32)
    limits = Cutpoints(levels, 4, None)
    for iteration in range(5):
        limits.draw(rng, scores, iteration)
    np.testing.assert_allclose(limits.inner, [-20, 5, 40], atol=3)


def test_moves_of_the_limits():
    X, y = stars(300)
    two = [
        OrdinalFMRegressor(2, n_epochs=30, random_state=0, sampling=Sampling(cutpoint_moves=moves))
        .fit(X, y).traces_["cutpoints"][0, :, 0]
        for moves in ("newton", "walk")
    ]  # fmt: skip
    assert (two[0][1:] != two[1][1:]).all()
    with pytest.raises(DataError, match="cutpoint_moves is 'jump', expected"):
        OrdinalFMRegressor(n_epochs=2, sampling=Sampling(cutpoint_moves="jump")).fit(X, y)
