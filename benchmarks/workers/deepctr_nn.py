"""DeepCTR-Torch's DeepFM, step by step: a table a field, dense gradients, Adam.

The step is that of its `fit`, without its loader and metrics. Its penalties, on by default, are
off: they walk through the whole tables once more, and nobody else has them.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.workers.steps import Model, Start, Steps


def _without_network() -> tuple[Any, Any]:
    """Import it; its question to the package index for a newer version is answered with no."""
    kept, stand_in = sys.modules.get("requests"), ModuleType("requests")
    stand_in.get = lambda url: SimpleNamespace(status_code=0)  # type: ignore[attr-defined]
    stand_in.codes = SimpleNamespace(ok=200)  # type: ignore[attr-defined]
    sys.modules["requests"] = stand_in
    try:
        from deepctr_torch.inputs import SparseFeat
        from deepctr_torch.models import DeepFM
    finally:
        del sys.modules["requests"]
        if kept is not None:
            sys.modules["requests"] = kept
    return DeepFM, SparseFeat


DeepFM, SparseFeat = _without_network()


class DeepCTR(Steps):
    """Takes a float matrix with a column a field; ids count from 0 within each field."""

    def version(self) -> str:
        from importlib.metadata import version

        return f"deepctr-torch {version('deepctr-torch')}, torch {torch.__version__}"

    def build(self, start: Start | None, *, n_factors: int, field_sizes: list[int],
              sizes: list[int]) -> Model:  # fmt: skip
        columns = [
            SparseFeat(f"f{at}", size, embedding_dim=n_factors)
            for at, size in enumerate(field_sizes)
        ]
        model = DeepFM(
            columns, columns, dnn_hidden_units=tuple(sizes[1:-1]), l2_reg_linear=0.0,
            l2_reg_embedding=0.0, l2_reg_dnn=0.0, device="cpu",
        )  # fmt: skip
        if start is not None:
            low = 0
            for column in columns:
                part = slice(low, low + column.vocabulary_size)
                Start(start.weights[part], start.factors[part], []).into_tables(
                    model.linear_model.embedding_dict[column.name].weight,
                    model.embedding_dict[column.name].weight,
                )
                low = part.stop
            start.into_tower([*model.dnn.linears, model.dnn_linear])
        model.compile("adam", "binary_crossentropy")
        model.train()
        firsts = torch.from_numpy(np.cumsum([0, *field_sizes[:-1]]))

        def probabilities(ids: Tensor) -> Tensor:
            # The matrix is made for it beforehand, as its users have it.
            key = (ids.data_ptr(), len(ids))
            if key not in self.matrices:
                self.matrices[key] = (ids - firsts).float()
            return model(self.matrices[key]).squeeze(-1)

        def loss(ids: Tensor, targets: Tensor) -> Tensor:
            # Its own loss is the sum; Adam's steps are the same under any factor.
            penalty = model.get_regularization_loss() + model.aux_loss
            return model.loss_func(probabilities(ids), targets) + penalty.sum()

        return Model(loss, lambda ids: torch.logit(probabilities(ids), eps=1e-7), [model.optim])

    def prepare(self) -> None:
        super().prepare()
        self.matrices: dict[tuple[int, int], Tensor] = {}


def entrant() -> Steps:
    return DeepCTR()
