"""torchfm, step by step: dense gradients, Adam over the whole table."""

from __future__ import annotations

import torch
from torch import nn
from torchfm.model.fm import FactorizationMachineModel

from benchmarks.workers.steps import Model, Start, Steps


class TorchFMSteps(Steps):
    """FactorizationMachineModel of one field of all ids; it returns probabilities."""

    def version(self) -> str:
        from importlib.metadata import version

        return f"torchfm {version('torchfm')}, torch {torch.__version__}"

    def build(self, start: Start | None, *, n_factors: int,
              learning_rate: float = 1e-3) -> Model:  # fmt: skip
        # Its field dimensions only make offsets and the size of one shared table.
        model = FactorizationMachineModel([self.train_part.n_features], n_factors)
        if start is not None:
            start.into_tables(model.linear.fc.weight, model.embedding.embedding.weight)
        loss = nn.BCELoss()
        return Model(
            loss=lambda ids, targets: loss(model(ids), targets),
            scores=lambda ids: torch.logit(model(ids), eps=1e-7),
            optimizers=[torch.optim.Adam(model.parameters(), lr=learning_rate)],
        )


def entrant() -> Steps:
    return TorchFMSteps()
