"""Rows: the one batch type. Features of many rows as flat arrays, nothing padded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm import _native
from crossfm.errors import DataError

if TYPE_CHECKING:
    import scipy.sparse

__all__ = ["RowStats", "Rows", "side_by_side"]

Room = Callable[[str, int, "np.dtype[Any]"], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class RowStats:
    """What one validating pass over a batch found.

    Attributes:
        max_id: largest feature id, -1 if there is none.
        longest_row: largest number of features in one row.
        has_repeats: whether some row holds the same id more than once.
        grouped: whether the features of each row that share an explicit field stand together.
        max_field: largest explicit field, -1 if there is none.
    """

    max_id: int
    longest_row: int
    has_repeats: bool
    grouped: bool
    max_field: int

    @staticmethod
    def of_all(parts: Sequence[RowStats]) -> RowStats:
        """What a pass over several batches together would have found."""
        return RowStats(
            max(part.max_id for part in parts),
            max(part.longest_row for part in parts),
            any(part.has_repeats for part in parts),
            all(part.grouped for part in parts),
            max(part.max_field for part in parts),
        )


@dataclass(frozen=True, eq=False)
class Rows:
    r"""A batch of rows of features: ids, values, row offsets, fields.

    Row ``r`` holds the features ``ids[offsets[r]:offsets[r + 1]]`` with the values
    ``x_i = values[offsets[r]:offsets[r + 1]]``.

    Args:
        ids: feature ids, int32 or int64 ``[nnz]``. A 2-D array ``[n, m]`` means n rows of
            m features each.
        values: float32 ``[nnz]``; None: all ones (a lookup).
        offsets: int64 ``[n + 1]``, from 0 to nnz; None: the same count in every row.
        fields: int32 ``[nnz]``, the field of each feature; None: the field belongs to the id
            (a schema's ``field_of_``), the usual case.
        targets: float32 ``[n]`` or None.
        weights: float32 ``[n]``, not negative, or None (all ones).
        n_rows: needed only where ids are flat and offsets None.

    Arrays of another type are converted; arrays of the right type are kept as they are, so
    that a slice is a view. Treat the arrays as read-only.

    Raises:
        DataError: shapes that do not fit together. Contents are checked by `validate`.

    Example:
        >>> import numpy as np
        >>> rows = Rows(np.array([0, 2, 1, 2, 3]), offsets=np.array([0, 2, 5]))
        >>> len(rows), rows.nnz
        (2, 5)
        >>> rows[1:].ids
        array([1, 2, 3])
    """

    ids: NDArray[Any]
    values: NDArray[np.float32] | None = None
    offsets: NDArray[np.int64] | None = None
    fields: NDArray[np.int32] | None = None
    targets: NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None
    n_rows: int = -1
    _stats: list[RowStats] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        put = object.__setattr__  # the dataclass is frozen
        try:
            ids = np.asarray(self.ids)
        except ValueError as error:
            raise DataError(
                "ids are rows of different lengths; give all ids in one array, and offsets where"
                " each row begins"
            ) from error
        if ids.dtype not in (np.int32, np.int64):
            ids = _integers(ids)
        n_rows = self.n_rows
        if ids.ndim == 2:
            if self.offsets is not None:
                raise DataError("ids of two dimensions come without offsets: every row is as long")
            n_rows = ids.shape[0]
        elif ids.ndim != 1:
            raise DataError(f"ids have {ids.ndim} dimensions, expected 1 or 2")
        shape = ids.shape
        put(self, "ids", np.ascontiguousarray(ids).reshape(-1))
        nnz = self.ids.size
        if self.offsets is not None:
            offsets = np.asarray(self.offsets)
            if offsets.ndim != 1 or offsets.size == 0:
                raise DataError(f"offsets have shape {offsets.shape}, expected [n_rows + 1]")
            put(self, "offsets", np.ascontiguousarray(_integers(offsets), dtype=np.int64))
            n_rows = offsets.size - 1
            if self.offsets[0] != 0 or self.offsets[-1] != nnz:
                raise DataError(
                    f"offsets run from {offsets[0]} to {offsets[-1]}, expected 0 to {nnz},"
                    " the number of ids"
                )
        elif n_rows < 0:
            if self.targets is None:
                raise DataError("flat ids need offsets, or n_rows for rows of equal length")
            n_rows = len(self.targets)
        if self.offsets is None and (nnz % n_rows if n_rows else nnz):
            raise DataError(f"{nnz} ids do not divide into {n_rows} rows of equal length")
        put(self, "n_rows", int(n_rows))
        for name, dtype in (("values", np.float32), ("fields", np.int32)):
            array = getattr(self, name)
            if array is not None:
                array = np.asarray(array)
                if array.shape != shape and array.shape != (nnz,):
                    raise DataError(f"{name} have shape {array.shape}, ids have {shape}")
                put(self, name, np.ascontiguousarray(array, dtype=dtype).reshape(-1))
        for name in ("targets", "weights"):
            array = getattr(self, name)
            if array is not None:
                array = np.asarray(array)
                if array.shape != (n_rows,):
                    raise DataError(f"{name} have shape {array.shape}, expected [{n_rows}]")
                put(self, name, np.ascontiguousarray(array, dtype=np.float32))

    def __len__(self) -> int:
        return self.n_rows

    @property
    def nnz(self) -> int:
        """Number of features in all rows together."""
        return int(self.ids.size)

    @property
    def row_length(self) -> int:
        """Features a row where all rows are as long (``offsets`` is None); -1 otherwise."""
        if self.offsets is not None:
            return -1
        return self.nnz // self.n_rows if self.n_rows else 0

    def row_lengths(self) -> NDArray[np.int64]:
        """Features in each row, ``[n]``."""
        if self.offsets is None:
            return np.full(self.n_rows, self.row_length, dtype=np.int64)
        return np.diff(self.offsets)

    def row_offsets(self) -> NDArray[np.int64]:
        """``offsets``, made where all rows are as long, ``[n + 1]``."""
        if self.offsets is not None:
            return self.offsets
        return np.arange(self.n_rows + 1, dtype=np.int64) * max(self.row_length, 0)

    def __getitem__(self, index: slice) -> Rows:
        """A slice of rows with step 1; its arrays are views."""
        if not isinstance(index, slice):
            raise TypeError(f"rows are sliced, got {index!r}; rows.take([...]) picks single rows")
        start, stop, step = index.indices(self.n_rows)
        if step != 1:
            raise DataError(f"rows are sliced with step 1, got {step}; use rows.take")
        stop = max(start, stop)
        if self.offsets is None:
            low, high, offsets = start * self.row_length, stop * self.row_length, None
        else:
            low, high = int(self.offsets[start]), int(self.offsets[stop])
            offsets = self.offsets[start : stop + 1]
            offsets = offsets if low == 0 else offsets - low
        return Rows(
            self.ids[low:high],
            None if self.values is None else self.values[low:high],
            offsets,
            None if self.fields is None else self.fields[low:high],
            None if self.targets is None else self.targets[start:stop],
            None if self.weights is None else self.weights[start:stop],
            stop - start,
        )

    def take(self, index: ArrayLike) -> Rows:
        """Copy the rows of an integer or boolean index, in its order."""
        index = np.asarray(index)
        if index.dtype == bool:
            if index.shape != (self.n_rows,):
                raise DataError(f"mask has shape {index.shape}, expected [{self.n_rows}]")
            index = np.flatnonzero(index)
        index = _integers(index).astype(np.int64, copy=False)
        offsets = self.row_offsets()
        starts, lengths = offsets[:-1][index], self.row_lengths()[index]
        new_offsets = np.zeros(index.size + 1, dtype=np.int64)
        np.cumsum(lengths, out=new_offsets[1:])
        positions = np.arange(new_offsets[-1]) + np.repeat(starts - new_offsets[:-1], lengths)
        return Rows(
            self.ids[positions],
            None if self.values is None else self.values[positions],
            None if self.offsets is None else new_offsets,
            None if self.fields is None else self.fields[positions],
            None if self.targets is None else self.targets[index],
            None if self.weights is None else self.weights[index],
            index.size,
        )

    def replace(self, **changes: Any) -> Rows:
        """The same rows with other targets, weights, values or fields."""
        kept = changes.keys() <= {"targets", "weights"}  # validate looks at these each time
        return replace(self, _stats=self._stats if kept else [], **changes)

    def batches(self, size: int) -> Iterator[Rows]:
        """Consecutive slices of at most `size` rows."""
        if size < 1:
            raise DataError(f"batch size must be at least 1, got {size}")
        for start in range(0, self.n_rows, size):
            yield self[start : start + size]

    @staticmethod
    def concatenate(parts: Sequence[Rows], room: Room | None = None) -> Rows:
        """Stack batches. An optional array must be in all parts or in none, except values.

        Args:
            parts: the batches; of a single one nothing is copied.
            room: ``room(name, size, dtype)`` gives the array to write to, such as one that was
                used before: fresh memory costs more than the copy. None: new arrays.
        """
        if not parts:
            raise DataError("no rows to concatenate")
        if len(parts) == 1:
            return parts[0]

        def joined(name: str, arrays: list[NDArray[Any]]) -> NDArray[Any]:
            if room is None:
                return np.concatenate(arrays)
            kind = np.result_type(*{array.dtype for array in arrays})
            return np.concatenate(arrays, out=room(name, sum(map(len, arrays)), kind))

        def stack(name: str) -> NDArray[Any] | None:
            arrays = [getattr(p, name) for p in parts]
            if all(a is None for a in arrays):
                return None
            if name == "values":
                arrays = [
                    np.ones(p.nnz, np.float32) if a is None else a
                    for p, a in zip(parts, arrays, strict=True)
                ]
            elif any(a is None for a in arrays):
                raise DataError(f"some of the parts have {name}, others have none")
            return joined(name, arrays)

        n_rows = sum(len(p) for p in parts)
        lengths = {p.row_length for p in parts if len(p)}
        offsets = None
        if len(lengths) > 1 or -1 in lengths:
            offsets = np.zeros(n_rows + 1, dtype=np.int64)
            np.cumsum(np.concatenate([p.row_lengths() for p in parts]), out=offsets[1:])
        known = [p._stats[0] for p in parts if p._stats]
        return Rows(
            joined("ids", [p.ids for p in parts]),
            stack("values"),
            offsets,
            stack("fields"),
            stack("targets"),
            stack("weights"),
            n_rows,
            [RowStats.of_all(known)] if len(known) == len(parts) else [],
        )

    @staticmethod
    def from_csr(
        matrix: scipy.sparse.csr_matrix | scipy.sparse.csr_array,
        targets: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Rows:
        """Rows of a scipy CSR matrix; columns become ids, stored zeros are kept."""
        matrix = matrix.tocsr()
        return Rows(
            matrix.indices,
            matrix.data,
            matrix.indptr,
            None,
            None if targets is None else np.asarray(targets),
            None if weights is None else np.asarray(weights),
        )

    def to_csr(self, n_features: int | None = None) -> scipy.sparse.csr_array:
        """A scipy CSR array ``[n, n_features]``; repeated ids stay separate entries."""
        import scipy.sparse

        if n_features is None:
            n_features = self.validate().max_id + 1
        values = np.ones(self.nnz, np.float32) if self.values is None else self.values
        return scipy.sparse.csr_array(
            (values, self.ids, self.row_offsets()), shape=(self.n_rows, n_features)
        )

    def validate(self, n_features: int | None = None) -> RowStats:
        """Check the contents once, so that no kernel has to.

        Args:
            n_features: ids must be below it; None: any id that is not negative.

        Raises:
            DataError: a negative or too large id, falling offsets, a value, target or weight
                that is not finite, a negative weight, a negative field. The message names
                the row.
        """
        for name, array in (("target", self.targets), ("weight", self.weights)):
            _check_finite(name, array)
        if not self._stats:
            found = _native.validate_rows(
                self.ids, self.values, self.offsets, self.fields, self.n_rows
            )
            if isinstance(found, str):
                raise DataError(found)
            self._stats.append(RowStats(*found))
        stats = self._stats[0]
        if n_features is not None and stats.max_id >= n_features:
            at = int(np.argmax(self.ids >= n_features))
            row = int(np.searchsorted(self.row_offsets(), at, side="right")) - 1
            raise DataError(
                f"row {row}: feature id {self.ids[at]} is out of range, the model has"
                f" {n_features} features (ids 0 to {n_features - 1})"
            )
        return stats


def _check_finite(name: str, array: NDArray[np.float32] | None) -> None:
    if array is None or array.size == 0:
        return
    bad = ~np.isfinite(array)
    if name == "weight":
        bad |= array < 0
    if bad.any():
        row = int(np.argmax(bad))
        expected = "a finite number" + (" that is not negative" if name == "weight" else "")
        raise DataError(f"row {row}: {name} is {array[row]}, expected {expected}")


def _integers(array: NDArray[Any]) -> NDArray[Any]:
    """Ids of another type as int64, refusing what would change them."""
    if array.dtype.kind in "iu":
        if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
            raise DataError(f"id {array.max()} is beyond 2^63 - 1")
        return array if array.dtype in (np.int32, np.int64) else array.astype(np.int64)
    if array.size == 0:
        return array.astype(np.int64)
    raise DataError(f"ids must be integers, got {array.dtype}")


def side_by_side(parts: Sequence[Rows]) -> Rows:
    """Rows that hold the features of those of all parts, one part after another."""
    n = len(parts[0])
    lengths = [part.row_lengths() for part in parts]
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(np.sum(lengths, axis=0), out=offsets[1:])
    ids = np.empty(int(offsets[-1]), np.result_type(*(part.ids.dtype for part in parts)))
    ones = all(part.values is None for part in parts)
    values = None if ones else np.ones(len(ids), np.float32)
    at = offsets[:-1].copy()
    for part, own in zip(parts, lengths, strict=True):
        places = np.arange(part.nnz) + np.repeat(at - part.row_offsets()[:-1], own)
        ids[places] = part.ids
        if values is not None and part.values is not None:
            values[places] = part.values
        at += own
    even = all(part.offsets is None for part in parts)
    return Rows(ids, values, None if even else offsets, n_rows=n)
