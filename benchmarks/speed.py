"""``python -m benchmarks.speed fm``: training and scoring beside the peers, threads, memory.

One synthetic click log (39 features a row, 1.56 million ids), 16 factors, logistic loss,
AdaGrad. Every library trains the same number of epochs on the same rows, with the step size
and the penalty that serve its own test log loss best (``--tune`` runs the grids that they come
from; they were chosen on the test part that is then compared, for every library alike, so the
log losses are a little better than on rows unseen). What counts as training is the passes over
the rows, with the shuffle:

- crossfm: the epochs; the table also shows the whole call, from rows to finished model, with
  validation, the start of the parameters and the copy into a model;
- xLearn: the epoch times that it prints (no reading, no evaluation), normalisation off;
- modern-fm: the call into its Rust core (no checks, no conversion). With AdaGrad it runs row by
  row and in batches, and the bar stands over whichever was faster. Plain SGD does less work, so
  it is shown beside crossfm's SGD and has no bar;
- the others: their fit on data already in their own form.

Every round ends with scoring the test rows, on one thread, with the model just trained (all are of
the same size, and their log losses are seen to agree). What counts, from rows in memory and a
model in memory to scores:

- crossfm: the call on rows that are validated, as they are once for all later calls; the table
  also shows the whole, with that validation (and for the others with checks, copies and files);
- modern-fm: the call into its Rust core, behind its checks and copies;
- xLearn: what lies between its own lines "Start to predict" and "The test loss is": rows and model
  are read before, but it has no way to return scores, so writing them as text is in it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ffm, levels, mcmc, peers, tables, text
from benchmarks.figures import Figure, Report, Spread, show_table
from benchmarks.harness import (
    Disagreement,
    Entry,
    Runs,
    Worker,
    WorkerError,
    base_log_loss,
    check_agreement,
    contest,
    machine,
    ratio,
    scoring_ratio,
)
from benchmarks.workers import Part

N_FACTORS = 16
N_ROWS, N_TEST = 1_000_000, 200_000
N_EPOCHS = 2
ROUNDS = 3
AGREE_WITHIN = 0.02  # log loss; the libraries differ in order, start and rounding
SCORING_BAR = 5.0
MEGABYTE = 1_000_000
BUSY = 0.7  # load average from which on a run on two cores is disturbed

# The best of each library's grid (--tune) at 1,000,000 rows.
SETTINGS: dict[str, dict[str, Any]] = {
    "crossfm": {"learning_rate": 0.025, "l2_factors": 0.01, "init_scale": 0.01},
    "xlearn": {"learning_rate": 0.02, "l2": 0.0, "init": 0.1},
    "modern-fm": {"learning_rate": 0.01, "l2": 0.0, "batch": 1, "optimizer": "adagrad"},
    "modern-fm, batches": {
        "learning_rate": 0.015,
        "l2": 0.0,
        "batch": 1024,
        "optimizer": "adagrad",
    },
    "crossfm, SGD": {"learning_rate": 0.002, "init_scale": 0.01, "solver": "sgd"},
    "modern-fm, SGD": {"learning_rate": 0.002, "l2": 0.0, "batch": 1, "optimizer": "sgd"},
}
GRIDS: dict[str, dict[str, Sequence[Any]]] = {
    "crossfm": {
        "learning_rate": (0.02, 0.025, 0.03),
        "l2_factors": (0.005, 0.01, 0.015),
        "init_scale": (0.01, 0.03),
    },
    "xlearn": {"learning_rate": (0.01, 0.02, 0.03, 0.05), "l2": (0.0, 1e-4, 1e-3), "init": (0.1,)},
    "modern-fm": {"learning_rate": (0.005, 0.01, 0.02), "l2": (0.0, 0.01), "batch": (1,)},
    "modern-fm, batches": {
        "learning_rate": (0.007, 0.01, 0.015, 0.02),
        "l2": (0.0, 0.01),
        "batch": (64, 1024, 8192),
    },
    "crossfm, SGD": {
        "learning_rate": (0.001, 0.002, 0.005),
        "l2_factors": (0.0, 0.005),
        "init_scale": (0.01,),
        "solver": ("sgd",),
    },
    "modern-fm, SGD": {
        "learning_rate": (0.001, 0.002, 0.003, 0.005),
        "l2": (0.0, 0.01),
        "batch": (1,),
        "optimizer": ("sgd",),
    },
}
# Libraries too slow for a million rows: speed on a few, loss not compared.
SLOW = {
    "torchfm": ({"learning_rate": 1e-3, "batch": 4096}, 100_000),
    "river": ({"learning_rate": 0.05}, 1_000),
}


def click_log(n_rows: int, n_test: int) -> tuple[Part, Part, float]:
    """Training and test part, and the log loss of the true probabilities on the test part."""
    from crossfm.datasets.click_log import ClickLog

    log = ClickLog()
    # The test rows stand behind a million, whatever is trained on.
    test_rows = log.rows(n_test, start=max(n_rows, N_ROWS))
    parts = []
    for rows in (log.rows(n_rows), test_rows):
        offsets = np.arange(len(rows) + 1, dtype=np.int64) * (rows.nnz // len(rows))
        assert rows.targets is not None
        parts.append(Part(rows.ids, offsets, None, rows.targets, log.n_features))
    return parts[0], parts[1], log.bayes_log_loss(test_rows)


def entries_of(names: Sequence[str], n_epochs: int) -> list[Entry]:
    """crossfm on one and on two threads, and the peers named."""
    common = {"n_epochs": n_epochs, "n_factors": N_FACTORS}
    ours = {**common, **SETTINGS["crossfm"]}
    found = [
        Entry("crossfm", "crossfm", {**ours, "n_jobs": 1}),
        Entry("crossfm, 2 threads", "crossfm", {**ours, "n_jobs": 2}),
    ]
    for name in names:
        if name in SLOW:
            options, rows = SLOW[name]
            found.append(Entry(name, name, {**common, **options, "n_epochs": 1}, max_rows=rows))
            continue
        if name == "modern-fm":
            found.append(Entry("crossfm, SGD", "crossfm", {**common, **SETTINGS["crossfm, SGD"]}))
        found += [
            Entry(label, name, {**common, **SETTINGS[label], "n_jobs": 1})
            for label in settings_of(name)
        ]
    return found


def settings_of(name: str) -> list[str]:
    """Labels of the settings that a library runs in: its name, or "name, ..."."""
    return [label for label in SETTINGS if label.split(",")[0] == name]


def memory(train: Part, test: Part, options: dict[str, Any]) -> dict[str, float]:
    """Peak memory of one fit in a process that does nothing else, and what it is made of."""
    with tempfile.TemporaryDirectory(prefix="crossfm-bench-") as name:
        folder = Path(name)
        train.save(folder / "train")
        test.head(1).save(folder / "test")
        with Worker("crossfm") as worker:
            places = {part: str(folder / part) for part in ("train", "test")}
            worker.ask("load", **places, scratch=name)
            worker.ask("train", options=options)
            answer = worker.ask("memory")
    parameters = (2 * N_FACTORS + 2) * 4 * train.n_features  # with AdaGrad's state
    # Every row has as many features as the next, so that no offsets are kept.
    data = train.ids.nbytes + train.targets.nbytes
    return {
        "peak": answer["peak"],
        "interpreter": answer["baseline"],
        "parameters": parameters,
        "data": data,
        "above": answer["peak"] - parameters - data,
    }


def fm(arguments: argparse.Namespace) -> int:
    """The contest, the bars, the report."""
    where = machine()  # before this command is itself the load
    names = [name for name in arguments.peers.split(",") if name]
    peers.ensure(*names)
    say = _say if arguments.verbose or sys.stderr.isatty() else (lambda text: None)
    say(f"make {arguments.rows:,} + {arguments.test_rows:,} rows")
    train, test, bayes = click_log(arguments.rows, arguments.test_rows)
    if arguments.tune:
        return tune(names, train, test, arguments.epochs, say)
    entries = entries_of(names, arguments.epochs)
    runs = contest(entries, train, test, rounds=arguments.rounds, say=say)
    check_agreement(runs, test.targets, within=AGREE_WITHIN)
    used = memory(train, test, dict(entries[0].options))
    report = Report("speed fm")
    report.add(*figures(runs, used))
    report.details = {
        "machine": where,
        "rows": len(train),
        "test_rows": len(test),
        "epochs": arguments.epochs,
        "log_loss_of_the_truth": bayes,
        "log_loss_of_the_base_rate": base_log_loss(test.targets),
        "memory": used,
        "runs": {label: r.summary() for label, r in runs.items()},
    }
    show(runs, bayes, used, arguments)
    if (where["load_average"] or 0.0) > BUSY:
        print(f"load average {where['load_average']:.1f} at the start: other work was running, so"
              " the speeds above are not to be trusted")  # fmt: skip
    return report.finish(check=arguments.check)


def figures(runs: dict[str, Runs], used: dict[str, float]) -> list[Figure]:
    """What is promised of the contest."""
    one, two = runs["crossfm"], runs["crossfm, 2 threads"]
    found = []
    for name, bar in (("xlearn", 5.5), ("modern-fm", 15.0)):
        theirs = [runs[label] for label in settings_of(name) if label in runs]
        theirs = [r for r in theirs if r.entry.options.get("optimizer") != "sgd"]
        if theirs:
            key = name.replace("-", "_")
            times = min(ratio(one, r).median for r in theirs)
            behind = one.loss - min(r.loss for r in theirs)
            found.append(Figure(f"speed_over_{key}", times, bar, ">=", "times"))
            found.append(Figure(f"log_loss_behind_{key}", behind, 0.0, "<="))
            if one.scoring_rates and all(r.scoring_rates for r in theirs):
                times = min(scoring_ratio(one, r).median for r in theirs)
                found.append(Figure(f"scoring_over_{key}", times, SCORING_BAR, ">=", "times"))
    found += [
        Figure("two_threads_over_one", ratio(two, one).median, 1.7, ">=", "times"),
        Figure("two_threads_log_loss_behind_one", two.loss - one.loss, 0.001, "<="),
        Figure("memory_above_parameters_and_data", used["above"] / MEGABYTE, 200.0, "<=", "MB"),
    ]
    return found


def show(
    runs: dict[str, Runs], bayes: float, used: dict[str, float], arguments: argparse.Namespace
) -> None:
    """Print the tables."""
    one = runs["crossfm"]
    lines = []
    for label, r in runs.items():
        rate, times = Spread.of(r.rates), ratio(one, r)
        loss = f"{r.loss:.4f}" if r.comparable else "not compared"
        whole = [r.trained / answer["whole"] for answer in r.answers if "whole" in answer]
        lines.append(
            (label, f"{r.n_rows:,}", f"{rate.median:,.0f}",
             f"{rate.least:,.0f} to {rate.greatest:,.0f}",
             f"{Spread.of(whole).median:,.0f}" if whole else "", f"{times.median:.2f}", loss)
        )  # fmt: skip
    show_table(
        f"FM, {N_FACTORS} factors, logistic, AdaGrad, {arguments.epochs} epochs,"
        f" median of {arguments.rounds} rounds, turn about; truth's log loss {bayes:.4f}",
        ("library", "rows", "rows/s", "spread", "whole call", "x slower", "log loss"),
        lines,
    )
    show_scoring(runs)
    print(f"versions: {', '.join(sorted({r.version for r in runs.values()}))}")
    parts = ", ".join(f"{name} {size / MEGABYTE:,.0f} MB" for name, size in used.items())
    print(f"memory of one fit: {parts}")


def show_scoring(runs: dict[str, Runs]) -> None:
    """Print the table of scoring, of the entries that measure it."""
    lines = []
    for label, r in runs.items():
        if r.scoring_rates and r.comparable:
            rate, times = Spread.of(r.scoring_rates), scoring_ratio(runs["crossfm"], r)
            spread = f"{rate.least:,.0f} to {rate.greatest:,.0f}"
            whole = r.n_scored / Spread.of([a["scoring_whole"] for a in r.answers]).median
            lines.append(
                (label, f"{rate.median:,.0f}", spread, f"{whole:,.0f}", f"{times.median:.2f}")
            )
    title = "scoring the test rows, one thread, in the same rounds"
    show_table(title, ("library", "rows/s", "spread", "whole call", "x slower"), lines)


def tune(names: Sequence[str], train: Part, test: Part, n_epochs: int, say: Any) -> int:
    """Run each library's grid once and print test log loss, best first."""
    for name in [label for given in ("crossfm", *names) for label in settings_of(given)]:
        grid = GRIDS[name]
        entries = []
        for choice in itertools.product(*grid.values()):
            options = dict(zip(grid, choice, strict=True))
            label = f"{name} " + " ".join(f"{key}={value}" for key, value in options.items())
            full = {"n_epochs": n_epochs, "n_factors": N_FACTORS, "n_jobs": 1, **options}
            entries.append(Entry(label, name.split(",")[0], full))
        runs = contest(entries, train, test, rounds=1, say=say)
        ranked = sorted(runs.values(), key=lambda r: r.loss)
        lines = [(r.entry.label, f"{r.loss:.5f}", f"{r.rates[0]:,.0f}") for r in ranked]
        show_table(f"grid of {name}, {n_epochs} epochs", ("setting", "log loss", "rows/s"), lines)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("fm", help="training speed, threads and memory")
    one.add_argument("--check", action="store_true", help="end with JSON; exit 1 on a missed bar")
    one.add_argument("--rows", type=int, default=N_ROWS)
    one.add_argument("--test-rows", type=int, default=N_TEST)
    one.add_argument("--epochs", type=int, default=N_EPOCHS)
    one.add_argument("--rounds", type=int, default=ROUNDS)
    one.add_argument("--peers", default="xlearn,modern-fm",
                     help="also: torchfm, river (slow, on a few rows)")  # fmt: skip
    one.add_argument("--tune", action="store_true", help="run the grids instead of the contest")
    one.add_argument("-v", "--verbose", action="store_true", help="a line about each run")
    one.set_defaults(run=fm)
    ffm.add_command(commands)
    levels.add_command(commands)
    text.add_command(commands)
    tables.add_command(commands)
    mcmc.add_command(commands)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (peers.PeerError, WorkerError, Disagreement) as error:
        print(f"no figures: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
