"""How a batch lies before the Triton kernels: rows, shared pools, occurrences in order of id.

Everything here is integers, made by a few PyTorch calls on the tensors' own device; only the
vectors of pools that several features share are summed by a kernel.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from crossfm.errors import DataError
from crossfm.nn.ops.arguments import Inputs, Options, Upstream

__all__ = [
    "CHUNK", "BackwardPass", "Entries", "Occurrences", "Pools", "block", "device_of", "entries_of",
    "find_pools", "interpreted", "occurrences_of", "tile", "wide_type",
]  # fmt: skip

CHUNK = 32  # occurrences that one lane of the backward pass goes through
_INT32 = 2**31


@dataclass(frozen=True)
class Entries:
    """The features of a batch, row after row.

    Attributes:
        ids: int ``[nnz]``.
        values: float ``[nnz]``, or None: all one.
        offsets: int64 ``[batch + 1]``, or None: `length` features in every row.
        fields: int ``[nnz]``, or ``[length]`` with `columns`, or None.
        n_rows: batch.
        length: features of each row where there are no offsets, else 0.
        columns: whether `fields` belong to columns.
    """

    ids: Tensor
    values: Tensor | None
    offsets: Tensor | None
    fields: Tensor | None
    n_rows: int
    length: int
    columns: bool

    @property
    def mean_length(self) -> int:
        """Features a row, rounded up."""
        return self.length if self.offsets is None else -(-len(self.ids) // max(self.n_rows, 1))

    def rows(self) -> Tensor:
        """The row of each feature, int64 ``[nnz]``."""
        n, nnz, device = self.n_rows, len(self.ids), self.ids.device
        if self.offsets is None:
            return torch.arange(nnz, device=device) // max(self.length, 1)
        return torch.arange(n, device=device).repeat_interleave(
            self.offsets.diff(), output_size=nnz
        )


@dataclass(frozen=True)
class Pools:
    """Pools, a row's features of one field, with more than one member; all others are ``x v``.

    Attributes:
        slots: int32 ``[nnz]``, the pool of each feature, -1 where it is alone.
        sums: ``[pools, k]``, ``p = sum_i x_i v_i``, in the type of the sums.
    """

    slots: Tensor
    sums: Tensor


@dataclass(frozen=True)
class Occurrences:
    """The features of a batch in order of their id, cut into chunks of `CHUNK`.

    Attributes:
        ids: int ``[nnz]``, rising.
        places: int64 ``[nnz]``, where each stands in the batch.
        owners: int32 ``[chunks]``: the chunk in which the run of equal ids that a chunk begins
            with has its own beginning.
    """

    ids: Tensor
    places: Tensor
    owners: Tensor


@dataclass(frozen=True)
class BackwardPass:
    """What all kernels of one backward pass read.

    Attributes:
        upstream: the gradients of the outputs.
        entries: the batch.
        pools: the shared pools, where fields are pooled before they are crossed.
        weights: ``[n]`` or None.
        factors: ``[n, k]``.
        S: ``[batch, k]``, from the forward pass.
        options: as in the forward pass.
    """

    upstream: Upstream
    entries: Entries
    pools: Pools | None
    weights: Tensor | None
    factors: Tensor
    S: Tensor
    options: Options

    @property
    def shared(self) -> tuple[Tensor | None, Tensor | None]:
        """Slots and sums of the shared pools."""
        return (None, None) if self.pools is None else (self.pools.slots, self.pools.sums)


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on any device."""
    return not isinstance(pools_fwd_kernel, triton.runtime.JITFunction)


def device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """The device on which kernels over `tensor` are launched.

    Raises:
        DataError: the tensor is not on a CUDA device, and the interpreter is off.
    """
    if tensor.is_cuda:
        return torch.cuda.device(tensor.device)
    if not interpreted():
        raise DataError(
            f"the table is on {tensor.device}, expected a CUDA device: Triton's kernels run"
            " elsewhere only in its interpreter (TRITON_INTERPRET=1, set before it is imported)"
        )
    return nullcontext()


def wide_type(factors: Tensor) -> tuple[torch.dtype, Any]:
    """The type of the sums, PyTorch's and Triton's."""
    if factors.dtype == torch.float64:
        return torch.float64, tl.float64
    return torch.float32, tl.float32


