"""Losses: value, gradient, link and starting intercept, in NumPy float64.

The definition that the solvers follow. Scores are raw (logits); probabilities appear only
behind `Loss.mean`. Every function here is safe for scores of any size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm.errors import DataError, did_you_mean

__all__ = [
    "LOSSES",
    "Logistic",
    "Loss",
    "Softmax",
    "Squared",
    "get_loss",
    "log_softmax",
    "logit",
    "sigmoid",
    "softmax",
    "softplus",
]

Floats = NDArray[np.float64]

P_MIN = 1e-6
"""Starting intercepts stay within the log odds of this probability (13.8)."""


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


class Loss(ABC):
    """What a solver minimises: the mean over rows of ``value(score, target)``.

    Attributes:
        name: how options name it.
    """

    name: str

    @abstractmethod
    def value(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """Loss of each row, ``[n]``."""

    @abstractmethod
    def gradient(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """Derivative of `value` by the score, of the score's shape."""

    @abstractmethod
    def mean(self, score: ArrayLike) -> Floats:
        """Inverse link: the expected target (a probability) at a score."""

    @abstractmethod
    def link(self, mean: ArrayLike) -> Floats:
        """Score at which `mean` is expected."""

    @abstractmethod
    def initial_score(self, target: ArrayLike, weight: ArrayLike | None = None) -> Floats:
        """The best constant score: where a fit's intercept starts. Finite."""

    def average(
        self, score: ArrayLike, target: ArrayLike, weight: ArrayLike | None = None
    ) -> float:
        """Weighted mean of `value` over the rows."""
        return _average(self.value(score, target), weight)


def _average(value: Floats, weight: ArrayLike | None) -> float:
    return float(np.average(value, weights=None if weight is None else np.asarray(weight)))


