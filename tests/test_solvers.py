"""The fused solvers against a plain float64 rendering of the row-by-row updates."""

from __future__ import annotations

import numpy as np
import pytest
from solver_oracle import Oracle
from solver_problems import by_solver, clicks, make_rows, with_

from crossfm.data.rows import Rows
from crossfm.errors import DataError, DivergedError
from crossfm.metrics import log_loss
from crossfm.solvers import SGD, AdaGrad, Adam, FusedTrainer, Watch, fit, solver_options
from crossfm.solvers.feeding import visits

RTOL, ATOL = 5e-4, 5e-5  # float32, some hundred updates of each number, estimated square roots


def compare(options, rows, field_of, epochs=3, rtol=RTOL, atol=ATOL, vary=None):
    trainer = FusedTrainer(options, len(field_of), field_of)
    trainer.set_bias(np.linspace(0.1, 0.3, options.n_outputs))
    ready = trainer.prepare(rows)
    start = trainer.models()
    oracle = Oracle(
        options,
        [m.bias for m in start],
        [m.weights for m in start],
        [m.factors for m in start],
        field_of,
    )
    if vary:
        vary(oracle, options, field_of, rows)
    oracle.general = rows.values is not None or options.interactions == "across_fields"
    offsets, values = rows.row_offsets(), rows.values
    values = np.ones(rows.nnz) if values is None else values.astype(np.float64)
    rng = np.random.default_rng(5)
    for _ in range(epochs):
        order = rng.permutation(len(rows))
        got = trainer.train(ready, order)
        want = 0.0
        for r in order:
            at = slice(offsets[r], offsets[r + 1])
            entries = [(int(i), float(x)) for i, x in zip(rows.ids[at], values[at], strict=True)]
            weight = 1.0 if rows.weights is None else float(rows.weights[r])
            want += oracle.train_row(entries, float(rows.targets[r]), weight)
        np.testing.assert_allclose(got, want, rtol=rtol)
    for c, model in enumerate(trainer.models()):
        np.testing.assert_allclose(model.bias, oracle.b[c].v, rtol, atol)
        np.testing.assert_allclose(model.weights, [x.v for x in oracle.w[c]], rtol, atol)
        want = [[x.v for x in row] for row in oracle.V[c]]
        np.testing.assert_allclose(model.factors, np.reshape(want, model.factors.shape), rtol, atol)
    scores = trainer.score(rows).reshape(len(rows), -1)
    for c in range(options.n_outputs):
        want = [
            oracle.score(
                c,
                [
                    (int(i), float(x))
                    for i, x in zip(
                        rows.ids[offsets[r] : offsets[r + 1]],
                        values[offsets[r] : offsets[r + 1]],
                        strict=True,
                    )
                ],
            )
            for r in range(len(rows))
        ]
        np.testing.assert_allclose(scores[:, c], want, rtol, 10 * atol)


@by_solver
@pytest.mark.parametrize("k", [0, 1, 3, 4, 8, 16, 17, 24, 32, 64, 80])
def test_lookups_match_the_oracle_at_every_width(base, k):
    rows, field_of = make_rows(np.random.default_rng(k), values=False, bags=False)
    compare(with_(base, n_factors=k, loss="logistic"), rows, field_of)


@by_solver
@pytest.mark.parametrize("interactions", ["all", "across_fields"])
@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_values_bags_and_weights_match_the_oracle(base, interactions, loss):
    rng = np.random.default_rng(1)
    rows, field_of = make_rows(rng, classes=0 if loss == "squared" else 2, weights=True)
    compare(with_(base, n_factors=5, loss=loss, interactions=interactions), rows, field_of)


@by_solver
@pytest.mark.parametrize("interactions", ["all", "across_fields"])
def test_softmax_matches_the_oracle(base, interactions):
    rows, field_of = make_rows(np.random.default_rng(2), classes=3)
    options = with_(base, n_factors=3, loss="softmax", n_outputs=3, interactions=interactions)
    compare(options, rows, field_of)


@by_solver
def test_penalties_per_field_match_the_oracle(base):
    rows, field_of = make_rows(np.random.default_rng(3), values=False)
    options = with_(
        base,
        n_factors=4,
        loss="logistic",
        l2_linear=(0.0, 0.1, 0.2, 0.3, 0.4),
        l2_factors=(0.5, 0.0, 0.05, 0.1, 0.2),
    )
    # values present or not, the penalties take the general path
    rows = Rows(rows.ids, np.ones(rows.nnz), rows.offsets, targets=rows.targets)
    compare(options, rows, field_of)


@by_solver
@pytest.mark.parametrize("lookups", [True, False])
def test_an_id_repeated_in_a_row_is_stepped_once_an_occurrence(base, lookups):
    rng = np.random.default_rng(4)
    ids = rng.integers(0, 6, (40, 5))
    values = None if lookups else rng.normal(size=ids.size)
    rows = Rows(ids, values, targets=rng.integers(0, 2, 40))
    assert rows.validate().has_repeats
    options = with_(base, n_factors=4, loss="logistic")
    compare(options, rows, np.zeros(6, np.int32))


