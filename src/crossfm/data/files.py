"""Files that are read or written here: checked before reading, never half written."""

from __future__ import annotations

import contextlib
import gzip
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from crossfm.errors import DataError, did_you_mean

__all__ = ["existing_file", "open_bytes", "replacing"]


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
    """A file to read bytes from, unpacked where its name ends in ``.gz``.

    Raises:
        DataError: absent, a folder, not readable, or packed data that is damaged.
    """
    found = existing_file(path)
    try:
        if found.suffix == ".gz":
            with gzip.open(found, "rb") as packed:
                yield cast(IO[bytes], packed)
        else:
            with open(found, "rb") as plain:
                yield plain
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{found} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{found} cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write bytes to that appears under `path` whole, or not at all.

    It is packed where the name ends in ``.gz``. Until the block ends well an older file of
    that name stays as it was.

    Raises:
        DataError: the folder is absent, or the system refused to write.
    """
    target = Path(os.path.realpath(path))
    temporary: str | None = None
    try:
        if target.is_dir():
            raise DataError(f"{path} is a folder, expected the name of a file")
        mask = os.umask(0o077)  # the system tells the mask only in exchange for another
        os.umask(mask)
        mode = target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~mask
        handle, temporary = tempfile.mkstemp(
            prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent
        )
        with open(handle, "wb") as plain:
            if target.suffix == ".gz":  # no name and no time inside: equal data, equal bytes
                with gzip.GzipFile("", "wb", 6, plain, mtime=0) as packed:
                    yield cast(IO[bytes], packed)
            else:
                yield plain
            plain.flush()
            os.fsync(plain.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
