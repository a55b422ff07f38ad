"""Nearest features in factor space: what a machine takes for alike."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from crossfm.errors import DataError, SchemaError, did_you_mean
from crossfm.model import FactorModel

__all__ = ["Neighbour", "nearest"]


class Neighbour(NamedTuple):
    """A feature and how near it is.

    Attributes:
        id: of the feature.
        name: by the schema, such as ``film=Alien``; else its id.
        similarity: the cosine of the two vectors, or their inner product.
    """

    id: int
    name: str
    similarity: float


def nearest(
    model: FactorModel,
    feature: str | int,
    k: int = 10,
    *,
    field: str | None = None,
    by: Literal["cosine", "inner"] = "cosine",
) -> list[Neighbour]:
    """The features whose factors are nearest to those of one.

    Two features of one field with like vectors meet all others alike: they can stand for each
    other. Of a field-aware or higher-order machine all vectors of a feature count, side by side.

    Args:
        model: any.
        feature: its name, such as ``"film=Alien"``, or its id.
        k: how many, fewer where there are no more.
        field: of which field the neighbours are to be; None: the feature's own.
        by: "cosine", from -1 to 1; or "inner", the inner product.

    Raises:
        SchemaError: no such feature or field.
        DataError: k below 1, another word for `by`.

    Example:
        >>> model = FactorModel(0.0, [0, 0, 0], [[1, 0], [2, 0.1], [0, 1]], field_of=[0, 0, 0])
        >>> [near.name for near in nearest(model, 0, k=2)]
        ['1', '2']
    """
    if k < 1:
        raise DataError(f"k is {k}, expected a number from 1")
    if by not in ("cosine", "inner"):
        raise DataError(f"by is {by!r}, expected 'cosine' or 'inner'")
    schema = model.schema
    place = _id_of(model, feature)
    of = model.field_of if schema is None else schema.field_of_
    if field is not None:
        if schema is None:
            raise SchemaError("the model has no schema with names of fields; leave field= out")
        candidates = schema.block(field)[1:]  # the first stands for missing and unknown values
    elif of is not None:
        candidates = np.flatnonzero(of == of[place])
        if schema is not None:
            candidates = schema.block(schema.field_names[int(of[place])])[1:]
    else:
        candidates = np.arange(model.n_features)
    candidates = candidates[candidates != place]
    own = model.vectors([place]).astype(np.float64).reshape(-1)
    others = model.vectors(candidates).astype(np.float64).reshape(len(candidates), -1)
    found = others @ own
    if by == "cosine":
        sizes = np.linalg.norm(others, axis=1) * np.linalg.norm(own)
        found = np.divide(found, sizes, out=np.zeros(len(found)), where=sizes > 0)
    order = np.argsort(-found, kind="stable")[:k]
    ids = candidates[order]
    names = [str(i) for i in ids] if schema is None else schema.feature_names(ids)
    return [
        Neighbour(int(i), name, float(value))
        for i, name, value in zip(ids, names, found[order], strict=True)
    ]


def _id_of(model: FactorModel, feature: str | int) -> int:
    schema = model.schema
    if isinstance(feature, str):
        if schema is None:
            raise SchemaError("the model has no schema with names of features; give an id")
        field = feature.split("=")[0]
        if field not in schema.field_names:
            hint = did_you_mean(field, schema.field_names)
            raise SchemaError(f"no feature {feature!r}: no field {field!r}.{hint}")
        ids = schema.block(field)
        names = schema.feature_names(ids)
        if feature not in names:
            hint = did_you_mean(feature, names)
            raise SchemaError(f"no feature {feature!r}.{hint}")
        return int(ids[names.index(feature)])
    if not 0 <= feature < model.n_features:
        raise SchemaError(f"no feature {feature}, the model has {model.n_features}")
    return int(feature)
