"""Figures and their bars: what a benchmark promises, and whether it held."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """A measured value and the bar that it has to reach.

    Attributes:
        name: how the figure is known in JSON.
        value: as measured, in `unit`; NaN never holds.
        bar: the limit, in the same unit.
        better: ">=" where the value has to reach at least the bar, "<=" where at most.
        unit: for people.

    Example:
        >>> Figure("rmse", 0.91, 0.925, "<=").holds, Figure("auc", 0.91, 0.925, ">=").holds
        (True, False)
    """

    name: str
    value: float
    bar: float
    better: Literal[">=", "<="]
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether the value reaches the bar."""
        if math.isnan(self.value):
            return False
        return self.value >= self.bar if self.better == ">=" else self.value <= self.bar


@dataclass
class Report:
    """What one benchmark command found.

    Attributes:
        command: its name, also of the file that is saved.
        figures: those with bars.
        details: anything else worth keeping; must be JSON.
    """

    command: str
    figures: list[Figure] = field(default_factory=list)
    details: dict[str, object] = field(default_factory=dict)

    def add(self, *figures: Figure) -> None:
        """Take more figures."""
        self.figures.extend(figures)

    @property
    def holds(self) -> bool:
        """Whether there are figures and each reaches its bar."""
        return bool(self.figures) and all(figure.holds for figure in self.figures)

    def check_line(self) -> str:
        """The one line of JSON that ``--check`` ends with."""
        found = {
            f.name: {
                "value": f.value if math.isfinite(f.value) else None,
                "bar": f.bar,
                "holds": f.holds,
            }
            for f in self.figures
        }
        return json.dumps({"figures": found})

    def save(self, folder: Path = RESULTS) -> Path:
        """Write figures and details as JSON, through a temporary file; the path written."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.command.replace(' ', '-')}.json"
        found = json.loads(self.check_line())
        for figure in self.figures:
            found["figures"][figure.name] |= {"better": figure.better, "unit": figure.unit}
        text = json.dumps({"command": self.command, **found, **self.details}, indent=1)
        scratch = path.with_suffix(".tmp")
        scratch.write_text(text + "\n", encoding="utf-8")
        scratch.replace(path)
        return path

    def finish(self, *, check: bool, folder: Path = RESULTS) -> int:
        """Save, show the bars, print the JSON line under `check`; the exit status."""
        path = self.save(folder)
        show_bars(self.figures)
        place = "benchmarks/results" if folder == RESULTS else folder
        print(f"saved {path.name} under {place}")
        if not check:
            return 0
        print(self.check_line(), flush=True)
        return 0 if self.holds else 1


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of several measurements.

    Example:
        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(median=2.0, least=1.0, greatest=3.0, n=3)
    """

    median: float
    least: float
    greatest: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        if not values:
            raise ValueError("no measurements")
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        if self.n == 1:
            return f"{self.median:,.4g}"
        return f"{self.median:,.4g} ({self.least:,.4g} to {self.greatest:,.4g})"


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: first column left, the others right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for at, name in enumerate(header):
        table.add_column(name, justify="left" if at == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if _on_terminal() else 120).print(table)


def show_bars(figures: Sequence[Figure]) -> None:
    """Print each figure beside its bar."""
    rows = [
        (f.name, f"{f.value:,.4g} {f.unit}".strip(), f"{f.better} {f.bar:,.4g}",
         "holds" if f.holds else "MISSED")
        for f in figures
    ]  # fmt: skip
    show_table("bars", ("figure", "value", "bar", ""), rows)


def _on_terminal() -> bool:
    import sys

    return sys.stdout.isatty()
