"""Wide & Deep: a linear model and a dense tower, trained together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from numpy.typing import ArrayLike
from torch import Tensor

from crossfm.data.rows import Rows
from crossfm.nn.batch import Batch
from crossfm.nn.network import Network
from crossfm.nn.towers import MLP

__all__ = ["WideDeep"]


@final
class WideDeep(Network):
    r"""A linear model on all features and a dense tower on their vectors, added up.

    ``y = w0 + sum_i w_i x_i + MLP([p_1, ..., p_F])``, ``p_f`` the pooled vectors of the fields. The
    paper's wide part also holds products of features chosen by hand: give them ids of their own.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields; None: as many as `field_of` names.
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
        >>> import torch
        >>> network = WideDeep(6, 4, field_of=[0, 0, 0, 1, 1, 1], hidden=(8,))
        >>> network(torch.tensor([[0, 3], [2, 5]])).shape
        torch.Size([2])

    Source: Cheng et al. 2016, Wide & Deep Learning for Recommender Systems, eq. 3.
    """

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        *,
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
        **options: Any,
    ) -> None:
        super().__init__(n_features, n_factors, field_of, n_fields, **options)
        self.tower = MLP(
            self.n_fields * n_factors, hidden, dropout=dropout, batch_norm=batch_norm,
            activation=activation, **self.placement,
        )  # fmt: skip

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        linear, _, pooled = self.embedding.cross(x, pooled=True)
        assert pooled is not None
        return self.bias + linear + self.tower(pooled.flatten(1)).squeeze(1)
