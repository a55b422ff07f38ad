"""The trainer's losses against the plain formulas in float64, value, gradient and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from solver_oracle import plain

from crossfm.data.rows import Rows
from crossfm.errors import DataError, DivergedError
from crossfm.losses import Huber, Quantile, get_loss
from crossfm.solvers import SGD, AdaGrad, FusedTrainer, fit

RATE = 0.5
RTOL, ATOL = 1e-5, 1e-6  # float32: the score is rounded, and the bias that moves by the gradient


CASES = {
    "squared": (0.0, [-3.0, 0.0, 2.0]),
    "huber": (0.75, [-3.0, 0.0, 2.0]),
    "quantile": (0.8, [-3.0, 0.0, 2.0]),
    "poisson": (0.0, [0.0, 1.0, 7.0]),
    "logistic": (0.0, [0.0, 1.0]),
    "hinge": (0.0, [0.0, 1.0]),
}


def step_of(name, parameter, scores, target, weight):
    """Loss and gradient that one empty row gives: SGD moves the biases, which are the scores."""
    options = SGD(n_factors=0, loss=name, loss_parameter=parameter, learning_rate=RATE,
                  n_outputs=len(scores))  # fmt: skip
    trainer = FusedTrainer(options, 1)
    trainer.set_bias(np.array(scores))
    rows = Rows(np.zeros(0, np.int32), offsets=np.array([0, 0]), targets=[target],
                weights=[weight])  # fmt: skip
    loss = trainer.train(trainer.prepare(rows))
    return loss, (np.array(scores) - trainer.bias) / RATE


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("name", list(CASES))
def test_one_row_gives_the_value_and_the_gradient(name, weight):
    parameter, targets = CASES[name]
    for target in targets:
        for score in (-4.0, -1.0, -0.6, 0.0, 0.3, 0.75, 1.0, 2.0, 5.0):
            loss, gradient = step_of(name, parameter, [score], target, weight)
            value, slope = plain(name, [score], target, parameter)
            np.testing.assert_allclose(loss, weight * value, RTOL, ATOL)
            np.testing.assert_allclose(gradient, weight * np.array(slope), RTOL, 5 * ATOL)


@pytest.mark.parametrize("target", [0, 2])
def test_one_row_of_several_outputs_under_hinge(target):
    scores = [0.5, -2.0, 1.5]
    loss, gradient = step_of("hinge", 0.0, scores, target, 2.0)
    value, slope = plain("hinge", scores, target, 0.0)
    np.testing.assert_allclose(loss, 2 * value, RTOL)
    np.testing.assert_allclose(gradient, 2 * np.array(slope), RTOL)


@pytest.mark.parametrize("name", list(CASES))
def test_the_definition_in_numpy_is_the_same(name):
    parameter, targets = CASES[name]
    loss = {"huber": Huber(0.75), "quantile": Quantile(0.8)}.get(name) or get_loss(name)
    for target in targets:
        for score in (-4.0, -0.6, 0.0, 2.0, 5.0):
            value, slope = plain(name, [score], target, parameter)
            np.testing.assert_allclose(loss.value(score, target), value, rtol=1e-12, atol=1e-15)
            np.testing.assert_allclose(loss.gradient(score, target), slope[0], rtol=1e-12)


@pytest.mark.parametrize("score", [29.9, 30.0, 31.0, 88.0, 1000.0])
def test_a_poisson_score_of_any_size_has_a_finite_loss(score):
    loss, gradient = step_of("poisson", 0.0, [score], 3.0, 1.0)
    value, slope = plain("poisson", [score], 3.0, 0.0)
    np.testing.assert_allclose(loss, value, rtol=1e-4)  # exp of a rounded score
    np.testing.assert_allclose(gradient, slope, rtol=1e-4)
    numpy = get_loss("poisson")
    np.testing.assert_allclose(numpy.value(score, 3.0), value, rtol=1e-12)


@pytest.mark.parametrize("name", ["hinge", "huber", "poisson", "quantile"])
def test_a_diverged_score_is_told(name):
    """A score that is no number must not pass for one without a loss."""
    options = SGD(n_factors=0, loss=name, loss_parameter=0.5, learning_rate=1e30)
    trainer = FusedTrainer(options, 2)
    rows = Rows(np.array([[0], [1]] * 9), np.tile([1e15, 1e15], 9), targets=np.array([0, 1] * 9))
    with pytest.raises(DivergedError, match="epoch 1"):
        fit(trainer, rows, n_epochs=3)


@pytest.mark.parametrize(
    ("loss", "target", "message"),
    [
        ("poisson", -1.0, "row 1: target is -1, the poisson loss takes 0 or more"),
        ("hinge", 2.0, "row 1: target is 2, the hinge loss takes whole numbers from 0 to 1"),
        ("hinge", 0.5, "row 1: target is 0.5"),
    ],
)
def test_targets_that_a_loss_cannot_take(loss, target, message):
    trainer = FusedTrainer(AdaGrad(n_factors=2, loss=loss), 5)
    with pytest.raises(DataError, match=message):
        trainer.prepare(Rows(np.array([[0], [1]]), targets=[1.0, target]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "quantile"}, "loss_parameter of loss='quantile' must be .* above 0 and below 1"),
        ({"loss": "quantile", "loss_parameter": 1.0}, "below 1"),
        ({"loss": "huber", "loss_parameter": 0.0}, "loss_parameter of loss='huber'"),
        ({"loss": "poison"}, "Did you mean 'poisson'"),
        ({"loss": "poisson", "n_outputs": 3}, "n_outputs=3 needs loss='softmax' or 'hinge'"),
    ],
)
def test_bad_losses_are_named(options, message):
    with pytest.raises(DataError, match=message):
        AdaGrad(**options)
