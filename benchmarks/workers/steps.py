"""Training steps of PyTorch models: batches in a row, timed together.

A model is built once for each setting and then trained on, round after round: what is timed is
steps alone, on pages that were touched before. Before the first step the model's own loss on
the first batch is taken, and again after each round, so that models from the same start can be
held against one another, and each against itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.workers import Entrant, peak_memory


@dataclass(frozen=True)
class Start:
    """Initial parameters, the same for every entrant, as they lie in a folder.

    Attributes:
        weights: float32 ``[n]``.
        factors: float32 ``[n, k]``.
        tower: ``(W [out, in], b [out])`` of each dense layer, the last of size 1.
    """

    weights: np.ndarray
    factors: np.ndarray
    tower: Sequence[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def draw(cls, n_features: int, n_factors: int, sizes: Sequence[int], seed: int = 0) -> Start:
        """Random parameters; `sizes` are those of the tower, its input first."""
        rng = np.random.default_rng(seed)

        def normal(*shape: int, scale: float) -> np.ndarray:
            return rng.standard_normal(shape, np.float32) * np.float32(scale)

        return cls(
            normal(n_features, scale=0.05),
            normal(n_features, n_factors, scale=0.05),
            [
                (normal(n_out, n_in, scale=n_in**-0.5), normal(n_out, scale=0.01))
                for n_in, n_out in itertools.pairwise(sizes)
            ],
        )

    def save(self, folder: Path) -> None:
        """Write as .npy files."""
        folder.mkdir(parents=True)
        np.save(folder / "weights.npy", self.weights)
        np.save(folder / "factors.npy", self.factors)
        for at, (W, b) in enumerate(self.tower):
            np.save(folder / f"tower-{at}-W.npy", W)
            np.save(folder / f"tower-{at}-b.npy", b)

    @classmethod
    def load(cls, folder: Path) -> Start:
        """Read what `save` wrote."""

        def array(name: str) -> np.ndarray:
            return np.load(folder / f"{name}.npy", allow_pickle=False)

        layers = range(len(list(folder.glob("tower-*-W.npy"))))
        tower = [(array(f"tower-{at}-W"), array(f"tower-{at}-b")) for at in layers]
        return cls(array("weights"), array("factors"), tower)

    def into_tables(self, weights: Tensor, factors: Tensor) -> None:
        """Copy into tables of any shape that holds as many numbers."""
        with torch.no_grad():
            weights.copy_(torch.from_numpy(self.weights).view(weights.shape))
            factors.copy_(torch.from_numpy(self.factors).view(factors.shape))

    def into_tower(self, layers: Sequence[nn.Linear]) -> None:
        """Copy into dense layers; the last bias is zero, as some libraries have none there."""
        with torch.no_grad():
            for layer, (W, b) in zip(layers, self.tower, strict=True):
                layer.weight.copy_(torch.from_numpy(W))
                if layer.bias is not None:
                    layer.bias.copy_(torch.from_numpy(b))
            if layers[-1].bias is not None:
                layers[-1].bias.zero_()


@dataclass
class Model:
    """A model with its optimizers.

    Attributes:
        loss: mean log loss of a batch, from ids ``[batch, m]`` and targets ``[batch]``.
        scores: log odds ``[batch]`` of ids.
        optimizers: all that step after a backward pass; none where the pass itself does.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    scores: Callable[[Tensor], Tensor]
    optimizers: Sequence[torch.optim.Optimizer]

    def clear(self) -> None:
        """Drop the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self, ids: Tensor, targets: Tensor) -> None:
        """One training step."""
        self.clear()
        self.loss(ids, targets).backward()
        for optimizer in self.optimizers:
            optimizer.step()


class Steps(Entrant):
    """An entrant whose `train` is a row of steps of one model, kept between the rounds.

    Rows of equal length only.
    """

    ids_type = np.int64

    def prepare(self) -> None:
        self.ids, self.test_ids = self._ids(self.train_part), self._ids(self.test_part)
        self.targets = torch.from_numpy(np.array(self.train_part.targets))
        self.kept: dict[str, tuple[Model, float]] = {}

    @abstractmethod
    def build(self, start: Start | None, *, n_factors: int, **options: Any) -> Model:
        """A model with fresh optimizers; `start`: its parameters, None: any."""

    def train(self, *, n_epochs: int = 1, n_factors: int, batch: int, start: str | None = None,
              threads: int = 1, warm_steps: int | None = None, peak: bool = False,
              **options: Any) -> dict[str, Any]:  # fmt: skip
        """Step through the training rows in order, in whole batches.

        Args:
            n_epochs: how often.
            n_factors: length k of each vector.
            batch: rows a step.
            start: folder of a `Start`.
            threads: that PyTorch may use.
            warm_steps: steps of a new model that are not timed; None: as many as are.
            peak: take the memory of one forward and backward pass of a new model instead.
            options: of `build`.
        """
        torch.set_num_threads(threads)
        if peak:
            return self._peak(batch, n_factors=n_factors, **options)
        pairs = list(zip(self.ids.split(batch), self.targets.split(batch), strict=True))
        key = json.dumps([n_factors, batch, options], sort_keys=True)
        if key not in self.kept:
            given = None if start is None else Start.load(Path(start))
            self.model = self.build(given, n_factors=n_factors, **options)
            self.kept[key] = (self.model, self._loss(pairs[0]))
            for pair in pairs[:warm_steps]:
                self.model.step(*pair)
        self.model, first = self.kept[key]
        started = time.perf_counter()
        for _ in range(n_epochs):
            for pair in pairs:
                self.model.step(*pair)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "first_loss": first, "last_loss": self._loss(pairs[0])}

    def score(self) -> np.ndarray:
        with torch.no_grad():
            found = [self.model.scores(part) for part in self.test_ids.split(8192)]
        return torch.cat(found).numpy()

    def _peak(self, batch: int, **options: Any) -> dict[str, Any]:
        """Forward and backward of one batch, in tables that are in memory already.

        A pass over a few rows goes before: the code of libraries, their threads and their
        constant buffers are not what is measured.
        """
        model = self.build(None, **options)
        ids, targets = self.ids[:batch].clone(), self.targets[:batch].clone()
        model.loss(ids[:64], targets[:64]).backward()
        model.clear()
        started = time.perf_counter()
        with held() as found:
            model.loss(ids, targets).backward()
        self.model = model
        return {"seconds": time.perf_counter() - started, "rows": len(ids), **found}

    def _loss(self, pair: tuple[Tensor, Tensor]) -> float:
        with torch.no_grad():
            return float(self.model.loss(*pair))

    def _ids(self, part: Any) -> Tensor:
        ids = np.array(part.ids).reshape(len(part), -1)
        return torch.from_numpy(ids.astype(self.ids_type, copy=False))


@contextlib.contextmanager
def held() -> Iterator[dict[str, int]]:
    """Bytes in memory before the block (``before``) and at most within it (``peak``).

    Raises:
        OSError: the system does not let a process reset its peak (Linux does).
    """
    found: dict[str, int] = {}
    # What the allocator keeps of earlier blocks would be used unseen.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held now
    found["before"] = peak_memory()
    yield found
    found["peak"] = peak_memory()
