"""Crossing the columns of a dense matrix: every column is a feature, every entry its value."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from crossfm.errors import DataError
from crossfm.nn.ops.pairwise import half_difference

__all__ = ["cross_dense", "cross_dense_fields", "dense_input", "full_precision"]


def cross_dense(x: Tensor, V: Tensor) -> Tensor:
    """``sum_{i<j} v_i x_i * v_j x_j`` by two matrix products.

    Args:
        x: ``[batch, n]`` values.
        V: ``[n, k]`` factors.

    Returns:
        ``[batch, k]``.

    Example:
        >>> cross_dense(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[3.0], [9.0], [5.0]]))
        tensor([[30.]])
    """
    return half_difference(x @ V, (x * x) @ (V * V))


def cross_dense_fields(x: Tensor, V: Tensor, sizes: list[int]) -> Tensor:
    """``sum_{f<g} p_f * p_g`` with the columns of a field pooled, ``p_f = sum_i v_i x_i``.

    Args:
        x: ``[batch, n]`` values, the columns of a field side by side.
        V: ``[n, k]`` factors in the same order.
        sizes: columns of each field, one field after the other; they add up to n.

    Returns:
        ``[batch, k]``.

    Example:
        >>> x, V = torch.ones(1, 3), torch.tensor([[3.0], [9.0], [5.0]])
        >>> cross_dense_fields(x, V, [2, 1])  # (3 + 9) * 5
        tensor([[60.]])
    """
    S = Q = x.new_zeros(x.shape[0], V.shape[1])  # [batch, k]
    for x_f, V_f in zip(torch.split(x, sizes, 1), torch.split(V, sizes), strict=True):
        p = x_f @ V_f  # [batch, k]
        S = S + p
        Q = Q + p * p
    return half_difference(S, Q)


def dense_input(x: Tensor, table: Tensor, optimizer: Any = None) -> Tensor:
    """A dense batch, fit for a table, in the type that sums are made in.

    Args:
        x: floating point ``[batch, n]``. Under autocast any type, as it comes out of other layers;
            else the table's.
        table: ``[n]`` or ``[n, k]``.
        optimizer: fused into the backward pass of the table's lookups, if one is.

    Raises:
        DataError: another shape, type or device, or an optimizer that would never see the
            gradients.

    Example:
        >>> dense_input(torch.ones(2, 3).bfloat16(), torch.ones(3).bfloat16()).dtype
        torch.float32
    """
    n, kind = table.shape[0], table.device.type
    if x.dim() != 2 or x.shape[1] != n:
        raise DataError(
            f"x has shape {list(x.shape)}, expected [batch, {n}]"
            + ("; a single row needs x.unsqueeze(0)" if x.dim() == 1 else "")
        )
    if x.device != table.device:
        raise DataError(f"x: on {x.device}, the parameters on {table.device}")
    if x.dtype != table.dtype and not _autocast(kind):
        raise DataError(
            f"x holds {x.dtype}, the parameters {table.dtype}; convert one of them,"
            f" x.to({table.dtype}) or module.to({x.dtype})"
        )
    if optimizer is not None and torch.is_grad_enabled() and table.requires_grad:
        raise DataError(
            "the optimizer fused into the lookups does not see the gradients of a dense x: give"
            " ids, or take it off with crossfm.nn.optim.unfuse(model)"
        )
    return x.to(torch.float64 if table.dtype == torch.float64 else torch.float32)


def full_precision(table: Tensor) -> AbstractContextManager[Any]:
    """A context in which autocast leaves the arithmetic of the table's device alone.

    >>> with torch.autocast("cpu", torch.bfloat16), full_precision(torch.ones(1)):
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    torch.float32
    """
    kind = table.device.type
    return torch.autocast(kind, enabled=False) if _autocast(kind) else nullcontext()


def _autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
