"""``python -m benchmarks.nn speed | memory | gpu``: training steps of PyTorch modules.

speed: whole training steps (forward, backward, optimizer) on a synthetic click log of 39
features a row and 1.7 million ids, 16 factors, batches of 4,096, logistic loss. Each library
runs in a process of its own, turn about; ratios are taken within a round, and their median
stands. All start from the same parameters: before a step is timed, all must give the same loss
on the first batch, and in the end each must give a lower one. Compared are

- the FM of crossfm.nn with row-wise AdaGrad in the backward pass (and, for information, with
  AdaGrad, and with an optimizer after it), torchfm with Adam over the whole table, and plain
  PyTorch with sparse gradients in each layout and with each sparse optimizer: the fastest counts;
- DeepFM with a tower of 400-400-400: crossfm.nn, DeepCTR-Torch (its penalties off, its Adam), and
  the tower alone, forward, backward and Adam's step, on numbers that are at hand. Its input
  needs no gradient, which DeepFM's does; the time with that gradient is shown beside it.

memory: one forward and backward pass over 65,536 rows, 64 factors, in a process of its own:
the peak above what is in memory before it, table and inputs included.

gpu: see `benchmarks.nn_gpu`.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.figures import RESULTS, Figure, Report, Spread, show_table
from benchmarks.harness import (
    Disagreement,
    Entry,
    Runs,
    Worker,
    WorkerError,
    contest,
    machine,
    ratio,
)
from benchmarks.workers import Part

MAX_VALUES = 550_000  # of the largest field: 1.7 million ids in all
N_FACTORS, BATCH, STEPS, ROUNDS, N_TEST = 16, 4096, 32, 5, 8192
HIDDEN = (400, 400, 400)
MEMORY_ROWS, MEMORY_FACTORS = 65_536, 64
OVER_TORCHFM, OVER_PLAIN = 15.0, 5.0
OVER_DEEPCTR, OF_TOWER = 3.0, 1.25
MEMORY_MEGABYTES = 200.0
MEGABYTE = 1_000_000
SAME = 1e-5  # relative: sums of 39 float32 terms, in another order in each library
BUSY = 0.7  # load average from which on a run on two cores is disturbed

FM, DEEPFM = "crossfm FM", "crossfm DeepFM"
TORCHFM, DEEPCTR = "torchfm, Adam", "DeepCTR-Torch DeepFM"
TOWER, TOWER_INPUT = "tower alone", "tower alone, with its input's gradient"
PLAIN = "PyTorch"
LAYOUTS = ("apart", "bags", "joined")
RATES = {"sparse_adam": 1e-3, "adagrad": 0.05}
MODELS = ("fm", "deepfm")


def entries_of(
    models: Sequence[str], field_sizes: Sequence[int], common: Mapping[str, Any]
) -> list[Entry]:
    """Who takes part.

    Args:
        models: "fm", "deepfm" or both.
        field_sizes: number of ids of each field.
        common: options of all.
    """
    sizes = tower_sizes(len(field_sizes), int(common["n_factors"]))
    found = []

    def add(label: str, worker: str, **options: Any) -> None:
        found.append(Entry(label, worker, {**common, **options}))

    if "fm" in models:
        add(FM, "crossfm-nn", network="fm", optimizer="rowwise_adagrad", fused=True)
        add(f"{FM}, AdaGrad", "crossfm-nn", network="fm", optimizer="adagrad", fused=True)
        add(f"{FM}, optimizer after it", "crossfm-nn", network="fm",
            optimizer="rowwise_adagrad", fused=False)  # fmt: skip
        for layout in LAYOUTS:
            for optimizer, rate in RATES.items():
                add(f"{PLAIN}, {layout}, {optimizer}", "pytorch", network="fm", layout=layout,
                    optimizer=optimizer, learning_rate=rate)  # fmt: skip
        # One step of a dense optimizer touches every page that it will ever touch.
        add(TORCHFM, "torchfm-steps", warm_steps=2)
    if "deepfm" in models:
        add(DEEPFM, "crossfm-nn", network="deepfm", optimizer="rowwise_adagrad", fused=True,
            field_sizes=list(field_sizes), sizes=sizes)  # fmt: skip
        add(DEEPCTR, "deepctr-torch", field_sizes=list(field_sizes), sizes=sizes, warm_steps=2)
        for label, gradient in ((TOWER, False), (TOWER_INPUT, True)):
            add(label, "pytorch", network="tower", sizes=sizes, learning_rate=1e-3,
                input_gradient=gradient)  # fmt: skip
    return found


def tower_sizes(n_fields: int, n_factors: int) -> list[int]:
    """Sizes of DeepFM's tower: input, hidden layers, one number."""
    return [n_fields * n_factors, *HIDDEN, 1]


