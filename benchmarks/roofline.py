"""``python -m benchmarks.roofline``: how near the kernels come to the limit of memory.

The limit is measured, not looked up: a pass that reads (and for training writes back) the same
parameter bytes at the same ids in the same order, with prefetch and without arithmetic
(``roofline.cpp``, compiled here for this machine), at whichever prefetch distance is fastest.
Kernel and limit take turns on the same stretch of rows, each with a table of its own of the same
layout; the share is the median over the stretches of limit time / kernel time.

A feature's bytes, k = 16: training with AdaGrad 128 of ``[v | state]`` and 8 of ``[w | state]``,
read and written; scoring 64 and 4, read.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, Report, Spread, show_table
from benchmarks.harness import machine
from crossfm import _native
from crossfm.data.rows import Rows
from crossfm.datasets.click_log import ClickLog
from crossfm.model import FactorModel
from crossfm.solvers import FusedTrainer, solver_options

N_FACTORS = 16
N_ROWS = 1_000_000
STRETCH = 40_000  # rows between two turns: about 10 ms of them
RUN = 8  # rows are visited in runs of so many neighbours, as crossfm's solvers shuffle them
DISTANCES = (1, 2, 3, 4, 6)  # rows ahead that the limit's prefetch is tried at
TRAINING_SHARE, SCORING_SHARE, SCORING_OVER_TRAINING = 0.65, 0.70, 1.5


class NoCompilerError(Exception):
    """The limit cannot be measured without a C++ compiler."""


def compiled() -> Callable[..., None]:
    """``crossfm_move`` of ``roofline.cpp``.

    Raises:
        NoCompilerError: no compiler, or it failed; with what it said.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise NoCompilerError("no C++ compiler found: install one, or name it in CXX")
    source = Path(__file__).with_suffix(".cpp")
    with tempfile.TemporaryDirectory(prefix="crossfm-bench-") as folder:
        library = Path(folder) / "roofline.so"
        command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o",
                   str(library)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoCompilerError(f"{compiler} failed on {source.name}:\n{done.stderr.strip()}")
        return ctypes.CDLL(str(library)).crossfm_move


class Limit:
    """A table of the kernel's layout, and the pass that only moves its bytes.

    Args:
        rows: every row has as many features as the next.
        n_features: ids are below it.
        width: floats of a feature's factors (and their state), a multiple of 16.
        narrow: floats of its linear weight (and state).
        write: whether the bytes are written back.
    """

    def __init__(self, rows: Rows, n_features: int, width: int, narrow: int, write: bool) -> None:
        assert width % 16 == 0
        assert rows.ids.dtype == np.int32
        self._move = compiled()
        self.ids, self.m = rows.ids, rows.row_length
        self.factors = _native.allocate(n_features * width)
        self.linear = _native.allocate(n_features * narrow)
        self.factors[:] = self.linear[:] = 1.0  # memory that is really there
        self.width, self.narrow, self.write = width, narrow, write

    def visit(self, order: NDArray[np.int64], ahead: int) -> None:
        """Move the bytes of the rows of `order`."""
        self._move(
            ctypes.c_int64(len(order)), ctypes.c_void_p(order.ctypes.data), ctypes.c_int64(self.m),
            ctypes.c_void_p(self.ids.ctypes.data), ctypes.c_void_p(self.factors.ctypes.data),
            ctypes.c_int64(self.width), ctypes.c_void_p(self.linear.ctypes.data),
            ctypes.c_int64(self.narrow), ctypes.c_int64(ahead), ctypes.c_int(self.write),
        )  # fmt: skip

    def bytes_a_row(self) -> int:
        """Bytes that a row moves, one way."""
        return self.m * 4 * (self.width + self.narrow)


