"""Learning rates of fields, penalties by count, rare features without factors: every solver."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import test_field_solvers
import test_solvers
from solver_problems import SOLVER_CASES, behind, by_solver, by_solver_and, clicks, make_rows, with_

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.solvers import AdaGrad, Checkpoint, FusedTrainer, fit, solver_options
from crossfm.solvers.counts import FeatureCounts

F = 5  # fields of make_rows
RATES = (0.02, 0.05, 0.1, 0.03, 0.2)
VARIED = {
    "rates": {"field_learning_rates": RATES},
    "scaled": {"l2_scaling": 0.5},
    "rare": {"min_count_factors": 4},
    "all": {
        "field_learning_rates": RATES,
        "l2_scaling": 0.0,
        "min_count_factors": 4,
        "l2_linear": (0.0, 0.1, 0.2, 0.3, 0.4),
        "l2_factors": (0.5, 0.0, 0.05, 0.1, 0.2),
    },
}
MODELS = {
    "fm": {"interactions": "all"},
    "fm_across": {"interactions": "across_fields"},
    "ffm": {"model": "ffm", "n_fields": F},
    "fwfm": {"model": "fwfm", "n_fields": F, "interactions": "across_fields"},
    "fmfm": {"model": "fmfm", "n_fields": F, "interactions": "across_fields"},
    "hofm": {"model": "hofm", "order": 3},
}
by_variant = pytest.mark.parametrize("variant", VARIED)
by_model = pytest.mark.parametrize("model", MODELS)
by_solver_and_model = by_solver_and(("model",), [(model,) for model in MODELS])


def vary(oracle, o, field_of, rows):
    """Give each number of an oracle the rate and penalty of its feature, or none to move at all."""
    counts = Counter(rows.ids.tolist())
    natural = (
        0 if type(o).__name__ == "FTRL" else 1
    )  # how a penalty grows with the touches as it is
    power = natural if o.l2_scaling is None else o.l2_scaling
    # all penalties of an epoch together stay what they are: sum_i l2 n_i^natural
    total = sum(n**natural for n in counts.values()) / sum(n**power for n in counts.values())
    for c in range(len(oracle.b)):
        for i, n in counts.items():
            for number in [oracle.w[c][i], *oracle.V[c][i]]:
                if o.field_learning_rates:
                    number.rate = o.field_learning_rates[field_of[i]]
                number.l2 *= total * n**power / n**natural
                number.settle()
            for number in oracle.V[c][i]:
                number.stays = n < o.min_count_factors
                assert not number.stays or number.v == 0  # or the test would show nothing


def check(base, model, variant, rows, field_of, **options):
    chosen = with_(base, n_factors=3, **{**MODELS[model], **VARIED[variant], **options})
    module = test_field_solvers if chosen.model != "fm" else test_solvers
    module.compare(chosen, rows, field_of, epochs=2, vary=vary)


@by_solver_and_model
@by_variant
def test_lookups_match_the_oracle(base, model, variant):
    rows, field_of = make_rows(np.random.default_rng(0), n_features=60, values=False, bags=False)
    counts = np.bincount(rows.ids, minlength=60)
    assert (counts < 4).sum() > 5 < (counts >= 4).sum()
    check(base, model, variant, rows, field_of, loss="logistic")


@by_solver_and_model
@by_variant
def test_values_bags_and_weights_match_the_oracle(base, model, variant):
    rows, field_of = make_rows(np.random.default_rng(1), n_features=60, classes=0, weights=True)
    check(base, model, variant, rows, field_of, loss="squared")


@by_model
def test_softmax_matches_the_oracle(model):
    rows, field_of = make_rows(np.random.default_rng(2), n_features=60, classes=3)
    check(SOLVER_CASES[1], model, "all", rows, field_of, loss="softmax", n_outputs=3)


@by_solver_and_model
@by_variant
def test_deterministic_is_bit_equal_for_any_number_of_threads(base, model, variant):
    found = []
    field_of = np.repeat(np.arange(F), 36).astype(np.int32)
    rows = clicks(1000)
    for threads in (1, 3):
        options = with_(
            base, n_factors=4, loss="logistic", deterministic=True, n_jobs=threads,
            **{**MODELS[model], **VARIED[variant]},
        )  # fmt: skip
        trainer = FusedTrainer(options, 180, field_of)
        ready = trainer.prepare(rows)
        losses = [trainer.train(ready) for _ in range(2)]
        found.append((losses, trainer.models()[0]))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1].factors, found[1][1].factors)
    np.testing.assert_array_equal(found[0][1].weights, found[1][1].weights)


@by_solver
def test_threads_reach_the_loss_of_one(base):
    rows = clicks(8000)
    field_of = np.repeat(np.arange(6), 30).astype(np.int32)
    losses = []
    for threads in (1, 2):
        l2 = {"l2_linear": 0.01, "l2_factors": 0.01}
        options = with_(
            base, n_factors=4, loss="logistic", n_jobs=threads, l2_scaling=0.5,
            min_count_factors=30, field_learning_rates=[base.learning_rate] * 6, **l2,
        )  # fmt: skip
        trainer = FusedTrainer(options, 180, field_of)
        ready = trainer.prepare(rows)
        assert threads == 1 or len(ready.hot_ids) > 100  # rare ones among them
        losses.append([trainer.train(ready) for _ in range(6)][-1] / len(rows))
        rare = np.bincount(rows.ids.ravel(), minlength=180) < 30
        assert rare.any()
        assert not trainer.models()[0].factors[rare].any()
        assert trainer.models()[0].factors[~rare].any(axis=1).all()
    assert losses[1] == pytest.approx(losses[0], abs=max(0.02, behind(base)))


# --- features that become frequent ------------------------------------------------------------


@by_solver
def test_a_feature_gets_factors_when_it_has_been_seen_often_enough(base):
    options = with_(base, n_factors=3, min_count_factors=3)
    trainer = FusedTrainer(options, 4)
    rows = Rows(np.array([[0, 1], [0, 2]]), targets=np.array([1.0, -1.0], np.float32))
    for seen in (2, 4, 6):  # of feature 0; the others have half of it
        trainer.train(trainer.prepare(rows))
        factors, weights = trainer.models()[0].factors, trainer.models()[0].weights
        assert factors[0].any() == (seen >= 3)
        assert factors[1].any() == factors[2].any() == (seen >= 6)
        assert weights[1] != 0  # as it always had
    assert not factors[3].any()


def test_new_factors_leave_the_weight_and_its_state_alone():
    def trained(min_count):
        trainer = FusedTrainer(AdaGrad(n_factors=3, init_scale=0.0, min_count_factors=min_count), 2)
        rows = Rows(np.array([[0], [1]]), targets=np.array([1.0, -1.0], np.float32))
        for _ in range(4):
            trainer.train(trainer.prepare(rows))
        return trainer.models()[0].weights

    np.testing.assert_array_equal(trained(3), trained(1))  # one a row: factors do not matter


def test_features_of_a_model_that_has_factors_keep_them():
    options = AdaGrad(n_factors=3, min_count_factors=3)
    rows = Rows(np.array([[0, 1], [0, 2], [0, 3]]), targets=np.array([1, -1, 2], np.float32))
    trainer = FusedTrainer(options, 4)
    trainer.train(trainer.prepare(rows))
    model = trainer.models()[0]
    later = FusedTrainer(options, 4)
    later.load([model])
    later.train(later.prepare(rows))
    assert later.models()[0].factors[0].any()
    assert np.abs(later.models()[0].factors[0] - model.factors[0]).max() < 0.1  # not drawn anew
    assert not later.models()[0].factors[1:].any()


def test_counts_grow_with_the_table():
    trainer = FusedTrainer(AdaGrad(n_factors=3, min_count_factors=2), 1)
    trainer.train(trainer.prepare(Rows(np.array([[0]]), targets=np.ones(1, np.float32))))
    trainer.grow(5)
    rows = Rows(np.array([[0, 4], [3, 4]]), targets=np.ones(2, np.float32))
    trainer.train(trainer.prepare(rows))
    assert trainer.models()[0].factors.any(axis=1).tolist() == [True, False, False, False, True]


# --- penalties by count -------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adagrad", "ftrl"])
@pytest.mark.parametrize("power", [0.0, 0.3, 1.0, 2.0])
def test_all_penalties_together_stay(solver, power):
    counted = FeatureCounts(solver_options(solver, l2_scaling=power))
    counted.grow(4)
    counted.add(np.array([0, 2]), np.array([3, 7]))
    counted.add(np.array([2, 3]), np.array([1, 90]))
    n = counted.counts.astype(float)
    assert n.tolist() == [3, 0, 8, 90]
    touched = n[n > 0]
    shares = np.abs(counted.scales[n > 0]) * counted.level
    if solver == "ftrl":  # pays once
        assert shares.sum() == pytest.approx(3)
        np.testing.assert_allclose(shares / shares[0], (touched / 3) ** power, rtol=1e-6)
    else:
        assert (touched * shares).sum() == pytest.approx(101)
        np.testing.assert_allclose(shares / shares[0], (touched / 3) ** (power - 1), rtol=1e-6)


@by_solver
def test_what_is_restored_stays(base):
    field_of = np.repeat(np.arange(6), 30).astype(np.int32)
    rows = clicks(1000)
    l2 = {} if base.optimizer == "ftrl" else {"l2_linear": 0.0, "l2_factors": 0.0}
    options = with_(
        base, n_factors=4, loss="logistic", l2_scaling=0.6, min_count_factors=3,
        field_learning_rates=(0.1, 0.2, 0.05, 0.1, 0.3, 0.1), **l2,
    )  # fmt: skip
    trainer = FusedTrainer(options, 180, field_of)
    ready = trainer.prepare(rows)
    trainer.train(ready)
    early = trainer.models()
    for _ in range(5):
        trainer.train(ready)
    assert np.abs(trainer.models()[0].factors - early[0].factors).max() > 0.05
    trainer.restore(early)
    light = rows.replace(weights=np.full(1000, 1e-9, np.float32))
    trainer.train(trainer.prepare(light, training=False))
    # z is rounded to float32, which moves v in its sixth digit
    np.testing.assert_allclose(trainer.models()[0].factors, early[0].factors, 1e-4, 1e-5)
    np.testing.assert_allclose(trainer.models()[0].weights, early[0].weights, 1e-4, 1e-5)


def test_a_checkpoint_knows_the_counts(tmp_path):
    options = with_(AdaGrad(), n_factors=4, loss="logistic", l2_scaling=0.5, min_count_factors=9)
    rows = clicks(3000)
    whole = FusedTrainer(options, 180)
    fit(whole, rows, n_epochs=3)

    def killed(event, told):
        if event == "epoch" and told["epoch"] == 2:
            raise MemoryError  # anything that ends a fit

    with pytest.raises(MemoryError):
        fit(FusedTrainer(options, 180), rows, n_epochs=3, progress=killed,
            checkpoint=Checkpoint(tmp_path / "fit", seconds=0))  # fmt: skip
    again = FusedTrainer(options, 180)
    fit(again, rows, n_epochs=3, checkpoint=Checkpoint(tmp_path / "fit"))
    for name, array in whole.state()[0].items():
        np.testing.assert_array_equal(array, again.state()[0][name], err_msg=name)
    assert whole.state()[1] == again.state()[1]


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l2_scaling": -0.5}, "l2_scaling must be a finite number of at least 0"),
        ({"l2_scaling": 3}, "l2_scaling is 3, expected a number from 0"),
        ({"l2_scaling": "touch"}, "l2_scaling must be a finite number"),
        ({"min_count_factors": -1}, "min_count_factors must be an integer from 1"),
        ({"min_count_factors": 2.5}, "min_count_factors must be an integer from 1"),
        ({"field_learning_rates": (0.1, 0.0)}, "field_learning_rates must be a finite number"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(DataError, match=message):
        solver_options("adagrad", **options)


def test_numbers_of_fields_that_do_not_fit_are_named():
    options = AdaGrad(field_learning_rates=(0.1, 0.2, 0.3), l2_factors=(0.1, 0.2))
    with pytest.raises(DataError, match="l2_factors 2, field_learning_rates 3"):
        FusedTrainer(options, 4)
    trainer = FusedTrainer(AdaGrad(field_learning_rates=(0.1, 0.2)), 4)
    rows = Rows(np.array([[0, 1]]), targets=np.ones(1))
    with pytest.raises(DataError, match="learning rates that go by field need the field"):
        trainer.prepare(rows)
    trainer = FusedTrainer(
        AdaGrad(field_learning_rates=(0.1, 0.2)), 4, np.arange(4, dtype=np.int32)
    )
    with pytest.raises(DataError, match="given for 2 fields, found field 3"):
        trainer.prepare(rows)
