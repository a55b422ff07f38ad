"""Where the features of a batch belong: their rows, and the fields that a row has."""

from __future__ import annotations

import torch
from torch import Tensor

from crossfm.nn.batch import Batch
from crossfm.nn.ops.operator import fields_of

__all__ = ["feature_pools", "feature_rows", "fields_present"]


def feature_rows(batch: Batch) -> Tensor:
    """The row of each feature: int64 ``[nnz]``, in the order of the ids.

    >>> feature_rows(Batch(torch.tensor([5, 6, 7]), offsets=torch.tensor([0, 2, 2, 3]))).tolist()
    [0, 0, 2]
    """
    if batch.offsets is not None:
        return torch.repeat_interleave(batch.offsets.diff(), output_size=batch.ids.shape[0])
    n, m = batch.ids.shape
    return torch.arange(n, device=batch.ids.device)[:, None].expand(n, m).reshape(-1)


def feature_pools(batch: Batch, field_of: Tensor | None, n_fields: int) -> Tensor:
    """The pool of each feature, ``row * n_fields + field``: int64 ``[nnz]``.

    Raises:
        DataError: the fields are not known, or not below `n_fields`.

    Example:
        >>> feature_pools(Batch(torch.tensor([[0, 1], [1, 1]])), torch.tensor([0, 1]), 2).tolist()
        [0, 1, 3, 3]
    """
    fields = fields_of(batch, field_of, n_fields).expand(batch.ids.shape).reshape(-1)
    return feature_rows(batch) * n_fields + fields


def fields_present(batch: Batch, field_of: Tensor | None, n_fields: int) -> Tensor:
    """Which fields a row has a feature of whose value is not zero: bool ``[batch, n_fields]``.

    >>> batch = Batch(torch.tensor([[0, 1]]), values=torch.tensor([[2.0, 0.0]]))
    >>> fields_present(batch, torch.tensor([0, 1]), 2).tolist()
    [[True, False]]
    """
    pools = feature_pools(batch, field_of, n_fields)
    there = torch.ones_like(pools) if batch.values is None else (batch.values != 0).reshape(-1)
    counts = pools.new_zeros(batch.n_rows * n_fields).index_add(0, pools, there.to(pools.dtype))
    return counts.view(batch.n_rows, n_fields) > 0
