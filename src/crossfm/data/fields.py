"""The kinds of field that a schema is made of: what the user says about a column."""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

from crossfm.errors import SchemaError, did_you_mean

__all__ = ["KINDS", "Bag", "Categorical", "Field", "Numeric", "Pooling", "Scale"]

Scale: TypeAlias = Literal["standard", "log", "bucket", "raw"]
Pooling: TypeAlias = Literal["sum", "mean", "sqrtn"]
SCALES = ("standard", "log", "bucket", "raw")
POOLINGS = ("sum", "mean", "sqrtn")


@dataclass(frozen=True, slots=True)
class Categorical:
    """One of many values a row: user, item, country. A lookup with ``x_i = 1``.

    Args:
        name: the column.
        min_count: values seen less often while fitting share the field's unknown id, which
            thereby learns what a rare value is like.
        hash_buckets: None: a vocabulary of the values seen. A number: values are hashed into
            that many ids, nothing is kept of them, and new values need no growth.

    Integers, strings, booleans, dates and floats can be values; 1, 1.0 and "1" are the same
    one. Null, NaN and the empty string are missing. Missing and unknown values share one id.

    Example:
        >>> Categorical("user", min_count=2)
        Categorical('user', min_count=2)
    """

    name: str
    min_count: int = 1
    hash_buckets: int | None = None

    def __post_init__(self) -> None:
        _check_name("Categorical", self.name)
        _check_vocabulary(self)

    def __repr__(self) -> str:
        return _constructor(self)


@dataclass(frozen=True, slots=True)
class Numeric:
    r"""A number a row: age, price, count.

    Args:
        name: the column.
        scale: what becomes of a value x.

            - ``"standard"``: ``(x - mean) / std``
            - ``"log"``: the same of ``sign(x) log(1 + |x|)``; for counts, prices, long tails
            - ``"bucket"``: one of `n_buckets` ids, split at the quantiles; for effects that
              are not linear
            - ``"raw"``: x as it is
        n_buckets: ids of ``scale="bucket"``, at least 2; fewer where values repeat.

    Mean, deviation and quantiles are those of the rows fitted first. Null and NaN are
    missing: they have an id of their own, at ``x_i = 1``.

    Example:
        >>> Numeric("price", scale="log")
        Numeric('price', scale='log')
    """

    name: str
    scale: Scale = "standard"
    n_buckets: int = 32

    def __post_init__(self) -> None:
        _check_name("Numeric", self.name)
        _check_choice(self, "scale", SCALES)
        _check_count(self, "n_buckets", 2)

    def __repr__(self) -> str:
        return _constructor(self)


@dataclass(frozen=True, slots=True)
class Bag:
    r"""Any number of values a row: genres, tags, the last items seen.

    Args:
        name: the column, of lists, or of strings to be split at `sep`.
        sep: the separator, such as ``"|"``; blanks around values are dropped, and so are
            empty values.
        pooling: the weight of each of n values, with w = 1 without a `weights` column.

            - ``"sum"``: ``x_i = w_i``
            - ``"mean"``: ``x_i = w_i / sum(w)``
            - ``"sqrtn"``: ``x_i = w_i / sqrt(sum(w^2))``
        weights: a column of as many numbers a row as there are values.
        min_count: as in `Categorical`.
        hash_buckets: as in `Categorical`.

    A value that stands twice in a bag gets the sum of its weights. A null bag is the field's
    unknown id, an empty bag adds nothing to the row.

    Example:
        >>> Bag("genres", sep="|", pooling="mean")
        Bag('genres', sep='|', pooling='mean')
    """

    name: str
    sep: str | None = None
    pooling: Pooling = "sum"
    weights: str | None = None
    min_count: int = 1
    hash_buckets: int | None = None

    def __post_init__(self) -> None:
        _check_name("Bag", self.name)
        if self.sep is not None and (not isinstance(self.sep, str) or not self.sep):
            raise SchemaError(f"Bag({self.name!r}): sep is {self.sep!r}, expected a string or None")
        if self.weights is not None and (not isinstance(self.weights, str) or not self.weights):
            raise SchemaError(
                f"Bag({self.name!r}): weights is {self.weights!r}, expected a column's name or None"
            )
        _check_choice(self, "pooling", POOLINGS)
        _check_vocabulary(self)

    def __repr__(self) -> str:
        return _constructor(self)


Field: TypeAlias = Categorical | Numeric | Bag
KINDS = {"categorical": Categorical, "numeric": Numeric, "bag": Bag}  # as files name them


def _constructor(field: Field) -> str:
    """The call that makes the field, defaults left out."""
    parts = [repr(field.name)]
    for name, default in type(field).__dataclass_fields__.items():
        value = getattr(field, name)
        if name != "name" and value != default.default:
            parts.append(f"{name}={value!r}")
    return f"{type(field).__name__}({', '.join(parts)})"


def _check_name(kind: str, name: object) -> None:
    if not isinstance(name, str) or not name:
        raise SchemaError(f"{kind}({name!r}): the first argument is a column's name, a string")


def _check_choice(field: Field, option: str, choices: Collection[str]) -> None:
    value = getattr(field, option)
    if value not in choices:
        raise SchemaError(
            f"{type(field).__name__}({field.name!r}): {option} is {value!r}, expected one of"
            f" {', '.join(map(repr, choices))}.{did_you_mean(value, choices)}"
        )


def _check_count(field: Field, option: str, least: int) -> None:
    value = getattr(field, option)
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or number >= 2**62:
        raise SchemaError(
            f"{type(field).__name__}({field.name!r}): {option} is {value!r}, expected an integer"
            f" of at least {least}"
        )
    object.__setattr__(field, option, number)


def _check_vocabulary(field: Categorical | Bag) -> None:
    _check_count(field, "min_count", 1)
    if field.hash_buckets is not None:
        _check_count(field, "hash_buckets", 1)
        if field.min_count > 1:
            raise SchemaError(
                f"{type(field).__name__}({field.name!r}): min_count={field.min_count} has no"
                " meaning with hash_buckets, which keep no values to count; leave one out"
            )
