"""Plain PyTorch: an FM as one would write it with sparse gradients, and a dense tower alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.workers.steps import Model, Start, Steps

log_loss = functional.binary_cross_entropy_with_logits
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sparse_adam": torch.optim.SparseAdam,
    "adagrad": torch.optim.Adagrad,
}


def crossed(v: Tensor) -> Tensor:
    """The sum over pairs of ``[batch, m, k]``."""
    S = v.sum(1)  # [batch, k]
    return 0.5 * (S * S - (v * v).sum(1)).sum(1)


class Apart(nn.Module):
    """Weights summed by an EmbeddingBag, vectors looked up by an Embedding."""

    def __init__(self, n_features: int, n_factors: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.w = nn.EmbeddingBag(n_features, 1, mode="sum", sparse=True)
        self.V = nn.Embedding(n_features, n_factors, sparse=True)

    def fill(self, start: Start) -> None:
        start.into_tables(self.w.weight, self.V.weight)

    def forward(self, ids: Tensor) -> Tensor:
        return self.bias + self.w(ids).squeeze(1) + crossed(self.V(ids))


class Bags(Apart):
    """The sum of the vectors by a bag as well; their squares still need the lookup."""

    def forward(self, ids: Tensor) -> Tensor:
        S = functional.embedding_bag(ids, self.V.weight, mode="sum", sparse=True)  # [batch, k]
        q = self.V(ids).square().sum((1, 2))
        return self.bias + self.w(ids).squeeze(1) + 0.5 * (S.square().sum(1) - q)


class Joined(nn.Module):
    """Weight and vector of a feature in one row of one table: one lookup, one gradient."""

    def __init__(self, n_features: int, n_factors: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.table = nn.Embedding(n_features, n_factors + 1, sparse=True)

    def fill(self, start: Start) -> None:
        start.into_tables(self.table.weight[:, :1], self.table.weight[:, 1:])

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.table(ids)  # [batch, m, 1 + k]
        return self.bias + rows[:, :, 0].sum(1) + crossed(rows[:, :, 1:])


LAYOUTS = {"apart": Apart, "bags": Bags, "joined": Joined}


def tower(start: Start | None, sizes: list[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    found = nn.Sequential(*layers[:-1])
    if start is not None:
        start.into_tower([layer for layer in found if isinstance(layer, nn.Linear)])
    return found


class PlainPyTorch(Steps):
    """`network` "fm" in a layout and with an optimizer, or "tower"."""

    def version(self) -> str:
        return f"torch {torch.__version__}"

    def build(self, start: Start | None, *, n_factors: int, network: str = "fm",
              layout: str = "apart", optimizer: str = "adagrad", learning_rate: float = 0.05,
              sizes: list[int] | None = None, input_gradient: bool = False,
              ) -> Model:  # fmt: skip
        if network == "tower":
            assert sizes is not None
            return self._tower(start, sizes, learning_rate, input_gradient)
        model = LAYOUTS[layout](self.train_part.n_features, n_factors)
        if start is not None:
            model.fill(start)
        tables = [p for name, p in model.named_parameters() if name != "bias"]
        return Model(
            loss=lambda ids, targets: log_loss(model(ids), targets),
            scores=model,
            optimizers=[
                OPTIMIZERS[optimizer](tables, lr=learning_rate),
                torch.optim.SGD([model.bias], lr=learning_rate),
            ],
        )

    def _tower(
        self, start: Start | None, sizes: list[int], learning_rate: float, input_gradient: bool
    ) -> Model:
        """A tower on numbers that are at hand; ids only say how many rows."""
        model = tower(start, sizes)
        optimizer: Any = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
        inputs: dict[int, Tensor] = {}

        def scores(ids: Tensor) -> Tensor:
            n = len(ids)
            if n not in inputs:
                random = torch.Generator().manual_seed(0)
                inputs[n] = torch.randn(n, sizes[0], generator=random)
            h = inputs[n]
            if input_gradient and torch.is_grad_enabled():
                h = h.detach().requires_grad_()
            return model(h).squeeze(1)

        return Model(lambda ids, targets: log_loss(scores(ids), targets), scores, [optimizer])


def entrant() -> Steps:
    return PlainPyTorch()
