"""Files that are read or written here: checked before reading, never half written.

Names that end in ``.gz`` and ``.zst`` hold packed data.
"""

from __future__ import annotations

import contextlib
import gzip
import mmap
import os
import secrets
import stat
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from crossfm.errors import CrossfmError, DataError, did_you_mean

__all__ = [
    "PACKED",
    "existing_file",
    "is_packed",
    "line_pieces",
    "mapped",
    "open_bytes",
    "packing",
    "remove_leftovers",
    "replacing",
]

PACKED = (".gz", ".zst")


def existing_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that is there.

    Raises:
        DataError: no such file (a similar name beside it is suggested), or a folder.
    """
    found = Path(path)
    if found.is_dir():
        raise DataError(f"{found} is a folder, expected a file; name the files in it")
    if not found.exists():
        try:
            near = [entry.name for entry in found.parent.iterdir()]
        except OSError:
            raise DataError(f"{found}: no such file, and no folder {found.parent}") from None
        raise DataError(f"{found}: no such file.{did_you_mean(found.name, near)}")
    return found


@contextlib.contextmanager
def open_bytes(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to read bytes from, unpacked where its name ends in ``.gz`` or ``.zst``.

    Raises:
        DataError: absent, a folder, not readable, or packed data that is damaged or cut short.
    """
    found = existing_file(path)
    try:
        if found.suffix == ".gz":
            with gzip.open(found, "rb") as packed:
                yield cast(IO[bytes], packed)
        elif found.suffix == ".zst":
            with _unpacking(found, "zstd") as unpacked:
                yield cast(IO[bytes], unpacked)
        else:
            with open(found, "rb") as plain:
                yield plain
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{found} is not a whole gzip file: {error}") from error
    except OSError as error:
        if error.errno is None and found.suffix == ".zst":  # of the codec, not of the system
            raise DataError(f"{found} is not a whole zstd file: {error}") from error
        raise DataError(f"{found} cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def _unpacking(path: Path, codec: str) -> Iterator[Any]:
    import pyarrow as pa

    with open(path, "rb") as plain:
        if not os.fstat(plain.fileno()).st_size:
            raise OSError("it is empty")
        with pa.CompressedInputStream(plain, codec) as unpacked:
            yield unpacked


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether the name says that the data is packed."""
    return Path(path).suffix in PACKED


@contextlib.contextmanager
def mapped(path: str | os.PathLike[str]) -> Iterator[mmap.mmap | None]:
    """A plain file in the address space, not in memory of our own; None where it cannot be.

    Pipes, empty files, and file systems without the service are not mapped: read those.

    Raises:
        DataError: absent, a folder, not readable.
    """
    found = existing_file(path)
    if not found.is_file():  # opening a pipe and leaving it would end it
        yield None
        return
    whole = None
    try:
        with open(found, "rb") as plain, contextlib.suppress(OSError, ValueError):
            whole = mmap.mmap(plain.fileno(), 0, access=mmap.ACCESS_READ)
            if hasattr(whole, "madvise"):
                whole.madvise(mmap.MADV_SEQUENTIAL)
    except OSError as error:
        raise DataError(f"{found} cannot be read: {error.strerror or error}") from error
    try:
        yield whole
    finally:
        if whole is not None:
            with contextlib.suppress(BufferError):  # an array still looks into it
                whole.close()


def line_pieces(path: str | os.PathLike[str], piece_bytes: int) -> Iterator[bytes]:
    """A file, unpacked, in pieces of about `piece_bytes` that end where a line ends.

    The next piece is read and unpacked on another thread while the caller works on one.

    Raises:
        DataError: as `open_bytes`, when the piece in question is asked for.
    """
    with open_bytes(path) as file, ThreadPoolExecutor(1) as ahead:
        begun: list[bytes] = []  # of the line that the last piece did not finish
        coming = ahead.submit(file.read, piece_bytes)
        while piece := coming.result():
            coming = ahead.submit(file.read, piece_bytes)
            end = piece.rfind(b"\n") + 1
            if end:
                whole_lines = piece if end == len(piece) else memoryview(piece)[:end]
                yield b"".join([*begun, whole_lines])
                begun = []
            if end < len(piece):
                begun.append(piece[end:])
        if begun:
            yield b"".join(begun)


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], error: type[CrossfmError] = DataError
) -> Iterator[BinaryIO]:
    """A file to write bytes to that appears under `path` whole, or not at all.

    The bytes go to a temporary file in the same folder, are forced to the disk, and take the
    old file's place in one step; then the folder is forced to the disk too. If anything fails,
    or the block raises, the old file is untouched and no temporary file stays. A symbolic link
    is followed. The mode of the old file is kept.

    Args:
        path: the file to make or replace.
        error: what is raised where the system refuses.

    Raises:
        CrossfmError: of the class `error`: a full disk, a folder that is absent or read-only.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "x"
        >>> with replacing(path) as file:
        ...     _ = file.write(b"whole")
        >>> path.read_bytes()
        b'whole'
    """
    target = Path(os.path.realpath(path))
    temporary: Path | None = None
    try:
        if target.is_dir():
            raise IsADirectoryError(f"{path} is a folder, expected the name of a file")
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
        made = target.parent / f".{target.name[:40]}.{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        handle = os.open(made, flags, 0o666 if mode is None else mode)
        temporary = made
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(made, mode)
        os.replace(made, target)
        temporary = None
        _sync_folder(target.parent)
    except OSError as refused:
        kept = " The file that was there is unchanged." if target.is_file() else ""
        raise error(
            f"cannot write {os.fspath(path)}: {refused.strerror or refused}.{kept}"
            " Free some space, or choose a folder that exists and may be written to."
        ) from refused
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def remove_leftovers(path: str | os.PathLike[str], older_than: float = 0.0) -> None:
    """Delete temporary files of writes to `path` that were killed half way.

    Args:
        path: the file that was to be written.
        older_than: seconds without a change after which nobody can be writing any more.
    """
    target = Path(os.path.realpath(path))
    start = f".{target.name[:40]}."
    with contextlib.suppress(OSError):
        for entry in target.parent.iterdir():
            if not (entry.name.startswith(start) and entry.name.endswith(".tmp")):
                continue
            if len(entry.name) == len(start) + 16 + len(".tmp"):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime >= older_than:
                        entry.unlink()


@contextlib.contextmanager
def packing(file: BinaryIO, path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The file, packing what is written to it where `path` ends in ``.gz`` or ``.zst``.

    No name and no time go into it: equal data, equal bytes.
    """
    suffix = Path(path).suffix
    if suffix == ".gz":
        with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
            yield cast(BinaryIO, packed)
    elif suffix == ".zst":
        import pyarrow as pa

        sink = pa.PythonFile(_KeptOpen(file), "w")
        with pa.CompressedOutputStream(sink, "zstd") as zipped:
            yield cast(BinaryIO, zipped)
    else:
        yield file


class _KeptOpen:
    """A file that another layer may write to, and closes for itself only."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write
        self.flush = file.flush

    def close(self) -> None:
        self.closed = True


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows offers no handle of a folder to synchronise
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
