"""Guessing a schema: what each column of a frame most likely is, and why it was taken so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crossfm.data.bags import read_bags
from crossfm.data.fields import Bag, Categorical, Field, Numeric
from crossfm.data.frames import missing_column
from crossfm.data.values import canonical, convert, is_list, one, plain
from crossfm.errors import DataError, SchemaError

__all__ = ["Guess", "infer"]

FEW = 32  # integers of no more distinct values are categories
ENOUGH = 50  # rows from which "all different" and "free text" mean something
MANY = 1000  # distinct values from which those seen once share the unknown id
SKEWED = 1.5  # skewness from which a scale is logarithmic


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The last word of a column's name, or the whole name, that says what its integers are.
IDS = _words(
    "id ids uid iid pid cid sid gid key code zip zipcode postcode postal hash user item movie film"
    " product sku article song track artist album book video ad ads banner campaign advertiser"
    " publisher site page url query category brand store shop seller customer client member"
    " session device app application city country region state province location venue place"
    " channel group cluster segment label class type kind status flag model author"
)
QUANTITIES = _words(
    "age price cost amount amt count counts cnt num n number qty quantity total sum avg mean rate"
    " ratio score duration length size width height weight distance income salary revenue balance"
    " budget votes views clicks likes impressions minutes seconds days hours pct percent fare"
    " temperature population area rank position popularity"
)
TIMES = _words("time timestamp ts datetime date unixtime epoch at on created updated")
ROW_IDS = _words("id index idx row rowid rownum key unnamed uuid guid number no nr")
# Criteo's convention, common for anonymous columns: C1 ... are categories, I1 ... counts.
CATEGORY_NAME = re.compile(r"(c|cat|categorical)_?\d+$", re.IGNORECASE)
NUMBER_NAME = re.compile(r"(i|int|n|num|numeric|numerical|dense)_?\d+$", re.IGNORECASE)


class Guess(NamedTuple):
    """What was made of one column, and why. Kind ``"left out"``: no field."""

    name: str
    kind: str
    reason: str


class _LeftOut(Exception):
    """The reason why a column makes no field."""


def infer(table: pa.Table, exclude: Sequence[str] = ()) -> tuple[list[Field], list[Guess]]:
    """Fields for the columns of a table, and a guess for each column with the reason.

    Raises:
        SchemaError: an excluded column that is not there, or no column of any use.
        DataError: no rows.
    """
    for name in exclude:
        if name not in table.column_names:
            raise missing_column(name, table.column_names)
    if table.num_rows == 0:
        raise DataError("the frame has no rows to infer a schema from")
    fields: list[Field] = []
    guesses = []
    for name in table.column_names:
        if name in exclude:
            continue
        try:
            field, reason = _guess(table.column(name), name)
        except _LeftOut as left_out:
            guesses.append(Guess(name, "left out", str(left_out)))
        else:
            fields.append(field)
            guesses.append(Guess(name, type(field).__name__.lower(), reason))
    if not fields:
        told = "; ".join(f"{guess.name!r}: {guess.reason}" for guess in guesses)
        raise SchemaError(
            f"no column is of use as it stands ({told or 'all are excluded'});"
            " say what the columns are with Schema([...])"
        )
    return fields, guesses


def _guess(column: pa.ChunkedArray, name: str) -> tuple[Field, str]:
    """The field that a column makes, with the reason; or _LeftOut."""
    if not name:
        raise _LeftOut("it has no name")
    try:
        column = plain(column, name)
    except SchemaError as error:
        raise _LeftOut(str(error).removeprefix(f"column {name!r} ")) from error
    kind = column.type
    types = pa.types
    if column.null_count == len(column):
        raise _LeftOut("all values are missing")
    if is_list(kind):
        return _of_lists(column, name)
    if types.is_temporal(kind):
        raise _LeftOut("dates and times; derive the hour, the weekday or an age in days from it")
    if types.is_boolean(kind):
        _distinct(one(column))
        return Categorical(name), "yes or no"
    if types.is_large_string(kind):
        return _of_strings(one(column), name)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return _of_numbers(column, name)
    raise _LeftOut(f"it holds {kind}")


# --- lists --------------------------------------------------------------------------------------


def _of_lists(column: pa.ChunkedArray, name: str) -> tuple[Field, str]:
    try:
        bags = read_bags(column, name, None)
    except SchemaError as error:
        raise _LeftOut("lists of lists") from error
    try:
        values = canonical(bags.values, name)
    except SchemaError as error:
        raise _LeftOut(f"lists of {bags.values.type}") from error
    except DataError as error:  # infinity, so floats
        raise _LeftOut("lists of numbers, not of categories") from error
    if values.kind is None:
        raise _LeftOut("all lists are empty")
    if values.kind == "float":
        raise _LeftOut("lists of numbers with fractions, not of categories")
    distinct = pc.count_distinct(values.array).as_py()
    longest = int(bags.lengths.max())
    return Bag(name), f"lists of up to {longest:,}, {distinct:,} distinct values"


# --- strings ------------------------------------------------------------------------------------


def _of_strings(array: pa.Array, name: str) -> tuple[Field, str]:
    kind, array = canonical(array, name)
    if kind is None:
        raise _LeftOut("all values are missing")
    _distinct(array)
    array = array.drop_null()
    rows = len(array)
    counted = pc.value_counts(array)
    unique, counts = counted.field(0), counted.field(1)
    separated = _separator(unique, name)
    if separated is not None:
        return separated
    distinct = len(unique)
    parsed = convert(canonical(unique, name), "float")
    fractions = parsed.null_count == 0 and convert(canonical(unique, name), "int").null_count
    if fractions and not CATEGORY_NAME.search(name):
        return Numeric(name, _scale(parsed.to_numpy())), "strings of numbers with fractions"
    if rows >= ENOUGH and distinct > 0.95 * rows:
        words = float(pc.mean(pc.count_substring_regex(unique, r"\S+")).as_py())
        what = "text" if words > 1.5 else "names or identifiers"
        if distinct == rows or not _says(name, IDS):
            raise _LeftOut(f"{what}, nearly all different ({distinct:,} of {rows:,})")
    return _category(name, counts, rows, "strings")


def _separator(unique: pa.Array, name: str) -> tuple[Field, str] | None:
    """A bag, where distinct strings are several values each, and values return among them."""
    for sep in ("|", ";", ","):
        with_sep = pc.sum(pc.match_substring(unique, sep)).as_py() or 0
        if with_sep < max(1, 0.05 * len(unique)):
            continue
        bags = read_bags(unique, name, sep)
        tokens = pc.value_counts(bags.values)
        if len(tokens) < 2 or bags.lengths.min() == bags.lengths.max():
            continue  # always as many: a record such as "Paris, France"
        repeats = len(bags.values) / len(tokens)
        words = float(pc.mean(pc.count_substring_regex(bags.values, r"\S+")).as_py())
        if repeats < (2.0 if sep == "," else 1.5) or words > 3.0:
            continue
        longest = int(bags.lengths.max())
        reason = f"up to {longest} values between {sep!r}, {len(tokens):,} distinct"
        return Bag(name, sep=sep), reason
    return None


# --- numbers ------------------------------------------------------------------------------------


def _of_numbers(column: pa.ChunkedArray, name: str) -> tuple[Field, str]:
    try:
        kind, array = canonical(column, name)
    except DataError:  # infinity: fit names the row
        return Numeric(name), "numbers"
    if kind is None:
        raise _LeftOut("all values are missing")
    if kind == "float":
        x = array.drop_null().to_numpy()
        _distinct(array)
        return _numeric(name, x, "numbers with fractions")
    _distinct(array)
    missing = array.null_count
    array = array.drop_null()
    rows = len(array)
    counted = pc.value_counts(array)
    distinct = len(counted)
    x = array.to_numpy()
    low, high = int(x.min()), int(x.max())
    if _says(name, TIMES) and _unix_time(low, high):
        raise _LeftOut("times in seconds; derive the hour, the weekday or an age in days from it")
    if rows >= ENOUGH and distinct == rows:
        gapless = high - low + 1 == rows and not missing
        if gapless or _says(name, ROW_IDS) or _says(name, IDS):
            raise _LeftOut(f"a number of the row: all different ({rows:,})")
    counts = counted.field(1)
    if CATEGORY_NAME.search(name):
        return _category(name, counts, rows, "integers, name says category")
    if _says(name, IDS) and not _says(name, QUANTITIES):
        return _category(name, counts, rows, "integers, name says id")
    if distinct > 2 and (_says(name, QUANTITIES) or NUMBER_NAME.search(name)):
        return _numeric(name, x, "integers, name says quantity")
    if distinct <= FEW:
        return _category(name, counts, rows, "integers of few values")
    if (
        distinct > 200
        and low in (0, 1)
        and high - low + 1 <= 1.25 * distinct
        and rows > 2 * distinct
    ):
        return _category(name, counts, rows, "integers without gaps, as ids are")
    return _numeric(name, x, "integers of many values")


def _numeric(name: str, x: NDArray[Any], what: str) -> tuple[Field, str]:
    scale = _scale(x.astype(np.float64))
    return Numeric(name, scale), what + (", long tail" if scale == "log" else "")


def _scale(x: NDArray[np.float64]) -> Any:
    """Logarithmic where a distribution of (all but) no negative numbers has a long tail."""
    largest = float(np.abs(x).max())
    if largest == 0 or x.min() < -0.05 * x.max():
        return "standard"
    z = x / largest
    z = z - z.mean()
    std = z.std()
    skewness = float((z**3).mean() / std**3) if std > 1e-12 else 0.0
    return "log" if skewness > SKEWED else "standard"


def _unix_time(low: int, high: int) -> bool:
    """Whether all lie between 1973 and 2100 in seconds, milli-, micro- or nanoseconds."""
    return any(
        10**8 * unit <= low and high <= 41 * 10**8 * unit for unit in (1, 10**3, 10**6, 10**9)
    )


# --- shared -------------------------------------------------------------------------------------


def _category(name: str, counts: pa.Array, rows: int, what: str) -> tuple[Field, str]:
    distinct = len(counts)
    reason = f"{what}, {distinct:,} distinct"
    once = int(pc.sum(pc.equal(counts, 1)).as_py() or 0)
    if rows >= ENOUGH and distinct > 0.95 * rows:
        return Categorical(name), f"{reason} of {rows:,}: nearly all different, of little use"
    if distinct > MANY and once > 0.5 * distinct:
        share = f"{once:,} seen once share the unknown id"
        return Categorical(name, min_count=2), f"{reason}; {share}"
    return Categorical(name), reason


def _distinct(array: pa.Array) -> None:
    """Leave out a column of one value, unless the other rows are missing: that tells them apart."""
    if array.null_count == 0 and pc.count_distinct(array).as_py() == 1:
        raise _LeftOut(f"constant: always {array[0].as_py()!r}")


def _says(name: str, words: frozenset[str]) -> bool:
    """Whether the name, or its last word, is one of the words: user_id, movieId, ZIP."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return name.lower() in words or (bool(parts) and parts[-1].lower() in words)
