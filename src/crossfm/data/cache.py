"""Encoded rows on disk, in blocks that are mapped one at a time: data larger than memory.

A cache is one file (`crossfm.data.blockfile`). Each block holds the arrays of `Rows` as they lie
in memory, so that reading one is a mapping and no copy. Its footer says what it was made of; a
cache of anything else is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.data.blockfile import BlockFile, BlockWriter
from crossfm.data.files import remove_leftovers, replacing
from crossfm.data.rows import Rows, RowStats
from crossfm.data.tally import TargetTally
from crossfm.errors import DataError

__all__ = [
    "CACHE_VERSION",
    "CachedRows",
    "Totals",
    "cached_rows",
    "describe_files",
    "digest",
    "write_rows",
]

CACHE_VERSION = 1
"""Raised when rows are encoded or laid out otherwise: older caches are made anew."""

SUFFIX = ".crossfm-cache"
REMEDY = "Delete it; the next fit makes it anew."
NAMES = ("ids", "values", "offsets", "fields", "targets", "weights")


class Totals(NamedTuple):
    """Sums over rows.

    Attributes:
        rows: how many.
        nnz: features in them.
        squares: sum of squared values.
        weight: sum of weights.
    """

    rows: int = 0
    nnz: int = 0
    squares: float = 0.0
    weight: float = 0.0

    def plus(self, other: Totals) -> Totals:
        """Both together."""
        return Totals(
            self.rows + other.rows,
            self.nnz + other.nnz,
            self.squares + other.squares,
            self.weight + other.weight,
        )


class CachedRows:
    """The rows of a cache: blocks in the order of the source, each read by mapping it.

    Args:
        path: the file.

    Attributes:
        path: the file.
        of: what the cache was made of.
        targets: the targets' `TargetTally`; None where the rows have none. Labels that are no
            numbers are stored as their positions in it.
        n_features: ids are below it.
        totals: of each block.
        stats: of each block.
        has_values: whether some block has values other than 1.

    Raises:
        DataError: the file is not a whole cache of this version.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "rows.cache"
        >>> rows = Rows(np.arange(12).reshape(6, 2), targets=np.arange(6))
        >>> write_rows(path, rows.batches(4), {})
        >>> cached = CachedRows(path)
        >>> len(cached), cached.n_rows, cached.block(1).ids.tolist()
        (2, 6, [8, 9, 10, 11])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = BlockFile(path, remedy=REMEDY)
        about = self._file.about
        if about.get("kind") != "rows" or about.get("version") != CACHE_VERSION:
            raise DataError(f"{path} is no cache of rows of version {CACHE_VERSION}. {REMEDY}")
        self.path = self._file.path
        self.of: dict[str, Any] = about["of"]
        self.n_features: int = about["n_features"]
        self.targets = None if about["targets"] is None else TargetTally(**about["targets"])
        abouts = self._file.abouts[: about["n_blocks"]]
        self.totals = [Totals(*one["totals"]) for one in abouts]
        self.stats = [RowStats(*one["stats"]) for one in abouts]
        self.has_values = any("values" in self._file.names(at) for at in range(len(abouts)))

    def __len__(self) -> int:
        return len(self.totals)

    @property
    def n_rows(self) -> int:
        """Rows in all blocks."""
        return sum(one.rows for one in self.totals)

    def size(self, block: int) -> int:
        """Bytes of a block."""
        return self._file.size(block)

    def block(self, block: int) -> Rows:
        """The rows of a block, views of the file; they have been validated.

        Raises:
            DataError: the block was altered.
        """
        found = self._file.arrays(block)
        given: dict[str, Any] = {name: found.get(name) for name in NAMES}
        rows = Rows(**given, n_rows=self.totals[block].rows)
        rows._stats.append(self.stats[block])
        return rows

    def raw_targets(self, block: int) -> NDArray[Any]:
        """The targets of a block as they came: float64 where float32 cannot hold them."""
        return self._file.arrays(block)["targets"]

    def counts(self) -> NDArray[np.uint32]:
        """Rows that each feature is in, ``[n_features]``; a repeated one counts as often."""
        return self._file.arrays(len(self))["counts"]

    def schema(self) -> bytes | None:
        """The JSON text of the schema that made the ids, or None."""
        return self._file.arrays(len(self))["schema"].tobytes() or None


