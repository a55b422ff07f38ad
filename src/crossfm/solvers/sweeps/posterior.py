"""Posterior: the draws that were kept, and what they say of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.solvers.sweeps.design import Block
from crossfm.solvers.sweeps.layout import Layout

__all__ = ["Posterior"]

BATCH = 1 << 16  # rows laid out at a time


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws of a factorization machine's parameters.

    Attributes:
        biases: ``w0`` of each draw, float64 ``[n_draws]``.
        parameters: weights and factors by id, float32 ``[n_draws, 1 + k, n_features]``.
        noises: precision of the noise, float64 ``[n_draws]``.
        cutpoints: of ordinal targets, float64 ``[n_draws, n_levels - 1]``, or None.
        interactions: "all" or "across_fields".
        field_of: int32 ``[n_features]`` or None.
        variances: of the parameters, float32 ``[1 + k, n_features]``, under variational Bayes,
            whose one draw is the mean; else None.
        bias_variance: of the bias, then.
    """

    biases: NDArray[np.float64]
    parameters: NDArray[np.float32]
    noises: NDArray[np.float64]
    cutpoints: NDArray[np.float64] | None = None
    interactions: str = "all"
    field_of: NDArray[np.int32] | None = None
    variances: NDArray[np.float32] | None = None
    bias_variance: float = 0.0

    def __len__(self) -> int:
        return len(self.biases)

    def scores(
        self, rows: Rows, blocks: Sequence[Block] = (), n_jobs: int = 1
    ) -> NDArray[np.float32]:
        """Raw scores of each draw, ``[n_draws, n]``."""
        out = np.empty((len(self), len(rows)), np.float32)
        for part, layout in self._layouts(rows, blocks):
            for of_draw, bias, parameters in zip(out, self.biases, self.parameters, strict=True):
                found = np.ascontiguousarray(parameters[:, layout.ids])
                of_draw[part] = layout.scores(float(bias), found, n_jobs)
        return out

    def score_variances(
        self, rows: Rows, blocks: Sequence[Block] = (), n_jobs: int = 1
    ) -> NDArray[np.float64]:
        """Variance of each row's score, ``[n]``."""
        if self.variances is None:
            return self.scores(rows, blocks, n_jobs).var(axis=0, dtype=np.float64)
        out = np.empty(len(rows))
        for part, layout in self._layouts(rows, blocks):
            mean, spread = (
                np.ascontiguousarray(numbers[:, layout.ids])
                for numbers in (self.parameters[0], self.variances)
            )
            out[part] = layout.variances(mean, spread, n_jobs)
        return out + self.bias_variance

    def _layouts(self, rows: Rows, blocks: Sequence[Block]) -> Iterator[tuple[slice, Layout]]:
        for low in range(0, len(rows), BATCH):
            part = slice(low, min(low + BATCH, len(rows)))
            yield part, Layout(
                rows[part], [Block(block.rows, block.unit_of[part]) for block in blocks],
                n_features=self.parameters.shape[2], field_of=self.field_of,
                interactions=self.interactions, variational=self.variances is not None,
            )  # fmt: skip

    @staticmethod
    def joined(parts: Sequence[Posterior]) -> Posterior:
        """The draws of several chains together."""
        if len(parts) == 1:
            return parts[0]
        if any(part.variances is not None for part in parts):
            raise DataError("variational Bayes has one solution a run, and no chains to join")
        first = parts[0]
        return Posterior(
            np.concatenate([part.biases for part in parts]),
            np.concatenate([part.parameters for part in parts]),
            np.concatenate([part.noises for part in parts]),
            None if first.cutpoints is None else np.concatenate([p.cutpoints for p in parts]),
            first.interactions,
            first.field_of,
        )
