"""Errors of predicted values."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from crossfm.errors import DataError
from crossfm.metrics._checks import pair

__all__ = ["mae", "pinball_loss", "poisson_deviance", "rmse"]


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


def pinball_loss(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    quantile: float = 0.5,
) -> float:
    r"""Mean pinball loss: least where a share of `quantile` of the targets is below the prediction.

    ``sum_r c_r max(q (y_r - p_r), (q - 1) (y_r - p_r)) / sum_r c_r``; 0 is perfect.

    Args:
        y_true: targets ``[n]``.
        y_pred: predicted quantiles ``[n]``, in the units of the targets.
        sample_weight: ``c`` ``[n]``, 0 or more; None: ones.
        quantile: level q, above 0 and below 1; at 0.5 it is half the `mae`.

    Raises:
        DataError: lengths that differ, no rows, NaN or infinity, negative weights, a level that is
            none.

    Example:
        >>> round(pinball_loss([1.0, 2.0], [2.0, 4.0], quantile=0.9), 6)
        0.15
    """
    if not 0 < quantile < 1:
        raise DataError(f"quantile is {quantile!r}, expected a number above 0 and below 1")
    truth, pred, weight = pair(y_true, y_pred, sample_weight)
    r = truth - pred
    return float(np.average(np.maximum(quantile * r, (quantile - 1) * r), weights=weight))


def poisson_deviance(
    y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""Mean Poisson deviance of predicted means.

    ``2 sum_r c_r (y_r log(y_r / p_r) - y_r + p_r) / sum_r c_r``; smaller is better, 0 is perfect.

    Args:
        y_true: counts ``[n]``, 0 or more.
        y_pred: predicted means ``[n]``, above 0.
        sample_weight: ``c`` ``[n]``, 0 or more; None: ones.

    Raises:
        DataError: lengths that differ, no rows, NaN or infinity, negative weights or counts, means
            that are not positive.

    Example:
        >>> round(poisson_deviance([0.0, 2.0], [1.0, 2.0]), 6)
        1.0
    """
    truth, pred, weight = pair(y_true, y_pred, sample_weight)
    for name, bad, expected in (
        ("y_true", truth < 0, "0 or more"),
        ("y_pred", pred <= 0, "a mean above 0"),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            found = (truth if name == "y_true" else pred)[row]
            raise DataError(f"{name} row {row} is {found:g}, expected {expected}")
    parts = truth * np.log(np.where(truth > 0, truth, 1.0) / pred) - truth + pred
    return float(2 * np.average(parts, weights=weight))