@final
class Squared(Loss):
    r"""Half the squared error: ``(s - y)^2 / 2``, so that the gradient is ``s - y``.

    Example:
        >>> Squared().value([1.0, 4.0], [1.0, 2.0])
        array([0., 2.])
        >>> Squared().gradient([1.0, 4.0], [1.0, 2.0])
        array([0., 2.])
    """

    name = "squared"

    def value(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``(s - y)^2 / 2`` ``[n]``."""
        result: Floats = 0.5 * self.gradient(score, target) ** 2
        return result

    def gradient(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``s - y`` ``[n]``."""
        result: Floats = np.asarray(score, np.float64) - np.asarray(target, np.float64)
        return result

    def mean(self, score: ArrayLike) -> Floats:
        """The score itself."""
        return np.asarray(score, np.float64)

    def link(self, mean: ArrayLike) -> Floats:
        """The mean itself."""
        return np.asarray(mean, np.float64)

    def initial_score(self, target: ArrayLike, weight: ArrayLike | None = None) -> Floats:
        """Weighted mean of the targets, ``[]``."""
        return np.asarray(_average(np.asarray(target, np.float64), weight))


@final
class Logistic(Loss):
    r"""Negative log likelihood of labels 0 and 1: ``log(1 + exp(s)) - y s``.

    Targets between 0 and 1 (rates) work too. The gradient is ``sigmoid(s) - y``.

    Example:
        >>> Logistic().value([0.0, -1000.0], [1.0, 1.0]).round(4)
        array([6.931e-01, 1.000e+03])
        >>> Logistic().gradient([0.0, 1000.0], [1.0, 0.0])
        array([-0.5,  1. ])
    """

    name = "logistic"

    def value(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``y log(1 + exp(-s)) + (1 - y) log(1 + exp(s))`` ``[n]``."""
        s, y = np.asarray(score, np.float64), np.asarray(target, np.float64)
        return y * softplus(-s) + (1 - y) * softplus(s)  # no difference of large numbers

    def gradient(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``sigmoid(s) - y`` ``[n]``."""
        result: Floats = sigmoid(score) - np.asarray(target, np.float64)
        return result

    def mean(self, score: ArrayLike) -> Floats:
        """Probability of the label 1: the sigmoid."""
        return sigmoid(score)

    def link(self, mean: ArrayLike) -> Floats:
        """Log odds."""
        return logit(mean)

    def initial_score(self, target: ArrayLike, weight: ArrayLike | None = None) -> Floats:
        """Log odds of the weighted share of the label 1, ``[]``, kept within +-13.8."""
        rate = _average(np.asarray(target, np.float64), weight)
        return self.link(np.clip(rate, P_MIN, 1 - P_MIN))


@final
class Softmax(Loss):
    r"""Negative log likelihood of one class among C: ``log sum_d exp(s_d) - s_y``.

    Scores are ``[n, C]``, targets class numbers ``[n]`` from 0 to C - 1. The gradient is
    ``softmax(s) - onehot(y)``, ``[n, C]``.

    Raises:
        DataError: a target that is no class number.

    Example:
        >>> Softmax().value([[0.0, 0.0]], [1]).round(6)
        array([0.693147])
        >>> Softmax().gradient([[0.0, 0.0]], [1])
        array([[ 0.5, -0.5]])
    """

    name = "softmax"

    def value(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``-log softmax(s)[y]`` ``[n]``."""
        log_p = log_softmax(score)  # [n, C]
        return -np.take_along_axis(log_p, self._column(log_p, target), axis=1)[:, 0]

    def gradient(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``softmax(s) - onehot(y)`` ``[n, C]``."""
        p = softmax(score)  # [n, C]
        column = self._column(p, target)
        np.put_along_axis(p, column, np.take_along_axis(p, column, axis=1) - 1, axis=1)
        return p

    def mean(self, score: ArrayLike) -> Floats:
        """Probabilities ``[n, C]``."""
        return softmax(score)

    def link(self, mean: ArrayLike) -> Floats:
        """Log probabilities: the scores up to a constant a row."""
        with np.errstate(divide="ignore"):
            result: Floats = np.log(np.asarray(mean, np.float64))
        return result

    def initial_score(
        self, target: ArrayLike, weight: ArrayLike | None = None, n_classes: int | None = None
    ) -> Floats:
        """Log of each class's weighted share, ``[C]``, finite, with mean zero."""
        y = _class_numbers(target, n_classes)
        weight = None if weight is None else np.asarray(weight, np.float64)
        share = np.bincount(y, weight, n_classes or 0)
        log_p = self.link(np.maximum(share / share.sum(), P_MIN))
        result: Floats = log_p - log_p.mean()
        return result

    @staticmethod
    def _column(score: Floats, target: ArrayLike) -> NDArray[np.intp]:
        if score.ndim != 2:
            raise DataError(f"scores have shape {score.shape}, expected [n, n_classes]")
        y = _class_numbers(target, score.shape[1])
        if len(y) != len(score):
            raise DataError(f"{len(y)} targets for {len(score)} rows of scores")
        return y[:, None]


def _class_numbers(target: ArrayLike, n_classes: int | None) -> NDArray[np.intp]:
    y = np.asarray(target)
    if y.ndim != 1:
        raise DataError(f"targets have shape {y.shape}, expected [n]")
    number = y.astype(np.intp)
    bad = (number != y) | (number < 0)
    if n_classes is not None:
        bad |= number >= n_classes
    if bad.any():
        row = int(np.argmax(bad))
        most = "" if n_classes is None else f" to {n_classes - 1}"
        raise DataError(f"target row {row} is {y[row]}, expected a class number 0{most}")
    return number


LOSSES: dict[str, Loss] = {loss.name: loss for loss in (Squared(), Logistic(), Softmax())}
"""Every loss by its name."""


def get_loss(name: str | Loss) -> Loss:
    """Look a loss up by name.

    Raises:
        DataError: an unknown name; the nearest one is suggested.

    Example:
        >>> float(get_loss("squared").gradient(3.0, 1.0))
        2.0
        >>> get_loss("logistik")
        Traceback (most recent call last):
            ...
        crossfm.errors.DataError: no loss 'logistik'. Did you mean 'logistic'?
    """
    if isinstance(name, Loss):
        return name
    if name not in LOSSES:
        raise DataError(f"no loss {name!r}.{did_you_mean(name, LOSSES)}")
    return LOSSES[name]
