r"""The pairwise operator on the C++ core: float32 tables in a CPU's memory.

Forward: one pass over the rows. Backward: the batch's occurrences are sorted by id once, then one
pass over the distinct ids, each of which sums up its occurrences; the ``[nnz, k]`` vectors never
exist. Results are the same to the bit for any number of threads.

Tables of other types, and tables whose memory is not contiguous, go to
`crossfm.nn.ops.reference`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from crossfm import _native
from crossfm.errors import DataError, did_you_mean
from crossfm.nn.ops import reference
from crossfm.nn.ops.arguments import (
    Gradients,
    Inputs,
    Options,
    Outputs,
    Step,
    Steps,
    Upstream,
)

__all__ = ["backward", "backward_update", "forward", "update_rows"]

# The core's number of each rule, and the names of its states.
RULES: dict[str, tuple[int, tuple[str, ...]]] = {
    "sgd": (0, ()),
    "adagrad": (1, ("a",)),
    "rowwise_adagrad": (2, ("a",)),
    "adam": (3, ("m", "v")),
    "ftrl": (4, ("z", "n")),
}


def forward(inputs: Inputs, options: Options) -> Outputs:
    """``(linear, crossed, pooled, S)``; see `crossfm.nn.ops.operator`.

    Raises:
        DataError: an id, an offset or a field out of range; its position is named.
    """
    if not _fits(inputs.weights, inputs.factors):
        return reference.forward(inputs, options)
    n_fields, across_fields, reduce_sum, pooled = options
    pairs = _pairs(inputs, n_fields, across_fields or pooled)
    n, k = inputs.n_rows, inputs.factors.shape[1]
    linear, S = torch.empty(n), torch.empty(n, k)
    crossed = torch.empty(n) if reduce_sum else torch.empty(n, k)
    p = torch.empty(n, n_fields, k) if pooled else torch.empty(0)
    problem = _native.pairwise_forward(
        pairs, across_fields, reduce_sum, linear.numpy(), crossed.numpy(),
        p.numpy() if pooled else None, S.numpy(), torch.get_num_threads(),
    )  # fmt: skip
    if problem is not None:
        raise _wrong(problem, inputs, n_fields)
    return linear, crossed, p, S


def backward(
    upstream: Upstream,
    inputs: Inputs,
    S: Tensor,
    options: Options,
    need_values: bool,
    sparse: bool,
) -> Gradients:
    """``(rows, grad_weights, grad_factors, grad_values)``; see `crossfm.nn.ops.operator`.

    Raises:
        DataError: an id, an offset or a field out of range; its position is named.
    """
    weights, factors = inputs.weights, inputs.factors
    if not _fits(weights, factors):
        return reference.backward(upstream, inputs, S, options, need_values, sparse)
    pairs, groups, given, gx = _grouped(upstream, inputs, S, options, need_values)
    count = groups.count if sparse else len(factors)
    make = torch.empty if sparse else torch.zeros
    rows = torch.empty(count if sparse else 0, dtype=torch.int64)
    gw = torch.empty(0) if weights is None else make(count)
    gV = make(count, factors.shape[1])
    _native.pairwise_backward(
        pairs, groups, given, rows.numpy() if sparse else None,
        None if weights is None else gw.numpy(), gV.numpy(), gx.numpy() if need_values else None,
        torch.get_num_threads(),
    )  # fmt: skip
    return rows, gw, gV, gx if inputs.values is None else gx.to(inputs.values.dtype)


def update_rows(rows: Tensor, grad: Tensor, table: Tensor, step: Step) -> None:
    """One step of a row-wise optimizer; see `crossfm.nn.ops.reference.update_rows`.

    Raises:
        DataError: a row that the table does not have, or an unknown kind.
    """
    if not _fits(None, table, *step.state.values()):
        reference.update_rows(rows, grad, table, step)
        return
    problem = _native.update_rows(
        _array(rows.to(torch.int64)), _floats(grad), table.detach().numpy(),
        _native_step(step), torch.get_num_threads(),
    )  # fmt: skip
    if problem is not None:
        at = problem[1]
        raise DataError(
            f"rows[{at}] = {int(rows[at])}, expected 0 to {len(table) - 1}:"
            f" the table has {len(table)} rows"
        )
    increment_version(table)


def backward_update(
    upstream: Upstream,
    inputs: Inputs,
    S: Tensor,
    options: Options,
    need_values: bool,
    steps: Steps,
) -> Tensor:
    """`backward` and `update_rows` of both tables in one; returns the gradient of the values.

    Raises:
        DataError: an id, an offset or a field out of range (its position is named; nothing has
            changed then), or an unknown kind.
    """
    weights, factors = inputs.weights, inputs.factors
    assert (weights is None) == (steps.weights is None)
    states = [part for step in steps if step is not None for part in step.state.values()]
    if not _fits(weights, factors, *states):
        return reference.backward_update(upstream, inputs, S, options, need_values, steps)
    pairs, groups, given, gx = _grouped(upstream, inputs, S, options, need_values)
    _native.pairwise_backward_update(
        pairs, groups, given, None if steps.weights is None else _native_step(steps.weights),
        _native_step(steps.factors), gx.numpy() if need_values else None, torch.get_num_threads(),
    )  # fmt: skip
    increment_version([factors] if weights is None else [weights, factors])
    return gx if inputs.values is None else gx.to(inputs.values.dtype)


def _fits(weights: Tensor | None, *tables: Tensor) -> bool:
    """Whether the core can work on the tensors' own memory."""
    if weights is not None and (weights.dtype != torch.float32 or not weights.is_contiguous()):
        return False
    return all(table.dtype == torch.float32 and table.is_contiguous() for table in tables)


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


