"""The pairwise operator whose backward pass is the optimizer's step too.

No gradient of a table is ever made: a row's gradient is summed and applied in one go.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossfm.nn.batch import Batch
from crossfm.nn.ops.arguments import Hyper, Inputs, Options, State, Step, Steps, Upstream
from crossfm.nn.ops.operator import Crossed, kernels_for

__all__ = ["RowOptimizer", "cross_fused"]


class RowOptimizer(Protocol):
    """What the backward pass has to know of an optimizer (see `crossfm.nn.optim.fuse`).

    A module that offers an attribute ``optimizer`` beside its method ``tables()`` is given one.
    """

    kind: str

    def begin_step(self) -> None:
        """One more step: called once a backward pass, before the update."""

    def state_of(self, table: Tensor) -> State:
        """The state of a table, made at its first use."""

    def hyper_of(self, table: Tensor) -> Hyper:
        """lr, l2 and what else the kind needs."""


class _Cross(torch.autograd.Function):
    """Autograd sees weights, factors and values; they are also in `inputs`."""

    @staticmethod
    def forward(
        ctx: Any,
        weights: Tensor | None,
        factors: Tensor,
        values: Tensor | None,
        inputs: Inputs,
        options: Options,
        optimizer: RowOptimizer,
    ) -> tuple[Tensor, Tensor, Tensor]:
        linear, crossed, pooled, S = kernels_for(factors).forward(inputs, options)
        # Tables are taken as they are at the time of the backward pass.
        ctx.inputs, ctx.options, ctx.optimizer = inputs._replace(values=None), options, optimizer
        ctx.save_for_backward(values, S)
        ctx.set_materialize_grads(False)
        return linear, crossed, pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        gl, gc, gp = grads
        options, optimizer = ctx.options, ctx.optimizer
        values, S = ctx.saved_tensors
        inputs = ctx.inputs._replace(values=values)
        weights, factors, kernels = inputs.weights, inputs.factors, kernels_for(inputs.factors)
        upstream = Upstream(gl, gc, gp if options.pooled else None, None)
        need_values = bool(ctx.needs_input_grad[2])
        optimizer.begin_step()
        if factors.requires_grad and (weights is None or weights.requires_grad):
            steps = Steps(
                None if weights is None else _step(optimizer, weights), _step(optimizer, factors)
            )
            gx = kernels.backward_update(upstream, inputs, S, options, need_values, steps)
        else:  # a table is frozen
            rows, gw, gV, gx = kernels.backward(upstream, inputs, S, options, need_values, True)
            for table, grad in ((weights, gw), (factors, gV)):
                if table is not None and table.requires_grad:
                    kernels_for(table).update_rows(rows, grad, table, _step(optimizer, table))
        return None, None, gx.view(values.shape) if need_values else None, None, None, None


def _step(optimizer: RowOptimizer, table: Tensor) -> Step:
    return Step(optimizer.kind, optimizer.state_of(table), optimizer.hyper_of(table))


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
    inputs = Inputs(batch.ids, batch.values, batch.offsets, fields, weights, factors)
    options = Options(n_fields, across_fields, reduce_sum, pooled)
    linear, crossed, p = _Cross.apply(  # type: ignore[no-untyped-call]
        weights, factors, batch.values, inputs, options, optimizer
    )
    return Crossed(linear, crossed, p if pooled else None)
