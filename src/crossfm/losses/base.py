"""What every loss can do."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike

from crossfm.losses.links import Floats

__all__ = ["P_MIN", "IdentityLink", "Loss", "average", "weighted_quantile"]

P_MIN = 1e-6
"""Starting intercepts stay within the log odds of this probability (13.8)."""


class Loss(ABC):
    """What a solver minimises: the mean over rows of ``value(score, target)``.

    Attributes:
        name: how options name it.
        parameter: the number that the loss depends on, 0 where there is none.
    """

    name: str
    parameter: float = 0.0

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
        return average(self.value(score, target), weight)


class IdentityLink(Loss):
    """A loss whose scores are predictions themselves."""

    def mean(self, score: ArrayLike) -> Floats:
        """The score itself."""
        return np.asarray(score, np.float64)

    def link(self, mean: ArrayLike) -> Floats:
        """The mean itself."""
        return np.asarray(mean, np.float64)


def average(value: Floats, weight: ArrayLike | None) -> float:
    """Weighted mean ``[]``."""
    return float(np.average(value, weights=None if weight is None else np.asarray(weight)))


def weighted_quantile(value: ArrayLike, level: float, weight: ArrayLike | None = None) -> float:
    """The least value that a share of at least `level` of the weight does not exceed.

    >>> weighted_quantile([3.0, 1.0, 2.0], 0.5)
    2.0
    >>> weighted_quantile([3.0, 1.0, 2.0], 0.5, [5.0, 1.0, 1.0])
    3.0
    """
    x = np.asarray(value, np.float64)
    order = np.argsort(x, kind="stable")
    c = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
    total = np.cumsum(c[order])
    at = np.searchsorted(total, level * total[-1] * (1 - 1e-12))
    return float(x[order[min(int(at), len(x) - 1)]])
