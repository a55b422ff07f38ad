"""Metrics of predictions as they come, in which older rows count for less and less."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RunningMetrics"]

BINS, WIDEST = 4096, 16.0  # of log odds, for the area under the curve
LEAST = 1e-15  # no probability is taken to be less


class RunningMetrics:
    r"""Decayed means over rows: a row counts for half after `half_life` further rows.

    Of predictions that are made before a row is learned (progressive validation) they say how well
    a model does on what it has not seen, now. With age ``a_i`` in rows and ``c_i = 2^(-a_i / h)``::

        rmse = sqrt(sum_i c_i (y_i - p_i)^2 / sum_i c_i),  log_loss = -sum_i c_i log p_{i,y_i} / ...

    The area under the curve comes from a histogram of the log odds, of 4,096 bins. Memory and work
    do not grow.

    Args:
        n_classes: 0: numbers (rmse, mae); 2: log_loss and auc; more: log_loss and accuracy.
        half_life: in rows.

    Attributes:
        n_rows: rows seen.

    Example:
        >>> running = RunningMetrics(0, half_life=2)
        >>> running.add(np.array([1.0, 1.0]), np.array([1.0, 3.0]))
        >>> running.values()["mae"] == 2 * 1 / (1 + 0.5**0.5)
        True

    Source: Gama et al. 2013, On evaluating stream learning algorithms (fading factors).
    """

    def __init__(self, n_classes: int = 0, half_life: float = 100_000.0) -> None:
        self.n_classes, self.half_life = n_classes, float(half_life)
        self.n_rows = 0
        self._weight = 0.0
        self._sums = np.zeros(2)
        self._bins = np.zeros((2, BINS))  # of negatives and positives

    def add(
        self, y: NDArray[Any], predicted: NDArray[Any], weight: NDArray[Any] | None = None
    ) -> None:
        """Take in the next rows, the oldest first.

        Args:
            y: numbers ``[n]``, or the positions of classes.
            predicted: numbers ``[n]``; probabilities ``[n, n_classes]``.
            weight: of the rows ``[n]``, or None.
        """
        n = len(y)
        if not n:
            return
        fade = 0.5 ** (n / self.half_life)
        c = 0.5 ** (np.arange(n - 1, -1, -1) / self.half_life)
        if weight is not None:
            c = c * weight
        self._weight = self._weight * fade + float(c.sum())
        if self.n_classes == 0:
            apart = np.asarray(y, np.float64) - predicted
            new = np.array([c @ apart**2, c @ np.abs(apart)])
        else:
            codes, p = np.asarray(y).astype(np.intp), np.asarray(predicted, np.float64)
            of_y = np.maximum(p[np.arange(n), codes], LEAST)
            right = p.argmax(axis=1) == codes
            new = np.array([-(c @ np.log(of_y)), c @ right])
        self._sums = self._sums * fade + new
        if self.n_classes == 2:
            q = np.clip(p[:, 1], LEAST, 1 - 1e-7)
            place = (np.log(q / (1 - q)) + WIDEST) * (BINS / (2 * WIDEST))
            bins = np.clip(place, 0, BINS - 1).astype(np.intp)
            self._bins *= fade
            np.add.at(self._bins, (codes, bins), c)
        self.n_rows += n

    def values(self) -> dict[str, float]:
        """The metrics by name; empty before any rows."""
        if not self._weight:
            return {}
        first, second = (self._sums / self._weight).tolist()
        if self.n_classes == 0:
            return {"rmse": first**0.5, "mae": second}
        if self.n_classes > 2:
            return {"log_loss": first, "accuracy": second}
        negatives, positives = self._bins
        pairs = negatives.sum() * positives.sum()
        found = {"log_loss": first}
        if pairs:
            below = np.cumsum(negatives) - negatives / 2
            found["auc"] = float(positives @ below / pairs)
        return found
