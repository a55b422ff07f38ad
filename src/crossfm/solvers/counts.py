"""How often features were seen: penalties that go by it, and factors for the frequent alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from crossfm.solvers.options import SolverOptions

__all__ = ["FeatureCounts"]


@final
class FeatureCounts:
    r"""Counts of features, and what follows from them for the penalties and factors of each.

    A feature that was seen ``n_i`` times has its L2 multiplied by ``level * n_i^(a - b)``, with
    the exponents ``a = l2_scaling`` and ``b`` of the solver as it is (1, as it pays at each touch;
    0 for FTRL, which pays once) and ``level = sum_i n_i^b / sum_i n_i^a``: all penalties together
    are as large as with ``a = b``. It has no factors as long as ``n_i < min_count_factors``.

    Args:
        options: of the solver.

    Attributes:
        counts: int64 ``[room]``.
        scales: float32 ``[room]``, ``n_i^(a - b)``; below zero for a feature without factors.

    Example:
        >>> counted = FeatureCounts(SolverOptions(l2_scaling=0.0, min_count_factors=3))
        >>> counted.grow(3)
        >>> counted.add(np.array([0, 1]), np.array([4, 2]))  # feature 0 has factors now
        array([0])
        >>> counted.scales
        array([ 0.25, -0.5 , -1.  ], dtype=float32)
        >>> counted.level  # 6 touches of two features
        3.0

    Source: Rendle et al. 2022, Revisiting the Performance of iALS on Item Recommendation
    Benchmarks (frequency scaling); Li et al. 2016, DiFacto (factors for the frequent).
    """

    def __init__(self, options: SolverOptions) -> None:
        self.least = options.min_count_factors
        self.natural = options.natural_scaling
        self.exponent = self.natural if options.l2_scaling is None else float(options.l2_scaling)
        self.counts = np.zeros(0, np.int64)
        self.scales = np.zeros(0, np.float32)
        self._total, self._scaled = 0.0, 0.0  # sums of n^b and of n^a

    @staticmethod
    def wanted(options: SolverOptions) -> bool:
        """Whether anything depends on counts."""
        scaled = options.l2_scaling not in (None, options.natural_scaling)
        return scaled or options.min_count_factors > 1

    @property
    def scaling(self) -> bool:
        """Whether penalties depend on counts."""
        return self.exponent != self.natural

    @property
    def level(self) -> float:
        """What all penalties are multiplied by."""
        return self._total / self._scaled if self.scaling and self._scaled else 1.0

    def grow(self, room: int) -> None:
        """Make room for features, which were not seen yet."""
        new = room - len(self.counts)
        self.counts = np.concatenate([self.counts, np.zeros(new, np.int64)])
        unseen = np.full(new, -1.0 if self.least > 1 else 1.0, np.float32)
        self.scales = np.concatenate([self.scales, unseen])

    def add(self, ids: NDArray[np.int64], seen: NDArray[Any]) -> NDArray[np.int64]:
        """Count features, each named once; those that have factors from now on.

        Args:
            ids: of the features.
            seen: how often each was seen, at least once.
        """
        before = self.counts[ids]
        now = before + seen
        self.counts[ids] = now
        if self.scaling:
            self._total += self._gain(before, now, self.natural)
            self._scaled += self._gain(before, now, self.exponent)
        sizes = now.astype(np.float64) ** (self.exponent - self.natural)
        self.scales[ids] = np.where(now < self.least, -sizes, sizes)
        return ids[(before < self.least) & (now >= self.least)]

    def know(self, ids: NDArray[np.int64]) -> None:
        """Take features of a trained model that have factors for frequent enough."""
        self.add(ids, np.full(len(ids), max(1, self.least)))

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
        """Arrays, which are views, and numbers for `go_on`."""
        return (
            {"counts": self.counts, "scales": self.scales},
            {"total": self._total, "scaled": self._scaled},
        )

    def go_on(self, numbers: Mapping[str, Any]) -> None:
        """Take up the numbers of a `state` whose arrays have been put back."""
        self._total, self._scaled = float(numbers["total"]), float(numbers["scaled"])

    @staticmethod
    def _gain(before: NDArray[np.int64], now: NDArray[np.int64], exponent: float) -> float:
        """By how much a sum of n^exponent over the features that were seen has grown."""
        old = before[before > 0].astype(np.float64) ** exponent
        return float((now.astype(np.float64) ** exponent).sum() - old.sum())
