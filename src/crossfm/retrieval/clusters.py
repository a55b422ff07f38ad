"""Clusters: an approximate search that looks at the items near a query alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.data.threads import thread_count
from crossfm.retrieval.topk import LANES, ItemIndex, packed

__all__ = ["Clusters"]

PER_ROOT = 8  # clusters for each root of the number of items
PASSES = 8
SAMPLE = 64  # items a cluster that its centre is learned from
SPREAD = 2.5  # deviations above its mean that a cluster is trusted to reach
Floats = NDArray[np.float32]


class Clusters:
    r"""Items in clusters of like vectors, of which a search scans a few, exactly.

    Vectors are clustered with one number more, ``sqrt(max_j |v_j|^2 - |v|^2)``, which makes all as
    long: then the highest inner product is the least distance, and k-means, which goes by distance,
    does right by long vectors. The clusters with the highest

        <q, mean_c> + 2.5 |q| deviation_c

    are scanned, as many as `tune` found to be needed. The products are those of the exact search;
    what it misses lies in clusters that it did not look at.

    Args:
        vectors: ``[n, d]``.
        cluster_of: of each, where it is known; None: they are found by k-means.
        n_jobs: threads.
        seed: of the k-means.

    Attributes:
        cluster_of: int32 ``[n]``.
        n_clusters: how many there are.
        probes: of them a search scans.
        recall: share of the exact best that `tune` saw found; NaN before.

    Source: Neyshabur and Srebro 2015, On Symmetric and Asymmetric LSHs for Inner Product Search
    (vectors of equal length); Jegou, Douze and Schmid 2011, Product Quantization for Nearest
    Neighbor Search (inverted lists).
    """

    def __init__(
        self,
        vectors: Floats,
        cluster_of: NDArray[np.int32] | None = None,
        n_jobs: int = 1,
        seed: int = 0,
    ) -> None:
        if cluster_of is None:
            cluster_of = _clustered(vectors, thread_count(n_jobs), seed)
        self.cluster_of = cluster_of
        self.n_clusters = int(cluster_of.max(initial=0)) + 1
        self.probes, self.recall = self.n_clusters, math.nan
        d, counts = vectors.shape[1], np.bincount(cluster_of, minlength=self.n_clusters)
        # Each cluster begins a panel of its own, so that it is scanned alone.
        panels = -(-counts // LANES)
        self._end = np.cumsum(panels)
        self._begin = self._end - panels
        order = np.argsort(cluster_of, kind="stable")
        within = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat(self._begin, counts) * LANES + within
        self._row = np.full(int(self._end[-1]) * LANES, -1)
        self._row[at] = order
        self._scan = _native.ItemScan(d, False)
        self._scan.put(at, np.ascontiguousarray(vectors[order]))
        if len(self._row) > self._scan.count:  # the last panel is whole too
            rest = np.arange(self._scan.count, len(self._row))
            self._scan.put(rest, np.zeros((len(rest), d), np.float32))
        self._mean, deviation = _moments(vectors, cluster_of, counts)
        self._summary = ItemIndex(d + 1)
        self._summary.put(
            np.arange(self.n_clusters), np.concatenate([self._mean, deviation[:, None]], axis=1)
        )
        self.allow(np.ones(len(vectors), bool))

    def __len__(self) -> int:
        return len(self.cluster_of)

    @property
    def nbytes(self) -> int:
        """Memory, beside the exact index."""
        return int(self._scan.nbytes + self._row.nbytes + self.cluster_of.nbytes)

    def allow(self, rows: NDArray[np.bool_]) -> None:
        """Which vectors can be found from now on."""
        self._allowed = packed((self._row >= 0) & rows[self._row])

    def tune(self, queries: Floats, best: NDArray[np.int64], recall: float) -> float:
        """Set `probes` to the fewest that find a share of what the exact search does.

        Args:
            queries: ``[m, d]``, such as those to come.
            best: rows that the exact search names ``[m, k]``; -1: fewer.
            recall: the share, on average.

        Returns:
            the share that is found, at least `recall`.
        """
        order, _ = self._summary.top(self._reach(queries), self.n_clusters)
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(self.n_clusters)[None], axis=1)
        needed = np.take_along_axis(rank, self.cluster_of[np.maximum(best, 0)], axis=1)
        needed = np.sort(needed[best >= 0])
        wanted = min(len(needed), math.ceil(recall * len(needed)))
        self.probes = int(needed[wanted - 1]) + 1 if wanted else 1
        found = (needed < self.probes).mean() if len(needed) else 1.0
        self.recall = float(found)
        return self.recall

    def top(
        self, queries: Floats, k: int, n_jobs: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k highest products of each query among the clusters that are scanned.

        Returns:
            rows ``[m, k]`` and products, best first; -1 and -inf where fewer were found.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        threads = thread_count(n_jobs)
        chosen, _ = self._summary.top(self._reach(queries), self.probes, None, threads)
        places = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        self._scan.top_in(
            queries, k, self._begin[chosen], self._end[chosen], self._allowed, places, scores,
            threads,
        )  # fmt: skip
        return np.where(places < 0, -1, self._row[places]), scores

    def nearest(self, vectors: Floats) -> NDArray[np.int64]:
        """The cluster that a further vector belongs to."""
        return _nearest(vectors, self._mean, 1)

    @staticmethod
    def _reach(queries: Floats) -> Floats:
        """Queries whose product with a cluster's summary is how high its items reach."""
        length = SPREAD * np.linalg.norm(queries, axis=1, keepdims=True)
        return np.concatenate([queries, length], axis=1, dtype=np.float32)


