"""Estimators in model files: their models, and beside them as JSON how X and y are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from crossfm.data.arrivals import Arrivals
from crossfm.data.relations import Relations
from crossfm.data.schema import Schema
from crossfm.errors import CrossfmError, DataError, ModelFileError, require
from crossfm.estimators._draws import Draws
from crossfm.estimators._draws_saving import (
    restored_draws,
    restored_sampling,
    sampling_state,
    state_of,
    stored_models,
)
from crossfm.estimators._features import Features
from crossfm.estimators._levels import LevelTargets
from crossfm.estimators._machine import Machine
from crossfm.estimators._scaling import Scaling
from crossfm.estimators._targets import ClassTargets, NumberLoss, NumberTargets, Targets
from crossfm.factors import Precision
from crossfm.store import load_latest, load_model, save_model
from crossfm.store.network_file import holds_network

if TYPE_CHECKING:
    from crossfm.estimators._base import FMBase

__all__ = [
    "description",
    "load",
    "plain_parameters",
    "restored_parameters",
    "restored_targets",
    "save_estimator",
]

LARGEST_LOG = 700.0  # exp of more is not a number

# Parameters that JSON holds as they are; the others come back as their defaults.
PLACES = ("cache_dir", "checkpoint")  # on the machine that fitted; not for others
PLAIN = (str, int, float, bool, type(None))


def save_estimator(
    estimator: FMBase,
    path: str | os.PathLike[str],
    precision: Precision | None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a fitted estimator; see `FMBase.save`."""
    machine = estimator._machine
    models = stored_models(machine) if isinstance(machine, Draws) else machine.models()
    save_model(
        models, path, precision=precision, metadata=description(estimator, about),
        attached=estimator._features.relations.to_bytes(),
    )  # fmt: skip


def description(estimator: Any, about: Mapping[str, Any] | None) -> dict[str, Any]:
    """All of a fitted estimator but its parameters and its schema, for JSON."""
    features, machine = estimator._features, estimator._machine
    more = {} if not isinstance(machine, Draws) else {
        "draws": state_of(machine), "sampling": sampling_state(estimator.sampling)
    }  # fmt: skip
    return more | {
        "estimator": type(estimator).__name__,
        "parameters": plain_parameters(estimator),
        "features": {
            "kind": features.kind,
            "scaling": None if features.scaling is None else features.scaling.state(),
        },
        "targets": estimator._targets.state(),
        "history": estimator.history_,
        "n_iter": estimator.n_iter_,
        "best_epoch": estimator.best_epoch_,
        "files": estimator._files.state(),
        "about": dict(about or {}),
    }


def plain_parameters(estimator: Any) -> dict[str, Any]:
    """The parameters that JSON can hold."""
    return {
        name: plain
        for name, value in estimator.get_params(deep=False).items()
        if (plain := _plain(value)) is not _NOT_PLAIN and name not in PLACES
    }


