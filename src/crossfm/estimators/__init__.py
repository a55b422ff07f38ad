"""Estimators in scikit-learn's contract, on frames, matrices, files and batches."""

from __future__ import annotations

from crossfm.estimators._saving import load
from crossfm.estimators.classifier import FMClassifier
from crossfm.estimators.regressor import FMRegressor

__all__ = ["FMClassifier", "FMRegressor", "load"]
