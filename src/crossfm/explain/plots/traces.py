"""Chains over their sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from crossfm.errors import DataError
from crossfm.explain.plots.style import GRID, MUTED, SERIES, figure
from crossfm.solvers.sweeps.diagnostics import diagnose

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["trace_plot"]


def trace_plot(traces: Mapping[str, ArrayLike], *, burn_in: int = 0) -> Figure:
    """Numbers of each chain over its sweeps, with R-hat and the effective sample size.

    Chains that have settled look alike, and like noise around one level.

    Args:
        traces: name to ``[n_chains, n_sweeps]``, such as "noise" to ``model.traces_["noise"]``, or
            "user" to ``model.traces_["linear_precision"][..., 0]``.
        burn_in: sweeps at the start that are shaded, and left out of R-hat and sample size.

    Raises:
        DataError: no trace, or one of another shape.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> trace = np.random.default_rng(0).normal(size=(2, 100))
        >>> figure = trace_plot({"noise": trace}, burn_in=20)
        >>> figure.axes[0].get_title()
        'noise: R-hat 1.00, effective sample size 154'
    """
    found = {name: np.asarray(trace, np.float64) for name, trace in traces.items()}
    if not found:
        raise DataError("there are no traces to draw")
    for name, trace in found.items():
        if trace.ndim != 2 or not 0 <= burn_in < trace.shape[1]:
            raise DataError(
                f"the trace {name!r} has shape {list(trace.shape)}, expected [n_chains, n_sweeps]"
                f" with more than {burn_in} sweeps, the burn-in"
            )
    made, panels = figure(len(found))
    for axes, (name, trace) in zip(panels, found.items(), strict=True):
        if burn_in:
            axes.axvspan(0, burn_in, color=GRID, alpha=0.6, linewidth=0)
            axes.annotate(
                "shaded: burn-in", (burn_in, 1), (4, -4), ha="left", va="top", fontsize=8,
                color=MUTED, xycoords=("data", "axes fraction"), textcoords="offset points",
            )  # fmt: skip
        for number, chain in enumerate(trace):
            sweeps = np.arange(1, len(chain) + 1)
            axes.plot(sweeps, chain, color=SERIES[number % len(SERIES)], linewidth=0.9)
        told = diagnose(trace[:, burn_in:])
        axes.set_title(
            f"{name}: R-hat {float(told['r_hat']):.2f}, effective sample size"
            f" {float(told['effective_sample_size']):.0f}", fontsize=10,
        )  # fmt: skip
        axes.set_xlim(0, trace.shape[1])
        axes.set_xlabel("sweep")
    return made
