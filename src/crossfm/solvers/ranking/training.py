"""The loop of learning to rank: epochs, lists judged, early stopping, interrupts."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np

from crossfm.errors import DivergedError
from crossfm.fitting import Epoch, History, Interrupts, Progress
from crossfm.model import FactorModel
from crossfm.solvers.ranking.trainer import HeldOut, RankTrainer

__all__ = ["fit_ranking"]

PAIRS_AT_ONCE = 1 << 17  # between two looks at interrupts; whole batches


def fit_ranking(
    trainer: RankTrainer,
    *,
    n_epochs: int,
    watch: HeldOut | None = None,
    patience: int = 0,
    progress: Progress | None = None,
) -> History:
    """Train for at most `n_epochs` passes over the trainer's pairs.

    Args:
        trainer: holds the parameters; changed in place.
        n_epochs: passes at most.
        watch: lists to judge after each epoch, what was seen in training left out; NDCG decides.
        patience: epochs without an improvement before the fit stops, and the best epoch's
            parameters are put back; 0: never stop early.
        progress: called after each epoch; True from it ends the fit.

    Ctrl-C ends the fit after the pairs at work, in the first epoch at its end. What was learned
    stays, of the best epoch where the fit may stop early.

    Raises:
        DivergedError: the loss left the finite numbers.
    """
    history, best = History(), -math.inf
    rng = np.random.default_rng(trainer.options.seed)
    kept: list[FactorModel] | None = None
    n, weights = len(trainer.pairs), trainer.pairs.weights
    weight = n if weights is None else float(weights.sum(dtype=np.float64))
    size = max(1, PAIRS_AT_ONCE // trainer.ranking.batch_size) * trainer.ranking.batch_size
    with Interrupts() as interrupts:
        for number in range(1, n_epochs + 1):
            started = time.perf_counter()
            order = rng.permutation(n) if trainer.options.shuffle else np.arange(n)
            loss = 0.0
            done = 0
            while done < n and not (interrupts.asked and history.epochs):
                part = order[done : done + size]
                loss += trainer.train(number, part)
                done += len(part)
            if done < n:
                history.stopped = "interrupted"
                break
            loss /= weight
            seconds = time.perf_counter() - started
            if not math.isfinite(loss):
                raise _diverged(trainer, number, loss)
            metrics: Mapping[str, float] = {}
            if watch is not None:
                metrics = watch.judge(trainer.scores(watch.queries), trainer.pairs.seen)
            history.epochs.append(Epoch(number, loss, metrics, seconds, n / max(seconds, 1e-9)))
            enough = progress is not None and progress(
                "epoch", {"epoch": number, "of": n_epochs, "loss": loss, **metrics,
                          "rows_per_second": history.epochs[-1].rows_per_second},
            ) is True  # fmt: skip
            if watch is None or not patience:
                history.best_epoch = number
            elif (value := metrics[f"ndcg@{watch.k}"]) > best:
                best, history.best_epoch, kept = value, number, trainer.models()
            elif number - history.best_epoch >= patience:
                history.stopped = "early"
                break
            if interrupts.asked or enough:
                history.stopped = "interrupted" if interrupts.asked else "callback"
                break
    if kept is not None:
        trainer.restore(kept)
    return history


def _diverged(trainer: RankTrainer, number: int, loss: float) -> DivergedError:
    return DivergedError(
        f"the fit diverged in epoch {number}: the training loss became {loss:g}. Take a smaller"
        f" learning_rate (now {trainer.options.learning_rate:g}), a larger l2_factors, or scale the"
        " numeric values (largest sizes are the usual cause)"
    )
