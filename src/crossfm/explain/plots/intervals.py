"""Whether predicted intervals hold what they promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from crossfm.errors import DataError
from crossfm.explain.plots.style import ACCENT, GRID, INK, MUTED, chance, figure, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["interval_calibration"]


def interval_calibration(
    y: ArrayLike, quantiles: ArrayLike, levels: ArrayLike, *, title: str = ""
) -> Figure:
    """How often observations lie where they were predicted to lie.

    On the left, the share of the rows inside each central interval over the share promised: on the
    diagonal where the intervals are honest, below it where they are too narrow. On the right, how
    many observations lie between one quantile and the next, against how many should: flat where the
    predicted distributions are right, high at the ends where they are too narrow, high in the
    middle where too wide, rising or falling where they lie too low or too high. The grey bands
    hold 95% of what chance does to a right model.

    Args:
        y: what was observed, ``[n]``.
        quantiles: predicted, ``[n, n_levels]``, as by `FMRegressor.predict_quantiles`.
        levels: of the quantiles, rising, at least two; intervals need them in pairs such as 0.05
            and 0.95.
        title: above both panels.

    Raises:
        DataError: shapes that do not fit together, levels out of order, numbers that are none.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> mean, levels = rng.normal(size=500), np.linspace(0.05, 0.95, 19)
        >>> from scipy.stats import norm
        >>> figure = interval_calibration(
        ...     mean + rng.normal(size=500), mean[:, None] + norm.ppf(levels), levels)
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['predicted share inside', 'level of the predicted quantile']

    Source: Gneiting, Balabdaoui and Raftery 2007, Probabilistic forecasts, calibration and
    sharpness.
    """
    y = numbers("y", y)
    levels = numbers("levels", levels)
    found = np.asarray(quantiles, np.float64)
    if found.shape != (len(y), len(levels)):
        raise DataError(
            f"quantiles have shape {list(found.shape)}, expected [{len(y)}, {len(levels)}], a row"
            " for each of y and a column for each level"
        )
    if len(levels) < 2 or (np.diff(levels) <= 0).any() or levels[0] <= 0 or levels[-1] >= 1:
        raise DataError(f"levels are {levels.tolist()}, expected two or more that rise from 0 to 1")
    if not np.isfinite(found).all():
        raise DataError("quantiles hold numbers that are not finite")
    pairs = [
        (low, high)
        for low in range(len(levels) // 2)
        for high in np.flatnonzero(np.isclose(levels, 1 - levels[low]))
    ]
    made, (left, right) = figure(2)
    if title:
        made.suptitle(title, fontsize=12, color=INK)

    promised = np.array([levels[high] - levels[low] for low, high in pairs])
    inside = [((found[:, a] <= y) & (y <= found[:, b])).mean() for a, b in pairs]
    grid = np.linspace(0, 1, 101)
    left.fill_between(grid, *chance(grid, len(y)), color=GRID, linewidth=0, label="chance")
    left.plot([0, 1], [0, 1], color=MUTED, linewidth=1, label="honest")
    left.plot(promised, inside, "o-", color=ACCENT, markersize=4, label="observed")
    left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    left.set_title("Central intervals", fontsize=11)
    left.set_xlabel("predicted share inside")
    left.set_ylabel("observed share inside")
    left.legend(frameon=False, fontsize=9, loc="upper left")

    edges = np.r_[0.0, levels, 1.0]
    widths = np.diff(edges)
    cell = (found < y[:, None]).sum(axis=1)
    shares = np.bincount(cell, minlength=len(widths)) / len(y)
    low, high = chance(widths, len(y))
    right.stairs(shares / widths, edges, fill=True, color=ACCENT, alpha=0.85)
    right.fill_between(
        edges, np.r_[low / widths, (low / widths)[-1]], np.r_[high / widths, (high / widths)[-1]],
        step="post", color=MUTED, alpha=0.3, linewidth=0,
    )  # fmt: skip
    right.axhline(1, color=INK, linewidth=1)
    right.set_xlim(0, 1)
    right.set_title("Between the quantiles", fontsize=11)
    right.set_xlabel("level of the predicted quantile")
    right.set_ylabel("observed over expected rows")
    return made
