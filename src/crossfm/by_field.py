"""Rows by their fields, and weights of pairs of fields, as the kernels want them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm import _native
from crossfm.data.rows import Rows
from crossfm.errors import DataError

__all__ = [
    "check_field_weights",
    "expect_fields",
    "fields_apart",
    "group_fields",
    "pool_fields",
    "rows_by_field",
    "spread_weights",
    "weights_of",
]


def fields_apart(n_fields: int) -> int:
    """Numbers from one field's weights to the next one's in the kernels' matrix.

    >>> fields_apart(39)
    48
    """
    return -(-n_fields // 16) * 16


def group_fields(rows: Rows, field_of: NDArray[np.int32] | None) -> Rows:
    """Rows in which the features of one field stand together, as pooling kernels need them.

    Args:
        rows: validated rows. Their own ``fields`` come before `field_of`.
        field_of: int32 ``[n_features]``, the field of each id, or None.

    Returns:
        `rows` itself where its order is good (a schema's always is), else a sorted copy that
        carries ``fields``.

    Raises:
        DataError: neither the rows nor the model say which field a feature belongs to.

    Example:
        >>> rows = Rows(np.array([[0, 2, 1]]), fields=np.array([[0, 1, 0]]))
        >>> group_fields(rows, None).ids
        array([0, 1, 2])
    """
    if rows.fields is not None:
        if rows.validate().grouped:
            return rows
        of = rows.fields
    elif field_of is not None:
        of = field_of[rows.ids]
        rising = np.ones(rows.nnz, dtype=bool)
        np.greater_equal(of[1:], of[:-1], out=rising[1:])
        starts = rows.row_offsets()[:-1]
        rising[starts[starts < rows.nnz]] = True
        if rising.all():
            return rows
    else:
        raise DataError(
            "models that go by field need to know the field of each feature: give the rows"
            " fields (libffm text has them), or the model field_of (a schema has it)"
        )
    row = np.repeat(np.arange(len(rows)), rows.row_lengths())
    order = np.lexsort((of, row))
    values = None if rows.values is None else rows.values[order]
    return rows.replace(ids=rows.ids[order], values=values, fields=of[order])


def rows_by_field(
    rows: Rows, field_of: NDArray[np.int32] | None, n_fields: int
) -> tuple[Rows, NDArray[np.int32] | None]:
    """Rows for a model that has parameters for `n_fields` fields, and the `field_of` they need.

    Args:
        rows: validated rows. Their own ``fields`` come before `field_of`.
        field_of: int32 ``[n_features]``, the field of each id, or None.
        n_fields: fields are below it.

    Returns:
        rows in which the features of a field stand together. Where each row is one feature of each
        field in order, as a schema of categories makes them, neither they nor ``field_of``, None,
        say the fields any longer: the kernels then go by places.

    Raises:
        DataError: fields that are not known, or beyond the model's.

    Example:
        >>> rows, of = rows_by_field(Rows(np.array([[0, 2], [1, 3]])), np.array([0, 0, 1, 1]), 2)
        >>> rows.fields, of
        (None, None)
    """
    if rows.fields is None and field_of is None:
        return group_fields(rows, None), None  # says what is missing
    fields = field_of[rows.ids] if rows.fields is None and field_of is not None else rows.fields
    assert fields is not None
    if fields.size:
        expect_fields(int(fields.max()), n_fields)
    lengths = rows.row_lengths()
    if len(rows) and (lengths == lengths[0]).all() and lengths[0] <= n_fields:
        by_row = fields.reshape(len(rows), -1)
        if (by_row == np.arange(by_row.shape[1])).all():
            return rows.replace(fields=None), None
    return group_fields(rows, field_of), field_of


def expect_fields(highest: int, n_fields: int) -> None:
    """DataError where a field is beyond those that a model has parameters for."""
    if highest >= n_fields:
        raise DataError(
            f"fields go up to {highest}, and the model has parameters for the fields 0 to"
            f" {n_fields - 1}; fit it to data that have them all"
        )


def spread_weights(weights: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Field weights or matrices as the kernels read them: one matrix, rows from cache lines on.

    Args:
        weights: ``[n_fields, n_fields]``, or ``[n_fields, n_fields, k, k]``.
        width: numbers that the kernels hold of a feature; k of them count.
    """
    n_fields, matrices = len(weights), weights.ndim == 4
    rows = n_fields * (width if matrices else 1)
    spread: NDArray[np.float32] = _native.allocate(rows * fields_apart(rows))
    weights_of(spread.reshape(rows, -1), n_fields, weights.shape[2:])[...] = weights
    return spread


def weights_of(
    spread: NDArray[np.float32], n_fields: int, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """The view of a kernel's matrix ``[..., rows, apart]`` as field weights or matrices.

    Args:
        spread: see `spread_weights`.
        n_fields: F.
        shape: of the matrices, ``(k, k)``; (): weights.
    """
    rows = spread.shape[-2]
    if not shape:
        return spread[..., :n_fields]
    width = rows // n_fields
    blocks = spread[..., :rows].reshape(*spread.shape[:-2], n_fields, width, n_fields, width)
    return blocks.swapaxes(-3, -2)[..., : shape[0], : shape[1]]


def check_field_weights(given: ArrayLike, k: int) -> NDArray[np.float32]:
    """Weights of each two fields, or matrices of k by k numbers, as a model holds them.

    Raises:
        DataError: a shape that is none, numbers that are not finite, halves that differ.
    """
    try:
        weights = np.array(given, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"field_weights must be numbers [n_fields, n_fields]: {error}") from error
    shape = weights.shape
    if shape[2:] not in ((), (k, k)) or len(shape) < 2 or shape[0] != shape[1] or not shape[0]:
        raise DataError(
            f"field_weights has shape {shape}, expected [n_fields, n_fields], or matrices"
            f" [n_fields, n_fields, {k}, {k}]"
        )
    if not np.isfinite(weights).all():
        raise DataError("field_weights holds numbers that are not finite")
    turned = weights.swapaxes(0, 1) if weights.ndim == 2 else weights.transpose(1, 0, 3, 2)
    itself = np.arange(len(weights))
    if (weights != turned).any() or weights[itself, itself].any():
        raise DataError(
            "field_weights must be symmetric with zeros on the diagonal: a pair of fields has one"
            " weight (or matrix), and a field does not meet itself"
        )
    weights.flags.writeable = False
    return weights


def pool_fields(
    rows: Rows, field: NDArray[Any], n_fields: int, columns: NDArray[Any], vectors: NDArray[Any]
) -> NDArray[Any]:
    """The sum of ``x_i v_i`` over the features of each field of each row.

    Args:
        rows: n rows.
        field: of each feature ``[nnz]``, from 0 to ``n_fields - 1``.
        n_fields: F.
        columns: of each feature, which of the vectors is its ``[nnz]``.
        vectors: ``[m, ...]``.

    Returns:
        ``[n, F, ...]``.

    Example:
        >>> rows = Rows([[0, 1, 2]])
        >>> pool_fields(rows, np.array([0, 1, 1]), 2, rows.ids, np.array([[1.0], [2.0], [3.0]]))
        array([[[1.],
                [5.]]])
    """
    import scipy.sparse

    n = len(rows)
    target = np.repeat(np.arange(n), rows.row_lengths()) * n_fields + field
    values = np.ones(rows.nnz, vectors.dtype) if rows.values is None else rows.values
    matrix = scipy.sparse.csr_array(
        (values.astype(vectors.dtype, copy=False), (target, columns)),
        shape=(n * n_fields, len(vectors)),
    )
    found = matrix @ vectors.reshape(len(vectors), -1)
    return np.asarray(found).reshape(n, n_fields, *vectors.shape[1:])
