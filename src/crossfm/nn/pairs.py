"""The pairs of fields, as numbers to gather by: no network loops over them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["field_pairs"]


def field_pairs(n_fields: int, device: torch.device | str | None = None) -> Tensor:
    """All pairs f < g of fields: int64 ``[2, pairs]``, by rising f, then g.

    >>> field_pairs(3).tolist()
    [[0, 0, 1], [1, 2, 2]]
    """
    return torch.triu_indices(n_fields, n_fields, 1, device=device)
