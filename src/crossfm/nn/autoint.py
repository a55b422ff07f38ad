"""AutoInt: fields attend to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional

from crossfm.data.rows import Rows
from crossfm.nn.batch import Batch
from crossfm.nn.network import Network, check_sizes
from crossfm.nn.towers import MLP, check_share

__all__ = ["AutoInt", "FieldAttention"]


@final
class FieldAttention(nn.Module):
    r"""Self-attention of fields in several heads, with a shortcut.

    For a head, ``a_fg = softmax_g <W_Q p_f, W_K p_g>`` and ``h_f = sum_g a_fg W_V p_g``; the heads
    side by side, ``out_f = relu([h_f of every head] + W_R p_f)``. Products are not scaled, as in
    the paper.

    Args:
        n_in: size of a field's vector.
        n_attention: size of a head.
        n_heads: number of heads.
        dropout: chance of an ``a_fg`` to be dropped in training.
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input: ``[batch, fields, n_in]``;
        - output: ``[batch, fields, n_heads * n_attention]``.

    Raises:
        DataError: sizes below 1, a dropout outside 0 to 1.

    Example:
        >>> FieldAttention(8, n_attention=4, n_heads=2)(torch.zeros(5, 3, 8)).shape
        torch.Size([5, 3, 8])

    Source: Song et al. 2019, eq. 5 to 8.
    """

    def __init__(
        self,
        n_in: int,
        n_attention: int,
        n_heads: int,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(n_attention=n_attention, n_heads=n_heads)
        check_share("attention_dropout", dropout)
        self.n_heads, self.n_out, self.dropout = n_heads, n_heads * n_attention, dropout
        # W_Q, W_K, W_V and W_R of all heads, one below the other.
        self.project = nn.Linear(n_in, 4 * self.n_out, bias=False, device=device, dtype=dtype)

    def forward(self, p: Tensor) -> Tensor:
        """``[batch, fields, n_in]`` to ``[batch, fields, n_out]``."""
        *qkv, shortcut = self.project(p).chunk(4, -1)
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in qkv)
        h = functional.scaled_dot_product_attention(
            q, k, v, dropout_p=self.dropout if self.training else 0.0, scale=1.0
        )  # [batch, heads, fields, n_attention]
        return torch.relu(h.transpose(1, 2).flatten(2) + shortcut)


@final
class AutoInt(Network):
    r"""Fields attend to each other in layers; a linear layer reads what they have become.

    ``y = w0 + <a, [h_1, ..., h_F]>``, ``h = attention(... attention(p_1, ..., p_F))``; see
    `FieldAttention`. With `hidden`, a dense tower on the fields' vectors is added (AutoInt+).

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields F; None: as many as `field_of` names.
        n_layers: number of attention layers.
        n_attention: size of a head.
        n_heads: number of heads.
        attention_dropout: chance of an attention to be dropped in training.
        hidden: sizes of the layers of a tower ``MLP([p_1, ..., p_F])`` to add; None: no tower.
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
        >>> network = AutoInt(6, 4, field_of=[0, 0, 0, 1, 1, 1], n_layers=2, n_attention=4)
        >>> network(torch.tensor([[0, 3], [2, 5]])).shape
        torch.Size([2])

    Source: Song et al. 2019, AutoInt: Automatic Feature Interaction Learning via Self-Attentive
    Neural Networks, eq. 5 to 9; AutoInt+: section 5.5.
    """

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        *,
        n_layers: int = 3,
        n_attention: int = 32,
        n_heads: int = 2,
        attention_dropout: float = 0.0,
        hidden: Sequence[int] | None = None,
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
        **options: Any,
    ) -> None:
        check_sizes(n_layers=n_layers)
        super().__init__(n_features, n_factors, field_of, n_fields, linear=False, **options)
        place, size = self.placement, n_factors
        self.attention = nn.Sequential()
        for _ in range(n_layers):
            self.attention.append(
                FieldAttention(size, n_attention, n_heads, attention_dropout, **place)
            )
            size = n_heads * n_attention
        self.output = nn.Linear(self.n_fields * size, 1, bias=False, **place)
        self.tower = None
        if hidden is not None:
            self.tower = MLP(
                self.n_fields * n_factors, hidden, dropout=dropout, batch_norm=batch_norm,
                activation=activation, **place,
            )  # fmt: skip

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        p = self.embedding(x)  # [batch, fields, k]
        logits: Tensor = self.bias + self.output(self.attention(p).flatten(1)).squeeze(1)
        if self.tower is not None:
            logits = logits + self.tower(p.flatten(1)).squeeze(1)
        return logits
