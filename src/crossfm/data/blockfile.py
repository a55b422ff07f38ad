"""A file of blocks of arrays: checksummed, aligned for mapping, whole or not there.

Layout: 16 bytes of magic; the blocks, each beginning at a multiple of 64 KiB; a footer, JSON in
UTF-8; 32 bytes that close the file: place, length and CRC-32 of the footer, and magic again. In a
block each array begins at a multiple of 64 bytes. The footer says, for each block, where it lies,
its CRC-32, and name, type, shape and place of its arrays::

    {"about": {...}, "blocks": [{"at": 65536, "bytes": 4096, "crc": 1, "about": {...},
                                 "arrays": {"ids": ["<i4", [1024], 0]}}, ...]}

All numbers are little-endian. Nothing in a file is executed.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from crossfm.errors import CrossfmError, DataError

__all__ = ["BlockFile", "BlockWriter"]

MAGIC = b"crossfm blocks 1"
TAIL = struct.Struct("<QQQ8s")
PAGE, LINE = 1 << 16, 64  # a mapping may begin at the one on every system; arrays at the other
SLICE = 1 << 24  # bytes written, read and summed at once
TYPES = {"<f4", "<f8", "<i4", "<i8", "<u4", "|u1", "|b1"}


class BlockWriter:
    """Writes blocks one after the other, and at last the footer; no array is copied whole.

    Args:
        file: open for writing, at its beginning.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> writer = BlockWriter(file)
        >>> writer.add({"ids": np.arange(3)}, {"rows": 3})
        >>> writer.finish({"made": "here"})
        >>> file.getvalue()[:16]
        b'crossfm blocks 1'
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = file.write(MAGIC)
        self._blocks: list[dict[str, Any]] = []

    def add(
        self, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any] | None = None
    ) -> None:
        """Write one block.

        Args:
            arrays: by name; written as they lie in memory, in slices.
            about: what JSON can hold, kept with the block.
        """
        self._pad(PAGE)
        begin, crc, placed = self._at, 0, {}
        for name, array in arrays.items():
            crc = self._pad(LINE, crc)
            placed[name] = [array.dtype.newbyteorder("<").str, list(array.shape), self._at - begin]
            for part in _slices(array):
                crc = zlib.crc32(part, crc)
                self._at += self._file.write(part)
        self._blocks.append(
            {"at": begin, "bytes": self._at - begin, "crc": crc, "arrays": placed,
             "about": dict(about or {})}
        )  # fmt: skip

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write the footer; without it no reader takes the file."""
        document = {"about": dict(about), "blocks": self._blocks}
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        self._file.write(text)
        self._file.write(TAIL.pack(self._at, len(text), zlib.crc32(text), MAGIC[:8]))

    def _pad(self, to: int, crc: int = 0) -> int:
        zeros = bytes(-self._at % to)
        self._file.write(zeros)
        self._at += len(zeros)
        return zlib.crc32(zeros, crc)


def _slices(array: NDArray[Any]) -> Iterator[memoryview]:
    """The bytes of an array, little-endian, a slice of its rows at a time."""
    if not array.size:
        return
    array = np.atleast_1d(array)
    step = max(1, SLICE * len(array) // array.nbytes)
    for low in range(0, len(array), step):
        part = np.ascontiguousarray(array[low : low + step])
        if sys.byteorder == "big":
            part = part.astype(part.dtype.newbyteorder("<"))
        yield part.reshape(-1).view(np.uint8).data


class BlockFile:
    """A file that `BlockWriter` wrote, mapped block by block.

    Args:
        path: the file.
        error: what is raised where the file is not whole.
        remedy: the end of that error's message.

    Attributes:
        path: the file.
        about: as given to `finish`.
        abouts: as given to `add`, one a block.

    Raises:
        CrossfmError: of the class `error`: absent, cut off, altered, or something else.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        error: type[CrossfmError] = DataError,
        remedy: str = "Delete it.",
    ) -> None:
        self.path = Path(path)
        self._error, self._remedy = error, remedy
        self._checked: set[int] = set()
        try:
            with open(self.path, "rb") as file:
                self._blocks, self.about = self._footer(file)
        except OSError as refused:
            raise self._broken(f"cannot be read: {refused.strerror or refused}") from refused
        self.abouts: list[dict[str, Any]] = [block["about"] for block in self._blocks]

    def __len__(self) -> int:
        return len(self._blocks)

    def size(self, block: int) -> int:
        """Bytes of a block."""
        return int(self._blocks[block]["bytes"])

    def names(self, block: int) -> list[str]:
        """The names of a block's arrays."""
        return list(self._blocks[block]["arrays"])

    def arrays(self, block: int) -> dict[str, NDArray[Any]]:
        """The arrays of a block, views of the mapped file, read-only; checked at the first call.

        The mapping ends with the last of the views.

        Raises:
            CrossfmError: the block's bytes are not those that were written.
        """
        entry = self._blocks[block]
        if not entry["bytes"]:
            return {name: np.zeros(shape, kind) for name, (kind, shape, _) in
                    entry["arrays"].items()}  # fmt: skip
        try:
            with open(self.path, "rb") as file:
                whole = mmap.mmap(
                    file.fileno(), entry["bytes"], access=mmap.ACCESS_READ, offset=entry["at"]
                )
        except (OSError, ValueError) as refused:  # it was cut off since it was opened
            raise self._broken(f"block {block} cannot be mapped: {refused}") from refused
        if block not in self._checked:
            crc = 0
            with memoryview(whole) as view:
                for low in range(0, len(view), SLICE):
                    crc = zlib.crc32(view[low : low + SLICE], crc)
            if crc != entry["crc"]:
                raise self._broken(f"was altered: block {block} fails its checksum")
            self._checked.add(block)
        found = {}
        for name, (kind, shape, at) in entry["arrays"].items():
            count = int(np.prod(shape, dtype=np.int64))
            found[name] = np.frombuffer(whole, kind, count, at).reshape(shape)
        return found

    def read_into(self, block: int, into: Mapping[str, NDArray[Any]]) -> None:
        """Copy all arrays of a block into arrays of the same types and shapes; nothing is mapped.

        Where this raises, the arrays may hold anything.

        Raises:
            CrossfmError: as `arrays`; arrays of other names, types or shapes.
        """
        entry = self._blocks[block]
        wanted = {name: [array.dtype.str, list(array.shape)] for name, array in into.items()}
        found = {name: [kind, shape] for name, (kind, shape, _) in entry["arrays"].items()}
        if wanted != found:
            raise self._broken(f"holds arrays {found}, expected {wanted}")
        crc = at = 0
        with open(self.path, "rb") as file:
            file.seek(entry["at"])
            for name, (_, _, place) in sorted(entry["arrays"].items(), key=lambda one: one[1][2]):
                crc = zlib.crc32(file.read(place - at), crc)
                array = into[name]
                data = array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
                for low in range(0, len(data), SLICE):
                    part = data[low : low + SLICE]
                    if file.readinto(part) != len(part):
                        raise self._broken("is cut off")
                    crc = zlib.crc32(part, crc)
                at = place + len(data)
        if crc != entry["crc"]:
            raise self._broken(f"was altered: block {block} fails its checksum")

    def _footer(self, file: BinaryIO) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        size = os.fstat(file.fileno()).st_size
        if size < len(MAGIC) + TAIL.size or file.read(len(MAGIC)) != MAGIC:
            raise self._broken("is no file of blocks, or not a whole one")
        file.seek(size - TAIL.size)
        at, length, crc, magic = TAIL.unpack(file.read(TAIL.size))
        if magic != MAGIC[:8] or at + length + TAIL.size != size:
            raise self._broken("is cut off")
        file.seek(at)
        text = file.read(length)
        if zlib.crc32(text) != crc:
            raise self._broken("was altered: its footer fails the checksum")
        document = json.loads(text)
        for block in document["blocks"]:
            if block["at"] % PAGE or not 0 <= block["at"] <= block["at"] + block["bytes"] <= at:
                raise self._broken("has a block beyond its end")
            for kind, shape, place in block["arrays"].values():
                count = int(np.prod(shape, dtype=np.int64)) if kind in TYPES else -1
                if count < 0 or place + count * np.dtype(kind).itemsize > block["bytes"]:
                    raise self._broken(f"has an array of {kind} {shape} beyond its block")
        return document["blocks"], document["about"]

    def _broken(self, what: str) -> CrossfmError:
        return self._error(f"{self.path} {what}. {self._remedy}")
