"""Single Python values as categories and numbers, by the same rules as columns of Arrow.

What `crossfm.data.values` does for columns, one value at a time and without Arrow: so that 1, 1.0,
"1" and "1.0" are one category wherever the known ones are integers.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np

from crossfm.errors import DataError, SchemaError

__all__ = ["Known", "as_kind", "known", "number", "text_of"]

Known: TypeAlias = bool | int | float | str | datetime.datetime | None

INTEGER = re.compile(r"\s*([+-]?)0*([0-9]{1,37})(\.0*)?\s*", re.ASCII)
NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*", re.ASCII)
DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M")
EPOCH = datetime.datetime(1970, 1, 1)
EXACT_FLOAT = 2**53
PLAIN_EXPONENTS = range(-6, 15)  # decimals between are written without an exponent


def known(value: Any, name: str) -> Known:
    """A value as a bool, an int, a float that is not whole, a string or a time of UTC.

    None: missing, as are NaN and the empty string.

    Raises:
        SchemaError: lists, mappings, durations: nothing that could be one category.
        DataError: infinity, or an integer beyond 64 bits.
    """
    kind = type(value)
    if kind is str:
        return value or None
    if kind is int:
        if not -(2**63) <= value < 2**64:
            raise DataError(f"column {name!r}: {value} is beyond 64 bits; make it a string")
        return value
    if value is None or kind is bool:
        return value
    if kind is float:
        return _known_float(value, name)
    if isinstance(value, np.generic):
        return _known_scalar(value, name)
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            value = value.astimezone(datetime.UTC).replace(tzinfo=None)
        return value
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day)
    if isinstance(value, datetime.time | Decimal):
        return known(str(value), name)
    if isinstance(value, str | int | float):  # a subclass
        plain = next(base for base in (str, int, float) if isinstance(value, base))
        return known(plain(value), name)
    if isinstance(value, list | tuple | set | np.ndarray):
        raise SchemaError(
            f"column {name!r} holds lists, expected one value a row; use Bag({name!r})"
        )
    raise SchemaError(
        f"column {name!r} holds {kind.__name__}, expected integers, strings, booleans, dates or"
        " numbers; convert it, or leave it out"
    )


def _known_float(value: float, name: str) -> Known:
    if math.isnan(value):
        return None
    if math.isinf(value):
        raise DataError(
            f"column {name!r}: the value is {value}, expected a finite number; clip it, or make it"
            " missing (NaN)"
        )
    return int(value) if value.is_integer() and abs(value) < 2.0**63 else value


def _known_scalar(value: Any, name: str) -> Known:
    if isinstance(value, np.datetime64):
        if np.isnat(value):
            return None
        return EPOCH + datetime.timedelta(microseconds=int(value.astype("M8[us]").astype(np.int64)))
    if isinstance(value, np.floating) and value.dtype.itemsize != 8:
        return known(float(str(value)), name)  # 0.1 of 32 bits is the 0.1 that it prints as
    return known(value.item(), name)


def as_kind(value: Known, kind: str, name: str) -> Known:
    """A known value as the kind of a vocabulary; None where it has no equal of that kind.

    Raises:
        SchemaError: a date where the vocabulary has something else, or the other way round.
    """
    if value is None:
        return None
    is_date = isinstance(value, datetime.datetime)
    if is_date != (kind == "datetime") and not (isinstance(value, str) or kind == "string"):
        raise SchemaError(
            f"column {name!r} holds {text_of(value)!r}, expected"
            f" {'a date' if kind == 'datetime' else f'a value of kind {kind}'} as in the rows the"
            " schema was fitted to"
        )
    if is_date and kind == "string":
        raise SchemaError(
            f"column {name!r} holds dates such as {text_of(value)!r}, expected strings as in the"
            " rows the schema was fitted to; convert the column"
        )
    return _CONVERT[kind](value)


def _as_int(value: Any) -> int | None:
    if isinstance(value, str):
        found = INTEGER.fullmatch(value)
        value = int(found[1] + found[2]) if found else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    return None if value is None else int(value)


def _as_signed(value: Any) -> int | None:
    whole = _as_int(value)
    return whole if whole is not None and -(2**63) <= whole < 2**63 else None


def _as_unsigned(value: Any) -> int | None:
    whole = _as_int(value)
    return whole if whole is not None and 0 <= whole < 2**64 else None


def _as_float(value: Any) -> float | None:
    if isinstance(value, str):
        parsed = float(value) if NUMBER.fullmatch(value) else math.nan
        return parsed + 0.0 if math.isfinite(parsed) else None
    if isinstance(value, int) and abs(value) > EXACT_FLOAT:
        return None
    return float(value) + 0.0


def _as_bool(value: Any) -> bool | None:
    if isinstance(value, str):
        word = value.strip().lower()
        return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(
            word
        )
    return bool(value) if value in (0, 1) else None


def _as_date(value: Any) -> datetime.datetime | None:
    if isinstance(value, datetime.datetime):
        return value
    for form in DATES:
        try:
            return datetime.datetime.strptime(value.strip(), form)
        except ValueError:
            continue
    return None


def text_of(value: Any) -> str:
    """The text of a known value: 42, 1.5, true, 2024-01-31, 2024-01-31 18:30:00."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _decimal(value)
    if isinstance(value, datetime.datetime):
        days = value.time() == datetime.time()
        return str(value.date()) if days else str(value)
    return str(value)


def _decimal(value: float) -> str:
    """The shortest decimal, with an exponent where Arrow writes one."""
    if value.is_integer() and -(2.0**63) <= value < 2.0**63:
        return str(int(value))
    sign, digits, _ = Decimal(repr(value)).as_tuple()
    first = Decimal(repr(value)).adjusted()
    shown = "".join(map(str, digits)).rstrip("0") or "0"
    minus = "-" if sign else ""
    if first in PLAIN_EXPONENTS:
        return minus + format(abs(Decimal(repr(value))), "f").rstrip("0").rstrip(".")
    rest = f".{shown[1:]}" if len(shown) > 1 else ""
    return f"{minus}{shown[0]}{rest}e{first:+d}"


_CONVERT: dict[str, Callable[[Any], Known]] = {
    "bool": _as_bool,
    "int": _as_signed,
    "uint": _as_unsigned,
    "float": _as_float,
    "string": text_of,
    "datetime": _as_date,
}


def number(value: Any, name: str) -> float:
    """A value of a numeric column, NaN where it is missing. Strings of numbers are read.

    Raises:
        SchemaError: something else than a number.
        DataError: infinity.
    """
    if value is None:
        return math.nan
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        if not value.strip() or value.lower() == "nan":
            return math.nan
        if not NUMBER.fullmatch(value):
            raise SchemaError(
                f"column {name!r} holds {value[:40]!r}, expected a number; declare it"
                f" Categorical({name!r}), or convert it"
            )
    elif not isinstance(value, bool | int | float | Decimal):
        words = "a list" if isinstance(value, list | tuple | np.ndarray) else type(value).__name__
        raise SchemaError(f"column {name!r} holds {words}, expected a number")
    try:
        x = float(value)
    except OverflowError:
        x = math.inf
    if math.isinf(x):
        raise DataError(
            f"column {name!r}: the value is {str(value)[:40]}, expected a finite number; clip it,"
            " or make it missing (NaN)"
        )
    return x
