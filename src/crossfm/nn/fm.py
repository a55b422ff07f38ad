"""The factorization machine as a PyTorch module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.model import FactorModel
from crossfm.nn.batch import Batch
from crossfm.nn.convert import expect_model, put_parameters, taken_model
from crossfm.nn.embedding import FieldEmbedding
from crossfm.nn.ops.dense import cross_dense, cross_dense_fields, dense_input, full_precision

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["FactorizationMachine"]


@final
class FactorizationMachine(nn.Module):
    r"""Second-order factorization machine, returning logits.

    ``y = w0 + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j``, in O(n k). With
    ``interactions="across_fields"`` the vectors of a field are added up first and only
    different fields meet: ``sum_{f<g} <p_f, p_g>``, ``p_f = sum_{i in f} v_i x_i``.

    Args:
        n_features: number of feature ids (columns of a dense input).
        n_factors: length k of each feature's vector.
        reduce_sum: True: ``forward`` gives logits. False: it gives the pair
            ``(linear, crossed)`` that Neural FM and DeepFM build on.
        interactions: "all" or "across_fields".
        field_of: ``[n_features]``, the field of each id, for "across_fields". Rows that carry
            their own ``fields`` do without.
        n_fields: number of fields; None: as many as `field_of` names, or as the rows of a batch
            do.
        init_scale: standard deviation of the initial factors; weights and bias start at zero.
        sparse_grad: whether lookups give the tables gradients that are sparse by row (for the
            optimizers of `crossfm.nn.optim`), or dense ones (for any optimizer). Those of a dense
            input are dense.
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input: one of

          - float ``[batch, n_features]``, of the parameters' type: a value for every feature;
          - int32 or int64 ``[batch, m]``: m feature ids a row, each of value one;
          - `Batch` or `crossfm.Rows`.

        - output: ``[batch]``, or ``(linear [batch], crossed [batch, n_factors])`` with
          ``reduce_sum=False``; linear includes the bias.

    An id that occurs twice in a row of ids counts as two features. Parameters in half precision
    are summed in float32, and so come the outputs. Under autocast the module computes in its
    parameters' type all the same: a difference of squares has no digits to spare.

    Raises:
        DataError: sizes below 1, or fields that do not fit.

    Example:
        >>> fm = FactorizationMachine(n_features=3, n_factors=2, init_scale=0.0)
        >>> fm(torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]))
        tensor([0., 0.], grad_fn=<AddBackward0>)
        >>> fm = FactorizationMachine.from_model(
        ...     FactorModel(0.5, [0.0, 1.0, 2.0], [[1.0], [2.0], [3.0]]), reduce_sum=False
        ... )
        >>> linear, crossed = fm(torch.tensor([[0, 1], [1, 2]]))
        >>> linear.tolist(), crossed.tolist()
        ([1.5, 3.5], [[2.0], [6.0]])

    Source: Rendle 2010, eq. 1; the crossed vector: He and Chua 2017, Neural Factorization
    Machines, eq. 4.
    """

    _by_field: Tensor | None

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        reduce_sum: bool = True,
        interactions: Literal["all", "across_fields"] = "all",
        *,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        init_scale: float = 0.01,
        sparse_grad: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.embedding = FieldEmbedding(
            n_features, n_factors, field_of, n_fields, interactions=interactions,
            init_scale=init_scale, sparse_grad=sparse_grad, device=device, dtype=dtype,
        )  # fmt: skip
        self.reduce_sum = reduce_sum
        self.bias = nn.Parameter(torch.zeros((), device=device, dtype=dtype))
        self.register_buffer("_by_field", None, persistent=False)
        self._field_sizes: list[int] = []
        _order_fields(self)
        self.register_load_state_dict_post_hook(_order_fields)  # type: ignore[no-untyped-call]

    @property
    def n_features(self) -> int:
        """Number of feature ids."""
        return self.embedding.n_features

    @property
    def n_factors(self) -> int:
        """Length of each feature's vector."""
        return self.embedding.n_factors

    @property
    def interactions(self) -> Literal["all", "across_fields"]:
        """Which features are crossed."""
        return self.embedding.interactions

    def reset_parameters(self) -> None:
        """Draw the factors anew; set weights and bias to zero."""
        nn.init.zeros_(self.bias)
        self.embedding.reset_parameters()

    def extra_repr(self) -> str:
        """Options, for ``print``; the sizes are the embedding's."""
        return f"reduce_sum={self.reduce_sum}"

    def forward(self, x: Tensor | Rows | Batch) -> Tensor | tuple[Tensor, Tensor]:
        """Logits ``[batch]``, or ``(linear [batch], crossed [batch, n_factors])``.

        Raises:
            DataError: another shape or type, ids out of range, broken rows.
        """
        if isinstance(x, Tensor) and x.is_floating_point():
            linear, crossed = self._of_dense(x)
        else:
            linear, crossed, _ = self.embedding.cross(x, reduce_sum=self.reduce_sum)
        linear = self.bias + linear
        return linear + crossed if self.reduce_sum else (linear, crossed)

    def _of_dense(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tables = self.embedding
        assert tables.weights is not None
        x = dense_input(x, tables.factors, tables.optimizer)
        with full_precision(x):
            w, V = tables.weights.to(x.dtype), tables.factors.to(x.dtype)
            linear = x @ w  # [batch]
            if self.interactions == "all":
                crossed = cross_dense(x, V)  # [batch, k]
            else:
                if tables.field_of is None:
                    raise DataError(
                        "the field of each column is not known: give the module field_of=..."
                    )
                if self._by_field is not None:
                    x, V = x[:, self._by_field], V[self._by_field]
                crossed = cross_dense_fields(x, V, self._field_sizes)
        return linear, crossed.sum(1) if self.reduce_sum else crossed

    @classmethod
    def from_model(
        cls,
        model: FactorModel,
        reduce_sum: bool = True,
        *,
        sparse_grad: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> FactorizationMachine:
        """A module with a trained model's parameters, and so its scores.

        Args:
            model: with at least one factor.
            reduce_sum: as in the constructor.
            sparse_grad: as in the constructor.
            device: of the parameters.
            dtype: of the parameters; None: PyTorch's default.

        Example:
            >>> fm = FactorizationMachine.from_model(FactorModel(0.5, [1.0], [[2.0]]))
            >>> fm.to_model().bias
            0.5
        """
        expect_model(model, "fm")
        module = cls(
            model.n_features,
            model.n_factors,
            reduce_sum,
            model.interactions,
            field_of=model.field_of,
            sparse_grad=sparse_grad,
            device=device,
            dtype=dtype,
        )
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

        Example:
            >>> FactorizationMachine(n_features=5, n_factors=2).to_model(task="classification")
            FactorModel(n_features=5, n_factors=2, interactions='all', task='classification')
        """
        return taken_model(self, schema, task, metadata)


def _order_fields(module: nn.Module, _: object = None) -> None:
    """Note the order that brings the columns of a field together; again after loading."""
    assert isinstance(module, FactorizationMachine)
    of = module.embedding.field_of
    if of is None or of.device.type == "meta":  # there are no numbers yet
        return
    order = torch.argsort(of, stable=True)
    sorted_already = bool((order == torch.arange(len(order), device=of.device)).all())
    module._by_field = None if sorted_already else order
    module._field_sizes = torch.unique(of, return_counts=True)[1].tolist()
