"""A slow schema in plain Python: the definition that the fast one is held to.

It imports nothing of crossfm. A field is a dict of its options, a frame a dict of lists of
Python values (None: missing), a row of the result a list of (id, value).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

Frame = dict[str, list[Any]]
MASK = 2**64 - 1


def bucket(text: str, n_buckets: int) -> int:
    """FNV-1a over the bytes, finished as MurmurHash3 does."""
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 & MASK
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        h = (h ^ h >> 33) * factor & MASK
    return (h ^ h >> 33) % n_buckets


class OracleSchema:
    def __init__(self, fields: list[dict[str, Any]]) -> None:
        self.fields = fields
        self.counts: list[Counter[Any]] = [Counter() for _ in fields]
        self.ids: list[dict[Any, int]] = [{} for _ in fields]  # value -> id
        self.first: list[int] = []  # the unknown or missing id of each field
        self.scales: list[tuple[float, float]] = [(0.0, 1.0)] * len(fields)
        self.seen = [False] * len(fields)
        self.n_features = 0

    def fit(self, frame: Frame) -> OracleSchema:
        for f, field in enumerate(self.fields):
            self.first.append(self.n_features)
            self.n_features += 1
            if field["kind"] == "numeric":
                self.n_features += 1
            elif field.get("hash_buckets"):
                self.n_features += field["hash_buckets"]
            self._learn(f, frame)
        return self

    def partial_fit(self, frame: Frame) -> OracleSchema:
        for f in range(len(self.fields)):
            self._learn(f, frame)
        return self

    def _learn(self, f: int, frame: Frame) -> None:
        field = self.fields[f]
        if field["kind"] == "numeric":
            if not self.seen[f]:
                x = [scaled(field, v) for v in frame[field["name"]] if v is not None]
                if x:
                    self.seen[f] = True
                    mean = math.fsum(x) / len(x)
                    std = math.sqrt(math.fsum((v - mean) ** 2 for v in x) / len(x))
                    if field["scale"] != "raw":
                        constant = std <= 1e-12 * max(abs(v) for v in x)
                        self.scales[f] = mean, 1.0 if constant else std
            return
        if field.get("hash_buckets"):
            return
        batch = Counter(
            v for bag in self._bags(f, frame) if bag is not None for v in bag if v is not None
        )
        least = field.get("min_count", 1)
        totals = {v: n + self.counts[f][v] for v, n in batch.items() if v not in self.ids[f]}
        new = [v for v, n in totals.items() if n >= least]
        for value in sorted(new, key=lambda v: (-totals[v], sort_key(v))):
            self.ids[f][value] = self.n_features
            self.n_features += 1
        self.counts[f].update(batch)

    def _bags(self, f: int, frame: Frame) -> list[Any]:
        """Each row's values, None where the row is missing."""
        field = self.fields[f]
        column = frame[field["name"]]
        if field["kind"] == "categorical":
            return [None if v is None or v == "" else [v] for v in column]
        if field.get("sep"):
            split = [None if v is None else v.split(field["sep"]) for v in column]
            return [None if v is None else [t.strip() for t in v if t.strip()] for v in split]
        return [None if bag is None else [None if v == "" else v for v in bag] for bag in column]

    def transform(self, frame: Frame) -> list[list[tuple[int, float]]]:
        n = len(next(iter(frame.values())))
        rows: list[list[tuple[int, float]]] = [[] for _ in range(n)]
        for f, field in enumerate(self.fields):
            if field["kind"] == "numeric":
                mean, std = self.scales[f]
                for row, v in zip(rows, frame[field["name"]], strict=True):
                    if v is None:
                        row.append((self.first[f], 1.0))
                    else:
                        row.append((self.first[f] + 1, (scaled(field, v) - mean) / std))
                continue
            weights = frame[field["weights"]] if field.get("weights") else [None] * n
            for row, bag, given in zip(rows, self._bags(f, frame), weights, strict=True):
                if bag is None:
                    row.append((self.first[f], 1.0))
                    continue
                w = [1.0] * len(bag) if given is None else list(given)
                pooling = field.get("pooling", "sum")
                norm = sum(w) if pooling == "mean" else math.sqrt(sum(v * v for v in w))
                if pooling != "sum" and norm > 0:
                    w = [v / norm for v in w]
                summed: dict[int, float] = {}
                for value, weight in zip(bag, w, strict=True):
                    i = self._id(f, value)
                    summed[i] = summed.get(i, 0.0) + weight
                row += summed.items()
        return rows

    def _id(self, f: int, value: Any) -> int:
        n_buckets = self.fields[f].get("hash_buckets")
        if value is None:
            return self.first[f]
        if n_buckets:
            return self.first[f] + 1 + bucket(str(value), n_buckets)
        return self.ids[f].get(value, self.first[f])


def sort_key(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def scaled(field: dict[str, Any], x: float) -> float:
    return math.copysign(math.log1p(abs(x)), x) if field["scale"] == "log" else x
