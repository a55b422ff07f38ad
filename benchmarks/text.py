"""Reading text: crossfm beside scikit-learn's reader and xLearn's conversion, per core.

Two files of the same click log, with values of 1 and with random float32 values of nine digits.
Every reader reads each on one thread, turn about; what crossfm and scikit-learn read is compared
first. What counts is the time from the file (in the system's cache) to arrays; for xLearn the
time that it gives for reading a text file and writing its binary form.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.figures import Figure, Report, Spread, show_table
from benchmarks.harness import ROOT, Disagreement, WorkerError, machine

SKLEARN_BAR, XLEARN_BAR = 20.0, 5.0


def add_command(commands: Any) -> None:
    """The subcommand ``text``."""
    one = commands.add_parser("text", help="reading libsvm text, beside scikit-learn and xLearn")
    one.add_argument("--check", action="store_true", help="end with JSON; exit 1 on a missed bar")
    one.add_argument("--rows", type=int, default=200_000)
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--peers", default="xlearn")
    one.set_defaults(run=text)


def text(arguments: argparse.Namespace) -> int:
    """Make the files, read them in turn, compare, report."""
    where = machine()
    names = [name for name in arguments.peers.split(",") if name]
    peers.ensure(*names)
    seconds: dict[str, dict[str, list[float]]] = {}
    sizes, versions = {}, {}
    with tempfile.TemporaryDirectory(prefix="crossfm-bench-") as name:
        files, n_features = make_files(Path(name), arguments.rows)
        for label, path in files.items():
            sizes[label] = path.stat().st_size
            taken: dict[str, list[float]] = {"crossfm": [], "scikit-learn": []}
            for at in range(arguments.rounds):
                turn = [ours, theirs("sklearn", n_features)]
                turn += [theirs("xlearn", n_features)] if "xlearn" in names else []
                keys = ["crossfm", "scikit-learn", "xlearn"][: len(turn)]
                answers = {}
                for i in range(len(turn)):  # each round starts one entry further on
                    key = keys[(at + i) % len(turn)]
                    answers[key] = turn[(at + i) % len(turn)](path)
                    versions[key] = answers[key].get("version", "")
                    taken.setdefault(key, []).append(answers[key]["seconds"])
                compare(answers["crossfm"], answers["scikit-learn"])
            seconds[label] = taken
    report = Report("speed text")
    taken = seconds["ones"]  # the bars stand over the click log as it is
    for key, bar in (("scikit-learn", SKLEARN_BAR), ("xlearn", XLEARN_BAR)):
        if key in taken:
            name = f"speed_over_{key.replace('-', '_')}"
            report.add(Figure(name, times(taken, key).median, bar, ">=", "times"))
    report.details = {"machine": where, "rows": arguments.rows, "bytes": sizes,
                      "seconds": seconds, "versions": versions}  # fmt: skip
    show_table(
        f"libsvm text to arrays, one thread, median of {arguments.rounds} rounds, turn about",
        ("file, reader", "MB/s", "spread", "x slower"),
        [
            (f"{label}, {key}", f"{rate.median:,.0f}", f"{rate.least:,.0f} to {rate.greatest:,.0f}",
             f"{times(taken, key).median:.1f}")
            for label, taken in seconds.items()
            for key in taken
            for rate in [Spread.of([sizes[label] / 1e6 / s for s in taken[key]])]
        ],
    )  # fmt: skip
    return report.finish(check=arguments.check)


def times(taken: dict[str, list[float]], key: str) -> Spread:
    """How many times longer a reader took than crossfm, within each round."""
    return Spread.of([b / a for a, b in zip(taken["crossfm"], taken[key], strict=True)])


def make_files(folder: Path, n_rows: int) -> tuple[dict[str, Path], int]:
    """The click log as text, with ones and with random values; the number of features."""
    from crossfm.data.text import write_libsvm
    from crossfm.datasets.click_log import ClickLog

    log = ClickLog()
    rows = log.rows(n_rows)
    files = {"ones": folder / "ones.libsvm", "values": folder / "values.libsvm"}
    write_libsvm(files["ones"], rows)
    drawn = np.random.default_rng(0).standard_normal(rows.nnz).astype(np.float32)
    write_libsvm(files["values"], rows.replace(values=drawn))
    return files, log.n_features


def ours(path: Path) -> dict[str, Any]:
    """crossfm on one thread; the sums are taken behind the clock."""
    from crossfm.data.text import read_libsvm

    started = time.perf_counter()
    rows = read_libsvm(path, n_jobs=1)
    seconds = time.perf_counter() - started
    total = rows.nnz if rows.values is None else rows.values.sum(dtype=np.float64)
    return {"seconds": seconds, "rows": len(rows), "nnz": rows.nnz,
            "ids": int(rows.ids.sum(dtype=np.int64)), "values": float(total)}  # fmt: skip


def theirs(name: str, n_features: int) -> Any:
    """A reader in the peers' environment, in a process of its own."""

    def read(path: Path) -> dict[str, Any]:
        command = [str(peers.interpreter()), "-m", "benchmarks.workers.parsing"]
        done = subprocess.run(
            [*command, name, str(path), str(n_features)],
            cwd=ROOT, env=peers.environment(), capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise WorkerError(f"{name} failed:\n{done.stderr[-2000:]}")
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer

    return read


def compare(mine: dict[str, Any], other: dict[str, Any]) -> None:
    """Raise unless both read the same rows, ids and (to rounding of the sum) values."""
    for key in ("rows", "nnz", "ids"):
        if mine[key] != other[key]:
            raise Disagreement(f"{key}: crossfm read {mine[key]}, scikit-learn {other[key]}")
    # scikit-learn rounds twice, so that single values may differ in the last place.
    if not np.isclose(mine["values"], other["values"], rtol=1e-6, atol=1e-6 * mine["nnz"]):
        raise Disagreement(
            f"values: crossfm's sum is {mine['values']}, scikit-learn's {other['values']}"
        )
