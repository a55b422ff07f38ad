"""A fit as it goes: a bar over the rows of the epoch, a line an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from crossfm.cli.format import a_rate, a_time, a_value
from crossfm.cli.output import Screen

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["FitProgress"]

MANY_SWEEPS, SHOWN_SWEEPS = 30, 20  # of more sweeps, about so many have a line
OURS = ("epoch", "of", "loss", "rows_per_second")  # the rest of an epoch's numbers are metrics


class FitProgress:
    """What the estimators' `progress` calls; a context around the fit.

    On a terminal a bar shows the epoch, the share of its rows, rows a second and the time left
    for all epochs; below each other stand the epochs that are done. Elsewhere each epoch is a
    line of text. Sweeps are many and alike: the bar is over all of them, and of more than 30 the
    first, the last and about 20 between have a line.

    Args:
        screen: who is spoken to.
        sweeps: whether epochs are sweeps.
    """

    def __init__(self, screen: Screen, *, sweeps: bool = False) -> None:
        self.screen = screen
        self.word = "sweep" if sweeps else "epoch"
        self.epochs = 0  # done
        self.n_rows = 0  # of an epoch
        self._bar: Progress | None = None
        self._task: Any = None
        self._names: list[str] = []
        self._started = 0.0
        self._from = 0.0  # passes before that
        self._best = math.nan

    def __enter__(self) -> FitProgress:
        if self.screen.live:
            self._bar = _bar(self.screen)
            self._task = self._bar.add_task("", total=None, epoch="encoding", rate="", left="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, event: str, numbers: Mapping[str, float]) -> None:
        """Take note of ``"rows"`` (some rows are done) or ``"epoch"`` (one is over)."""
        self.n_rows = int(numbers.get("n_rows", self.n_rows))
        if self.screen.quiet:
            return
        if event == "rows":
            self._move(numbers)
        elif event == "epoch":
            self.epochs = int(numbers["epoch"])
            if self.word == "sweep":
                self._move({**numbers, "rows": 1, "n_rows": 1})
            if self._has_line(self.epochs, int(numbers["of"])):
                self._line(numbers)

    def _has_line(self, epoch: int, of: int) -> bool:
        every = 1 if self.word == "epoch" or of <= MANY_SWEEPS else of // SHOWN_SWEEPS
        return epoch in (1, of) or epoch % every == 0

    def _move(self, numbers: Mapping[str, float]) -> None:
        if self._bar is None:
            return
        epoch, of = int(numbers["epoch"]), int(numbers["of"])
        done, n = numbers["rows"], max(1.0, numbers["n_rows"])
        passes = epoch - 1 + done / n
        if self._started == 0.0:
            self._started, self._from = time.perf_counter(), passes
        gone, elapsed = passes - self._from, time.perf_counter() - self._started
        self._bar.update(
            self._task,
            total=1.0,
            completed=passes / of if self.word == "sweep" else done / n,
            epoch=f"{self.word} {str(epoch).rjust(len(str(of)))}/{of}",
            rate=a_rate(numbers["rows_per_second"]),
            left=f"{a_time(elapsed * (of - passes) / gone)} left" if gone else "",
        )

    def _line(self, numbers: Mapping[str, float]) -> None:
        metrics = {name: value for name, value in numbers.items() if name not in OURS}
        rate = a_rate(numbers["rows_per_second"])
        if not self.screen.live:
            told = ", ".join(f"{name} {a_value(x)}" for name, x in metrics.items())
            self.screen.note(
                f"{self.word} {int(numbers['epoch'])}/{int(numbers['of'])}:"
                f" train loss {a_value(numbers['loss'])}{', ' if told else ''}{told}, {rate}"
            )
            return
        if not self._names:
            self._names = [self.word, "train loss", *metrics, "speed"]
            self._print(self._names, ["bold"] * len(self._names))
        values = [numbers["loss"], *metrics.values()]
        styles = ["dim", "", *[""] * len(metrics), "dim"]
        if metrics and self._is_best(*next(iter(metrics.items()))):
            styles[2] = "green"
        self._print([str(int(numbers["epoch"])), *map(a_value, values), rate], styles)

    def _is_best(self, name: str, value: float) -> bool:
        """Whether the metric that decides is better than in every epoch before."""
        from crossfm.metrics import get_metric

        better = math.isnan(self._best) or get_metric(name).improves(value, self._best)
        if better:
            self._best = value
        return better

    def _print(self, cells: list[str], styles: list[str]) -> None:
        from rich.text import Text

        widths = [max(len(name), 12 if name == "speed" else 9) for name in self._names]
        widths[0] = 5
        line = Text(" ")
        for place, (cell, width, style) in enumerate(zip(cells, widths, styles, strict=True)):
            line.append(("  " if place else "") + cell.rjust(width), style)
        console = self._bar.console if self._bar is not None else self.screen.notes
        console.print(line, highlight=False)


def _bar(screen: Screen) -> Progress:
    """A line that leaves room at its end: the terminal echoes Ctrl-C as ^C there."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    return Progress(
        TextColumn(" {task.fields[epoch]}", style="bold", markup=False),
        BarColumn(bar_width=max(10, min(60, screen.notes.width - 60))),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TextColumn("{task.fields[left]}", style="cyan", markup=False),
        console=screen.notes,
        transient=True,
    )
