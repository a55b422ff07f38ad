"""What each instruction set gives: crossfm's kernels of every level that the machine has, in turn.

The click log of ``speed fm``, one thread, logistic loss, AdaGrad: the plain machine with 16 factors
and the field-aware one with 4, each trained and then scored at the levels x86-64-v2 (the
baseline), -v3 (AVX2) and -v4 (AVX-512), turn about, each in a process of its own. Settings and
clocks are those of ``speed fm`` and ``speed ffm``. The levels round differently, so that models
part in their last digits; their test log losses are seen to agree first.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from benchmarks import ffm
from benchmarks.figures import Figure, Report, Spread, show_table
from benchmarks.harness import (
    Entry,
    Runs,
    check_agreement,
    contest,
    machine,
    ratio,
    scoring_ratio,
)

AGREE_WITHIN = 0.001  # log loss; the levels differ in rounding alone
APART = 1e-4  # of log loss, between the best level and the worst


def add_command(commands: Any) -> None:
    """The subcommand ``levels``."""
    one = commands.add_parser("levels", help="training and scoring at each instruction set")
    one.add_argument("--check", action="store_true", help="end with JSON; exit 1 on a missed bar")
    one.add_argument("--rows", type=int, default=500_000)
    one.add_argument("--test-rows", type=int, default=200_000)
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--models", default="fm,ffm")
    one.add_argument("-v", "--verbose", action="store_true", help="a line about each run")
    one.set_defaults(run=levels)


def entries_of(model: str, names: list[str]) -> list[Entry]:
    """The model at each of these levels."""
    from benchmarks import speed

    if model == "ffm":
        entry = ffm.entry_of("crossfm", 1, ffm.SETTINGS["crossfm"])
    else:
        options = {"n_epochs": 1, "n_factors": speed.N_FACTORS, "n_jobs": 1}
        entry = Entry("crossfm", "crossfm", {**options, **speed.SETTINGS["crossfm"]})
    return [replace(entry, label=name, level=name) for name in names]


def levels(arguments: argparse.Namespace) -> int:
    """A contest of the levels for each model, the report."""
    from crossfm import _native

    where = machine()

    def say(text: str) -> None:
        if arguments.verbose or sys.stderr.isatty():
            print(text, file=sys.stderr, flush=True)

    train, test, _ = ffm.click_log(arguments.rows, arguments.test_rows)
    names = list(_native.levels())
    report = Report("speed levels")
    report.details = {"machine": where, "rows": len(train), "test_rows": len(test)}
    for model in arguments.models.split(","):
        runs = contest(entries_of(model, names), train, test, rounds=arguments.rounds, say=say)
        check_agreement(runs, test.targets, within=AGREE_WITHIN)
        report.add(*figures(model, runs))
        report.details[model] = {label: r.summary() for label, r in runs.items()}
        show(model, runs, arguments.rounds)
    return report.finish(check=arguments.check)


def figures(model: str, runs: dict[str, Runs]) -> list[Figure]:
    """How far the log losses lie apart."""
    losses = [r.loss for r in runs.values()]
    return [Figure(f"{model}_log_loss_apart", max(losses) - min(losses), APART, "<=")]


def show(model: str, runs: dict[str, Runs], rounds: int) -> None:
    """Print the table; how much slower than the best level, within each round."""
    best = next(iter(runs.values()))
    lines = []
    for label, r in runs.items():
        lines.append(
            (label, f"{Spread.of(r.rates).median:,.0f}", f"{ratio(best, r).median:.2f}",
             f"{Spread.of(r.scoring_rates).median:,.0f}", f"{scoring_ratio(best, r).median:.2f}",
             f"{r.loss:.6f}")
        )  # fmt: skip
    show_table(
        f"{model}, one thread, median of {rounds} rounds, turn about",
        ("level", "training rows/s", "x slower", "scoring rows/s", "x slower", "log loss"),
        lines,
    )
