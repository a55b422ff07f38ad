"""Estimators in scikit-learn's contract, on frames, matrices, files and batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crossfm.errors import did_you_mean, require
from crossfm.estimators._sampling import Sampling
from crossfm.estimators._saving import load
from crossfm.estimators.classifier import FMClassifier
from crossfm.estimators.fields import (
    FFMClassifier,
    FFMRegressor,
    FmFMClassifier,
    FmFMRegressor,
    FwFMClassifier,
    FwFMRegressor,
)
from crossfm.estimators.orders import HOFMClassifier, HOFMRegressor
from crossfm.estimators.ordinal import OrdinalFMRegressor
from crossfm.estimators.ranker import FMRanker
from crossfm.estimators.regressor import FMRegressor

if TYPE_CHECKING:
    from crossfm.estimators.deep_classifier import DeepClassifier
    from crossfm.estimators.deep_regressor import DeepRegressor

__all__ = [
    "DeepClassifier",
    "DeepRegressor",
    "FFMClassifier",
    "FFMRegressor",
    "FMClassifier",
    "FMRanker",
    "FMRegressor",
    "FmFMClassifier",
    "FmFMRegressor",
    "FwFMClassifier",
    "FwFMRegressor",
    "HOFMClassifier",
    "HOFMRegressor",
    "OrdinalFMRegressor",
    "Sampling",
    "load",
]


def __getattr__(name: str) -> Any:
    """Load the estimators that need PyTorch on first touch (PEP 562)."""
    value: Any
    if name == "DeepClassifier":
        require("torch", "torch")
        from crossfm.estimators.deep_classifier import DeepClassifier as value
    elif name == "DeepRegressor":
        require("torch", "torch")
        from crossfm.estimators.deep_regressor import DeepRegressor as value
    else:
        raise AttributeError(f"crossfm.estimators has no {name!r}.{did_you_mean(name, __all__)}")
    globals()[name] = value
    return value
