"""crossfm.nn, step by step: networks on the fused operator, optimizers of the batch's rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn as torch_nn
from torch.nn import functional

from benchmarks.workers.steps import Model, Start, Steps
from crossfm import nn
from crossfm.nn import optim

log_loss = functional.binary_cross_entropy_with_logits
SPARSE = {"rowwise_adagrad": "RowwiseAdaGrad", "adagrad": "AdaGrad", "adam": "LazyAdam",
          "ftrl": "FTRL"}  # fmt: skip


class OursNN(Steps):
    """`network` "fm" or "deepfm"; `fused`: the tables are stepped within the backward pass."""

    ids_type = np.int32

    def version(self) -> str:
        import crossfm
        from crossfm import _native

        return f"crossfm {crossfm.__version__} ({_native.isa}), torch {torch.__version__}"

    def build(self, start: Start | None, *, n_factors: int, network: str = "fm",
              optimizer: str = "rowwise_adagrad", fused: bool = True, learning_rate: float = 0.05,
              dense_learning_rate: float = 1e-3, field_sizes: list[int] | None = None,
              sizes: list[int] | None = None) -> Model:  # fmt: skip
        n_features = self.train_part.n_features
        model: Any
        if network == "fm":
            model = nn.FactorizationMachine(n_features, n_factors)
        else:
            assert field_sizes is not None
            assert sizes is not None
            field_of = np.repeat(np.arange(len(field_sizes)), field_sizes)
            model = nn.DeepFM(n_features, n_factors, field_of, hidden=tuple(sizes[1:-1]))
        if start is not None:
            fill(model, start)
        if fused:
            optim.fuse_optimizer(model, optimizer, lr=learning_rate)
        tables, dense = optim.split_parameters(model)
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(dense, lr=dense_learning_rate, fused=True)
        ]
        if not fused:
            optimizers.append(getattr(optim, SPARSE[optimizer])(tables, lr=learning_rate))
        return Model(lambda ids, targets: log_loss(model(ids), targets), model, optimizers)


def fill(model: Any, start: Start) -> None:
    """Give a network initial parameters; its bias is zero."""
    tables = getattr(model, "embedding", model)
    start.into_tables(tables.weights, tables.factors)
    if hasattr(model, "tower"):
        layers = [part for part in model.tower.modules() if isinstance(part, torch_nn.Linear)]
        start.into_tower(layers)


def entrant() -> Steps:
    return OursNN()
