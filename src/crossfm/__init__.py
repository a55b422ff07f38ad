"""Factorization machines: from a table of raw columns to a trained, explained, served model.

Nothing heavy is imported before it is used: each public name loads its module on first touch,
and PyTorch only ever with `crossfm.nn`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in _HOME, for type checkers and editors
    from crossfm import (
        data,
        datasets,
        errors,
        estimators,
        explain,
        losses,
        metrics,
        nn,
        retrieval,
        runtime,
        solvers,
        store,
    )
    from crossfm.data.fields import Bag, Categorical, Numeric
    from crossfm.data.relations import RelationBlock
    from crossfm.data.rows import Rows
    from crossfm.data.schema import Schema
    from crossfm.estimators import (
        DeepClassifier,
        DeepRegressor,
        FFMClassifier,
        FFMRegressor,
        FMClassifier,
        FmFMClassifier,
        FmFMRegressor,
        FMRanker,
        FMRegressor,
        FwFMClassifier,
        FwFMRegressor,
        HOFMClassifier,
        HOFMRegressor,
        OrdinalFMRegressor,
        Sampling,
        load,
    )
    from crossfm.model import FactorModel
    from crossfm.solvers.sweeps import Priors

# Where each public name lives.
_HOME = {
    "Bag": "crossfm.data.fields",
    "Categorical": "crossfm.data.fields",
    "DeepClassifier": "crossfm.estimators",
    "DeepRegressor": "crossfm.estimators",
    "FFMClassifier": "crossfm.estimators",
    "FFMRegressor": "crossfm.estimators",
    "FMClassifier": "crossfm.estimators",
    "FMRanker": "crossfm.estimators",
    "FMRegressor": "crossfm.estimators",
    "FwFMClassifier": "crossfm.estimators",
    "FwFMRegressor": "crossfm.estimators",
    "FactorModel": "crossfm.model",
    "FmFMClassifier": "crossfm.estimators",
    "FmFMRegressor": "crossfm.estimators",
    "HOFMClassifier": "crossfm.estimators",
    "HOFMRegressor": "crossfm.estimators",
    "Numeric": "crossfm.data.fields",
    "OrdinalFMRegressor": "crossfm.estimators",
    "Priors": "crossfm.solvers.sweeps",
    "RelationBlock": "crossfm.data.relations",
    "Rows": "crossfm.data.rows",
    "Sampling": "crossfm.estimators",
    "Schema": "crossfm.data.schema",
    "load": "crossfm.estimators",
}
_MODULES = (
    "data",
    "datasets",
    "errors",
    "estimators",
    "explain",
    "losses",
    "metrics",
    "nn",
    "retrieval",
    "runtime",
    "solvers",
    "store",
)

__all__ = [
    "Bag",
    "Categorical",
    "DeepClassifier",
    "DeepRegressor",
    "FFMClassifier",
    "FFMRegressor",
    "FMClassifier",
    "FMRanker",
    "FMRegressor",
    "FactorModel",
    "FmFMClassifier",
    "FmFMRegressor",
    "FwFMClassifier",
    "FwFMRegressor",
    "HOFMClassifier",
    "HOFMRegressor",
    "Numeric",
    "OrdinalFMRegressor",
    "Priors",
    "RelationBlock",
    "Rows",
    "Sampling",
    "Schema",
    "__version__",
    "data",
    "datasets",
    "errors",
    "estimators",
    "explain",
    "load",
    "losses",
    "metrics",
    "nn",
    "retrieval",
    "runtime",
    "solvers",
    "store",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first touch (PEP 562)."""
    value: Any
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"crossfm.{name}")
    elif name == "__version__":
        from importlib.metadata import version

        value = version("crossfm")
    else:
        from crossfm.errors import did_you_mean

        raise AttributeError(f"crossfm has no {name!r}.{did_you_mean(name, __all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
