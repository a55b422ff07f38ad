"""RunningMean: the mean of many draws as one machine, kept in the room of a few of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.solvers.sweeps.design import Block

__all__ = ["RunningMean", "sizes_of"]


class RunningMean:
    r"""The mean score of draws, as the bias, weights and factors that have it.

    The bias and weights are means. The pairs' part is ``x^T M x`` with the mean
    ``M = sum_d V_d V_d^T / D`` over the draws, of which ``B B^T`` keeps the `rank` directions that
    weigh most: where the factors of the draws outgrow the room, they are turned onto the
    eigenvectors of ``X^T W X``, and the least of these are dropped. A feature counts with what it
    brings into the rows, ``W_i = sum_r x_ri^2``.

    Args:
        n_features: number of ids.
        rank: columns of B. Up to so many factors of draws the mean is exact.
        sizes: ``W``, ``[n_features]``.

    Source: Brand 2002, Incremental singular value decomposition of uncertain data with missing
    values, for the update; the weights are our own.
    """

    def __init__(self, n_features: int, rank: int, sizes: NDArray[np.float64]) -> None:
        self.count, self.rank = 0, rank
        self._root = np.sqrt(np.maximum(sizes, 0.5)).astype(np.float32)  # [n_features]
        self._bias, self._weights = 0.0, np.zeros(n_features)
        self._columns = np.empty((2 * rank, n_features), np.float32)  # of B, not divided yet
        self._used = 0

    def add(self, bias: float, parameters: NDArray[np.float32]) -> None:
        """One draw more: parameters ``[1 + k, n_features]``, the weights first."""
        self.count += 1
        self._bias += bias
        self._weights += parameters[0]
        for factor in parameters[1:]:
            if self._used == len(self._columns):
                self._drop()
            self._columns[self._used] = factor
            self._used += 1

    def value(self) -> tuple[float, NDArray[np.float32]]:
        """The mean bias, and parameters ``[1 + rank, n_features]`` at most."""
        self._drop()
        found = np.empty((1 + self._used, len(self._weights)), np.float32)
        found[0] = self._weights / self.count
        found[1:] = self._columns[: self._used] / np.float32(np.sqrt(self.count))
        return self._bias / self.count, found

    def _drop(self) -> None:
        """Keep the columns that weigh most."""
        if self._used <= self.rank:
            return
        columns = self._columns[: self._used]
        weighted = columns * self._root
        _, turn = np.linalg.eigh((weighted @ weighted.T).astype(np.float64))
        self._columns[: self.rank] = turn[:, -self.rank :].T.astype(np.float32) @ columns
        self._used = self.rank


def sizes_of(rows: Rows, blocks: Sequence[Block], n_features: int) -> NDArray[np.float64]:
    """``sum_r x_ri^2`` of each feature over the rows, ``[n_features]``."""
    found = _squares(rows, None, n_features)
    for block in blocks:
        found += _squares(
            block.rows, np.bincount(block.unit_of, minlength=len(block.rows)), n_features
        )
    return found


def _squares(rows: Rows, times: NDArray[np.int64] | None, n_features: int) -> NDArray[np.float64]:
    values = np.ones(rows.nnz) if rows.values is None else np.square(rows.values, dtype=np.float64)
    if times is not None:
        values = values * np.repeat(times, rows.row_lengths())
    return np.asarray(np.bincount(rows.ids, values, n_features), np.float64)
