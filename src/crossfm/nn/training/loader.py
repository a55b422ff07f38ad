"""Loader: mini-batches of Rows as tensors, gathered by index operations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.nn.batch import Batch

__all__ = ["Loader"]

SHARE = 0.3  # of a GPU's free memory that rows may take to lie there for good


class _Piece(NamedTuple):
    """What the host knows of a batch, so that no device has to be asked."""

    first: int
    last: int
    n_ids: int


@final
class Loader:
    """Batches of `Rows`, in order or shuffled, without a Python loop over rows.

    The rows become one `Batch`, which stays on the device where it fits there. A batch is gathered
    from it: rows of one length by their numbers, rows of several lengths by the places of their
    features. Where it does not fit, batches are gathered in page-locked memory of two buffers, and
    copied while the batch before is in use. The n rows of an epoch make ``ceil(n / batch_size)``
    batches, which differ by one row at most.

    Args:
        rows: with targets and weights, or without; validated.
        batch_size: rows a batch at most.
        device: where batches are to lie.
        only: ``[n]``, the rows to go through; None: all.
        resident: whether the rows stay on the device; None: where they fit.

    Raises:
        DataError: no rows, broken rows, a batch size below 1.

    Example:
        >>> rows = Rows(np.array([[0, 2], [1, 2], [0, 3]]))
        >>> [batch.ids.tolist() for batch in Loader(rows, batch_size=2)]
        [[[0, 2], [1, 2]], [[0, 3]]]
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int = 4096,
        *,
        device: torch.device | str = "cpu",
        only: NDArray[np.int64] | None = None,
        resident: bool | None = None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size!r}, expected 1 or more")
        if len(rows) == 0 or (only is not None and len(only) == 0):
            raise DataError("no rows to make batches of")
        if only is not None and not 0 <= int(only.min()) <= int(only.max()) < len(rows):
            raise DataError(f"only names rows {only.min()} to {only.max()} of {len(rows)}")
        self.device = torch.device(device)
        self.batch_size = batch_size
        whole = Batch.of(rows)
        self._lengths = None if whole.offsets is None else whole.offsets.diff()  # on the host
        self._only = None if only is None else torch.as_tensor(np.ascontiguousarray(only))
        self.n_rows = len(rows) if only is None else len(only)
        on_gpu = self.device.type == "cuda"
        if resident is None:
            resident = not on_gpu or _size(whole) <= SHARE * torch.cuda.mem_get_info(self.device)[0]
        self.resident = resident
        self._whole = whole.to(self.device) if resident else whole
        self._buffers: list[dict[str, Tensor]] = [{}, {}]

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.n_rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def order(self, generator: torch.Generator) -> Tensor:
        """The rows in random order, from a generator of the CPU: the same on every device."""
        mixed = torch.randperm(self.n_rows, generator=generator)
        return mixed if self._only is None else self._only[mixed]

    def batches(self, order: Tensor | None = None, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            order: int64 ``[n_rows]`` on the CPU, from `order`; None: as the rows stand.
            skip: batches to leave out at the start.
        """
        if order is None:
            order = torch.arange(self.n_rows) if self._only is None else self._only
        pieces = self._pieces(order)[skip:]
        if self.resident:
            order = order.to(self.device)
            for piece in pieces:
                yield _gather(self._whole, order[piece.first : piece.last], piece.n_ids, None)
        else:
            yield from self._copied(order, pieces)

    def _pieces(self, order: Tensor) -> list[_Piece]:
        n, parts = self.n_rows, len(self)
        bounds = [-(-part * n // parts) for part in range(parts + 1)]
        if self._lengths is None:
            sizes = [0] * parts
        else:
            ends = torch.cat([torch.zeros(1, dtype=torch.int64), self._lengths[order].cumsum(0)])
            sizes = ends[bounds].diff().tolist()
        return [_Piece(*piece) for piece in zip(bounds[:-1], bounds[1:], sizes, strict=True)]

    def _copied(self, order: Tensor, pieces: list[_Piece]) -> Iterator[Batch]:
        """Gathered on the host, copied to the device beside its work."""
        if self.device.type != "cuda":
            for piece in pieces:
                part = order[piece.first : piece.last]
                yield _gather(self._whole, part, piece.n_ids, None).to(self.device)
            return
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        # Of each buffer: copied to the device.
        read = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]
        for number, piece in enumerate(pieces):
            at = number % 2
            read[at].synchronize()  # no wait where it was never recorded
            part = order[piece.first : piece.last]
            pinned = _gather(self._whole, part, piece.n_ids, self._buffers[at])
            with torch.cuda.stream(stream):
                batch = pinned.to(self.device, non_blocking=True)
                read[at].record(stream)
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(stream)
            for tensor in batch:
                if isinstance(tensor, Tensor):
                    tensor.record_stream(current)
            yield batch


def _gather(whole: Batch, index: Tensor, n_ids: int, buffers: dict[str, Tensor] | None) -> Batch:
    """The rows of an index; into page-locked buffers, where these are given."""

    def pick(name: str, source: Tensor, at: Tensor) -> Tensor:
        if buffers is None:
            return source.index_select(0, at)
        shape = (len(at), *source.shape[1:])
        n = int(np.prod(shape))
        if name not in buffers or buffers[name].numel() < n:
            buffers[name] = torch.empty(n + n // 8, dtype=source.dtype, pin_memory=True)
        out = buffers[name][:n].view(shape)
        return torch.index_select(source, 0, at, out=out)

    places, offsets = index, None
    if whole.offsets is not None:
        starts = whole.offsets.index_select(0, index)
        lengths = whole.offsets.index_select(0, index + 1) - starts
        offsets = torch.zeros(len(index) + 1, dtype=torch.int64, device=index.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        places = torch.arange(n_ids, device=index.device)
        places += (starts - offsets[:-1]).repeat_interleave(lengths, output_size=n_ids)
        if buffers is not None:
            offsets = pick("offsets", offsets, torch.arange(len(offsets)))
    return Batch(
        pick("ids", whole.ids, places),
        None if whole.values is None else pick("values", whole.values, places),
        offsets,
        None if whole.fields is None else pick("fields", whole.fields, places),
        None if whole.targets is None else pick("targets", whole.targets, index),
        None if whole.weights is None else pick("weights", whole.weights, index),
        whole.checked,
    )


def _size(batch: Batch) -> int:
    """Bytes."""
    return sum(part.numel() * part.element_size() for part in batch if isinstance(part, Tensor))
