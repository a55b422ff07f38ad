"""Factors trained in bfloat16: every step rounded up or down at random, and so on average exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from solver_problems import clicks, make_rows

import crossfm as cf
from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.metrics import log_loss
from crossfm.solvers import AdaGrad, FusedTrainer, fit, solver_options
from crossfm.solvers.bfloat16 import from_bfloat16, to_bfloat16

NARROW = AdaGrad(precision="bfloat16", loss="logistic", n_factors=4, init_scale=0.3, seed=5)


def table_of(trainer):
    """Factors and their accumulators, [n, outputs, 2, k], as the trainer holds them."""
    held = trainer._views()[0]
    numbers = from_bfloat16(held) if held.dtype == np.uint16 else held
    return numbers[..., : trainer.options.numbers].astype(np.float64)


def neighbours(exact):
    """The bfloat16 numbers on either side of finite numbers (one of them may be equal)."""
    bits = np.asarray(exact, np.float32).view(np.uint32)
    cut = from_bfloat16((bits >> 16).astype(np.uint16)).astype(np.float64)
    more = from_bfloat16(((bits >> 16) + 1).astype(np.uint16)).astype(np.float64)
    return np.minimum(cut, more), np.maximum(cut, more)


def test_numbers_of_all_kinds_go_there_and_back():
    numbers = np.array([0, -0.0, 1, -2.5, 3e38, 1e-40, np.inf, -np.inf, np.nan], np.float32)
    back = from_bfloat16(to_bfloat16(numbers))
    np.testing.assert_allclose(back[:5], numbers[:5], rtol=2**-8)
    np.testing.assert_array_equal(np.signbit(back[:2]), [False, True])
    np.testing.assert_array_equal(back[6:], numbers[6:])
    every = np.arange(2**16, dtype=np.uint16)
    every = every[np.isfinite(from_bfloat16(every))]
    np.testing.assert_array_equal(to_bfloat16(from_bfloat16(every)), every)


@pytest.mark.parametrize("model", ["fm", "ffm"])
@pytest.mark.parametrize("special", [False, True], ids=["lookups", "bags and values"])
@pytest.mark.parametrize("k", [1, 3, 4, 8, 16, 24])
def test_a_row_steps_to_the_numbers_beside_the_exact_one(model, special, k):
    """From equal starts, where float32 (which has an oracle of its own) goes in one row."""
    rng = np.random.default_rng(k)
    rows, field_of = make_rows(rng, 40, values=special, bags=special)
    n = len(field_of)
    held = {"n_factors": k, "model": model, "n_fields": 5 if model == "ffm" else 0}
    held |= {"l2_factors": 0.1, "learning_rate": 0.2, "interactions": "across_fields"}
    narrow = FusedTrainer(replace(NARROW, **held), n, field_of)
    wide = FusedTrainer(replace(NARROW, **held, precision="float32"), n, field_of)
    start = FusedTrainer(replace(NARROW, **held), n, field_of)
    start.prepare(rows)  # draws the factors
    model_of = start.models()[0]
    row = rows[3:4]
    for trainer in (narrow, wide):
        trainer.load([model_of])
        trainer.train(trainer.prepare(row))
    moved = table_of(wide) != table_of(start)
    assert moved[row.ids].any()
    low, high = neighbours(table_of(wide))
    slack = 1e-6 * np.abs(high)  # float32 sums in another order
    got = table_of(narrow)
    assert ((got >= low - slack) & (got <= high + slack)).all()
    others = np.setdiff1d(np.arange(n), row.ids)
    np.testing.assert_array_equal(got[others], table_of(start)[others])
    np.testing.assert_allclose(
        narrow.models()[0].weights, wide.models()[0].weights, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("model", ["fm", "ffm"])
def test_rounding_is_right_on_average(monkeypatch, model):
    """20,000 rows of two features each, all alike; a step is far below a unit of the last place."""
    n = 20_000
    rows = Rows(np.arange(2 * n, dtype=np.int32).reshape(n, 2), targets=np.ones(n),
                fields=np.tile(np.array([0, 1], np.int32), n))  # fmt: skip
    held = {"model": model, "n_fields": 2 if model == "ffm" else 0, "deterministic": True}
    held |= {"learning_rate": 0.004, "init_scale": 0.0}
    found = {}
    for precision in ("bfloat16", "float32"):
        trainer = FusedTrainer(replace(NARROW, **held, precision=precision), 2 * n)
        monkeypatch.setattr(trainer, "_blocks", lambda ready, threads: (n, n, 1))  # one gradient
        ready = trainer.prepare(rows)
        trainer._views()[0][:, :, 0, : trainer.options.numbers] = (
            to_bfloat16(np.float32([0.3]))[0] if precision == "bfloat16" else np.float32(0.30078125)
        )
        trainer.train(ready)
        found[precision] = table_of(trainer)
    for state in (0, 1):
        # of a field-aware model, the vectors that met the other field
        met = [found[p][:, 0, state].reshape(n, -1) for p in ("float32", "bfloat16")]
        (wide, narrow) = (m[:, 4:12] for m in met) if model == "ffm" else met
        exact = wide[0, 0]
        low, high = neighbours(exact)
        assert low < exact < high
        got = narrow.ravel()
        assert set(np.unique(got)) == {float(low), float(high)}
        share, expected = (got == high).mean(), (exact - low) / (high - low)
        assert 0.02 < expected < 0.98
        # five standard errors of independent draws
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / len(got))
        if model == "fm":  # and independent they are: between numbers, and between features
            up = (narrow == high).astype(np.float64)
            r = np.corrcoef(np.concatenate([up[:-1].T, up[1:].T]))
            assert np.abs(r - np.eye(len(r))).max() < 5 / np.sqrt(n)


@pytest.mark.parametrize("model", ["fm", "ffm"])
def test_deterministic_is_bit_equal_for_any_number_of_threads(model):
    rows, found = clicks(), []
    rows = Rows(rows.ids, targets=rows.targets, n_rows=len(rows),
                fields=np.tile(np.arange(6, dtype=np.int32), len(rows)))  # fmt: skip
    for n_jobs in (2, 1, 3):
        held = replace(NARROW, model=model, n_fields=6 if model == "ffm" else 0, n_jobs=n_jobs,
                       deterministic=True)  # fmt: skip
        trainer = FusedTrainer(held, 180)
        fit(trainer, rows, n_epochs=2)
        found.append(table_of(trainer))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
    other = FusedTrainer(
        replace(NARROW, model=model, n_fields=6 if model == "ffm" else 0, seed=6), 180
    )
    fit(other, rows, n_epochs=2)
    assert (table_of(other) != found[0]).any()


@pytest.mark.parametrize("n_jobs", [1, 2, 4])
@pytest.mark.parametrize("model", ["fm", "ffm"])
def test_learns_as_float32_does(model, n_jobs):
    rows = clicks(20_000)
    losses = {}
    for precision in ("float32", "bfloat16"):
        n_fields = 6 if model == "ffm" else 0
        held = replace(NARROW, precision=precision, model=model, n_fields=n_fields, n_jobs=n_jobs)
        trainer = FusedTrainer(held, 180, np.repeat(np.arange(6, dtype=np.int32), 30))
        fit(trainer, rows[:15_000], n_epochs=5)
        p = 1 / (1 + np.exp(-trainer.score(rows[15_000:]).astype(np.float64)))
        losses[precision] = log_loss(rows.targets[15_000:], p)
    # few features, each stepped a thousand times and more: roundings are most of what is seen.
    # Several threads take turns at random.
    assert losses["bfloat16"] < losses["float32"] + (0.006 if n_jobs == 1 else 0.015)


def test_scores_are_those_of_the_model():
    for model, k in (("fm", 6), ("fm", 32), ("ffm", 4)):
        rows, field_of = make_rows(np.random.default_rng(2), 200)
        held = replace(NARROW, n_factors=k, model=model, n_fields=5 if model == "ffm" else 0)
        trainer = FusedTrainer(held, len(field_of), field_of)
        fit(trainer, rows, n_epochs=3)
        taken = trainer.models()[0]
        assert taken.precision == "float32"
        np.testing.assert_allclose(trainer.score(rows), taken.score(rows), rtol=1e-5, atol=1e-5)


def test_classes_have_tables_of_their_own():
    rows, field_of = make_rows(np.random.default_rng(4), 400, classes=3)
    trainer = FusedTrainer(replace(NARROW, loss="softmax", n_outputs=3), len(field_of), field_of)
    history, models = fit(trainer, rows, n_epochs=10)
    assert history.epochs[-1].loss < history.epochs[0].loss
    want = np.column_stack([model.score(rows) for model in models])
    np.testing.assert_allclose(trainer.score(rows), want, rtol=1e-4, atol=1e-5)


def test_tables_take_half_and_grow():
    trainer = FusedTrainer(replace(NARROW, n_factors=16), 1000)
    assert trainer._factors.nbytes == 1000 * 2 * 16 * 2
    rows = Rows(np.array([[0, 1], [1, 2]]), targets=np.array([0, 1]))
    trainer.train(trainer.prepare(rows))
    before = table_of(trainer)
    trainer.grow(2500)
    np.testing.assert_array_equal(table_of(trainer)[:1000], before)
    assert not table_of(trainer)[1000:].any()


def test_estimators_train_and_go_on(tmp_path):
    rows = clicks(3000)
    X, y = rows.ids, rows.targets
    frame = {f"c{j}": [str(v) for v in X.reshape(-1, 6)[:, j]] for j in range(6)}
    table = pa.table(frame)
    for kind in (cf.FMClassifier, cf.FFMClassifier):
        held = kind(precision="bfloat16", n_epochs=5, random_state=0, early_stopping=False)
        held.fit(table, y)
        p = held.predict_proba(table)[:, 1]
        assert log_loss(y, p) < 0.6
        bits = held.factors_.ravel().view(np.uint32)
        assert bits.any()
        assert not (bits & 0xFFFF).any()  # nothing below the upper half
        held.save(tmp_path / "m.crossfm")
        again = cf.load(tmp_path / "m.crossfm")
        np.testing.assert_array_equal(again.predict_proba(table)[:, 1], p)
        held.partial_fit(table, y)
        assert log_loss(y, held.predict_proba(table)[:, 1]) < log_loss(y, p)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"precision": "bfloat"}, r"precision.*bfloat16"),
        ({"precision": "float16"}, r"precision"),
        ({"precision": "bfloat16", "solver": "sgd"}, r"does not apply to solver='sgd'.*adagrad"),
        ({"precision": "bfloat16", "l2_factors": "adaptive"}, r"give l2_factors as numbers"),
    ],
)
def test_refusals(given, told):
    rows = clicks(200)
    with pytest.raises(DataError, match=told):
        cf.FMClassifier(**given).fit(rows)


def test_refused_models():
    with pytest.raises(DataError, match=r"hofm models are not trained in"):
        solver_options("adagrad", model="hofm", order=3, precision="bfloat16")
    assert solver_options("adagrad", precision="bfloat16").bfloat16
    assert not solver_options("sgd").bfloat16
