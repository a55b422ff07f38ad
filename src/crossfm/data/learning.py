"""Encodings learned from batches of a table, in memory that does not grow with its rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crossfm.data.coded import Coded, count_values
from crossfm.data.encoding import Encoding, LookupEncoding, NumericEncoding, encoding_for
from crossfm.data.fields import Field, Numeric
from crossfm.data.threads import on_threads, threads_for
from crossfm.data.values import Values
from crossfm.data.vocabulary import Vocabulary
from crossfm.errors import DataError

__all__ = ["learn_encodings", "needs_pass"]

SAMPLE = 1 << 18  # numbers kept of a field, up to twice as many
PENDING = 1 << 20  # distinct values of batches that wait to be counted together
MOST_RARE = 1 << 24  # values of a field remembered that may not become frequent enough
NEVER = 1 << 62  # a count that no value reaches


def needs_pass(fields: Sequence[Field]) -> bool:
    """Whether the encodings depend on more than the first rows: not so where all is hashed."""
    return any(
        field.scale != "raw" if isinstance(field, Numeric) else field.hash_buckets is None
        for field in fields
    )


def learn_encodings(fields: Sequence[Field], tables: Iterable[pa.Table]) -> list[Encoding]:
    """The encodings of all rows of the tables, as if they came in one.

    Raises:
        SchemaError: a column of a type that its field cannot take.
        DataError: no rows, infinity in a column.
    """
    encodings = [encoding_for(field) for field in fields]
    gathered = [_gatherer(encoding) for encoding in encodings]
    n_rows = 0
    for table in tables:
        n_rows += table.num_rows
        read = partial(_see, table)
        on_threads(read, list(zip(encodings, gathered, strict=True)), threads_for(table.num_rows))
    if not n_rows:
        raise DataError("the frame has no rows to fit the schema to")
    on_threads(lambda gatherer: gatherer.teach(), gathered, threads_for(n_rows))
    for encoding, gatherer in zip(encodings, gathered, strict=True):
        if isinstance(gatherer, _Count) and gatherer.dropped:
            assert isinstance(encoding, LookupEncoding)
            warnings.warn(
                f"field {encoding.name!r} has more than {MOST_RARE:,} distinct values;"
                f" {gatherer.dropped:,} seen once were forgotten on the way, so that a value may"
                " need one more row than min_count says; hash_buckets needs no memory for values",
                UserWarning,
                stacklevel=5,
            )
    return encodings


def _see(table: pa.Table, pair: tuple[Encoding, _Sample | _Count | _Nothing]) -> None:
    encoding, gatherer = pair
    gatherer.see(encoding.read(table))


def _gatherer(encoding: Encoding) -> _Sample | _Count | _Nothing:
    if isinstance(encoding, NumericEncoding):
        return _Sample(encoding)
    assert isinstance(encoding, LookupEncoding)
    return _Count(encoding) if encoding.buckets is None else _Nothing()


class _Nothing:
    """For hashed fields: their values were checked when they were read."""

    def see(self, column: Any) -> None:
        pass

    def teach(self) -> None:
        pass


class _Sample:
    """Numbers at even distances, doubled whenever they become too many."""

    def __init__(self, encoding: NumericEncoding) -> None:
        self.encoding = encoding
        self.parts: list[NDArray[np.float64]] = []
        self.stride, self.seen, self.kept = 1, 0, 0

    def see(self, column: NDArray[np.float64]) -> None:
        part = column[-self.seen % self.stride :: self.stride].copy()
        self.parts.append(part)
        self.seen += len(column)
        self.kept += len(part)
        while self.kept > 2 * SAMPLE:
            self.parts = [np.concatenate(self.parts)[::2].copy()]
            self.stride, self.kept = 2 * self.stride, len(self.parts[0])

    def teach(self) -> None:
        self.encoding.learn(np.concatenate(self.parts))


class _Count:
    """Counts of distinct values; those of several batches are added up together."""

    def __init__(self, encoding: LookupEncoding) -> None:
        self.encoding = encoding
        self.counted = Vocabulary(NEVER)  # all its values are rare, and counted
        self.waiting: list[tuple[Values, NDArray[np.int64]]] = []
        self.n_waiting = self.dropped = 0

    def see(self, column: Values | Coded) -> None:
        if isinstance(column, Coded):
            column, counts = column.counted()
        elif column.kind is not None:
            array, counts = count_values(column)
            column = Values(column.kind, array)
        if column.kind is None:
            return
        for values, _ in self.waiting[-1:]:
            if {"datetime"} & {values.kind, column.kind} and values.kind != column.kind:
                self._add_up()  # so that the check below knows what came before
        self.counted.check(column, self.encoding.name)
        self.waiting.append((column, counts))
        self.n_waiting += len(counts)
        if self.n_waiting > max(PENDING, len(self.counted.rare)):
            self._add_up()

    def teach(self) -> None:
        self._add_up()
        vocabulary = Vocabulary(self.encoding.vocabulary.min_count)
        values = Values(self.counted.kind, self.counted.rare)
        vocabulary.add_counted(values, self.counted.rare_counts)
        self.encoding.vocabulary = vocabulary

    def _add_up(self) -> None:
        kinds = dict.fromkeys(values.kind for values, _ in self.waiting)
        for kind in kinds:
            same = [one for one in self.waiting if one[0].kind == kind]
            values = Values(kind, pa.concat_arrays([v.array for v, _ in same]))
            self.counted.add_counted(values, np.concatenate([counts for _, counts in same]))
        self.waiting, self.n_waiting = [], 0
        often = self.counted.rare_counts > 1
        if len(often) > MOST_RARE and self.encoding.vocabulary.min_count > 1:
            self.dropped += int(len(often) - often.sum())
            self.counted.rare = self.counted.rare.filter(pa.array(often))
            self.counted.rare_counts = self.counted.rare_counts[often]