def load(
    path: str | os.PathLike[str],
    *,
    network: Any = None,
    precision: Precision | None = None,
    deltas: bool = False,
) -> Any:
    """Read an estimator that `save` wrote. It predicts the same, to the bit.

    Nothing in the file is executed. `partial_fit` goes on from the parameters, with a fresh
    optimizer state.

    Args:
        path: a model file.
        network: for a deep estimator with a network of your own: the module, or the function that
            makes it, whose weights the file holds.
        precision: how factors are held in memory: "float32", "float16" or "int8"; None: as the
            file has them. Only float32 trains on.
        deltas: apply the deltas beside the file too (`crossfm.store.load_latest`): the last
            snapshot that ``crossfm fit --follow --delta`` wrote.

    Returns:
        the estimator that was saved, such as an `FMRegressor` or a `DeepClassifier`.

    Raises:
        ModelFileError: no such file; truncated, altered, of a newer version; a model that no
            estimator wrote (`crossfm.store.load_model` reads it).
        DataError: a precision that is none, or one for a network.

    Example:
        >>> import crossfm as cf, os, tempfile
        >>> log = {"user": [1, 1, 2, 2], "item": ["a", "b", "a", "b"]}
        >>> model = cf.FMRegressor(random_state=0).fit(log, [1.0, 2.0, 3.0, 4.0])
        >>> path = os.path.join(tempfile.mkdtemp(), "ratings.crossfm")
        >>> model.save(path)
        >>> bool((cf.load(path).predict(log) == model.predict(log)).all())
        True
    """
    from crossfm.estimators import (
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
    )

    if holds_network(path):
        require("torch", "torch")
        from crossfm.estimators._deep_saving import load_deep

        if precision is not None:
            raise DataError(
                "precision is for factorization machines; the file holds a network, which is loaded"
                " as it was saved: leave precision out"
            )
        return load_deep(path, network)
    if deltas:
        stored = load_latest(path, precision=precision)
    else:
        stored = load_model(path, precision=precision)
    name, found = os.fspath(path), stored.metadata
    known = (
        FMRegressor, FMClassifier, FFMRegressor, FFMClassifier, FwFMRegressor, FwFMClassifier,
        FmFMRegressor, FmFMClassifier, HOFMRegressor, HOFMClassifier,
        OrdinalFMRegressor,
    )  # fmt: skip
    kinds = {one.__name__: one for one in known}
    kind = str(found.get("estimator"))
    if kind == FMRanker.__name__:
        from crossfm.estimators._ranker_saving import restore_ranker

        return restore_ranker(FMRanker(), stored, name)
    if kind not in kinds:
        raise ModelFileError(
            f"{name} holds a model, but no estimator wrote it; read it with"
            " crossfm.store.load_model"
        )
    estimator: Any = kinds[kind]()
    try:
        restored_parameters(estimator, found)
        schema = stored.models[0].schema
        relations = Relations.from_bytes(stored.attached, schema)
        if schema is not None:
            own = set(relations.others(schema.field_names))
            estimator.schema = Schema(field for field in schema.fields if field.name in own)
        features = Features(
            found["features"]["kind"], kind, schema, n_features=stored.models[0].n_features
        )
        features.scaling = Scaling.from_state(
            found["features"]["scaling"], stored.models[0].n_features
        )
        features.relations = relations
        targets: Any
        if kinds[kind] is OrdinalFMRegressor:
            targets = LevelTargets.from_state(found["targets"])
        else:
            targets = restored_targets(
                issubclass(kinds[kind], FMRegressor), found["targets"], estimator
            )
        drawn = found.get("draws")
        if (drawn is None and len(stored.models) != targets.n_outputs) or (schema is None) == (
            features.kind == "columns"
        ):
            raise ValueError("models, classes and columns do not fit together")
        if stored.models[0].kind != estimator._model:
            raise ValueError(f"a model of kind {stored.models[0].kind!r}")
        machine: Machine | Draws
        if drawn is None:
            machine = Machine(None, stored.models, features, targets)
        else:
            machine = restored_draws(drawn, stored.models, features, targets)
            estimator.sampling = restored_sampling(found.get("sampling"))
        history = [dict(epoch) for epoch in found["history"]]
        n_iter, best = int(found["n_iter"]), int(found["best_epoch"])
        estimator._learned_files = Arrivals.from_state(found.get("files", {}))
    except (
        KeyError, TypeError, ValueError, AttributeError, IndexError, CrossfmError
    ) as error:  # fmt: skip
        raise ModelFileError(
            f"{name} holds a broken description of its estimator: {error}. Save the estimator"
            " again, or fetch the file again"
        ) from error
    estimator._restore(machine, history, n_iter, best)
    return estimator


def restored_parameters(estimator: Any, found: Mapping[str, Any]) -> None:
    """Give an estimator the parameters of a `description`."""
    known = estimator.get_params(deep=False)
    for parameter, value in found["parameters"].items():
        if parameter in known:
            setattr(estimator, parameter, _restored(value))


def restored_targets(are_numbers: bool, state: dict[str, Any], estimator: Any) -> Targets:
    """The targets of a `description`."""
    if are_numbers:
        targets = NumberTargets(
            float(state["mean"]),
            float(state["std"]),
            state.get("loss", "squared"),  # files of 0.1 named none
            float(state.get("loss_parameter", 0.0)),
        )
        if targets.loss not in get_args(NumberLoss):
            raise ValueError(f"a loss of numbers that is none, {targets.loss!r}")
        if not (np.isfinite(targets.mean) and np.isfinite(targets.std) and targets.std > 0):
            raise ValueError("a target scale that is not a positive number")
        if targets.loss == "poisson" and abs(targets.mean) > LARGEST_LOG:
            raise ValueError("a mean of counts that no number holds")
        return targets
    classes = np.array(state["classes"], np.dtype(state["dtype"]))
    if classes.ndim != 1 or len(classes) < 2 or classes.dtype.kind not in "fiubUSmM":
        raise ValueError("classes that are none")
    loss = state.get("loss", "logistic")
    if loss not in ("logistic", "softmax", "hinge"):
        raise ValueError(f"a loss of classes that is none, {loss!r}")
    return ClassTargets(classes, estimator.class_weight, loss)


_NOT_PLAIN = object()


def _plain(value: Any) -> Any:
    """What JSON can hold of a parameter."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple | np.ndarray):
        parts = [_plain(part) for part in value]
        return _NOT_PLAIN if _NOT_PLAIN in parts else parts
    if isinstance(value, dict):
        pairs = [[_plain(key), _plain(part)] for key, part in value.items()]
        if any(_NOT_PLAIN in pair for pair in pairs):
            return _NOT_PLAIN
        return {"pairs": pairs}
    return _NOT_PLAIN


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _restored(part) for key, part in value["pairs"]}
    return value
