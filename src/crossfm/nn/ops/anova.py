r"""The ANOVA kernel: sums over all sets of t features, by dynamic programming over the features.

``A_t = sum_{i_1 < ... < i_t} v_{i_1} * ... * v_{i_t}``, element by element, in O(features k t).
With ``c_1(j) = v_j`` and ``c_t(j) = v_j * sum_{i<j} c_{t-1}(i)``, the sum of the sets whose last
feature is j, ``A_t = sum_j c_t(j)``. The loop runs over t; all features of a degree follow from one
running sum. Nothing is subtracted, so that no digits are lost, as they are with power sums.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from crossfm.errors import DataError

__all__ = ["anova", "degrees", "degrees_of_rows"]

LONGEST = 2**24  # features of a row, in exported graphs


def anova(v: Tensor, order: int, reduce_sum: bool = True) -> Tensor:
    r"""Sum of the products of all sets of `order` of a row's vectors.

    ``A = sum_{i_1 < ... < i_order} v_{i_1} * ... * v_{i_order}``, element by element. Order 2 is
    `crossfm.nn.pairwise`. Half-precision input is summed in float32.

    Args:
        v: ``[batch, fields, k]``, floating point.
        order: size of the sets, 1 or more.
        reduce_sum: whether to add up the k factors too.

    Returns:
        ``[batch]``, or ``[batch, k]`` with ``reduce_sum=False``, of v's type. Zero where there are
        fewer than `order` fields.

    Raises:
        DataError: another number of dimensions, numbers that are no floating point, an order
            below 1.

    Example:
        >>> v = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
        >>> anova(v, 3)  # 1*2*3 + 1*2*4 + 1*3*4 + 2*3*4
        tensor([50.])

    Source: Blondel et al. 2016, Higher-Order Factorization Machines: the kernel and its dynamic
    program.
    """
    if v.dim() != 3:
        raise DataError(
            f"v has shape {list(v.shape)}, expected [batch, fields, k]; a single row needs"
            " v.unsqueeze(0)"
        )
    if not v.is_floating_point():
        raise DataError(f"v holds {v.dtype}, expected floating point; v.float() converts it")
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise DataError(f"order is {order!r}, expected an integer of 1 or more")
    wide = v.float() if v.dtype in (torch.float16, torch.bfloat16) else v
    crossed = degrees(wide, order)[-1]  # [batch, k]
    return (crossed.sum(-1) if reduce_sum else crossed).to(v.dtype)


def degrees(v: Tensor, order: int) -> list[Tensor]:
    """The kernels of degree 1 to `order` of vectors ``[batch, fields, k]``: ``[batch, k]`` each.

    >>> [A.item() for A in degrees(torch.tensor([[[1.0], [2.0], [3.0]]]), 3)]
    [6.0, 11.0, 6.0]
    """

    def before(c: Tensor) -> Tensor:
        return pad(c[:, :-1].cumsum(1), (0, 0, 1, 0))

    return _degrees(v, order, before, lambda c: c.sum(1))


def degrees_of_rows(v: Tensor, row: Tensor, offsets: Tensor, order: int) -> list[Tensor]:
    """`degrees` of rows of any length: ``[n_rows, k]`` each.

    Rows of similar lengths are padded, to twice their numbers at most. Of others, and in graphs,
    the running sums of all rows are made side by side in ``log2`` of the longest row's length
    passes, each of which adds the sums that end 1, 2, 4, ... features before. (The difference of
    running sums over the whole batch would let a row's large numbers spoil the rows after it.)

    Args:
        v: ``[nnz, k]``, the features of a row together.
        row: int64 ``[nnz]``, the row of each feature.
        offsets: int64 ``[n_rows + 1]``.
        order: the highest degree.

    Example:
        >>> v = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
        >>> row, offsets = torch.tensor([0, 0, 2, 2]), torch.tensor([0, 2, 2, 4])
        >>> degrees_of_rows(v, row, offsets, 2)[1].tolist()
        [[2.0], [0.0], [12.0]]
    """
    n, nnz, k = offsets.shape[0] - 1, v.shape[0], v.shape[1]
    if torch.compiler.is_exporting():
        longest = LONGEST  # a loop over the example's number of features would stay in the file
    elif torch.compiler.is_compiling():
        longest = nnz
    else:
        longest = int(offsets.diff().max()) if n else 0
        if n * longest <= 2 * nnz:
            place = row * longest + torch.arange(nnz, device=v.device) - offsets[row]
            padded = v.new_zeros(n * longest, k).index_copy(0, place, v)
            return degrees(padded.view(n, longest, k), order)
    at = torch.arange(nnz, device=v.device)

    def shifted(c: Tensor, by: int) -> Tensor:
        """What lies `by` features before in the same row, or zero."""
        origin = (at - by).clamp(min=0)
        same = (at >= by) & (row.index_select(0, origin) == row)
        return torch.where(same[:, None], c.index_select(0, origin), 0.0)

    def before(c: Tensor) -> Tensor:
        c, by = shifted(c, 1), 1
        while by < longest - 1:
            c, by = c + shifted(c, by), 2 * by
        return c

    def total(c: Tensor) -> Tensor:
        return c.new_zeros(n, k).index_add(0, row, c)

    return _degrees(v, order, before, total)


def _degrees(
    v: Tensor, order: int, before: Callable[[Tensor], Tensor], total: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    c = v
    found = [total(c)]
    for _ in range(order - 1):
        c = v * before(c)
        found.append(total(c))
    return found
