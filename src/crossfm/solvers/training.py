"""The training loop: epochs, order, validation, early stopping, interrupts, divergence."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.errors import DataError, DivergedError
from crossfm.fitting import Epoch, History, Interrupts, Progress, Watch
from crossfm.model import FactorModel
from crossfm.solvers.fused import FusedTrainer, Prepared

__all__ = ["fit"]

WORK_A_CALL = 2**27  # numbers (features x factors) between two looks at interrupts: about 0.1 s
MANY_ROWS, RUN = 100_000, 8  # from so many rows on, shuffled in runs of so many neighbours
PATIENT_SECONDS = 0.5  # what is left of an epoch may take so long after an interrupt


def fit(
    trainer: FusedTrainer,
    rows: Rows,
    *,
    n_epochs: int,
    watch: Watch | None = None,
    progress: Progress | None = None,
    only: NDArray[np.int64] | None = None,
    models: bool = True,
) -> tuple[History, list[FactorModel]]:
    """Train for at most `n_epochs` passes over `rows`.

    Args:
        trainer: holds the parameters; changed in place.
        rows: training rows with targets.
        n_epochs: passes at most.
        watch: validation; with ``patience`` the best epoch's parameters are restored.
        progress: called as ``progress("rows", {...})`` while an epoch runs and
            ``progress("epoch", {...})`` after it.
        only: the rows to train on, None: all. The others need no copy to be left out.
        models: False: leave the parameters in the trainer, and return no models.

    Returns:
        the history and the models, one an output. After an interrupt (Ctrl-C) the history says
        ``stopped="interrupted"`` and the models are those of the last full epoch (of the best
        one under early stopping); before the end of a first epoch the interrupt is raised.

    Raises:
        DivergedError: the loss left the finite numbers.
        DataError: broken rows.
    """
    if len(rows) == 0:
        raise DataError("no rows to train on")
    n_rows = len(rows) if only is None else len(only)
    if only is not None and n_rows and not 0 <= only.min() <= only.max() < len(rows):
        raise DataError(f"only names rows {only.min()} to {only.max()} of {len(rows)}")
    ready = trainer.prepare(rows, only=only)
    seen = trainer.prepare(watch.rows, training=False) if watch else None
    total_weight = float(n_rows)
    if rows.weights is not None:
        weights = rows.weights if only is None else rows.weights[only]
        total_weight = float(weights.sum(dtype=np.float64))
    if total_weight <= 0:
        raise DataError("all sample weights are zero, so nothing can be learned")
    rng = np.random.default_rng(trainer.options.seed)
    history = History()
    kept: list[FactorModel] | None = None  # of the last full epoch, or of the best one
    best = math.nan
    with Interrupts() as interrupts:
        for number in range(1, n_epochs + 1):
            may_abandon = kept is not None or not history.epochs
            started = time.perf_counter()
            try:
                loss, interrupted = _epoch(
                    trainer, ready, only, rng, number, n_epochs, may_abandon, progress, interrupts
                )
            except _AbandonedError:
                if not history.epochs:
                    raise KeyboardInterrupt from None
                history.stopped = "interrupted"
                break
            seconds, loss = time.perf_counter() - started, loss / total_weight
            if not math.isfinite(loss) or not np.isfinite(trainer.bias).all():
                raise _diverged(trainer, number, loss, history)
            metrics: Mapping[str, float] = {}
            if watch and seen:
                scores = trainer.score(seen)
                if not np.isfinite(scores).all():
                    raise _diverged(trainer, number, loss, history)
                metrics = watch.evaluate(scores)
            epoch = Epoch(number, loss, metrics, seconds, n_rows / max(seconds, 1e-9))
            history.epochs.append(epoch)
            if progress:
                progress("epoch", {"epoch": number, "of": n_epochs, "loss": loss, **metrics,
                                   "rows_per_second": epoch.rows_per_second})  # fmt: skip
            if watch and watch.patience > 0:
                value = metrics[watch.monitor]
                if history.best_epoch == 0 or watch.improves(value, best):
                    best, history.best_epoch = value, number
                    kept = None  # frees the memory before as much is taken again
                    kept = trainer.models()
                elif number - history.best_epoch >= watch.patience:
                    history.stopped = "early"
                    break
            else:
                history.best_epoch, kept = number, None
                if seconds > PATIENT_SECONDS and number < n_epochs and not interrupted:
                    kept = trainer.models()
            if interrupted or interrupts.asked:
                history.stopped = "interrupted"
                break
    if kept is not None:
        trainer.restore(kept)
    if not models:
        return history, []
    return history, trainer.models() if kept is None else kept


class _AbandonedError(Exception):
    """Ctrl-C in the middle of an epoch that would take too long to finish."""


def _epoch(
    trainer: FusedTrainer,
    ready: Prepared,
    only: NDArray[np.int64] | None,
    rng: np.random.Generator,
    number: int,
    n_epochs: int,
    may_abandon: bool,
    progress: Progress | None,
    interrupts: Interrupts,
) -> tuple[float, bool]:
    """One pass: the sum of losses, and whether Ctrl-C came meanwhile."""
    n = len(ready) if only is None else len(only)
    work_a_row = max(1, ready.rows.nnz // len(ready)) * trainer.padded * trainer.options.n_outputs
    step = max(256, WORK_A_CALL // work_a_row // 256 * 256)
    started, loss, interrupted = time.perf_counter(), 0.0, False
    counted = 0  # rows whose loss came back: an interrupt may take a step's result with it
    done = 0
    for visited in _visits(n, step, rng if trainer.options.shuffle else None):
        done += len(visited)
        try:
            loss += trainer.train(ready, visited if only is None else only[visited])
            counted += len(visited)
            if not math.isfinite(loss):
                break
            if progress:
                seconds = time.perf_counter() - started
                progress("rows", {"epoch": number, "of": n_epochs, "rows": done, "n_rows": n,
                                  "rows_per_second": done / max(seconds, 1e-9)})  # fmt: skip
        except KeyboardInterrupt:  # from a callback, or in a thread
            interrupted = True
        interrupted = interrupted or interrupts.asked
        if interrupted and may_abandon:
            left = (time.perf_counter() - started) * (n - done) / done
            if left > PATIENT_SECONDS:
                raise _AbandonedError
    return loss if counted == n else loss * n / max(1, counted), interrupted


def _visits(n: int, step: int, rng: np.random.Generator | None) -> Iterator[NDArray[np.int64]]:
    """0 to n - 1 in parts of `step`: in random order, many of them in short runs of neighbours.

    Rows one by one from all over memory take a third longer to train than rows in sequence,
    runs of eight a twentieth. `step` is a multiple of the run's length; no generator: in sequence.
    """
    if rng is not None and n >= MANY_ROWS:
        runs = rng.permutation(-(-n // RUN))
        for low in range(0, len(runs), step // RUN):
            part = (runs[low : low + step // RUN, None] * RUN + np.arange(RUN)).ravel()
            yield part if n % RUN == 0 else part[part < n]
        return
    order = np.arange(n) if rng is None else rng.permutation(n)
    for low in range(0, n, step):
        yield order[low : low + step]


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
