"""Errors of predicted values."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from crossfm.metrics._checks import pair

__all__ = ["mae", "rmse"]


def rmse(y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    r"""Root mean squared error.

    ``sqrt(sum_r c_r (y_r - p_r)^2 / sum_r c_r)``; smaller is better, 0 is perfect.

    Args:
        y_true: targets ``[n]``.
        y_pred: predictions ``[n]``, in the units of the targets.
        sample_weight: ``c`` ``[n]``, 0 or more; None: ones.

    Raises:
        DataError: lengths that differ, no rows, NaN or infinity, negative weights.

    Example:
        >>> rmse([3.0, 5.0], [2.0, 3.0])
        1.5811388300841898
        >>> rmse([3.0, 5.0], [2.0, 3.0], sample_weight=[1.0, 0.0])
        1.0
    """
    truth, pred, weight = pair(y_true, y_pred, sample_weight)
    return float(np.sqrt(np.average((truth - pred) ** 2, weights=weight)))


def mae(y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    r"""Mean absolute error.

    ``sum_r c_r |y_r - p_r| / sum_r c_r``; smaller is better, 0 is perfect.

    Args:
        y_true: targets ``[n]``.
        y_pred: predictions ``[n]``, in the units of the targets.
        sample_weight: ``c`` ``[n]``, 0 or more; None: ones.

    Raises:
        DataError: lengths that differ, no rows, NaN or infinity, negative weights.

    Example:
        >>> mae([3.0, 5.0], [2.0, 3.0])
        1.5
    """
    truth, pred, weight = pair(y_true, y_pred, sample_weight)
    return float(np.average(np.abs(truth - pred), weights=weight))
