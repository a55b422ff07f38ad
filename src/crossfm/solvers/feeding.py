"""What a fit trains on, call by call: rows in memory, or blocks read ahead of their use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.data.cache import Totals
from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.solvers.fused import FusedTrainer, Prepared

__all__ = ["Feed", "RowBlocks", "StreamFeed", "WholeFeed", "feed_of"]

WORK_A_CALL = 2**27  # numbers (features x factors) between two looks at interrupts: about 0.1 s
LOOKS = 256  # rows between two steps of adaptive penalties; more where threads share them
MANY_ROWS, RUN = 100_000, 8  # from so many rows on, shuffled in runs of so many neighbours
GROUP_FEATURES = 1 << 25  # of the blocks that are shuffled together; 128 MB where all values are 1

Order = NDArray[np.int64]


class RowBlocks(Protocol):
    """Rows in blocks, each of which is read when it is asked for."""

    @property
    def totals(self) -> Sequence[Totals]:
        """Of each block."""
        ...

    @property
    def weight(self) -> float:
        """Sum of the weights of all rows."""
        ...

    def block(self, block: int) -> Rows:
        """The rows of a block, with targets."""
        ...

    def counts(self) -> NDArray[np.uint32]:
        """Rows of all blocks that each feature is in, ``[n_features]``."""
        ...


class Feed(ABC):
    """The rows of a fit.

    Attributes:
        n_rows: of an epoch.
        weight: sum of their weights.
    """

    def __init__(self, trainer: FusedTrainer, n_rows: int, weight: float) -> None:
        if n_rows == 0:
            raise DataError("no rows to train on")
        if weight <= 0:
            raise DataError("all sample weights are zero, so nothing can be learned")
        self.trainer, self.n_rows, self.weight = trainer, n_rows, weight

    @abstractmethod
    def parts(
        self, rng: np.random.Generator | None, skip: int = 0
    ) -> Iterator[tuple[Prepared, Order]]:
        """Prepared rows, and which of them to visit in which order, for each call of an epoch.

        Args:
            rng: shuffles; None: in sequence.
            skip: calls to leave out at the beginning, with nothing else changed.
        """

    def _step(self, nnz: int, n_rows: int) -> int:
        """Rows of a call."""
        options = self.trainer.options
        work_a_row = max(1, nnz // max(n_rows, 1)) * self.trainer.padded * options.n_outputs
        step = max(256, WORK_A_CALL // work_a_row // 256 * 256)
        if not options.adaptive:
            return step
        return min(step, LOOKS if self.trainer.threads == 1 else 8 * LOOKS)


class WholeFeed(Feed):
    """Rows in memory.

    Args:
        trainer: that is fed; features that are new to it are started.
        rows: with targets.
        only: those to train on, None: all.
    """

    def __init__(self, trainer: FusedTrainer, rows: Rows, only: Order | None = None) -> None:
        n_rows = len(rows) if only is None else len(only)
        if only is not None and n_rows and not 0 <= only.min() <= only.max() < len(rows):
            raise DataError(f"only names rows {only.min()} to {only.max()} of {len(rows)}")
        weight = float(n_rows)
        if rows.weights is not None:
            weights = rows.weights if only is None else rows.weights[only]
            weight = float(weights.sum(dtype=np.float64))
        if len(rows) == 0:
            raise DataError("no rows to train on")
        self.ready = trainer.prepare(rows, only=only)
        self.only = only
        super().__init__(trainer, n_rows, weight)

    def parts(
        self, rng: np.random.Generator | None, skip: int = 0
    ) -> Iterator[tuple[Prepared, Order]]:
        """One part after the other of all rows in random order."""
        step = self._step(self.ready.rows.nnz, len(self.ready))
        for visited in islice(visits(self.n_rows, step, rng), skip, None):
            yield self.ready, visited if self.only is None else self.only[visited]


class StreamFeed(Feed):
    """Blocks in random order, and rows in random order within groups of blocks.

    While a group is trained on, the next one is read in a thread, into the memory of the group
    before. So two groups are in memory, however many blocks there are, and the system is asked for
    it once: pages that are new to a process cost several times what is copied to them.

    Args:
        trainer: that is fed; the features of all blocks are started.
        source: the blocks.
    """

    def __init__(self, trainer: FusedTrainer, source: RowBlocks) -> None:
        total = Totals()
        for one in source.totals:
            total = total.plus(one)
        super().__init__(trainer, total.rows, source.weight)
        self.source = source
        self.hot_ids = trainer.start(source.counts(), total.rows)
        self._rooms = _Room(), _Room()
        self.together = max(1, GROUP_FEATURES * len(source.totals) // max(1, total.nnz))

    def groups(self, rng: np.random.Generator | None) -> list[NDArray[np.int64]]:
        """The blocks of an epoch, those of a group together."""
        n = len(self.source.totals)
        order = np.arange(n) if rng is None else rng.permutation(n)
        return [order[low : low + self.together] for low in range(0, n, self.together)]

    def parts(
        self, rng: np.random.Generator | None, skip: int = 0
    ) -> Iterator[tuple[Prepared, Order]]:
        """The parts of each group in turn; groups that are skipped are not read."""
        groups = self.groups(rng)
        ahead: Future[Prepared] | None = None
        with ThreadPoolExecutor(1, "crossfm-read") as reader:
            for g, group in enumerate(groups):
                n_rows = sum(self.source.totals[i].rows for i in group)
                nnz = sum(self.source.totals[i].nnz for i in group)
                step = self._step(nnz, n_rows)
                parts = visits(n_rows, step, rng)
                n_parts = -(-n_rows // step)
                if skip >= n_parts:
                    skip -= n_parts
                    next(parts, None)  # draws its random numbers
                    continue
                ready = (ahead or reader.submit(self._read, group, g)).result()
                ahead = None
                if g + 1 < len(groups):
                    ahead = reader.submit(self._read, groups[g + 1], g + 1)
                for visited in islice(parts, skip, None):
                    yield ready, visited
                skip = 0
                del ready

    def _read(self, group: NDArray[np.int64], number: int) -> Prepared:
        room = self._rooms[number % 2]
        rows = Rows.concatenate([self.source.block(int(i)) for i in group], room)
        self.trainer.check_targets(rows)
        return replace(self.trainer.prepare(rows, training=False), hot_ids=self.hot_ids)


class _Room:
    """Memory for one group at a time: arrays by name, an eighth larger than was asked for."""

    def __init__(self) -> None:
        self._held: dict[str, NDArray[np.uint8]] = {}

    def __call__(self, name: str, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array to write to; what it was given out as before is overwritten."""
        n_bytes = size * dtype.itemsize
        if name not in self._held or self._held[name].size < n_bytes:
            self._held.pop(name, None)  # freed before more is taken
            self._held[name] = _native.allocate(n_bytes // 4 * 9 // 8 + 1).view(np.uint8)
        return self._held[name][:n_bytes].view(dtype)


def feed_of(trainer: FusedTrainer, rows: Rows | RowBlocks, only: Order | None = None) -> Feed:
    """The feed for rows in memory, or in blocks."""
    if isinstance(rows, Rows):
        return WholeFeed(trainer, rows, only)
    if only is not None:
        raise DataError("rows in blocks are taken whole: leave blocks out, not rows")
    return StreamFeed(trainer, rows)


def visits(n: int, step: int, rng: np.random.Generator | None) -> Iterator[Order]:
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
