"""``python -m benchmarks.streaming speed|kill``: data larger than memory.

`speed` writes a synthetic click log of 30,000,000 rows (39 features each, 5 GB encoded) into a
cache, block by block, and trains on it in a process of 2 GB; then, with as many rows as fit, in
memory, the same epochs turn about with the streamed ones, so that the rates can be compared.

How memory is limited, and what is not: RLIMIT_DATA holds the process to 2 GB of memory of its own
(heap and anonymous mappings), which fails where it would take more. Pages of the mapped cache are
not counted by it; they are the system's, which takes them back when it needs them. The peak of
resident memory (VmHWM), which counts those pages too, is reported beside it and has to stay below
the same 2 GB.

`kill` fits in a process of its own that is killed (SIGKILL) at random moments, anywhere from the
writing of the cache to the saving of the model, and started again. Each time the model must be, bit
for bit, that of a fit that was never killed, and what was written before the end must be whole.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, Report, Spread, show_table
from benchmarks.harness import ROOT, machine

LIMIT = 2 * 10**9
N_ROWS, IN_MEMORY, BLOCK_ROWS = 30_000_000, 2_000_000, 65_536
OPTIONS = {"n_factors": 16, "loss": "logistic", "learning_rate": 0.025, "l2_factors": 0.01}

TRAIN = """
import json, resource, sys, time
folder, path, limit, options, whole, n_epochs = json.loads(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
import numpy as np
from crossfm.data import CachedRows, Rows
from crossfm.solvers import FusedTrainer, fit, solver_options

class Blocks:
    def __init__(self, cached, n):
        self.cached, self.totals = cached, cached.totals[:n]
        self.weight = float(sum(t.rows for t in self.totals))
        self.block = cached.block
    def counts(self):
        return self.cached.counts()

cached = CachedRows(path)
rows = Blocks(cached, len(cached))
if whole:
    few, n = 0, 0
    while few < len(cached) and n < whole:
        n, few = n + cached.totals[few].rows, few + 1
    rows = Blocks(cached, few)
    if not limit:
        rows = Rows.concatenate([cached.block(i) for i in range(few)])
trainer = FusedTrainer(solver_options("adagrad", **options), cached.n_features)
started = time.perf_counter()
history, models = fit(trainer, rows, n_epochs=n_epochs)
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if "VmHWM" in line)
print(json.dumps({
    "rates": [epoch.rows_per_second for epoch in history.epochs],
    "losses": [epoch.loss for epoch in history.epochs],
    "seconds": time.perf_counter() - started, "peak": peak,
}))
"""

KILLED = """
import json, sys
folder, options = json.loads(sys.argv[1])
import crossfm as cf
from crossfm.data import streams
from crossfm.solvers import checkpoint, feeding
checkpoint.SAVE_SECONDS = 0.2
feeding.GROUP_FEATURES = 1 << 20
streams.stream_rows.__kwdefaults__["block_rows"] = 4096
model = cf.FMClassifier(stream=True, random_state=0, checkpoint=folder + "/checkpoint", **options)
print("ready", flush=True)
model.fit(folder + "/log.parquet", "label")
model.save(folder + "/model.crossfm")
"""


def run(program: str, *told: object) -> dict:
    """What a program in a process of its own prints as its last line."""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(told)], cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the fit failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def write_log(path: Path, n_rows: int) -> float:
    """The cache of a click log, made block by block; seconds."""
    from crossfm.data.cache import write_rows
    from crossfm.datasets.click_log import ClickLog

    log, started = ClickLog(), time.perf_counter()
    write_rows(path, log.batches(n_rows, BLOCK_ROWS), {"rows": n_rows}, n_features=log.n_features)
    return time.perf_counter() - started


def speed(arguments: argparse.Namespace) -> int:
    """Rates, memory, the report."""
    where = machine()
    few = min(arguments.in_memory, arguments.rows)
    with tempfile.TemporaryDirectory(prefix="crossfm-bench-", dir=arguments.folder) as name:
        path = Path(name) / "log.cache"
        written = write_log(path, arguments.rows)
        size = path.stat().st_size
        large = run(TRAIN, name, str(path), LIMIT, OPTIONS, 0, arguments.epochs)
        streamed, memory, ratios = [], [], []
        for _ in range(arguments.rounds):  # turn about; the first epoch also sums the blocks
            one = run(TRAIN, name, str(path), LIMIT, OPTIONS, few, 3)
            other = run(TRAIN, name, str(path), 0, OPTIONS, few, 3)
            streamed.append(one["rates"][-1])
            memory.append(other["rates"][-1])
            ratios.append(streamed[-1] / memory[-1])
    share = Spread.of(ratios)
    of_all = large["rates"][-1] / Spread.of(memory).median
    show_table(
        f"click log, {arguments.rows:,} rows, {size / 1e9:.2f} GB, written in {written:.0f} s",
        ("fit", "rows", "rows/s", "peak memory"),
        [
            ("streamed, 2 GB", f"{arguments.rows:,}", f"{large['rates'][-1]:,.0f}",
             f"{large['peak'] / 1e9:.2f} GB"),
            ("streamed, 2 GB", f"{few:,}", f"{Spread.of(streamed).median:,.0f}", ""),
            ("in memory", f"{few:,}", f"{Spread.of(memory).median:,.0f}", ""),
        ],
    )  # fmt: skip
    report = Report("streaming speed", details={
        "machine": where, "rows": arguments.rows, "bytes": size, "write_seconds": written,
        "large": large, "streamed": streamed, "in_memory": memory, "limit": LIMIT,
    })  # fmt: skip
    report.add(
        Figure("peak_resident_gigabytes", large["peak"] / 1e9, LIMIT / 1e9, "<=", "GB"),
        Figure("streamed_over_in_memory_same_rows", share.median, 0.75, ">=", "times"),
        Figure("streamed_all_rows_over_in_memory", of_all, 0.75, ">=", "times"),
    )
    return report.finish(check=arguments.check)


def kill(arguments: argparse.Namespace) -> int:
    """Kill, start again, compare."""
    import pyarrow.parquet as pq

    from crossfm.data.cache import CachedRows
    from crossfm.datasets.click_log import ClickLog
    from crossfm.model import FactorModel
    from crossfm.store import load_model

    rng, same, killed, half = np.random.default_rng(arguments.seed), 0, 0, 0
    options = {"n_epochs": 3, "n_factors": 8, "patience": 2}
    with tempfile.TemporaryDirectory(prefix="crossfm-bench-", dir=arguments.folder) as name:
        folder = Path(name)
        pq.write_table(ClickLog(max_values=2000).table(arguments.rows), folder / "log.parquet")

        def fit(seconds: float | None = None) -> tuple[bool, float]:
            command = [sys.executable, "-c", KILLED, json.dumps([name, options])]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.readline()
                started = time.perf_counter()
                if seconds is not None:
                    try:
                        process.wait(seconds)
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGKILL)
                process.communicate()
            return process.returncode == 0, time.perf_counter() - started

        def alike(model: FactorModel) -> bool:
            numbers = ((model.weights, expected.weights), (model.factors, expected.factors))
            return model.bias == expected.bias and all((a == b).all() for a, b in numbers)

        saved = folder / "model.crossfm"
        whole = fit()[1]
        expected = load_model(saved).model
        tries = 0
        while killed < arguments.times and tries < 3 * arguments.times:
            tries += 1
            for found in [saved, *(folder / ".crossfm-cache").iterdir()]:
                found.unlink(missing_ok=True)
            ended, seconds = fit(float(rng.uniform(0, whole)))
            if ended:  # before its moment came: the machine was slower when it was timed
                whole = min(whole, seconds)
                continue
            killed += 1
            for found in (folder / ".crossfm-cache").glob("*.crossfm-cache"):
                cached = CachedRows(found)  # raises where it is half written
                half += sum(len(cached.block(i)) for i in range(len(cached))) != arguments.rows
            if saved.exists():
                load_model(saved)  # raises likewise
            same += fit()[0] and alike(load_model(saved).model)
    print(f"{killed} fits killed, at 0 to {whole:.1f} s; {same} of them went on to the same bits")
    report = Report("streaming kill", details={"machine": machine(), "killed": killed})
    report.add(
        Figure("fits_killed", float(killed), float(arguments.times), ">="),
        Figure("resumed_bit_equal", same / max(killed, 1), 1.0, ">="),
        Figure("half_written_files", float(half), 0.0, "<="),
    )
    return report.finish(check=arguments.check)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.streaming",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="what", required=True)
    for name, rows, work in (("speed", N_ROWS, speed), ("kill", 120_000, kill)):
        one = commands.add_parser(name)
        one.add_argument("--check", action="store_true", help="end with JSON; 1 on a missed bar")
        one.add_argument("--rows", type=int, default=rows)
        one.add_argument("--folder", help="where temporary files go; 5 GB of them for speed")
        one.set_defaults(work=work)
        if name == "speed":
            one.add_argument("--in-memory", type=int, default=IN_MEMORY, metavar="ROWS")
            one.add_argument("--epochs", type=int, default=1)
            one.add_argument("--rounds", type=int, default=3)
        else:
            one.add_argument("--times", type=int, default=20)
            one.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    return arguments.work(arguments)


if __name__ == "__main__":
    sys.exit(main())
