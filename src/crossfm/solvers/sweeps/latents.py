"""Latent normal targets of probit models, and the cutpoints of ordinal ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.solvers.sweeps.options import SweepOptions

__all__ = ["Cutpoints", "Latents"]


class Cutpoints:
    r"""Where the levels of an ordinal target end on the latent scale: ``c_1 < .. < c_{J-1}``.

    ``P(y = j) = Phi(c_{j+1} - score) - Phi(c_j - score)`` with ``c_0 = -inf``, ``c_J = inf``.
    They are drawn with the latent targets summed out, by a random walk on
    ``(c_1, log(c_2 - c_1), ...)`` whose steps learn their size and direction while the chain
    burns in.

    Args:
        levels: the number of each row's level.
        n_levels: J.
        weights: of rows, or None.

    Source: Cowles 1996, Accelerating Monte Carlo Markov chain convergence for cumulative-link
    generalized linear models; Haario, Saksman and Tamminen 2001 for the steps.
    """

    STEPS = 3  # of the walk in an iteration
    LEARN = 100  # iterations in which its steps are learned
    WIDTH = 5.0  # standard deviation of the prior on each coordinate

    def __init__(
        self, levels: NDArray[np.float32], n_levels: int, weights: NDArray[np.float32] | None
    ) -> None:
        from scipy.special import ndtri

        self.levels = levels.astype(np.int64)
        self.weights = weights
        counts = np.bincount(self.levels, minlength=n_levels) + 0.5
        self.inner = ndtri(np.cumsum(counts)[:-1] / counts.sum())
        self._walked: list[NDArray[np.float64]] = []
        self._steps = np.eye(n_levels - 1) * 0.5 / np.sqrt(counts.sum())

    @property
    def limits(self) -> NDArray[np.float64]:
        """``[J + 1]``: the cutpoints, and infinity on both sides."""
        return np.r_[-np.inf, self.inner, np.inf]

    def draw(
        self, rng: np.random.Generator, scores: NDArray[np.float32], iteration: int, o: SweepOptions
    ) -> None:
        """Some steps of the walk, given the rows' scores."""
        at = _to_line(self.inner)
        density = self._density(self.inner, scores, at)
        for _ in range(self.STEPS):
            there = at + self._steps @ rng.standard_normal(len(at))
            inner = _from_line(there)
            new = self._density(inner, scores, there)
            if np.log(rng.random()) < new - density:
                at, density, self.inner = there, new, inner
        if iteration < self.LEARN:
            self._walked.append(at)
            if iteration >= 20 and iteration % 10 == 0:
                seen = np.array(self._walked[len(self._walked) // 2 :])
                spread = np.atleast_2d(np.cov(seen.T)) + 1e-8 * np.eye(len(at))
                self._steps = np.linalg.cholesky(spread * 2.4**2 / len(at))

    def _density(
        self, inner: NDArray[np.float64], scores: NDArray[np.float32], line: NDArray[np.float64]
    ) -> float:
        logs = log_probability(scores, self.levels, np.r_[-np.inf, inner, np.inf])
        total = logs.sum() if self.weights is None else logs @ self.weights
        return float(total) - float(np.square(line).sum()) / (2 * self.WIDTH**2)


def _to_line(inner: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.r_[inner[:1], np.log(np.diff(inner))]


def _from_line(line: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.cumsum(np.r_[line[:1], np.exp(line[1:])])


def log_probability(
    scores: NDArray[np.float32], levels: NDArray[np.int64], limits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``log(Phi(high - score) - Phi(low - score))`` of each row's level."""
    from scipy.special import ndtr

    low, high = limits[levels] - scores, limits[levels + 1] - scores
    turned = low > 0  # in the lower tail probabilities keep their digits
    low, high = np.where(turned, -high, low), np.where(turned, -low, high)
    return np.log(np.maximum(ndtr(high) - ndtr(low), 1e-300))


class Latents:
    """Targets on the latent scale: normal around the scores, within the limits of the level.

    Args:
        levels: 0 or 1, or the numbers of levels.
        cutpoints: of ordinal targets; None: the one limit is 0.
        options: see `SweepOptions`.
    """

    def __init__(
        self, levels: NDArray[np.float32], cutpoints: Cutpoints | None, options: SweepOptions
    ) -> None:
        self.levels = levels.astype(np.int64)
        self.cutpoints = cutpoints
        self._limits = np.array([-np.inf, 0.0, np.inf])
        self.value = np.zeros(len(levels), np.float32)

    def draw(self, residual: NDArray[np.float32], iteration: int, o: SweepOptions) -> None:
        """New latent targets; residuals come along. Their means under ALS and variational Bayes."""
        wide = self._limits if self.cutpoints is None else self.cutpoints.limits
        limits = wide.astype(np.float32)
        low, high = limits[self.levels], limits[self.levels + 1]
        if o.method == "mcmc":
            _native.draw_latents(
                low=low, high=high, latent=self.value, residual=residual, seed=o.seed,
                iteration=iteration, threads=o.n_jobs,
            )  # fmt: skip
            return
        score = self.value - residual
        self.value[:] = _truncated_mean(score.astype(np.float64), low, high)
        residual[:] = self.value - score


def _truncated_mean(
    mean: NDArray[np.float64], low: NDArray[np.float32], high: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Mean of a normal variable of variance 1 given that it lies in (low, high)."""
    from scipy.special import log_ndtr

    a, b = low - mean, high - mean
    turned = a > 0
    a, b = np.where(turned, -b, a), np.where(turned, -a, b)  # now a <= 0 or both below
    upper, lower = log_ndtr(b), log_ndtr(a)
    with np.errstate(over="ignore", invalid="ignore"):
        mass = upper + np.log1p(-np.exp(lower - upper))
    half = 0.5 * np.log(2 * np.pi)
    shift = np.exp(-0.5 * a * a - half - mass) - np.exp(-0.5 * b * b - half - mass)
    return mean + np.where(turned, -shift, shift)
