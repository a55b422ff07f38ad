"""How a network is trained: one frozen dataclass, checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from crossfm.errors import DataError, did_you_mean

__all__ = ["LOSSES", "SCHEDULES", "TABLE_OPTIMIZERS", "TrainingOptions"]

LOSSES = ("logistic", "squared", "softmax")
SCHEDULES = ("constant", "cosine", "plateau")
TABLE_OPTIMIZERS = ("rowwise_adagrad", "adagrad", "adam", "ftrl")


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Options of `crossfm.nn.training.train`.

    Tables (vectors and linear weights of features) are stepped by an optimizer that touches only
    the batch's rows, inside the backward pass where it can; everything else by AdamW.

    Attributes:
        loss: "logistic" (targets 0 and 1), "squared" (half the squared error), or "softmax"
            (targets 0 .. C-1, logits ``[batch, C]``). The mean of a batch, weights respected.
        n_epochs: passes over the rows at most.
        batch_size: rows a step at most.
        optimizer: of the tables: "rowwise_adagrad", "adagrad", "adam" (lazy) or "ftrl".
        learning_rate: of the tables.
        l2_linear: penalty ``l2 / 2 * w_i^2`` of each linear weight that a batch touches, against
            the loss of a single row.
        l2_factors: the same for the vectors.
        learning_rate_dense: of AdamW.
        weight_decay: of AdamW, for matrices; biases and norms go without.
        clip_norm: most that the gradient of all dense parameters may be long; None: any.
        schedule: of both learning rates: "constant"; "cosine", to a hundredth over all epochs;
            "plateau", a fifth after each epoch that brought no improvement.
        warmup: share of all steps in which the rates rise from zero.
        mixed_precision: whether dense layers compute in bfloat16 (autocast). Tables do not.
        shuffle: visit the rows of an epoch in random order.
        seed: of order and dropout.

    Raises:
        DataError: names the option, what was found and what was expected.
    """

    loss: Literal["logistic", "squared", "softmax"] = "logistic"
    n_epochs: int = 20
    batch_size: int = 4096
    optimizer: str = "rowwise_adagrad"
    learning_rate: float = 0.05
    l2_linear: float = 0.0
    l2_factors: float = 0.0
    learning_rate_dense: float = 1e-3
    weight_decay: float = 0.0
    clip_norm: float | None = 10.0
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    warmup: float = 0.0
    mixed_precision: bool = False
    shuffle: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (
            ("loss", LOSSES), ("schedule", SCHEDULES), ("optimizer", TABLE_OPTIMIZERS),
        ):  # fmt: skip
            found = getattr(self, name)
            if found not in choices:
                raise DataError(
                    f"{name} is {found!r}, expected one of {', '.join(choices)}."
                    f"{did_you_mean(found, choices)}"
                )
        for name in ("n_epochs", "batch_size"):
            found = getattr(self, name)
            if isinstance(found, bool) or not isinstance(found, int) or found < 1:
                raise DataError(f"{name} is {found!r}, expected an integer of at least 1")
        for name in ("learning_rate", "learning_rate_dense", "clip_norm"):
            found = getattr(self, name)
            if not (found is None and name == "clip_norm") and not _is_number(found, above=0):
                raise DataError(f"{name} is {found!r}, expected a number above 0")
        for name in ("l2_linear", "l2_factors", "weight_decay"):
            if not _is_number(getattr(self, name)):
                raise DataError(f"{name} is {getattr(self, name)!r}, expected a number from 0 on")
        if not (_is_number(self.warmup) and self.warmup < 1):
            raise DataError(f"warmup is {self.warmup!r}, expected 0 or more and less than 1")

    def rate_at(self, step: int, n_steps: int) -> float:
        """What the schedule makes of the learning rates at a step, from 0 on; above 0.

        >>> options = TrainingOptions(schedule="cosine", warmup=0.5)
        >>> [round(options.rate_at(step, 8), 2) for step in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.86, 0.51, 0.15]
        """
        warm = math.ceil(self.warmup * n_steps)
        if step < warm:
            return (step + 1) / warm
        if self.schedule != "cosine":
            return 1.0
        done = (step - warm) / max(n_steps - warm, 1)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _is_number(found: object, above: float | None = None) -> bool:
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return False
    return found >= 0 if above is None else found > above
