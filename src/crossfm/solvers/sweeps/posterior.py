"""Posterior: the draws that were kept, and what they say of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.solvers.sweeps.design import Block, Design

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
        for low in range(0, len(rows), BATCH):
            high = min(low + BATCH, len(rows))
            design, ids = self._lay_out(rows, blocks, low, high)
            targets, residual = np.zeros((2, high - low), np.float32)
            for of_draw, bias, parameters in zip(out, self.biases, self.parameters, strict=True):
                found = np.ascontiguousarray(parameters[:, ids])
                design.sweeper.residuals(
                    targets=targets, bias=float(bias), residual=residual, weights=found[0],
                    factors=found[1:], threads=n_jobs,
                )  # fmt: skip
                of_draw[low + design.order] = -residual
        return out

    def score_variances(
        self, rows: Rows, blocks: Sequence[Block] = (), n_jobs: int = 1
    ) -> NDArray[np.float64]:
        """Variance of each row's score, ``[n]``."""
        if self.variances is None:
            return self.scores(rows, blocks, n_jobs).var(axis=0, dtype=np.float64)
        out = np.empty(len(rows))
        for low in range(0, len(rows), BATCH):
            high = min(low + BATCH, len(rows))
            design, ids = self._lay_out(rows, blocks, low, high)
            mean, spread = (
                np.ascontiguousarray(part[:, ids]) for part in (self.parameters[0], self.variances)
            )
            found = np.empty(high - low, np.float32)
            design.sweeper.variances(
                out=found, weights=mean[0], factors=mean[1:], weights_var=spread[0],
                factors_var=spread[1:], threads=n_jobs,
            )  # fmt: skip
            out[low + design.order] = found
        return out + self.bias_variance

    def _lay_out(
        self, rows: Rows, blocks: Sequence[Block], low: int, high: int
    ) -> tuple[Design, NDArray[np.int64]]:
        """A design of some of the rows over the ids that they have, and those in its order."""
        n_features = self.parameters.shape[2]
        parts = [rows[low:high], *(block.rows for block in blocks)]
        for part in parts:
            part.validate(n_features)
        ids, places = np.unique(np.concatenate([part.ids for part in parts]), return_inverse=True)
        if not len(ids):
            ids = np.zeros(min(1, n_features), np.int64)
        small: list[Rows] = []
        start = 0
        for part in parts:
            new = places[start : start + part.nnz].astype(np.int32)
            small.append(Rows(new, part.values, part.offsets, part.fields, n_rows=len(part)))
            start += part.nnz
        design = Design(
            small[0], len(ids), None if self.field_of is None else self.field_of[ids],
            across_fields=self.interactions == "across_fields",
            group_of=np.zeros(len(ids), np.int32), n_groups=1,
            blocks=[Block(table, block.unit_of[low:high])
                    for table, block in zip(small[1:], blocks, strict=True)],
            variational=self.variances is not None,
        )  # fmt: skip
        return design, ids[design.feature_at]

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
