"""Matrices, dense and sparse, as Rows that are equal for equal matrices."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.errors import DataError

__all__ = ["brief", "check_matrix", "join_matrices", "matrix_rows"]


def check_matrix(X: Any, n_features: int | None, name: str) -> Any:
    """`X` as a finite float32 array or canonical CSR matrix without stored zeros.

    Raises:
        DataError: not two-dimensional, no rows or columns, not real numbers, NaN or infinity (the
            message names row and column), not the number of columns that the fit saw.
    """
    from sklearn.utils import check_array

    try:
        X = check_array(
            X, accept_sparse="csr", dtype="numeric", ensure_all_finite=False, estimator=name
        )
    except ValueError as error:
        raise DataError(brief(error)) from error
    if X.dtype.kind not in "fiub":
        raise DataError(f"the matrix is of type {X.dtype}, expected real numbers")
    if n_features is not None and X.shape[1] != n_features:
        raise DataError(
            f"X has {X.shape[1]} features, but {name} is expecting {n_features} features as input"
        )
    if hasattr(X, "tocsr"):
        return _canonical(X)
    narrow = _narrow(X)
    if not _all_finite(narrow):
        row, column = (int(i) for i in np.argwhere(~np.isfinite(narrow))[0])
        raise _not_finite(row, column, X[row, column])
    return narrow


def brief(error: Exception) -> str:
    """scikit-learn's message, without the whole array where that is of one dimension."""
    return re.sub(r":\s*array=.*?(?=Reshape)", "; ", str(error), flags=re.DOTALL)


def matrix_rows(X: Any, centred: NDArray[np.int64] | None = None) -> Rows:
    """A checked matrix as Rows: ids are columns in order, zeros are left out.

    Args:
        X: from `check_matrix`.
        centred: columns whose zeros are kept, because training sees them shifted.
    """
    n, m = X.shape
    if isinstance(X, np.ndarray):
        keep = X != 0
        if centred is not None:
            keep[:, centred] = True
        if keep.all():
            return Rows(np.tile(np.arange(m, dtype=np.int32), n), X.reshape(-1), n_rows=n)
        lengths = keep.sum(axis=1)
        return _rows(np.nonzero(keep)[1].astype(np.int32), X[keep], lengths)
    ids, values, lengths = X.indices, X.data, np.diff(X.indptr)
    if centred is not None and len(centred):
        inside = X[:, centred]
        if inside.nnz < n * len(centred):  # some of their zeros have to be put in
            missing = np.ones((n, len(centred)), bool)
            missing[np.repeat(np.arange(n), np.diff(inside.indptr)), inside.indices] = False
            row, column = np.nonzero(missing)
            rows = np.concatenate([np.repeat(np.arange(n), lengths), row])
            ids = np.concatenate([ids, centred[column]])
            order = np.lexsort((ids, rows))
            ids = ids[order]
            values = np.concatenate([values, np.zeros(len(row), np.float32)])[order]
            lengths = lengths + missing.sum(axis=1)
    return _rows(ids, values, lengths)


def join_matrices(parts: list[Any]) -> Any:
    """Batches of a matrix, one below the other."""
    if len(parts) == 1:
        return parts[0]
    if len({part.shape[1] for part in parts}) > 1:
        widths = [part.shape[1] for part in parts]
        raise DataError(f"the batches have {sorted(set(widths))} columns, expected as many in each")
    if any(hasattr(part, "tocsr") for part in parts):
        import scipy.sparse

        return _canonical(scipy.sparse.vstack(parts, format="csr"))
    return np.concatenate(parts)


def _rows(ids: NDArray[Any], values: NDArray[np.float32], lengths: NDArray[Any]) -> Rows:
    n = len(lengths)
    if n and (lengths == lengths[0]).all():
        return Rows(ids, values, n_rows=n)
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Rows(ids, values, offsets)


def _canonical(X: Any) -> Any:
    narrow = _narrow(X.data)
    bad = ~np.isfinite(narrow)
    if bad.any():
        at = int(np.argmax(bad))
        row = int(np.searchsorted(X.indptr, at, side="right")) - 1
        raise _not_finite(row, int(X.indices[at]), X.data[at])
    changed = not X.has_canonical_format or bool((narrow == 0).any())
    if narrow is not X.data or changed:
        X = X.astype(np.float32, copy=True)
    if changed:
        X.sum_duplicates()
        X.eliminate_zeros()
    return X


def _narrow(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # becomes infinite, refused by the caller
        return values.astype(np.float32, copy=False)


def _all_finite(values: NDArray[np.float32]) -> bool:
    return not values.size or bool(np.isfinite(values.min()) and np.isfinite(values.max()))


def _not_finite(row: int, column: int, value: Any) -> DataError:
    if np.isnan(value):
        return DataError(
            f"Input X contains NaN: row {row}, column {column}; fill in what is missing, or give a"
            " DataFrame, where missing values have an id of their own"
        )
    return DataError(
        f"Input X contains infinity or a value too large for dtype('float32'): row {row},"
        f" column {column} is {value}"
    )
