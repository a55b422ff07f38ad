"""xDeepFM: the compressed interaction network beside a linear model and a dense tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.nn.batch import Batch
from crossfm.nn.network import Network
from crossfm.nn.towers import MLP

__all__ = ["CIN", "XDeepFM"]


@final
class CIN(nn.Module):
    r"""Compressed interaction network: products of the fields' vectors, one degree a layer.

    ``X^0 = [p_1; ...; p_F]``, ``X^l_h = sum_{i,j} W^l_hij X^{l-1}_i * X^0_j``, and the output are
    the sums over the k factors of every row of every ``X^l``, l from 1 on.

    Args:
        n_fields: F.
        layers: rows H_l of every layer.
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input: ``[batch, n_fields, k]``;
        - output: ``[batch, n_out]``, `n_out` the sum of `layers`.

    Raises:
        DataError: no layers, or layers without rows.

    Example:
        >>> CIN(3, (4, 2))(torch.zeros(5, 3, 8)).shape
        torch.Size([5, 6])

    Source: Lian et al. 2018, eq. 6 and 8.
    """

    def __init__(
        self,
        n_fields: int,
        layers: Sequence[int],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        layers = tuple(layers)
        if not layers or any(size < 1 for size in layers):
            raise DataError(f"layers of a CIN are {list(layers)}, expected sizes of 1 or more")
        before = (n_fields, *layers[:-1])
        self.compress = nn.ModuleList(
            nn.Linear(n_fields * rows, size, bias=False, device=device, dtype=dtype)
            for rows, size in zip(before, layers, strict=True)
        )
        self.n_out = sum(layers)

    def forward(self, p: Tensor) -> Tensor:
        """``[batch, n_fields, k]`` to ``[batch, n_out]``."""
        p = p.transpose(1, 2)  # [batch, k, fields]
        h, sums = p, []
        for compress in self.compress:
            h = compress((h[..., :, None] * p[..., None, :]).flatten(2))  # [batch, k, rows]
            sums.append(h.sum(1))
        return torch.cat(sums, 1)


@final
class XDeepFM(Network):
    r"""A linear model, a compressed interaction network and a dense tower, added up.

    ``y = w0 + sum_i w_i x_i + <a, CIN(p_1, ..., p_F)> + MLP([p_1, ..., p_F])``, ``p_f`` the pooled
    vectors of the fields; see `CIN`.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields F; None: as many as `field_of` names.
        cin: rows of the CIN's layers.
        hidden: sizes of the tower's layers.
        dropout: in the tower.
        batch_norm: in the tower.
        activation: in the tower; see `crossfm.nn.MLP`.
        options: ``init_scale``, ``sparse_grad``, ``device``, ``dtype``; see
            `crossfm.nn.network.Network`.

    Shapes:
        - input: `Batch`, `crossfm.Rows`, or int32 or int64 ids ``[batch, m]``;
        - output: logits ``[batch]``.

    Raises:
        DataError: arguments that do not fit together.

    Example:
        >>> network = XDeepFM(6, 4, field_of=[0, 0, 0, 1, 1, 1], cin=(3, 3), hidden=(8,))
        >>> network(torch.tensor([[0, 3], [2, 5]])).shape
        torch.Size([2])

    Source: Lian et al. 2018, xDeepFM: Combining Explicit and Implicit Feature Interactions for
    Recommender Systems, eq. 6, 8 and 15.
    """

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        *,
        cin: Sequence[int] = (16, 16, 16),
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
        **options: Any,
    ) -> None:
        super().__init__(n_features, n_factors, field_of, n_fields, **options)
        self.cin = CIN(self.n_fields, cin, **self.placement)
        self.output = nn.Linear(self.cin.n_out, 1, bias=False, **self.placement)
        self.tower = MLP(
            self.n_fields * n_factors, hidden, dropout=dropout, batch_norm=batch_norm,
            activation=activation, **self.placement,
        )  # fmt: skip

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        linear, _, p = self.embedding.cross(x, pooled=True)
        assert p is not None
        products = self.output(self.cin(p)).squeeze(1)
        return self.bias + linear + products + self.tower(p.flatten(1)).squeeze(1)
