"""Linear: a weight for every feature, over rows of few of them."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.nn.batch import Batch, as_batch
from crossfm.nn.embedding import wants_step
from crossfm.nn.ops.dense import dense_input, full_precision
from crossfm.nn.ops.fused import RowOptimizer, cross_fused
from crossfm.nn.ops.operator import cross

__all__ = ["Linear"]


@final
class Linear(nn.Module):
    r"""A linear model of sparse rows, returning logits.

    ``y = w0 + sum_i w_i x_i``. The weights are a table: a batch reads and updates those of its own
    features only.

    Args:
        n_features: number of feature ids (columns of a dense input).
        bias: whether there is a ``w0``.
        sparse_grad: whether lookups give gradients that are sparse by row (for the optimizers of
            `crossfm.nn.optim`), or dense ones (for any optimizer).
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input: `Batch`, `crossfm.Rows`, int32 or int64 ids ``[batch, m]``, or float
          ``[batch, n_features]``, of the parameters' type;
        - output: logits ``[batch]``, in float32 for parameters in half precision.

    Raises:
        DataError: no features, or an input that does not fit.

    Example:
        >>> linear = Linear(3)
        >>> linear.weights.data = torch.tensor([1.0, 2.0, 4.0])
        >>> linear(torch.tensor([[0, 2], [1, 1]])).tolist()
        [5.0, 4.0]
        >>> linear(torch.tensor([[0.5, 0.0, 1.0]])).tolist()
        [4.5]

    Source: logistic regression over hashed or one-hot features as in McMahan et al. 2013.
    """

    def __init__(
        self,
        n_features: int,
        *,
        bias: bool = True,
        sparse_grad: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(n_features, bool) or not isinstance(n_features, int) or n_features < 1:
            raise DataError(f"n_features is {n_features!r}, expected an integer of 1 or more")
        self.n_features, self.sparse_grad = n_features, sparse_grad
        self.weights = nn.Parameter(torch.zeros(n_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros((), device=device, dtype=dtype)) if bias else None
        self.optimizer: RowOptimizer | None = None  # crossfm.nn.optim.fuse_optimizer sets it

    def reset_parameters(self) -> None:
        """Weights and bias of zero."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def tables(self) -> list[nn.Parameter]:
        """The weights."""
        return [self.weights]

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"n_features={self.n_features}, bias={self.bias is not None}"

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        if isinstance(x, Tensor) and x.is_floating_point():
            y = self._of_dense(x)
        else:
            y = self._of_rows(x)
        return y if self.bias is None else self.bias + y

    def _of_dense(self, x: Tensor) -> Tensor:
        x = dense_input(x, self.weights, self.optimizer)
        with full_precision(self.weights):
            return x @ self.weights.to(x.dtype)

    def _of_rows(self, x: Rows | Tensor | Batch) -> Tensor:
        batch = as_batch(x, self.n_features, self.weights.device)
        no_factors = self.weights.detach().new_empty(self.n_features, 0)
        if self.optimizer is not None and wants_step(self):
            return cross_fused(
                batch, self.weights, no_factors, self.optimizer,
                fields=None, n_fields=0, across_fields=False, reduce_sum=True, pooled=False,
            ).linear  # fmt: skip
        return cross(batch, self.weights, no_factors, sparse_grad=self.sparse_grad).linear
