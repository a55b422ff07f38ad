"""FmFM: a factorization machine with a matrix for each pair of fields."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.model import FactorModel
from crossfm.nn.batch import Batch
from crossfm.nn.convert import expect_model, put_parameters, taken_model
from crossfm.nn.network import Network
from crossfm.nn.pairs import (
    check_fields_meet,
    field_pairs,
    keep_numbers,
    pair_matrix,
    pair_places,
)

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["FmFM"]


@final
class FmFM(Network):
    r"""Field-matrixed factorization machine: a matrix takes one field's vector to another's.

    ``y = w0 + sum_i w_i x_i + sum_{f<g} <p_f M_fg, p_g>``, ``p_f = sum_{i in f} v_i x_i`` the
    pooled vectors of the fields. Matrices start as the identity, where it is
    `crossfm.nn.FactorizationMachine` with ``interactions="across_fields"``; multiples of it are
    `crossfm.nn.FwFM`.

    The matrices are the blocks of one, ``[F k, F k]``, that a batch is multiplied by once: O(F^2
    k^2) products, O(F k) memory a row.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields F; None: as many as `field_of` names.
        options: ``linear``, ``init_scale``, ``sparse_grad``, ``device``, ``dtype``; see
            `crossfm.nn.network.Network`.

    Shapes:
        - input: `Batch`, `crossfm.Rows`, or int32 or int64 ids ``[batch, m]``;
        - ``pair_matrices``: ``[F (F - 1) / 2, k, k]``, pairs by rising f, then g;
        - output: logits ``[batch]``.

    Raises:
        DataError: arguments that do not fit together.

    Example:
        >>> network = FmFM(2, 2, field_of=[0, 1])
        >>> network.embedding.factors.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> network.pair_matrices.data = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
        >>> network(torch.tensor([[0, 1]])).tolist()  # [1, 2] M = [0, 1]
        [4.0]

    Source: Sun et al. 2021, FM^2: Field-matrixed Factorization Machines for Recommender Systems,
    section 3.
    """

    places: Tensor

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        **options: Any,
    ) -> None:
        check_fields_meet("FmFM", options)
        super().__init__(n_features, n_factors, field_of, n_fields, **options)
        F = self.n_fields
        keep_numbers(self, "places", partial(pair_places, F), self.bias.device)
        identity = torch.eye(n_factors, **self.placement)
        self.pair_matrices = nn.Parameter(identity.repeat(F * (F - 1) // 2, 1, 1))

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        linear, _, p = self.embedding.cross(x, pooled=True)
        assert p is not None
        p = p.flatten(1)  # [batch, F k]
        M = pair_matrix(self.pair_matrices, self.places)  # [F, F, k, k]
        M = M.transpose(1, 2).reshape(p.shape[1], p.shape[1])  # block (f, g) is M_fg
        return self.bias + linear + (p @ M * p).sum(1, dtype=linear.dtype)

    @classmethod
    def from_model(cls, model: FactorModel, **options: Any) -> FmFM:
        """A module with a trained model's parameters, and so its scores.

        Args:
            model: field-matrixed.
            options: ``sparse_grad``, ``device``, ``dtype``; see `crossfm.nn.network.Network`.

        Raises:
            DataError: a model of another kind.

        Example:
            >>> M = np.zeros((2, 2, 1, 1))
            >>> M[0, 1] = M[1, 0] = 10.0
            >>> model = FactorModel(
            ...     0.5, [0.0, 1.0], [[2.0], [3.0]], "across_fields", [0, 1], field_weights=M
            ... )
            >>> FmFM.from_model(model)(torch.tensor([[0, 1]])).tolist()  # 1.5 + 10 * 2 * 3
            [61.5]
        """
        expect_model(model, "fmfm")
        module = cls(
            model.n_features, model.n_factors, model.field_of, model.n_fields,
            **options,
        )  # fmt: skip
        put_parameters(module, model)
        f, g = field_pairs(module.n_fields).numpy()
        with torch.no_grad():
            module.pair_matrices.copy_(torch.from_numpy(np.asarray(model.field_weights)[f, g]))
        return module

    def to_model(
        self,
        *,
        schema: Schema | None = None,
        task: Literal["regression", "classification"] = "regression",
        metadata: Mapping[str, Any] | None = None,
    ) -> FactorModel:
        """The parameters as a `FactorModel`, to be saved, explained, served.

        Args:
            schema: the encoding behind the ids; the module does not keep one.
            task: what the module was trained for.
            metadata: anything JSON can hold.

        Raises:
            DataError: parameters that are not finite.
        """
        M = pair_matrix(self.pair_matrices, self.places)
        both = M + M.permute(1, 0, 3, 2)
        return taken_model(self, schema, task, metadata, field_weights=both)
