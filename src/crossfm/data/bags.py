"""Bags: columns of many values a row, from lists or separated strings, and their pooling."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crossfm.data.fields import Bag
from crossfm.data.values import canonical, first_value, is_list, numbers, one, plain, strings
from crossfm.errors import DataError, SchemaError

__all__ = ["Bags", "pool", "read_bags"]


class Bags(NamedTuple):
    """A column of bags, flat."""

    values: Any  # pa.Array or ChunkedArray [nnz], null where an element is
    lengths: NDArray[np.int64]  # [n], 0 where the bag is missing
    missing: NDArray[np.bool_]  # [n]


def read_bags(column: pa.Array | pa.ChunkedArray, name: str, sep: str | None) -> Bags:
    """The bags of a column of lists, or of strings split at `sep`.

    Raises:
        SchemaError: the column holds neither; or strings, and there is no `sep`.
    """
    column = plain(column, name)
    kind = column.type
    if pa.types.is_null(kind):
        nothing = np.zeros(len(column), np.int64)
        return Bags(pa.nulls(0), nothing, np.ones(len(column), bool))
    if pa.types.is_large_string(kind):
        if sep is None:
            raise SchemaError(
                f"column {name!r} holds strings such as {first_value(one(column))!r}, expected"
                f" lists; give the separator, as in Bag({name!r}, sep='|')"
            )
        return _split(one(column), sep)
    if not is_list(kind):
        if sep is not None and pa.types.is_primitive(kind):  # "1|2" beside a bare 3
            return _split(strings(canonical(column, name)), sep)
        raise SchemaError(
            f"column {name!r} holds {kind}, expected lists or separated strings;"
            f" one value a row is Categorical({name!r})"
        )
    chunks = [column] if isinstance(column, pa.Array) else column.chunks
    flat = pa.chunked_array([chunk.flatten() for chunk in chunks], kind.value_type)
    if is_list(flat.type):
        raise SchemaError(f"column {name!r} holds lists of lists, expected lists of values")
    return Bags(flat, *_lengths(column))


def _split(array: pa.Array, sep: str) -> Bags:
    lists = pc.split_pattern(array, sep)
    lengths, missing = _lengths(lists)
    values = pc.utf8_trim_whitespace(lists.flatten())
    kept = pc.greater(pc.binary_length(values), 0)
    if pc.all(kept).as_py() is False:
        mask = kept.to_numpy(zero_copy_only=False)
        bag = np.repeat(np.arange(len(array)), lengths)[mask]
        lengths = np.bincount(bag, minlength=len(array)).astype(np.int64)
        values = values.filter(kept)
    return Bags(values, lengths, missing)


def _lengths(lists: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    lengths = one(pc.list_value_length(lists))
    missing = lengths.is_null().to_numpy(zero_copy_only=False)
    return lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64), missing


def pool(
    bags: Bags, ids: NDArray[Any], field: Bag, weights: pa.ChunkedArray | None
) -> tuple[NDArray[Any], NDArray[np.float32] | None, NDArray[np.int64]]:
    """Ids, values and lengths of the bags: weighted, repeated ids summed, null bags as id 0.

    Args:
        bags: the column.
        ids: the local id of each of its elements ``[nnz]``.
        field: how to pool them.
        weights: the column of the elements' weights, or None (all ones).

    Raises:
        DataError: weights that are missing, not finite, not as many as the bag's values, or
            negative where mean or sqrtn divides by them.
    """
    lengths = bags.lengths
    w = None if weights is None else _weights(bags, field, weights)
    if field.pooling != "sum":
        w = _normalise(w, lengths, field)
    ids, w, lengths = _merge(ids, w, lengths)
    if bags.missing.any():
        lengths = lengths.copy()
        at = (np.cumsum(lengths) - lengths)[bags.missing]
        ids = np.insert(ids, at, 0)
        w = None if w is None else np.insert(w, at, 1.0)
        lengths[bags.missing] = 1
    return ids, None if w is None else w.astype(np.float32), lengths


def _weights(bags: Bags, field: Bag, column: pa.ChunkedArray) -> NDArray[np.float64]:
    name = str(field.weights)
    read = read_bags(column, name, field.sep)
    w = numbers(read.values, name)
    lengths = read.lengths
    if (bags.missing & (lengths > 0)).any():  # weights of a null bag are of no use
        used = np.repeat(~bags.missing, lengths)
        w, lengths = w[used], np.where(bags.missing, 0, lengths)
    wrong = lengths != bags.lengths
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"row {row}: column {name!r} has {lengths[row]} weights for {bags.lengths[row]} values"
            f" of {field.name!r}; they must be as many"
        )
    bad = np.isnan(w)
    if field.pooling != "sum":
        bad |= w < 0
    if bad.any():
        at = int(np.argmax(bad))
        row = int(np.repeat(np.arange(len(lengths)), lengths)[at])
        expected = "a number" if field.pooling == "sum" else "a number that is not negative"
        raise DataError(f"row {row}: a weight in column {name!r} is {w[at]}, expected {expected}")
    return w


def _normalise(
    w: NDArray[np.float64] | None, lengths: NDArray[np.int64], field: Bag
) -> NDArray[np.float64]:
    mean = field.pooling == "mean"
    if w is None:
        norm = lengths.astype(np.float64)
        norm = norm if mean else np.sqrt(norm)
        return np.repeat(1.0 / np.maximum(norm, 1.0), lengths)
    bag = np.repeat(np.arange(len(lengths)), lengths)
    sums: NDArray[Any] = np.bincount(bag, w if mean else w * w, minlength=len(lengths))
    norm = sums if mean else np.sqrt(sums)
    return w / np.where(norm > 0, norm, 1.0)[bag]


def _merge(
    ids: NDArray[Any], w: NDArray[np.float64] | None, lengths: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.float64] | None, NDArray[np.int64]]:
    """Sum the weights of an id that stands more than once in a bag, at its first place."""
    bag = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((ids, bag))
    sorted_ids, sorted_bag = ids[order], bag[order]
    new = np.ones(len(ids), bool)
    new[1:] = (sorted_ids[1:] != sorted_ids[:-1]) | (sorted_bag[1:] != sorted_bag[:-1])
    if new.all():
        return ids, w, lengths
    group = np.cumsum(new) - 1
    sums: NDArray[Any] = np.bincount(group, np.ones(len(ids)) if w is None else w[order])
    first = order[new]  # lexsort is stable, so the first of a group stood first
    place = np.argsort(first)
    kept = first[place]
    lengths = np.bincount(bag[kept], minlength=len(lengths)).astype(np.int64)
    return ids[kept], sums[place], lengths
