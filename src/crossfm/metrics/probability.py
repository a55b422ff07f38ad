"""Quality of predicted probabilities: log loss, normalised entropy, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm.errors import DataError, did_you_mean
from crossfm.metrics._checks import (
    Floats,
    binary,
    finite,
    numbers,
    pair,
    probability,
    same_length,
    vector,
    weights_for,
)

__all__ = ["ReliabilityCurve", "ece", "log_loss", "normalized_entropy", "reliability_curve"]

EPS = 1e-7
"""Probabilities are clipped to [EPS, 1 - EPS]: about the resolution of float32 near 1."""


def log_loss(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    eps: float = EPS,
) -> float:
    r"""Mean negative log likelihood, binary or multiclass.

    ``-sum_r c_r log p_r[y_r] / sum_r c_r``, natural logarithm, ``p`` clipped to
    ``[eps, 1 - eps]`` so that one sure and wrong prediction costs 16, not infinity.

    Args:
        y_true: ``[n]`` labels: 0 and 1 (or -1 and 1) where `y_prob` is ``[n]``; column
            numbers 0 .. C-1 where it is ``[n, C]``, unless `labels` names the columns.
        y_prob: ``[n]`` probability of the label 1, or ``[n, C]`` a probability a class.
            Rows of several classes are divided by their sum, which must be 1 within 0.001.
        sample_weight: ``c`` ``[n]``, 0 or more; None: ones.
        labels: ``[C]`` label of each column, strings included; None: 0 .. C-1.
        eps: how far probabilities stay from 0 and 1.

    Raises:
        DataError: lengths that differ, no rows, NaN, probabilities outside [0, 1], a label
            that no column stands for.

    Example:
        >>> round(log_loss([0, 1], [0.2, 0.6]), 6)
        0.366985
        >>> round(log_loss(["b", "a"], [[0.1, 0.9], [0.5, 0.5]], labels=["a", "b"]), 6)
        0.399254
    """
    if not 0 < eps < 0.5:
        raise DataError(f"eps is {eps}, expected a number between 0 and 0.5")
    if np.ndim(y_prob) != 2:
        truth, prob, weight = pair(y_true, y_prob, sample_weight, "y_prob")
        probability("y_prob", prob)
        positive = binary(truth) == 1
        chosen = np.where(positive, prob, 1 - prob)
        return float(np.average(-np.log(np.clip(chosen, eps, 1 - eps)), weights=weight))
    prob = numbers("y_prob", y_prob)
    finite("y_prob", prob)
    probability("y_prob", prob)
    column = _columns(np.asarray(y_true), prob.shape[1], labels)
    same_length(y_true=column, y_prob=prob)
    weight = weights_for(len(column), sample_weight)
    if prob.shape[1] == 1:
        raise DataError("y_prob has one column; expected [n], or a column for each class")
    total = prob.sum(axis=1)
    off = np.abs(total - 1) > 1e-3  # float32 softmax over many classes stays well inside
    if off.any():
        row = int(np.argmax(off))
        raise DataError(f"y_prob row {row} sums to {total[row]:.6g}, expected 1")
    chosen = prob[np.arange(len(column)), column] / total
    return float(np.average(-np.log(np.clip(chosen, eps, 1 - eps)), weights=weight))


def _columns(
    truth: NDArray[np.generic], n_classes: int, labels: ArrayLike | None
) -> NDArray[np.intp]:
    """Column of each row's label."""
    if truth.ndim != 1:
        raise DataError(f"y_true has shape {truth.shape}, expected one dimension [n]")
    if labels is None:
        column = vector("y_true", truth)
        bad = (column != np.floor(column)) | (column < 0) | (column >= n_classes)
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"y_true row {row} is {truth[row]}, expected a column number 0 to"
                f" {n_classes - 1}; name the columns with labels=..."
            )
        return column.astype(np.intp)
    names = np.asarray(labels)
    if names.shape != (n_classes,):
        raise DataError(f"labels has shape {names.shape}, y_prob has {n_classes} columns")
    order = np.argsort(names, kind="stable")
    if (names[order][1:] == names[order][:-1]).any():
        raise DataError("labels holds the same label twice")
    place = np.clip(np.searchsorted(names, truth, sorter=order), 0, n_classes - 1)
    found = order[place]
    missing = names[found] != truth
    if missing.any():
        row = int(np.argmax(missing))
        raise DataError(
            f"y_true row {row} is {truth[row]!r}, which is not among the labels."
            + did_you_mean(truth[row], names)
        )
    return found


