"""Training of networks: batches from Rows, the loop, checkpoints."""

from __future__ import annotations

from crossfm.nn.training.assembly import (
    Layout,
    OnePerClass,
    arrays_of,
    assemble,
    choose_device,
    put_arrays,
)
from crossfm.nn.training.loader import Loader
from crossfm.nn.training.loop import train
from crossfm.nn.training.options import TABLE_OPTIMIZERS, TrainingOptions
from crossfm.nn.training.scoring import score

__all__ = [
    "TABLE_OPTIMIZERS",
    "Layout",
    "Loader",
    "OnePerClass",
    "TrainingOptions",
    "arrays_of",
    "assemble",
    "choose_device",
    "put_arrays",
    "score",
    "train",
]
