"""Lines of text that come bit by bit, from a file that grows or a pipe, as tables or Rows."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crossfm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from crossfm.data.rows import Rows

__all__ = ["GrowingFile", "LineFormat", "Pipe"]

PIECE = 1 << 22  # bytes read at once
Kind = Literal["csv", "json", "libsvm", "libffm"]


class LineFormat:
    r"""What lines hold, as the first one tells: CSV with a header, JSON objects, libsvm, libffm.

    Args:
        first: the first line.
        name: what messages call the source.

    Attributes:
        kind: one of the four.

    Raises:
        DataError: a line that is none of these.

    Example:
        >>> LineFormat(b"user\tstars\n", "stdin").parse(b"ann\t5\n").to_pydict()
        {'user': ['ann'], 'stars': [5]}
        >>> LineFormat(b'{"user": 1}\n', "stdin").kind, LineFormat(b"1 3:1 5:2\n", "stdin").kind
        ('json', 'libsvm')
    """

    def __init__(self, first: bytes, name: str) -> None:
        self.name = name
        self.header = b""
        self.separator = ","
        words = first.split()
        told = first.split(b"#")[0].split()  # libsvm text may end in a comment
        colons = {word.count(b":") for word in told[1:]}
        self.kind: Kind
        if first.lstrip().startswith(b"{"):
            self.kind = "json"
        elif words and colons in ({1}, {2}) and not any(word.count(b",") for word in words):
            self.kind = "libsvm" if colons == {1} else "libffm"
        elif words:
            self.kind, self.header = "csv", first.rstrip(b"\r\n") + b"\n"
            self.separator = "\t" if first.count(b"\t") > first.count(b",") else ","
        else:
            raise DataError(
                f"{name}, line 1 is empty; expected the header of CSV, a JSON object, or libsvm or"
                " libffm text"
            )

    @property
    def is_table(self) -> bool:
        """Whether lines have columns by name."""
        return self.kind in ("csv", "json")

    def parse(self, lines: bytes, types: Mapping[str, Any] | None = None) -> pa.Table | Rows:
        """Whole lines, without the header.

        Raises:
            DataError: a line that is not of this form.
        """
        if self.kind == "csv":
            from crossfm.data.tables import parse_csv

            return parse_csv(self.header + lines, self.name, self.separator, types=types)
        if self.kind == "json":
            return self._parse_json(lines)
        from crossfm.data.text import parse_lines

        return parse_lines(lines, self.name, with_fields=self.kind == "libffm")

    def _parse_json(self, lines: bytes) -> pa.Table:
        import pyarrow as pa
        import pyarrow.json

        try:
            return pyarrow.json.read_json(pa.BufferReader(lines))
        except pa.ArrowException as error:
            raise DataError(
                f"{self.name}: {str(error).splitlines()[0]}; expected a JSON object a line, with"
                " the same kind of value under a name throughout"
            ) from error


class GrowingFile:
    """A text file that is appended to. Lines that are not ended yet wait.

    Args:
        path: the file; it may be absent, and come later.
        at: where to go on, in bytes, as `at` said before.

    Attributes:
        at: up to where whole lines were given out.
        ended: False; it may always grow.
        replaced: how often a shorter file, or another one, was found in its place, which is then
            read from its beginning.
    """

    ended = False

    def __init__(self, path: Path, at: int = 0) -> None:
        self.path, self.at, self.replaced = path, at, 0
        self.name = str(path)
        self._inode: int | None = None

    def first_line(self) -> bytes | None:
        """The first line, None where it is not whole yet."""
        try:
            with open(self.path, "rb") as file:
                line = file.readline(PIECE)
        except OSError:
            return None
        return line if line.endswith(b"\n") else None

    def read(self, wait: float) -> bytes:
        """Whole lines from `at` on, a few megabytes at most; empty where there are none."""
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                another = self._inode not in (None, status.st_ino)
                if another or status.st_size < self.at:
                    self.at, self.replaced = 0, self.replaced + 1
                self._inode = status.st_ino
                file.seek(self.at)
                piece = file.read(PIECE)
        except OSError:
            return b""
        end = piece.rfind(b"\n") + 1
        if not end and len(piece) == PIECE:
            raise DataError(f"{self.name}: a line of more than {PIECE:,} bytes after {self.at:,}")
        self.at += end
        return piece[:end]


class Pipe:
    """Lines from a pipe, a terminal or a file that is open.

    Args:
        handle: its number, such as 0 for stdin.
        name: what messages call it.

    Attributes:
        ended: whether the other side has closed it, and all was given out.
    """

    def __init__(self, handle: int, name: str = "stdin") -> None:
        self.handle, self.name = handle, name
        self.ended = False
        self._begun: list[bytes] = []  # of a line that is not ended

    def read(self, wait: float) -> bytes:
        """Whole lines, as they come: empty where none came within `wait` seconds."""
        ready, _, _ = select.select([self.handle], [], [], wait)
        if not ready:
            return b""
        piece = os.read(self.handle, PIECE)
        if not piece:
            self.ended = True
            last, self._begun = b"".join(self._begun), []
            return last + b"\n" if last else b""
        end = piece.rfind(b"\n") + 1
        if not end:
            self._begun.append(piece)
            if sum(map(len, self._begun)) > PIECE:
                raise DataError(f"{self.name}: a line of more than {PIECE:,} bytes")
            return b""
        lines = b"".join([*self._begun, piece[:end]])
        self._begun = [piece[end:]] if end < len(piece) else []
        return lines
