"""Coordinate-wise solvers: Gibbs sampling, alternating least squares, variational Bayes."""

from __future__ import annotations

from crossfm.solvers.sweeps.chain import Chain
from crossfm.solvers.sweeps.design import Block, Design
from crossfm.solvers.sweeps.diagnostics import diagnose, effective_sample_size, r_hat
from crossfm.solvers.sweeps.layout import Layout
from crossfm.solvers.sweeps.mean import RunningMean, sizes_of
from crossfm.solvers.sweeps.options import Priors, SweepOptions
from crossfm.solvers.sweeps.posterior import Posterior

__all__ = [
    "Block",
    "Chain",
    "Design",
    "Layout",
    "Posterior",
    "Priors",
    "RunningMean",
    "SweepOptions",
    "diagnose",
    "effective_sample_size",
    "r_hat",
    "sizes_of",
]
