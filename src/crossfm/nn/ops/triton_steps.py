"""One step of a row-wise optimizer, inside a Triton kernel: formulas shared by all that update."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from crossfm.errors import DataError, did_you_mean
from crossfm.nn.ops.arguments import Step
from crossfm.nn.ops.triton_layout import block, device_of, wide_type

__all__ = ["KINDS", "numbers", "states", "stepped", "update_rows"]

KINDS = {
    "sgd": (),
    "adagrad": ("a",),
    "rowwise_adagrad": ("a",),
    "adam": ("m", "v"),
    "ftrl": ("z", "n"),
}


@triton.jit
def stepped(
    p, g, i, at, live, mask, one, two, lr, l2, eps, h1, h2, c1, c2,
    k: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """The new parameters; writes the states `one` and `two` at `at` (rowwise: `one` at `i`)."""
    if KIND != "ftrl":
        g += l2 * p
    if KIND == "sgd":
        p -= lr * g
    elif KIND == "adagrad":
        a = tl.load(one + at, mask=mask, other=1.0) + g * g
        tl.store(one + at, a.to(one.dtype.element_ty), mask=mask)
        p -= lr * g / (tl.sqrt(a) + eps)
    elif KIND == "rowwise_adagrad":
        a = tl.load(one + i, mask=live, other=1.0) + tl.sum(g * g, 1) / k
        tl.store(one + i, a.to(one.dtype.element_ty), mask=live)
        p -= lr * g / (tl.sqrt(a) + eps)[:, None]
    elif KIND == "adam":  # h1, h2: beta1, beta2; c1, c2: the corrections of their start
        m = h1 * tl.load(one + at, mask=mask, other=0.0) + (1 - h1) * g
        v = h2 * tl.load(two + at, mask=mask, other=1.0) + (1 - h2) * g * g
        tl.store(one + at, m.to(one.dtype.element_ty), mask=mask)
        tl.store(two + at, v.to(two.dtype.element_ty), mask=mask)
        p -= lr * c1 * m / (tl.sqrt(c2 * v) + eps)
    else:  # ftrl; h1, h2: l1, beta
        z = tl.load(one + at, mask=mask, other=0.0)
        before = tl.load(two + at, mask=mask, other=1.0)
        n = before + g * g
        z += g - (tl.sqrt(n) - tl.sqrt(before)) / lr * p
        tl.store(one + at, z.to(one.dtype.element_ty), mask=mask)
        tl.store(two + at, n.to(two.dtype.element_ty), mask=mask)
        size = tl.maximum(tl.abs(z) - h1, 0.0)
        p = tl.where(z > 0, -size, size) / ((h2 + tl.sqrt(n)) / lr + l2)
    return p


@triton.jit
def update_rows_kernel(
    rows, grad, table, one, two, u, n, lr, l2, eps, h1, h2, c1, c2,
    k: tl.constexpr, K: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    c = tl.arange(0, K)
    i = tl.load(rows + r, mask=r < u, other=-1).to(tl.int64)
    live = (i >= 0) & (i < n)
    mask = live[:, None] & (c < k)[None, :]
    at = i[:, None] * k + c[None, :]
    g = tl.load(grad + r[:, None] * k + c[None, :], mask=mask, other=0.0).to(WIDE)
    p = tl.load(table + at, mask=mask, other=0.0).to(WIDE)
    p = stepped(p, g, i, at, live, mask, one, two, lr, l2, eps, h1, h2, c1, c2, k, KIND)
    tl.store(table + at, p.to(table.dtype.element_ty), mask=mask)


def update_rows(rows: Tensor, grad: Tensor, table: Tensor, step: Step) -> None:
    """One step on the rows of a table, in place; see `crossfm.nn.ops.reference.update_rows`.

    Raises:
        DataError: an unknown kind, or a table or state that is not contiguous.
    """
    one, two = states(table, step)
    k = table.shape[1] if table.dim() == 2 else 1
    if len(rows) == 0 or k == 0:
        return
    K, R = block(k)
    _, wide = wide_type(table)
    with device_of(table):
        update_rows_kernel[(triton.cdiv(len(rows), R),)](
            rows.contiguous(), grad.contiguous(), table, one, two, len(rows), len(table),
            *numbers(step), k, K, R, wide, step.kind,
        )  # fmt: skip


def states(table: Tensor, step: Step) -> tuple[Tensor | None, Tensor | None]:
    """The two state tensors that the kernels take, None where a kind has fewer.

    Raises:
        DataError: an unknown kind, or a table or state that is not contiguous.
    """
    kind = step.kind
    if kind not in KINDS:
        raise DataError(
            f"no optimizer {kind!r}; there are {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}"
        )
    found = [step.state[name] for name in KINDS[kind]]
    for name, tensor in zip(("table", *KINDS[kind]), (table, *found), strict=True):
        if not tensor.is_contiguous():
            raise DataError(
                f"{name!r} has strides {tensor.stride()} for shape {tuple(tensor.shape)}, expected"
                " a contiguous tensor, as it is updated in place"
            )
    return (*found, None, None)[0], (*found, None, None)[1]


def numbers(step: Step) -> tuple[float, ...]:
    """``(lr, l2, eps, h1, h2, c1, c2)`` of `stepped`.

    >>> numbers(Step("sgd", {}, {"lr": 0.5}))
    (0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    >>> numbers(Step("adam", {}, {"lr": 1, "eps": 0, "beta1": 0.5, "beta2": 0.75, "step": 1}))
    (1.0, 0.0, 0.0, 0.5, 0.75, 2.0, 4.0)
    """
    kind, _, hyper = step
    h1 = h2 = c1 = c2 = 0.0
    if kind == "adam":
        h1, h2, t = float(hyper["beta1"]), float(hyper["beta2"]), hyper["step"]
        c1, c2 = 1 / (1 - h1**t), 1 / (1 - h2**t)
    elif kind == "ftrl":
        h1, h2 = float(hyper["l1"]), float(hyper["beta"])
    l2, eps = float(hyper.get("l2", 0.0)), float(hyper.get("eps", 0.0))
    return float(hyper["lr"]), l2, eps, h1, h2, c1, c2
