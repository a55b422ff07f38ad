"""FieldEmbedding: the tables of vectors and linear weights that every network stands on."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.errors import DataError, did_you_mean
from crossfm.model import INTERACTIONS
from crossfm.nn.batch import Batch, as_batch
from crossfm.nn.ops.fused import RowOptimizer, cross_fused
from crossfm.nn.ops.operator import Crossed, cross, fields_of, take

__all__ = ["FieldEmbedding", "id_tensor", "table_parameters", "wants_step", "whole_number"]


def table_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that are tables, of which a batch touches few rows.

    They are those that a submodule names in a method ``tables()``.

    >>> [list(table.shape) for table in table_parameters(FieldEmbedding(10, 4))]
    [[10], [10, 4]]
    """
    found: dict[int, nn.Parameter] = {}
    for part in module.modules():
        tables = getattr(part, "tables", None)
        if callable(tables):
            found.update((id(table), table) for table in tables())
    return list(found.values())


@final
class FieldEmbedding(nn.Module):
    r"""Vectors and linear weights of features, pooled field by field.

    ``p_f = sum_{i in f} v_i x_i``: a lookup for a categorical value, a rescaled vector for a
    number, the sum of several for a bag (mean and sqrt-n pooling are ways to set ``x_i``, as
    `crossfm.Schema` does). Nothing is padded.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id. Batches that carry ``fields`` do without.
        n_fields: number of fields F; None: as many as `field_of` names.
        linear: whether features have linear weights too.
        interactions: "all" or "across_fields": how `cross` crosses them.
        init_scale: standard deviation of the initial vectors; weights start at zero.
        sparse_grad: whether gradients are sparse by row (for the optimizers of
            `crossfm.nn.optim`), or dense over the table (for any optimizer).
        pretrained: ``[rows, k]``, vectors to start from.
        frozen: whether the vectors stay as they are.
        share: ``[n_features]``, the row of the tables that each id uses, where ids of several
            fields share a vector (a candidate item and the items of a history); None: its own.
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input: `Batch`, `crossfm.Rows`, or int32 or int64 ids ``[batch, m]``;
        - output: ``[batch, n_fields, k]``; zeros where a row has nothing of a field.

    Raises:
        DataError: sizes below 1, or arguments that do not fit together.

    Example:
        >>> embedding = FieldEmbedding(4, 2, field_of=[0, 0, 1, 1], pretrained=torch.ones(4, 2))
        >>> embedding(torch.tensor([[0, 1, 3]])).tolist()
        [[[2.0, 2.0], [1.0, 1.0]]]

    Source: Rendle 2010 (vectors scaled by values); Covington et al. 2016 (pooled bags).
    """

    field_of: Tensor | None
    share: Tensor | None
    _in_blocks: bool

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        *,
        linear: bool = True,
        interactions: Literal["all", "across_fields"] = "all",
        init_scale: float = 0.01,
        sparse_grad: bool = True,
        pretrained: ArrayLike | Tensor | None = None,
        frozen: bool = False,
        share: ArrayLike | Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        n_features = whole_number("n_features", n_features)
        n_factors = whole_number("n_factors", n_factors)
        if n_fields is not None:
            n_fields = whole_number("n_fields", n_fields, least=0)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise DataError(
                f"dtype is {dtype!r}, expected floating point: torch.float32, torch.bfloat16, ..."
            )
        if interactions not in INTERACTIONS:
            raise DataError(
                f"interactions is {interactions!r}, expected one of {', '.join(INTERACTIONS)}."
                f"{did_you_mean(str(interactions), INTERACTIONS)}"
            )
        if not _is_scale(init_scale):
            raise DataError(f"init_scale is {init_scale!r}, expected a finite number of 0 or more")
        self.n_features, self.n_factors = n_features, n_factors
        self.interactions: Literal["all", "across_fields"] = interactions
        self.sparse_grad = sparse_grad
        self.init_scale = float(init_scale)
        of = id_tensor("field_of", field_of, n_features, "cpu")
        named = 0 if of is None else int(of.max()) + 1
        if n_fields is not None and n_fields < named:
            raise DataError(f"n_fields is {n_fields}, field_of names {named} fields")
        self.n_fields = named if n_fields is None else n_fields
        shared = id_tensor("share", share, n_features, "cpu")
        rows = n_features if shared is None else int(shared.max()) + 1
        self.weights = (
            nn.Parameter(torch.empty(rows, device=device, dtype=dtype)) if linear else None
        )
        self.factors = nn.Parameter(torch.empty(rows, n_factors, device=device, dtype=dtype))
        place = self.factors.device
        self.register_buffer("field_of", None if of is None else of.to(place))
        self.register_load_state_dict_post_hook(_note_blocks)  # type: ignore[no-untyped-call]
        _note_blocks(self)
        self.register_buffer("share", None if shared is None else shared.to(place))
        self.optimizer: RowOptimizer | None = None  # crossfm.nn.optim.fuse_optimizer sets it
        self.reset_parameters()
        if pretrained is not None:
            try:
                given = torch.as_tensor(pretrained)
            except (TypeError, ValueError, RuntimeError) as error:
                raise DataError(
                    f"pretrained is no table of numbers: {error}; expected"
                    f" {list(self.factors.shape)}"
                ) from error
            if given.shape != self.factors.shape:
                raise DataError(
                    f"pretrained has shape {list(given.shape)}, expected {list(self.factors.shape)}"
                )
            with torch.no_grad():
                self.factors.copy_(given)
        self.factors.requires_grad_(not frozen)

    def reset_parameters(self) -> None:
        """Fresh vectors, and linear weights of zero."""
        nn.init.normal_(self.factors, std=self.init_scale)
        if self.weights is not None:
            nn.init.zeros_(self.weights)

    def tables(self) -> list[nn.Parameter]:
        """The linear weights, if there are any, and the vectors."""
        return [self.factors] if self.weights is None else [self.weights, self.factors]

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return (
            f"n_features={self.n_features}, n_factors={self.n_factors}, n_fields={self.n_fields},"
            f" linear={self.weights is not None}, interactions={self.interactions!r}"
        )

    def batch(self, x: Rows | Tensor | Batch) -> Batch:
        """The input as a batch that fits the tables; see `Batch`."""
        return as_batch(x, self.n_features, self.factors.device)

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """The pooled vectors, ``[batch, n_fields, k]``."""
        pooled = self.cross(x, pooled=True).pooled
        assert pooled is not None
        return pooled

    def cross(
        self, x: Rows | Tensor | Batch, *, reduce_sum: bool = True, pooled: bool = False
    ) -> Crossed:
        """The linear and the crossed term, and the pooled vectors when asked, in one pass."""
        batch = self.batch(x)
        across, n_fields = self.interactions == "across_fields", self.n_fields
        fields = None
        if across or pooled:
            if n_fields == 0:
                n_fields = _count_fields(batch, pooled)
            fields = self._fields_of_columns(batch)
            if fields is None:
                fields = fields_of(batch, self.field_of, n_fields)
        return self._run(batch, fields, n_fields, across, reduce_sum, pooled)

    def _fields_of_columns(self, batch: Batch) -> Tensor | None:
        """``[m]`` where every column of ids ``[batch, m]`` is of one field, as a schema's are.

        The kernels do without a field for every single id then.
        """
        ids = batch.ids
        if (
            torch.compiler.is_compiling()
            or not self._in_blocks
            or batch.fields is not None
            or ids.dim() != 2
            or ids.numel() == 0
            or ids.device.type != "cpu"  # elsewhere the look would be a wait
        ):
            return None
        assert self.field_of is not None
        low, high = torch.aminmax(ids, dim=0)  # ids between two of one field are of that field
        fields = take(self.field_of, low)
        return fields if torch.equal(fields, take(self.field_of, high)) else None

    def each(self, x: Rows | Tensor | Batch) -> tuple[Tensor, Tensor]:
        """The features one by one, nothing summed up: ``w_i x_i`` ``[nnz]``, ``x_i v_i``.

        They come in the order of the ids. The vectors ``[nnz, k]`` take the memory that `cross`
        does without.
        """
        batch = self.batch(x)
        ids = batch.ids.reshape(-1, 1)  # every feature a row of its own
        single = Batch(ids, None if batch.values is None else batch.values.reshape(-1, 1))
        linear, _, vectors = self._run(single, ids.new_zeros(1), 1, True, True, True)
        assert vectors is not None
        return linear, vectors[:, 0]

    def _run(
        self,
        batch: Batch,
        fields: Tensor | None,
        n_fields: int,
        across: bool,
        reduce_sum: bool,
        pooled: bool,
    ) -> Crossed:
        if self.share is not None:
            batch = batch._replace(ids=take(self.share, batch.ids), checked=0)
        if self.optimizer is not None and wants_step(self):
            return cross_fused(
                batch, self.weights, self.factors, self.optimizer,
                fields=fields, n_fields=n_fields, across_fields=across,
                reduce_sum=reduce_sum, pooled=pooled,
            )  # fmt: skip
        return cross(
            batch._replace(fields=fields), self.weights, self.factors,
            n_fields=n_fields, across_fields=across, reduce_sum=reduce_sum, pooled=pooled,
            sparse_grad=self.sparse_grad,
        )  # fmt: skip


