"""Scores of users and all items, and the best of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.model import FactorModel

__all__ = ["best_of", "score_blocks"]

SCORES_AT_ONCE = 1 << 22  # 16 MB of float32


def score_blocks(
    model: FactorModel, queries: Rows, items: Rows
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Scores of the model, ``[queries of the block, items]``, block by block."""
    own = model.score(queries)
    V = (items.to_csr(model.n_features) @ model.factors).astype(np.float32)
    b = model.score(items) - np.float32(model.bias)
    Q = (queries.to_csr(model.n_features) @ model.factors).astype(np.float32)
    size = max(1, SCORES_AT_ONCE // max(len(V), 1))
    for low in range(0, len(Q), size):
        part = slice(low, min(low + size, len(Q)))
        yield part, Q[part] @ V.T + b + own[part, None]


def best_of(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Places and scores of the k highest of each row; equal ones by place, -1 for -inf.

    >>> best_of(np.array([[1.0, 3.0, 3.0, -np.inf]], np.float32), 2)[0]
    array([[1, 2]])
    """
    width = min(k, scores.shape[1])
    places = np.full((len(scores), k), -1)
    best = np.full((len(scores), k), -np.inf, np.float32)
    if not width:
        return places, best
    floor = -np.partition(-scores, width - 1, axis=1)[:, width - 1]
    for row, line in enumerate(scores):
        near = np.flatnonzero(line >= floor[row])
        chosen = near[np.argsort(-line[near], kind="stable")][:width]
        places[row, :width], best[row, :width] = chosen, line[chosen]
    places[best == -np.inf] = -1
    return places, best