def _floats(tensor: Tensor) -> Any:
    return tensor.detach().to(torch.float32).contiguous().numpy()


def _maybe_floats(tensor: Tensor | None) -> Any:
    return None if tensor is None else _floats(tensor)


def _integers(tensor: Tensor) -> Any:
    if tensor.dtype not in (torch.int32, torch.int64):
        tensor = tensor.to(torch.int64)
    return _array(tensor)


def _pairs(inputs: Inputs, n_fields: int, by_field: bool) -> _native.Pairs:
    ids, values, offsets, fields, weights, factors = inputs
    return _native.Pairs(
        _integers(ids),
        _maybe_floats(values),
        None if offsets is None else _array(offsets.to(torch.int64)),
        None if fields is None or not by_field else _integers(fields),
        None if weights is None else weights.detach().numpy(),
        factors.detach().numpy(),
        n_fields,
    )


def _grouped(
    upstream: Upstream, inputs: Inputs, S: Tensor, options: Options, need_values: bool
) -> tuple[_native.Pairs, _native.PairGroups, _native.PairGradients, Tensor]:
    """What both backward passes begin with."""
    n_fields, across_fields = options.n_fields, options.across_fields
    by_field = upstream.pooled is not None
    across_fields = across_fields and upstream.crossed is not None
    pairs = _pairs(inputs, n_fields, across_fields or by_field)
    groups = _native.PairGroups(
        pairs, across_fields, by_field or need_values, torch.get_num_threads()
    )
    if groups.problem is not None:
        raise _wrong(groups.problem, inputs, n_fields)
    gl, gc, gp, gS = map(_maybe_floats, upstream)
    given = _native.PairGradients(gl, gc, gp, gS, _floats(S), options.reduce_sum)
    return pairs, groups, given, torch.empty(inputs.ids.numel() if need_values else 0)


def _native_step(step: Step) -> _native.RowStep:
    kind, state, hyper = step
    if kind not in RULES:
        raise DataError(
            f"unknown optimizer {kind!r}; there are {', '.join(RULES)}.{did_you_mean(kind, RULES)}"
        )
    number, names = RULES[kind]
    states = [state[name].detach().numpy() for name in names] + [None, None]
    return _native.RowStep(
        number, states[0], states[1], hyper["lr"], hyper.get("l2", 0.0), hyper.get("eps", 0.0),
        hyper.get("beta1", 0.0), hyper.get("beta2", 0.0), hyper.get("step", 1),
        hyper.get("l1", 0.0), hyper.get("beta", 0.0),
    )  # fmt: skip


def _wrong(problem: tuple[str, int], inputs: Inputs, n_fields: int) -> DataError:
    """The error that says what is wrong at a position."""
    kind, at = problem
    ids, _, offsets, fields, _, factors = inputs
    n_features = len(factors)
    if kind == "offset":
        assert offsets is not None
        return DataError(
            f"offsets[{at}] = {int(offsets[at])}, expected offsets that rise from 0 to the number"
            f" of ids, {ids.numel()}"
        )
    if kind == "field":
        assert fields is not None
        return DataError(
            f"fields[{at}] = {int(fields.reshape(-1)[at])}, expected 0 to {n_fields - 1}:"
            f" there are {n_fields} fields"
        )
    if offsets is None:
        row = at // ids.shape[1]
        place = f"ids[{row}, {at - row * ids.shape[1]}]"
    else:
        row = int(torch.searchsorted(offsets, at, right=True)) - 1
        place = f"ids[{at}] (row {row})"
    return DataError(
        f"{place} = {int(ids.reshape(-1)[at])}, expected 0 to {n_features - 1}:"
        f" the tables have {n_features} rows"
    )
