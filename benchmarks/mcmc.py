"""Gibbs sampling: crossfm beside myFM, and relation blocks beside the same features flattened.

Two sets: MovieLens 100K (official fold 3, user and film), and a million made-up ratings with user,
item, three fields of the user's and two of the item's. Ten factors, a group of hyperparameters a
field, all draws kept; `seconds` are those of the fit, from rows in memory to draws. A speed counts
where the test RMSE of the mean over all draws is not more than 0.001 behind myFM's, which has one
thread.

Flattened, the films of a user and the users of a film stand in each of their ratings (SVD++ on
MovieLens 100K, fold 1, four hundred features a row). crossfm finds equal bags by itself and shares
them; for this comparison it is told not to.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import bayes, peers
from benchmarks.figures import Figure, Report, Spread, show_table
from benchmarks.harness import Entry, Runs, contest, machine, ratio
from benchmarks.workers import Part

N_FACTORS = 10
BARS = {"crossfm": 5.0, "crossfm, 2 threads": 8.0}
BAR_BLOCKS = 20.0
BEHIND = 0.001
SIDES = ((10, 2, 21), (80, 50))  # categories of what is known of a user, and of an item


def add_command(commands: Any) -> None:
    """The subcommand ``mcmc``."""
    one = commands.add_parser("mcmc", help="Gibbs sampling beside myFM, blocks beside flattened")
    one.add_argument("--check", action="store_true", help="end with JSON; exit 1 on a missed bar")
    one.add_argument("--rows", type=int, default=1_000_000, help="of the made-up ratings")
    one.add_argument("--sweeps", type=int, default=200, help="on MovieLens; a tenth of it else")
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("-v", "--verbose", action="store_true", help="a line about each run")
    one.set_defaults(run=mcmc)


def mcmc(arguments: argparse.Namespace) -> int:
    """The contests, the bars, the report."""
    where = machine()  # before this command is itself the load
    peers.ensure("myfm")

    def say(text: str) -> None:
        if arguments.verbose or sys.stderr.isatty():
            print(text, file=sys.stderr, flush=True)

    report = Report("speed mcmc")
    report.details = {"machine": where}
    sets = {
        "movielens": (*movielens(), arguments.sweeps),
        "synthetic": (*synthetic(arguments.rows), max(1, arguments.sweeps // 10)),
    }
    for name, (train, test, n_sweeps) in sets.items():
        say(f"{name}: {len(train):,} + {len(test):,} ratings, {n_sweeps} sweeps")
        runs = contest(
            entries(n_sweeps), train, test, rounds=arguments.rounds, say=say, threads=2,
            loss=bayes.rmse,
        )  # fmt: skip
        report.add(*figures(name, runs))
        report.details[name] = {label: one.summary() for label, one in runs.items()}
        show(name, runs, len(train), n_sweeps)
    blocks, flattened = seconds_of_blocks(arguments.rounds, say)
    times = Spread.of([b / a for a, b in zip(blocks, flattened, strict=True)])
    report.add(Figure("blocks_over_flattened", times.median, BAR_BLOCKS, ">=", "times"))
    report.details["seconds_a_sweep"] = {"blocks": blocks, "flattened": flattened}
    a, b = Spread.of(blocks).median, Spread.of(flattened).median
    print(f"SVD++ features of MovieLens 100K, a sweep: {a:.4f} s in blocks, {b:.3f} s flattened")
    print(f"versions: {', '.join(sorted({one.version for one in runs.values()}))}")
    return report.finish(check=arguments.check)


def entries(n_sweeps: int) -> list[Entry]:
    """crossfm on one thread and on two, and myFM."""
    common = {"n_factors": N_FACTORS, "n_epochs": n_sweeps, "loss": "squared"}
    return [
        Entry("crossfm", "crossfm", {**common, "solver": "mcmc", "n_jobs": 1}),
        Entry("crossfm, 2 threads", "crossfm", {**common, "solver": "mcmc", "n_jobs": 2}),
        Entry("myfm", "myfm", {**common, "n_kept": n_sweeps, "grouped": True}),
    ]


def figures(name: str, runs: dict[str, Runs]) -> list[Figure]:
    """What is promised of a contest."""
    theirs, found = runs["myfm"], []
    for label, bar in BARS.items():
        ours = runs[label]
        of = f"{name}_{'one_thread' if label == 'crossfm' else 'two_threads'}"
        found.append(Figure(f"{of}_rmse_behind", ours.loss - theirs.loss, BEHIND, "<="))
        found.append(Figure(f"{of}_over_myfm", ratio(ours, theirs).median, bar, ">=", "times"))
    return found


def show(name: str, runs: dict[str, Runs], n_rows: int, n_sweeps: int) -> None:
    """A table of sweeps a second."""
    lines = []
    for label, one in runs.items():
        rate = Spread.of([n_sweeps / seconds for seconds in one.seconds])
        times = ratio(runs["crossfm"], one)
        lines.append(
            (label, f"{rate.median:,.1f}", f"{rate.least:,.1f} to {rate.greatest:,.1f}",
             f"{times.median:.2f}", f"{one.loss:.4f}")
        )  # fmt: skip
    show_table(
        f"Gibbs sampling, {name}: {n_rows:,} ratings, {N_FACTORS} factors, {n_sweeps} sweeps,"
        f" median of {len(one.seconds)} rounds, turn about",
        ("library", "sweeps/s", "spread", "x slower", "RMSE"),
        lines,
    )


def movielens() -> tuple[Part, Part]:
    """User and film of MovieLens 100K, fold 3."""
    from crossfm.datasets import load_movielens

    parts = load_movielens("100k").fold(bayes.FOLD)
    columns = [
        (part["user"].to_numpy() - 1, part["item"].to_numpy() - 1, bayes.ratings(part))
        for part in parts
    ]
    sizes = [1 + max(int(part[at].max()) for part in columns) for at in (0, 1)]
    return _parts([(np.stack(part[:2], 1), part[2]) for part in columns], sizes)


def synthetic(n_rows: int, seed: int = 0) -> tuple[Part, Part]:
    """Ratings of a machine with four factors, and a tenth of their number more as a test part."""
    rng = np.random.default_rng(seed)
    n = n_rows + n_rows // 10
    owners = [max(50, n_rows // 50), max(20, n_rows // 200)]
    sizes = [*owners, *SIDES[0], *SIDES[1]]
    drawn = [rng.choice(size, n, p=rng.dirichlet(np.full(size, 0.5))) for size in owners]
    known = [
        rng.choice(size, owner, p=rng.dirichlet(np.full(size, 0.5)))[ids]
        for owner, ids, of_owner in zip(owners, drawn, SIDES, strict=True)
        for size in of_owner
    ]
    ids = np.stack([*drawn, *known], 1)
    score = np.zeros(n)
    pooled = np.zeros((n, 4))
    squares = np.zeros(n)
    for at, size in enumerate(sizes):
        w, v = rng.normal(0, 0.3, size), rng.normal(0, 0.3, (size, 4))
        score += w[ids[:, at]]
        pooled += v[ids[:, at]]
        squares += (v**2).sum(1)[ids[:, at]]
    y = 3.5 + score + 0.5 * ((pooled**2).sum(1) - squares) + rng.normal(0, 0.8, n)
    return _parts([(ids[:n_rows], y[:n_rows]), (ids[n_rows:], y[n_rows:])], sizes)


def _parts(tables: Sequence[tuple[Any, Any]], sizes: Sequence[int]) -> tuple[Part, Part]:
    first = np.concatenate([[0], np.cumsum(sizes)])
    field_of = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    made = [
        Part(
            (ids + first[:-1]).astype(np.int32).ravel(),
            np.arange(len(ids) + 1, dtype=np.int64) * len(sizes), None,
            np.asarray(y, np.float32), int(first[-1]), field_of,
        )
        for ids, y in tables
    ]  # fmt: skip
    return made[0], made[1]


def seconds_of_blocks(rounds: int, say: Any) -> tuple[list[float], list[float]]:
    """Seconds of a sweep with relation blocks, and with their features in every row."""
    from crossfm.data.rows import Rows
    from crossfm.datasets import load_movielens
    from crossfm.solvers.sweeps import Chain, design

    wide = bayes.Extended.of(*load_movielens("100k").fold(bayes.FOLD_EXTENDED))
    chain = wide.chain("normal", 0)
    ids, *units = wide.parts[0]
    tables = [table.take(unit_of) for table, unit_of in zip(wide.tables, units, strict=True)]
    lengths = [np.full(len(ids), ids.shape[1]), *(table.row_lengths() for table in tables)]
    say(f"flattened: {sum(lengths).mean():.0f} features a rating")
    parts = [(ids.ravel(), np.ones(ids.size, np.float32)), *((t.ids, t.values) for t in tables)]
    owner = np.concatenate([np.repeat(np.arange(len(ids)), n) for n in lengths])
    order = np.argsort(owner, kind="stable")
    rows = Rows(
        np.concatenate([part[0] for part in parts])[order],
        np.concatenate([part[1] for part in parts])[order],
        np.concatenate([[0], np.cumsum(sum(lengths))]),
        targets=chain.targets[np.argsort(chain.design.order)],
    )  # fmt: skip
    field_of = np.repeat(np.arange(5, dtype=np.int32), wide.sizes)
    with mock.patch.object(design, "WORTH_SHARING", -1.0):
        flat = Chain(rows, len(field_of), field_of, chain.options, field_of)
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for one, sweeps, seconds in ((chain, 20, found[0]), (flat, 1, found[1])):
            started = time.perf_counter()
            for _ in range(sweeps):
                one.step()
            seconds.append((time.perf_counter() - started) / sweeps)
            say(f"{seconds[-1]:.4f} s a sweep")
    return found
