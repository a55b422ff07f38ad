"""Logits of rows by a network, batch by batch."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.nn.batch import Batch
from crossfm.nn.training.loader import Loader

__all__ = ["device_of", "logits_of", "score"]


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters are.

    >>> device_of(nn.Linear(2, 1))
    device(type='cpu')
    """
    for part in itertools.chain(network.parameters(), network.buffers()):
        return part.device
    raise DataError(f"{type(network).__name__} has no parameters, so nothing can be learned")


def logits_of(network: nn.Module, batch: Batch, several: bool = False) -> Tensor:
    """Logits ``[batch]``, or ``[batch, C]`` where there are several; DataError for other shapes."""
    logits = network(batch)
    if not isinstance(logits, Tensor):
        raise DataError(
            f"{type(network).__name__} returned {type(logits).__name__}, expected a tensor of"
            " logits"
        )
    if logits.dim() != (2 if several else 1) or logits.shape[0] != batch.n_rows:
        wanted = f"[{batch.n_rows}, n_classes]" if several else f"[{batch.n_rows}]"
        hint = "; logits.squeeze(1) takes the last size away" if logits.dim() == 2 else ""
        raise DataError(
            f"{type(network).__name__} returned logits {list(logits.shape)}, expected"
            f" {wanted}{hint}"
        )
    return logits


def score(
    network: nn.Module,
    rows: Rows,
    *,
    batch_size: int = 8192,
    several: bool = False,
    mixed_precision: bool = False,
) -> NDArray[np.float32]:
    """Logits of rows, ``[n]`` or ``[n, C]``; the network is in its evaluation mode meanwhile.

    Example:
        >>> from crossfm.nn.deepfm import DeepFM
        >>> network = DeepFM(4, 2, field_of=[0, 0, 1, 1], hidden=(3,))
        >>> score(network, Rows(np.array([[0, 2], [1, 3], [0, 3]]))).shape
        (3,)
    """
    if len(rows) == 0:
        return np.empty(0, np.float32)
    device = device_of(network)
    rows = rows.replace(targets=None, weights=None)
    before = network.training
    network.eval()
    try:
        with (
            torch.no_grad(),
            torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision),
        ):
            parts = [
                logits_of(network, batch, several).float()
                for batch in Loader(rows, batch_size, device=device)
            ]
    finally:
        network.train(before)
    found: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return found
