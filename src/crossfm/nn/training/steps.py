"""Steps: the optimizer of the tables and that of everything else, as one."""

from __future__ import annotations

from typing import Any, cast, final

import torch
from torch import Tensor, nn

from crossfm.errors import DataError
from crossfm.nn.embedding import table_parameters
from crossfm.nn.optim.fuse import FusedOptimizer, fuse_optimizer, unfuse
from crossfm.nn.optim.sparse import FTRL, AdaGrad, LazyAdam, RowOptimizerBase, RowwiseAdaGrad
from crossfm.nn.training.options import TrainingOptions

__all__ = ["Steps"]

KINDS: dict[str, type[RowOptimizerBase]] = {
    "adagrad": AdaGrad,
    "rowwise_adagrad": RowwiseAdaGrad,
    "adam": LazyAdam,
    "ftrl": FTRL,
}


@final
class Steps:
    """The step of a training: tables by rows, dense parameters by AdamW with a clipped gradient.

    Tables are those that modules name in ``tables()``, and those of PyTorch's own embeddings with
    ``sparse=True``. They take their step within the backward pass, where all of them can: none
    frozen, none shared by two modules.

    Args:
        network: whose parameters are stepped.
        options: rates, penalties, clipping.

    Raises:
        DataError: nothing to learn.
    """

    def __init__(self, network: nn.Module, options: TrainingOptions) -> None:
        self.options = options
        self.network = network
        tables = _tables(network)
        known = {id(table) for table in tables}
        self.dense = [p for p in network.parameters() if p.requires_grad and id(p) not in known]
        learned = [table for table in tables if table.requires_grad]
        if not self.dense and not learned:
            raise DataError(f"{type(network).__name__} has no parameters that require gradients")
        self._tables: FusedOptimizer | RowOptimizerBase | None = None
        if learned:
            if _can_fuse(network, tables):
                self._tables = fuse_optimizer(network, options.optimizer, lr=options.learning_rate)
            else:
                self._tables = KINDS[options.optimizer](
                    [{"params": [table], "lr": options.learning_rate} for table in learned]
                )
        self._dense = None
        if self.dense:
            groups: list[dict[str, Any]] = [
                {"params": [p for p in self.dense if p.dim() > 1]},
                {"params": [p for p in self.dense if p.dim() <= 1], "weight_decay": 0.0},
            ]
            self._dense = torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr=options.learning_rate_dense,
                weight_decay=options.weight_decay,
            )

    def begin(self, rate: float, n_rows: int) -> None:
        """Forget the last gradients; the learning rates times `rate`."""
        o = self.options
        if self._tables is not None:
            self._tables.zero_grad()
            for group in self._tables.param_groups:
                linear = _is_linear(group["params"][0])
                group["lr"] = o.learning_rate * rate
                group["l2"] = (o.l2_linear if linear else o.l2_factors) / n_rows
        if self._dense is not None:
            self._dense.zero_grad()
            for group in self._dense.param_groups:
                group["lr"] = o.learning_rate_dense * rate

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, and a step along them."""
        loss.backward()  # type: ignore[no-untyped-call]
        if self._tables is not None:
            self._tables.step()
        if self._dense is not None:
            if self.options.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.dense, self.options.clip_norm)
            self._dense.step()

    def release(self) -> None:
        """Leave the network as any other: its gradients gone, its tables without an optimizer."""
        if isinstance(self._tables, FusedOptimizer):
            unfuse(self.network)
        for optimizer in (self._tables, self._dense):
            if optimizer is not None:
                optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The states of both optimizers."""
        return {
            name: optimizer.state_dict()
            for name, optimizer in (("tables", self._tables), ("dense", self._dense))
            if optimizer is not None
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, optimizer in (("tables", self._tables), ("dense", self._dense)):
            if optimizer is not None:
                optimizer.load_state_dict(state[name])


def _tables(network: nn.Module) -> list[nn.Parameter]:
    found = {id(table): table for table in table_parameters(network)}
    for part in network.modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.sparse:
            found[id(part.weight)] = cast(nn.Parameter, part.weight)
    return list(found.values())


def _can_fuse(network: nn.Module, tables: list[nn.Parameter]) -> bool:
    """Whether every table is learned, by one module that takes a fused optimizer."""
    owned: list[int] = []
    for part in network.modules():
        tables_of: Any = getattr(part, "tables", None)
        if hasattr(part, "optimizer") and callable(tables_of):
            owned.extend(id(table) for table in tables_of())
    return (
        len(owned) == len(set(owned)) == len(tables)
        and all(table.requires_grad for table in tables)
        and all(table.dtype == torch.float32 for table in tables)
    )


def _is_linear(table: Tensor) -> bool:
    """Whether a table holds one number a feature."""
    return table.dim() == 1 or table.shape[1] == 1
