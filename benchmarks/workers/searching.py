"""Searches for the highest inner products, timed one after another."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import Any

import numpy as np

from benchmarks.workers import Service


class Search(Service):
    """A library that holds vectors and searches them on one thread.

        {"do": "ask", "vectors": path}                     -> {"seconds": of taking them in}
        {"do": "ask", "queries": path, "k": k, "at_once": n, "found": path}
                                                           -> {"seconds": of searches of n each}

    `found` gets the places and scores of the first n queries.
    """

    @abstractmethod
    def take(self, vectors: np.ndarray) -> None:
        """Take vectors in."""

    @abstractmethod
    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Places and scores ``[n, k]``, best first."""

    def answer(self, **request: Any) -> dict[str, Any]:
        """See the class."""
        if "vectors" in request:
            vectors = np.load(request["vectors"])
            started = time.perf_counter()
            self.take(vectors)
            return {"seconds": time.perf_counter() - started}
        queries, n = np.load(request["queries"]), request["at_once"]
        seconds = []
        first = None
        for at in range(0, len(queries), n):
            part = np.ascontiguousarray(queries[at : at + n])
            started = time.perf_counter()
            found = self.search(part, request["k"])
            seconds.append(time.perf_counter() - started)
            first = found if first is None else first
        assert first is not None
        np.savez(request["found"], places=first[0], scores=first[1])
        return {"seconds": seconds}
