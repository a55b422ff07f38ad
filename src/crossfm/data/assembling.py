"""The features of all fields, row by row: the last step from columns to `Rows`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.data.encoding import Counts, Encoded, LocalIds, Looked, Pooled, Scaled

__all__ = ["Block", "assemble", "global_ids"]

# Of a field: the first id of each of its runs, and the local id after each.
Block: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]
Assembled: TypeAlias = tuple[
    NDArray[Any], NDArray[np.float32] | None, NDArray[np.int64] | None, list[Counts]
]


def assemble(
    parts: Sequence[Encoded], blocks: Sequence[Block], n: int, dtype: Any, threads: int
) -> Assembled:
    """Ids, values (None: all ones), offsets (None: equal rows), and what was unseen by field.

    Args:
        parts: each field's features of the same rows.
        blocks: where each field's ids are.
        n: number of rows.
        dtype: of the ids, int32 or int64.
        threads: of the native core.

    Raises:
        DataError: a number that float32 cannot hold when scaled.
    """
    if any(isinstance(part, Pooled) for part in parts):
        return _interleaved(parts, blocks, n, dtype)
    writer = _native.RowWriter(n, len(parts), dtype == np.int64)
    for f, (part, block) in enumerate(zip(parts, blocks, strict=True)):
        none = int(block[0][0])  # local id 0
        if isinstance(part, Looked):
            table = global_ids(block, part.ids).astype(dtype, copy=False)
            for codes, valid, bit, first, size in part.parts:
                writer.add_codes(f, codes, valid, bit, table[first : first + size], none)
        elif isinstance(part, Scaled):
            present = int(global_ids(block, np.ones(1, np.int64))[0])
            writer.add_numbers(f, part.x, part.mean, part.std, present, none)
        elif isinstance(part, LocalIds):
            one_run = len(block[0]) == 1
            ids = part.ids if one_run else global_ids(block, part.ids)
            writer.add_ids(f, ids, none if one_run else 0, none)
    ids = np.empty(n * len(parts), dtype)
    numbers = any(isinstance(part, Scaled) for part in parts)
    values = np.empty(n * len(parts), np.float32) if numbers else None
    nones, beyond = writer.write(ids, values, threads)
    for part, row in zip(parts, beyond.tolist(), strict=True):
        if row >= 0:
            assert isinstance(part, Scaled)
            raise part.beyond(row)
    return ids, values, None, [_unseen(*pair) for pair in zip(parts, nones.tolist(), strict=True)]


def global_ids(block: Block, local: NDArray[Any]) -> NDArray[Any]:
    """The schema's ids of a field's local ids."""
    starts, ends = block
    if len(starts) == 1:
        start = starts[0]
        wide = start + ends[0] > np.iinfo(local.dtype).max
        return local.astype(np.int64) + start if wide else local + local.dtype.type(start)
    run = np.searchsorted(ends, local, side="right")
    return local + (starts - np.concatenate([[0], ends[:-1]]))[run]


def _unseen(part: Encoded, nones: int) -> Counts:
    if isinstance(part, Pooled):
        return part.counts
    missing = nones if isinstance(part, Scaled) else part.missing
    return Counts(nones - missing, missing)


def _interleaved(
    parts: Sequence[Encoded], blocks: Sequence[Block], n: int, dtype: Any
) -> Assembled:
    """Rows of different lengths."""
    flat = [_flat(part) for part in parts]
    lengths = sum((1 if own is None else own for _, _, own in flat), np.zeros(n, np.int64))
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    ids = np.empty(int(offsets[-1]), dtype)
    ones = all(values is None for _, values, _ in flat)
    values = None if ones else np.ones(len(ids), np.float32)
    at = offsets[:-1].copy()  # where the next field of each row begins
    for (local, own, own_lengths), block in zip(flat, blocks, strict=True):
        if own_lengths is None:
            places = at
            at = at + 1
        else:
            starts = np.cumsum(own_lengths) - own_lengths
            places = np.arange(len(local)) + np.repeat(at - starts, own_lengths)
            at = at + own_lengths
        ids[places] = global_ids(block, local)
        if values is not None and own is not None:
            values[places] = own
    unseen = [
        _unseen(part, len(local) - int(np.count_nonzero(local)))
        for part, (local, _, _) in zip(parts, flat, strict=True)
    ]
    return ids, values, offsets, unseen


def _flat(
    part: Encoded,
) -> tuple[NDArray[Any], NDArray[np.float32] | None, NDArray[np.int64] | None]:
    """Local ids, values and lengths."""
    if isinstance(part, Pooled):
        return part.ids, part.values, part.lengths
    if isinstance(part, LocalIds):
        return part.ids, None, None
    if isinstance(part, Looked):
        n = sum(len(codes.codes) for codes in part.parts)
        block = np.array([0]), np.array([np.iinfo(part.ids.dtype).max])
        return assemble([part], [block], n, part.ids.dtype, 1)[0], None, None
    missing = np.isnan(part.x)
    with np.errstate(over="ignore"):
        values = ((part.x - part.mean) / part.std).astype(np.float32)
    beyond = np.isinf(values)
    if beyond.any():
        raise part.beyond(int(np.argmax(beyond)))
    values[missing] = 1.0
    return (~missing).astype(np.int32), values, None
