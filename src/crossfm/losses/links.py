"""Between scores and probabilities, without overflow, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm.errors import DataError

__all__ = ["Floats", "log_softmax", "logit", "sigmoid", "softmax", "softplus"]

Floats = NDArray[np.float64]


def sigmoid(score: ArrayLike) -> Floats:
    r"""Probability of a logit: ``1 / (1 + exp(-s))``, without overflow.

    Example:
        >>> sigmoid([-1000.0, 0.0, 1000.0])
        array([0. , 0.5, 1. ])
    """
    s = np.asarray(score, dtype=np.float64)
    small = np.exp(-np.abs(s))  # at most 1
    result: Floats = np.where(s >= 0, 1.0, small) / (1.0 + small)
    return result


def logit(probability: ArrayLike) -> Floats:
    r"""Logit of a probability: ``log(p / (1 - p))``, infinite at 0 and 1.

    Example:
        >>> logit([0.0, 0.5, 1.0])
        array([-inf,   0.,  inf])
    """
    p = np.asarray(probability, dtype=np.float64)
    with np.errstate(divide="ignore"):
        result: Floats = np.log(p) - np.log1p(-p)
    return result


def softplus(score: ArrayLike) -> Floats:
    r"""``log(1 + exp(s))``, without overflow and exact for large negative scores.

    Example:
        >>> softplus([0.0, 1000.0]).round(6)
        array([6.93147e-01, 1.00000e+03])
    """
    result: Floats = np.logaddexp(0.0, np.asarray(score, dtype=np.float64))
    return result


def log_softmax(score: ArrayLike) -> Floats:
    r"""Log probabilities of classes over the last axis: ``s_c - log sum_d exp(s_d)``.

    Example:
        >>> log_softmax([[0.0, 0.0], [1000.0, 0.0]]).round(4)
        array([[-6.931e-01, -6.931e-01],
               [ 0.000e+00, -1.000e+03]])
    """
    s = np.asarray(score, dtype=np.float64)
    if s.ndim == 0 or s.shape[-1] == 0:
        raise DataError(f"scores have shape {s.shape}, expected at least one class")
    s = s - s.max(axis=-1, keepdims=True)
    result: Floats = s - np.log(np.exp(s).sum(axis=-1, keepdims=True))
    return result


def softmax(score: ArrayLike) -> Floats:
    r"""Probabilities of classes over the last axis: ``exp(s_c) / sum_d exp(s_d)``.

    Example:
        >>> softmax([[0.0, 0.0], [1000.0, 0.0]])
        array([[0.5, 0.5],
               [1. , 0. ]])
    """
    return np.exp(log_softmax(score))
