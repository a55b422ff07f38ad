"""crossfm: the exact search of `crossfm.retrieval.ItemIndex`, on one thread."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.workers.searching import Search


class Ours(Search):
    """Vectors as float32; the same as bfloat16, scored again, where it is asked."""

    def version(self) -> str:
        import crossfm
        from crossfm import _native

        return f"crossfm {crossfm.__version__} ({_native.isa})"

    def take(self, vectors: np.ndarray) -> None:
        from crossfm.retrieval import ItemIndex

        self.indexes = {}
        for storage in ("float32", "bfloat16"):
            index = ItemIndex(vectors.shape[1], storage)
            index.put(np.arange(len(vectors)), vectors)
            self.indexes[storage] = index
        self.storage = "float32"

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self.indexes[self.storage].top(queries, k)

    def answer(self, **request: Any) -> dict[str, Any]:
        self.storage = request.pop("storage", "float32")
        return super().answer(**request)


def entrant() -> Search:
    """For the worker."""
    return Ours()