def write_rows(
    path: str | os.PathLike[str],
    blocks: Iterable[Rows | tuple[Rows, NDArray[Any] | None]],
    of: Mapping[str, Any],
    *,
    schema: Callable[[], bytes | None] = lambda: None,
    n_features: int = 0,
) -> None:
    """Write rows, block by block, to a file that appears whole or not at all.

    Args:
        path: the file to make or replace.
        blocks: rows, with their targets where these are no float32: float64 numbers, or labels.
            Rows of weight zero are left out.
        of: what the rows are made of, for `cached_rows` to compare.
        schema: the JSON text of the schema that made the ids; asked for after the last block.
        n_features: ids are below it at least.

    Raises:
        DataError: broken rows; a target that is missing; a full disk, a folder that is absent or
            read-only.
    """
    tally = TargetTally()
    counts = np.zeros(n_features, np.uint32)
    n_blocks = 0
    with replacing(path) as file:
        writer = BlockWriter(file)
        for given in blocks:
            rows, y = given if isinstance(given, tuple) else (given, given.targets)
            if y is not None and len(y) != len(rows):
                raise DataError(f"{len(y)} targets for {len(rows)} rows")
            if rows.weights is not None and not rows.weights.all():
                kept = np.flatnonzero(rows.weights)
                rows, y = rows.take(kept), None if y is None else y[kept]
            if not len(rows):
                continue
            stats = rows.replace(targets=None).validate()
            if stats.max_id >= len(counts):
                more = np.zeros(max(stats.max_id + 1, len(counts) * 3 // 2), np.uint32)
                more[: len(counts)] = counts
                counts = more
            n_features = max(n_features, stats.max_id + 1)
            _native.count_ids(rows.ids, counts)
            codes = None if y is None else tally.take(y, rows.weights)
            arrays = {name: getattr(rows, name) for name in NAMES} | {"targets": codes}
            squares = rows.nnz if rows.values is None else float(rows.values @ rows.values)
            weight = len(rows) if rows.weights is None else rows.weights.sum(dtype=np.float64)
            totals = Totals(len(rows), rows.nnz, squares, float(weight))
            about = {"totals": totals, "stats": [getattr(stats, n) for n in stats.__slots__]}
            writer.add({n: a for n, a in arrays.items() if a is not None}, about)
            n_blocks += 1
        text = schema() or b""
        writer.add({"counts": counts[:n_features], "schema": np.frombuffer(text, np.uint8)})
        writer.finish(
            {
                "kind": "rows",
                "version": CACHE_VERSION,
                "of": dict(of),
                "n_blocks": n_blocks,
                "n_features": n_features,
                "targets": tally.state() if tally.rows else None,
            }
        )


def cached_rows(
    name: str,
    of: Mapping[str, Any],
    write: Callable[[Path], None],
    *,
    beside: Path,
    folder: str | os.PathLike[str] | None = None,
) -> CachedRows:
    """The cache of this name: the one that is there if it is of the same things, else a new one.

    Args:
        name: of the file, without its ending.
        of: what the cache is made of, of JSON's types; a cache of anything else is replaced.
        write: makes the file.
        beside: the folder to use where `folder` is None; where nothing can be written to it, the
            system's folder for temporary files is taken.
        folder: the folder to use.

    Raises:
        DataError: as `write`; an explicit folder that cannot be used.
    """
    same = json.loads(json.dumps(dict(of)))
    folders = [Path(folder)] if folder is not None else [
        beside, Path(tempfile.gettempdir()) / f"crossfm-{_user()}"
    ]  # fmt: skip
    for place in folders:
        found = place / f"{name}{SUFFIX}"
        try:
            cached = CachedRows(found)
        except DataError:
            continue
        if cached.of == same:
            return cached
    place = next((place for place in folders if _writable(place)), folders[0])
    found = place / f"{name}{SUFFIX}"
    remove_leftovers(found, older_than=3600.0)  # another process may be writing the same
    write(found)
    return CachedRows(found)


def describe_files(paths: Sequence[Path]) -> list[list[Any]]:
    """Path, size and time of the last change of files: what tells whether a cache is of them."""
    found = []
    for path in paths:
        status = path.stat()
        found.append([str(path.resolve()), status.st_size, status.st_mtime_ns])
    return found


def digest(value: Any) -> str:
    """A short name for anything JSON holds.

    >>> digest({"a": 1}) == digest({"a": 1}) != digest({"a": 2})
    True
    """
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")


def _writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, which is made where it is absent."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
