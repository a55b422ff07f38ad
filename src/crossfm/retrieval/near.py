"""Near: a catalogue's approximate search, right about items that came or went since it was made."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.retrieval.clusters import Clusters
from crossfm.retrieval.topk import ItemIndex, products
from crossfm.retrieval.vectors import Vectors

__all__ = ["Near", "some_queries"]

Found = tuple[NDArray[np.int64], NDArray[np.float32]]


class Near:
    """Clusters of the items that were there, and beside them those that are new, scanned whole.

    Args:
        index: the exact search.
        live: places of items that can be found.
        cluster_of: of each live item, where it is known.

    Attributes:
        clusters: of the items as they were.
        k: items of a list, by which `recall` was measured.
    """

    def __init__(
        self,
        index: ItemIndex,
        live: NDArray[np.bool_],
        cluster_of: NDArray[np.int32] | None = None,
        n_jobs: int = 1,
    ) -> None:
        self._index, self._place = index, np.flatnonzero(live)
        self._row = np.full(len(live), -1)
        self._row[self._place] = np.arange(len(self._place))
        self.clusters = Clusters(index.vectors(self._place), cluster_of, n_jobs)
        self._old = np.ones(len(self._place), bool)  # rows whose vector is as it was
        self._new = np.zeros(0, np.int64)  # places of items that came or changed since
        self.k = 0

    def measure(
        self, queries: NDArray[np.float32], k: int, recall: float, live: NDArray[np.bool_],
        n_jobs: int,
    ) -> float:  # fmt: skip
        """Look at as few clusters as find a share of the exact best k; the share found."""
        self.k = k
        best, _ = self._index.top(queries, min(k, len(self._place)), live, n_jobs)
        rows = np.where(best < 0, -1, self._row[best])
        return self.clusters.tune(queries, rows, recall)

    def changed(self, places: NDArray[np.int64], live: NDArray[np.bool_]) -> None:
        """Items came, or changed."""
        known = places[places < len(self._row)]
        rows = self._row[known]
        self._old[rows[rows >= 0]] = False
        self._new = np.union1d(self._new, places)
        self.removed(live)

    def removed(self, live: NDArray[np.bool_]) -> None:
        """Items went."""
        self._new = self._new[live[self._new]]
        self.clusters.allow(self._old & live[self._place])

    def state(self, live: NDArray[np.bool_]) -> tuple[dict[str, Any], NDArray[np.int32]]:
        """For JSON, and the cluster of each live item; new ones join the nearest."""
        cluster_of = np.zeros(len(live), np.int64)
        cluster_of[self._place] = self.clusters.cluster_of
        cluster_of[self._new] = self.clusters.nearest(self._index.vectors(self._new))
        cluster_of = cluster_of[live]
        kept, numbers = np.unique(cluster_of, return_inverse=True)
        probes = min(self.clusters.probes, len(kept))
        state = {"k": self.k, "probes": probes, "recall": self.clusters.recall}
        return state, numbers.astype(np.int32)

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.k = int(state["k"])
        self.clusters.probes = max(1, min(int(state["probes"]), self.clusters.n_clusters))
        self.clusters.recall = float(state["recall"])

    def top(self, queries: NDArray[np.float32], k: int, n_jobs: int) -> Found:
        """Places and products of the best, as `ItemIndex.top` gives them."""
        rows, scores = self.clusters.top(queries, k, n_jobs)
        places = np.where(rows < 0, -1, self._place[rows])
        if not len(self._new):
            return places, scores
        fresh = products(queries, self._index.vectors(self._new))
        both = np.concatenate([scores, fresh], axis=1)
        at = np.concatenate([places, np.broadcast_to(self._new, fresh.shape)], axis=1)
        order = np.lexsort((at, -both))[:, :k]
        return np.take_along_axis(at, order, 1), np.take_along_axis(both, order, 1)


def some_queries(sides: Vectors, n: int, rng: np.random.Generator) -> Any:
    """Queries drawn at random: a known value of each of the query's fields, all alike."""
    schema: Any = sides.model.schema
    field_of = schema.field_of_
    ids = []
    for field in sides.query_fields:
        own = np.flatnonzero(field_of == field)
        own = own[1:] if len(own) > 1 else own  # the first is "unknown"
        ids.append(rng.choice(own, n))
    return sides.of_queries(Rows(np.stack(ids, axis=1)))[0]
