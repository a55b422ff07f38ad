"""Losses: value, gradient, link and starting intercept, in NumPy float64.

The definition that the solvers follow. Scores are raw (logits); probabilities appear only
behind `Loss.mean`. Every function here is safe for scores of any size.
"""

from __future__ import annotations

from crossfm.errors import DataError, did_you_mean
from crossfm.losses.base import Loss, weighted_quantile
from crossfm.losses.classes import Hinge, Logistic, Softmax
from crossfm.losses.links import log_softmax, logit, sigmoid, softmax, softplus
from crossfm.losses.numbers import Huber, Poisson, Quantile, Squared

__all__ = [
    "LOSSES",
    "Hinge",
    "Huber",
    "Logistic",
    "Loss",
    "Poisson",
    "Quantile",
    "Softmax",
    "Squared",
    "get_loss",
    "log_softmax",
    "logit",
    "sigmoid",
    "softmax",
    "softplus",
    "weighted_quantile",
]

LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (Squared(), Logistic(), Softmax(), Hinge(), Huber(), Poisson(), Quantile())
}
"""Every loss by its name, those with a parameter at its usual value."""


def get_loss(name: str | Loss) -> Loss:
    """Look a loss up by name.

    Raises:
        DataError: an unknown name; the nearest one is suggested.

    Example:
        >>> float(get_loss("squared").gradient(3.0, 1.0))
        2.0
        >>> get_loss("logistik")
        Traceback (most recent call last):
            ...
        crossfm.errors.DataError: no loss 'logistik'. Did you mean 'logistic'?
    """
    if isinstance(name, Loss):
        return name
    if name not in LOSSES:
        raise DataError(f"no loss {name!r}.{did_you_mean(name, LOSSES)}")
    return LOSSES[name]
