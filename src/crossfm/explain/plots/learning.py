"""Losses and metrics over the epochs of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crossfm.errors import DataError
from crossfm.explain.plots.style import MUTED, SERIES, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["learning_curves"]

OURS = ("epoch", "loss", "seconds", "rows_per_second")


def learning_curves(history: Sequence[Mapping[str, Any]], *, best_epoch: int = 0) -> Figure:
    """The training loss, and each validation metric, over the epochs.

    Args:
        history: an estimator's `history_`.
        best_epoch: its `best_epoch_`, which is marked; 0: none.

    Raises:
        DataError: no epochs.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> told = [{"epoch": 1, "loss": 0.5, "rmse": 1.0}, {"epoch": 2, "loss": 0.4, "rmse": 0.9}]
        >>> [axes.get_title() for axes in learning_curves(told).axes]
        ['training loss', 'rmse']
    """
    if not history:
        raise DataError("the history holds no epochs")
    names = [name for name in history[-1] if name not in OURS]
    made, panels = figure(1 + len(names))
    epochs = [one["epoch"] for one in history]
    for axes, name in zip(panels, ["loss", *names], strict=True):
        colour = SERIES[0] if name == "loss" else SERIES[1]
        marker = "o" if len(epochs) <= 30 else ""
        axes.plot(epochs, [one[name] for one in history], color=colour, marker=marker, markersize=3)
        axes.set_title("training loss" if name == "loss" else name.replace("_", " "), fontsize=11)
        axes.set_xlabel("epoch")
        if best_epoch:
            axes.axvline(best_epoch, color=MUTED, linewidth=1, linestyle=":")
            axes.annotate(
                "kept", (best_epoch, 1), (3, -4), va="top", fontsize=8, color=MUTED,
                xycoords=("data", "axes fraction"), textcoords="offset points",
            )  # fmt: skip
    return made
