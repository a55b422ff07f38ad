"""Epochs, validation and callbacks of a fit, as its caller sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows

__all__ = ["Epoch", "History", "Progress", "Watch"]


Progress = Callable[[str, Mapping[str, float]], bool | None]
"""``progress("rows", {...})`` while an epoch runs, ``progress("epoch", {...})`` after it; where
the latter returns True, the fit ends there."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows.

    Attributes:
        number: 1 for the first.
        loss: mean training loss, each row's taken before its own update.
        metrics: validation metrics by name; empty without validation rows.
        seconds: time of the training pass alone.
        rows_per_second: training rows over these seconds.
    """

    number: int
    loss: float
    metrics: Mapping[str, float]
    seconds: float
    rows_per_second: float


@dataclass
class History:
    """What happened in a fit.

    Attributes:
        epochs: one `Epoch` each, in order.
        best_epoch: number of the epoch whose parameters were kept; 0 before the first.
        stopped: "n_epochs", "early", "callback" or "interrupted".
    """

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    stopped: str = "n_epochs"


@dataclass(frozen=True)
class Watch:
    """How a fit looks at validation rows after each epoch.

    Attributes:
        rows: the validation rows.
        evaluate: raw scores of these rows to metrics by name.
        monitor: the metric that decides.
        improves: ``improves(new, best)``.
        patience: epochs without an improvement before the fit stops; 0: never stop early,
            and keep the last epoch.
    """

    rows: Rows
    evaluate: Callable[[NDArray[np.float32]], Mapping[str, float]]
    monitor: str
    improves: Callable[[float, float], bool]
    patience: int = 0
