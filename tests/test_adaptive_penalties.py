"""Penalties learned on validation rows: their gradient against differences, and what they reach."""

from __future__ import annotations

import math

import numpy as np
import pytest
from field_oracle import ffm_pairs, fwfm_pairs
from solver_problems import clicks, make_rows

from crossfm import FFMClassifier, FMClassifier, FMRegressor
from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.fitting import Watch
from crossfm.solvers import SGD, AdaGrad, Checkpoint, FusedTrainer, fit, solver_options

F, K = 5, 3  # fields of make_rows, factors
MODELS = {
    "fm": {"interactions": "all"},
    "fm_across": {"interactions": "across_fields"},
    "ffm": {"model": "ffm", "n_fields": F},
    "fwfm": {"model": "fwfm", "n_fields": F, "interactions": "across_fields"},
}


def score_of(kind, across, w, v, r, row):
    """Linear and pair terms of (id, field, value) entries, in float64; v [n, F or 1, K]."""
    total = sum(x * w[i] for i, _, x in row)
    if kind == "ffm":
        return total + ffm_pairs(lambda i, g: v[i, g].tolist(), row, across)[0]
    if kind == "fwfm":
        return total + fwfm_pairs(lambda i: v[i, 0].tolist(), lambda f, g: r[f, g], row)[0] if (
            row
        ) else total  # fmt: skip
    for b, (j, g, y) in enumerate(row):
        for i, f, x in row[:b]:
            if not (across and f == g):
                total += x * y * float(v[i, 0] @ v[j, 0])
    return total


