"""Losses of numbers: squared, Huber, Poisson, quantile."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import ArrayLike

from crossfm.losses.base import P_MIN, IdentityLink, Loss, average, weighted_quantile
from crossfm.losses.links import Floats

__all__ = ["Huber", "Poisson", "Quantile", "Squared"]

POISSON_TOP = 30.0
"""From this score on exp goes on as its tangent; the core has the same number."""


@final
class Squared(IdentityLink):
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

    def initial_score(self, target: ArrayLike, weight: ArrayLike | None = None) -> Floats:
        """Weighted mean of the targets, ``[]``."""
        return np.asarray(average(np.asarray(target, np.float64), weight))


@final
class Huber(IdentityLink):
    r"""Squared near the target, linear from a residual of `epsilon` on (Huber 1964).

    ``r^2 / 2`` where ``|r| = |s - y| <= epsilon``, else ``epsilon (|r| - epsilon / 2)``. The
    gradient is the residual, kept within +-epsilon.

    Args:
        epsilon: above 0, in units of the target.

    Example:
        >>> Huber(1.0).value([0.5, 3.0], [0.0, 0.0])
        array([0.125, 2.5  ])
        >>> Huber(1.0).gradient([0.5, 3.0], [0.0, 0.0])
        array([0.5, 1. ])
    """

    name = "huber"

    def __init__(self, epsilon: float = 1.35) -> None:
        self.parameter = epsilon

    def value(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``g (r - g / 2)`` with the gradient g ``[n]``."""
        g = self.gradient(score, target)
        result: Floats = g * (np.asarray(score, np.float64) - np.asarray(target) - 0.5 * g)
        return result

    def gradient(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``s - y`` within +-epsilon ``[n]``."""
        residual = np.asarray(score, np.float64) - np.asarray(target, np.float64)
        return np.clip(residual, -self.parameter, self.parameter)

    def initial_score(self, target: ArrayLike, weight: ArrayLike | None = None) -> Floats:
        """Weighted median of the targets, ``[]``: near the best."""
        return np.asarray(weighted_quantile(target, 0.5, weight))


@final
class Poisson(Loss):
    r"""Half the Poisson deviance of counts: ``exp(s) - y s + y log y - y``, 0 at ``exp(s) = y``.

    The score is the logarithm of the mean. The gradient is ``exp(s) - y``. Above a score of 30
    (a mean of 10^13) exp goes on as its tangent.

    Example:
        >>> Poisson().value([0.0, 0.0], [1.0, 3.0]).round(4)
        array([0.    , 1.2958])
        >>> Poisson().gradient([0.0, 0.0], [1.0, 3.0])
        array([ 0., -2.])
    """

    name = "poisson"

    def value(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``exp(s) - y s + y log y - y`` ``[n]``."""
        s, y = np.asarray(score, np.float64), np.asarray(target, np.float64)
        low = np.minimum(s, POISSON_TOP)
        at_best = y * np.log(np.where(y > 0, y, 1.0)) - y
        result: Floats = np.exp(low) * (1 + (s - low)) - y * s + at_best
        return result

    def gradient(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``exp(s) - y`` ``[n]``."""
        low = np.minimum(np.asarray(score, np.float64), POISSON_TOP)
        result: Floats = np.exp(low) - np.asarray(target, np.float64)
        return result

    def mean(self, score: ArrayLike) -> Floats:
        """``exp(s)``; infinite from 709.8 on."""
        with np.errstate(over="ignore"):
            return np.exp(np.asarray(score, np.float64))

    def link(self, mean: ArrayLike) -> Floats:
        """Logarithm."""
        with np.errstate(divide="ignore"):
            return np.log(np.asarray(mean, np.float64))

    def initial_score(self, target: ArrayLike, weight: ArrayLike | None = None) -> Floats:
        """Logarithm of the weighted mean of the targets, ``[]``, at least -13.8."""
        return self.link(max(average(np.asarray(target, np.float64), weight), P_MIN))


@final
class Quantile(IdentityLink):
    r"""Pinball loss, least at a quantile of the target: ``max(q (y - s), (q - 1) (y - s))``.

    The gradient is ``-q`` below the target, ``1 - q`` above it, 0 on it.

    Args:
        quantile: level q, above 0 and below 1; 0.5 fits the median, to half the absolute error.

    Example:
        >>> Quantile(0.9).value([1.0, 3.0], [2.0, 2.0]).round(6)
        array([0.9, 0.1])
        >>> Quantile(0.9).gradient([1.0, 3.0, 2.0], [2.0, 2.0, 2.0]).round(6)
        array([-0.9,  0.1,  0. ])

    Source: Koenker and Bassett 1978.
    """

    name = "quantile"

    def __init__(self, quantile: float = 0.5) -> None:
        self.parameter = quantile

    def value(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``max(q r, (q - 1) r)`` with ``r = y - s`` ``[n]``."""
        r = np.asarray(target, np.float64) - np.asarray(score, np.float64)
        return np.maximum(self.parameter * r, (self.parameter - 1) * r)

    def gradient(self, score: ArrayLike, target: ArrayLike) -> Floats:
        """``-q`` below the target, ``1 - q`` above it ``[n]``."""
        r = np.asarray(target, np.float64) - np.asarray(score, np.float64)
        return np.where(r > 0, -self.parameter, np.where(r < 0, 1 - self.parameter, 0.0))

    def initial_score(self, target: ArrayLike, weight: ArrayLike | None = None) -> Floats:
        """The targets' weighted quantile, ``[]``."""
        return np.asarray(weighted_quantile(target, self.parameter, weight))
