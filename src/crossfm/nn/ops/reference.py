r"""The pairwise operator in plain PyTorch: the definition, for any device and floating type.

It gathers ``[nnz, k]`` vectors, which the other implementations never do; they are judged by it,
and it is judged by the double sum over pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossfm.nn.ops.arguments import (
    Gradients,
    Inputs,
    Options,
    Outputs,
    Step,
    Steps,
    Upstream,
)

__all__ = ["backward", "backward_update", "forward", "update_rows"]


def forward(inputs: Inputs, options: Options) -> Outputs:
    """``(linear, crossed, pooled, S)``; see `crossfm.nn.ops.operator`."""
    weights, factors = inputs.weights, inputs.factors
    n_fields, across_fields, reduce_sum, pooled = options
    n, row, flat, x, field = _entries(inputs)
    k = factors.shape[1]
    u = _wide(factors[flat])  # [nnz, k], the vectors x_i v_i
    if x is not None:
        u = u * x[:, None]
    linear = u.new_zeros(n)
    if weights is not None:
        w = _wide(weights[flat])
        linear = linear.index_add(0, row, w if x is None else w * x)
    S = u.new_zeros(n, k).index_add(0, row, u)
    P = u.new_zeros(0)
    if across_fields or pooled:
        assert field is not None
        P = u.new_zeros(n * n_fields, k).index_add(0, row * n_fields + field, u)
        P = P.view(n, n_fields, k)
    Q = (P * P).sum(1) if across_fields else u.new_zeros(n, k).index_add(0, row, u * u)
    crossed = 0.5 * (S * S - Q)
    return (
        linear,
        crossed.sum(1) if reduce_sum else crossed,
        P.to(factors.dtype) if pooled else factors.new_zeros(0),
        S,
    )


def backward(
    upstream: Upstream,
    inputs: Inputs,
    S: Tensor,
    options: Options,
    need_values: bool,
    sparse: bool,
) -> Gradients:
    """``(rows, grad_weights, grad_factors, grad_values)``; see `crossfm.nn.ops.operator`."""
    weights, factors, n_fields = inputs.weights, inputs.factors, options.n_fields
    n, row, flat, x, field = _entries(inputs)
    v = _wide(factors[flat])  # [nnz, k]
    q = v if x is None else v * x[:, None]  # what of S belongs to the feature's own pool
    if options.across_fields:
        assert field is not None
        pool = row * n_fields + field
        q = q.new_zeros(n * n_fields, q.shape[1]).index_add(0, pool, q)[pool]
    h = torch.zeros_like(v)  # gradient of u_i = x_i v_i
    if upstream.crossed is not None:
        g = upstream.crossed[:, None] if options.reduce_sum else upstream.crossed
        h = h + g.to(h.dtype)[row] * (S[row] - q)
    if upstream.pooled is not None:
        assert field is not None
        h = h + upstream.pooled.to(h.dtype)[row, field]
    if upstream.S is not None:
        h = h + upstream.S.to(h.dtype)[row]
    gl = h.new_zeros(len(h)) if upstream.linear is None else upstream.linear.to(h.dtype)[row]
    grad_values = factors.new_zeros(0)
    if need_values:
        grad_values = (h * v).sum(1)
        if weights is not None:
            grad_values = grad_values + gl * _wide(weights[flat])
        assert inputs.values is not None
        grad_values = grad_values.to(inputs.values.dtype)
    if x is not None:
        h, gl = h * x[:, None], gl * x
    rows, place, count = flat.new_zeros(0, dtype=torch.int64), flat, factors.shape[0]
    if sparse:
        rows, place = torch.unique(flat.to(torch.int64), return_inverse=True)
        count = len(rows)
    grad_factors = h.new_zeros(count, h.shape[1]).index_add(0, place, h).to(factors.dtype)
    grad_weights = factors.new_zeros(0)
    if weights is not None:
        grad_weights = gl.new_zeros(count).index_add(0, place, gl).to(weights.dtype)
    return rows, grad_weights, grad_factors, grad_values


def update_rows(rows: Tensor, grad: Tensor, table: Tensor, step: Step) -> None:
    """One step of a row-wise optimizer on the rows of a table, in place.

    Args:
        rows: int64 ``[u]``, each at most once.
        grad: ``[u, k]``, or ``[u]`` for a table ``[n]``.
        table: ``[n, k]`` or ``[n]``.
        step: the optimizer's kind, state and numbers.

    Only the listed rows are read or written. ``l2 p`` is added to their gradient (ftrl has it in
    its solution).
    """
    kind, state, hyper = step
    p, g = _wide(table[rows]), _wide(grad)
    lr, l2 = hyper["lr"], hyper.get("l2", 0.0)
    if kind != "ftrl" and l2:
        g = g + l2 * p
    if kind == "sgd":
        p = p - lr * g
    elif kind == "adagrad":
        a = state["a"][rows] + g * g
        state["a"][rows] = a
        p = p - lr * g / (a.sqrt() + hyper["eps"])
    elif kind == "rowwise_adagrad":
        a = state["a"][rows] + (g * g if g.dim() == 1 else (g * g).mean(1))
        state["a"][rows] = a
        a = a if g.dim() == 1 else a[:, None]
        p = p - lr * g / (a.sqrt() + hyper["eps"])
    elif kind == "adam":
        beta1, beta2, t = hyper["beta1"], hyper["beta2"], hyper["step"]
        m = beta1 * state["m"][rows] + (1 - beta1) * g
        v = beta2 * state["v"][rows] + (1 - beta2) * g * g
        state["m"][rows], state["v"][rows] = m, v
        m, v = m / (1 - beta1**t), v / (1 - beta2**t)
        p = p - lr * m / (v.sqrt() + hyper["eps"])
    elif kind == "ftrl":
        before = state["n"][rows]
        n = before + g * g
        z = state["z"][rows] + g - (n.sqrt() - before.sqrt()) / lr * p
        state["n"][rows], state["z"][rows] = n, z
        shrunk = torch.sign(z) * (z.abs() - hyper["l1"]).clamp(min=0)
        p = -shrunk / ((hyper["beta"] + n.sqrt()) / lr + l2)
    else:
        raise ValueError(f"unknown optimizer {kind!r}")
    table[rows] = p.to(table.dtype)


def backward_update(
    upstream: Upstream,
    inputs: Inputs,
    S: Tensor,
    options: Options,
    need_values: bool,
    steps: Steps,
) -> Tensor:
    """`backward` and `update_rows` of both tables in one; returns the gradient of the values."""
    rows, gw, gV, gx = backward(upstream, inputs, S, options, need_values, True)
    update_rows(rows, gV, inputs.factors, steps.factors)
    if inputs.weights is not None:
        assert steps.weights is not None
        update_rows(rows, gw, inputs.weights, steps.weights)
    return gx


def _entries(inputs: Inputs) -> tuple[int, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Rows, and for every feature: its row, id, value and field."""
    ids, values, offsets, fields, _, factors = inputs
    n = inputs.n_rows
    if offsets is None:
        m = ids.shape[1]
        row = torch.arange(n, device=ids.device).repeat_interleave(m, output_size=n * m)
    else:
        row = torch.arange(n, device=ids.device).repeat_interleave(
            offsets.diff(), output_size=ids.shape[0]
        )
    x = None if values is None else _wide(values.reshape(-1))
    if x is not None and factors.dtype == torch.float64:
        x = x.double()
    if fields is not None:
        fields = fields.expand(ids.shape).reshape(-1).to(torch.int64)
    return n, row, ids.reshape(-1), x, fields


def _wide(tensor: Tensor) -> Tensor:
    """Half precision as float32, in which sums are made."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
