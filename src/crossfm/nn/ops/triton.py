"""The pairwise operator on CUDA, by Triton kernels; in Triton's interpreter on any device.

- `crossfm.nn.ops.triton_layout`: how a batch lies before the kernels
- `crossfm.nn.ops.triton_forward`: row by row, the outputs and the gradient of the values
- `crossfm.nn.ops.triton_backward`: by id, the tables' gradients or their update
- `crossfm.nn.ops.triton_steps`: the optimizers' steps

The functions are those of `crossfm.nn.ops.arguments`. Ids and fields out of
range are never followed: such a feature counts as absent. Importing this raises
`crossfm.errors.MissingExtraError` where Triton is not installed.
"""

from __future__ import annotations

from torch import Tensor

from crossfm.errors import DataError, MissingExtraError
from crossfm.nn.ops.arguments import (
    Gradients,
    Inputs,
    Options,
    Outputs,
    Steps,
    Upstream,
)

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


def forward(inputs: Inputs, options: Options) -> Outputs:
    """``(linear, crossed, pooled, S)``; see `crossfm.nn.ops.operator`.

    Raises:
        DataError: tensors on another device than CUDA without the interpreter, on several
            devices, or fields missing where they are needed.
    """
    entries, weights, factors = _checked(inputs)
    by_field = options.across_fields or options.pooled
    pools = find_pools(entries, factors, options.n_fields) if by_field else None
    return triton_forward.forward(entries, pools, weights, factors, options)


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
        DataError: as `forward`.
    """
    given = _backward_pass(upstream, inputs, S, options)
    gx = triton_forward.grad_values(given) if need_values else inputs.factors.new_zeros(0)
    rows, gw, gV = triton_backward.grad_tables(given, sparse)
    return rows, gw, gV, gx


def backward_update(
    upstream: Upstream,
    inputs: Inputs,
    S: Tensor,
    options: Options,
    need_values: bool,
    steps: Steps,
) -> Tensor:
    """`backward` and the optimizer's step in one traversal; returns the gradient of the values.

    No gradient of the tables exists at any time, and without shared pools nothing waits for the
    device.

    Raises:
        DataError: as `forward`; an unknown kind; tables or states that are not contiguous.
    """
    for table in (inputs.factors, inputs.weights):
        if table is not None and not table.is_contiguous():
            raise DataError(
                f"a table has strides {table.stride()} for shape {tuple(table.shape)}, expected a"
                " contiguous tensor, as it is updated in place"
            )
    given = _backward_pass(upstream, inputs, S, options)
    gx = triton_forward.grad_values(given) if need_values else inputs.factors.new_zeros(0)
    triton_backward.update_tables(given, steps)
    return gx


def _checked(inputs: Inputs) -> tuple[Entries, Tensor | None, Tensor]:
    """The tensors as the kernels take them: on one device, contiguous, without autograd."""
    device = inputs.ids.device
    for name, tensor in zip(inputs._fields, inputs, strict=True):
        if tensor is not None and tensor.device != device:
            raise DataError(
                f"{name} is on {tensor.device}, expected {device}, where the ids are;"
                f" {name}.to({str(device)!r}) moves it"
            )
    weights = None if inputs.weights is None else inputs.weights.detach().contiguous()
    return entries_of(inputs), weights, inputs.factors.detach().contiguous()


def _backward_pass(upstream: Upstream, inputs: Inputs, S: Tensor, options: Options) -> BackwardPass:
    entries, weights, factors = _checked(inputs)
    upstream = Upstream(*[None if g is None else g.detach().contiguous() for g in upstream])
    # Only the crossed term across fields asks for the shared pools on the way back.
    by_field = options.across_fields and upstream.crossed is not None
    pools = find_pools(entries, factors, options.n_fields) if by_field else None
    return BackwardPass(
        upstream, entries, pools, weights, factors, S.detach().contiguous(), options
    )
