"""Exact top-k by PyTorch, on a GPU or wherever its tensors are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossfm.errors import DataError

__all__ = ["TorchIndex"]

AT_ONCE = 1 << 28  # scores held at a time: 1 GiB


class TorchIndex:
    """Vectors of items by place, and the search for the highest inner products on a device.

    What `crossfm.retrieval.ItemIndex` is on processors; ``Retriever(..., device="cuda")`` takes it.
    All products are formed, a block of queries at a time, and the best kept.

    Args:
        dimension: length of a vector.
        device: such as "cuda" or "cuda:1"; "cpu" works too.

    Raises:
        DataError: no such device here.

    Example:
        >>> index = TorchIndex(2, "cpu")
        >>> index.put(np.arange(3), np.array([[1, 0], [0, 1], [1, 1]], np.float32))
        >>> places, products = index.top(np.array([[1, 2]], np.float32), 2)
        >>> places.tolist(), products.tolist()
        ([[2, 1]], [[3.0, 2.0]])
    """

    storage = "float32"

    def __init__(self, dimension: int, device: str = "cuda") -> None:
        self.dimension = dimension
        try:
            self._vectors = torch.empty((0, dimension), dtype=torch.float32, device=device)
        except (RuntimeError, AssertionError) as error:
            words = str(error).strip().splitlines() or ["not there"]
            raise DataError(f"the device {device!r} cannot be used: {words[0]}") from error
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Memory of the vectors, on the device."""
        return self._vectors.numel() * 4

    def put(self, places: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add or replace vectors; places from the length on are new.

        Raises:
            DataError: numbers that are not finite.
        """
        if not np.isfinite(vectors).all():
            raise DataError("vectors hold numbers that are not finite")
        if not len(places):
            return
        count = max(self._count, int(places.max()) + 1)
        if count > len(self._vectors):
            room = count if not self._count else max(count, len(self._vectors) * 3 // 2)
            grown = self._vectors.new_zeros((room, self.dimension))
            grown[: self._count] = self._vectors[: self._count]
            self._vectors = grown
        self._count = count
        self._vectors[self._to(places)] = self._to(np.ascontiguousarray(vectors, np.float32))

    def vectors(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of some places, ``[m, d]``."""
        found: NDArray[np.float32] = self._vectors[self._to(places)].cpu().numpy()
        return found

    def top(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_] | None = None,
        n_jobs: int = 1,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The places of the k highest products with each query ``[n, d]``, and the products.

        Best first; -1 and -inf where fewer items are allowed. Among equal products at the end of
        the list any may be taken.

        Args:
            queries: ``[n, d]``.
            k: at least 1.
            allowed: bool ``[len]``; None: all.
            n_jobs: of no use here.
        """
        places = np.full((len(queries), k), -1)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        wanted = min(k, self._count)
        if not wanted or not len(queries):
            return places, scores
        items = self._vectors[: self._count].T
        shut = None if allowed is None else self._to(~allowed)
        step = max(1, AT_ONCE // self._count)
        for low in range(0, len(queries), step):
            part = self._to(np.ascontiguousarray(queries[low : low + step], np.float32))
            products = part @ items
            if shut is not None:
                products.masked_fill_(shut, -torch.inf)
            best = products.topk(wanted, dim=1)
            found: Any = best.values.cpu().numpy()
            at: Any = best.indices.cpu().numpy()
            order = np.lexsort((at, -found))
            scores[low : low + step, :wanted] = np.take_along_axis(found, order, 1)
            places[low : low + step, :wanted] = np.take_along_axis(at, order, 1)
        places[np.isneginf(scores)] = -1
        return places, scores

    def _to(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array.copy()).to(self._vectors.device)
