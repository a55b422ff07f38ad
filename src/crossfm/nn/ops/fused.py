"""The pairwise operator whose backward pass is the optimizer's step too.

No gradient of a table is ever made: a row's gradient is summed and applied in one go.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossfm.nn.batch import Batch
from crossfm.nn.ops.operator import Crossed, kernels_for

__all__ = ["RowOptimizer", "cross_fused"]


class RowOptimizer(Protocol):
    """What the backward pass has to know of an optimizer (see `crossfm.nn.optim.fuse`).

    A module that offers an attribute ``optimizer`` beside its method ``tables()`` is given one.
    """

    kind: str

    def begin_step(self) -> None:
        """One more step: called once a backward pass, before the update."""

    def state_of(self, table: Tensor) -> dict[str, Tensor]:
        """The state of a table, made at its first use."""

    def hyper_of(self, table: Tensor) -> dict[str, float]:
        """lr, l2 and what else the kind needs; see `crossfm.nn.ops.reference.update_rows`."""


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weights: Tensor | None, factors: Tensor, values: Tensor | None, rest: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        ids, offsets, fields, options, _ = rest
        ctx.tables = weights, factors  # as they are at the time of the backward pass
        ctx.rest = rest
        linear, crossed, pooled, S = kernels_for(factors).forward(
            ids, values, offsets, fields, weights, factors, *options
        )
        ctx.save_for_backward(values, S)
        ctx.set_materialize_grads(False)
        return linear, crossed, pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        gl, gc, gp = grads
        weights, factors = ctx.tables
        ids, offsets, fields, options, optimizer = ctx.rest
        values, S = ctx.saved_tensors
        n_fields, across_fields, reduce_sum, pooled = options
        optimizer.begin_step()
        none: dict[str, Any] = {}
        need_values = bool(ctx.needs_input_grad[2])
        steps_weights = weights is not None and weights.requires_grad
        if (weights is not None and not steps_weights) or not factors.requires_grad:
            rows, gw, gV, gx = kernels_for(factors).backward(
                gl, gc, gp if pooled else None, None, ids, values, offsets, fields,
                weights, factors, S, n_fields, across_fields, reduce_sum, need_values, True,
            )  # fmt: skip
            for table, grad, steps in (
                (weights, gw, steps_weights),
                (factors, gV, factors.requires_grad),
            ):
                if steps:  # the other table is frozen
                    _update(optimizer, rows, grad, table)
            return None, None, gx.view(values.shape) if need_values else None, None
        gx = kernels_for(factors).backward_update(
            gl, gc, gp if pooled else None, None, ids, values, offsets, fields,
            weights, factors, S, n_fields, across_fields, reduce_sum, need_values,
            none if weights is None else optimizer.state_of(weights), optimizer.state_of(factors),
            optimizer.kind,
            none if weights is None else optimizer.hyper_of(weights), optimizer.hyper_of(factors),
        )  # fmt: skip
        return None, None, gx.view(values.shape) if need_values else None, None


def _update(optimizer: RowOptimizer, rows: Tensor, grad: Tensor, table: Tensor) -> None:
    kernels_for(table).update_rows(
        optimizer.kind, rows, grad, table, optimizer.state_of(table), optimizer.hyper_of(table)
    )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def cross_fused(
    batch: Batch,
    weights: Tensor | None,
    factors: Tensor,
    optimizer: RowOptimizer,
    *,
    fields: Tensor | None,
    n_fields: int,
    across_fields: bool,
    reduce_sum: bool,
    pooled: bool,
) -> Crossed:
    """`crossfm.nn.ops.operator.cross`, whose backward pass steps the tables' rows.

    Tables must be leaves; those that require gradients are stepped, and their ``.grad`` stays
    None. A table used twice in one forward pass takes two steps.
    """
    options = n_fields, across_fields, reduce_sum, pooled
    linear, crossed, p = _Cross.apply(  # type: ignore[no-untyped-call]
        weights, factors, batch.values, (batch.ids, batch.offsets, fields, options, optimizer)
    )
    return Crossed(linear, crossed, p if pooled else None)
