"""The pairwise operator on CUDA, by Triton kernels; in Triton's interpreter on any device.

- `crossfm.nn.ops.triton_layout`: how a batch lies before the kernels
- `crossfm.nn.ops.triton_forward`: row by row, the outputs and the gradient of the values
- `crossfm.nn.ops.triton_backward`: by id, the tables' gradients or their update
- `crossfm.nn.ops.triton_steps`: the optimizers' steps

The functions have the arguments and results of `crossfm.nn.ops.reference`. Ids and fields out of
range are never followed: such a feature counts as absent. Importing this raises
`crossfm.errors.MissingExtraError` where Triton is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from crossfm.errors import DataError, MissingExtraError

try:
    from crossfm.nn.ops import triton_backward, triton_forward
    from crossfm.nn.ops.triton_layout import (
        BackwardPass,
        Entries,
        entries_of,
        find_pools,
        interpreted,
    )
    from crossfm.nn.ops.triton_steps import update_rows
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] != "triton":
        raise
    raise MissingExtraError(
        "the CUDA kernels need 'triton', which is not installed: pip install triton (PyTorch for"
        " CUDA on Linux brings it along)"
    ) from error

__all__ = ["backward", "backward_update", "forward", "interpreted", "update_rows"]


def forward(
    ids: Tensor,
    values: Tensor | None,
    offsets: Tensor | None,
    fields: Tensor | None,
    weights: Tensor | None,
    factors: Tensor,
    n_fields: int,
    across_fields: bool,
    reduce_sum: bool,
    pooled: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(linear, crossed, pooled, S)``; see `crossfm.nn.ops.operator`.

    Raises:
        DataError: tensors on another device than CUDA without the interpreter, on several
            devices, or fields missing where they are needed.
    """
    entries, weights, factors = _checked(ids, values, offsets, fields, weights, factors)
    pools = find_pools(entries, factors, n_fields) if across_fields or pooled else None
    return triton_forward.forward(
        entries, pools, weights, factors, n_fields, across_fields, reduce_sum, pooled
    )


def backward(
    grad_linear: Tensor | None,
    grad_crossed: Tensor | None,
    grad_pooled: Tensor | None,
    grad_S: Tensor | None,
    ids: Tensor,
    values: Tensor | None,
    offsets: Tensor | None,
    fields: Tensor | None,
    weights: Tensor | None,
    factors: Tensor,
    S: Tensor,
    n_fields: int,
    across_fields: bool,
    reduce_sum: bool,
    need_values: bool,
    sparse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(rows, grad_weights, grad_factors, grad_values)``; see `crossfm.nn.ops.operator`.

    Raises:
        DataError: as `forward`.
    """
    given = _backward_pass(
        (grad_linear, grad_crossed, grad_pooled, grad_S),
        (ids, values, offsets, fields, weights, factors),
        S, n_fields, across_fields, reduce_sum,
    )  # fmt: skip
    gx = triton_forward.grad_values(given) if need_values else factors.new_zeros(0)
    rows, gw, gV = triton_backward.grad_tables(given, sparse)
    return rows, gw, gV, gx


def backward_update(
    grad_linear: Tensor | None,
    grad_crossed: Tensor | None,
    grad_pooled: Tensor | None,
    grad_S: Tensor | None,
    ids: Tensor,
    values: Tensor | None,
    offsets: Tensor | None,
    fields: Tensor | None,
    weights: Tensor | None,
    factors: Tensor,
    S: Tensor,
    n_fields: int,
    across_fields: bool,
    reduce_sum: bool,
    need_values: bool,
    weights_state: Mapping[str, Tensor],
    factors_state: Mapping[str, Tensor],
    kind: str,
    hyper_weights: Mapping[str, float],
    hyper_factors: Mapping[str, float],
) -> Tensor:
    """`backward` and the optimizer's step in one traversal; returns the gradient of the values.

    No gradient of the tables exists at any time, and without shared pools nothing waits for the
    device.

    Raises:
        DataError: as `forward`; an unknown kind; tables or states that are not contiguous.
    """
    for table in (factors, weights):
        if table is not None and not table.is_contiguous():
            raise DataError(
                f"a table has strides {table.stride()} for shape {tuple(table.shape)}, expected a"
                " contiguous tensor, as it is updated in place"
            )
    given = _backward_pass(
        (grad_linear, grad_crossed, grad_pooled, grad_S),
        (ids, values, offsets, fields, weights, factors),
        S, n_fields, across_fields, reduce_sum,
    )  # fmt: skip
    gx = triton_forward.grad_values(given) if need_values else factors.new_zeros(0)
    triton_backward.update_tables(
        given, weights_state, factors_state, kind, hyper_weights, hyper_factors
    )
    return gx


def _checked(
    ids: Tensor,
    values: Tensor | None,
    offsets: Tensor | None,
    fields: Tensor | None,
    weights: Tensor | None,
    factors: Tensor,
) -> tuple[Entries, Tensor | None, Tensor]:
    """The tensors as the kernels take them: on one device, contiguous, without autograd."""
    given = {"values": values, "offsets": offsets, "fields": fields, "weights": weights,
             "factors": factors}  # fmt: skip
    for name, tensor in given.items():
        if tensor is not None and tensor.device != ids.device:
            raise DataError(
                f"{name} is on {tensor.device}, expected {ids.device}, where the ids are;"
                f" {name}.to({str(ids.device)!r}) moves it"
            )
    weights = None if weights is None else weights.detach().contiguous()
    return entries_of(ids, values, offsets, fields), weights, factors.detach().contiguous()


def _backward_pass(
    upstream: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    inputs: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor],
    S: Tensor,
    n_fields: int,
    across_fields: bool,
    reduce_sum: bool,
) -> BackwardPass:
    entries, weights, factors = _checked(*inputs)
    gl, gc, gp, gS = (None if g is None else g.detach().contiguous() for g in upstream)
    # Only the crossed term across fields asks for the shared pools on the way back.
    pools = find_pools(entries, factors, n_fields) if across_fields and gc is not None else None
    return BackwardPass(
        (gl, gc, gp, gS), entries, pools, weights, factors, S.detach().contiguous(), n_fields,
        reduce_sum,
    )  # fmt: skip
