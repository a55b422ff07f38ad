"""Modules and `FactorModel`s: the parameters that they share, carried over exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfm.errors import DataError
from crossfm.model import FactorModel
from crossfm.nn.batch import to_tensor

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["expect_model", "put_parameters", "taken_model"]

MODULES = {
    "fm": "FactorizationMachine",
    "ffm": "FieldAwareFM",
    "fwfm": "FwFM",
    "fmfm": "FmFM",
    "hofm": "HigherOrderFM",
}


def expect_model(model: Any, kind: str) -> None:
    """DataError for anything but a `FactorModel` of this kind.

    >>> expect_model(FactorModel(0.5, [1.0], [[2.0]]), "fm")
    """
    if not isinstance(model, FactorModel):
        hint = "; take its .model_" if hasattr(model, "model_") else ""
        raise DataError(f"model is {type(model).__name__}, expected a FactorModel{hint}")
    if model.kind != kind:
        raise DataError(
            f"the model is of kind {model.kind!r}, {MODULES[kind]} takes {kind!r};"
            f" crossfm.nn.{MODULES[model.kind]}.from_model takes this one"
        )


def put_parameters(module: Any, model: FactorModel) -> None:
    """Give a module a model's bias, weights and factors."""
    tables = module.embedding
    with torch.no_grad():
        module.bias.fill_(model.bias)
        tables.weights.copy_(to_tensor(model.weights))
        tables.factors.copy_(to_tensor(model.factors.reshape(model.n_features, -1)))


def taken_model(
    module: Any,
    schema: Schema | None,
    task: Literal["regression", "classification"],
    metadata: Mapping[str, Any] | None,
    *,
    n_vectors: int | None = None,
    field_weights: Tensor | None = None,
    order: int = 2,
) -> FactorModel:
    """A module's parameters as a `FactorModel`.

    Args:
        module: with ``bias`` and ``embedding``.
        schema: the encoding behind the ids.
        task: what the module was trained for.
        metadata: anything JSON can hold.
        n_vectors: where a feature has so many of them.
        field_weights: ``[n_fields, n_fields]``, symmetric, or matrices in their place.
        order: the largest sets of features that cross.

    Raises:
        DataError: parameters that are not finite; a module without linear weights counts as one
            whose weights are 0.
    """

    def array(tensor: Tensor) -> NDArray[np.float32]:
        return tensor.detach().to("cpu", torch.float32).numpy()

    tables = module.embedding
    factors = array(tables.factors)
    weights = np.zeros(len(factors), np.float32)
    return FactorModel(
        float(module.bias.detach()),
        weights if tables.weights is None else array(tables.weights),
        factors if n_vectors is None else factors.reshape(len(factors), n_vectors, -1),
        tables.interactions,
        None if tables.field_of is None else tables.field_of.cpu().numpy(),
        schema,
        task,
        metadata or {},
        None if field_weights is None else array(field_weights),
        order,
    )