def test_vectors_of_rows_of_one_feature_stay():
    """Nothing is crossed, so their gradient is 0: a rounding error would be a whole step here."""
    rows = Rows(np.arange(7)[:, None], targets=np.arange(7) % 2)
    options = AdaGrad(n_factors=5, loss="logistic", init_scale=1.0, initial_accumulator=1e-30)
    trainer = FusedTrainer(with_(options, l2_factors=0.0), 7)
    ready = trainer.prepare(rows)
    before = trainer.models()[0].factors.copy()
    trainer.train(ready)
    assert before.all()
    np.testing.assert_array_equal(trainer.models()[0].factors, before)


def test_one_step_of_adam_is_the_learning_rate():
    """The corrected averages after one row are the gradient and its square."""
    rows = Rows(np.array([[0, 1]]), targets=[1.0])
    options = Adam(n_factors=4, learning_rate=0.25, init_scale=0.3, epsilon=1e-8)
    trainer = FusedTrainer(options, 2)
    ready = trainer.prepare(rows)
    before = trainer.models()[0]
    s = before.score(rows).item() - 1.0
    trainer.train(ready)
    after = trainer.models()[0]
    want = before.weights - 0.25 * np.sign(s)
    np.testing.assert_allclose(after.weights, want, rtol=1e-5)
    assert after.bias == pytest.approx(before.bias - 0.25 * np.sign(s), rel=1e-5)
    moved = before.factors - 0.25 * np.sign(s * before.factors[::-1])  # S - v: the other's vector
    np.testing.assert_allclose(after.factors, moved, rtol=1e-4)


# --- the loop ----------------------------------------------------------------------------------


@by_solver
def test_what_is_restored_stays(base):
    """A later step of nearly no weight must not bring the parameters after it back."""
    rows = clicks(1000)
    # SGD and AdaGrad take their penalty at each touch, whatever the weight
    l2 = {} if base.optimizer == "ftrl" else {"l2_linear": 0.0, "l2_factors": 0.0}
    trainer = FusedTrainer(with_(base, n_factors=4, loss="logistic", **l2), 180)
    fit(trainer, rows, n_epochs=1)
    early = trainer.models()
    fit(trainer, rows, n_epochs=10)
    assert np.abs(trainer.models()[0].factors - early[0].factors).max() > 0.05
    trainer.restore(early)
    trainer.train(trainer.prepare(rows.replace(weights=np.full(1000, 1e-9, np.float32))))
    model = trainer.models()[0]
    # z is rounded to float32, which moves v in its sixth digit
    np.testing.assert_allclose(model.factors, early[0].factors, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.bias, early[0].bias, atol=1e-5)


def test_early_stopping_restores_the_best_epoch():
    rows = clicks(1500)
    train, valid = rows[:1000], rows[1000:]
    seen = []

    def evaluate(scores):
        loss = log_loss(valid.targets, 1 / (1 + np.exp(-scores.astype(np.float64))))
        seen.append(loss)
        return {"log_loss": loss}

    options = AdaGrad(n_factors=8, loss="logistic", learning_rate=0.5, init_scale=0.1)
    trainer = FusedTrainer(options, 180)
    watch = Watch(valid, evaluate, "log_loss", lambda new, best: new < best, patience=3)
    history, models = fit(trainer, train, n_epochs=100, watch=watch)
    assert history.stopped == "early"
    assert len(history.epochs) == history.best_epoch + 3 < 100
    assert history.best_epoch == int(np.argmin(seen)) + 1
    p = 1 / (1 + np.exp(-models[0].score(valid).astype(np.float64)))
    assert log_loss(valid.targets, p) == pytest.approx(min(seen), rel=1e-6)
    np.testing.assert_array_equal(trainer.score(valid), models[0].score(valid))


