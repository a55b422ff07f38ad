"""Optimizers that read and write only the batch's rows of a table.

- `crossfm.nn.optim.fuse`: fused into the backward pass;
- `crossfm.nn.optim.sparse`: ``torch.optim`` optimizers over sparse gradients;
- `crossfm.nn.optim.rules`: what both have in common.
"""

from crossfm.nn.optim.fuse import (
    FusedOptimizer,
    fuse_optimizer,
    fused_optimizer,
    split_parameters,
    unfuse,
)
from crossfm.nn.optim.sparse import FTRL, AdaGrad, LazyAdam, RowwiseAdaGrad

__all__ = [
    "FTRL",
    "AdaGrad",
    "FusedOptimizer",
    "LazyAdam",
    "RowwiseAdaGrad",
    "fuse_optimizer",
    "fused_optimizer",
    "split_parameters",
    "unfuse",
]
