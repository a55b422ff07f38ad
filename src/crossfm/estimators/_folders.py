"""`partial_fit` on a folder that grows: each file is learned once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossfm.data.arrivals import Arrivals
from crossfm.errors import DataError
from crossfm.estimators._features import file_batches

__all__ = ["files_to_remember", "is_folder", "learn_folder"]


def is_folder(X: Any) -> bool:
    """Whether X is the path of a folder."""
    return isinstance(X, str | os.PathLike) and Path(X).is_dir()


def files_to_remember(X: Any, before: Arrivals | None) -> Callable[[], Arrivals]:
    """What `fit` remembers of X, asked for before it is read and called after.

    A file that comes while the fit runs is none of it.
    """
    arrivals = before or Arrivals()
    found = arrivals.new(X, whole=True) if is_folder(X) else []

    def remember() -> Arrivals:
        for path in found:
            arrivals.end(path)
        return arrivals

    return remember


def learn_folder(estimator: Any, folder: Any, y: Any, weight: Any, classes: Any) -> Any:
    """Learn the files of a folder that are new and whole, piece by piece.

    Raises:
        DataError: nothing to learn, and nothing was learned before; as `partial_fit`, and then
            the rows before the piece in question are learned, and not learned again.
    """
    arrivals: Arrivals = estimator._files
    found = arrivals.new(folder)
    _warn(arrivals)
    if not found and not estimator.__sklearn_is_fitted__():
        left = f": {_listed(arrivals)}" if arrivals.left else ""
        raise DataError(f"the folder {os.fspath(folder)!r} holds no files to learn{left}")
    for path in found:
        skip = arrivals.begun(path)
        for piece in file_batches(path, lambda: getattr(estimator, "schema_", estimator.schema)):
            n_rows = len(piece)
            if skip >= n_rows:
                skip -= n_rows
                continue
            rest, skip = piece[skip:] if skip else piece, 0
            before = getattr(estimator, "n_iter_", 0)
            try:
                estimator._partial_fit(rest, y, weight, classes)
            except DataError as error:
                error.add_note(
                    f"Row 0 is row {arrivals.begun(path):,} of {path}; those before it are learned."
                )
                raise
            finally:  # an interrupt may come after the last step
                if getattr(estimator, "n_iter_", 0) != before:
                    arrivals.learned(path, len(rest))
        arrivals.end(path)
    return estimator


def _warn(arrivals: Arrivals) -> None:
    """Say what is left for later, and what is learned once more."""
    if arrivals.left:
        warnings.warn(f"left for the next call: {_listed(arrivals)}", UserWarning, stacklevel=5)
    if arrivals.changed:
        names = ", ".join(path.name for path in arrivals.changed[:5])
        warnings.warn(
            f"replaced since they were learned, and now learned as new files: {names}. Write new"
            " rows to new files",
            UserWarning,
            stacklevel=5,
        )


def _listed(arrivals: Arrivals) -> str:
    told = [f"{path.name} ({reason})" for path, reason in arrivals.left.items()]
    return ", ".join(told[:5]) + (f" and {len(told) - 5} more" if len(told) > 5 else "")
