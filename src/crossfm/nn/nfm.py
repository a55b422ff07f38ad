"""Neural FM: a dense tower on the crossed vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from numpy.typing import ArrayLike
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.nn.batch import Batch
from crossfm.nn.network import Network
from crossfm.nn.towers import MLP, dropout_layer

__all__ = ["NeuralFM"]


@final
class NeuralFM(Network):
    r"""A factorization machine whose crossed vector goes through a dense tower.

    ``y = w0 + sum_i w_i x_i + MLP(norm(c))``, ``c = sum_{f<g} p_f * p_g`` the crossed vector of k
    numbers, ``p_f`` the pooled vectors of the fields. The tower's input is as small as k, so that
    one hidden layer goes a long way.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields; None: as many as `field_of` names.
        hidden: sizes of the tower's layers.
        dropout: in the tower.
        crossed_dropout: chance of a number of the crossed vector to be dropped in training.
        batch_norm: of the crossed vector and in the tower.
        activation: in the tower; see `crossfm.nn.MLP`.
        options: ``interactions`` ("all": every two features, as in the paper), ``init_scale``,
            ``sparse_grad``, ``device``, ``dtype``; see `crossfm.nn.network.Network`.

    Shapes:
        - input: `Batch`, `crossfm.Rows`, or int32 or int64 ids ``[batch, m]``;
        - output: logits ``[batch]``.

    Raises:
        DataError: arguments that do not fit together.

    Example:
        >>> import torch
        >>> network = NeuralFM(6, 4, field_of=[0, 0, 0, 1, 1, 1], hidden=(8,))
        >>> network(torch.tensor([[0, 3], [2, 5]])).shape
        torch.Size([2])

    Source: He and Chua 2017, Neural Factorization Machines for Sparse Predictive Analytics, eq. 2
    to 7; batch normalisation and dropout of the crossed vector: section 3.3.
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
        crossed_dropout: float = 0.0,
        batch_norm: bool = True,
        activation: str = "relu",
        **options: Any,
    ) -> None:
        super().__init__(n_features, n_factors, field_of, n_fields, **options)
        norm = nn.BatchNorm1d(n_factors, **self.placement) if batch_norm else nn.Identity()
        self.crossed = nn.Sequential(norm, dropout_layer(crossed_dropout, "crossed_dropout"))
        self.tower = MLP(
            n_factors, hidden, dropout=dropout, batch_norm=batch_norm, activation=activation,
            **self.placement,
        )  # fmt: skip

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        linear, crossed, _ = self.embedding.cross(x, reduce_sum=False)
        crossed = crossed.to(self.bias.dtype)  # [batch, k], a sum wider than half precision
        return self.bias + linear + self.tower(self.crossed(crossed)).squeeze(1)
