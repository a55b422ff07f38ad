"""FNN: a dense tower on the vectors of the fields, which a trained machine can lend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.model import FactorModel
from crossfm.nn.batch import Batch
from crossfm.nn.network import Network
from crossfm.nn.towers import MLP

__all__ = ["FNN"]


@final
class FNN(Network):
    r"""A dense tower on the vectors of the fields: the plain deep network.

    ``y = w0 + MLP([p_1, ..., p_F])``, ``p_f`` the pooled vectors of the fields. In the paper a
    trained factorization machine lends the vectors, ``(w_i, v_i)`` for feature i: `from_model`.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields; None: as many as `field_of` names.
        hidden: sizes of the tower's layers.
        dropout: in the tower.
        batch_norm: in the tower.
        activation: in the tower ("tanh" in the paper); see `crossfm.nn.MLP`.
        options: ``init_scale``, ``sparse_grad``, ``device``, ``dtype``; see
            `crossfm.nn.network.Network`.

    Shapes:
        - input: `Batch`, `crossfm.Rows`, or int32 or int64 ids ``[batch, m]``;
        - output: logits ``[batch]``.

    Raises:
        DataError: arguments that do not fit together.

    Example:
        >>> network = FNN(6, 4, field_of=[0, 0, 0, 1, 1, 1], hidden=(8,))
        >>> network(torch.tensor([[0, 3], [2, 5]])).shape
        torch.Size([2])

    Source: Zhang, Du and Wang 2016, Deep Learning over Multi-field Categorical Data, eq. 1 to 6.
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
        super().__init__(n_features, n_factors, field_of, n_fields, linear=False, **options)
        self.tower = MLP(
            self.n_fields * n_factors, hidden, dropout=dropout, batch_norm=batch_norm,
            activation=activation, **self.placement,
        )  # fmt: skip

    @classmethod
    def from_model(
        cls,
        model: FactorModel,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        **options: Any,
    ) -> FNN:
        """A network whose vectors start as ``(w_i, v_i)`` of a trained model, one number longer.

        Args:
            model: a trained factorization machine.
            field_of: the field of each id; None: as the model says, if it does.
            n_fields: number of fields; None: as many as `field_of` names.
            options: of the constructor.

        Raises:
            DataError: something else than a model, or one that does not know its fields.

        Example:
            >>> model = FactorModel(0.0, [0.5, 1.0], [[2.0], [3.0]], field_of=[0, 1])
            >>> FNN.from_model(model, hidden=(8,)).embedding.factors.tolist()
            [[0.5, 2.0], [1.0, 3.0]]
        """
        given: Any = model
        if not isinstance(given, FactorModel):
            hint = "; take its .model_" if hasattr(given, "model_") else ""
            raise DataError(f"model is {type(given).__name__}, expected a FactorModel{hint}")
        if field_of is None:
            field_of = model.field_of
        network = cls(model.n_features, model.n_factors + 1, field_of, n_fields, **options)
        lent = np.concatenate([model.weights[:, None], model.factors], axis=1)  # [n, k + 1]
        with torch.no_grad():
            network.embedding.factors.copy_(torch.from_numpy(lent))
        return network

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        p = self.embedding(x)  # [batch, fields, k]
        return self.bias + self.tower(p.flatten(1)).squeeze(1)
