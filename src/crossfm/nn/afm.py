"""AttentionalFM: pairs of fields weighed by an attention network."""

from __future__ import annotations

from functools import partial
from typing import Any, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.nn.batch import Batch
from crossfm.nn.features import fields_present
from crossfm.nn.network import Network, check_sizes
from crossfm.nn.pairs import check_fields_meet, field_pairs, keep_numbers
from crossfm.nn.towers import dropout_layer

__all__ = ["AttentionalFM"]


@final
class AttentionalFM(Network):
    r"""Attentional factorization machine: a row says how much each of its pairs matters.

    ``y = w0 + sum_i w_i x_i + <q, sum_{f<g} a_fg (p_f * p_g)>``, with
    ``a = softmax_{f<g} <h, relu(W (p_f * p_g) + b)>`` over the pairs of fields that the row has,
    ``p_f = sum_{i in f} v_i x_i`` the pooled vectors of the fields. A field of which a row has
    nothing (but zeros) takes part in no pair, as in the paper.

    The attention looks at every pair: O(F^2 k) memory a row is inherent, twice ``batch F (F - 1)
    / 2 (k + n_attention)`` numbers in training.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields F; None: as many as `field_of` names.
        n_attention: size of the attention network's hidden layer.
        dropout: of the k numbers of the pooled pairs, in training.
        attention_dropout: of the pairs' weights ``a``, in training.
        options: ``linear``, ``init_scale``, ``sparse_grad``, ``device``, ``dtype``; see
            `crossfm.nn.network.Network`.

    Shapes:
        - input: `Batch`, `crossfm.Rows`, or int32 or int64 ids ``[batch, m]``;
        - output: logits ``[batch]``.

    Raises:
        DataError: arguments that do not fit together.

    Example:
        >>> network = AttentionalFM(6, 4, field_of=[0, 0, 1, 1, 2, 2], n_attention=8)
        >>> network(torch.tensor([[0, 2, 5], [1, 3, 4]])).shape
        torch.Size([2])

    Source: Xiao et al. 2017, Attentional Factorization Machines: Learning the Weight of Feature
    Interactions via Attention Networks, eq. 2 to 6.
    """

    pairs: Tensor

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        *,
        n_attention: int = 16,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        check_fields_meet("AttentionalFM", options)
        check_sizes(n_attention=n_attention)
        super().__init__(n_features, n_factors, field_of, n_fields, **options)
        keep_numbers(self, "pairs", partial(field_pairs, self.n_fields), self.bias.device)
        self.attention = nn.Sequential(
            nn.Linear(n_factors, n_attention, **self.placement),  # W, b
            nn.ReLU(),
            nn.Linear(n_attention, 1, bias=False, **self.placement),  # h
        )
        self.attention_dropout = dropout_layer(attention_dropout, "attention_dropout")
        self.dropout = dropout_layer(dropout)
        self.output = nn.Linear(n_factors, 1, bias=False, **self.placement)  # q

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        batch = self.embedding.batch(x)._replace(checked=self.n_features)
        linear, _, p = self.embedding.cross(batch, pooled=True)
        assert p is not None
        f, g = self.pairs
        present = fields_present(batch, self.embedding.field_of, self.n_fields)  # [batch, F]
        e = p.index_select(1, f) * p.index_select(1, g)  # [batch, pairs, k]
        scores = self.attention(e).squeeze(2).to(linear.dtype)
        missing = ~(present.index_select(1, f) & present.index_select(1, g))
        # Rows without pairs: e is zero, whatever its weights; minus infinity would make them NaN.
        a = scores.masked_fill(missing, torch.finfo(scores.dtype).min).softmax(1)
        pooled = torch.einsum("bp,bpk->bk", self.attention_dropout(a).to(e.dtype), e)
        out: Tensor = self.output(self.dropout(pooled)).squeeze(1)
        return self.bias + linear + out