@pytest.mark.parametrize("n", [1, 99_999, 100_000, 100_003])
def test_every_row_is_visited_once_an_epoch(n):
    first, again, other = (
        np.concatenate(list(visits(n, 4096, np.random.default_rng(s)))) for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(np.sort(first), np.arange(n))
    np.testing.assert_array_equal(first, again)
    assert n == 1 or (first != other).mean() > 0.99
    np.testing.assert_array_equal(np.concatenate(list(visits(n, 4096, None))), np.arange(n))


def test_divergence_is_told_with_epoch_and_remedy():
    rng = np.random.default_rng(0)
    rows = Rows(
        np.tile(np.arange(5), (200, 1)), rng.normal(size=1000) * 100, targets=rng.normal(size=200)
    )
    trainer = FusedTrainer(SGD(n_factors=4, learning_rate=1.0), 5)
    with pytest.raises(DivergedError, match=r"epoch 1.*learning_rate \(now 1\).*larger l2_factors"):
        fit(trainer, rows, n_epochs=5)
    trainer = FusedTrainer(SGD(n_factors=4, l2_factors=1e4), 5)
    with pytest.raises(DivergedError, match=r"smaller l2_factors \(now 10000\)"):
        fit(trainer, rows, n_epochs=5)


@pytest.mark.parametrize("n_features", [300, 3000])  # counted in an array, or one by one
def test_features_of_rows_left_out_are_not_started(n_features):
    rows = Rows(np.arange(300).reshape(100, 3), targets=np.arange(100) % 2)
    trainer = FusedTrainer(AdaGrad(n_factors=4, loss="logistic"), n_features)
    fit(trainer, rows, n_epochs=2, only=np.arange(0, 100, 2))
    moved = trainer.models()[0].factors[:300].any(axis=1).reshape(100, 3)
    assert moved[::2].all()
    assert not moved[1::2].any()


def test_unseen_features_score_zero_and_grow_later():
    rows = clicks(500)
    trainer = FusedTrainer(AdaGrad(n_factors=4, loss="logistic"), 200)
    fit(trainer, rows, n_epochs=1)
    model = trainer.models()[0]
    assert not model.factors[180:].any()
    assert not model.weights[180:].any()
    trainer.grow(300)
    np.testing.assert_array_equal(trainer.models()[0].factors[:200], model.factors)
    late = Rows(np.array([[250, 3], [299, 4]]), targets=[1, 0])
    trainer.train(trainer.prepare(late))
    assert trainer.models()[0].factors[[250, 299]].any()


def test_tables_beyond_2_to_the_32_parameters():
    """Pages that no row touches are never made, so the table is large on paper only."""
    n_features = 2**28 + 1000
    few = clicks(300)
    far = few.replace(ids=few.ids.astype(np.int64) + (n_features - 180))
    scores = []
    for rows, n in ((few, 180), (far, n_features)):
        try:
            trainer = FusedTrainer(SGD(n_factors=16, loss="logistic", init_scale=0.0), n)
        except MemoryError:
            pytest.skip("this machine does not promise 17 GB of address space")
        ready = trainer.prepare(rows)
        factors, _ = trainer._views()  # random factors depend on the id, so write equal ones
        factors[-180:, 0, 0] = np.random.default_rng(0).normal(size=(180, 16)) * 0.1
        trainer.train(ready)
        scores.append(trainer.score(ready))
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.ptp(scores[0]) > 0.1
    assert np.ptp(factors[-180:]) > 0.5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (Rows(np.array([[0, 5]]), targets=[1.0]), "row 0: feature id 5 is out of range"),
        (Rows(np.array([[0, -1]]), targets=[1.0]), "row 0: feature id -1 is negative"),
        (Rows(np.array([[0], [1]]), targets=[1.0, 2.0]), "row 1: target is 2"),
        (Rows(np.array([[0], [1]]), targets=[1.0, np.nan]), "row 1: target is nan"),
        (Rows(np.array([[0], [1]]), [1.0, np.inf], targets=[1.0, 0]), "row 1: the value .* infin"),
        (Rows(np.array([[0]]), targets=[1.0], weights=[-1.0]), "row 0: weight is -1"),
        (Rows(np.array([[0]])), "needs targets"),
        (Rows(np.zeros((0, 3), int), targets=[]), "no rows"),
        (Rows(np.array([[0]]), targets=[1.0], weights=[0.0]), "weights are zero"),
        (
            Rows(np.array([0, 1, 2]), offsets=np.array([0, 2, 1, 3]), targets=[1, 0, 1]),
            "row 1: offsets go from 2 to 1",
        ),
    ],
)
def test_bad_rows_are_named(rows, message):
    trainer = FusedTrainer(AdaGrad(n_factors=2, loss="logistic"), 5)
    with pytest.raises(DataError, match=message):
        fit(trainer, rows, n_epochs=1)


def test_rows_that_are_not_there_are_refused():
    trainer = FusedTrainer(SGD(n_factors=2, loss="logistic"), 180)
    with pytest.raises(DataError, match="rows 3 to 500 of 500"):
        fit(trainer, clicks(500), n_epochs=1, only=np.array([3, 500]))


def test_huge_ids_are_refused_by_number():
    rows = Rows(np.array([[2**62]]), targets=[1.0])
    with pytest.raises(DataError, match=str(2**62)):
        fit(FusedTrainer(SGD(n_factors=2), 5), rows, n_epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "adagrd"}, "adagrad"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"n_factors": -1}, "n_factors"),
        ({"n_factors": 2.5}, "n_factors"),
        ({"l1_linear": 0.1}, "belongs to ftrl"),
        ({"solver": "ftrl", "beta": 0.0}, "beta must be a finite number above 0"),
        ({"initial_accumulator": 0.0}, "initial_accumulator"),
        ({"solver": "adam", "beta1": 1.0}, "beta1 must be a number from 0 to below 1"),
        ({"solver": "adam", "epsilon": 0.0}, "epsilon must be"),
        ({"interactions": "pairs"}, "across_fields"),
        ({"n_jobs": 0}, "n_jobs"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        solver_options(**{"solver": "adagrad", **options})
