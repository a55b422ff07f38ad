"""Training the field-aware machine: crossfm beside xLearn and libffm.

The click log of ``speed fm``, 4 factors a field, logistic loss, one thread, AdaGrad with a sum of
squares for each number, and crossfm also with one for each feature (row-wise); rows as they are,
but for libffm, which scales them to length one. A row of 39 features moves 48 kB each way, row-wise
half of it. Step sizes and penalties are the best of each library's grid (``--tune``), chosen on the
test part for every library alike; libffm has neither bias nor linear weights. As in
``speed fm``, what counts is the passes over the rows with their shuffles, by each library's own
clock.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.figures import Figure, Report, Spread, show_table
from benchmarks.harness import Entry, Runs, base_log_loss, check_agreement, contest, machine, ratio
from benchmarks.workers import Part

N_FACTORS, N_EPOCHS = 4, 1
BAR, ROWWISE_BAR = 2.0, 3.0
ROWWISE = "crossfm, row-wise"
AGREE_WITHIN = 0.03  # log loss; one of the libraries has no linear weights

# The best of each library's grid (--tune) at 1,000,000 rows.
SETTINGS: dict[str, dict[str, Any]] = {
    "crossfm": {"learning_rate": 0.04, "l2_factors": 0.0, "init_scale": 0.02},
    ROWWISE: {
        "solver": "rowwise_adagrad",
        "learning_rate": 0.04,
        "l2_factors": 0.0,
        "init_scale": 0.02,
    },
    "xlearn": {"learning_rate": 0.04, "l2": 0.0, "init": 0.1},
    "libffm": {"learning_rate": 0.2, "l2": 0.0},
}
GRIDS: dict[str, dict[str, Sequence[Any]]] = {
    "crossfm": {
        "learning_rate": (0.03, 0.04, 0.05),
        "l2_factors": (0.0, 0.003),
        "init_scale": (0.01, 0.02, 0.03),
    },
    ROWWISE: {
        "solver": ("rowwise_adagrad",),
        "learning_rate": (0.03, 0.04, 0.05),
        "l2_factors": (0.0, 0.003),
        "init_scale": (0.01, 0.02, 0.03),
    },
    "xlearn": {"learning_rate": (0.03, 0.06, 0.1), "l2": (0.0, 2e-5), "init": (0.1,)},
    "libffm": {"learning_rate": (0.1, 0.2, 0.4), "l2": (0.0, 2e-5)},
}


def add_command(commands: Any) -> None:
    """The subcommand ``ffm``."""
    one = commands.add_parser("ffm", help="training field-aware machines, beside xLearn and libffm")
    one.add_argument("--check", action="store_true", help="end with JSON; exit 1 on a missed bar")
    one.add_argument("--rows", type=int, default=1_000_000)
    one.add_argument("--test-rows", type=int, default=200_000)
    one.add_argument("--epochs", type=int, default=N_EPOCHS)
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--peers", default="xlearn,libffm")
    one.add_argument("--tune", action="store_true", help="run the grids instead of the contest")
    one.add_argument("-v", "--verbose", action="store_true", help="a line about each run")
    one.set_defaults(run=ffm)


def click_log(n_rows: int, n_test: int) -> tuple[Part, Part, float]:
    """Training and test part with fields, and the log loss of the true probabilities."""
    from benchmarks import speed
    from crossfm.datasets.click_log import ClickLog

    train, test, bayes = speed.click_log(n_rows, n_test)
    field_of = ClickLog().field_of
    return replace(train, field_of=field_of), replace(test, field_of=field_of), bayes


def entry_of(name: str, n_epochs: int, settings: dict[str, Any], label: str = "") -> Entry:
    """A library with these settings, on one thread."""
    common = {"model": "ffm", "n_epochs": n_epochs, "n_factors": N_FACTORS, "n_jobs": 1}
    return Entry(label or name, name, {**common, **settings})


def ffm(arguments: argparse.Namespace) -> int:
    """The contest, the bars, the report."""
    where = machine()  # before this command is itself the load
    names = [name for name in arguments.peers.split(",") if name]
    peers.ensure(*names)

    def say(text: str) -> None:
        if arguments.verbose or sys.stderr.isatty():
            print(text, file=sys.stderr, flush=True)

    say(f"make {arguments.rows:,} + {arguments.test_rows:,} rows")
    train, test, bayes = click_log(arguments.rows, arguments.test_rows)
    if arguments.tune:
        return tune(["crossfm", ROWWISE, *names], train, test, arguments.epochs, say)
    entries = [
        entry_of(label.split(",")[0], arguments.epochs, SETTINGS[label], label)
        for label in ("crossfm", ROWWISE, *names)
    ]
    runs = contest(entries, train, test, rounds=arguments.rounds, say=say)
    check_agreement(runs, test.targets, within=AGREE_WITHIN)
    report = Report("speed ffm")
    report.add(*figures(runs))
    report.details = {
        "machine": where,
        "rows": len(train),
        "test_rows": len(test),
        "epochs": arguments.epochs,
        "log_loss_of_the_truth": bayes,
        "log_loss_of_the_base_rate": base_log_loss(test.targets),
        "runs": {label: r.summary() for label, r in runs.items()},
    }
    lines = []
    for label, r in runs.items():
        rate, times = Spread.of(r.rates), ratio(runs["crossfm"], r)
        spread = f"{rate.least:,.0f} to {rate.greatest:,.0f}"
        lines.append((label, f"{rate.median:,.0f}", spread, f"{times.median:.2f}", f"{r.loss:.4f}"))
    show_table(
        f"FFM, {N_FACTORS} factors, logistic, AdaGrad, {len(train):,} rows, {arguments.epochs}"
        f" epoch(s), one thread, median of {arguments.rounds} rounds, turn about; truth's log loss"
        f" {bayes:.4f}, the base rate's {base_log_loss(test.targets):.4f}",
        ("library", "rows/s", "spread", "x slower", "log loss"),
        lines,
    )
    print(f"versions: {', '.join(sorted({r.version for r in runs.values()}))}")
    return report.finish(check=arguments.check)


def figures(runs: dict[str, Runs]) -> list[Figure]:
    """What is promised of the contest."""
    found = []
    for label, theirs in runs.items():
        if label in ("crossfm", ROWWISE):
            continue
        for ours, bar in (("crossfm", BAR), (ROWWISE, ROWWISE_BAR)):
            of = "" if ours == "crossfm" else "rowwise_"
            times = ratio(runs[ours], theirs).median
            found.append(Figure(f"{of}speed_over_{label}", times, bar, ">=", "times"))
            behind = runs[ours].loss - theirs.loss
            found.append(Figure(f"{of}log_loss_behind_{label}", behind, 0.0, "<="))
    return found


def tune(names: Sequence[str], train: Part, test: Part, n_epochs: int, say: Any) -> int:
    """Run each library's grid once and print test log loss, best first."""
    for name in names:
        entries = []
        for choice in itertools.product(*GRIDS[name].values()):
            settings = dict(zip(GRIDS[name], choice, strict=True))
            label = f"{name} " + " ".join(f"{key}={value}" for key, value in settings.items())
            entries.append(entry_of(name.split(",")[0], n_epochs, settings, label))
        runs = contest(entries, train, test, rounds=1, say=say)
        ranked = sorted(runs.values(), key=lambda r: float(np.nan_to_num(r.loss, nan=np.inf)))
        lines = [(r.entry.label, f"{r.loss:.5f}", f"{r.rates[0]:,.0f}") for r in ranked]
        show_table(f"grid of {name}, {n_epochs} epochs", ("setting", "log loss", "rows/s"), lines)
    return 0