def normalized_entropy(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    eps: float = EPS,
) -> float:
    r"""Log loss divided by that of the best constant: below 1 is better than knowing nothing.

    ``log_loss / H(p)`` with ``H(p) = -(p log p + (1 - p) log(1 - p))`` and ``p`` the
    weighted share of the label 1. Unlike the log loss it compares between data of
    different click rates.

    Args:
        y_true: ``[n]`` labels 0 and 1 (or -1 and 1), both present.
        y_prob: ``[n]`` probability of the label 1.
        sample_weight: ``[n]``, 0 or more; None: ones.
        eps: how far probabilities stay from 0 and 1.

    Raises:
        DataError: as `log_loss`, and a single class (the divisor is zero).

    Example:
        >>> normalized_entropy([0, 0, 0, 1], [0.25, 0.25, 0.25, 0.25])
        1.0

    Source: He et al. 2014, Practical Lessons from Predicting Clicks on Ads at Facebook, eq. 1.
    """
    truth, _, weight = pair(y_true, y_prob, sample_weight, "y_prob")
    rate = float(np.average(binary(truth), weights=weight))
    if rate in (0.0, 1.0):
        raise DataError(f"y_true holds one class only ({rate:.0f}); normalised entropy needs both")
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return log_loss(y_true, y_prob, sample_weight=sample_weight, eps=eps) / float(entropy)


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """Predicted against observed rate, in bins of the predicted probability.

    Attributes:
        predicted: float64 ``[b]``, weighted mean probability of each bin that holds rows.
        observed: float64 ``[b]``, weighted share of the label 1 in it.
        weight: float64 ``[b]``, sum of the weights in it (rows, without weights).
        edges: float64 ``[n_bins + 1]``, limits of all bins; a bin is open below, closed
            above, and the first one holds 0 too.
    """

    predicted: Floats
    observed: Floats
    weight: Floats
    edges: Floats


def reliability_curve(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    n_bins: int = 10,
    strategy: Literal["uniform", "quantile"] = "uniform",
) -> ReliabilityCurve:
    r"""Observed rate against predicted probability, bin by bin.

    Args:
        y_true: ``[n]`` labels 0 and 1 (or -1 and 1).
        y_prob: ``[n]`` probability of the label 1.
        sample_weight: ``[n]``, 0 or more; None: ones.
        n_bins: number of bins.
        strategy: "uniform" bins of equal width, or "quantile" bins of equal weight (as far
            as equal probabilities allow: they share a bin).

    Returns:
        The bins that hold any weight, from low to high probability.

    Raises:
        DataError: lengths that differ, no rows, NaN, labels or probabilities out of range.

    Example:
        >>> curve = reliability_curve([0, 1, 1, 1], [0.2, 0.3, 0.8, 0.9], n_bins=2)
        >>> curve.predicted.round(2), curve.observed
        (array([0.25, 0.85]), array([0.5, 1. ]))
    """
    truth, prob, weight = pair(y_true, y_prob, sample_weight, "y_prob")
    probability("y_prob", prob)
    positive = binary(truth)
    if n_bins < 1:
        raise DataError(f"n_bins is {n_bins}, expected at least 1")
    edges: Floats = np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        order = np.argsort(prob, kind="stable")
        mass = np.cumsum(weight[order])
        # A cut lies on the probability at which its share of the weight is reached; rounding
        # of the sum must not push the cut one row up.
        place = np.searchsorted(mass, edges[1:-1] * mass[-1] * (1 - 1e-12))
        edges = np.concatenate([[0.0], prob[order[place]], [1.0]])
    elif strategy != "uniform":
        raise DataError(f"strategy is {strategy!r}, expected 'uniform' or 'quantile'")
    number = np.searchsorted(edges[1:-1], prob)
    mass = np.bincount(number, weight, n_bins).astype(np.float64, copy=False)
    held = mass > 0
    predicted = np.bincount(number, weight * prob, n_bins)[held] / mass[held]
    observed = np.bincount(number, weight * positive, n_bins)[held] / mass[held]
    return ReliabilityCurve(predicted, observed, mass[held], edges)


def ece(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    n_bins: int = 10,
    strategy: Literal["uniform", "quantile"] = "uniform",
) -> float:
    r"""Expected calibration error: mean distance of observed from predicted rate.

    ``sum_b (c_b / c) |observed_b - predicted_b|`` over the bins of `reliability_curve`;
    smaller is better, 0 is calibrated (in bins of this width).

    Args:
        y_true: ``[n]`` labels 0 and 1 (or -1 and 1).
        y_prob: ``[n]`` probability of the label 1.
        sample_weight: ``[n]``, 0 or more; None: ones.
        n_bins: number of bins.
        strategy: "uniform" or "quantile", see `reliability_curve`.

    Raises:
        DataError: as `reliability_curve`.

    Example:
        >>> round(ece([0, 1, 1, 1], [0.2, 0.3, 0.8, 0.9], n_bins=2), 6)
        0.2

    Source: Naeini, Cooper and Hauskrecht 2015, Obtaining Well Calibrated Probabilities Using
    Bayesian Binning, on the probability of the label 1.
    """
    curve = reliability_curve(
        y_true, y_prob, sample_weight=sample_weight, n_bins=n_bins, strategy=strategy
    )
    return float(np.average(np.abs(curve.observed - curve.predicted), weights=curve.weight))
