"""Sparse rows as text: the forms of libsvm and libFM, and of libffm.

One row a line: ``label id:value id:value ...``, in libffm ``label field:id:value ...``. Blank
lines and what follows ``#`` are skipped. Ids need not be in order. Labels stay as they are
written: a classification file of +1 and -1 gives targets of +1 and -1.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm import _native
from crossfm.data.files import is_packed, line_pieces, mapped, packing, replacing
from crossfm.data.rows import Rows
from crossfm.data.threads import thread_count
from crossfm.errors import DataError

__all__ = [
    "iter_libffm",
    "iter_libsvm",
    "parse_lines",
    "read_libffm",
    "read_libsvm",
    "write_libffm",
    "write_libsvm",
]

PathLike = str | os.PathLike[str]
CHUNK_BYTES = 8 << 20  # read at once from packed files, and by the iterators
PART_BYTES = 1 << 20  # the least that a thread parses at once
CHUNK_FEATURES = 1 << 20  # formatted at once by the writers


@overload
def read_libsvm(
    path: PathLike,
    *,
    zero_based: bool | Literal["auto"] = ...,
    n_features: int | None = ...,
    return_qids: Literal[False] = ...,
    n_jobs: int = ...,
) -> Rows: ...
@overload
def read_libsvm(
    path: PathLike,
    *,
    zero_based: bool | Literal["auto"] = ...,
    n_features: int | None = ...,
    return_qids: Literal[True],
    n_jobs: int = ...,
) -> tuple[Rows, NDArray[np.int64] | None]: ...
def read_libsvm(
    path: PathLike,
    *,
    zero_based: bool | Literal["auto"] = True,
    n_features: int | None = None,
    return_qids: bool = False,
    n_jobs: int = -1,
) -> Rows | tuple[Rows, NDArray[np.int64] | None]:
    r"""Read a libsvm or libFM file as Rows.

    Args:
        path: text, packed where the name ends in ``.gz`` or ``.zst``.
        zero_based: True: ids stay as they are. False: ids begin at 1, and become one less.
            ``"auto"``: False where no id is 0; beware that files which belong together (train
            and test) may then be taken differently.
        n_features: ids (counted from 0) must be below it; None: no limit.
        return_qids: also return the query of each row (``qid:n`` behind the label), int64
            ``[n]``, or None in a file without.
        n_jobs: threads that parse; -1: all cores. The rows are the same for any number.

    Returns:
        Rows with targets. Values are None where all are 1; offsets are None where all rows
        have the same number of features; ids are int32, or int64 where one needs it.

    Raises:
        DataError: a malformed line; the message has the line, the column, and the text found.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "rows.libsvm"
        >>> _ = path.write_text("+1 3:0.5 7:1  # a comment\n-1 2:1e-3\n")
        >>> rows = read_libsvm(path)
        >>> rows.ids, rows.targets
        (array([3, 7, 2], dtype=int32), array([ 1., -1.], dtype=float32))
        >>> rows.values.tolist() == np.float32([0.5, 1, 0.001]).tolist()
        True
    """
    rows, qids = _read(path, False, zero_based, n_features, n_jobs)
    return (rows, qids) if return_qids else rows


def read_libffm(
    path: PathLike,
    *,
    zero_based: bool | Literal["auto"] = True,
    n_features: int | None = None,
    n_jobs: int = -1,
) -> Rows:
    """Read a libffm file as Rows whose `fields` are those of the text.

    Args:
        path: text, packed where the name ends in ``.gz`` or ``.zst``.
        zero_based: of the ids, as in `read_libsvm`; fields always stay as they are.
        n_features: ids (counted from 0) must be below it; None: no limit.
        n_jobs: threads that parse; -1: all cores. The rows are the same for any number.

    Raises:
        DataError: a malformed line; the message has the line, the column, and the text found.
    """
    return _read(path, True, zero_based, n_features, n_jobs)[0]


def iter_libsvm(
    path: PathLike,
    batch_rows: int = 65_536,
    *,
    zero_based: bool = True,
    n_features: int | None = None,
    n_jobs: int = -1,
) -> Iterator[Rows]:
    """Read a libsvm or libFM file in batches, in memory that does not grow with the file.

    Args:
        path: text, packed where the name ends in ``.gz`` or ``.zst``.
        batch_rows: rows of each batch; the last one may be shorter.
        zero_based: False: ids begin at 1, and become one less.
        n_features: ids (counted from 0) must be below it; None: no limit.
        n_jobs: threads that parse; -1: all cores. The rows are the same for any number.

    Raises:
        DataError: a malformed line, when its batch is asked for.
    """
    return _iterate(path, batch_rows, False, zero_based, n_features, n_jobs)


def iter_libffm(
    path: PathLike,
    batch_rows: int = 65_536,
    *,
    zero_based: bool = True,
    n_features: int | None = None,
    n_jobs: int = -1,
) -> Iterator[Rows]:
    """Read a libffm file in batches; see `iter_libsvm`."""
    return _iterate(path, batch_rows, True, zero_based, n_features, n_jobs)


def parse_lines(text: bytes, name: str, *, with_fields: bool) -> Rows:
    r"""Lines of libsvm text (or libffm text, `with_fields`) as rows with targets.

    Args:
        text: whole lines.
        name: what messages call it.
        with_fields: libffm.

    Raises:
        DataError: a malformed line.

    Example:
        >>> parse_lines(b"1 0:1 3:2\n-1 2:1\n", "stdin", with_fields=False).targets.tolist()
        [1.0, -1.0]
    """
    reader = _reader(with_fields, 0, None, 1)
    _feed(reader, name, text)
    return _taken(reader)[0]


def write_libsvm(
    path: PathLike,
    rows: Rows,
    *,
    zero_based: bool = True,
    qids: ArrayLike | None = None,
) -> None:
    """Write Rows as libsvm (libFM) text that reads back to the same float32 numbers.

    Args:
        path: the file to make or replace, in one step; packed where it ends in
            ``.gz`` or ``.zst``.
        rows: what to write. Labels are 0 where it has no targets.
        zero_based: False: ids are written one larger.
        qids: query of each row ``[n]``, written as ``qid:n``.

    Raises:
        DataError: weights, for which the format has no place; numbers that are not finite; a
            folder that cannot be written to.
    """
    _write(path, rows, None, zero_based, qids)


def write_libffm(
    path: PathLike,
    rows: Rows,
    *,
    field_of: ArrayLike | None = None,
    zero_based: bool = True,
) -> None:
    """Write Rows as libffm text; see `write_libsvm`.

    Args:
        path: the file to make or replace.
        rows: what to write.
        field_of: field of each feature id ``[n_features]``, where the rows carry no fields.
        zero_based: of the ids; fields always stay as they are.

    Raises:
        DataError: as `write_libsvm`, and where fields come neither with the rows nor with
            `field_of`.
    """
    fields = rows.fields
    if fields is None:
        if field_of is None:
            raise DataError("libffm needs fields: give field_of, the field of each feature id")
        of_id = np.asarray(field_of)
        fields = of_id[rows.ids] if not rows.nnz or _max_id(rows) < of_id.size else None
        if fields is None:
            raise DataError(f"field_of has {of_id.size} features, the rows an id {_max_id(rows)}")
    _write(path, rows, fields, zero_based, None)


def _read(
    path: PathLike,
    with_fields: bool,
    zero_based: bool | str,
    n_features: int | None,
    n_jobs: int,
) -> tuple[Rows, NDArray[np.int64] | None]:
    if zero_based not in (True, False, "auto"):
        raise DataError(f"zero_based is True, False or 'auto', got {zero_based!r}")
    rows, qids = _read_from(path, with_fields, int(zero_based is False), n_features, n_jobs)
    if zero_based == "auto" and rows.nnz and rows.ids.min() > 0:
        return _read_from(path, with_fields, 1, n_features, n_jobs)
    return rows, qids


def _read_from(
    path: PathLike, with_fields: bool, first_id: int, n_features: int | None, n_jobs: int
) -> tuple[Rows, NDArray[np.int64] | None]:
    reader = _reader(with_fields, first_id, n_features, n_jobs)
    with contextlib.nullcontext() if is_packed(path) else mapped(path) as whole:
        for text in line_pieces(path, CHUNK_BYTES) if whole is None else (whole,):
            _feed(reader, path, text)
    return _taken(reader)


def _iterate(
    path: PathLike,
    batch_rows: int,
    with_fields: bool,
    zero_based: bool,
    n_features: int | None,
    n_jobs: int,
) -> Iterator[Rows]:
    if batch_rows < 1:
        raise DataError(f"batch_rows must be at least 1, got {batch_rows}")
    if zero_based not in (True, False):
        raise DataError(
            f"zero_based is True or False, got {zero_based!r}: a file read in batches is not"
            " seen whole before its first ids are needed"
        )
    reader = _reader(with_fields, int(not zero_based), n_features, n_jobs)
    left: list[Rows] = []  # fewer than batch_rows
    for text in line_pieces(path, CHUNK_BYTES):
        _feed(reader, path, text)
        n_waiting = sum(map(len, left)) + len(reader)
        if n_waiting >= batch_rows:
            rows = Rows.concatenate([*left, _taken(reader)[0]])
            whole = n_waiting - n_waiting % batch_rows
            yield from rows[:whole].batches(batch_rows)
            left = [rows[whole:]]
    last = Rows.concatenate([*left, _taken(reader)[0]])
    if len(last):
        yield last


def _reader(
    with_fields: bool, first_id: int, n_features: int | None, n_jobs: int
) -> _native.TextReader:
    if n_features is not None and n_features < 0:
        raise DataError(f"n_features must not be negative, got {n_features}")
    limit = -1 if n_features is None else n_features
    return _native.TextReader(with_fields, first_id, limit, thread_count(n_jobs), PART_BYTES)


def _feed(reader: _native.TextReader, path: PathLike, text: bytes | mmap.mmap) -> None:
    wrong = reader.feed(np.frombuffer(text, dtype=np.uint8))
    if wrong is not None:
        line, column, found, expected = wrong
        shown = found.decode("utf-8", "backslashreplace") or "the end of the line"
        raise DataError(
            f"{Path(path)}, line {line}, column {column}: found {shown!r}, expected {expected}"
        )


def _taken(reader: _native.TextReader) -> tuple[Rows, NDArray[np.int64] | None]:
    ids, values, offsets, fields, targets, qids = reader.take()
    return Rows(ids, values, offsets, fields, targets, None, len(targets)), qids


def _max_id(rows: Rows) -> int:
    return int(rows.ids.max()) if rows.nnz else -1


def _write(
    path: PathLike,
    rows: Rows,
    fields: NDArray[Any] | None,
    zero_based: bool,
    qids: ArrayLike | None,
) -> None:
    if rows.weights is not None:
        raise DataError(
            "the text has no place for weights: drop them with rows.replace(weights=None)"
        )
    queries = None if qids is None else np.asarray(qids)
    if queries is not None and (queries.shape != (len(rows),) or queries.dtype.kind not in "iu"):
        raise DataError(f"qids must be {len(rows)} integers, got shape {queries.shape}")
    if rows.validate().max_id > np.iinfo(np.int64).max - (not zero_based):
        raise DataError("id 9223372036854775807 has no successor: write with zero_based=True")
    offsets = rows.row_offsets()
    with replacing(path) as whole, packing(whole, path) as file:
        start = 0
        while start < len(rows):
            # as many rows as have CHUNK_FEATURES features, at least one, at most that many
            stop = int(np.searchsorted(offsets, offsets[start] + CHUNK_FEATURES, side="right")) - 1
            stop = min(max(stop, start + 1), start + CHUNK_FEATURES, len(rows))
            here = slice(int(offsets[start]), int(offsets[stop]))
            file.write(
                _format(
                    rows[start:stop],
                    None if fields is None else fields[here],
                    0 if zero_based else 1,
                    None if queries is None else queries[start:stop],
                )
            )
            start = stop


def _format(
    rows: Rows, fields: NDArray[Any] | None, first_id: int, queries: NDArray[Any] | None
) -> bytes:
    """Lines of text, put together column by column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def text(numbers: NDArray[Any]) -> pa.Array:  # shortest digits that read back the same
        return pa.array(numbers).cast(pa.string())

    ids = rows.ids.astype(np.int64) + first_id if first_id else rows.ids
    parts = [] if fields is None else [text(fields)]
    parts += [text(ids), pa.scalar("1") if rows.values is None else text(rows.values)]
    tokens = pc.binary_join_element_wise(*parts, ":").cast(pa.large_string())
    per_row = pa.LargeListArray.from_arrays(pa.array(rows.row_offsets()), tokens)
    targets = np.zeros(len(rows), np.float32) if rows.targets is None else rows.targets
    columns = [text(targets).cast(pa.large_string())]
    if queries is not None:
        columns.append(
            pc.binary_join_element_wise("qid", text(queries), ":").cast(pa.large_string())
        )
    columns.append(pc.binary_join(per_row, pa.scalar(" ", pa.large_string())))
    lines = pc.binary_join_element_wise(*columns, pa.scalar(" ", pa.large_string()))
    if rows.nnz == 0 or (rows.row_lengths() == 0).any():
        lines = pc.utf8_rtrim(lines, " ")
    ends = pa.LargeListArray.from_arrays(pa.array([0, len(lines)], pa.int64()), lines)
    whole = pc.binary_join(ends, pa.scalar("\n", pa.large_string()))[0]
    return (whole.as_buffer().to_pybytes() if len(lines) else b"") + b"\n"