def click_log(n_rows: int, n_test: int, max_values: int) -> tuple[Part, Part, list[int]]:
    """Training and test part, and the number of ids of each field."""
    from crossfm.datasets.click_log import ClickLog

    log = ClickLog(max_values=max_values)
    parts = []
    for rows in (log.rows(n_rows), log.rows(n_test, start=n_rows)):
        assert rows.targets is not None
        offsets = np.arange(len(rows) + 1, dtype=np.int64) * (rows.nnz // len(rows))
        parts.append(Part(rows.ids.ravel(), offsets, None, rows.targets, log.n_features))
    return parts[0], parts[1], [int(size) for size in log.field_sizes]


def speed(arguments: argparse.Namespace) -> int:
    """The contest, the bars, the report."""
    where = machine()  # before this command is itself the load
    models = [name for name in arguments.models.split(",") if name]
    unknown = set(models) - set(MODELS)
    if unknown or not models:
        raise ValueError(f"--models {arguments.models!r}, expected some of {','.join(MODELS)}")
    if not arguments.alone:
        peers.ensure(*(["torchfm"] if "fm" in models else []),
                     *(["deepctr-torch"] if "deepfm" in models else []))  # fmt: skip
    say = _say if arguments.verbose or sys.stderr.isatty() else (lambda text: None)
    n_rows = arguments.steps * arguments.batch
    say(f"make {n_rows:,} rows")
    train, test, field_sizes = click_log(n_rows, arguments.test_rows, arguments.max_values)
    with tempfile.TemporaryDirectory(prefix="crossfm-bench-") as name:
        start = save_start(Path(name) / "start", train.n_features, len(field_sizes))
        common = {
            "n_epochs": 1, "n_factors": N_FACTORS, "batch": arguments.batch, "start": start,
            "threads": arguments.threads,
        }  # fmt: skip
        entries = entries_of(models, field_sizes, common)
        if arguments.alone:
            entries = [entry for entry in entries if entry.worker == "crossfm-nn"]
        runs = contest(
            entries, train, test, rounds=arguments.rounds, say=say, threads=arguments.threads
        )
    check_losses(runs)
    report = Report("nn speed")
    report.add(*figures(runs))
    report.details = {
        "machine": where,
        "features": train.n_features,
        "batch": arguments.batch,
        "steps": arguments.steps,
        "threads": arguments.threads,
        "ratios": ratios(runs),
        "runs": {label: r.summary() for label, r in runs.items()},
    }
    show(runs, arguments, train.n_features)
    _warn_of_load(where)
    return report.finish(check=arguments.check, folder=arguments.results)


def save_start(folder: Path, n_features: int, n_fields: int) -> str:
    """Write the parameters that all start from; the folder's name."""
    from benchmarks.workers.steps import Start

    Start.draw(n_features, N_FACTORS, tower_sizes(n_fields, N_FACTORS)).save(folder)
    return str(folder)


def check_losses(runs: Mapping[str, Runs]) -> None:
    """Raise unless models of one kind begin at one loss, and every loss falls.

    Raises:
        Disagreement: which entry, what it gave, and what was expected.
    """
    for kind in MODELS:
        begun = {
            label: float(r.answers[0]["first_loss"])
            for label, r in runs.items()
            if kind_of(label) == kind
        }
        expected = next(iter(begun.values()), 0.0)
        for label, loss in begun.items():
            if not math.isclose(loss, expected, rel_tol=SAME):
                raise Disagreement(
                    f"{label} begins with a loss of {loss:.7f}, {next(iter(begun))} with"
                    f" {expected:.7f}: from the same parameters that is another model"
                )
    for label, r in runs.items():
        first, last = (float(r.answers[at][key]) for at, key in ((0, "first_loss"),
                                                                 (-1, "last_loss")))  # fmt: skip
        if not last < first:
            raise Disagreement(
                f"{label} begins with a loss of {first:.5f} and ends with {last:.5f}: it does"
                " not learn, so its speed means nothing"
            )


def kind_of(label: str) -> str:
    """The model that an entry computes: "fm", "deepfm" or "tower"."""
    if label in (TOWER, TOWER_INPUT):
        return "tower"
    return "deepfm" if label in (DEEPFM, DEEPCTR) else "fm"


def ratios(runs: Mapping[str, Runs]) -> dict[str, float]:
    """How many times faster crossfm is than each rival, and DeepFM's time in towers.

    Of the variants in plain PyTorch the fastest counts.
    """
    found = {}
    if FM in runs and TORCHFM in runs:
        found["fm_over_torchfm"] = ratio(runs[FM], runs[TORCHFM]).median
    plain = [r for label, r in runs.items() if label.startswith(f"{PLAIN}, ")]
    if FM in runs and plain:
        found["fm_over_plain_pytorch"] = min(ratio(runs[FM], r).median for r in plain)
    if DEEPFM in runs and DEEPCTR in runs:
        found["deepfm_over_deepctr_torch"] = ratio(runs[DEEPFM], runs[DEEPCTR]).median
    for label, name in ((TOWER, "deepfm_in_towers"), (TOWER_INPUT, "deepfm_in_whole_towers")):
        if DEEPFM in runs and label in runs:
            found[name] = 1.0 / ratio(runs[DEEPFM], runs[label]).median
    return found


def figures(runs: Mapping[str, Runs]) -> list[Figure]:
    """What is promised of the contest.

    DeepFM has two bars, of which one has to hold; its figure is how many times it passes the
    bar that it passes further.
    """
    found, times = [], ratios(runs)
    for name, bar in (("fm_over_torchfm", OVER_TORCHFM), ("fm_over_plain_pytorch", OVER_PLAIN)):
        if name in times:
            found.append(Figure(name, times[name], bar, ">=", "times"))
    passed = []
    if "deepfm_over_deepctr_torch" in times:
        passed.append(times["deepfm_over_deepctr_torch"] / OVER_DEEPCTR)
    if "deepfm_in_towers" in times:
        passed.append(OF_TOWER / times["deepfm_in_towers"])
    if passed:
        found.append(Figure("deepfm_times_either_bar", max(passed), 1.0, ">=", "times"))
    return found


def show(runs: Mapping[str, Runs], arguments: argparse.Namespace, n_features: int) -> None:
    """Print a table for each model, and the ratios."""
    for kind, title in (("fm", "FM"), ("deepfm", "DeepFM and its tower")):
        ours = runs.get(FM if kind == "fm" else DEEPFM)
        if ours is None:
            continue
        lines = []
        for label, r in runs.items():
            if (kind_of(label) == "fm") != (kind == "fm"):
                continue
            step = Spread.of([1e3 * seconds / arguments.steps for seconds in r.seconds])
            rows = Spread.of(r.rates).median
            first, last = r.answers[0]["first_loss"], r.answers[-1]["last_loss"]
            lines.append(
                (label, f"{step.median:,.2f}", f"{step.least:,.2f} to {step.greatest:,.2f}",
                 f"{rows:,.0f}", f"{ratio(ours, r).median:.2f}", f"{first:.6f}", f"{last:.4f}")
            )  # fmt: skip
        show_table(
            f"{title}: training steps of {arguments.batch:,} rows, {n_features:,} features,"
            f" k = {N_FACTORS}, {arguments.threads} threads, median of {arguments.rounds} rounds",
            ("library", "ms/step", "spread", "rows/s", "x slower", "loss at first", "at last"),
            lines,
        )
    print("ratios: " + ", ".join(f"{name} {value:.3g}" for name, value in ratios(runs).items()))
    print(f"versions: {', '.join(sorted({r.version for r in runs.values()}))}")


MEMORY_ENTRIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "memory_sparse_gradient": (
        "crossfm FM, sparse gradient of the batch's rows", "crossfm-nn", {"fused": False},
    ),
    "memory_fused_optimizer": (
        "crossfm FM, row-wise AdaGrad in the backward pass", "crossfm-nn", {"fused": True},
    ),
    "plain": ("PyTorch, lookup with a sparse gradient", "pytorch", {"layout": "apart"}),
}  # fmt: skip


