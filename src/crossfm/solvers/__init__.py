"""Solvers: each takes Rows and returns a FactorModel."""

from __future__ import annotations

from crossfm.fitting import Epoch, History, Watch
from crossfm.solvers.checkpoint import Checkpoint
from crossfm.solvers.feeding import RowBlocks
from crossfm.solvers.fused import FusedTrainer
from crossfm.solvers.options import (
    FTRL,
    SGD,
    SOLVERS,
    AdaGrad,
    Adam,
    RowwiseAdaGrad,
    SolverOptions,
    solver_options,
)
from crossfm.solvers.training import fit

__all__ = [
    "FTRL",
    "SGD",
    "SOLVERS",
    "AdaGrad",
    "Adam",
    "Checkpoint",
    "Epoch",
    "FusedTrainer",
    "History",
    "RowBlocks",
    "RowwiseAdaGrad",
    "SolverOptions",
    "Watch",
    "fit",
    "solver_options",
]
