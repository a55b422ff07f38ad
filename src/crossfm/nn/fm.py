"""The factorization machine as a PyTorch module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from crossfm.data.rows import Rows
from crossfm.errors import DataError, did_you_mean
from crossfm.model import INTERACTIONS, FactorModel
from crossfm.nn.ops.dense import cross_dense, cross_dense_fields
from crossfm.nn.ops.pairwise import pairwise, pairwise_fields, pairwise_rows

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
        init_scale: standard deviation of the initial factors; weights and bias start at zero.
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input: one of

          - float ``[batch, n_features]``, of the parameters' type: a value for every feature;
          - int32 or int64 ``[batch, m]``: m feature ids a row, each of value one;
          - `crossfm.Rows`.

        - output: ``[batch]``, or ``(linear [batch], crossed [batch, n_factors])`` with
          ``reduce_sum=False``; linear includes the bias.

    An id that occurs twice in a row of ids counts as two features. Under autocast the module
    computes in its parameters' type all the same: a difference of squares has no digits to spare.

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

    field_of: Tensor | None
    _by_field: Tensor | None

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        reduce_sum: bool = True,
        interactions: Literal["all", "across_fields"] = "all",
        *,
        field_of: ArrayLike | Tensor | None = None,
        init_scale: float = 0.01,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("n_features", n_features), ("n_factors", n_factors)):
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise DataError(f"{name} is {size!r}, expected a whole number of at least 1")
        if interactions not in INTERACTIONS:
            raise DataError(
                f"interactions is {interactions!r}, expected 'all' or 'across_fields'."
                + did_you_mean(interactions, INTERACTIONS)
            )
        if dtype is not None and not dtype.is_floating_point:
            raise DataError(f"dtype is {dtype}, expected floating point")
        self.n_features = n_features
        self.n_factors = n_factors
        self.reduce_sum = reduce_sum
        self.interactions = interactions
        self.init_scale = init_scale
        self.bias = nn.Parameter(torch.empty((), device=device, dtype=dtype))
        self.weights = nn.Parameter(torch.empty(n_features, device=device, dtype=dtype))
        self.factors = nn.Parameter(torch.empty(n_features, n_factors, device=device, dtype=dtype))
        self.register_buffer("field_of", _field_tensor(field_of, n_features, device))
        self.register_buffer("_by_field", None, persistent=False)
        self._field_sizes: list[int] = []
        _order_fields(self)
        self.register_load_state_dict_post_hook(_order_fields)  # type: ignore[no-untyped-call]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the factors anew; set weights and bias to zero."""
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.weights)
        nn.init.normal_(self.factors, std=self.init_scale)

    def extra_repr(self) -> str:
        """Sizes and options, for ``print``."""
        return (
            f"n_features={self.n_features}, n_factors={self.n_factors},"
            f" reduce_sum={self.reduce_sum}, interactions={self.interactions!r}"
        )

    def forward(self, x: Tensor | Rows) -> Tensor | tuple[Tensor, Tensor]:
        """Logits ``[batch]``, or ``(linear [batch], crossed [batch, n_factors])``.

        Raises:
            DataError: another shape or type, ids out of range, broken rows.
        """
        kind = self.factors.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            if isinstance(x, Tensor) and x.is_floating_point():
                x = x.to(self.factors.dtype)
            with torch.autocast(kind, enabled=False):
                return self._output(x)
        return self._output(x)

    def _output(self, x: Tensor | Rows) -> Tensor | tuple[Tensor, Tensor]:
        if isinstance(x, Rows):
            linear, crossed = self._of_rows(x)
        elif not isinstance(x, Tensor):
            raise DataError(
                f"x is {type(x).__name__}, expected a tensor or Rows; torch.as_tensor(x) makes one"
            )
        elif x.is_floating_point():
            linear, crossed = self._of_dense(x)
        else:
            linear, crossed = self._of_ids(x)
        if not self.reduce_sum:
            return linear, crossed
        return linear + crossed.sum(-1)

    def _of_dense(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.dim() != 2 or x.shape[1] != self.n_features:
            raise DataError(
                f"x has shape {list(x.shape)}, expected [batch, {self.n_features}]"
                + ("; a single row needs x.unsqueeze(0)" if x.dim() == 1 else "")
            )
        if x.dtype != self.factors.dtype:
            raise DataError(
                f"x holds {x.dtype}, the parameters {self.factors.dtype}; convert one of them,"
                f" x.to({self.factors.dtype}) or module.to({x.dtype})"
            )
        linear = self.bias + x @ self.weights  # [batch]
        if self.interactions == "all":
            return linear, cross_dense(x, self.factors)
        if self.field_of is None:
            raise DataError(_NO_FIELDS)
        V: Tensor = self.factors
        if self._by_field is not None:
            x, V = x[:, self._by_field], V[self._by_field]
        return linear, cross_dense_fields(x, V, self._field_sizes)

    def _of_ids(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        if ids.dtype not in (torch.int32, torch.int64):
            raise DataError(
                f"x holds {ids.dtype}, expected {self.factors.dtype} values, or int32 or int64 ids"
            )
        if ids.dim() != 2:
            raise DataError(f"ids have shape {list(ids.shape)}, expected [batch, features a row]")
        # A compiled graph has no place for a look at the numbers.
        if not torch.compiler.is_compiling() and ids.numel():
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= self.n_features:
                raise DataError(
                    f"ids run from {low} to {high}, expected 0 to {self.n_features - 1}"
                )
        linear = self.bias + functional.embedding(ids, self.weights[:, None]).sum((1, 2))
        u = functional.embedding(ids, self.factors)  # [batch, m, k]
        if self.interactions == "all":
            return linear, pairwise(u, reduce_sum=False)
        if self.field_of is None:
            raise DataError(_NO_FIELDS)
        n, m = ids.shape
        row = torch.arange(n, device=ids.device).repeat_interleave(m)
        fields = self.field_of[ids.reshape(-1)]
        return linear, pairwise_fields(u.reshape(n * m, self.n_factors), row, fields, n)

    def _of_rows(self, rows: Rows) -> tuple[Tensor, Tensor]:
        rows.validate(self.n_features)
        n, device = len(rows), self.factors.device
        ids = _tensor(rows.ids).to(device)
        u = functional.embedding(ids, self.factors)  # [nnz, k]
        w = self.weights[ids]  # [nnz]
        if rows.values is not None:
            values = _tensor(rows.values).to(device, self.factors.dtype)
            u, w = u * values[:, None], w * values
        lengths = _tensor(rows.row_lengths()).to(device)
        row = torch.arange(n, device=device).repeat_interleave(lengths, output_size=rows.nnz)
        linear = self.bias + w.new_zeros(n).index_add(0, row, w)  # [batch]
        if self.interactions == "across_fields":
            if rows.fields is not None:
                fields = _tensor(rows.fields).to(device, torch.int64)
            elif self.field_of is not None:
                fields = self.field_of[ids]
            else:
                raise DataError(_NO_FIELDS)
            return linear, pairwise_fields(u, row, fields, n)
        if rows.offsets is None:
            return linear, pairwise(u.view(n, rows.row_length, self.n_factors), reduce_sum=False)
        return linear, pairwise_rows(u, row, n)

    @classmethod
    def from_model(
        cls,
        model: FactorModel,
        reduce_sum: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> FactorizationMachine:
        """A module with a trained model's parameters, and so its scores.

        Args:
            model: with at least one factor.
            reduce_sum: as in the constructor.
            device: of the parameters.
            dtype: of the parameters; None: PyTorch's default.

        Example:
            >>> fm = FactorizationMachine.from_model(FactorModel(0.5, [1.0], [[2.0]]))
            >>> fm.to_model().bias
            0.5
        """
        given: Any = model
        if not isinstance(given, FactorModel):
            hint = "; take its .model_" if hasattr(given, "model_") else ""
            raise DataError(f"model is {type(given).__name__}, expected a FactorModel{hint}")
        module = cls(
            model.n_features,
            model.n_factors,
            reduce_sum,
            model.interactions,
            field_of=model.field_of,
            device=device,
            dtype=dtype,
        )
        with torch.no_grad():
            module.bias.fill_(model.bias)
            module.weights.copy_(_tensor(model.weights))
            module.factors.copy_(_tensor(model.factors))
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

        def array(tensor: Tensor) -> NDArray[np.float32]:
            return tensor.detach().to("cpu", torch.float32).numpy()

        return FactorModel(
            float(self.bias.detach()),
            array(self.weights),
            array(self.factors),
            self.interactions,
            None if self.field_of is None else self.field_of.cpu().numpy(),
            schema,
            task,
            metadata or {},
        )


_NO_FIELDS = (
    "interactions 'across_fields' need to know the field of each feature: give the module"
    " field_of=..., or Rows that carry fields"
)


def _tensor(array: NDArray[Any]) -> Tensor:
    """A tensor on the array's memory, or on a copy where the array is read-only."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _field_tensor(
    field_of: ArrayLike | Tensor | None, n_features: int, device: torch.device | str | None
) -> Tensor | None:
    if field_of is None:
        return None
    fields = field_of.detach().cpu() if isinstance(field_of, Tensor) else np.asarray(field_of)
    of = np.asarray(fields)
    if of.dtype.kind not in "iu" or of.shape != (n_features,) or of.min() < 0:
        raise DataError(
            f"field_of is {of.dtype} {list(of.shape)}, expected integers of 0 or more,"
            f" [{n_features}]"
        )
    return torch.tensor(of.astype(np.int64), device=device)


def _order_fields(module: nn.Module, _: object = None) -> None:
    """Note the order that brings the columns of a field together; again after loading."""
    assert isinstance(module, FactorizationMachine)
    of = module.field_of
    if of is None:
        return
    order = torch.argsort(of, stable=True)
    sorted_already = bool((order == torch.arange(len(order), device=of.device)).all())
    module._by_field = None if sorted_already else order
    module._field_sizes = torch.unique(of, return_counts=True)[1].tolist()
