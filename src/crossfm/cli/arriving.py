"""Where ``crossfm fit --follow`` takes its rows from: a folder, a file that grows, a pipe."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from crossfm.data.arrivals import Arrivals
from crossfm.data.inputs import are_tables, file_format, iter_rows
from crossfm.data.lines import GrowingFile, LineFormat, Pipe
from crossfm.errors import CrossfmError, DataError

__all__ = ["FolderSource", "LineSource", "Source"]

QUIET = 5.0  # seconds without a change after which a text file counts as whole
BATCH = 1 << 22  # bytes of lines that are learned at once
FIRST_LINES, FIRST_PAUSE, PAUSE = 1000, 10.0, 1.0

Types = Callable[[Any], dict[str, Any]]


class Source(ABC):
    """Batches as they come.

    Attributes:
        name: for messages.
        ended: whether nothing more will come.
        waits: why it waits, where that is no usual pause; "" else.
    """

    name: str
    ended = False
    waits = ""

    @abstractmethod
    def take(self, wait: float, all_of_it: bool = False) -> Any:
        """The next batch, a table or Rows; None where none came within about `wait` seconds.

        Args:
            wait: seconds.
            all_of_it: what has come is a batch, however little it is.

        Raises:
            DataError, SchemaError: a batch that cannot be read; the next call goes on behind it.
        """

    @abstractmethod
    def learned(self, n_rows: int, to_its_end: bool) -> None:
        """Rows of the batch last taken have been learned, and with `to_its_end` all of it."""

    @property
    def at(self) -> int | None:
        """Where to go on after a restart, in bytes; None where that is kept elsewhere."""
        return None


class FolderSource(Source):
    """The files of a folder, each once, piece by piece; the memory of them is the estimator's.

    A text file is taken when it has not changed for five seconds, or since it was last looked at.

    Args:
        folder: the folder.
        arrivals: what was learned before; kept up to date.
        types: Arrow types of the columns of a file.
    """

    def __init__(self, folder: Path, arrivals: Arrivals, types: Types) -> None:
        self.folder, self.arrivals, self.types = folder, arrivals, types
        self.name = str(folder)
        self.files = 0  # learned
        self._sizes: dict[Path, tuple[int, int]] = {}
        self._refused: dict[Path, tuple[int, int]] = {}
        self._waiting: list[Path] = []  # found, and not yet looked at
        self._path: Path | None = None
        self._pieces: Iterator[Any] = iter(())
        self._ahead: list[Any] = []  # the next piece, or what is wrong with it
        self._skip = 0

    def take(self, wait: float, all_of_it: bool = False) -> Any:
        """The next piece of the file under way, or of the next one."""
        while True:
            if self._path is None:
                self._path = self._next(all_of_it)
                if self._path is None:
                    time.sleep(wait)
                    return None
                self._pieces, self._skip = self._open(), self.arrivals.begun(self._path)
            try:
                piece = self._piece()
            except CrossfmError:
                self.refuse()
                raise
            if piece is None:
                self._end()
            elif self._skip >= len(piece):
                self._skip -= len(piece)
            else:
                rest, self._skip = piece[self._skip :] if self._skip else piece, 0
                return rest

    def learned(self, n_rows: int, to_its_end: bool) -> None:
        """Note the rows of the file under way."""
        assert self._path is not None
        self.arrivals.learned(self._path, n_rows)
        if to_its_end:  # is it the last one? Then the file is done when the next snapshot says so
            try:
                self._ahead = [self._piece()]
            except CrossfmError as error:
                self._ahead = [error]
            if self._ahead[0] is None:
                self._end()

    def _piece(self) -> Any:
        """The next piece of the file under way, None at its end."""
        if not self._ahead:
            return next(self._pieces, None)
        piece = self._ahead.pop()
        if isinstance(piece, CrossfmError):
            raise piece
        return piece

    def _end(self) -> None:
        assert self._path is not None
        self.arrivals.end(self._path)
        self.files, self._path, self._ahead = self.files + 1, None, []

    def refuse(self) -> None:
        """Leave the rest of the file under way alone, until it changes."""
        if self._path is not None:
            self._refused[self._path] = _state(self._path)
        self._path, self._pieces, self._ahead = None, iter(()), []

    def _open(self) -> Iterator[Any]:
        assert self._path is not None
        if not are_tables([self._path]):
            yield from iter_rows([str(self._path)])
            return
        from crossfm.data.tables import iter_tables

        yield from iter_tables(self._path, types=self.types(self._path))

    def _next(self, all_of_it: bool) -> Path | None:
        if not self._waiting:
            try:
                self._waiting = self.arrivals.new(self.folder)[::-1]
            except DataError:
                self.waits = f"{self.folder} is gone; waiting for it"
                return None
            self.waits = ""
        while self._waiting:
            path = self._waiting.pop()
            try:
                state = _state(path)
                if self._refused.get(path) == state:
                    continue
                before, self._sizes[path] = self._sizes.get(path), state
                settled = before == state or time.time() - state[1] / 1e9 > QUIET
                if settled or all_of_it or file_format(path) == "parquet":
                    del self._sizes[path]
                    return path
            except OSError:  # it went meanwhile
                continue
        return None


class LineSource(Source):
    """Lines of CSV, JSON, libsvm or libffm text, from a file that grows or a pipe.

    What came within a second is a batch; the first one waits for a thousand lines, or ten seconds
    without any: it tells what the columns are.

    Args:
        lines: the file or pipe.
        types: Arrow types of columns by name.
    """

    def __init__(self, lines: GrowingFile | Pipe, types: Types) -> None:
        self.lines, self.types, self.name = lines, types, lines.name
        self._format: LineFormat | None = None
        self._waiting: list[bytes] = []
        self._since = 0.0
        self._first = True
        self._at = lines.at if isinstance(lines, GrowingFile) else None
        self._next_at = self._at
        self._replaced = 0

    @property
    def ended(self) -> bool:  # type: ignore[override]
        """Whether the pipe is closed, and all was taken."""
        return self.lines.ended and not self._waiting

    @property
    def at(self) -> int | None:
        """Up to where the lines of a file were learned."""
        return self._at

    def take(self, wait: float, all_of_it: bool = False) -> Any:
        """The lines that came, when they are enough, or nothing follows them."""
        lines = self._read(wait)
        now = time.monotonic()
        if lines:
            self._since = self._since if self._waiting else now
            self._waiting.append(lines)
        if not self._waiting:
            return None
        size, n_lines = sum(map(len, self._waiting)), sum(p.count(b"\n") for p in self._waiting)
        enough = size >= BATCH or (self._first and n_lines >= FIRST_LINES)
        over = now - self._since > (FIRST_PAUSE if self._first else PAUSE)
        if enough or over or all_of_it or self.lines.ended:
            return self.rest()
        return None

    def rest(self) -> Any:
        """The lines that were read and are in no batch yet; None where there are none."""
        text, self._waiting = b"".join(self._waiting), []
        self._next_at = self.lines.at if isinstance(self.lines, GrowingFile) else None
        if self._format is None or not text.strip():
            return None
        try:
            return self._format.parse(text, self.types(self._format))
        except CrossfmError:
            self._at = self._next_at
            raise

    def learned(self, n_rows: int, to_its_end: bool) -> None:
        """Go on behind these lines after a restart."""
        self._first = False
        if to_its_end:
            self._at = self._next_at

    def _read(self, wait: float) -> bytes:
        if self._format is None and isinstance(self.lines, GrowingFile):
            first = self.lines.first_line()
            if first is None:
                self.waits = "" if self.lines.path.exists() else f"{self.name} is not there yet"
                time.sleep(wait)
                return b""
            self._format, self.waits = LineFormat(first, self.name), ""
            if self._format.header:
                self.lines.at = max(self.lines.at, len(first))
        lines = self.lines.read(wait)
        if isinstance(self.lines, GrowingFile):
            if self.lines.replaced != self._replaced:  # it begins anew, with a header of its own
                self._replaced = self.lines.replaced
                self._format, self.lines.at = None, 0
                return self._read(wait)
            if not lines:
                time.sleep(wait)
        elif self._format is None and lines:
            first, _, rest = lines.partition(b"\n")
            self._format = LineFormat(first, self.name)
            return rest if self._format.header else lines
        return lines


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
