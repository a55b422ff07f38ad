"""Layout: rows made ready once, to be scored by many draws of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.solvers.sweeps.design import Block, Design

__all__ = ["Layout"]


class Layout:
    """A design of rows and their blocks over the ids that they have.

    Args:
        rows: features, targets unused.
        blocks: relation blocks.
        n_features: number of ids of the model.
        field_of: int32 ``[n_features]`` or None.
        interactions: "all" or "across_fields".
        variational: whether variances are to be had.

    Attributes:
        ids: int64, the features that parameters are asked of, in their order.

    Raises:
        DataError: an id that the model does not have.
    """

    def __init__(
        self,
        rows: Rows,
        blocks: Sequence[Block] = (),
        *,
        n_features: int,
        field_of: NDArray[np.int32] | None,
        interactions: str,
        variational: bool = False,
    ) -> None:
        blocks = [block.used() for block in blocks]
        parts = [rows, *(block.rows for block in blocks)]
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
        self._design = Design(
            small[0], len(ids), None if field_of is None else field_of[ids],
            across_fields=interactions == "across_fields",
            group_of=np.zeros(len(ids), np.int32), n_groups=1,
            blocks=[Block(table, block.unit_of)
                    for table, block in zip(small[1:], blocks, strict=True)],
            variational=variational,
        )  # fmt: skip
        self.ids = ids[self._design.feature_at]
        self._zeros, self._found = np.zeros((2, len(rows)), np.float32)

    def scores(
        self, bias: float, parameters: NDArray[np.float32], n_jobs: int = 1
    ) -> NDArray[np.float32]:
        """Scores ``[n]`` under parameters ``[1 + k, len(ids)]``, the weights first."""
        self._design.sweeper.residuals(
            targets=self._zeros, bias=bias, residual=self._found, weights=parameters[0],
            factors=parameters[1:], threads=n_jobs,
        )  # fmt: skip
        out = np.empty_like(self._found)
        out[self._design.order] = -self._found
        return out

    def variances(
        self, parameters: NDArray[np.float32], spread: NDArray[np.float32], n_jobs: int = 1
    ) -> NDArray[np.float64]:
        """Variances of the scores ``[n]``, less that of the bias, from those of parameters."""
        self._design.sweeper.variances(
            out=self._found, weights=parameters[0], factors=parameters[1:],
            weights_var=spread[0], factors_var=spread[1:], threads=n_jobs,
        )  # fmt: skip
        out = np.empty(len(self._found))
        out[self._design.order] = self._found
        return out
