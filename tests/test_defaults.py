"""Defaults that follow the data: long rows do not run away, a stream keeps what it began with."""

from __future__ import annotations

import numpy as np
import pytest

from crossfm import FMRegressor, Rows
from crossfm.metrics import rmse


@pytest.mark.parametrize("solver", ["adagrad", "sgd", "ftrl", "adam"])
@pytest.mark.parametrize("length", [200, 1000, 5000])
def test_long_rows_are_learned_and_no_worse_than_the_mean(solver, length):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3 * length, (400, length))
    weight = rng.normal(size=3 * length) / np.sqrt(length)
    y = weight[ids].sum(axis=1)
    rows = Rows(ids)
    fm = FMRegressor(n_epochs=10, solver=solver, early_stopping=False, random_state=0)
    fm.fit(rows[:300], y[:300])
    assert fm.history_[-1]["loss"] < 0.5 * fm.history_[0]["loss"]
    assert rmse(y[300:], fm.predict(rows[300:])) < 1.25 * y.std()  # more unknowns than rows


def test_a_bag_of_100_000_entries():
    bags = {"seen": [list(range(100_000)), [1, 2], [3, 4], []] * 3, "user": list("abcdefghijkl")}
    y = np.arange(12.0)
    fm = FMRegressor(n_epochs=20, random_state=0).fit(bags, y)
    assert np.abs(fm.predict(bags) - y).max() < 12


def test_later_batches_of_another_size_go_on_from_the_same_state():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(6000, 3)), rng.normal(size=6000)
    fm = FMRegressor(random_state=0).fit(X, y)
    trainer = fm._machine.trainer
    for n in (6000, 50, 1):
        fm.partial_fit(X[:n], y[:n])
        assert fm._machine.trainer is trainer  # with its optimizer's state