def memory(arguments: argparse.Namespace) -> int:
    """The peak of each entry in a process of its own, the bars, the report."""
    where = machine()
    train, test, _ = click_log(arguments.rows, 1, arguments.max_values)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="crossfm-bench-") as name:
        places = {part: str(Path(name) / part) for part in ("train", "test")}
        train.save(Path(places["train"]))
        test.save(Path(places["test"]))
        for key, (_, worker, options) in MEMORY_ENTRIES.items():
            if worker == "pytorch" and arguments.alone:
                continue
            with Worker(worker, threads=arguments.threads) as process:
                process.ask("load", **places, scratch=name)
                found[key] = process.ask(
                    "train",
                    options={
                        "network": "fm", "n_factors": arguments.factors, "batch": len(train),
                        "threads": arguments.threads, "peak": True, **options,
                    },
                )  # fmt: skip
    gather = train.ids.size * arguments.factors * 4
    report = Report("nn memory")
    report.add(*memory_figures(found))
    report.details = {
        "machine": where, "features": train.n_features, "rows": len(train),
        "factors": arguments.factors, "threads": arguments.threads, "gather_bytes": gather,
        "runs": found,
    }  # fmt: skip
    show_table(
        f"one forward and backward pass: {len(train):,} rows x {train.ids.size // len(train)}"
        f" features, k = {arguments.factors}, {train.n_features:,} features;"
        f" the gather alone would be {gather / MEGABYTE:,.0f} MB",
        ("", "before", "peak above it", "seconds"),
        [
            (MEMORY_ENTRIES[key][0], f"{one['before'] / MEGABYTE:,.0f} MB",
             f"{above(one):,.1f} MB", f"{one['seconds']:.2f}")
            for key, one in found.items()
        ],
    )  # fmt: skip
    return report.finish(check=arguments.check, folder=arguments.results)


