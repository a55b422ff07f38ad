"""Validation during a fit: which rows, which metrics, and lines on the terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.estimators._targets import Targets
from crossfm.fitting import History, Watch
from crossfm.metrics import Metric, get_metric

__all__ = ["Lines", "check_fraction", "expect_a_best", "held_out", "metrics_of", "watch_rows"]

Array = NDArray[Any]
SILENT_SECONDS = 20.0  # at most, before a line says how far it is


def metrics_of(eval_metric: Any, default: str | Metric) -> list[Metric]:
    """The metrics to report; the first decides."""
    if eval_metric is None:
        eval_metric = default
    given = eval_metric if isinstance(eval_metric, list | tuple) else [eval_metric]
    if not given:
        raise DataError("eval_metric is an empty list, expected at least one metric")
    return [get_metric(metric) for metric in given]


def watch_rows(
    rows: Rows,
    codes: NDArray[np.float32],
    weight: Array | None,
    targets: Targets,
    metrics: Sequence[Metric],
    patience: int,
) -> Watch:
    """Validation of `rows` after each epoch, on the scale of the data."""

    def evaluate(scores: NDArray[np.float32]) -> dict[str, float]:
        scaled = scores if targets.std == 1 and targets.mean == 0 else (
            scores.astype(np.float64) * targets.std + targets.mean
        )  # fmt: skip
        return {
            metric.name: float(
                metric(
                    targets.truth(codes, metric.needs),
                    targets.shown(scaled, metric.needs),
                    sample_weight=weight,
                )
            )
            for metric in metrics
        }

    first = metrics[0]

    def improves(new: float, best: float) -> bool:  # any number improves on NaN
        return first.improves(new, best) or (math.isnan(best) and not math.isnan(new))

    truth = rows.replace(
        targets=codes, weights=None if weight is None else np.asarray(weight, np.float32)
    )
    return Watch(truth, evaluate, first.name, improves, patience)


def expect_a_best(history: History, name: str) -> None:
    """Refuse a fit whose deciding metric never was a number."""
    if history.epochs and all(math.isnan(epoch.metrics[name]) for epoch in history.epochs):
        raise DataError(
            f"metric {name!r} was NaN after each of {len(history.epochs)} epochs, so that none is"
            " the best; put a metric first in eval_metric that is defined on these validation rows"
        )


def held_out(
    n: int, fraction: Any, strata: Array | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows to hold out, both in order; each stratum in proportion.

    Raises:
        DataError: a fraction out of range, or too few rows for it.

    Example:
        >>> kept, held = held_out(10, 0.2, np.array([0] * 5 + [1] * 5), seed=0)
        >>> len(kept), sorted((held // 5).tolist())
        (8, [0, 1])
    """
    check_fraction(fraction)
    rng = np.random.default_rng([seed, 1])
    place = rng.random(n)
    if strata is None:
        strata = np.zeros(n, np.int8)
    order = np.lexsort((place, strata))  # by stratum, shuffled inside
    sizes = np.bincount(strata)
    rank = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    quota = np.repeat(np.floor(sizes * fraction + 0.5), sizes)
    held = np.zeros(n, bool)
    held[order[rank < quota]] = True
    if not held.any() or held.all():
        raise DataError(
            f"too few rows to hold out {fraction:g} of them (n_samples = {n}); give"
            " eval_set=(X, y), or early_stopping=False"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def check_fraction(fraction: Any) -> None:
    """Refuse a validation_fraction that is no share.

    Raises:
        DataError: it is no number between 0 and 1.
    """
    if not isinstance(fraction, int | float | np.number) or not 0.0 < fraction < 1.0:
        raise DataError(f"validation_fraction is {fraction!r}, expected a number between 0 and 1")


class Lines:
    """One line an epoch: loss, validation metrics, rows a second, time left; in long ones, more."""

    def __init__(self, write: Callable[[str], Any] | None = None) -> None:
        self.write = write or print
        self.started = self.told = time.perf_counter()

    def __call__(self, event: str, told: Mapping[str, float]) -> None:
        """A progress callback."""
        if event != "epoch":
            self._meanwhile(event, told)
            return
        self.told = time.perf_counter()
        number, of = int(told["epoch"]), int(told["of"])
        left = (time.perf_counter() - self.started) / number * (of - number)
        metrics = [
            f"{name} {value:.5f}"
            for name, value in told.items()
            if name not in ("epoch", "of", "loss", "rows_per_second")
        ]
        shown = [
            f"epoch {number:>{len(str(of))}}/{of}",
            f"loss {told['loss']:.5f}",
            *metrics,
            f"{told['rows_per_second']:,.0f} rows/s",
            f"{left:.0f} s left" if number < of else "done",
        ]
        self.write("  ".join(shown))

    def _meanwhile(self, event: str, told: Mapping[str, float]) -> None:
        """A line now and then in what takes longer: reading, an epoch over many rows."""
        now = time.perf_counter()
        if now - self.told < SILENT_SECONDS:
            return
        self.told, rows = now, int(told["rows"])
        if event == "read":
            self.write(f"pass {told['pass']:.0f}/{told['of']:.0f} over the files  {rows:,} rows")
        elif event == "rows":
            of, rate = int(told["n_rows"]), told["rows_per_second"]
            left = (of - rows + (told["of"] - told["epoch"]) * of) / max(rate, 1e-9)
            self.write(
                f"epoch {told['epoch']:.0f}/{told['of']:.0f}  {rows:,} of {of:,} rows "
                f" {rate:,.0f} rows/s  {left:.0f} s left"
            )

    @staticmethod
    def wanted(verbose: int) -> bool:
        """Verbose 1: on a terminal or in a notebook; 2: everywhere."""
        return verbose > 1 or (verbose == 1 and (sys.stdout.isatty() or "ipykernel" in sys.modules))
