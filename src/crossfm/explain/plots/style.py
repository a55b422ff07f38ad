"""What all plots share: sizes, colours, axes without clutter, the band of chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm.errors import DataError, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ACCENT", "CHANCE", "GRID", "INK", "MUTED", "SERIES", "chance", "figure", "numbers"]

# Of Okabe and Ito: apart for all kinds of colour vision, and in grey.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
ACCENT, INK, MUTED, GRID = SERIES[0], "#222222", "#6b6b6b", "#dddddd"
CHANCE = 0.95  # of observations lie in a shaded band, if the model is right


def figure(n_panels: int, width: float = 4.2, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, sizes in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    made: Any = require("matplotlib.figure", "plot").Figure(
        figsize=(width * n_panels, height), layout="constrained", dpi=110, facecolor="white"
    )
    panels = list(made.subplots(1, n_panels, squeeze=False)[0])
    for axes in panels:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(MUTED)
        axes.tick_params(colors=MUTED, labelsize=9)
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.title.set_color(INK)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
    return made, panels


def chance(share: ArrayLike, n: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Between which shares an observed one lies by chance (`CHANCE`), of n rows each."""
    from scipy.stats import binom

    share, n = np.asarray(share, float), np.asarray(n)
    out = (1 - CHANCE) / 2
    low, high = (binom.ppf(q, n, share) / np.maximum(n, 1) for q in (out, 1 - out))
    return np.where(share > 0, low, 0.0), np.where(share < 1, high, 1.0)


def numbers(name: str, given: ArrayLike, n: int | None = None) -> NDArray[np.float64]:
    """A vector of finite numbers.

    Raises:
        DataError: something else, of another length, or none.
    """
    try:
        found = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} holds what is no number: {error}") from error
    if found.ndim != 1 or not len(found) or (n is not None and len(found) != n):
        expected = "[n], with n from 1" if n is None else f"[{n}]"
        raise DataError(f"{name} has shape {list(found.shape)}, expected {expected}")
    if not np.isfinite(found).all():
        at = int(np.argmin(np.isfinite(found)))
        raise DataError(f"{name}[{at}] is {found[at]}, expected a finite number")
    return found