@pytest.mark.parametrize("solver", ["sgd", "adagrad"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("varied", [False, True])
def test_the_gradient_of_penalties_is_that_of_differences(solver, model, varied):
    """The loss after theta -= t rate theta, of one group of parameters, by t at 0."""
    rng = np.random.default_rng(0)
    rows, field_of = make_rows(rng, n_features=40, weights=True)
    counted = {"l2_scaling": 0.5, "min_count_factors": 4, "field_learning_rates": (0.1,) * F}
    options = solver_options(
        solver, n_factors=K, loss="logistic", init_scale=0.3, l2_linear=(0.1,) * F,
        l2_factors=(0.1,) * F, learning_rate=0.2, **MODELS[model], **(counted if varied else {}),
    )  # fmt: skip
    trainer = FusedTrainer(options, 40, field_of)
    ready = trainer.prepare(rows)
    trainer.train(ready)  # states of AdaGrad differ now
    visited = rng.permutation(len(rows))[:25]
    got = trainer.pulls(ready, visited)

    found = trainer.models()[0]
    w, v = found.weights.astype(float), found.factors.astype(float).reshape(40, -1, K)
    table, linear = trainer._views()
    rate_w, rate_v = np.full(40, 0.2), np.full(v.shape, 0.2)
    if varied:
        counts = np.bincount(rows.ids, minlength=40).astype(float)
        level = counts.sum() / (counts[counts > 0] ** 0.5).sum()
        share = level / np.maximum(counts, 1) ** 0.5
        rate_w, rate_v = 0.1 * share, 0.1 * share[:, None, None] * np.ones(v.shape)
    if solver == "adagrad":
        rate_w = rate_w / np.sqrt(np.maximum(linear[:, 0, 1], 1e-30))
        states = table[:, 0, 1, : v[0].size].reshape(v.shape)
        rate_v = rate_v / np.sqrt(np.maximum(states, 1e-30))
    values, offsets = rows.values.astype(float), rows.row_offsets()
    entries = [
        [(int(rows.ids[e]), int(field_of[rows.ids[e]]), values[e])
         for e in range(offsets[row], offsets[row + 1])]
        for row in visited
    ]  # fmt: skip

    def loss(w, v):
        total = 0.0
        across = options.interactions == "across_fields"
        for row, held in zip(visited, entries, strict=True):
            z = found.bias + score_of(options.model, across, w, v, found.field_weights, held)
            total += rows.weights[row] * (math.log1p(math.exp(z)) - rows.targets[row] * z)
        return total

    step = 1e-4
    for field in range(F):
        mine = field_of == field
        by = np.where(mine, rate_w * step, 0.0)
        want = (loss(w * (1 - by), v) - loss(w * (1 + by), v)) / (2 * step)
        np.testing.assert_allclose(got[0, field], want, rtol=1e-3, atol=1e-4)
        by = np.where(mine[:, None, None], rate_v * step, 0.0)
        want = (loss(w, v * (1 - by)) - loss(w, v * (1 + by))) / (2 * step)
        np.testing.assert_allclose(got[1, field], want, rtol=1e-3, atol=1e-4)
    after = trainer.models()[0]  # nothing was trained
    np.testing.assert_array_equal(after.factors, found.factors)
    np.testing.assert_array_equal(after.weights, found.weights)


def by_half(n=6000, k=6):
    """Half of the fields are noise, whose factors no validation row wants."""
    rows = clicks(n)
    noise = np.random.default_rng(9).integers(0, 300, (n, 2)) + 180
    ids = np.concatenate([rows.ids.reshape(n, k), noise], axis=1).astype(np.int32)
    field_of = np.concatenate([np.repeat(np.arange(6), 30), np.full(300, 6)]).astype(np.int32)
    return Rows(ids, targets=rows.targets), field_of


def adapted(**changes):
    rows, field_of = by_half()
    options = AdaGrad(
        n_factors=4, loss="logistic", learning_rate=0.1, init_scale=0.1,
        **{"l2_factors": (0.02,) * 7, "l2_linear": 0.0, "adaptive": ("l2_factors",), **changes},
    )  # fmt: skip
    trainer = FusedTrainer(options, 480, field_of)
    return trainer, rows[:5000], rows[5000:]


def watch(rows):
    def evaluate(z):
        z = z.astype(np.float64)
        return {"log_loss": float(np.mean(np.logaddexp(0, z) - rows.targets * z))}

    return Watch(rows, evaluate, "log_loss", lambda new, best: new < best)


def test_fields_of_noise_are_penalised_more():
    trainer, train, valid = adapted()
    history, _ = fit(trainer, train, n_epochs=20, watch=watch(valid))
    found = trainer.penalties["l2_factors"]
    assert found[6] > 2 * np.median(found[:6])
    assert (trainer.penalties["l2_linear"] == 0).all()  # not adaptive
    fixed, _, _ = adapted(adaptive=())
    told, _ = fit(fixed, train, n_epochs=20, watch=watch(valid))
    assert (fixed.penalties["l2_factors"] == np.float32(0.02)).all()
    assert history.epochs[-1].metrics["log_loss"] < told.epochs[-1].metrics["log_loss"] - 0.005


def test_every_validation_row_is_looked_at_in_turn(monkeypatch):
    trainer, train, valid = adapted()
    looked = []
    pulls = FusedTrainer.pulls
    monkeypatch.setattr(
        FusedTrainer, "pulls", lambda t, r, order: looked.append(order) or pulls(t, r, order)
    )
    fit(trainer, train, n_epochs=2, watch=watch(valid[:300]))
    whole = np.concatenate(looked)
    assert len(whole) == 2 * len(train)
    for low in range(0, len(whole) - 300, 300):
        assert len(np.unique(whole[low : low + 300])) == 300
    assert (whole[:300] != whole[300:600]).any()


def test_weights_of_validation_rows_count():
    found = []
    for weights in (None, np.ones(1000), np.full(1000, 5.0), np.arange(1000) % 2):
        trainer, train, valid = adapted()
        held = valid.replace(weights=None if weights is None else weights.astype(np.float32))
        fit(trainer, train, n_epochs=2, watch=watch(held))
        found.append(trainer.penalties["l2_factors"])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], found[2], rtol=1e-3)
    assert np.abs(found[3] - found[0]).max() > 1e-4


