"""Regression, classification or ordered levels: what targets look like, and what was taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossfm.errors import DataError, SchemaError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Task", "choose_task", "labels_of", "target_of"]

MANY_CLASSES = 100  # strings of more distinct values are taken for a mistake, unless told


class Task(NamedTuple):
    """What is to be learned, and why it was taken so."""

    kind: Literal["regression", "classification", "ordinal"]
    reason: str


def target_of(table: pa.Table, name: str, start: int = 0) -> NDArray[Any]:
    """A column's targets or labels ``[n]``; `start` is the number of its first row.

    Raises:
        SchemaError: no such column, or one that holds neither numbers nor labels.
        DataError: a row without a target.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from crossfm.data.frames import missing_column
    from crossfm.data.values import one, plain

    if name not in table.column_names:
        raise missing_column(name, table.column_names)
    array = one(plain(table.column(name), name))
    kind, t = array.type, pa.types
    if t.is_decimal(kind):
        array = array.cast(pa.float64())
    elif not (
        t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind) or t.is_large_string(kind)
    ):
        raise SchemaError(
            f"the target {name!r} holds {kind}, expected numbers, strings or booleans"
        )
    missing = pc.is_null(array, nan_is_null=True).to_numpy(zero_copy_only=False)
    if missing.any():
        raise DataError(
            f"the target {name!r} is missing in {int(missing.sum()):,} rows, first in row"
            f" {start + int(np.argmax(missing))} (counted from 0); drop them, or fill them in"
        )
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


def choose_task(y: NDArray[Any], asked: str, name: str) -> Task:
    """The task for these targets: as asked, or where that is "auto", by what they are.

    Raises:
        DataError: targets that are all the same, or strings nearly all different, or more ordered
            levels than there may be.

    Example:
        >>> choose_task(np.array([1, 5, 3]), "auto", "rating")
        Task(kind='regression', reason='3 distinct numbers from 1 to 5')
        >>> choose_task(np.array(["no", "yes"], object), "auto", "click")
        Task(kind='classification', reason="2 classes, 'no' and 'yes'")
    """
    if len(y) == 0:
        raise DataError("there are no rows to learn from")
    is_text = y.dtype.kind in "OUS"
    distinct = np.unique(y)
    n = len(distinct)
    whole = is_text or bool(np.all(distinct == np.floor(distinct)))
    if is_text or y.dtype.kind == "b" or (n == 2 and whole):
        shown = [repr(label) for label in distinct[:3].tolist()]
        listed = " and ".join(shown) if n == 2 else ", ".join(shown) + (", ..." if n > 3 else "")
        found = f"{n:,} classes, {listed}"
        kind: Literal["regression", "classification"] = "classification"
    else:
        found = f"{n:,} distinct numbers from {distinct[0]:g} to {distinct[-1]:g}"
        kind = "regression"
    if asked in ("regression", "ordinal"):
        if is_text:
            needs = "regression needs" if asked == "regression" else "ordered levels are"
            raise SchemaError(
                f"{name} holds strings such as {distinct[0]!r}, and {needs} numbers;"
                " leave --task out, or name another target"
            )
        if asked == "regression":
            return Task("regression", "as told")
    if n == 1:
        raise DataError(
            f"{name} is {distinct.tolist()[0]!r} in all {len(y):,} rows, so there is nothing to"
            " learn; name another target, or take data with different ones"
        )
    if asked == "ordinal":
        from crossfm.estimators._levels import MOST_LEVELS

        if n > MOST_LEVELS:
            raise DataError(
                f"{name} holds {n:,} different numbers, and ordered levels are {MOST_LEVELS} at"
                " most; round them, or leave --task out"
            )
        lowest, highest = float(distinct[0]), float(distinct[-1])
        return Task("ordinal", f"as told; {n} levels from {lowest:g} to {highest:g}")
    if asked == "classification":
        if not whole:
            part = distinct[distinct != np.floor(distinct)][0]
            raise DataError(
                f"{name} holds numbers with fractions such as {part:g}, and classes are strings or"
                " whole numbers; leave --task out, or name another target"
            )
        return Task("classification", f"as told; {n:,} classes")
    if is_text and n > MANY_CLASSES:
        raise DataError(
            f"{name} holds {n:,} different strings, such as {distinct[0]!r}; name another target,"
            " or say --task classification if these are classes"
        )
    return Task(kind, found)


def labels_of(numbers: NDArray[np.float32]) -> NDArray[Any]:
    """Targets of text files as labels: whole numbers as integers, -1 and +1 among them.

    >>> labels_of(np.array([1.0, -1.0], np.float32))
    array([ 1, -1])
    """
    whole = np.all(np.isfinite(numbers)) and np.all(numbers == np.floor(numbers))
    return numbers.astype(np.int64) if whole else numbers
