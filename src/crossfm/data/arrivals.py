"""Folders that grow: which of their files were learned, which are new, which are half written."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossfm.data.inputs import file_format
from crossfm.errors import DataError

__all__ = ["Arrivals"]

# Endings that programs give to files while they write them.
UNFINISHED = (
    ".tmp", ".temp", ".part", ".partial", ".inprogress", ".writing", ".crdownload", ".download",
    ".filepart", ".swp", "~",
)  # fmt: skip
PARQUET_END = b"PAR1"
WHOLE, SAMPLES, SAMPLE = 1 << 26, 64, 1 << 16  # bytes read to tell one content from another


class Arrivals:
    """The files of folders that were learned, so that each is learned once.

    A file is known by its path, its size and the time of its last change. Where only the time,
    or the folder, is another, its content decides, so that files that were touched, copied or
    moved with their folder stay known. One that was replaced counts as new.

    Attributes:
        left: what the last `new` left for later, by path: the reason.
        changed: what the last `new` found to be replaced since it was learned.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "monday.csv").write_text("user,stars")
        >>> (folder / "tuesday.csv.part").touch()
        >>> arrivals = Arrivals()
        >>> [path.name for path in arrivals.new(folder)], [path.name for path in arrivals.left]
        (['monday.csv'], ['tuesday.csv.part'])
        >>> for path in arrivals.new(folder):
        ...     arrivals.end(path)
        >>> arrivals.new(folder)
        []
    """

    def __init__(self) -> None:
        self.left: dict[Path, str] = {}
        self.changed: list[Path] = []
        self._files: dict[str, dict[str, Any]] = {}  # by path: bytes, time, sum, rows, whole
        self._seen: dict[str, dict[str, Any]] = {}  # as `new` found them

    def __len__(self) -> int:
        return sum(entry["whole"] for entry in self._files.values())

    @property
    def paths(self) -> list[str]:
        """The files that were learned to the end."""
        return [path for path, entry in self._files.items() if entry["whole"]]

    def new(self, folder: str | os.PathLike[str], *, whole: bool = False) -> list[Path]:
        """The files of a folder that are to be learned, by name; hidden ones are none.

        Args:
            folder: the folder; those in it are not entered.
            whole: take files as they are, half written or not.

        Raises:
            DataError: the folder cannot be read.
        """
        self.left, self.changed = {}, []
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
        except OSError as refused:
            raise DataError(
                f"cannot look into the folder {os.fspath(folder)}: {refused.strerror or refused}"
            ) from refused
        found = []
        for name in names:
            path = Path(folder) / name
            if name[0] in "._":
                continue
            try:
                reason = None if whole else _unfinished(path)
                if reason is not None:
                    self.left[path] = reason
                elif not self._is_known(path):
                    found.append(path)
            except OSError:  # it went while it was looked at
                continue
        return found

    def begun(self, path: Path) -> int:
        """How many rows of a file, one of `new`, were learned before."""
        entry = self._files.get(_key(path))
        return 0 if entry is None else int(entry["rows"])

    def learned(self, path: Path, rows: int) -> None:
        """Take note of the next rows of a file, one of `new`."""
        self._entry(path)["rows"] += rows

    def end(self, path: Path) -> None:
        """Take note that a file, one of `new`, was learned to its end."""
        self._entry(path)["whole"] = True

    def state(self) -> dict[str, list[Any]]:
        """What `from_state` needs, of JSON's types."""
        return {path: list(entry.values()) for path, entry in self._files.items()}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Arrivals:
        """The arrivals of a `state`. Raises ValueError where it is broken."""
        self = Arrivals()
        for path, (size, time, checksum, rows, whole) in state.items():
            entry = {"bytes": int(size), "time": int(time), "sum": int(checksum),
                     "rows": int(rows), "whole": bool(whole)}  # fmt: skip
            self._files[str(path)] = entry
        return self

    # --- inside -----------------------------------------------------------------------------

    def _is_known(self, path: Path) -> bool:
        """Whether a file was learned to its end; notes what it is now."""
        status, key = path.stat(), _key(path)
        before = self._files.get(key)
        now = {"bytes": status.st_size, "time": status.st_mtime_ns}
        if before is not None and all(before[name] == now[name] for name in now):
            return bool(before["whole"])
        seen = self._seen.get(key)
        if seen is not None and all(seen[name] == now[name] for name in now):
            return False
        now |= {"sum": _checksum(path, status.st_size), "rows": 0, "whole": False}
        same = before if before is not None and _alike(before, now) else None
        if same is None and before is None:
            others = (e for p, e in self._files.items() if os.path.basename(p) == path.name)
            same = next((entry for entry in others if _alike(entry, now)), None)
        if same is not None:
            self._files[key] = now | {"rows": same["rows"], "whole": same["whole"]}
            return bool(same["whole"])
        if before is not None:
            self.changed.append(path)
            del self._files[key]
        self._seen[key] = now
        return False

    def _entry(self, path: Path) -> dict[str, Any]:
        key = _key(path)
        if key not in self._files:
            self._files[key] = self._seen.pop(key)
        return self._files[key]


def _key(path: Path) -> str:
    return os.path.realpath(path)


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one["bytes"] == other["bytes"] and one["sum"] == other["sum"]


def _unfinished(path: Path) -> str | None:
    """Why a file is taken to be half written, or None."""
    if path.name.lower().endswith(UNFINISHED):
        return "its name says that it is being written"
    if path.stat().st_size == 0:
        return "it is empty"
    try:
        if file_format(path) != "parquet":
            return None
    except DataError as error:  # packed text that breaks off
        return str(error)
    with open(path, "rb") as file:
        file.seek(-min(4, path.stat().st_size), os.SEEK_END)
        if file.read() != PARQUET_END:
            return "its footer is missing, so it is not written to its end"
    import pyarrow.parquet

    try:
        pyarrow.parquet.read_metadata(path)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        return f"its footer cannot be read: {str(error).splitlines()[0]}"
    return None


def _checksum(path: Path, size: int) -> int:
    """CRC-32 of the content; of a large file, of its beginning, its end and parts between."""
    crc = 0
    with open(path, "rb") as file:
        if size <= WHOLE:
            while part := file.read(1 << 20):
                crc = zlib.crc32(part, crc)
            return crc
        for at in range(SAMPLES + 1):
            file.seek((size - SAMPLE) * at // SAMPLES)
            crc = zlib.crc32(file.read(SAMPLE), crc)
    return crc
