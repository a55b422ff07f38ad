"""What every metric asks of its input, in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm.errors import DataError

Floats = NDArray[np.float64]


def numbers(name: str, array: ArrayLike) -> Floats:
    """`array` as float64, of any shape."""
    try:
        return np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be numbers: {error}") from error


def vector(name: str, array: ArrayLike) -> Floats:
    """`array` as float64 ``[n]``: one dimension, not empty, finite."""
    checked = numbers(name, array)
    if checked.ndim == 2 and checked.shape[1] == 1:
        checked = checked[:, 0]
    if checked.ndim != 1:
        several = "" if checked.ndim != 2 or name in ("y_true", "sample_weight") else (
            "; this metric has no value for several classes, log_loss has"
        )  # fmt: skip
        raise DataError(f"{name} has shape {checked.shape}, expected one dimension [n]{several}")
    finite(name, checked)
    return checked


def finite(name: str, array: Floats) -> None:
    """Refuse an empty array, NaN and infinity; the message names the row."""
    if array.size == 0:
        raise DataError(f"{name} is empty; a metric needs at least one row")
    good = np.isfinite(array)
    if not good.all():
        row = int(np.argmin(good.reshape(array.shape[0], -1).all(axis=1)))
        raise DataError(f"{name} row {row} is {array[row]}, expected a finite number")


def same_length(**arrays: NDArray[Any] | None) -> None:
    """Refuse arrays of different lengths; None is skipped."""
    lengths = {name: len(a) for name, a in arrays.items() if a is not None}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise DataError(f"lengths differ: {found} rows; expected the same number in each")


def weights_for(n: int, sample_weight: ArrayLike | None) -> Floats:
    """Weights float64 ``[n]``; ones where None. Refuses negative ones and a sum of zero."""
    if sample_weight is None:
        return np.ones(n)
    weight = vector("sample_weight", sample_weight)
    if len(weight) != n:
        raise DataError(f"sample_weight has {len(weight)} rows, y_true has {n}")
    if (weight < 0).any():
        row = int(np.argmax(weight < 0))
        raise DataError(f"sample_weight row {row} is {weight[row]}, expected 0 or more")
    if not weight.any():
        raise DataError("sample_weight is zero in every row; at least one must be positive")
    return weight


def pair(
    y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None, name: str = "y_pred"
) -> tuple[Floats, Floats, Floats]:
    """Truth, prediction and weight, each float64 ``[n]``."""
    truth, pred = vector("y_true", y_true), vector(name, y_pred)
    same_length(y_true=truth, **{name: pred})
    return truth, pred, weights_for(len(truth), sample_weight)


def binary(truth: Floats) -> Floats:
    """Labels {0, 1} or {-1, 1} as 0.0 and 1.0."""
    positive: NDArray[np.bool_] = truth == 1
    other = truth[~positive]
    if other.size and not ((other == 0).all() or (other == -1).all()):
        found = ", ".join(f"{v:g}" for v in np.unique(truth)[:5])
        raise DataError(f"y_true holds {found}; expected labels 0 and 1 (or -1 and 1)")
    return positive.astype(np.float64)


def probability(name: str, prob: Floats) -> None:
    """Refuse what is not between 0 and 1."""
    bad = (prob < 0) | (prob > 1)
    if bad.any():
        row = int(np.argmax(bad.reshape(prob.shape[0], -1).any(axis=1)))
        raise DataError(
            f"{name} row {row} is {prob[row]}, expected probabilities between 0 and 1;"
            " raw scores become probabilities by crossfm.losses.sigmoid"
        )


def group_numbers(groups: ArrayLike | None, n: int) -> tuple[NDArray[np.intp], int]:
    """Number the groups 0 .. G-1: (group of each row ``[n]``, G). None: one group."""
    if groups is None:
        return np.zeros(n, dtype=np.intp), 1
    keys = np.asarray(groups)
    if keys.ndim != 1:
        raise DataError(f"groups has shape {keys.shape}, expected one dimension [n]")
    if len(keys) != n:
        raise DataError(f"lengths differ: groups has {len(keys)} rows, y_true has {n}")
    if keys.dtype.kind in "fc" and np.isnan(keys).any():
        raise DataError(f"groups row {int(np.argmax(np.isnan(keys)))} is nan, expected a key")
    try:
        unique, number = np.unique(keys, return_inverse=True)
    except TypeError as error:
        raise DataError(f"groups mixes types that do not compare: {error}") from error
    return number.reshape(-1), len(unique)
