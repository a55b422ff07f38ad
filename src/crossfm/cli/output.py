"""Where words go: results to stdout, all else to stderr; colours and bars only on terminals."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["Json", "Quiet", "Screen"]

Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object, and nothing else.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No notes, no progress: errors and results only.")
]

INDENT = (0, 0, 0, 1)  # tables begin one blank from the edge

# Words in the colour of what they are.
STYLES = {
    "categorical": "cyan",
    "numeric": "green",
    "bag": "magenta",
    "left out": "yellow",
}


class Screen:
    """What a command says, to whom, and how plainly.

    Results are for stdout: tables, or with `as_json` one JSON object. Notes, tables on the way
    and progress are for stderr, and `quiet` leaves them out. Whichever of the two is not a
    terminal gets plain lines of text.

    Args:
        as_json: print no result but the object.
        quiet: print no notes.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet

    @property
    def live(self) -> bool:
        """Whether bars may move: stderr is a terminal, and is to be spoken to."""
        return not self.quiet and sys.stderr.isatty()

    @cached_property
    def notes(self) -> Console:
        """The terminal behind stderr."""
        return _console(stderr=True)

    @cached_property
    def results(self) -> Console:
        """The terminal behind stdout."""
        return _console(stderr=False)

    # --- on the way: stderr -------------------------------------------------------------------

    def note(self, text: str = "", style: str = "") -> None:
        """A line on stderr."""
        if self.quiet:
            return
        if sys.stderr.isatty():
            self.notes.print(text, style=style or None, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """A line on stderr that should be read."""
        self.note(text, "yellow")

    @contextlib.contextmanager
    def busy(self, text: str) -> Iterator[Callable[[str], None]]:
        """A turning sign and a word while something takes time; gives a function to change it."""
        if not self.live:
            yield lambda text: None
            return
        with self.notes.status(text, spinner="dots", spinner_style="cyan") as status:
            yield status.update

    def facts(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Names and values on stderr, in two columns."""
        if not self.quiet:
            self._pairs(list(pairs), sys.stderr, lambda: self.notes)

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        right: Collection[str] = (),
        footer: str = "",
    ) -> None:
        """A table on stderr; columns without any text are left out.

        Args:
            header: a name a column.
            rows: a text a cell.
            right: the columns that end flush, numbers mostly.
            footer: a line below.
        """
        if not self.quiet:
            self._table(header, rows, right, footer, sys.stderr, lambda: self.notes)

    # --- the result: stdout -------------------------------------------------------------------

    def result(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Names and values on stdout, in two columns."""
        if not self.as_json:
            self._pairs(list(pairs), sys.stdout, lambda: self.results)

    def result_table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[Any]],
        right: Collection[str] = (),
        footer: str = "",
    ) -> None:
        """A table on stdout; see `table`."""
        if not self.as_json:
            self._table(header, rows, right, footer, sys.stdout, lambda: self.results)

    def result_line(self, text: str = "", style: str = "") -> None:
        """A line on stdout."""
        if self.as_json:
            return
        if sys.stdout.isatty():
            self.results.print(text, style=style or None, highlight=False, markup=False)
        else:
            print(text)

    def object(self, result: Mapping[str, Any]) -> None:
        """The result as one JSON object on stdout, where `as_json` asks for it."""
        if self.as_json:
            print(json.dumps(_plain(result), ensure_ascii=False, allow_nan=False, indent=1))

    # --- how ----------------------------------------------------------------------------------

    def _pairs(
        self, pairs: list[tuple[str, str]], stream: TextIO, console: Callable[[], Console]
    ) -> None:
        width = max((len(name) for name, _ in pairs), default=0)
        if not stream.isatty():
            for name, value in pairs:
                print(f"{name.ljust(width)}  {value}".rstrip(), file=stream)
            return
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 3, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in pairs:
            grid.add_row(Text(name), Text(value))
        console().print(Padding(grid, INDENT), highlight=False)

    def _table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[Any]],
        right: Collection[str],
        footer: str,
        stream: TextIO,
        console: Callable[[], Console],
    ) -> None:
        kept = [c for c in range(len(header)) if not rows or any(str(row[c]) for row in rows)]
        if not stream.isatty():
            texts = [[str(row[c]) for c in kept] for row in [header, *rows]]
            for line in _aligned(texts, [header[c] in right for c in kept]):
                print(line, file=stream)
            if footer:
                print(footer, file=stream)
            return
        from rich import box
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=box.SIMPLE_HEAD,
            header_style="bold",
            show_edge=False,
            pad_edge=False,
            padding=(0, 1),
        )
        for place, c in enumerate(kept):
            last = place == len(kept) - 1
            table.add_column(
                header[c],
                justify="right" if header[c] in right else "left",
                no_wrap=not last and header[c] != "encoding",
                overflow="ellipsis" if not last else "fold",
                style="dim" if header[c] == "why" else "",
            )
        for row in rows:
            cells: list[RenderableType] = [
                row[c]
                if isinstance(row[c], Text)
                else Text(str(row[c]), STYLES.get(str(row[c]), ""))
                for c in kept
            ]
            table.add_row(*cells)
        console().print(Padding(table, INDENT), highlight=False)
        if footer:
            console().print(" " + footer, style="dim", highlight=False, markup=False)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _aligned(texts: list[list[str]], right: list[bool]) -> Iterable[str]:
    """Cells in columns two blanks apart."""
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        cells = [
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers of numpy as Python's, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | str | int) or value is None:
        return value
    if hasattr(value, "item"):  # a numpy scalar
        return _plain(value.item())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value)
