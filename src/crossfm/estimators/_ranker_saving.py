"""Rankers in model files: the model, both tables of features, and what users have seen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from crossfm.errors import CrossfmError, ModelFileError
from crossfm.estimators._saving import plain_parameters, restored_parameters
from crossfm.estimators._sides import Sides
from crossfm.factors import Precision
from crossfm.solvers.ranking import Lists
from crossfm.store import StoredModel, save_model

if TYPE_CHECKING:
    from crossfm.estimators.ranker import FMRanker

__all__ = ["restore_ranker", "save_ranker"]


def save_ranker(
    ranker: FMRanker,
    path: str | os.PathLike[str],
    precision: Precision | None,
    about: Mapping[str, Any] | None,
) -> None:
    """Write a fitted ranker; see `FMRanker.save`."""
    from safetensors.numpy import save

    described = {
        "estimator": type(ranker).__name__,
        "parameters": plain_parameters(ranker),
        "history": ranker.history_,
        "n_iter": ranker.n_iter_,
        "best_epoch": ranker.best_epoch_,
        "about": dict(about or {}),
    }
    seen = ranker._seen
    attached = save(
        {
            "sides": np.frombuffer(ranker._sides.to_bytes(), np.uint8),
            "seen.offsets": seen.offsets,
            "seen.items": seen.items,
        }
    )
    save_model(ranker.model_, path, precision=precision, metadata=described, attached=attached)


def restore_ranker(ranker: FMRanker, stored: StoredModel, name: str) -> FMRanker:
    """The ranker that a file holds.

    Raises:
        ModelFileError: the description or the tables are broken.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    found = stored.metadata
    try:
        restored_parameters(ranker, found)
        arrays = load(stored.attached)
        schema = stored.model.schema
        if schema is None:
            raise ValueError("a ranker without a schema")
        sides = Sides.from_bytes(arrays["sides"].tobytes(), schema)
        seen = Lists(arrays["seen.offsets"].astype(np.int64), arrays["seen.items"].astype(np.int32))
        if len(seen.offsets) != len(sides.users.rows) + 1 or (
            seen.offsets[0] != 0 or seen.offsets[-1] != len(seen.items)
            or (np.diff(seen.offsets) < 0).any()
            or not ((seen.items >= 0) & (seen.items < len(sides.item_rows))).all()
        ):  # fmt: skip
            raise ValueError("lists of seen items that are none")
        history = [dict(epoch) for epoch in found["history"]]
        ranker._restore(
            stored.model, sides, seen, history, int(found["n_iter"]), int(found["best_epoch"])
        )
    except (
        KeyError, TypeError, ValueError, AttributeError, IndexError, SafetensorError, CrossfmError
    ) as error:  # fmt: skip
        raise ModelFileError(
            f"{name} holds a broken description of its ranker: {error}. Save the ranker again, or"
            " fetch the file again"
        ) from error
    return ranker