def tile(k: int, length: int) -> tuple[int, int, int]:
    """Factors, padded, and features that one program holds, and its warps.

    >>> tile(16, 39), tile(64, 39), tile(3, 0)
    ((16, 64, 1), (64, 32, 2), (4, 1, 1))
    """
    K = triton.next_power_of_2(max(k, 1))
    M = min(triton.next_power_of_2(max(length, 1)), max(2048 // K, 1))
    return K, M, 1 if M * K <= 1024 else 2 if M * K <= 2048 else 4


def block(k: int) -> tuple[int, int]:
    """Factors, padded, and ids that one program of 128 threads holds.

    >>> block(16), block(1), block(1000)
    ((16, 32), (1, 128), (1024, 1))
    """
    K = triton.next_power_of_2(max(k, 1))
    return K, max(min(512 // K, 128), 1)


def entries_of(inputs: Inputs) -> Entries:
    """The features of a batch, flat and contiguous."""
    ids, values, offsets, fields, _, _ = inputs
    length = ids.shape[1] if offsets is None else 0
    columns = (
        fields is not None
        and offsets is None
        and (fields.dim() == 1 or fields.stride(0) == 0 or fields.shape[0] == 1)
    )
    if fields is not None:
        if columns and fields.dim() == 2:
            fields = fields[0] if len(fields) else fields.new_zeros(length)
        fields = fields.reshape(-1).contiguous()
    return Entries(
        ids.reshape(-1).contiguous(),
        None if values is None else values.reshape(-1).contiguous(),
        None if offsets is None else offsets.contiguous(),
        fields,
        inputs.n_rows,
        length,
        columns,
    )


@triton.jit
def pools_fwd_kernel(
    ids, values, factors, order, starts, counts, sums, n_pools, n,
    k: tl.constexpr, K: tl.constexpr, R: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    pool = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    c = tl.arange(0, K)
    in_k = c < k
    start = tl.load(starts + pool, mask=pool < n_pools, other=0)
    count = tl.load(counts + pool, mask=pool < n_pools, other=0)
    longest = tl.max(count, 0)
    p = tl.zeros([R, K], WIDE)
    j = 0
    while j < longest:
        live = j < count
        pos = tl.load(order + start + j, mask=live, other=0)
        i = tl.load(ids + pos, mask=live, other=0).to(tl.int64)
        live = live & (i >= 0) & (i < n)
        both = live[:, None] & in_k[None, :]
        u = tl.load(factors + i[:, None] * k + c[None, :], mask=both, other=0.0).to(WIDE)
        if values is not None:
            u = u * tl.load(values + pos, mask=live, other=0.0).to(WIDE)[:, None]
        p += u
        j += 1
    both = (pool < n_pools)[:, None] & in_k[None, :]
    tl.store(sums + pool[:, None] * k + c[None, :], p, mask=both)


def find_pools(entries: Entries, factors: Tensor, n_fields: int) -> Pools | None:
    """The pools that several features share; None where every feature is alone in its field.

    The batch's (row, field) pairs are sorted only where they do not rise already, so that rows of
    a schema without bags cost one pass over their fields.

    Raises:
        DataError: fields are not given.
    """
    fields = entries.fields
    if fields is None:
        raise DataError("fields are not given, which across_fields and pooled need")
    if len(entries.ids) < 2:
        return None
    if entries.columns:
        if len(torch.unique(fields)) == len(fields):
            return None
        fields = fields.repeat(entries.n_rows)
    key = entries.rows() * n_fields + fields  # [nnz]
    if bool((key[1:] > key[:-1]).all()):
        return None
    key, order = torch.sort(key, stable=True)
    begins = torch.ones_like(key, dtype=torch.bool)
    torch.ne(key[1:], key[:-1], out=begins[1:])
    first = begins.nonzero()[:, 0]  # [all pools]
    counts = torch.diff(first, append=first.new_tensor([len(key)]))
    shared = counts > 1
    starts, several = first[shared], counts[shared]
    if len(starts) == 0:
        return None
    slot = torch.where(shared, shared.cumsum(0) - 1, -1)  # [all pools]
    slots = torch.empty(len(key), dtype=torch.int32, device=key.device)
    slots[order] = slot[begins.cumsum(0) - 1].to(torch.int32)
    n, k = factors.shape
    dtype, wide = wide_type(factors)
    sums = factors.new_empty(len(starts), k, dtype=dtype)
    K, R = block(k)
    with device_of(factors):
        pools_fwd_kernel[(triton.cdiv(len(starts), R),)](
            entries.ids, entries.values, factors, order, starts, several, sums, len(starts), n,
            k, K, R, wide,
        )  # fmt: skip
    return Pools(slots, sums)


def occurrences_of(entries: Entries, n_features: int) -> Occurrences:
    """Sort by id, on the device and without waiting for it.

    Ids are sorted as int32 where the table has fewer than 2^31 rows: half the bytes. Those out of
    range stay out of range.
    """
    ids = entries.ids
    if ids.dtype == torch.int64 and n_features < _INT32:
        ids = ids.clamp(-1, n_features).to(torch.int32)
    ids, places = torch.sort(ids, stable=True)
    heads = ids[::CHUNK].contiguous()  # [chunks]
    owners = torch.searchsorted(heads, heads)  # the first chunk that begins with this id
    before = ids[CHUNK - 1 :: CHUNK]  # the last id of each whole chunk
    begins_earlier = before[(owners - 1).clamp(min=0).clamp(max=max(len(before) - 1, 0))] == heads \
        if len(before) else torch.zeros_like(heads, dtype=torch.bool)  # fmt: skip
    owners = owners - (begins_earlier & (owners > 0)).to(owners.dtype)
    return Occurrences(ids, places, owners.to(torch.int32))
