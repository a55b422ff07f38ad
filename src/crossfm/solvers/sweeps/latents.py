"""Latent normal targets of probit models, and the cutpoints of ordinal ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.solvers.sweeps.options import SweepOptions

__all__ = ["Cutpoints", "Latents"]

HALVINGS = 30  # of a Newton step that leads down
LOG_PHI_0 = -0.5 * np.log(2 * np.pi)  # of the normal density at 0


class Cutpoints:
    r"""Where the levels of an ordinal target end on the latent scale: ``c_1 < .. < c_{J-1}``.

    ``P(y = j) = Phi(c_{j+1} - score) - Phi(c_j - score)`` with ``c_0 = -inf``, ``c_J = inf``.
    They are drawn with the latent targets summed out, on ``t = (c_1, log(c_2 - c_1), ...)``, after
    Metropolis and Hastings. With moves of "newton" the proposal is a Student's t around the mode
    given the scores, with the curvature there: as it is hardly ever refused, a draw is as good as
    one from the conditional itself. With "walk" it is some steps of a random walk, whose size and
    direction are learned while the chain burns in: a chain that starts at the levels' shares takes
    thousands of iterations to leave them, and meanwhile shrinks what it predicts.

    Args:
        levels: the number of each row's level.
        n_levels: J.
        weights: of rows, or None.
        moves: "newton" or "walk".

    Source: Cowles 1996, Accelerating Monte Carlo Markov chain convergence for cumulative-link
    generalized linear models, for summing out; Chib and Greenberg 1995 for proposals around a mode;
    Haario, Saksman and Tamminen 2001 for the steps of the walk.
    """

    WIDTH = 5.0  # standard deviation of the prior on each coordinate
    FREEDOM = 8  # degrees of, of the proposal
    CLOSE = 1e-3  # deviations from the mode at which the search for it ends
    STEPS = 3  # of the walk in an iteration
    LEARN = 100  # iterations in which its steps are learned

    def __init__(
        self,
        levels: NDArray[np.float32],
        n_levels: int,
        weights: NDArray[np.float32] | None,
        moves: str = "newton",
    ) -> None:
        from scipy.special import ndtri

        self.levels = levels.astype(np.int64)
        self.weights = weights
        counts = np.bincount(self.levels, minlength=n_levels) + 0.5
        self.inner = ndtri(np.cumsum(counts)[:-1] / counts.sum())
        self.moves, self._mode = moves, _to_line(self.inner)
        self._walked: list[NDArray[np.float64]] = []
        self._steps = np.eye(n_levels - 1) * 0.5 / np.sqrt(counts.sum())

    @property
    def limits(self) -> NDArray[np.float64]:
        """``[J + 1]``: the cutpoints, and infinity on both sides."""
        return np.r_[-np.inf, self.inner, np.inf]

    def draw(self, rng: np.random.Generator, scores: NDArray[np.float32], iteration: int) -> None:
        """A draw given the rows' scores."""
        if self.moves == "walk":
            self._walk(rng, scores, iteration)
            return
        mode, root = self._find_mode(scores)
        n, freedom = len(mode), self.FREEDOM
        normal, spread = rng.standard_normal(n), rng.chisquare(freedom) / freedom
        there = mode + np.linalg.solve(root.T, normal) / np.sqrt(spread)

        def excess(at: NDArray[np.float64]) -> float:
            """Log density over that of the proposal."""
            far = np.square(root.T @ (at - mode)).sum()
            return self._density(scores, at) + (freedom + n) / 2 * float(np.log1p(far / freedom))

        if np.log(rng.random()) < excess(there) - excess(_to_line(self.inner)):
            self.inner = _from_line(there)

    def _walk(self, rng: np.random.Generator, scores: NDArray[np.float32], iteration: int) -> None:
        at = _to_line(self.inner)
        density = self._density(scores, at)
        for _ in range(self.STEPS):
            there = at + self._steps @ rng.standard_normal(len(at))
            new = self._density(scores, there)
            if np.log(rng.random()) < new - density:
                at, density, self.inner = there, new, _from_line(there)
        if iteration < self.LEARN:
            self._walked.append(at)
            if iteration >= 20 and iteration % 10 == 0:
                seen = np.array(self._walked[len(self._walked) // 2 :])
                spread = np.atleast_2d(np.cov(seen.T)) + 1e-8 * np.eye(len(at))
                self._steps = np.linalg.cholesky(spread * 2.4**2 / len(at))

    def _find_mode(
        self, scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where the density is highest, and the Cholesky factor of its curvature there.

        Newton's steps, from the mode of the draw before.
        """
        at = self._mode
        value, slope, curve = self._local(scores, at)
        while True:
            root = _cholesky(curve)
            step = np.linalg.solve(root.T, np.linalg.solve(root, slope))
            if np.abs(root.T @ step).max() < self.CLOSE:
                break
            for _ in range(HALVINGS):
                found = self._local(scores, at + step)
                if found[0] > value:
                    break
                step /= 2
            else:
                break  # rounding hides what is left to gain
            at = at + step
            value, slope, curve = found
        self._mode = at
        return at, root

    def _density(self, scores: NDArray[np.float32], at: NDArray[np.float64]) -> float:
        logs = log_probability(scores, self.levels, np.r_[-np.inf, _from_line(at), np.inf])
        total = logs.sum() if self.weights is None else logs @ self.weights
        return float(total) - float(np.square(at).sum()) / (2 * self.WIDTH**2)

    def _local(
        self, scores: NDArray[np.float32], at: NDArray[np.float64]
    ) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Log density, its gradient and minus its Hessian, on the line."""
        inner, n = _from_line(at), len(at)
        limits = np.r_[-np.inf, inner, np.inf]
        logs = log_probability(scores, self.levels, limits)
        low, high = limits[self.levels] - scores, limits[self.levels + 1] - scores
        # phi / P of both limits, and phi' / P; nothing of infinite ones.
        below, above = (LOG_PHI_0 - logs - np.square(x) / 2 for x in (low, high))
        below, above = np.exp(below), np.exp(above)
        with np.errstate(invalid="ignore"):
            bent_low, bent_high = (
                np.where(np.isfinite(x), x * phi, 0.0) for x, phi in ((low, below), (high, above))
            )
        weights = self.weights

        def by_level(of_rows: NDArray[np.float64]) -> NDArray[np.float64]:
            of_rows = of_rows if weights is None else of_rows * weights
            return np.asarray(np.bincount(self.levels, of_rows, n + 1), np.float64)

        slope = by_level(above)[:n] - by_level(below)[1:]
        bend = (
            by_level(np.square(above) + bent_high)[:n] + by_level(np.square(below) - bent_low)[1:]
        )
        beside = -by_level(above * below)[1:n]  # of a level's two limits
        curve = np.diag(bend) + np.diag(beside, 1) + np.diag(beside, -1)
        # On to the line, where c_i = t_1 + exp(t_2) + ... + exp(t_i).
        widths = np.r_[1.0, np.exp(at[1:])]
        turn = np.tril(np.ones((n, n))) * widths
        gained = turn.T @ slope
        curve = turn.T @ curve @ turn
        curve[np.arange(1, n), np.arange(1, n)] -= gained[1:]
        total = logs.sum() if weights is None else logs @ weights
        prior = self.WIDTH**-2
        return (
            float(total) - float(np.square(at).sum()) * prior / 2,
            gained - at * prior,
            curve + np.eye(n) * prior,
        )


def _cholesky(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lower factor; of a curvature with a saddle, that of one pushed up until it has none."""
    push = 0.0
    while True:
        try:
            return np.asarray(np.linalg.cholesky(curve + push * np.eye(len(curve))), np.float64)
        except np.linalg.LinAlgError:
            push = max(2 * push, 1e-6 * float(np.abs(curve).max()), 1e-6)


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
