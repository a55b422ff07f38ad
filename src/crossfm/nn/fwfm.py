"""FwFM: a factorization machine with a weight for each pair of fields."""

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
from crossfm.nn.pairs import check_fields_meet, field_pairs, keep_numbers, pair_matrix, pair_places

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["FwFM"]


@final
class FwFM(Network):
    r"""Field-weighted factorization machine: a number says how much two fields matter together.

    ``y = w0 + sum_i w_i x_i + sum_{f<g} r_fg <p_f, p_g>``, ``p_f = sum_{i in f} v_i x_i`` the
    pooled vectors of the fields. Weights start at 1, where it is
    `crossfm.nn.FactorizationMachine` with ``interactions="across_fields"``.

    The weights are a matrix that the fields are multiplied by: O(F^2 k) products, O(F k) memory a
    row.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields F; None: as many as `field_of` names.
        options: ``linear``, ``init_scale``, ``sparse_grad``, ``device``, ``dtype``; see
            `crossfm.nn.network.Network`.

    Shapes:
        - input: `Batch`, `crossfm.Rows`, or int32 or int64 ids ``[batch, m]``;
        - ``pair_weights``: ``[F (F - 1) / 2]``, pairs by rising f, then g;
        - output: logits ``[batch]``.

    Raises:
        DataError: arguments that do not fit together.

    Example:
        >>> network = FwFM(3, 1, field_of=[0, 1, 2])
        >>> network.embedding.factors.data = torch.tensor([[1.0], [2.0], [3.0]])
        >>> network.pair_weights.data = torch.tensor([1.0, 10.0, 100.0])
        >>> network(torch.tensor([[0, 1, 2]])).tolist()  # 1*2 + 10*1*3 + 100*2*3
        [632.0]

    Source: Pan et al. 2018, Field-weighted Factorization Machines for Click-Through Rate
    Prediction in Display Advertising, section 3.
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
        check_fields_meet("FwFM", options)
        super().__init__(n_features, n_factors, field_of, n_fields, **options)
        F = self.n_fields
        keep_numbers(self, "places", partial(pair_places, F), self.bias.device)
        self.pair_weights = nn.Parameter(torch.ones(F * (F - 1) // 2, **self.placement))

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        linear, _, p = self.embedding.cross(x, pooled=True)
        assert p is not None
        R = pair_matrix(self.pair_weights, self.places)  # [F, F], r_fg above the diagonal
        crossed = p * torch.einsum("fg,bgk->bfk", R, p)
        return self.bias + linear + crossed.sum((1, 2), dtype=linear.dtype)

    @classmethod
    def from_model(cls, model: FactorModel, **options: Any) -> FwFM:
        """A module with a trained model's parameters, and so its scores.

        Args:
            model: field-weighted.
            options: ``sparse_grad``, ``device``, ``dtype``; see `crossfm.nn.network.Network`.

        Raises:
            DataError: a model of another kind.

        Example:
            >>> r = [[0.0, 10.0], [10.0, 0.0]]
            >>> model = FactorModel(
            ...     0.5, [0.0, 1.0], [[2.0], [3.0]], "across_fields", [0, 1], field_weights=r
            ... )
            >>> FwFM.from_model(model)(torch.tensor([[0, 1]])).tolist()  # 1.5 + 10 * 2 * 3
            [61.5]
        """
        expect_model(model, "fwfm")
        module = cls(
            model.n_features, model.n_factors, model.field_of, model.n_fields,
            **options,
        )  # fmt: skip
        put_parameters(module, model)
        f, g = field_pairs(module.n_fields).numpy()
        with torch.no_grad():
            module.pair_weights.copy_(torch.from_numpy(np.asarray(model.field_weights)[f, g]))
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
        R = pair_matrix(self.pair_weights, self.places)
        return taken_model(self, schema, task, metadata, field_weights=R + R.T)
