"""FieldAwareFM: a vector for each feature and each field that it meets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from crossfm.data.rows import Rows
from crossfm.model import FactorModel
from crossfm.nn.batch import Batch
from crossfm.nn.convert import expect_model, put_parameters, taken_model
from crossfm.nn.embedding import id_tensor
from crossfm.nn.features import feature_pools
from crossfm.nn.network import Network, check_sizes

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["FieldAwareFM"]


@final
class FieldAwareFM(Network):
    r"""Field-aware factorization machine: features meet with the vector they keep for the other.

    ``y = w0 + sum_i w_i x_i + sum_{i<j} <v_{i,f(j)}, v_{j,f(i)}> x_i x_j``, ``f(i)`` the field of
    i. Two features of one field f meet with ``v_{i,f}`` and ``v_{j,f}``, as they do in libffm
    (which has no ``w0`` and ``w_i``, and scales rows to length one unless told otherwise);
    ``interactions="across_fields"`` leaves these pairs out. With equal vectors for all fields it
    is `crossfm.nn.FactorizationMachine` with the same `interactions`, where "across_fields" pools
    the features of a field.

    With ``T_fg = sum_{i in f} x_i v_{i,g}``, the pairs of fields come to
    ``sum_{f<g} <T_fg, T_gf>``, and the pairs inside field f to
    ``1/2 (|T_ff|^2 - sum_{i in f} |x_i v_{i,f}|^2)``. Costs O((m + F) F k) a row of m features.
    T takes ``batch F^2 k`` numbers; rows that have several features of a field take ``nnz F k``
    more, in "all" only.

    Args:
        n_features: number of feature ids.
        n_factors: length k of a feature's vector for one field.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields F; None: as many as `field_of` names.
        interactions: "all" or "across_fields".
        options: ``linear``, ``init_scale``, ``sparse_grad``, ``device``, ``dtype``; see
            `crossfm.nn.network.Network`.

    Shapes:
        - input: `Batch`, `crossfm.Rows`, or int32 or int64 ids ``[batch, m]``;
        - ``embedding.factors``: ``[n_features, F k]``, a feature's vector for field 0 first;
        - output: logits ``[batch]``.

    Raises:
        DataError: arguments that do not fit together.

    Example:
        >>> network = FieldAwareFM(3, 1, field_of=[0, 1, 1])
        >>> V = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])  # v_{i,g} at [i, g]
        >>> network.embedding.factors.data = V
        >>> network(torch.tensor([[0, 1], [0, 2]])).tolist()  # v_{0,1} v_{1,0}, v_{0,1} v_{2,0}
        [6.0, 10.0]

    Source: Juan et al. 2016, Field-aware Factorization Machines for CTR Prediction, section 3.
    """

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        *,
        interactions: Literal["all", "across_fields"] = "all",
        **options: Any,
    ) -> None:
        check_sizes(n_features=n_features, n_factors=n_factors)
        if n_fields is None:
            of = id_tensor("field_of", field_of, n_features, "cpu")
            n_fields = None if of is None else int(of.max()) + 1
        else:
            check_sizes(n_fields=n_fields)
        super().__init__(
            n_features, n_factors * (n_fields or 1), field_of, n_fields,
            interactions=interactions, **options,
        )  # fmt: skip
        self._n_factors = n_factors

    @property
    def n_factors(self) -> int:
        """Length of a feature's vector for one field."""
        return self._n_factors

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        tables, F, k = self.embedding, self.n_fields, self._n_factors
        if tables.interactions == "all":
            batch = tables.batch(x)._replace(checked=self.n_features)
            pools = feature_pools(batch, tables.field_of, F)
            if _meet_inside(pools):
                return self._with_pairs_inside(batch, pools)
            x = batch
        linear, _, T = tables.cross(x, pooled=True)
        assert T is not None
        return self.bias + linear + _between(T.view(-1, F, F, k).to(linear.dtype))

    def _with_pairs_inside(self, batch: Batch, pools: Tensor) -> Tensor:
        """Logits of rows that may hold several features of a field."""
        n, F, k = batch.n_rows, self.n_fields, self._n_factors
        linear, u = self.embedding.each(batch)
        u = u.to(linear.dtype)  # [nnz, F k]
        T = u.new_zeros(n * F, F * k).index_add(0, pools, u)
        own = torch.arange(pools.shape[0], device=u.device) * F + pools % F
        u_own = u.reshape(-1, k).index_select(0, own)  # [nnz, k], x_i v_{i,f(i)}
        squares = u.new_zeros(n * F, k).index_add(0, pools, u_own * u_own)
        T = T.view(n, F, F, k)
        T_own = T.diagonal(dim1=1, dim2=2).transpose(1, 2)  # [n, F, k], T_ff
        inside = 0.5 * (T_own * T_own - squares.view(n, F, k)).sum((1, 2))
        linear = linear.new_zeros(n * F).index_add(0, pools, linear).view(n, F).sum(1)
        return self.bias + linear + _between(T) + inside

    @classmethod
    def from_model(cls, model: FactorModel, **options: Any) -> FieldAwareFM:
        """A module with a trained model's parameters, and so its scores.

        Args:
            model: field-aware, with factors ``[n_features, n_fields, n_factors]``.
            options: ``sparse_grad``, ``device``, ``dtype``; see `crossfm.nn.network.Network`.

        Raises:
            DataError: a model of another kind.

        Example:
            >>> V = [[[1.0], [2.0]], [[3.0], [4.0]]]
            >>> model = FactorModel(0.5, [0.0, 1.0], V, field_of=[0, 1])
            >>> FieldAwareFM.from_model(model)(torch.tensor([[0, 1]])).tolist()  # 1.5 + 2 * 3
            [7.5]
        """
        expect_model(model, "ffm")
        module = cls(
            model.n_features, model.n_factors, model.field_of, model.n_fields,
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
            DataError: parameters that are not finite.
        """
        return taken_model(self, schema, task, metadata, n_vectors=self.n_fields)


class _Between(torch.autograd.Function):
    """``1/2 sum_{f!=g} <T_fg, T_gf>``, whose gradient is T turned round: one pass over it."""

    @staticmethod
    def forward(ctx: Any, T: Tensor) -> Tensor:
        ctx.save_for_backward(T)
        return (T.transpose(1, 2) * _off_diagonal(T)).mul_(T).sum((1, 2, 3)) * 0.5

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (T,) = ctx.saved_tensors
        return T.transpose(1, 2) * (_off_diagonal(T) * grads[0][:, None, None, None])


def _off_diagonal(T: Tensor) -> Tensor:
    """Ones, and zeros where f = g: ``[F, F, 1]``."""
    return (1 - torch.eye(T.shape[1], dtype=T.dtype, device=T.device))[:, :, None]


def _between(T: Tensor) -> Tensor:
    """``sum_{f<g} <T_fg, T_gf>`` of ``[batch, F, F, k]``: ``[batch]``."""
    if torch.compiler.is_compiling():  # compilers fuse the products themselves
        return (T.transpose(1, 2) * _off_diagonal(T) * T).sum((1, 2, 3)) * 0.5
    crossed: Tensor = _Between.apply(T)  # type: ignore[no-untyped-call]
    return crossed


def _meet_inside(pools: Tensor) -> bool:
    """Whether a row might hold two features of a field; graphs are made for rows that do."""
    if torch.compiler.is_compiling():
        return True
    return pools.numel() > 0 and int(torch.bincount(pools).max()) > 1
