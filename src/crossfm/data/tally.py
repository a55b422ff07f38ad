"""Targets seen block by block: their mean and deviation, and the labels among them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm.errors import DataError

__all__ = ["TargetTally"]

MOST_LABELS = 65_536  # more distinct numbers are no classes


class TargetTally:
    """Weighted mean, deviation and distinct values of targets that come in blocks.

    Labels that are no numbers become their position in `labels`.

    Args:
        rows: how many targets were seen.
        weight: sum of their weights.
        mean: of numbers, weighted.
        spread: weighted sum of squared differences from the mean.
        labels: distinct values in the order in which they were first seen, of JSON's types; None
            where they are more than 65,536.
        weights: summed weight of each label.
        kind: "number", "integer", "bool" or "string".

    Example:
        >>> tally = TargetTally()
        >>> tally.take(np.array(["no", "yes", "no"])), tally.take(np.array(["yes"]))
        (array([0., 1., 0.], dtype=float32), array([1.], dtype=float32))
        >>> tally.labels, tally.weights
        (['no', 'yes'], [2.0, 2.0])
    """

    def __init__(
        self,
        rows: int = 0,
        weight: float = 0.0,
        mean: float = 0.0,
        spread: float = 0.0,
        labels: list[Any] | None = None,
        weights: list[float] | None = None,
        kind: str = "",
    ) -> None:
        self.rows, self.weight, self.mean, self.spread = rows, weight, mean, spread
        self.labels: list[Any] | None = [] if kind == "" else labels
        self.weights = weights or []
        self.kind = kind
        self._place = {label: at for at, label in enumerate(self.labels or ())}

    def take(
        self, y: NDArray[Any], weights: NDArray[np.float32] | None = None
    ) -> NDArray[np.floating]:
        """Take up a block; its targets as they are stored.

        Raises:
            DataError: a target that is missing or not finite; labels of several kinds; more
                labels that are no numbers than 65,536.
        """
        kind, y = self._checked(np.asarray(y))
        if self.kind and kind != self.kind:
            if "string" in (kind, self.kind):
                raise DataError(f"targets from row {self.rows} on are {kind}s, before {self.kind}s")
            kind = "number" if "bool" not in (kind, self.kind) else "integer"
            if kind == "number" and self.labels is not None:
                self.labels = [float(label) for label in self.labels]
                self._place = {label: at for at, label in enumerate(self.labels)}
        self.kind = kind
        stored = self._label(y, weights)
        if kind == "string":
            self.weight += len(y) if weights is None else float(weights.sum(dtype=np.float64))
        else:
            self._measure(y.astype(np.float64), weights)
            narrow = y.astype(np.float32)
            stored = narrow if (narrow == y).all() else y.astype(np.float64)
        self.rows += len(y)
        return stored

    @property
    def std(self) -> float:
        """Weighted deviation."""
        return math.sqrt(self.spread / self.weight) if self.weight else 0.0

    def state(self) -> dict[str, Any]:
        """The arguments that make it again, of JSON's types."""
        names = ("rows", "weight", "mean", "spread", "labels", "weights", "kind")
        return {name: getattr(self, name) for name in names}

    def label_array(self) -> NDArray[Any] | None:
        """The labels as an array of their kind, or None."""
        if self.labels is None:
            return None
        if self.kind == "string":
            return np.array(self.labels, dtype=object).astype(str)
        kinds = {"bool": np.bool_, "integer": np.int64, "number": np.float64}
        return np.array(self.labels, dtype=kinds[self.kind])

    def _checked(self, y: NDArray[Any]) -> tuple[str, NDArray[Any]]:
        if y.dtype == object:
            missing = np.fromiter((v is None or v != v for v in y), bool, len(y))
            if missing.any():
                row = self.rows + int(np.argmax(missing))
                raise DataError(f"row {row}: the target is missing; drop such rows, or fill it in")
            if all(isinstance(v, str) for v in y):
                return "string", y
            try:
                y = np.array(y.tolist())
            except ValueError as error:
                raise DataError(f"targets from row {self.rows} on are no vector") from error
        if y.ndim != 1 or y.dtype.kind not in "biufU":
            raise DataError(
                f"targets from row {self.rows} on are of type {y.dtype}, expected numbers or"
                " strings"
            )
        if y.dtype.kind == "f":
            bad = ~np.isfinite(y) | (np.abs(y) > np.finfo(np.float32).max)
            if bad.any():
                at = int(np.argmax(bad))
                raise DataError(
                    f"row {self.rows + at}: the target is {y[at]}, expected a finite number that"
                    " float32 can hold; drop the row, or fill it in"
                )
        return {"b": "bool", "f": "number", "U": "string"}.get(y.dtype.kind, "integer"), y

    def _label(self, y: NDArray[Any], weights: NDArray[np.float32] | None) -> NDArray[np.floating]:
        """Count labels; the position of each."""
        if self.labels is None:
            return np.zeros(0, np.float32)
        distinct, place = np.unique(y, return_inverse=True)
        positions = np.zeros(len(distinct), np.float32)
        sums = np.bincount(place, weights, len(distinct))
        for at, (label, weight) in enumerate(zip(distinct.tolist(), sums.tolist(), strict=True)):
            position = self._place.setdefault(label, len(self.labels))
            if position == len(self.labels):
                self.labels.append(label)
                self.weights.append(0.0)
            self.weights[position] += weight
            positions[at] = position
        if len(self.labels) > MOST_LABELS:
            if self.kind == "string":
                raise DataError(f"the targets are more than {MOST_LABELS:,} different strings")
            self.labels, self.weights, self._place = None, [], {}
        return positions[place]

    def _measure(self, y: NDArray[np.float64], weights: NDArray[np.float32] | None) -> None:
        """Mean and spread of all so far (Chan, Golub, LeVeque 1979)."""
        c = np.ones(len(y)) if weights is None else weights.astype(np.float64)
        weight = float(c.sum())
        mean = float(np.average(y, weights=c))
        spread = float((c * (y - mean) ** 2).sum())
        total = self.weight + weight
        apart = mean - self.mean
        self.mean += apart * weight / total
        self.spread += spread + apart**2 * self.weight * weight / total
        self.weight = total
