"""A prediction, step by step from the bias to the score."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from crossfm.errors import DataError
from crossfm.explain.contributions import Contributions, Part, Term
from crossfm.explain.plots.style import INK, MUTED, SERIES, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["waterfall"]

LONGEST = 40  # letters of a term


def waterfall(
    found: Contributions, *, limit: int = 10, by: str = "term", title: str = ""
) -> Figure:
    """What the largest terms add, one after another, from the bias to the score.

    Args:
        found: from `explain_row` or an estimator's `explain`.
        limit: terms shown; the others stand together in one bar.
        by: "term"; "feature", with pairs shared out; or "field", terms and pairs summed.
        title: above.

    Raises:
        DataError: a limit below 1, another word for `by`.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> from crossfm import FactorModel, Rows
        >>> from crossfm.explain import explain_row
        >>> model = FactorModel(0.5, [0.0, 1.0, 2.0], [[1.0], [2.0], [3.0]])
        >>> figure = waterfall(explain_row(model, Rows(np.array([[1, 2]]))))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()][0]
        'bias'
    """
    if limit < 1:
        raise DataError(f"limit is {limit}, expected a number from 1")
    if by not in ("term", "feature", "field"):
        raise DataError(f"by is {by!r}, expected 'term', 'feature' or 'field'")
    terms: list[Term] | list[Part] = [term for term in found.terms() if term.names]
    if by != "term":
        terms = found.by_feature() if by == "feature" else found.by_field()
    bars = [(_named(term.names), term.value) for term in terms[:limit]]
    if len(terms) > limit:
        rest = math.fsum(term.value for term in terms[limit:])
        bars.append((f"{len(terms) - limit} smaller terms", rest))
    bars = [("bias", found.bias), *bars]
    made, (axes,) = figure(1, 7.2, 1.1 + 0.32 * (len(bars) + 1))
    at = 0.0
    reach = [0.0, found.score]
    for row, (_, value) in enumerate(bars):
        colour = MUTED if row == 0 else SERIES[0] if value >= 0 else SERIES[1]
        axes.barh(row, value, left=at, height=0.62, color=colour)
        axes.plot([at + value] * 2, [row - 0.31, row + 1.31], color=MUTED, linewidth=0.8)
        at += value
        reach.append(at)
    axes.barh(len(bars), found.score, height=0.62, color=INK)
    width = max(max(reach) - min(reach), 1e-12)
    start = 0.0
    for row, (_, value) in enumerate([*bars, ("score", found.score)]):
        end = value if row == len(bars) else start + value
        right = max(start if row < len(bars) else 0.0, end)
        text = f"{value:.3f}" if row in (0, len(bars)) else f"{value:+.3f}"
        axes.text(right + 0.012 * width, row, text, va="center", fontsize=8.5, color=INK)
        start = end
    axes.set_xlim(min(reach) - 0.02 * width, max(reach) + 0.13 * width)
    axes.set_yticks(range(len(bars) + 1), [*(name for name, _ in bars), "score"])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("score")
    if title:
        axes.set_title(title, fontsize=11, loc="left")
    return made


def _named(names: tuple[str, ...]) -> str:
    """Both names of a pair, each cut where it would push the other out."""
    room = LONGEST // len(names)
    return " × ".join(name if len(name) <= room else f"{name[: room - 1]}…" for name in names)
