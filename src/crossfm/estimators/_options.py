"""Parameters of estimators, checked before any data are read; scores, checked before they leave."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from crossfm.data.relations import RelationBlock
from crossfm.errors import DataError, did_you_mean

__all__ = [
    "check_between",
    "check_blocks",
    "check_checkpoint",
    "check_count",
    "check_levels",
    "check_one_of",
    "check_options",
    "check_scores",
    "is_adaptive",
    "of_fields",
]


OTHERS = "*"  # in a dict of fields, all that are not named


def check_options(estimator: Any) -> int:
    """Check the parameters that `fit` and `partial_fit` share, and draw a seed.

    Raises:
        DataError: names the parameter, what was found and what was expected.
    """
    if hasattr(estimator, "scale_values"):
        check_one_of("scale_values", estimator.scale_values, ("auto", False))
    for name in ("warm_start", "shuffle", "deterministic"):
        if hasattr(estimator, name):
            check_one_of(name, getattr(estimator, name), (True, False))
    verbose = estimator.verbose
    check_count("verbose", int(verbose) if isinstance(verbose, bool) else verbose)
    if getattr(estimator, "n_jobs", None) is not None:
        check_count("n_jobs", estimator.n_jobs, -1)
    try:
        return int(check_random_state(estimator.random_state).randint(2**31 - 1))
    except ValueError as error:
        raise DataError(
            f"random_state is {estimator.random_state!r}, expected an integer from 0 to 2**32 - 1,"
            " a numpy.random.RandomState, or None"
        ) from error


def check_checkpoint(checkpoint: Any, random_state: Any) -> None:
    """Refuse a checkpoint whose fit could not be repeated."""
    if checkpoint is not None and not isinstance(checkpoint, str | os.PathLike):
        raise DataError(f"checkpoint is {checkpoint!r}, expected a path or None")
    if checkpoint is not None and not isinstance(random_state, int | np.integer):
        raise DataError(
            f"checkpoint needs random_state to be an integer (it is {random_state!r}):"
            " a fit that goes on has to draw the same numbers"
        )


def check_count(name: str, value: Any, least: int = 0) -> int:
    """An integer of at least `least`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise DataError(f"{name} is {value!r}, expected an integer of at least {least}")
    return number


def check_blocks(blocks: Any) -> list[RelationBlock]:
    """Relation blocks as a list, one for each key.

    Raises:
        DataError: something else, or two for one key.
    """
    if isinstance(blocks, RelationBlock):
        return [blocks]
    if blocks is None:
        return []
    if not isinstance(blocks, list | tuple):
        raise DataError(
            f"blocks is a {type(blocks).__name__}, expected RelationBlock(frame, key=...) or a list"
            " of them"
        )
    for block in blocks:
        if not isinstance(block, RelationBlock):
            raise DataError(
                f"blocks holds a {type(block).__name__}, expected RelationBlock(frame, key=...)"
            )
    pairs = [(block.key, block.column) for block in blocks]
    if len(set(pairs)) < len(pairs):
        raise DataError("blocks holds two tables of one key; join them into one")
    return list(blocks)


def check_between(name: str, value: Any, above: float, below: float = math.inf) -> float:
    """A number above one and below the other."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not above < number < below:
        limit = "" if below == math.inf else f" and below {below:g}"
        raise DataError(f"{name} is {value!r}, expected a finite number above {above:g}{limit}")
    return number


def check_levels(levels: Any) -> NDArray[np.float64]:
    """Shares above 0 and below 1, ``[n_levels]``."""
    try:
        wanted = np.atleast_1d(np.asarray(levels, np.float64))
    except (TypeError, ValueError) as error:
        raise DataError(f"levels is {levels!r}, expected numbers: {error}") from error
    for level in wanted.ravel():
        check_between("level", float(level), 0.0, 1.0)
    return wanted.ravel()


def check_one_of(name: str, value: Any, choices: Sequence[Any]) -> None:
    """One of the choices; 0 and 1 count as False and True."""
    plain = str | np.bool_ | int | np.integer
    if not any(
        value is choice or (isinstance(value, plain) and value == choice) for choice in choices
    ):
        listed = ", ".join(map(repr, choices))
        raise DataError(f"{name} is {value!r}, expected one of {listed}")


def of_fields(
    option: str, given: Any, names: Sequence[str] | None, usual: float
) -> tuple[Any, tuple[Any, ...] | None]:
    """An option that fields may have each for themselves: the number of all others, and theirs.

    Args:
        option: the parameter's name, for messages.
        given: a number, a sequence of one a field, a dict of field: number in which "*" names all
            other fields, "adaptive", or None.
        names: the fields' names; None where there is no schema.
        usual: the number where none is given.

    Returns:
        the number of what belongs to no field, or to none with a number of its own; and a tuple of
        one a field, or None where all have that number.

    Raises:
        DataError: a name that is no field's, or not one number a field.

    Example:
        >>> of_fields("l2_linear", {"item": 0.5, "*": 0.1}, ["user", "item"], 0.0)
        (0.1, (0.1, 0.5))
    """
    if given is None or is_adaptive(given):
        return usual, None
    if isinstance(given, Mapping):
        for name in given:
            if name == OTHERS:
                continue
            if names is None:
                raise DataError(f"{option} names the field {name!r}, but X has no named columns")
            if name not in names:
                hint = did_you_mean(str(name), names)
                raise DataError(
                    f"{option} names the field {name!r}.{hint} The fields are {list(names)}, and"
                    f" {OTHERS!r} stands for all others"
                )
        others = given.get(OTHERS, usual)
        return others, tuple(given.get(name, others) for name in names or ()) or None
    if not isinstance(given, list | tuple | np.ndarray):
        return given, None
    if names is not None and len(given) != len(names):
        raise DataError(
            f"{option} holds {len(given)} numbers, expected one for each of the {len(names)} fields"
            f" {list(names)}, or a dict of field: number"
        )
    return usual, tuple(given)


def is_adaptive(given: Any) -> bool:
    """Whether a penalty is to be learned on validation rows."""
    return isinstance(given, str) and given == "adaptive"


def check_scores(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores, none of which has left the numbers that float32 holds."""
    good = np.isfinite(scores)
    if not good.all():
        row = int(np.argmin(good if good.ndim == 1 else good.all(axis=1)))
        raise DataError(
            f"row {row}: the score is beyond what float32 holds, because the values of this row are"
            " far larger than those of the fit; look at its values, or clip them"
        )
    return scores
