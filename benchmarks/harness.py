"""Contests: the same data, a process for each library, turn about, medians.

Machines drift: a neighbour wakes, a core warms up. So no library runs all its repeats at once;
they alternate (A B C, A B C, ...), ratios are taken within a round, and the median of those is
reported with the least and the greatest. Nothing is reported before the libraries have been
seen to solve the same task: their test losses must agree and beat the base rate.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.figures import Spread
from benchmarks.workers import Part

ROOT = Path(__file__).resolve().parents[1]
OURS = ("crossfm", "crossfm-nn", "crossfm-search", "pytorch")  # these run in this environment


class WorkerError(Exception):
    """A library failed at what it was asked, or its process ended."""


class Worker:
    """A library in a process of its own; see `benchmarks.workers` for what crosses the pipe.

    Args:
        name: of the entrant.
        command: what to run instead; for tests.
        threads: what the libraries underneath are told to use, unless the environment says
            otherwise; an entrant may be asked for its own number besides.
        level: the instruction set of crossfm's kernels, where not the best of the machine.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str] | None = None,
        *,
        threads: int = 1,
        level: str | None = None,
    ) -> None:
        self.name = name
        if command is None:
            python = sys.executable if name in OURS else str(peers.interpreter())
            command = [python, "-m", "benchmarks.workers", name]
        environment = peers.environment()
        if level is not None:
            environment["CROSSFM_ISA"] = level
        # One thread unless the entrant asks for more: none may gain by a library underneath.
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
            environment.setdefault(variable, str(threads))
        self._log = tempfile.TemporaryFile(mode="w+b")  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, text=True,
        )  # fmt: skip

    def ask(self, what: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            WorkerError: the library raised, or its process ended; with the last it said.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise WorkerError(f"{self.name} ended (status {code}) at {what!r}:\n{self._said()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.name} failed at {what!r}: {answer['error']}\n{self._said()}")
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _said(self) -> str:
        self._log.flush()
        self._log.seek(0)
        text = self._log.read().decode("utf-8", "replace").strip()
        return "\n".join(text.splitlines()[-15:])


@dataclass(frozen=True)
class Entry:
    """A library in one setting.

    Attributes:
        label: in tables and in JSON.
        worker: which library.
        options: passed to its `train`.
        max_rows: train on the first so many rows only (slow libraries); its loss is then not
            compared.
        level: the instruction set of crossfm's kernels, where not the best of the machine.
    """

    label: str
    worker: str
    options: Mapping[str, Any]
    max_rows: int | None = None
    level: str | None = None


@dataclass
class Runs:
    """What an entry's runs gave, one number a round.

    `scoring_rates`, test rows per second, are empty for entrants that do not measure scoring.
    """

    entry: Entry
    version: str
    n_rows: int
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    scoring_rates: list[float] = field(default_factory=list)
    n_scored: int = 0
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def trained(self) -> int:
        """Rows that one run passes over."""
        return self.n_rows * int(self.entry.options["n_epochs"])

    @property
    def rates(self) -> list[float]:
        """Training rows per second of each round."""
        return [self.trained / seconds for seconds in self.seconds]

    @property
    def loss(self) -> float:
        """Median test loss: log loss, unless the contest says otherwise."""
        return Spread.of(self.losses).median

    @property
    def comparable(self) -> bool:
        """Whether it saw all the training rows."""
        return self.entry.max_rows is None

    def summary(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "version": self.version,
            "options": dict(self.entry.options),
            "rows": self.n_rows,
            "seconds": self.seconds,
            "rows_per_second": self.rates,
            "test_loss": self.losses,
            "scored_rows_per_second": self.scoring_rates,
            "answers": self.answers,
        }


def log_loss(targets: np.ndarray, scores: np.ndarray) -> float:
    """Mean logistic loss of log odds ``[n]`` against targets 0/1 ``[n]``, in float64."""
    z, y = np.asarray(scores, np.float64), np.asarray(targets, np.float64)
    return float(np.mean(np.logaddexp(0.0, z) - z * y))


def contest(
    entries: Sequence[Entry],
    train: Part,
    test: Part,
    *,
    rounds: int,
    say: Any = lambda text: None,
    threads: int = 1,
    loss: Callable[[Any, Any], float] = log_loss,
) -> dict[str, Runs]:
    """Run every entry `rounds` times, turn about; each later round starts one entry further on.

    Args:
        entries: their labels differ. Entries of the same worker, rows and level share a process.
        train: training rows with targets 0 and 1.
        test: test rows with the same ids.
        rounds: at least 1.
        say: called with a line about each run.
        threads: of the libraries underneath; see `Worker`.
        loss: of test targets and scores.
    """
    found: dict[str, Runs] = {}
    workers: dict[tuple[str, int | None, str | None], Worker] = {}
    with tempfile.TemporaryDirectory(prefix="crossfm-bench-") as name:
        folder = Path(name)
        test.save(folder / "test")
        try:
            for entry in entries:
                key = _key(entry)
                part = train if entry.max_rows is None else train.head(entry.max_rows)
                if key not in workers:
                    where = folder / f"train-{entry.max_rows or 'all'}"
                    if not where.exists():
                        part.save(where)
                    scratch = folder / "-".join(str(part or "all") for part in key)
                    scratch.mkdir()
                    workers[key] = Worker(entry.worker, threads=threads, level=entry.level)
                    answer = workers[key].ask(
                        "load", train=str(where), test=str(folder / "test"), scratch=str(scratch)
                    )
                    version = answer["version"]
                else:
                    version = next(r.version for r in found.values() if _key(r.entry) == key)
                found[entry.label] = Runs(entry, version, len(part), n_scored=len(test))
            for at in range(rounds):
                turn = [entries[(at + i) % len(entries)] for i in range(len(entries))]
                for entry in turn:
                    runs = found[entry.label]
                    scores = folder / "scores.npy"
                    answer = workers[_key(entry)].ask(
                        "train", options=dict(entry.options), scores=str(scores)
                    )
                    runs.seconds.append(answer["seconds"])
                    runs.answers.append(answer)
                    runs.losses.append(loss(test.targets, np.load(scores)))
                    if "scoring_seconds" in answer:
                        runs.scoring_rates.append(len(test) / answer["scoring_seconds"])
                    say(
                        f"{entry.label}: {runs.rates[-1]:,.0f} rows/s,"
                        f" test loss {runs.losses[-1]:.4f}"
                    )
        finally:
            for worker in workers.values():
                worker.close()
    return found


def _key(entry: Entry) -> tuple[str, int | None, str | None]:
    return entry.worker, entry.max_rows, entry.level


def ratio(ours: Runs, theirs: Runs) -> Spread:
    """How many times faster `ours` is, taken within each round."""
    return Spread.of([a / b for a, b in zip(ours.rates, theirs.rates, strict=True)])


def scoring_ratio(ours: Runs, theirs: Runs) -> Spread:
    """How many times faster `ours` scores, taken within each round."""
    pairs = zip(ours.scoring_rates, theirs.scoring_rates, strict=True)
    return Spread.of([a / b for a, b in pairs])


class Disagreement(Exception):
    """The libraries did not solve the same task; a comparison of speed would mean nothing."""


def check_agreement(runs: Mapping[str, Runs], targets: np.ndarray, *, within: float) -> None:
    """Raise unless every comparable entry beats the base rate and lies near the best.

    Raises:
        Disagreement: which entry, its log loss, and what was expected.
    """
    base = base_log_loss(targets)
    losses = {label: r.loss for label, r in runs.items() if r.comparable}
    best = min(losses.values())
    for label, loss in losses.items():
        if not loss < base:
            raise Disagreement(
                f"{label} reaches test log loss {loss:.4f}, no better than the base rate's"
                f" {base:.4f}: it has not learned, so its speed means nothing"
            )
        if loss > best + within:
            raise Disagreement(
                f"{label} reaches test log loss {loss:.4f}, the best entry {best:.4f}:"
                f" more than {within} apart is another task, or a setting that does not suit it"
            )


def base_log_loss(targets: np.ndarray) -> float:
    """Log loss of always saying the base rate."""
    p = float(np.mean(targets))
    return float(-(p * np.log(p) + (1 - p) * np.log1p(-p))) if 0 < p < 1 else 0.0


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    import platform

    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"chip": model, "cores": cores, "python": platform.python_version(),
            "load_average": load}  # fmt: skip