def test_a_fit_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path):
    whole, train, valid = adapted()
    fit(whole, train, n_epochs=3, watch=watch(valid))

    def killed(event, told):
        if event == "rows" and told["epoch"] == 2 and told["rows"] > 2000:
            raise MemoryError  # anything that ends a fit

    again, _, _ = adapted()
    with pytest.raises(MemoryError):
        fit(again, train, n_epochs=3, watch=watch(valid), progress=killed,
            checkpoint=Checkpoint(tmp_path / "fit", seconds=0))  # fmt: skip
    again, _, _ = adapted()
    fit(again, train, n_epochs=3, watch=watch(valid), checkpoint=Checkpoint(tmp_path / "fit"))
    for name, array in whole.state()[0].items():
        np.testing.assert_array_equal(array, again.state()[0][name], err_msg=name)


def test_without_validation_rows_penalties_stay():
    trainer, train, _ = adapted()
    fit(trainer, train, n_epochs=2)
    assert (trainer.penalties["l2_factors"] == np.float32(0.02)).all()


@pytest.mark.parametrize("solver", ["ftrl", "adam"])
def test_solvers_whose_steps_do_not_follow_a_penalty_are_refused(solver):
    with pytest.raises(DataError, match=f"l2_factors cannot be adaptive with solver='{solver}'"):
        solver_options(solver, adaptive=("l2_factors",))
    with pytest.raises(DataError, match="adaptive must be one of 'l2_linear', 'l2_factors'"):
        SGD(adaptive=("l1_linear",))


# --- estimators -----------------------------------------------------------------------------------


def frame_of(rows):
    ids = rows.ids.reshape(len(rows), -1)
    return {f"c{f}": ids[:, f] for f in range(ids.shape[1])}, rows.targets.astype(int)


@pytest.mark.parametrize("solver", ["adagrad", "sgd"])
@pytest.mark.parametrize("kind", [FMClassifier, FFMClassifier])
def test_estimators_learn_their_penalties(kind, solver):
    X, y = frame_of(by_half()[0])
    fm = kind(n_factors=4, l2_factors="adaptive", l2_linear="adaptive", solver=solver, n_epochs=3,
              random_state=0)  # fmt: skip
    fm.fit(X, y)
    assert fm.penalties_.keys() == {"l2_linear", "l2_factors"}
    assert list(fm.penalties_["l2_factors"]) == fm.schema_.field_names
    assert len(set(fm.penalties_["l2_factors"].values())) > 1
    assert "log_loss" in fm.history_[0]  # rows were held out
    assert kind(**fm.get_params()).get_params() == fm.get_params()
    before = fm.penalties_
    fm.partial_fit(X, y)
    assert fm.penalties_ == before


def test_ids_without_names_have_one_penalty_for_all():
    rows, _ = by_half()
    fm = FMRegressor(l2_factors="adaptive", n_epochs=3, random_state=0)
    fm.fit(rows[:5000], eval_set=rows[5000:])
    assert fm.penalties_["l2_factors"].shape == (1,)
    assert fm.penalties_["l2_linear"].tolist() == [0.0]


def test_what_adaptive_needs_is_told():
    X, y = frame_of(by_half(600)[0])
    with pytest.raises(DataError, match="there are none: give eval_set"):
        FMClassifier(l2_factors="adaptive", early_stopping=False).fit(X, y)
    with pytest.raises(DataError, match="l2_factors cannot be adaptive with solver='ftrl'"):
        FMClassifier(l2_factors="adaptive", solver="ftrl").fit(X, y)
    with pytest.raises(DataError, match="l2_factors must be a finite number"):
        FMClassifier(l2_factors="adaptiv").fit(X, y)
    fixed = FMClassifier(n_epochs=1).fit(X, y)
    with pytest.raises(AttributeError, match="after a fit in which a penalty is 'adaptive'"):
        fixed.penalties_  # noqa: B018
