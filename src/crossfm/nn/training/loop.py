"""The training loop of networks: steps, epochs, validation, interrupts, checkpoints."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.errors import DataError, DivergedError
from crossfm.fitting import Epoch, History, Interrupts, Progress, Watch, fingerprint
from crossfm.nn.batch import Batch
from crossfm.nn.training.checkpoint import load_checkpoint, save_checkpoint
from crossfm.nn.training.loader import Loader
from crossfm.nn.training.options import TrainingOptions
from crossfm.nn.training.scoring import device_of, logits_of, score
from crossfm.nn.training.steps import Steps

__all__ = ["train"]

PATIENT_SECONDS = 0.5  # what is left of an epoch may take so long after an interrupt
LOOK_SECONDS = 0.1  # between two looks at the loss, which wait for the device
SAVE_SECONDS = 300.0  # between two checkpoints inside an epoch
PLATEAU = 0.2  # what is left of the rates after an epoch without an improvement


def train(
    network: nn.Module,
    rows: Rows,
    options: TrainingOptions | None = None,
    *,
    watch: Watch | None = None,
    progress: Progress | None = None,
    only: NDArray[np.int64] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> History:
    """Train a network on rows with targets.

    Args:
        network: a network of `crossfm.nn`, or any module that takes a `Batch` and returns logits
            ``[batch]`` (``[batch, C]`` for "softmax"); changed in place, on the device where it is.
        rows: with targets; their weights count in proportion.
        options: None: the defaults.
        watch: validation after each epoch; with ``patience`` the best epoch's weights are restored.
        progress: called as ``progress("rows", {...})`` while an epoch runs and
            ``progress("epoch", {...})`` after it; True from the latter ends the training.
        only: ``[n]``, the rows to train on; None: all.
        checkpoint: a file that is written after each epoch, every five minutes, and at Ctrl-C, and
            removed when training is complete. Where it is there already, training goes on from it,
            to the same result as if it had not stopped (on the CPU to the bit).

    Returns:
        the history. After Ctrl-C it says ``stopped="interrupted"``, and the network is as of the
        last full epoch (of the best one with ``patience``); before the end of a first epoch the
        interrupt is raised.

    Raises:
        DataError: broken rows, no targets, logits of another shape, a checkpoint of another
            training.
        DivergedError: the loss left the finite numbers.
        ModelFileError: a checkpoint that cannot be read or written.

    Example:
        >>> from crossfm.nn.deepfm import DeepFM
        >>> _ = torch.manual_seed(0)
        >>> ids = np.array([[0, 2], [0, 3], [1, 2], [1, 3]] * 50)
        >>> rows = Rows(ids, targets=(ids[:, 0] + ids[:, 1] == 3).astype(np.float32))
        >>> network = DeepFM(4, 4, field_of=[0, 0, 1, 1], hidden=(16,))
        >>> options = TrainingOptions(n_epochs=30, batch_size=20, learning_rate=0.1)
        >>> history = train(network, rows, options)
        >>> history.epochs[-1].loss < 0.1 < history.epochs[0].loss
        True
    """
    options = TrainingOptions() if options is None else options
    if rows.targets is None:
        raise DataError("the rows carry no targets to train on; rows.replace(targets=...)")
    run = _Run(network, rows, options, watch, progress, only, checkpoint)
    before = network.training
    with _own_randomness(device_of(network), options.seed), Interrupts() as interrupts:
        try:
            run.resume()
            run.go(interrupts)
        finally:
            run.steps.release()
            network.train(before)
    return run.history


class _AbandonedError(Exception):
    """Ctrl-C in the middle of an epoch that would take too long to finish."""


class _Run:
    """A training under way: everything that a checkpoint holds."""

    def __init__(
        self,
        network: nn.Module,
        rows: Rows,
        options: TrainingOptions,
        watch: Watch | None,
        progress: Progress | None,
        only: NDArray[np.int64] | None,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        self.network, self.options, self.watch = network, options, watch
        self.progress, self.checkpoint = progress, checkpoint
        self.device = device_of(network)
        self.loader = Loader(rows, options.batch_size, device=self.device, only=only)
        weights = rows.weights
        total = float(self.loader.n_rows)
        if weights is not None:
            total = float((weights if only is None else weights[only]).sum(dtype=np.float64))
        if total <= 0:
            raise DataError("all sample weights are zero, so nothing can be learned")
        self.total_weight = total
        self.weight_scale = self.loader.n_rows / total  # to a mean of 1
        self.steps = Steps(network, options)
        self.generator = torch.Generator().manual_seed(options.seed)  # of the order
        self.history = History()
        self.n_steps_done = 0
        self.rate = 1.0  # what the plateaus have left
        self.best = math.nan
        self.watched = math.nan  # best value that the plateau schedule has seen
        self.kept: dict[str, Tensor] | None = None
        # Of the epoch under way:
        self.number, self.n_batches_done, self.loss_so_far = 1, 0, 0.0
        self.seconds_so_far = 0.0
        self.order_state = self.generator.get_state()
        self.saved_at = time.perf_counter()
        self.of: dict[str, Any] = {}
        if checkpoint is not None:
            self.of = {
                **fingerprint(rows, only),
                "options": asdict(options),
                "network": {name: list(part.shape) for name, part in network.state_dict().items()},
                "early stopping": None if watch is None else [watch.monitor, watch.patience],
                "device": self.device.type,
            }

    # --- epochs -----------------------------------------------------------------------------

    def go(self, interrupts: Interrupts) -> None:
        """Epochs, until there is a reason to stop."""
        o, history = self.options, self.history
        interrupted = False
        while history.stopped == "n_epochs" and self.number <= o.n_epochs and not interrupted:
            may_abandon = self.kept is not None or not history.epochs
            try:
                loss, seconds, interrupted = self._epoch(may_abandon, interrupts)
            except _AbandonedError:
                self.save()
                if not history.epochs:
                    raise KeyboardInterrupt from None
                interrupted = True
                break
            self._close(loss, seconds)
            interrupted = interrupted or interrupts.asked
            if history.stopped == "n_epochs" and self.number <= o.n_epochs:
                self.save()
        if interrupted:
            history.stopped = "interrupted"
        if self.kept is not None:
            load_weights(self.network, self.kept)
        if self.checkpoint is not None and not interrupted:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.checkpoint)

    def _epoch(self, may_abandon: bool, interrupts: Interrupts) -> tuple[float, float, bool]:
        """One pass, or the rest of it: its mean loss, its seconds, whether Ctrl-C came."""
        o, loader = self.options, self.loader
        self.order_state = self.generator.get_state()
        order = loader.order(self.generator) if o.shuffle else None
        n_batches = len(loader)
        total = torch.tensor(self.loss_so_far, dtype=torch.float64, device=self.device)
        before, started = self.seconds_so_far, time.perf_counter()
        looked, rows_done, interrupted = started, 0, False
        self.network.train()
        for batch in loader.batches(order, skip=self.n_batches_done):
            total += self._step(batch, n_batches)
            self.n_batches_done += 1
            rows_done += batch.n_rows
            now = time.perf_counter()
            if now - looked > LOOK_SECONDS or self.n_batches_done == n_batches:
                loss = float(total)
                now = looked = time.perf_counter()
                self.loss_so_far, self.seconds_so_far = loss, before + now - started
                if not math.isfinite(loss):
                    raise self._diverged(loss)
                interrupted = self._tell_rows(rows_done, now - started) or interrupted
            interrupted = interrupted or interrupts.asked
            if self.n_batches_done == n_batches:
                break
            if interrupted and may_abandon:
                left = (now - started) * (n_batches / self.n_batches_done - 1)
                if left > PATIENT_SECONDS:
                    self.loss_so_far = float(total)
                    raise _AbandonedError
            elif self.checkpoint is not None and now - self.saved_at > SAVE_SECONDS:
                self.loss_so_far = float(total)
                self.save()
        return float(total) / self.total_weight, self.seconds_so_far, interrupted

    def _step(self, batch: Batch, n_batches: int) -> Tensor:
        """One step; the sum of the rows' weighted losses before it."""
        o = self.options
        self.steps.begin(
            self.rate * o.rate_at(self.n_steps_done, n_batches * o.n_epochs), batch.n_rows
        )
        plain = batch._replace(targets=None, weights=None)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=o.mixed_precision):
            try:
                logits = logits_of(self.network, plain, o.loss == "softmax")
            except ValueError as error:  # PyTorch's own of batch norm
                if batch.n_rows != 1 or "more than 1 value per channel" not in str(error):
                    raise
                raise DataError(
                    "a batch has one row, and batch norm needs two or more to train; give more"
                    " rows, a larger batch_size, or a network with batch_norm=False"
                ) from error
        assert batch.targets is not None
        losses = losses_of(o.loss, logits.float(), batch.targets)  # [batch]
        if batch.weights is not None:
            losses = losses * batch.weights
        total = losses.sum()
        self.steps.backward(total * (self.weight_scale / batch.n_rows))
        self.n_steps_done += 1
        return total.detach()

    def _close(self, loss: float, seconds: float) -> None:
        """The end of an epoch: validation, the history, what is kept, the rates."""
        o, history, watch, number = self.options, self.history, self.watch, self.number
        metrics: Mapping[str, float] = {}
        if not all(bool(part.isfinite().all()) for part in self.steps.dense):
            raise self._diverged(math.nan)
        if watch is not None:
            scores = score(
                self.network,
                watch.rows,
                several=o.loss == "softmax",
                mixed_precision=o.mixed_precision,
            )
            if not np.isfinite(scores).all():
                raise self._diverged(loss)
            metrics = watch.evaluate(scores)
        n = self.loader.n_rows
        epoch = Epoch(number, loss, metrics, seconds, n / max(seconds, 1e-9))
        history.epochs.append(epoch)
        if self.progress is not None and self.progress(
            "epoch", {"epoch": number, "of": o.n_epochs, "loss": loss, **metrics,
                      "rows_per_second": epoch.rows_per_second},
        ) is True:  # fmt: skip
            history.stopped = "callback"
        if o.schedule == "plateau":
            self._follow_plateau(loss, metrics)
        if watch is not None and watch.patience > 0:
            value = metrics[watch.monitor]
            if history.best_epoch == 0 or watch.improves(value, self.best):
                self.best, history.best_epoch = value, number
                self.kept = None  # frees the memory before as much is taken again
                self.kept = copy_weights(self.network)
            elif number - history.best_epoch >= watch.patience:
                history.stopped = "early"
        else:
            history.best_epoch, self.kept = number, None
            if seconds > PATIENT_SECONDS and number < o.n_epochs:
                self.kept = copy_weights(self.network)
        if number == o.n_epochs and not (watch is not None and watch.patience > 0):
            self.kept = None
        self.number, self.n_batches_done, self.loss_so_far = number + 1, 0, 0.0
        self.seconds_so_far = 0.0
        self.order_state = self.generator.get_state()

    def _follow_plateau(self, loss: float, metrics: Mapping[str, float]) -> None:
        watch = self.watch
        value = loss if watch is None else metrics[watch.monitor]
        improves = (lambda new, best: new < best) if watch is None else watch.improves
        if math.isnan(self.watched) or improves(value, self.watched):
            self.watched = value
        else:
            self.rate *= PLATEAU

    def _tell_rows(self, rows_done: int, seconds: float) -> bool:
        """Call back; whether the callback was where Ctrl-C fell."""
        if self.progress is None:
            return False
        n, left = self.loader.n_rows, len(self.loader) - self.n_batches_done
        done = n if left == 0 else min(n, self.n_batches_done * n // len(self.loader))
        try:
            self.progress("rows", {"epoch": self.number, "of": self.options.n_epochs,
                                   "rows": done, "n_rows": n,
                                   "rows_per_second": rows_done / max(seconds, 1e-9)})  # fmt: skip
        except KeyboardInterrupt:
            return True
        return False

    def _diverged(self, loss: float) -> DivergedError:
        epochs, o = self.history.epochs, self.options
        before = f" (after {epochs[-1].loss:g} in the epoch before)" if epochs else ""
        return DivergedError(
            f"training diverged in epoch {self.number}: the loss became {loss:g}{before}. Take a"
            f" smaller learning_rate (now {o.learning_rate:g}) or learning_rate_dense (now"
            f" {o.learning_rate_dense:g}), or scale the numeric values (largest sizes are the usual"
            " cause)"
        )

    # --- checkpoints ------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint, if there is to be one."""
        if self.checkpoint is None:
            return
        random = [torch.get_rng_state()]
        if self.device.type == "cuda":
            random.append(torch.cuda.get_rng_state(self.device))
        history = self.history
        state = {
            "network": self.network.state_dict(),
            "steps": self.steps.state_dict(),
            "random": random,
            "order": self.order_state,
            "epochs": [
                asdict(epoch) | {"metrics": dict(epoch.metrics)} for epoch in history.epochs
            ],
            "best_epoch": history.best_epoch,
            "kept": self.kept,
            "numbers": [self.number, self.n_batches_done, self.n_steps_done],
            "floats": [self.loss_so_far, self.seconds_so_far, self.rate, self.best, self.watched],
        }
        save_checkpoint(self.checkpoint, state, self.of)
        self.saved_at = time.perf_counter()

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one."""
        state = None if self.checkpoint is None else load_checkpoint(self.checkpoint, self.of)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.steps.load_state_dict(state["steps"])
        torch.set_rng_state(state["random"][0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"][1], self.device)
        self.generator.set_state(state["order"])
        self.history.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        self.history.best_epoch = state["best_epoch"]
        self.kept = state["kept"]
        self.number, self.n_batches_done, self.n_steps_done = state["numbers"]
        (self.loss_so_far, self.seconds_so_far, self.rate, self.best, self.watched) = state[
            "floats"
        ]


def losses_of(loss: str, logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of each row, ``[batch]``.

    >>> losses_of("squared", torch.tensor([3.0]), torch.tensor([1.0]))
    tensor([2.])
    """
    if loss == "squared":
        return 0.5 * (logits - targets) ** 2
    if loss == "softmax":
        return nn.functional.cross_entropy(logits, targets.long(), reduction="none")
    return nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def copy_weights(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers as they are now, in the host's memory."""
    state = network.state_dict().items()
    return {name: part.detach().to("cpu", copy=True) for name, part in state}


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put copied weights back."""
    with torch.no_grad():
        for name, part in network.state_dict().items():
            part.copy_(weights[name])


@contextlib.contextmanager
def _own_randomness(device: torch.device, seed: int) -> Iterator[None]:
    """Dropout from a seed of ours; the program's own random state is as before afterwards."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
