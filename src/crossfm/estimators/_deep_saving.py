"""Deep estimators in files: weights as tensors, all else as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from crossfm.data.schema import Schema
from crossfm.errors import CrossfmError, ModelFileError
from crossfm.estimators._deep_machine import DeepMachine
from crossfm.estimators._features import Features
from crossfm.estimators._saving import description, restored_parameters, restored_targets
from crossfm.estimators._scaling import Scaling
from crossfm.nn.training import Layout, arrays_of, assemble, put_arrays
from crossfm.store.network_file import load_network, save_network

if TYPE_CHECKING:
    from crossfm.estimators._deep import DeepBase

__all__ = ["load_deep", "save_deep"]

PREFIX = "network."


def save_deep(
    estimator: DeepBase, path: str | os.PathLike[str], about: Mapping[str, Any] | None = None
) -> None:
    """Write a fitted deep estimator; see `DeepBase.save`."""
    machine = estimator._machine
    schema = machine.features.schema
    arrays = {PREFIX + name: array for name, array in arrays_of(machine.network).items()}
    arrays["field_of"] = machine.layout.field_of_.astype(np.int32)
    if schema is not None:
        arrays["schema"] = np.frombuffer(schema.to_json().encode(), np.uint8)
    metadata = description(estimator, about) | {
        "network": estimator.network if isinstance(estimator.network, str) else None,
        "field_names": list(machine.layout.field_names),
    }
    save_network(path, arrays, metadata)


def load_deep(path: str | os.PathLike[str], network: Any = None) -> Any:
    """Read a deep estimator; see `crossfm.load`."""
    from crossfm.estimators import DeepClassifier, DeepRegressor

    name = os.fspath(path)
    arrays, found = load_network(path)
    kinds = {"DeepRegressor": DeepRegressor, "DeepClassifier": DeepClassifier}
    try:
        kind = found["estimator"]
        estimator: Any = kinds[kind]()
        restored_parameters(estimator, found)
        chosen = network if found["network"] is None else found["network"]
        if chosen is None:
            raise ModelFileError(
                f"{name} holds the weights of a network of your own, not the network itself; load"
                " it with crossfm.load(path, network=...), the same module or function"
            )
        estimator.network = chosen
        schema = None
        if "schema" in arrays:
            schema = Schema.from_json(arrays["schema"].tobytes().decode())
            estimator.schema = Schema(schema.fields)
        field_of = arrays["field_of"]
        if field_of.ndim != 1 or not len(field_of):
            raise ValueError("fields of no feature")
        layout = Layout(len(field_of), field_of, list(found["field_names"]))
        features = Features(found["features"]["kind"], kind, schema, n_features=len(field_of))
        if features.n_features != len(field_of) or (schema is None) == (features.kind == "columns"):
            raise ValueError("the network and the columns do not fit together")
        features.scaling = Scaling.from_state(found["features"]["scaling"], len(field_of))
        targets = restored_targets(kind == "DeepRegressor", found["targets"], estimator)
        options = dict(estimator.network_options or {})
        for option in ("interactions", "init_scale"):
            if getattr(estimator, option) is not None:
                options.setdefault(option, getattr(estimator, option))
        made = assemble(
            chosen, layout, n_factors=int(estimator.n_factors), n_outputs=targets.n_outputs,
            options=options, device="cpu" if estimator.device == "cpu" else "auto",
        )  # fmt: skip
        put_arrays(
            made,
            {
                part.removeprefix(PREFIX): array
                for part, array in arrays.items()
                if part.startswith(PREFIX)
            },
        )
        made.eval()
        history = [dict(epoch) for epoch in found["history"]]
        n_iter, best = int(found["n_iter"]), int(found["best_epoch"])
    except ModelFileError:
        raise
    except (
        CrossfmError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError,
    ) as error:  # fmt: skip
        raise ModelFileError(
            f"{name} holds a broken description of its estimator: {error}. Save the estimator"
            " again, or fetch the file again"
        ) from error
    machine = DeepMachine(made, layout, features, targets, bool(estimator.mixed_precision))
    estimator._restore(machine, history, n_iter, best)
    return estimator
