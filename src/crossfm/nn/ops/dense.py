"""Crossing the columns of a dense matrix: every column is a feature, every entry its value."""

from __future__ import annotations

import torch
from torch import Tensor

from crossfm.nn.ops.pairwise import half_difference

__all__ = ["cross_dense", "cross_dense_fields"]


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
