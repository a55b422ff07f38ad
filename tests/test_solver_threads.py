"""Solvers on several threads, and on every instruction set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from solver_problems import behind, by_solver, clicks, make_rows, with_

from crossfm import _native
from crossfm.data.rows import Rows
from crossfm.metrics import log_loss
from crossfm.solvers import SGD, AdaGrad, FusedTrainer, RowwiseAdaGrad, fit


@by_solver
def test_deterministic_is_bit_equal_for_any_number_of_threads(base):
    rows = clicks()
    results = []
    for n_jobs in (2, 3, 1, 2, 5):
        options = with_(base, n_factors=6, loss="logistic", n_jobs=n_jobs, deterministic=True)
        trainer = FusedTrainer(options, 180)
        fit(trainer, rows, n_epochs=2)
        results.append(trainer.models()[0])
    for other in results[1:]:
        assert other.bias == results[0].bias
        np.testing.assert_array_equal(other.weights, results[0].weights)
        np.testing.assert_array_equal(other.factors, results[0].factors)


@pytest.mark.parametrize("loss", ["squared", "hinge", "huber", "poisson", "quantile"])
def test_every_loss_is_bit_equal_for_any_number_of_threads(loss):
    rows, results = clicks(2000), []
    for n_jobs in (1, 2, 4):
        options = AdaGrad(n_factors=3, loss=loss, loss_parameter=0.7, n_jobs=n_jobs,
                          deterministic=True)  # fmt: skip
        trainer = FusedTrainer(options, 180)
        history, models = fit(trainer, rows, n_epochs=3)
        assert history.epochs[-1].loss < history.epochs[0].loss
        results.append(models[0].factors)
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
def test_deterministic_blocks_match_minibatch_of_frozen_scores(interactions, monkeypatch):
    """One block: every gradient is taken at the starting point, so SGD steps simply add up."""
    rows, field_of = make_rows(np.random.default_rng(6), n=16, values=True)
    options = SGD(n_factors=3, loss="squared", learning_rate=0.01, init_scale=0.3,
                  interactions=interactions, n_jobs=2, deterministic=True)  # fmt: skip
    trainer = FusedTrainer(options, len(field_of), field_of)
    monkeypatch.setattr(trainer, "_blocks", lambda ready, threads: (16, 16, 1))
    ready = trainer.prepare(rows)
    before = trainer.models()[0]
    trainer.train(ready)
    after = trainer.models()[0]
    moved = np.zeros(len(field_of))
    scores = before.score(rows).astype(np.float64)
    offsets = rows.row_offsets()
    for r in range(len(rows)):
        at = slice(offsets[r], offsets[r + 1])
        np.add.at(moved, rows.ids[at], -0.01 * (scores[r] - rows.targets[r]) * rows.values[at])
    np.testing.assert_allclose(after.weights - before.weights, moved, rtol=1e-3, atol=1e-6)


def test_threads_have_copies_of_the_features_of_most_rows():
    rows = clicks()
    ready = FusedTrainer(AdaGrad(n_factors=4, loss="logistic", n_jobs=2), 180).prepare(rows)
    counts = np.bincount(rows.ids, minlength=180)
    assert ready.hot_ids is not None
    assert len(ready.hot_ids) == np.count_nonzero(counts >= 2)  # a 5,000th of 4,000 rows is one
    assert counts[ready.hot_ids].tolist() == sorted(counts[counts >= 2].tolist(), reverse=True)
    alone = FusedTrainer(AdaGrad(n_factors=4, loss="logistic"), 180).prepare(rows)
    assert alone.hot_ids is None


@pytest.mark.parametrize("solver", [AdaGrad, RowwiseAdaGrad], ids=["each", "rowwise"])
@pytest.mark.parametrize("model", ["fm", "ffm"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("length", [1, 7, 8, 21])
def test_copies_of_hot_features_are_theirs_alone(monkeypatch, model, dtype, length, solver):
    """One block: one thread has all rows, and steps on its copies are those on the table."""
    n_features, rng = 300_000, np.random.default_rng(3)
    hot = rng.choice(n_features, 2048, replace=False)
    ids = np.where(
        rng.random((5000, length)) < 0.5,
        rng.choice(hot, (5000, length)),
        rng.integers(0, n_features, (5000, length)),
    ).astype(dtype)
    fields = np.tile(np.arange(length, dtype=np.int32), 5000) if model == "ffm" else None
    rows = Rows(ids, fields=fields, targets=rng.integers(0, 2, 5000))
    options = solver(n_factors=4, loss="logistic", learning_rate=0.2, n_jobs=2, model=model,
                     n_fields=0 if model == "fm" else length)  # fmt: skip
    results = []
    for threads in (2, 1):
        trainer = FusedTrainer(options, n_features)
        monkeypatch.setattr(trainer, "_blocks", lambda ready, threads: (5000, 5000, 1))
        ready = trainer.prepare(rows)
        assert len(ready.hot_ids) > 500
        if threads == 1:
            ready = replace(ready, hot_ids=None)
        trainer.train(ready)
        results.append(trainer.models()[0])
    for name in ("weights", "factors"):
        np.testing.assert_allclose(
            getattr(results[0], name), getattr(results[1], name), rtol=1e-5, atol=1e-6
        )
    assert results[0].bias == pytest.approx(results[1].bias, rel=1e-5)


@by_solver
@pytest.mark.parametrize("n_jobs", [2, 4])
def test_threads_reach_the_loss_of_one(base, n_jobs):
    rows = clicks(20_000)

    def test_loss(jobs):
        options = with_(base, n_factors=4, loss="logistic", n_jobs=jobs)
        trainer = FusedTrainer(options, 180)
        fit(trainer, rows[:15_000], n_epochs=5)
        p = 1 / (1 + np.exp(-trainer.score(rows[15_000:]).astype(np.float64)))
        return log_loss(rows.targets[15_000:], p)

    # Threads take turns at random, which moves the third digit; copies merged by plain averages
    # are 0.02 to 0.07 worse here.
    assert test_loss(n_jobs) < test_loss(1) + behind(base)


@by_solver
def test_deterministic_blocks_learn_as_well_as_rows_one_by_one(base):
    """Two of five columns are in every row, where scores frozen for long would overshoot."""
    rng = np.random.default_rng(0)
    n = 3000
    X = np.column_stack([rng.normal(size=(n, 2)), np.ones((n, 3))])
    ids = np.column_stack(
        [np.tile([0, 1], (n, 1)), rng.integers(0, 3, (n, 3)) + np.array([2, 5, 8])]
    )
    w = rng.normal(size=11)
    y = (X * w[ids]).sum(1) + X[:, 0] * X[:, 1]
    rows = Rows(ids, X.ravel().astype(np.float32), targets=(y - y.mean()) / y.std())
    errors = []
    for deterministic in (False, True):
        options = with_(base, n_factors=4, deterministic=deterministic, l2_linear=0.0,
                        l2_factors=0.001)  # fmt: skip
        trainer = FusedTrainer(options, 11)
        fit(trainer, rows, n_epochs=20)
        errors.append(float(np.mean((trainer.score(rows) - rows.targets) ** 2)))
    assert errors[0] < 0.1
    assert errors[1] < errors[0] + 0.01


def test_two_callers_at_once_share_the_threads():
    """The pool serves one caller; the other one's threads are its own."""
    rows = clicks(20_000)
    model_of = []

    def train():
        trainer = FusedTrainer(
            AdaGrad(n_factors=4, loss="logistic", n_jobs=3, deterministic=True), 180
        )
        fit(trainer, rows, n_epochs=1)
        model_of.append(trainer.models()[0].factors)

    callers = [threading.Thread(target=train) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(model_of) == 4
    for other in model_of[1:]:
        np.testing.assert_array_equal(other, model_of[0])


def test_one_thread_is_reproducible_and_the_seed_matters():
    rows = clicks()

    def trained(seed):
        trainer = FusedTrainer(AdaGrad(n_factors=4, loss="logistic", seed=seed), 180)
        fit(trainer, rows, n_epochs=2)
        return trainer.models()[0].factors

    np.testing.assert_array_equal(trained(1), trained(1))
    assert np.abs(trained(1) - trained(2)).max() > 1e-3


# --- instruction sets --------------------------------------------------------------------------

LEVEL_SCRIPT = """
import json, sys
import numpy as np
from crossfm import _native
sys.path.insert(0, sys.argv[1])
from solver_problems import SOLVER_CASES, make_rows, trains, with_
from crossfm.solvers import FusedTrainer, fit
out = {"isa": _native.isa, "results": []}
for base in SOLVER_CASES:
    for k, values, interactions in [
        (3, True, "across_fields"), (16, False, "all"), (40, True, "all")
    ]:
        rows, field_of = make_rows(np.random.default_rng(k), values=values)
        options = with_(base, n_factors=k, loss="logistic", interactions=interactions)
        trainer = FusedTrainer(options, len(field_of), field_of)
        fit(trainer, rows, n_epochs=3)
        out["results"].append(trainer.score(rows).tolist())
    for model, k, bags in [
        ("ffm", 4, False), ("ffm", 8, False), ("ffm", 6, True),
        ("fwfm", 8, False), ("fwfm", 3, True),
    ]:
        if not trains(base, model):
            continue
        rows, field_of = make_rows(np.random.default_rng(k), values=bags, bags=bags)
        options = with_(base, n_factors=k, loss="logistic", interactions="across_fields",
                        model=model, n_fields=5)
        trainer = FusedTrainer(options, len(field_of), field_of)
        fit(trainer, rows, n_epochs=3)
        out["results"].append(trainer.score(rows).tolist())
for loss in ("squared", "hinge", "huber", "poisson", "quantile"):
    rows, field_of = make_rows(np.random.default_rng(1), values=True)
    options = with_(SOLVER_CASES[1], n_factors=5, loss=loss, loss_parameter=0.7)
    trainer = FusedTrainer(options, len(field_of), field_of)
    fit(trainer, rows, n_epochs=3)
    out["results"].append(trainer.score(rows).tolist())
print(json.dumps(out))
"""


def run_level(level):
    result = subprocess.run(
        [sys.executable, "-c", LEVEL_SCRIPT, os.path.dirname(__file__)],
        env={**os.environ, "CROSSFM_ISA": level},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_all_instruction_sets_agree():
    levels = _native.levels()
    results = {level: run_level(level) for level in levels}
    assert [results[level]["isa"] for level in levels] == levels
    for level in levels[1:]:
        for got, want in zip(results[level]["results"], results[levels[0]]["results"], strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_an_unknown_instruction_set_says_which_there_are():
    result = subprocess.run(
        [sys.executable, "-c", "import crossfm._native"],
        env={**os.environ, "CROSSFM_ISA": "x86-64-v9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "x86-64-v9" in result.stderr
    assert _native.levels()[0] in result.stderr
