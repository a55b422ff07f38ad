r"""Sums over pairs of vectors, in linear time.

``sum_{i<j} a_i * a_j = 1/2 ((sum_i a_i)^2 - sum_i a_i^2)``, element by element.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossfm.errors import DataError

__all__ = ["half_difference", "pairwise"]


def pairwise(v: Tensor, reduce_sum: bool = True) -> Tensor:
    r"""Sum of the products of all pairs of a row's vectors.

    ``crossed_r = sum_{i<j} v_ri * v_rj``, computed as ``1/2 ((sum_i v_ri)^2 - sum_i v_ri^2)``,
    in O(fields k). Half-precision input is summed in float32: the difference of squares would
    lose what is left of its digits.

    Args:
        v: ``[batch, fields, k]``, floating point.
        reduce_sum: whether to add up the k factors too, which gives ``sum_{i<j} <v_i, v_j>``.

    Returns:
        ``[batch]``, or ``[batch, k]`` with ``reduce_sum=False``, of v's type. Zero for one
        field or none.

    Raises:
        DataError: another number of dimensions, or numbers that are no floating point.

    Example:
        >>> v = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
        >>> pairwise(v)  # 1*3 + 2*4 + 1*5 + 2*6 + 3*5 + 4*6
        tensor([67.])
        >>> pairwise(v, reduce_sum=False)
        tensor([[23., 44.]])

    Source: Rendle 2010, lemma 3.1; the crossed vector: He and Chua 2017, eq. 4.
    """
    if v.dim() != 3:
        raise DataError(
            f"v has shape {list(v.shape)}, expected [batch, fields, k]; a single row needs"
            " v.unsqueeze(0)"
        )
    if not v.is_floating_point():
        raise DataError(f"v holds {v.dtype}, expected floating point; v.float() converts it")
    wide = v.float() if v.dtype in (torch.float16, torch.bfloat16) else v
    crossed = half_difference(wide.sum(1), (wide * wide).sum(1))  # [batch, k]
    return (crossed.sum(-1) if reduce_sum else crossed).to(v.dtype)


def half_difference(S: Tensor, Q: Tensor) -> Tensor:
    """``1/2 (S^2 - Q)`` of the sum and the sum of squares, ``[batch, k]`` each."""
    return 0.5 * (S * S - Q)
