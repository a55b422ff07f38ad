"""Triton kernels that run in order of id: the tables' gradients, or their update.

The batch's features are sorted by id and cut into chunks of `CHUNK` occurrences. A program has R
chunks, one in each line of its ``[R, K]`` registers, and goes through them side by side, adding up

``A_i = sum x (H S + gp_f + gS)`` and ``B_i = sum x^2 H``, so that ``dV_i = A_i - v_i B_i``,

(a feature that shares its pool puts ``x H p`` into A instead). Where a run of equal ids ends, its
sum is stored, or the optimizer takes its step at once. All lines have the same work whatever the
distribution of ids: a hot id with 65,536 occurrences is 2,048 chunks. A run that crosses the border
of a chunk leaves a partial sum in each; these meet by float32 atomics in a buffer with one row a
chunk, at the chunk where the run begins, and a second kernel finishes them. The buffer has nnz / 32
rows, whatever the number of distinct ids, and a number in it gets one atomic addition for 32
occurrences; the order of these additions is free, so that the last bits of hot ids' sums are too.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from crossfm.nn.ops.arguments import Steps
from crossfm.nn.ops.triton_layout import (
    CHUNK,
    BackwardPass,
    Occurrences,
    block,
    device_of,
    occurrences_of,
    wide_type,
)
from crossfm.nn.ops.triton_steps import numbers, states, stepped

__all__ = ["grad_tables", "update_tables"]

_NO_STEP: tuple[float, ...] = (0.0,) * 7


@triton.jit
def deliver(
    i, dest, gw, gV, v, live, c, weights, factors, w1, w2, v1, v2, out_w, out_V,
    w_lr, w_l2, w_eps, w_h1, w_h2, w_c1, w_c2,
    v_lr, v_l2, v_eps, v_h1, v_h2, v_c1, v_c2,
    k: tl.constexpr, STEP_W: tl.constexpr, STEP_V: tl.constexpr,
):  # fmt: skip
    """Store the gradients of ids `i` in line `dest`, or take the optimizer's step."""
    mask = live[:, None] & (c < k)[None, :]
    if STEP_V == "":
        at = dest[:, None] * k + c[None, :]
        tl.store(out_V + at, gV.to(out_V.dtype.element_ty), mask=mask)
        if weights is not None:
            tl.store(out_w + dest, gw.to(out_w.dtype.element_ty), mask=live)
    else:
        at = i[:, None] * k + c[None, :]
        p = stepped(v, gV, i, at, live, mask, v1, v2,
                    v_lr, v_l2, v_eps, v_h1, v_h2, v_c1, v_c2, k, STEP_V)  # fmt: skip
        tl.store(factors + at, p.to(factors.dtype.element_ty), mask=mask)
        if weights is not None:
            w = tl.load(weights + i, mask=live, other=0.0).to(gw.dtype)
            w = stepped(w, gw, i, i, live, live, w1, w2,
                        w_lr, w_l2, w_eps, w_h1, w_h2, w_c1, w_c2, 1, STEP_W)  # fmt: skip
            tl.store(weights + i, w.to(weights.dtype.element_ty), mask=live)


