"""A slow parser of libsvm and libffm text, in exact arithmetic; judges crossfm.data.text."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from crossfm.data.rows import Rows

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
SPACES = " \t\r\v\f"
OVERFLOW = Fraction(2**128 - 2**103)  # half way from the largest float32 to the next


def nearest_float32(number: str) -> float | None:
    """The float32 nearest to a decimal number, ties to even; None where it is infinite."""
    digits, _, exponent = number.lower().lstrip("+-").partition("e")
    whole, _, fraction = digits.partition(".")
    leading = (whole + fraction).lstrip("0")
    magnitude = len(leading) - len(fraction) + int(exponent or 0)  # decimal digits before the point
    if not leading or magnitude < -50:
        size = Fraction(0)
    elif magnitude > 50 or (size := abs(Fraction(number))) >= OVERFLOW:
        return None
    low = np.float32(0)
    if size:
        # the largest float32 that is not above it, bit by bit
        bits = 0
        for bit in reversed(range(31)):
            tried = np.uint32(bits | 1 << bit).view(np.float32)
            if np.isfinite(tried) and Fraction(float(tried)) <= size:
                bits |= 1 << bit
        low = np.uint32(bits).view(np.float32)
        high = np.uint32(bits + 1).view(np.float32)
        middle = OVERFLOW if np.isinf(high) else (Fraction(float(low)) + Fraction(float(high))) / 2
        if size > middle or (size == middle and bits % 2):
            low = high
    return -float(low) if number.startswith("-") else float(low)


def oracle(content: str, with_fields: bool = False):
    """Rows as (target, [(field, id, value)]), or the number of the first malformed line."""
    rows = []
    for line_number, line in enumerate(content.split("\n"), start=1):
        tokens = re.split(f"[{SPACES}]+", line.split("#", 1)[0].strip(SPACES))
        if tokens == [""]:
            continue
        label, *features = tokens
        if not NUMBER.fullmatch(label) or nearest_float32(label) is None:
            return line_number
        row = []
        for token in features:
            *whole, value = token.split(":")
            if len(whole) != 1 + with_fields or not all(re.fullmatch(r"\d+", w) for w in whole):
                return line_number
            if not NUMBER.fullmatch(value) or nearest_float32(value) is None:
                return line_number
            numbers = [int(w) for w in whole]
            if numbers[-1] >= 2**63 or (with_fields and numbers[0] >= 2**31):
                return line_number
            row.append((numbers[0] if with_fields else None, numbers[-1], nearest_float32(value)))
        rows.append((nearest_float32(label), row))
    return rows


def as_lists(rows: Rows):
    values = np.ones(rows.nnz, np.float32) if rows.values is None else rows.values
    fields = [None] * rows.nnz if rows.fields is None else rows.fields.tolist()
    flat = list(zip(fields, rows.ids.tolist(), values.tolist(), strict=True))
    ends = rows.row_offsets()
    return [(target, flat[ends[r] : ends[r + 1]]) for r, target in enumerate(rows.targets.tolist())]


def same(a: Rows, b: Rows) -> None:
    """The same rows, however the two hold them."""
    assert len(a) == len(b)
    assert (a.ids == b.ids).all()
    assert (a.row_offsets() == b.row_offsets()).all()
    assert as_lists(a) == as_lists(b)
