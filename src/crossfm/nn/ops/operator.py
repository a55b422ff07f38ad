r"""``crossfm::pairwise``: from ids and tables to the linear term, the crossed term, pooled vectors.

With ``u_i = x_i v_i`` over the features i of a row,

- linear ``= sum_i w_i x_i``;
- S ``= sum_i u_i``;
- crossed ``= 1/2 (S^2 - sum_i u_i^2)`` (``interactions="all"``), or
  ``1/2 (S^2 - sum_f p_f^2)`` with ``p_f = sum_{i in f} u_i`` ("across_fields"), a vector of
  k numbers or their sum;
- pooled ``= p_f`` for every field f, ``[batch, n_fields, k]``, zero where a row has none of it.

The backward pass keeps S only. The tables' gradients are sparse by row and coalesced, unless asked
otherwise.

The tensors' device and type pick the implementation: the C++ core for float32 tables on a CPU,
Triton on CUDA, `crossfm.nn.ops.reference` for all else. `implementation` forces one.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crossfm.errors import DataError, did_you_mean
from crossfm.nn.batch import Batch
from crossfm.nn.ops import reference
from crossfm.nn.ops.arguments import Gradients, Inputs, Options, Outputs, Upstream

__all__ = ["Crossed", "cross", "fields_of", "implementation", "kernels_for", "take"]

IMPLEMENTATIONS = ("reference", "cpu", "triton")

_forced: list[str] = []  # the innermost `implementation` last

_ROWS = (
    "Tensor ids, Tensor? values, Tensor? offsets, Tensor? fields, Tensor? weights, Tensor factors"
)


class Crossed(NamedTuple):
    """What a row's features come to.

    Attributes:
        linear: ``[batch]``, without a bias; zeros without linear weights.
        crossed: ``[batch]``, or ``[batch, k]`` with ``reduce_sum=False``.
        pooled: ``[batch, n_fields, k]``, or None where it was not asked for.
    """

    linear: Tensor
    crossed: Tensor
    pooled: Tensor | None


@contextmanager
def implementation(name: str) -> Iterator[None]:
    """Force one implementation: "reference", "cpu" or "triton".

    Raises:
        DataError: an unknown name.
        MissingExtraError: "triton" where it is not installed.

    Example:
        >>> factors = torch.tensor([[1.0], [2.0], [3.0]])
        >>> with implementation("reference"):
        ...     cross(Batch(torch.tensor([[0, 1, 2]])), None, factors).crossed
        tensor([11.])
    """
    if name not in IMPLEMENTATIONS:
        raise DataError(
            f"no implementation {name!r}; there are {', '.join(IMPLEMENTATIONS)}."
            f"{did_you_mean(name, IMPLEMENTATIONS)}"
        )
    _kernels(name)
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


def _kernels(name: str) -> ModuleType:
    return importlib.import_module(f"crossfm.nn.ops.{name}")


def kernels_for(factors: Tensor) -> ModuleType:
    """The module of kernels for a table: forced, or by its device and type.

    Tables without factors (``[n, 0]``, as `crossfm.nn.Linear` has them) leave the kernels nothing
    to do: the reference serves them.
    """
    if factors.dim() == 2 and factors.shape[1] == 0:
        return reference
    if _forced:
        return _kernels(_forced[-1])
    if factors.device.type == "cpu" and factors.dtype == torch.float32:
        return _kernels("cpu")
    if factors.device.type == "cuda" and factors.dtype != torch.float64:
        try:
            return _kernels("triton")
        except ImportError:
            return reference
    return reference


@torch.library.custom_op(
    "crossfm::pairwise",
    mutates_args=(),
    schema=f"({_ROWS}, int n_fields, bool across_fields, bool reduce_sum, bool pooled,"
    " bool sparse_grad) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _pairwise(*arguments: Any) -> Outputs:
    inputs, options = Inputs(*arguments[:6]), Options(*arguments[6:10])
    outputs: Outputs = kernels_for(inputs.factors).forward(inputs, options)
    return outputs


@_pairwise.register_fake
def _(*arguments: Any) -> Outputs:
    inputs, options = Inputs(*arguments[:6]), Options(*arguments[6:10])
    factors, n, k = inputs.factors, inputs.n_rows, inputs.factors.shape[1]
    wide = _sum_type(factors)
    return (
        factors.new_empty(n, dtype=wide),
        factors.new_empty((n,) if options.reduce_sum else (n, k), dtype=wide),
        factors.new_empty((n, options.n_fields, k) if options.pooled else (0,)),
        factors.new_empty(n, k, dtype=wide),
    )


@torch.library.custom_op(
    "crossfm::pairwise_backward",
    mutates_args=(),
    schema="(Tensor? grad_linear, Tensor? grad_crossed, Tensor? grad_pooled, Tensor? grad_S,"
    f" {_ROWS}, Tensor S, int n_fields, bool across_fields, bool reduce_sum, bool need_values,"
    " bool sparse) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _pairwise_backward(*arguments: Any) -> Gradients:
    upstream, inputs, S = Upstream(*arguments[:4]), Inputs(*arguments[4:10]), arguments[10]
    *options, need_values, sparse = arguments[11:]
    gradients: Gradients = kernels_for(inputs.factors).backward(
        upstream, inputs, S, Options(*options), need_values, sparse
    )
    return gradients


@_pairwise_backward.register_fake
def _(*arguments: Any) -> Gradients:
    ids, values, _, _, weights, factors = Inputs(*arguments[4:10])
    need_values, sparse = arguments[-2:]
    count: Any = factors.shape[0]
    if sparse:
        count = torch.library.get_ctx().new_dynamic_size()
    return (
        ids.new_empty(count if sparse else 0, dtype=torch.int64),
        factors.new_empty(0) if weights is None else weights.new_empty(count),
        factors.new_empty(count, factors.shape[1]),
        factors.new_empty(0)
        if values is None or not need_values
        else values.new_empty(values.numel()),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    *tensors, n_fields, across_fields, reduce_sum, pooled, sparse = inputs
    ctx.save_for_backward(*tensors, output[3])
    ctx.options = Options(n_fields, across_fields, reduce_sum, pooled)
    ctx.sparse = sparse
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gl: Any, gc: Any, gp: Any, gS: Any) -> tuple[Any, ...]:
    *tensors, S = ctx.saved_tensors
    inputs = Inputs(*tensors)
    *options, pooled = ctx.options
    upstream = Upstream(gl, gc, gp if pooled else None, gS)
    need_values, need_weights, need_factors = (bool(ctx.needs_input_grad[at]) for at in (1, 4, 5))
    rows, gw, gV, gx = torch.ops.crossfm.pairwise_backward(
        *upstream, *inputs, S, *options, need_values, ctx.sparse
    )
    if ctx.sparse:
        gV = _sparse(rows, gV, inputs.factors)
        gw = None if inputs.weights is None else _sparse(rows, gw, inputs.weights)
    return (
        None,
        gx.view(inputs.values.shape) if need_values and inputs.values is not None else None,
        None,
        None,
        gw if inputs.weights is not None and need_weights else None,
        gV if need_factors else None,
        *[None] * 5,
    )


_pairwise.register_autograd(_backward, setup_context=_setup)


def _sparse(rows: Tensor, grad: Tensor, table: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(
        rows[None], grad, table.shape, is_coalesced=True, check_invariants=False
    )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _between_graphs(*arguments: Any) -> Outputs:
    """The operator outside compiled graphs, which have no place for sparse gradients."""
    outputs: Outputs = torch.ops.crossfm.pairwise(*arguments)
    return outputs


def _sum_type(factors: Tensor) -> torch.dtype:
    return torch.float64 if factors.dtype == torch.float64 else torch.float32


def fields_of(batch: Batch, field_of: Tensor | None, n_fields: int) -> Tensor:
    """The field of each feature: the batch's own, or that of its id.

    Raises:
        DataError: neither is known, or a field of the batch is not below `n_fields`.

    Example:
        >>> fields_of(Batch(torch.tensor([[0, 2, 1]])), torch.tensor([0, 0, 1]), 2)
        tensor([[0, 1, 0]])
    """
    if batch.fields is None:
        if field_of is None:
            raise DataError(
                "the field of each feature is not known: give the module field_of=..., or rows that"
                " carry fields"
            )
        return take(field_of, batch.ids)
    fields = batch.fields
    if not torch.compiler.is_compiling() and fields.numel():
        low, high = (int(end) for end in torch.aminmax(fields))
        if low < 0 or high >= n_fields:
            raise DataError(f"fields run from {low} to {high}, expected 0 to {n_fields - 1}")
    return fields


def take(numbers: Tensor, ids: Tensor) -> Tensor:
    """``numbers[ids]`` for numbers ``[n]``, many times as fast on a CPU.

    >>> take(torch.tensor([4, 5, 6]), torch.tensor([[2, 0]]))
    tensor([[6, 4]])
    """
    return numbers.index_select(0, ids.reshape(-1)).view(ids.shape)


def cross(
    batch: Batch,
    weights: Tensor | None,
    factors: Tensor,
    *,
    n_fields: int = 0,
    across_fields: bool = False,
    reduce_sum: bool = True,
    pooled: bool = False,
    field_of: Tensor | None = None,
    sparse_grad: bool = True,
) -> Crossed:
    """The linear term, the crossed term and, when asked, the pooled vectors of a batch.

    Args:
        batch: rows of features, fit for the tables (`crossfm.nn.batch.as_batch` sees to it).
        weights: linear weights ``[n]``, or None.
        factors: ``[n, k]``.
        n_fields: number of fields F, for `across_fields` and `pooled`.
        across_fields: whether fields are pooled before they are crossed.
        reduce_sum: whether the k numbers of the crossed term are added up.
        pooled: whether to return the pooled vectors.
        field_of: integers ``[n]``, the field of each id, where the batch has no fields.
        sparse_grad: whether the tables' gradients are sparse by row (coalesced), or dense.

    Returns:
        `Crossed`, sums in float32 (float64 for float64 tables), pooled in the tables' type.

    Raises:
        DataError: fields are needed and neither the batch nor `field_of` has them.

    Example:
        >>> batch = Batch(torch.tensor([[0, 1, 2]]), fields=torch.tensor([0, 0, 1]))
        >>> factors = torch.tensor([[1.0], [2.0], [4.0]])
        >>> cross(batch, None, factors, n_fields=2, across_fields=True, pooled=True)
        Crossed(linear=tensor([0.]), crossed=tensor([12.]), pooled=tensor([[[3.],
                 [4.]]]))

    Source: Rendle 2010, lemma 3.1.
    """
    fields = fields_of(batch, field_of, n_fields) if across_fields or pooled else None
    values = batch.values
    if values is not None and values.dtype != factors.dtype:
        values = values.to(_sum_type(factors))
    call = torch.ops.crossfm.pairwise
    if sparse_grad and torch.compiler.is_dynamo_compiling() and torch.is_grad_enabled():
        call = _between_graphs
    inputs = Inputs(batch.ids, values, batch.offsets, fields, weights, factors)
    options = Options(n_fields, across_fields, reduce_sum, pooled)
    linear, crossed, p, _ = call(*inputs, *options, sparse_grad)
    return Crossed(linear, crossed, p if pooled else None)
