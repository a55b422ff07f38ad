"""Convergence of chains: split R-hat and effective sample size, by ranks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm.errors import DataError

__all__ = ["diagnose", "effective_sample_size", "r_hat"]


def diagnose(draws: NDArray[np.float64]) -> dict[str, Any]:
    """Both figures of each quantity: draws ``[n_chains, n_draws, ...]`` to arrays ``[...]``.

    >>> diagnose(np.random.default_rng(0).normal(size=(2, 100, 3)))["r_hat"].shape
    (3,)
    """
    shape = draws.shape[2:]
    n = math.prod(shape)  # which -1 cannot find where there are no draws
    each = np.moveaxis(draws.reshape(*draws.shape[:2], n), 2, 0)
    found = {}
    for name, figure in (("r_hat", r_hat), ("effective_sample_size", effective_sample_size)):
        numbers = np.array([figure(one) for one in each]).reshape(shape)
        found[name] = numbers if shape else float(numbers)
    return found


def r_hat(draws: ArrayLike) -> float:
    r"""Rank-normalised split R-hat of one quantity: 1 where chains agree, below 1.01 to be trusted.

    Chains are cut in halves, draws replaced by normal scores of their ranks, and
    ``R = sqrt(((n - 1) / n W + B / n) / W)`` taken of the variances within and between the m
    halves of n draws; the larger of that and the same for the distances from the median.

    Args:
        draws: ``[n_chains, n_draws]``, or ``[n_draws]`` of one chain.

    Returns:
        R-hat; NaN where nothing varies or there are fewer than 4 draws a chain.

    Raises:
        DataError: another shape, or numbers that are not finite.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> r_hat(rng.normal(size=(4, 500))) < 1.01
        True
        >>> r_hat(rng.normal(size=(4, 500)) + np.arange(4)[:, None]) > 1.1
        True

    Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner 2021, Rank-normalization, folding,
    and localization: an improved R-hat.
    """
    halves = _halves(draws)
    if halves.shape[1] < 2 or np.ptp(halves) == 0:
        return float("nan")
    folded = np.abs(halves - np.median(halves))
    return max(_ratio(_normal_scores(halves)), _ratio(_normal_scores(folded)))


def effective_sample_size(draws: ArrayLike) -> float:
    r"""How many independent draws are worth as much: ``m n / (1 + 2 sum_t rho_t)``.

    The autocorrelations ``rho_t`` of rank-normalised half chains are summed as far as sums of
    neighbours stay positive and fall (Geyer's initial monotone sequence).

    Args:
        draws: ``[n_chains, n_draws]``, or ``[n_draws]`` of one chain.

    Returns:
        The size; NaN where nothing varies or there are fewer than 4 draws a chain.

    Raises:
        DataError: another shape, or numbers that are not finite.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(2, 1000))
        >>> 1500 < effective_sample_size(x) < 2500
        True

    Source: as of `r_hat`; Geyer 1992, Practical Markov Chain Monte Carlo.
    """
    halves = _halves(draws)
    m, n = halves.shape
    if n < 2 or np.ptp(halves) == 0:
        return float("nan")
    z = _normal_scores(halves)
    z = z - z.mean(1, keepdims=True)
    size = 1 << (2 * n - 1).bit_length()
    power = np.abs(np.fft.rfft(z, size, axis=1)) ** 2
    covariances = np.fft.irfft(power, size, axis=1)[:, :n] / n
    means = _normal_scores(halves).mean(1)
    within = (covariances[:, 0] * n / (n - 1)).mean()
    total = within * (n - 1) / n + (means.var(ddof=1) if m > 1 else 0.0)
    rho = 1 - (within - covariances.mean(0)) / total
    rho[0] = 1.0
    pairs = rho[: n // 2 * 2].reshape(-1, 2).sum(1)
    negative = np.flatnonzero(pairs < 0)
    pairs = np.minimum.accumulate(pairs[: negative[0] if len(negative) else len(pairs)])
    tau = max(2 * pairs.sum() - 1, 1 / np.log10(m * n))
    return float(m * n / tau)


def _halves(draws: ArrayLike) -> NDArray[np.float64]:
    x = np.atleast_2d(np.asarray(draws, np.float64))
    if x.ndim != 2:
        raise DataError(f"draws have shape {x.shape}, expected [n_chains, n_draws]")
    if not np.isfinite(x).all():
        raise DataError("draws hold numbers that are not finite")
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, x.shape[1] - half :]])


def _normal_scores(x: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import ndtri
    from scipy.stats import rankdata

    ranks = rankdata(x).reshape(x.shape)
    return np.asarray(ndtri((ranks - 0.375) / (x.size + 0.25)))


def _ratio(halves: NDArray[np.float64]) -> float:
    n = halves.shape[1]
    within = halves.var(1, ddof=1).mean()
    between = halves.mean(1).var(ddof=1)  # B / n
    return float(np.sqrt(((n - 1) / n * within + between) / within))
