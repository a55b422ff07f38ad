"""Losses of classes: logistic, hinge, softmax."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm.errors import DataError
from crossfm.losses.base import P_MIN, Loss, average
from crossfm.losses.links import Floats, log_softmax, logit, sigmoid, softmax, softplus

__all__ = ["Hinge", "Logistic", "Softmax"]


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
        rate = average(np.asarray(target, np.float64), weight)
        return self.link(np.clip(rate, P_MIN, 1 - P_MIN))


@final
class Hinge(Loss):
    r"""Hinge loss of labels 0 and 1, with a margin of 1: ``max(0, 1 - t s)``, ``t = 2 y - 1``.

    Scores ``[n, C]`` with class numbers as targets are each class against the rest, added up. The
    gradient is ``-t`` within the margin and 0 beyond it and at its border. A score has no
    probability, so there is no `mean` and no `link`.

    Example:
        >>> Hinge().value([0.5, 3.0, 3.0], [1, 1, 0])
        array([0.5, 0. , 4. ])
        >>> Hinge().gradient([0.5, 3.0, 3.0], [1, 1, 0])
        array([-1.,  0.,  1.])
    """

    name = "hinge"

    def value(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``max(0, 1 - t s)``, added up over the outputs ``[n]``."""
        lack = np.maximum(1 - self._sign(score, target) * np.asarray(score, np.float64), 0.0)
        return lack if lack.ndim < 2 else lack.sum(axis=1)

    def gradient(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``-t`` where the margin is missed, of the score's shape."""
        sign = self._sign(score, target)
        result: Floats = np.where(sign * np.asarray(score, np.float64) < 1, -sign, 0.0)
        return result

    def mean(self, score: ArrayLike) -> Floats:
        """None."""
        raise DataError("the hinge loss knows no probabilities; take loss='logistic' for them")

    def link(self, mean: ArrayLike) -> Floats:
        """None."""
        raise DataError("the hinge loss knows no probabilities; take loss='logistic' for them")

    def initial_score(
        self, target: ArrayLike, weight: ArrayLike | None = None, n_classes: int = 2
    ) -> Floats:
        """The margin on the side of the heavier label, ``[]``, or of each class ``[n_classes]``."""
        share = np.bincount(_class_numbers(target, n_classes), weight, n_classes)
        of = share if n_classes > 2 else share[1]
        result: Floats = np.sign(2 * of - share.sum())
        return result

    @staticmethod
    def _sign(score: ArrayLike, target: ArrayLike) -> Floats:
        """+1 for the row's own class, -1 for others, of the score's shape."""
        y = np.asarray(target)
        several = np.ndim(score) > 1
        result: Floats = 2.0 * (y[:, None] == np.arange(np.shape(score)[1]) if several else y) - 1.0
        return result


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
