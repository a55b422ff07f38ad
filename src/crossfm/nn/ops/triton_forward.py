"""Triton kernels that run row by row: the sums of a row, and the gradient of its values.

One program has one row: it reads the vectors of up to M features at once, ``[M, K]`` with K the
number of factors padded to a power of two, and goes on until the row ends. What it holds of a row
are sums; the vectors of all features together are nowhere.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from crossfm.nn.ops.arguments import Options, Outputs
from crossfm.nn.ops.triton_layout import (
    BackwardPass,
    Entries,
    Pools,
    device_of,
    tile,
    wide_type,
)

__all__ = ["forward", "grad_values"]


@triton.jit
def pairwise_fwd_kernel(
    ids, values, offsets, fields, weights, factors, slots, pools,
    linear, crossed, pooled, S,
    n, m, n_fields,
    k: tl.constexpr, K: tl.constexpr, M: tl.constexpr, WIDE: tl.constexpr,
    ACROSS: tl.constexpr, REDUCE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    if offsets is None:
        start = r * m
        stop = start + m
    else:
        start = tl.load(offsets + r)
        stop = tl.load(offsets + r + 1)
    c = tl.arange(0, K)
    in_k = c < k
    s = tl.zeros([K], WIDE)
    Q = tl.zeros([K], WIDE)
    line = tl.zeros([M], WIDE)
    at = start
    while at < stop:
        pos = at + tl.arange(0, M)
        live = pos < stop
        i = tl.load(ids + pos, mask=live, other=0).to(tl.int64)
        live = live & (i >= 0) & (i < n)
        both = live[:, None] & in_k[None, :]
        u = tl.load(factors + i[:, None] * k + c[None, :], mask=both, other=0.0).to(WIDE)
        if values is not None:
            x = tl.load(values + pos, mask=live, other=0.0).to(WIDE)
            u = u * x[:, None]
        if weights is not None:
            w = tl.load(weights + i, mask=live, other=0.0).to(WIDE)
            if values is not None:
                w = w * x
            line += w
        own = u  # the pool of each feature
        if slots is not None:
            slot = tl.load(slots + pos, mask=live, other=-1).to(tl.int64)
            shared = (slot >= 0)[:, None] & in_k[None, :]
            p = tl.load(pools + slot[:, None] * k + c[None, :], mask=shared, other=0.0)
            own = tl.where((slot >= 0)[:, None], p, u)
        s += tl.sum(u, 0)
        if ACROSS:
            Q += tl.sum(u * own, 0)  # sum_f p_f^2 = sum_i u_i p_f(i)
        else:
            Q += tl.sum(u * u, 0)
        if pooled is not None:
            if COLUMNS:
                f = tl.load(fields + (pos - start), mask=live, other=-1).to(tl.int64)
            else:
                f = tl.load(fields + pos, mask=live, other=-1).to(tl.int64)
            out = (r * n_fields + f)[:, None] * k + c[None, :]
            known = (f >= 0) & (f < n_fields)
            # Features of one pool write the same numbers to the same place.
            tl.store(pooled + out, own.to(pooled.dtype.element_ty), mask=both & known[:, None])
        at += M
    tl.store(S + r * k + c, s, mask=in_k)
    pairs = 0.5 * (s * s - Q)
    if REDUCE:
        tl.store(crossed + r, tl.sum(pairs, 0))
    else:
        tl.store(crossed + r * k + c, pairs, mask=in_k)
    tl.store(linear + r, tl.sum(line, 0))


@triton.jit
def pairwise_values_kernel(
    gl, gc, gp, gS, ids, values, offsets, fields, weights, factors, slots, pools, S, gx,
    n, m, n_fields,
    k: tl.constexpr, K: tl.constexpr, M: tl.constexpr, WIDE: tl.constexpr,
    REDUCE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    if offsets is None:
        start = r * m
        stop = start + m
    else:
        start = tl.load(offsets + r)
        stop = tl.load(offsets + r + 1)
    c = tl.arange(0, K)
    in_k = c < k
    s = tl.load(S + r * k + c, mask=in_k, other=0.0).to(WIDE)
    H = tl.zeros([K], WIDE)
    if gc is not None:
        if REDUCE:
            H += tl.load(gc + r).to(WIDE)
        else:
            H += tl.load(gc + r * k + c, mask=in_k, other=0.0).to(WIDE)
    G = H * s
    if gS is not None:
        G += tl.load(gS + r * k + c, mask=in_k, other=0.0).to(WIDE)
    at = start
    while at < stop:
        pos = at + tl.arange(0, M)
        inside = pos < stop
        i = tl.load(ids + pos, mask=inside, other=0).to(tl.int64)
        live = inside & (i >= 0) & (i < n)
        both = live[:, None] & in_k[None, :]
        v = tl.load(factors + i[:, None] * k + c[None, :], mask=both, other=0.0).to(WIDE)
        x = tl.load(values + pos, mask=live, other=0.0).to(WIDE)
        own = v * x[:, None]
        if slots is not None:
            slot = tl.load(slots + pos, mask=live, other=-1).to(tl.int64)
            shared = (slot >= 0)[:, None] & in_k[None, :]
            p = tl.load(pools + slot[:, None] * k + c[None, :], mask=shared, other=0.0)
            own = tl.where((slot >= 0)[:, None], p, own)
        g = G[None, :] - H[None, :] * own
        if gp is not None:
            if COLUMNS:
                f = tl.load(fields + (pos - start), mask=live, other=-1).to(tl.int64)
            else:
                f = tl.load(fields + pos, mask=live, other=-1).to(tl.int64)
            known = (f >= 0) & (f < n_fields)
            out = (r * n_fields + f)[:, None] * k + c[None, :]
            g += tl.load(gp + out, mask=both & known[:, None], other=0.0).to(WIDE)
        d = tl.sum(v * g, 1)
        if gl is not None:  # noqa: SIM102
            if weights is not None:
                w = tl.load(weights + i, mask=live, other=0.0).to(WIDE)
                d += tl.load(gl + r).to(WIDE) * w
        tl.store(gx + pos, d.to(gx.dtype.element_ty), mask=inside)
        at += M


def forward(
    entries: Entries,
    pools: Pools | None,
    weights: Tensor | None,
    factors: Tensor,
    options: Options,
) -> Outputs:
    """``(linear, crossed, pooled, S)`` of rows laid out by `crossfm.nn.ops.triton_layout`."""
    n_fields, across_fields, reduce_sum, pooled = options
    n, k = factors.shape
    batch = entries.n_rows
    dtype, wide = wide_type(factors)
    linear = factors.new_empty(batch, dtype=dtype)
    crossed = factors.new_empty((batch,) if reduce_sum else (batch, k), dtype=dtype)
    S = factors.new_empty(batch, k, dtype=dtype)
    P = factors.new_zeros((batch, n_fields, k) if pooled else (0,))
    if batch == 0 or k == 0:
        return linear.zero_(), crossed.zero_(), P, S
    K, M, warps = tile(k, entries.mean_length)
    with device_of(factors):
        pairwise_fwd_kernel[(batch,)](
            entries.ids, entries.values, entries.offsets, entries.fields, weights, factors,
            None if pools is None else pools.slots, None if pools is None else pools.sums,
            linear, crossed, P if pooled else None, S,
            n, entries.length, n_fields, k, K, M, wide,
            across_fields, reduce_sum, entries.columns, num_warps=warps,
        )  # fmt: skip
    return linear, crossed, P, S


def grad_values(given: BackwardPass) -> Tensor:
    """``dx_i = gl w_i + <v_i, H (S - q_i) + gp_f + gS>``, ``[nnz]`` in the type of the values."""
    entries, factors = given.entries, given.factors
    assert entries.values is not None
    n, k = factors.shape
    gx = torch.zeros_like(entries.values)
    if entries.n_rows == 0 or k == 0:
        return gx
    K, M, warps = tile(k, entries.mean_length)
    _, wide = wide_type(factors)
    with device_of(factors):
        pairwise_values_kernel[(entries.n_rows,)](
            *given.upstream, entries.ids, entries.values, entries.offsets, entries.fields,
            given.weights, factors, *given.shared, given.S, gx,
            n, entries.length, given.options.n_fields, k, K, M, wide,
            given.options.reduce_sum, entries.columns, num_warps=warps,
        )  # fmt: skip
    return gx