def above(answer: Mapping[str, Any]) -> float:
    """Megabytes of the peak above what was there before."""
    return float(answer["peak"] - answer["before"]) / MEGABYTE


def memory_figures(found: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """What is promised of the peaks; plain PyTorch's is for information."""
    return [
        Figure(key, above(one), MEMORY_MEGABYTES, "<=", "MB")
        for key, one in found.items()
        if key.startswith("memory")
    ]


def _warn_of_load(where: Mapping[str, Any]) -> None:
    if (where["load_average"] or 0.0) > BUSY:
        print(f"load average {where['load_average']:.1f} at the start: other work was running, so"
              " the speeds above are not to be trusted")  # fmt: skip


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def parser_of(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The command line; options of `gpu` are those that `benchmarks.nn_gpu` adds."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nn",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("speed", help="training steps beside the peers, on the CPU")
    one.add_argument("--models", default=",".join(MODELS), help="fm, deepfm or both")
    one.add_argument("--batch", type=int, default=BATCH)
    one.add_argument("--steps", type=int, default=STEPS, help="steps that are timed together")
    one.add_argument("--rounds", type=int, default=ROUNDS)
    one.add_argument("--test-rows", type=int, default=N_TEST)
    one.add_argument("-v", "--verbose", action="store_true", help="a line about each run")
    two = commands.add_parser("memory", help="peak of a forward and backward pass")
    two.add_argument("--rows", type=int, default=MEMORY_ROWS)
    two.add_argument("--factors", type=int, default=MEMORY_FACTORS)
    for command in (one, two):
        command.add_argument("--threads", type=int, default=cores(), help="of each library")
        command.add_argument("--max-values", type=int, default=MAX_VALUES,
                             help="ids of the largest field")  # fmt: skip
        command.add_argument("--results", type=Path, default=RESULTS, help="folder to save in")
        command.add_argument("--alone", action="store_true", help="crossfm without the others")
    three = commands.add_parser("gpu", help="training steps on a CUDA device")
    for command in (one, two, three):
        command.add_argument("--check", action="store_true",
                             help="end with JSON; exit 1 on a missed bar")  # fmt: skip
    if argv[:1] == ["gpu"]:
        from benchmarks import nn_gpu

        add = getattr(nn_gpu, "add_arguments", None)
        if add is not None:
            add(three)
    return parser


def main(argv: list[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    arguments = parser_of(given).parse_args(given)
    try:
        if arguments.what == "gpu":
            from benchmarks import nn_gpu

            return int(nn_gpu.gpu(arguments))
        return (speed if arguments.what == "speed" else memory)(arguments)
    except (ValueError, peers.PeerError, WorkerError, Disagreement) as error:
        print(f"no figures: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