@triton.jit
def pairwise_bwd_kernel(
    gl, gc, gp, gS, values, fields, row_of, slots, pools, S,
    ids, places, owners, lines, part_w, part_V,
    weights, factors, w1, w2, v1, v2, out_w, out_V,
    nnz, n, m, n_fields,
    w_lr, w_l2, w_eps, w_h1, w_h2, w_c1, w_c2,
    v_lr, v_l2, v_eps, v_h1, v_h2, v_c1, v_c2,
    k: tl.constexpr, K: tl.constexpr, R: tl.constexpr, C: tl.constexpr, WIDE: tl.constexpr,
    REDUCE: tl.constexpr, COLUMNS: tl.constexpr,
    STEP_W: tl.constexpr, STEP_V: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    start = chunk * C
    c = tl.arange(0, K)
    in_k = c < k
    # Ids at the border: of the occurrence before the chunk and of the chunk's first.
    i = tl.load(ids + start, mask=start < nnz, other=-1).to(tl.int64)
    before = tl.load(ids + start - 1, mask=(start > 0) & (start < nnz), other=-1).to(tl.int64)
    opened = (before == i) & (start > 0) & (start < nnz)  # the run began in another chunk
    owner = tl.load(owners + chunk, mask=opened, other=0).to(tl.int64)
    A = tl.zeros([R, K], WIDE)
    B = tl.zeros([R, K], WIDE)
    gw = tl.zeros([R], WIDE)
    for j in range(C):
        t = start + j
        known = (i >= 0) & (i < n)
        live = (t < nnz) & known
        both = live[:, None] & in_k[None, :]
        pos = tl.load(places + t, mask=live, other=0)
        if row_of is None:  # noqa: SIM108
            r = pos // m
        else:
            r = tl.load(row_of + pos, mask=live, other=0).to(tl.int64)
        line = r[:, None] * k + c[None, :]
        if values is not None:
            x = tl.load(values + pos, mask=live, other=0.0).to(WIDE)
        a = tl.zeros([R, K], WIDE)
        if gc is not None:
            if REDUCE:
                h = tl.load(gc + r, mask=live, other=0.0).to(WIDE)
                H = tl.zeros([R, K], WIDE) + h[:, None]
            else:
                H = tl.load(gc + line, mask=both, other=0.0).to(WIDE)
            s = tl.load(S + line, mask=both, other=0.0).to(WIDE)
            if values is not None:  # noqa: SIM108
                b = H * x[:, None]
            else:
                b = H
            if slots is not None:
                slot = tl.load(slots + pos, mask=live, other=-1).to(tl.int64)
                shared = (slot >= 0)[:, None] & in_k[None, :]
                s -= tl.load(pools + slot[:, None] * k + c[None, :], mask=shared, other=0.0)
                b = tl.where((slot >= 0)[:, None], 0.0, b)
            a += H * s
            if values is not None:
                b = b * x[:, None]
            B += b
        if gS is not None:
            a += tl.load(gS + line, mask=both, other=0.0).to(WIDE)
        if gp is not None:
            if COLUMNS:
                f = tl.load(fields + (pos - r * m), mask=live, other=-1).to(tl.int64)
            else:
                f = tl.load(fields + pos, mask=live, other=-1).to(tl.int64)
            in_fields = ((f >= 0) & (f < n_fields))[:, None]
            at = (r * n_fields + f)[:, None] * k + c[None, :]
            a += tl.load(gp + at, mask=both & in_fields, other=0.0).to(WIDE)
        if values is not None:
            a = a * x[:, None]
        A += a
        if gl is not None:
            d = tl.load(gl + r, mask=live, other=0.0).to(WIDE)
            if values is not None:
                d = d * x
            gw += d
        # Where the run ends, or the chunk does within it:
        following = tl.load(ids + t + 1, mask=t + 1 < nnz, other=-1).to(tl.int64)
        ends = live & ((following != i) | (t + 1 >= nnz))
        whole = ends & (opened == 0)
        part = (ends & opened) | (live & (j == C - 1) & (ends == 0))
        out = whole | part
        v = tl.load(factors + i[:, None] * k + c[None, :],
                    mask=out[:, None] & in_k[None, :], other=0.0).to(WIDE)  # fmt: skip
        gV = A - v * B
        at = tl.where(opened, owner, chunk)
        tl.atomic_add(part_V + at[:, None] * k + c[None, :], gV,
                      mask=part[:, None] & in_k[None, :], sem="relaxed")  # fmt: skip
        if weights is not None:
            tl.atomic_add(part_w + at, gw, mask=part, sem="relaxed")
        dest = i
        if lines is not None:
            dest = tl.load(lines + t, mask=whole, other=0).to(tl.int64)
        deliver(i, dest, gw, gV, v, whole, c, weights, factors, w1, w2, v1, v2, out_w, out_V,
                w_lr, w_l2, w_eps, w_h1, w_h2, w_c1, w_c2,
                v_lr, v_l2, v_eps, v_h1, v_h2, v_c1, v_c2, k, STEP_W, STEP_V)  # fmt: skip
        A = tl.where(out[:, None], 0.0, A)
        B = tl.where(out[:, None], 0.0, B)
        gw = tl.where(out, 0.0, gw)
        opened = opened & (ends == 0)
        i = following


@triton.jit
def pairwise_bwd_parts_kernel(
    ids, lines, part_w, part_V, weights, factors, w1, w2, v1, v2, out_w, out_V, nnz, n,
    w_lr, w_l2, w_eps, w_h1, w_h2, w_c1, w_c2,
    v_lr, v_l2, v_eps, v_h1, v_h2, v_c1, v_c2,
    k: tl.constexpr, K: tl.constexpr, R: tl.constexpr, C: tl.constexpr, WIDE: tl.constexpr,
    STEP_W: tl.constexpr, STEP_V: tl.constexpr,
):  # fmt: skip
    """Runs that cross borders of chunks, each at the chunk where it begins."""
    chunk = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    start = chunk * C
    last = start + C - 1
    crosses = last + 1 < nnz
    i = tl.load(ids + last, mask=crosses, other=-1).to(tl.int64)
    following = tl.load(ids + last + 1, mask=crosses, other=-2).to(tl.int64)
    first = tl.load(ids + start, mask=crosses, other=-1).to(tl.int64)
    before = tl.load(ids + start - 1, mask=crosses & (start > 0), other=-1).to(tl.int64)
    opened = (before == i) & (first == i) & (start > 0)
    live = crosses & (following == i) & (opened == 0) & (i >= 0) & (i < n)
    c = tl.arange(0, K)
    mask = live[:, None] & (c < k)[None, :]
    v = tl.load(factors + i[:, None] * k + c[None, :], mask=mask, other=0.0).to(WIDE)
    gV = tl.load(part_V + chunk[:, None] * k + c[None, :], mask=mask, other=0.0)
    gw = tl.zeros([R], WIDE)
    if weights is not None:
        gw += tl.load(part_w + chunk, mask=live, other=0.0)
    dest = i
    if lines is not None:
        dest = tl.load(lines + last, mask=live, other=0).to(tl.int64)
    deliver(i, dest, gw, gV, v, live, c, weights, factors, w1, w2, v1, v2, out_w, out_V,
            w_lr, w_l2, w_eps, w_h1, w_h2, w_c1, w_c2,
            v_lr, v_l2, v_eps, v_h1, v_h2, v_c1, v_c2, k, STEP_W, STEP_V)  # fmt: skip


def grad_tables(given: BackwardPass, sparse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``(rows, gw, gV)``: of the rows that occur, rising, or of the whole tables."""
    weights, factors = given.weights, given.factors
    n, k = factors.shape
    found = occurrences_of(given.entries, n)
    rows = torch.empty(0, dtype=torch.int64, device=factors.device)
    lines, count = None, n
    if sparse:
        ids = found.ids
        begins = (ids >= 0) & (ids < n)
        begins[1:] &= ids[1:] != ids[:-1]
        lines = begins.cumsum(0) - 1  # [nnz]
        rows = ids[begins].to(torch.int64)
        count = len(rows)
    gV = factors.new_empty(count, k) if sparse else factors.new_zeros(count, k)
    gw = factors.new_zeros(0)
    if weights is not None:
        gw = weights.new_empty(count) if sparse else weights.new_zeros(count)
    _run(given, found, _Delivery(lines=lines, out_w=gw, out_V=gV))
    return rows, gw, gV


def update_tables(given: BackwardPass, steps: Steps) -> None:
    """The step of the optimizer on the rows that occur, where their gradient's sum ends.

    Raises:
        DataError: an unknown kind, or a table or state that is not contiguous.
    """
    v1, v2 = states(given.factors, steps.factors)
    w1 = w2 = None
    hyper_w, kind_w = _NO_STEP, ""
    if given.weights is not None:
        assert steps.weights is not None
        by = steps.weights
        if by.kind == "rowwise_adagrad":
            by = by._replace(kind="adagrad")  # a row of one number
        w1, w2 = states(given.weights, by)
        hyper_w, kind_w = numbers(by), by.kind
    to = _Delivery(
        state=(w1, w2, v1, v2),
        hyper=(*hyper_w, *numbers(steps.factors)),
        kinds=(kind_w, steps.factors.kind),
    )
    _run(given, occurrences_of(given.entries, len(given.factors)), to)


@dataclass(frozen=True)
class _Delivery:
    """What becomes of a finished gradient: stored in `out_*` (at `lines`), or a step by `kinds`."""

    lines: Tensor | None = None
    out_w: Tensor | None = None
    out_V: Tensor | None = None
    state: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None] = (None,) * 4
    hyper: tuple[float, ...] = _NO_STEP * 2
    kinds: tuple[str, str] = ("", "")


def _run(given: BackwardPass, found: Occurrences, to: _Delivery) -> None:
    """Both kernels, one behind the other."""
    entries, weights, factors = given.entries, given.weights, given.factors
    n, k = factors.shape
    nnz = len(found.ids)
    if nnz == 0 or k == 0:
        return
    dtype, wide = wide_type(factors)
    K, R = block(k)
    chunks = len(found.owners)
    part_V = factors.new_zeros(chunks, k, dtype=dtype)
    part_w = None if weights is None else factors.new_zeros(chunks, dtype=dtype)
    row_of = None if entries.offsets is None else entries.rows().to(torch.int32)
    grid = (triton.cdiv(chunks, R),)
    places = (part_w, part_V, weights, factors, *to.state, to.out_w, to.out_V)
    with device_of(factors):
        pairwise_bwd_kernel[grid](
            *given.upstream, entries.values, entries.fields, row_of, *given.shared, given.S,
            found.ids, found.places, found.owners, to.lines, *places,
            nnz, n, entries.length, given.options.n_fields, *to.hyper,
            k, K, R, CHUNK, wide, given.options.reduce_sum, entries.columns, *to.kinds, num_warps=4,
        )  # fmt: skip
        pairwise_bwd_parts_kernel[grid](
            found.ids, to.lines, *places, nnz, n, *to.hyper,
            k, K, R, CHUNK, wide, *to.kinds, num_warps=4,
        )  # fmt: skip