def stretches(n: int, seed: int = 0) -> list[NDArray[np.int64]]:
    """All rows in shuffled runs of neighbours, `STRETCH` at a time."""
    runs = np.random.default_rng(seed).permutation(n // RUN)
    order = (runs[:, None] * RUN + np.arange(RUN)).ravel()
    return [order[low : low + STRETCH] for low in range(0, len(order) - STRETCH + 1, STRETCH)]


def turns(kernel: Callable[[Any], object], limit: Limit, parts: list[Any]) -> dict[str, Any]:
    """Kernel and limit in turn on each part; rates, and the share of the limit.

    The limit's distance is chosen on the first parts, which are timed once more after.
    """
    tried = {ahead: [_seconds(limit.visit, part, ahead) for part in parts[:5]]
             for ahead in DISTANCES}  # fmt: skip
    ahead = min(tried, key=lambda a: Spread.of(tried[a]).median)
    kernel(parts[0])  # warm
    ours, bound = [], []
    for part in parts:
        bound.append(_seconds(limit.visit, part, ahead))
        ours.append(_seconds(kernel, part))
    shares = Spread.of([b / o for b, o in zip(bound, ours, strict=True)])
    rows = len(parts[0])
    return {
        "share": shares.median,
        "share_spread": [shares.least, shares.greatest],
        "rows_per_second": rows / Spread.of(ours).median,
        "limit_rows_per_second": rows / Spread.of(bound).median,
        "limit_gigabytes_per_second": rows / Spread.of(bound).median * limit.bytes_a_row() / 1e9,
        "prefetch_distance": ahead,
    }


def _seconds(do: Callable[..., object], *arguments: Any) -> float:
    started = time.perf_counter()
    do(*arguments)
    return time.perf_counter() - started


def training(rows: Rows, n_features: int) -> dict[str, Any]:
    """AdaGrad on the logistic loss, one thread, beside its limit."""
    options = solver_options("adagrad", n_factors=N_FACTORS, loss="logistic", n_jobs=1)
    trainer = FusedTrainer(options, n_features)
    ready = trainer.prepare(rows)
    limit = Limit(rows, n_features, 2 * N_FACTORS, 2, write=True)
    return turns(lambda part: trainer.train(ready, part), limit, stretches(len(rows)))


def scoring(rows: Rows, n_features: int) -> dict[str, Any]:
    """A model's scores, one thread, rows as they come, beside their limit."""
    rng = np.random.default_rng(0)
    model = FactorModel(
        0.0,
        rng.normal(0, 0.1, n_features).astype(np.float32),
        rng.normal(0, 0.1, (n_features, N_FACTORS)).astype(np.float32),
    )
    limit = Limit(rows, n_features, N_FACTORS, 1, write=False)
    parts = [np.arange(low, low + STRETCH) for low in range(0, len(rows) - STRETCH + 1, STRETCH)]
    views = {int(part[0]): rows[int(part[0]) : int(part[-1]) + 1] for part in parts}
    for view in views.values():
        view.validate(n_features)  # once, as for rows that are scored again
    return turns(lambda part: model.score(views[int(part[0])], n_jobs=1), limit, parts)


def report(n_rows: int) -> Report:
    """Measure both and compare."""
    log = ClickLog()
    rows = log.rows(n_rows)
    found = {
        "training": training(rows, log.n_features),
        "scoring": scoring(rows, log.n_features),
    }
    trained, scored = found["training"], found["scoring"]
    result = Report("roofline")
    result.add(
        Figure("training_share_of_limit", trained["share"], TRAINING_SHARE, ">="),
        Figure("scoring_share_of_limit", scored["share"], SCORING_SHARE, ">="),
        Figure(
            "scoring_over_training", scored["rows_per_second"] / trained["rows_per_second"],
            SCORING_OVER_TRAINING, ">=", "times",
        ),
    )  # fmt: skip
    result.details = {"machine": machine(), "isa": _native.isa, "rows": n_rows, **found}
    lines = [
        (name, f"{f['rows_per_second']:,.0f}", f"{f['limit_rows_per_second']:,.0f}",
         f"{f['limit_gigabytes_per_second']:.1f} GB/s", f"{f['share']:.3f}",
         f"{f['share_spread'][0]:.2f} to {f['share_spread'][1]:.2f}")
        for name, f in found.items()
    ]  # fmt: skip
    show_table(
        f"FM, {N_FACTORS} factors, {rows.row_length} features a row, {log.n_features:,} ids,"
        f" one thread, {_native.isa}",
        ("", "rows/s", "limit", "limit, one way", "share", "spread"),
        lines,
    )
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.roofline", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--check", action="store_true", help="end with JSON; exit 1 on a miss")
    parser.add_argument("--rows", type=int, default=N_ROWS)
    arguments = parser.parse_args(argv)
    if arguments.rows < 5 * STRETCH:
        parser.error(f"--rows: at least {5 * STRETCH:,}")
    try:
        return report(arguments.rows).finish(check=arguments.check)
    except NoCompilerError as error:
        print(f"no figures: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
