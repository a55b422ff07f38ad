"""Whether what is predicted with 30% happens in 30 of 100 cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from crossfm.errors import DataError
from crossfm.explain.plots.style import ACCENT, GRID, INK, MUTED, SERIES, chance, figure, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["probability_calibration"]

BARS = 25  # of the histogram


def probability_calibration(
    y: ArrayLike, probability: ArrayLike, *, n_bins: int = 10, title: str = ""
) -> Figure:
    """How often what was given a probability came true.

    On the left, rows in bins of as many each by their predicted probability: how often it came true
    over the mean that was predicted. A point on its grey line is off by no more than chance (in 95%
    of the cases). On the right, how many rows were given which probability.

    Args:
        y: what happened, ``[n]``, True or 1 where it came true.
        probability: predicted, ``[n]``, from 0 to 1.
        n_bins: bins of as many rows each; fewer where probabilities repeat.
        title: above both panels.

    Raises:
        DataError: shapes that do not fit together, numbers out of range.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> p = rng.random(2000)
        >>> figure = probability_calibration(rng.random(2000) < p, p)
        >>> figure.axes[0].get_ylabel()
        'observed share'

    Source: DeGroot and Fienberg 1983, The comparison and evaluation of forecasters.
    """
    p = numbers("probability", probability)
    hit = numbers("y", y, len(p))
    if p.min() < 0 or p.max() > 1:
        raise DataError(f"probabilities run from {p.min()} to {p.max()}, expected 0 to 1")
    if not np.isin(hit, (0, 1)).all():
        raise DataError("y holds other numbers than 0 and 1, which say what came true")
    if n_bins < 1:
        raise DataError(f"n_bins is {n_bins}, expected a number from 1")
    edges = np.unique(np.quantile(p, np.linspace(0, 1, n_bins + 1)[1:-1]))
    cell = np.searchsorted(edges, p, side="left")
    counts = np.bincount(cell)
    used = counts > 0
    counts = counts[used]
    mean, share = (np.bincount(cell, numbers_)[used] / counts for numbers_ in (p, hit))
    made, (left, right) = figure(2)
    if title:
        made.suptitle(title, fontsize=12, color=INK)
    low, high = chance(mean, counts)
    left.plot([0, 1], [0, 1], color=MUTED, linewidth=1, label="honest")
    left.vlines(mean, low, high, color=GRID, linewidth=6, label="chance")
    left.plot(mean, share, "o-", color=ACCENT, markersize=4, label="observed")
    left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    left.set_title("Predicted and observed", fontsize=11)
    left.set_xlabel("predicted probability")
    left.set_ylabel("observed share")
    left.legend(frameon=False, fontsize=9, loc="upper left")
    right.hist([p[hit == 0], p[hit == 1]], bins=np.linspace(0, 1, BARS + 1).tolist(), stacked=True,
               color=[SERIES[5], ACCENT], label=["did not come true", "came true"])  # fmt: skip
    right.set_xlim(0, 1)
    right.set_title("Predictions", fontsize=11)
    right.set_xlabel("predicted probability")
    right.set_ylabel("rows")
    right.legend(frameon=False, fontsize=9)
    return made
