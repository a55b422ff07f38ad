"""HigherOrderFM: sums over sets of two, three and more features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.model import FactorModel
from crossfm.nn.batch import Batch
from crossfm.nn.convert import expect_model, put_parameters, taken_model
from crossfm.nn.features import feature_rows
from crossfm.nn.network import Network, check_sizes
from crossfm.nn.ops.anova import degrees, degrees_of_rows

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["HigherOrderFM"]


@final
class HigherOrderFM(Network):
    r"""Factorization machine of any order.

    ``y = w0 + sum_i w_i x_i + sum_{t=2}^{order} sum_{i_1 < ... < i_t} <v^t_{i_1}, ..., v^t_{i_t}>
    x_{i_1} ... x_{i_t}``, ``<a, b, ...>`` the sum of the k products. Each order t has vectors
    ``v^t`` of its own, or all share one. With ``interactions="across_fields"`` the pooled vectors
    of the fields take the place of the features. Order 2 is `crossfm.nn.FactorizationMachine`.

    Costs O(m k order^2) a row of m features (fields), O(m k order) with shared vectors; a batch's
    vectors ``x_i v_i`` are in memory, about twice for each order above 2.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each of a feature's vectors.
        field_of: ``[n_features]``, the field of each id; needed for "across_fields" only, and rows
            that carry fields do without.
        n_fields: number of fields; None: as many as `field_of` names.
        order: largest size of the sets, 2 or more.
        shared: whether all orders share one vector a feature.
        interactions: "all" or "across_fields".
        options: ``linear``, ``init_scale``, ``sparse_grad``, ``device``, ``dtype``; see
            `crossfm.nn.network.Network`.

    Shapes:
        - input: `Batch`, `crossfm.Rows`, or int32 or int64 ids ``[batch, m]``;
        - ``embedding.factors``: ``[n_features, (order - 1) k]``, order 2 first, or
          ``[n_features, k]`` if shared;
        - output: logits ``[batch]``.

    Raises:
        DataError: an order below 2, arguments that do not fit together.

    Example:
        >>> network = HigherOrderFM(5, 2, order=3)
        >>> network.embedding.factors.data.fill_(1.0).shape
        torch.Size([5, 4])
        >>> network(torch.tensor([[0, 1, 2]])).tolist()  # 3 pairs and 1 triple, times k
        [8.0]

    Source: Blondel et al. 2016, Higher-Order Factorization Machines; with shared vectors the
    inhomogeneous kernel of the same paper, with weights of 1 for the orders.
    """

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        *,
        order: int = 3,
        shared: bool = False,
        interactions: Literal["all", "across_fields"] = "all",
        **options: Any,
    ) -> None:
        check_sizes(n_factors=n_factors, order=order)
        if order < 2:
            raise DataError(f"order is {order}, expected 2 or more; order 1 is crossfm.nn.Linear")
        if interactions != "across_fields" and field_of is None and n_fields is None:
            n_fields = 0  # no fields are needed
        super().__init__(
            n_features, n_factors * (1 if shared else order - 1), field_of, n_fields,
            interactions=interactions, **options,
        )  # fmt: skip
        self.order, self.shared = order, shared
        self._n_factors = n_factors

    @property
    def n_factors(self) -> int:
        """Length of each of a feature's vectors."""
        return self._n_factors

    def extra_repr(self) -> str:
        """Options, for ``print``."""
        return f"order={self.order}, shared={self.shared}"

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        if self.order == 2:
            linear, crossed, _ = self.embedding.cross(x)
            return self.bias + linear + crossed
        if self.embedding.interactions == "across_fields":
            linear, _, p = self.embedding.cross(x, pooled=True)
            assert p is not None
            return self.bias + linear + self._crossed(p.to(linear.dtype), degrees)
        batch = self.embedding.batch(x)._replace(checked=self.n_features)
        linear, u = self.embedding.each(batch)
        u = u.to(linear.dtype)  # [nnz, k (order - 1)]
        n = batch.n_rows
        if batch.offsets is None:
            m = batch.ids.shape[1]
            crossed = self._crossed(u.view(n, m, u.shape[1]), degrees)
            return self.bias + linear.view(n, m).sum(1) + crossed
        row, offsets = feature_rows(batch), batch.offsets

        def of_rows(v: Tensor, order: int) -> list[Tensor]:
            return degrees_of_rows(v, row, offsets, order)

        linear = linear.new_zeros(n).index_add(0, row, linear)
        return self.bias + linear + self._crossed(u, of_rows)

    @classmethod
    def from_model(cls, model: FactorModel, **options: Any) -> HigherOrderFM:
        """A module with a trained model's parameters, and so its scores.

        Args:
            model: higher-order, with factors ``[n_features, order - 1, n_factors]``.
            options: ``sparse_grad``, ``device``, ``dtype``; see `crossfm.nn.network.Network`.

        Raises:
            DataError: a model of another kind.

        Example:
            >>> V = [[[1.0], [2.0]], [[1.0], [2.0]], [[1.0], [2.0]]]
            >>> model = FactorModel(0.5, [0.0, 0.0, 0.0], V, order=3)
            >>> HigherOrderFM.from_model(model)(torch.tensor([[0, 1, 2]])).tolist()  # 0.5 + 3 + 8
            [11.5]
        """
        expect_model(model, "hofm")
        module = cls(
            model.n_features, model.n_factors, model.field_of, order=model.order,
            interactions=model.interactions, **options,
        )  # fmt: skip
        put_parameters(module, model)
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
            DataError: vectors that the orders share, which a `FactorModel` does not have;
                parameters that are not finite.
        """
        if self.shared and self.order > 2:
            raise DataError("a FactorModel has a vector for each order, and here they share one")
        several = None if self.order == 2 else self.order - 1
        return taken_model(self, schema, task, metadata, n_vectors=several, order=self.order)

    def _crossed(self, u: Tensor, kernel: Callable[[Tensor, int], list[Tensor]]) -> Tensor:
        """The kernels of all orders from 2 on, added up: ``[batch]``."""
        if self.shared:
            found = kernel(u, self.order)[1:]
        else:
            own = torch.split(u, self._n_factors, -1)
            found = [kernel(v, t)[-1] for t, v in enumerate(own, 2)]
        return torch.stack(found).sum((0, 2))
