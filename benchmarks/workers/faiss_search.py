"""faiss: IndexFlatIP, the exact search by inner product, on one thread."""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks.workers.searching import Search


class Faiss(Search):
    """All vectors, none compressed."""

    def version(self) -> str:
        return f"faiss-cpu {faiss.__version__}"

    def take(self, vectors: np.ndarray) -> None:
        faiss.omp_set_num_threads(1)
        self.index = faiss.IndexFlatIP(vectors.shape[1])
        self.index.add(vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, places = self.index.search(queries, k)
        return places, scores


def entrant() -> Search:
    """For the worker."""
    return Faiss()
