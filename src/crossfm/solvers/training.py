"""The training loop: epochs, validation, early stopping, interrupts, divergence, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.errors import DivergedError
from crossfm.fitting import Epoch, History, Interrupts, Progress, Watch
from crossfm.model import FactorModel
from crossfm.solvers.checkpoint import Checkpoint, Place
from crossfm.solvers.feeding import Feed, RowBlocks, feed_of
from crossfm.solvers.fused import FusedTrainer

__all__ = ["fit"]

PATIENT_SECONDS = 0.5  # what is left of an epoch may take so long after an interrupt


def fit(
    trainer: FusedTrainer,
    rows: Rows | RowBlocks,
    *,
    n_epochs: int,
    watch: Watch | None = None,
    progress: Progress | None = None,
    only: NDArray[np.int64] | None = None,
    models: bool = True,
    checkpoint: Checkpoint | None = None,
) -> tuple[History, list[FactorModel]]:
    """Train for at most `n_epochs` passes over `rows`.

    Args:
        trainer: holds the parameters; changed in place.
        rows: training rows with targets, in memory or in blocks (`RowBlocks`), which are visited
            in random order, and their rows in random order within groups of blocks.
        n_epochs: passes at most.
        watch: validation; with ``patience`` the best epoch's parameters are restored. Adaptive
            penalties are learned on its rows, which need targets then; without it they stay.
        progress: called as ``progress("rows", {...})`` while an epoch runs and
            ``progress("epoch", {...})`` after it; True from the latter ends the fit.
        only: the rows to train on, None: all. The others need no copy to be left out.
        models: False: leave the parameters in the trainer, and return no models.
        checkpoint: where the state is kept; a fit that was killed goes on from there, to the
            same bits where the options promise the same bits at all. Removed at the end.

    Returns:
        the history and the models, one an output. After an interrupt (Ctrl-C) the history says
        ``stopped="interrupted"`` and the models are those of the last full epoch (of the best
        one under early stopping); before the end of a first epoch the interrupt is raised.

    Raises:
        DivergedError: the loss left the finite numbers.
        DataError: broken rows; a checkpoint of other rows or options.
        ModelFileError: a checkpoint that is damaged or cannot be written.
    """
    run = _Run(trainer, feed_of(trainer, rows, only), n_epochs, watch, progress, checkpoint)
    with Interrupts() as interrupts:
        run.go(interrupts)
    if run.kept is not None:
        trainer.restore(run.kept)
    if not models:
        return run.history, []
    return run.history, trainer.models() if run.kept is None else run.kept


class _AbandonedError(Exception):
    """Ctrl-C in the middle of an epoch that would take too long to finish."""


class _Run:
    """A fit under way.

    Attributes:
        place: where it is.
        kept: parameters of the last full epoch, or of the best one; None: those in the trainer.
    """

    def __init__(
        self,
        trainer: FusedTrainer,
        feed: Feed,
        n_epochs: int,
        watch: Watch | None,
        progress: Progress | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.trainer, self.feed, self.n_epochs = trainer, feed, n_epochs
        self.watch, self.progress, self.checkpoint = watch, progress, checkpoint
        self.seen = trainer.prepare(watch.rows, training=False) if watch else None
        if watch and trainer.options.adaptive:
            trainer.check_targets(watch.rows)
        self.stops = watch is not None and watch.patience > 0
        self.rng = np.random.default_rng(trainer.options.seed)
        self.history = History()
        self.kept: list[FactorModel] | None = None
        self.place = Place()
        if checkpoint is not None:
            found = checkpoint.load(trainer)
            if found is not None:
                self.place, self.history, self.kept = found
                self.rng.bit_generator.state = self.place.rng
        self.saved_at = time.monotonic()

    def go(self, interrupts: Interrupts) -> None:
        """Epochs, until there is a reason to stop."""
        history = self.history
        while self.place.number <= self.n_epochs:
            may_abandon = self.kept is not None or not history.epochs or self.checkpoint is not None
            self.place.rng = self.rng.bit_generator.state
            try:
                interrupted = self._epoch(may_abandon, interrupts)
            except _AbandonedError:
                self._save()
                if self.kept is None:
                    raise KeyboardInterrupt from None
                history.stopped = "interrupted"
                return
            if self._close(interrupted):
                break
            self.place.rng = self.rng.bit_generator.state
            if interrupted or interrupts.asked:
                history.stopped = "interrupted"
                self._save()
                return
            if self.place.number <= self.n_epochs:
                self._save(now=False)
        if self.checkpoint is not None:
            self.checkpoint.remove()

    def _epoch(self, may_abandon: bool, interrupts: Interrupts) -> bool:
        """One pass, or what is left of it: whether Ctrl-C came meanwhile."""
        trainer, place, n = self.trainer, self.place, self.feed.n_rows
        started, before, already = time.perf_counter(), place.seconds, place.rows
        interrupted = False
        rng = self.rng if trainer.options.shuffle else None
        for ready, visited in self.feed.parts(rng, skip=place.parts):
            place.rows += len(visited)
            try:
                place.loss += trainer.train(ready, visited)
                if self.seen is not None and trainer.options.adaptive:
                    trainer.adapt(self.seen, len(visited))
                place.counted += len(visited)
                if not math.isfinite(place.loss):
                    break
                if self.progress:
                    rate = (place.rows - already) / max(time.perf_counter() - started, 1e-9)
                    self.progress("rows", {"epoch": place.number, "of": self.n_epochs,
                                           "rows": place.rows, "n_rows": n,
                                           "rows_per_second": rate})  # fmt: skip
            except KeyboardInterrupt:  # from a callback, or in a thread
                interrupted = True
            place.parts += 1
            seconds = time.perf_counter() - started
            place.seconds = before + seconds
            interrupted = interrupted or interrupts.asked
            if place.rows == n:
                break
            if interrupted and may_abandon:
                if seconds * (n - place.rows) / (place.rows - already) > PATIENT_SECONDS:
                    raise _AbandonedError
            else:
                self._save(now=False)
        return interrupted

    def _close(self, interrupted: bool) -> bool:
        """The end of an epoch: validation, the history, what is kept; whether to stop early."""
        trainer, watch, history, place = self.trainer, self.watch, self.history, self.place
        number, seconds, n = place.number, place.seconds, self.feed.n_rows
        # An interrupt may have taken a step's loss with it.
        loss = place.loss if place.counted == n else place.loss * n / max(1, place.counted)
        loss /= self.feed.weight
        if not math.isfinite(loss) or not np.isfinite(trainer.bias).all():
            raise _diverged(trainer, number, loss, history)
        metrics: Mapping[str, float] = {}
        if watch and self.seen:
            scores = trainer.score(self.seen)
            if not np.isfinite(scores).all():
                raise _diverged(trainer, number, loss, history)
            metrics = watch.evaluate(scores)
        epoch = Epoch(number, loss, metrics, seconds, n / max(seconds, 1e-9))
        history.epochs.append(epoch)
        self.place = Place(number=number + 1, best=place.best)
        enough = self.progress is not None and self.progress(
            "epoch", {"epoch": number, "of": self.n_epochs, "loss": loss, **metrics,
                      "rows_per_second": epoch.rows_per_second},
        ) is True  # fmt: skip
        if watch and watch.patience > 0:
            value = metrics[watch.monitor]
            if history.best_epoch == 0 or watch.improves(value, place.best):
                self.place.best, history.best_epoch = value, number
                self.kept = None  # frees the memory before as much is taken again
                self.kept = trainer.models()
            elif number - history.best_epoch >= watch.patience:
                history.stopped = "early"
                return True
        else:
            history.best_epoch, self.kept = number, None
            if seconds > PATIENT_SECONDS and number < self.n_epochs and not interrupted:
                self.kept = trainer.models()
        if enough:
            history.stopped = "callback"
        return enough

    def _save(self, now: bool = True) -> None:
        """Write the checkpoint, if there is one, and it is time."""
        if self.checkpoint is None:
            return
        if now or time.monotonic() - self.saved_at >= self.checkpoint.seconds:
            best = self.kept if self.stops else None  # else the trainer's own go on
            self.checkpoint.save(self.trainer, self.place, self.history, best)
            self.saved_at = time.monotonic()


def _diverged(trainer: FusedTrainer, number: int, loss: float, history: History) -> DivergedError:
    before = f" (after {history.epochs[-1].loss:g} in the epoch before)" if history.epochs else ""
    o = trainer.options
    l2 = float(np.max(o.l2_factors))
    return DivergedError(
        f"the fit diverged in epoch {number}: the training loss became {loss:g}{before}."
        f" Take a smaller learning_rate (now {o.learning_rate:g}),"
        + (" solver='adagrad' (now 'sgd')," if o.optimizer == "sgd" else "")
        + (f" a smaller l2_factors (now {l2:g})," if l2 >= 1 else " a larger l2_factors,")
        + " or scale the numeric values (largest sizes are the usual cause)"
    )
