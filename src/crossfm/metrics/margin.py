"""Quality of decisions by their margin."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from crossfm.errors import DataError
from crossfm.metrics._checks import binary, finite, numbers, same_length, vector, weights_for

__all__ = ["hinge_loss"]


def hinge_loss(
    y_true: ArrayLike, y_score: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""Mean hinge loss: how far scores stay behind a margin of 1 on their label's side.

    ``sum_r c_r max(0, 1 - t_r s_r) / sum_r c_r`` with t = 1 for the label 1 and -1 for the other.
    With a score for each of C classes, the sum over classes, each against the rest.

    Args:
        y_true: labels 0 and 1 (or -1 and 1) ``[n]``; class numbers for scores ``[n, C]``.
        y_score: ``[n]`` or ``[n, C]``, of any size.
        sample_weight: ``c`` ``[n]``, 0 or more; None: ones.

    Raises:
        DataError: lengths that differ, no rows, NaN, labels that are none, negative weights.

    Example:
        >>> hinge_loss([0, 1], [-2.0, 0.5])
        0.25
        >>> hinge_loss([0, 2], [[1.0, -1.0, -1.0], [-1.0, 0.0, 1.0]])
        0.5
    """
    truth, score = vector("y_true", y_true), numbers("y_score", y_score)
    if score.ndim == 2 and score.shape[1] > 1:
        finite("y_score", score)
        same_length(y_true=truth, y_score=score)
        bad = (truth < 0) | (truth >= score.shape[1]) | (truth != np.floor(truth))
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"y_true row {row} is {truth[row]:g}, expected a class number 0 to"
                f" {score.shape[1] - 1}"
            )
        sign = 2.0 * (truth[:, None] == np.arange(score.shape[1])) - 1
    else:
        score = vector("y_score", score)
        same_length(y_true=truth, y_score=score)
        sign = 2.0 * binary(truth) - 1
    lack = np.maximum(1 - sign * score, 0.0)
    weight = weights_for(len(truth), sample_weight)
    return float(np.average(lack if lack.ndim == 1 else lack.sum(axis=1), weights=weight))
