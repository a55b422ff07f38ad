"""Ctrl-C during a fit, wherever it falls: the last full epoch is what stays."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest

from crossfm.data.rows import Rows
from crossfm.fitting import Interrupts
from crossfm.solvers import AdaGrad, FusedTrainer, fit

pytestmark = pytest.mark.usefixtures("patient")


def make_rows(n: int = 3000) -> Rows:
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(0, 20, n), rng.integers(20, 40, n)], axis=1)
    return Rows(ids, targets=rng.normal(0, 1, n).astype(np.float32))


def run(interrupt_at: tuple[str, int], n_epochs: int = 50):
    """A fit that gets SIGINT in the progress callback, at an event of an epoch."""
    told = []

    def progress(event, numbers):
        told.append((event, numbers["epoch"], numbers.get("loss")))
        if (event, numbers["epoch"]) == interrupt_at:
            signal.raise_signal(signal.SIGINT)

    trainer = FusedTrainer(AdaGrad(n_factors=4), 40)
    history, models = fit(trainer, make_rows(), n_epochs=n_epochs, progress=progress)
    return history, models[0], told


@pytest.mark.parametrize("event", ["rows", "epoch"])
def test_interrupt_ends_the_fit_with_that_epoch(event):
    """Epochs as short as these are finished; the model is that of a fit of so many epochs."""
    history, model, _ = run((event, 3))
    assert history.stopped == "interrupted"
    assert len(history.epochs) == history.best_epoch == 3
    whole, same, _ = run(("none", 0), n_epochs=3)
    np.testing.assert_array_equal(model.factors, same.factors)
    assert [e.loss for e in history.epochs] == [e.loss for e in whole.epochs]


def test_the_handler_is_put_back():
    run(("rows", 1))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_is_answered_at_once():
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_of_the_program_are_left_alone():
    heard = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
        assert heard == [signal.SIGINT]
        assert not interrupts.asked
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_may_fit():
    done = []
    thread = threading.Thread(target=lambda: done.append(run(("none", 0), n_epochs=2)))
    thread.start()
    thread.join()
    assert len(done[0][0].epochs) == 2


def test_an_interrupt_raised_by_a_callback_ends_the_fit_too():
    def progress(event, numbers):
        if event == "rows" and numbers["epoch"] == 2:
            raise KeyboardInterrupt

    trainer = FusedTrainer(AdaGrad(n_factors=4), 40)
    history, _ = fit(trainer, make_rows(), n_epochs=9, progress=progress)
    assert (history.stopped, len(history.epochs)) == ("interrupted", 2)
    assert history.epochs[1].loss > 0.5 * history.epochs[0].loss  # no step's loss was lost
