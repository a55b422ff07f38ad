"""Training of the machines with other crossed terms against plain float64 sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from field_oracle import FieldOracle
from solver_problems import SOLVER_CASES, behind, by_solver_and, clicks, make_rows, with_
from test_streaming import Blocks, same_state

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.fitting import Watch
from crossfm.solvers import AdaGrad, Checkpoint, FusedTrainer, feeding, fit, solver_options

RTOL, ATOL = 5e-4, 5e-5  # float32, some hundred updates of each number, estimated square roots
F = 5  # fields of make_rows
MODELS = [
    ("ffm", "all"),
    ("ffm", "across_fields"),
    ("fwfm", "across_fields"),
    ("fmfm", "across_fields"),
    ("hofm", "all"),
    ("hofm", "across_fields"),
]
by_model = pytest.mark.parametrize(
    ("model", "interactions"),
    MODELS,
    ids=["ffm", "ffm_across", "fwfm", "fmfm", "hofm", "hofm_across"],
)
by_solver_and_model = by_solver_and(("model", "interactions"), MODELS)
FIELDS_OF_CLICKS = np.repeat(np.arange(6), 30).astype(np.int32)


def of(model, order=3):
    """The model among the options."""
    return {"model": model, "order": order if model == "hofm" else 2}


def entries_of(rows, field_of):
    offsets = rows.row_offsets()
    values = np.ones(rows.nnz) if rows.values is None else rows.values.astype(np.float64)
    fields = field_of[rows.ids] if rows.fields is None else rows.fields
    flat = [(int(i), int(f), float(x)) for i, f, x in zip(rows.ids, fields, values, strict=True)]
    return [flat[offsets[r] : offsets[r + 1]] for r in range(len(rows))]


def compare(options, rows, field_of, epochs=2, vary=None):
    trainer = FusedTrainer(options, len(field_of), field_of)
    trainer.set_bias(np.linspace(0.1, 0.3, options.n_outputs))
    if trainer.field_weights is not None:  # not all 1, or a weight taken twice would not show
        drawn = np.random.default_rng(8).normal(size=trainer.field_weights.shape)
        f, g = np.triu_indices(F, 1)
        for c, weights in enumerate(drawn.astype(np.float32)):
            trainer.field_weights[c, f, g] = weights[f, g]
            trainer.field_weights[c, g, f] = weights[f, g].swapaxes(-2, -1) if (
                weights.ndim == 4
            ) else weights[f, g]  # fmt: skip
        trainer._start_field_weights(trainer._field_weights)
    ready = trainer.prepare(rows)
    oracle = FieldOracle(options, trainer.models())
    if vary:
        vary(oracle, options, field_of, rows)
    entries = entries_of(rows, field_of)
    rng = np.random.default_rng(5)
    for _ in range(epochs):
        order = rng.permutation(len(rows))
        got, want = trainer.train(ready, order), 0.0
        for r in order:
            weight = 1.0 if rows.weights is None else float(rows.weights[r])
            want += oracle.train_row(entries[r], float(rows.targets[r]), weight)
        np.testing.assert_allclose(got, want, rtol=RTOL)
    models = trainer.models()
    for c, model in enumerate(models):
        np.testing.assert_allclose(model.bias, oracle.b[c].v, RTOL, ATOL)
        np.testing.assert_allclose(model.weights, [x.v for x in oracle.w[c]], RTOL, ATOL)
        want = [[x.v for x in row] for row in oracle.V[c]]
        np.testing.assert_allclose(model.factors.reshape(len(want), -1), want, RTOL, ATOL)
        for (f, g), shared in oracle.r[c].items():
            found = model.field_weights[f, g].ravel()
            np.testing.assert_allclose(found, [x.v for x in shared], RTOL, ATOL)
    wanted = [[oracle.score(c, row) for c in range(len(models))] for row in entries]
    scores = trainer.score(rows).reshape(len(rows), -1)
    np.testing.assert_allclose(scores, wanted, RTOL, 10 * ATOL)
    for c, model in enumerate(models):
        np.testing.assert_allclose(model.score(rows), scores[:, c], 1e-5, 1e-5)


@by_solver_and_model
@pytest.mark.parametrize("k", [1, 3, 4, 6, 8, 16, 17])
def test_lookups_match_the_oracle_at_every_width(base, model, interactions, k):
    rows, field_of = make_rows(np.random.default_rng(k), n=40, values=False, bags=False)
    options = with_(base, n_factors=k, loss="logistic", **of(model), interactions=interactions,
                    n_fields=F)  # fmt: skip
    compare(options, rows, field_of)


@by_solver_and_model
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_values_bags_and_weights_match_the_oracle(base, model, interactions, loss):
    rng = np.random.default_rng(1)
    rows, field_of = make_rows(rng, classes=0 if loss == "squared" else 2, weights=True)
    options = with_(base, n_factors=5, loss=loss, **of(model), interactions=interactions,
                    n_fields=F)  # fmt: skip
    compare(options, rows, field_of)


@by_model
def test_softmax_matches_the_oracle(model, interactions):
    rows, field_of = make_rows(np.random.default_rng(2), classes=3, values=False, bags=False)
    options = AdaGrad(n_factors=4, loss="softmax", n_outputs=3, **of(model), n_fields=F,
                      interactions=interactions, init_scale=0.3)  # fmt: skip
    compare(options, rows, field_of)


@by_model
@pytest.mark.parametrize("loss", ["hinge", "huber", "poisson", "quantile"])
def test_other_losses_match_the_oracle(model, interactions, loss):
    classes = {"hinge": 2, "poisson": 4}.get(loss, 0)
    rows, field_of = make_rows(np.random.default_rng(7), classes=classes, weights=True)
    options = AdaGrad(n_factors=4, loss=loss, loss_parameter=0.7, **of(model), n_fields=F,
                      interactions=interactions, init_scale=0.3)  # fmt: skip
    compare(options, rows, field_of)


@by_model
@pytest.mark.parametrize("bags", [True, False])
def test_penalties_per_field_match_the_oracle(model, interactions, bags):
    rows, field_of = make_rows(np.random.default_rng(3), values=False, bags=bags)
    options = AdaGrad(n_factors=4, loss="logistic", **of(model), n_fields=F, init_scale=0.3,
                      interactions=interactions, l2_factors=(0.5, 0.0, 0.05, 0.1, 0.2))  # fmt: skip
    compare(options, rows, field_of)


@by_model
def test_fields_of_the_rows_come_first_in_any_order(model, interactions):
    rng = np.random.default_rng(4)
    rows, field_of = make_rows(rng, n=40, values=True)
    mixed = rng.integers(0, F, rows.nnz).astype(np.int32)  # an id of several fields, not grouped
    rows = rows.replace(fields=mixed)
    options = AdaGrad(n_factors=4, loss="logistic", **of(model), n_fields=F, init_scale=0.3,
                      interactions=interactions)  # fmt: skip
    compare(options, rows, field_of)


@by_model
def test_an_id_repeated_in_a_row_is_two_features(model, interactions):
    rng = np.random.default_rng(6)
    rows = Rows(rng.integers(0, 8, (40, 6)), targets=rng.integers(0, 2, 40))
    options = AdaGrad(n_factors=4, loss="logistic", **of(model), n_fields=F, init_scale=0.3,
                      interactions=interactions)  # fmt: skip
    compare(options, rows, np.arange(8, dtype=np.int32) // 2)


@by_solver_and(("model", "order"), [("hofm", 4), ("hofm", 5)])
@pytest.mark.parametrize("interactions", ["all", "across_fields"])
def test_larger_sets_match_the_oracle(base, model, order, interactions):
    rows, field_of = make_rows(np.random.default_rng(order), n=20)
    options = with_(base, n_factors=3, loss="logistic", interactions=interactions, n_fields=F,
                    **of(model, order))  # fmt: skip
    compare(options, rows, field_of)


# --- threads -----------------------------------------------------------------------------------


@by_solver_and_model
def test_deterministic_is_bit_equal_for_any_number_of_threads(base, model, interactions):
    rows, results = clicks(1500), []
    for n_jobs in (2, 1, 3):
        options = with_(base, n_factors=4, loss="logistic", n_jobs=n_jobs, deterministic=True,
                        **of(model), interactions=interactions, n_fields=6)  # fmt: skip
        trainer = FusedTrainer(options, 180, FIELDS_OF_CLICKS)
        fit(trainer, rows, n_epochs=2)
        results.append(trainer.models()[0])
    for other in results[1:]:
        assert other.bias == results[0].bias
        np.testing.assert_array_equal(other.weights, results[0].weights)
        np.testing.assert_array_equal(other.factors, results[0].factors)
        if model in ("fwfm", "fmfm"):
            np.testing.assert_array_equal(other.field_weights, results[0].field_weights)
            assert np.ptp(other.field_weights[0, 1:]) > 1e-3


@by_solver_and_model
def test_threads_reach_the_loss_of_one(base, model, interactions):
    rows = clicks(20_000)

    def loss(**threads):
        options = with_(base, n_factors=4, loss="logistic", n_fields=6, interactions=interactions,
                        **of(model), **threads)  # fmt: skip
        trainer = FusedTrainer(replace(options, init_scale=0.1), 180, FIELDS_OF_CLICKS)
        fit(trainer, rows[:15_000], n_epochs=4)
        z, y = trainer.score(rows[15_000:]).astype(np.float64), rows.targets[15_000:]
        return float(np.mean(np.logaddexp(0, z) - y * z))

    one = loss(n_jobs=1)
    assert one < 0.6
    assert loss(n_jobs=2, deterministic=True) < one + 0.015
    assert any(loss(n_jobs=2) < one + behind(base) for _ in range(5))


@by_model
def test_what_is_restored_stays(model, interactions):
    base = SOLVER_CASES[2]  # FTRL finds its parameters anew from z
    rows = clicks(1000)
    options = with_(base, n_factors=4, loss="logistic", **of(model), interactions=interactions,
                    n_fields=6)  # fmt: skip
    trainer = FusedTrainer(options, 180, FIELDS_OF_CLICKS)
    fit(trainer, rows, n_epochs=1)
    early = trainer.models()
    fit(trainer, rows, n_epochs=5)
    assert np.abs(trainer.models()[0].factors - early[0].factors).max() > 0.02
    trainer.restore(early)
    few = rows[:20]  # z moves by a rounding error a step
    trainer.train(trainer.prepare(few.replace(weights=np.full(20, 1e-9, np.float32))))
    model_after = trainer.models()[0]
    np.testing.assert_allclose(model_after.factors, early[0].factors, rtol=1e-4, atol=1e-5)
    if model in ("fwfm", "fmfm"):
        np.testing.assert_allclose(model_after.field_weights, early[0].field_weights, atol=1e-5)


def test_what_is_restored_stays_under_adam():
    """Its mean gradients belong to where they were taken."""
    rows = clicks(1000)
    options = with_(SOLVER_CASES[3], n_factors=4, loss="logistic", model="fwfm", n_fields=6,
                    interactions="across_fields")  # fmt: skip
    trainer = FusedTrainer(options, 180, FIELDS_OF_CLICKS)
    fit(trainer, rows, n_epochs=1)
    early = trainer.models()
    fit(trainer, rows, n_epochs=2)
    trainer.restore(early)
    trainer.train(trainer.prepare(rows[:5].replace(weights=np.full(5, 1e-9, np.float32))))
    after = trainer.models()[0]
    np.testing.assert_allclose(after.field_weights, early[0].field_weights, atol=1e-6)


# --- blocks and checkpoints ---------------------------------------------------------------------


@by_solver_and_model
def test_streamed_and_stopped_fits_are_those_in_memory(
    base, model, interactions, tmp_path, monkeypatch
):
    monkeypatch.setattr(feeding, "WORK_A_CALL", 1)  # 256 rows a call
    monkeypatch.setattr(feeding, "GROUP_FEATURES", 2000)
    rows, field_of = make_rows(np.random.default_rng(3), 1500)
    options = with_(base, n_factors=3, loss="logistic", **of(model), interactions=interactions,
                    n_fields=F, shuffle=False)  # fmt: skip
    whole = FusedTrainer(options, len(field_of), field_of)
    fit(whole, rows, n_epochs=3)

    def stopped_after(at):
        left = iter(range(at))

        def tell(event, told):
            if next(left, None) is None:
                raise InterruptedError

        return tell

    for source in (rows, Blocks(rows, 128, len(field_of))):
        keeping = Checkpoint(tmp_path / "c", seconds=0.0)
        trainer = FusedTrainer(options, len(field_of), field_of)
        with pytest.raises(InterruptedError):
            fit(trainer, source, n_epochs=3, checkpoint=keeping, progress=stopped_after(11))
        trainer = FusedTrainer(options, len(field_of), field_of)
        fit(trainer, source, n_epochs=3, checkpoint=keeping)
        same_state(whole, trainer)
    if model in ("fwfm", "fmfm"):
        assert np.ptp(whole.field_weights[0, 1:]) > 1e-3
        assert "field_weights" in whole.state()[0]


@by_model
def test_the_best_epoch_survives_a_stop(model, interactions, tmp_path):
    rows, field_of = make_rows(np.random.default_rng(3), 300)
    options = AdaGrad(n_factors=3, loss="logistic", **of(model), interactions=interactions,
                      n_fields=F, init_scale=0.3, learning_rate=1.0)  # fmt: skip
    judged = iter([2.0, 1.0, 3.0, 4.0, 5.0, 6.0] * 2)
    watch = Watch(rows[:50], lambda scores: {"loss": next(judged)}, "loss", lambda a, b: a < b, 9)
    keeping = Checkpoint(tmp_path / "c", seconds=0.0)
    kept = []

    def tell(event, told):
        if event == "epoch" and told["epoch"] == 2:
            kept.append(trainer.models()[0])
        if event == "epoch" and told["epoch"] == 4:
            raise InterruptedError

    trainer = FusedTrainer(options, len(field_of), field_of)
    with pytest.raises(InterruptedError):
        fit(trainer, rows, n_epochs=6, watch=watch, checkpoint=keeping, progress=tell)
    trainer = FusedTrainer(options, len(field_of), field_of)
    judged = iter([5.0] * 9)
    _, models = fit(trainer, rows, n_epochs=6, watch=watch, checkpoint=keeping)
    np.testing.assert_array_equal(models[0].factors, kept[0].factors)
    if model in ("fwfm", "fmfm"):
        np.testing.assert_array_equal(models[0].field_weights, kept[0].field_weights)


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "fm2"}, "'fwfm'"),
        ({"model": "ffm"}, "n_fields must be an integer from 1"),
        ({"model": "ffm", "n_fields": 3, "n_factors": 0}, "n_factors must be an integer from 1"),
        ({"model": "ffm", "n_fields": 70_000, "n_factors": 4}, "280000 numbers a feature"),
        ({"model": "hofm"}, "'hofm', and it needs one"),
        ({"model": "fm", "order": 3}, "orders from 3 on belong to 'hofm'"),
        ({"model": "hofm", "order": 9}, "order must be an integer from 2 to 8"),
        ({"model": "fmfm", "n_fields": 3}, "pooled vectors of its fields: take 'across_fields'"),
        ({"model": "fmfm", "n_fields": 999, "interactions": "across_fields"}, "take fewer"),
        ({"model": "fwfm", "n_fields": 3}, "pooled vectors of its fields: take 'across_fields'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(DataError, match=message):
        solver_options("adagrad", **options)


def test_rows_of_unknown_or_further_fields_are_refused():
    rows = clicks(100)
    with pytest.raises(DataError, match="need the field of each id"):
        FusedTrainer(AdaGrad(model="ffm", n_fields=6), 180).prepare(rows)
    trainer = FusedTrainer(AdaGrad(model="ffm", n_fields=5), 180, FIELDS_OF_CLICKS)
    with pytest.raises(DataError, match=r"fields go up to 5, .* 0 to 4"):
        trainer.prepare(rows)
