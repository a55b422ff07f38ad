"""Plots: matplotlib figures, returned and never shown; ``figure.savefig(path)`` writes them.

They need the extra ``crossfm[plot]``, and leave pyplot and its settings alone.
"""

from __future__ import annotations

from crossfm.explain.plots.intervals import interval_calibration
from crossfm.explain.plots.probabilities import probability_calibration
from crossfm.explain.plots.traces import trace_plot

__all__ = ["interval_calibration", "probability_calibration", "trace_plot"]
