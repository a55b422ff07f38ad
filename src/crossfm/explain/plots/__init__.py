"""Plots: matplotlib figures, returned and never shown; ``figure.savefig(path)`` writes them.

They need the extra ``crossfm[plot]``, and leave pyplot and its settings alone.
"""

from __future__ import annotations

from crossfm.explain.plots.factors import factor_map
from crossfm.explain.plots.heatmap import field_heatmap
from crossfm.explain.plots.intervals import interval_calibration
from crossfm.explain.plots.learning import learning_curves
from crossfm.explain.plots.probabilities import probability_calibration
from crossfm.explain.plots.traces import trace_plot
from crossfm.explain.plots.waterfall import waterfall

__all__ = [
    "factor_map",
    "field_heatmap",
    "interval_calibration",
    "learning_curves",
    "probability_calibration",
    "trace_plot",
    "waterfall",
]
