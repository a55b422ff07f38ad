"""Gibbs sampling, least squares and variational Bayes on input with little or nothing to learn."""

from __future__ import annotations

import numpy as np
import pytest

from crossfm import FMClassifier, FMRegressor, OrdinalFMRegressor
from crossfm.errors import DataError, SchemaError

by_solver = pytest.mark.parametrize("solver", ["mcmc", "als", "vb"])
N = 60


@pytest.fixture
def log():
    rng = np.random.default_rng(0)
    return {"user": rng.integers(0, 12, N), "film": rng.integers(0, 9, N)}


def regressor(solver, n_factors=3, n_epochs=20):
    return FMRegressor(n_factors, solver=solver, n_epochs=n_epochs, random_state=0)


@by_solver
def test_a_constant_target_is_predicted(log, solver):
    found = regressor(solver, n_epochs=100).fit(log, np.full(N, 3.0)).predict(log)
    np.testing.assert_allclose(found, 3.0, atol=0.1)


@by_solver
def test_a_field_with_one_value_takes_nothing_away(log, solver):
    y = np.random.default_rng(1).normal(size=12)[log["user"]]
    frame = {"page": ["home"] * N, **log}
    found = regressor(solver, n_epochs=100).fit(frame, y).predict(frame)
    assert np.corrcoef(found, y)[0, 1] > 0.9


@by_solver
def test_more_factors_than_rows(log, solver):
    few = {name: column[:8] for name, column in log.items()}
    y = np.random.default_rng(1).normal(size=8)
    found = regressor(solver, n_factors=50).fit(few, y).predict(log)
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 10


@by_solver
def test_one_row(solver):
    """A matrix says what its columns are; a frame of one row says nothing."""
    found = regressor(solver).fit(np.array([[1.0, 2.0]]), [3.0]).predict(np.array([[1.0, 2.0]]))
    assert np.isfinite(found).all()
    with pytest.raises(SchemaError, match="constant"):
        regressor(solver).fit({"user": [1], "film": [2]}, [3.0])


@by_solver
def test_columns_without_content(solver):
    y = np.random.default_rng(1).normal(size=N)
    with pytest.raises(DataError, match=r"0 feature\(s\)"):
        regressor(solver).fit(np.zeros((N, 0)), y)
    found = regressor(solver).fit(np.zeros((N, 3)), y).predict(np.zeros((2, 3)))
    np.testing.assert_allclose(found, y.mean(), atol=0.3)


@by_solver
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(log, solver, wrong):
    y = np.random.default_rng(1).normal(size=N)
    name = "NaN" if np.isnan(wrong) else "infinity"
    with pytest.raises(DataError, match=f"X contains {name}.*: row 0"):
        regressor(solver).fit(np.full((N, 2), wrong), y)
    y[3] = wrong
    with pytest.raises(DataError, match=f"y contains {name}: row 3"):
        regressor(solver).fit(log, y)


@by_solver
@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_unit_of_the_target_does_not_matter(log, solver, scale):
    y = np.random.default_rng(1).normal(size=12)[log["user"]]
    one = regressor(solver).fit(log, y).predict(log)
    other = regressor(solver).fit(log, scale * y).predict(log)
    np.testing.assert_allclose(other / scale, one, 1e-3, 1e-3)


@by_solver
def test_classes(log, solver):
    kind = FMClassifier(3, solver=solver, n_epochs=10)
    with pytest.raises(DataError, match="one class"):
        kind.fit(log, np.ones(N))
    with pytest.raises(DataError, match=rf"solver='{solver}' is for two; take solver='adagrad'"):
        kind.fit(log, np.arange(N) % 3)


def test_levels(log):
    with pytest.raises(DataError, match="at least two different ones"):
        OrdinalFMRegressor(3, n_epochs=10).fit(log, np.ones(N))
