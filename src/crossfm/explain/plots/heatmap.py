"""Fields against fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crossfm.errors import DataError
from crossfm.explain.plots.style import INK, figure
from crossfm.explain.strengths import FieldStrengths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["field_heatmap"]

MOST_NUMBERS = 16  # fields up to which numbers stand in the cells
WHAT = {
    "deviation": "standard deviation of what it adds",
    "mean_size": "mean size of what it adds",
    "mean": "mean of what it adds",
}


def field_heatmap(found: FieldStrengths, *, what: str = "deviation", title: str = "") -> Figure:
    """How strongly each pair of fields moves the scores, each field by itself on the diagonal.

    Args:
        found: from `field_strengths`.
        what: "deviation", "mean_size" or "mean".
        title: above.

    Raises:
        DataError: another word for `what`.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> from crossfm.explain import FieldStrengths
        >>> two = np.array([[1.0, 0.5], [0.5, 2.0]])
        >>> found = FieldStrengths(("user", "film"), two, two, two, 10)
        >>> [text.get_text() for text in field_heatmap(found).axes[0].texts]
        ['1.00', '0.50', '2.00']
    """
    if what not in WHAT:
        raise DataError(f"what is {what!r}, expected one of {', '.join(map(repr, WHAT))}")
    numbers = getattr(found, what)
    n = len(found.fields)
    shown = np.where(np.tri(n, dtype=bool), numbers, np.nan)
    side = 2.2 + 0.42 * n
    made, (axes,) = figure(1, side + 1.0, side)
    most = float(np.nanmax(np.abs(shown), initial=0.0)) or 1.0
    signed = what == "mean"
    image = axes.imshow(
        shown, cmap="RdBu" if signed else "Blues", vmin=-most if signed else 0.0, vmax=most
    )
    axes.set_xticks(range(n), found.fields, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), found.fields)
    axes.tick_params(length=0, labelcolor=INK)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if n <= MOST_NUMBERS:
        for f in range(n):
            for g in range(f + 1):
                dark = abs(numbers[f, g]) > 0.6 * most
                axes.text(g, f, f"{numbers[f, g]:.2f}", ha="center", va="center", fontsize=8,
                          color="white" if dark else INK)  # fmt: skip
    bar = made.colorbar(image, ax=axes, shrink=0.7, pad=0.02)
    bar.set_label(WHAT[what], fontsize=9, color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    if title:
        axes.set_title(title, fontsize=11, loc="left")
    return made