def _note_blocks(module: Any, _: object = None) -> None:
    """Note whether the ids of each field stand together; again after loading."""
    of = module.field_of
    known = of is not None and of.device.type != "meta"
    module._in_blocks = known and bool((of[1:] >= of[:-1]).all())


def wants_step(module: Any) -> bool:
    """Whether gradients are on and one of the module's tables takes them."""
    return torch.is_grad_enabled() and any(table.requires_grad for table in module.tables())


def _count_fields(batch: Batch, pooled: bool) -> int:
    """The number of fields that a batch itself names; a pooled shape has to be known before."""
    if pooled or batch.fields is None:
        raise DataError(
            "the field of each feature is not known: give the module field_of=..., or n_fields=..."
            " and rows that carry fields"
        )
    return int(batch.fields.max()) + 1 if batch.fields.numel() else 1


def _is_scale(number: Any) -> bool:
    return isinstance(number, Real) and 0 <= float(number) < math.inf


def whole_number(name: str, number: Any, least: int = 1) -> int:
    """An integer of at least `least`, NumPy's too, as an int; DataError for anything else.

    >>> whole_number("n_factors", np.int64(8))
    8
    """
    if isinstance(number, bool) or not isinstance(number, Integral) or number < least:
        raise DataError(f"{name} is {number!r}, expected an integer of {least} or more")
    return int(number)


def id_tensor(
    name: str,
    array: ArrayLike | Tensor | None,
    n_features: int,
    device: torch.device | str | None,
) -> Tensor | None:
    """An int64 tensor ``[n_features]`` of numbers from 0 on, or None; DataError for anything else.

    >>> id_tensor("field_of", [0, 1], 2, None)
    tensor([0, 1])
    """
    if array is None:
        return None
    of = np.asarray(array.detach().cpu() if isinstance(array, Tensor) else array)
    if of.dtype.kind not in "iu" or of.shape != (n_features,):
        raise DataError(
            f"{name} is {of.dtype} {list(of.shape)}, expected integers of 0 or more, [{n_features}]"
        )
    if of.min() < 0:
        at = int((of < 0).argmax())
        raise DataError(f"{name}[{at}] is {of[at]}, expected integers of 0 or more")
    return torch.tensor(of.astype(np.int64), device=device)