def _clustered(vectors: Floats, threads: int, seed: int) -> NDArray[np.int32]:
    """k-means of the vectors made equally long: the cluster of each."""
    n = len(vectors)
    wanted = max(1, min(round(PER_ROOT * math.sqrt(n)), n // LANES))
    squares = np.einsum("nd,nd->n", vectors, vectors)
    more = np.sqrt(np.maximum(squares.max(initial=0) - squares, 0))
    points = np.concatenate([vectors, more[:, None]], axis=1, dtype=np.float32)
    rng = np.random.default_rng(seed)
    some = points[rng.permutation(n)[: SAMPLE * wanted]]
    centres = some[:wanted].copy()
    for _ in range(PASSES):
        nearest = _nearest(some, centres, threads)
        counts = np.bincount(nearest, minlength=wanted)
        centres, _ = _moments(some, nearest, counts)
        lost = np.flatnonzero(counts == 0)
        centres[lost] = some[rng.integers(0, len(some), len(lost))]
    found = _nearest(points, centres, threads)
    return np.unique(found, return_inverse=True)[1].astype(np.int32)  # none is empty


def _nearest(points: Floats, centres: Floats, threads: int) -> NDArray[np.int64]:
    """The nearest centre: the highest ``<x, c> - |c|^2 / 2``."""
    index = ItemIndex(points.shape[1] + 1)
    half = -0.5 * np.einsum("cd,cd->c", centres, centres)[:, None]
    index.put(np.arange(len(centres)), np.concatenate([centres, half], axis=1))
    one = np.ones((len(points), 1), np.float32)
    return index.top(np.concatenate([points, one], axis=1), 1, None, threads)[0][:, 0]


def _moments(
    vectors: Floats, cluster_of: NDArray[Any], counts: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Mean ``[c, d]`` of each cluster, and the deviation from it ``[c]`` along one direction."""
    n, (_, d) = len(counts), vectors.shape
    size = np.maximum(counts, 1)
    sums = np.stack([np.bincount(cluster_of, vectors[:, j], n) for j in range(d)], axis=1)
    mean = (sums / size[:, None]).astype(np.float32)
    apart = vectors - mean[cluster_of]
    squares: NDArray[Any] = np.bincount(cluster_of, np.einsum("nd,nd->n", apart, apart), n)
    return mean, np.sqrt(squares / size / d).astype(np.float32)
