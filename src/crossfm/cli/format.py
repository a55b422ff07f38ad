"""Numbers as people read them."""

from __future__ import annotations

__all__ = ["a_count", "a_rate", "a_share", "a_size", "a_time", "a_value", "plural"]


def a_count(n: float) -> str:
    """A whole number.

    >>> a_count(1234567)
    '1,234,567'
    """
    return f"{int(n):,}"


def plural(n: int, word: str) -> str:
    """A count and its word.

    >>> plural(1, "row"), plural(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{n:,} {word}" + ("" if n == 1 else "s")


def a_rate(per_second: float) -> str:
    """Rows a second.

    >>> a_rate(1_234_567), a_rate(45_600), a_rate(321.4)
    ('1.23 M rows/s', '45.6 k rows/s', '321 rows/s')
    """
    for unit, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if per_second >= 0.9995 * unit:
            return f"{_three(per_second / unit)} {word} rows/s"
    return f"{per_second:.0f} rows/s"


def a_size(n_bytes: float) -> str:
    """A file's size.

    >>> a_size(980), a_size(3_240_000)
    ('980 B', '3.24 MB')
    """
    for unit, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= 0.9995 * unit:
            return f"{_three(n_bytes / unit)} {word}"
    return f"{n_bytes:.0f} B"


def a_time(seconds: float) -> str:
    """A duration.

    >>> a_time(0.0123), a_time(2.345), a_time(75), a_time(7384)
    ('0.01 s', '2.3 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def a_value(x: float) -> str:
    """A metric, a loss or a score: five digits that count.

    >>> a_value(0.923456), a_value(123456.7), a_value(-0.000012345)
    ('0.92346', '1.2346e+05', '-1.2345e-05')
    """
    return f"{x:.5f}" if 0.01 <= abs(x) < 10 else f"{x:.5g}"


def a_share(part: float, whole: float) -> str:
    """A share in percent; what is not nothing never reads 0 %.

    >>> a_share(1, 8), a_share(1, 100_000), a_share(0, 5)
    ('12.5 %', '<0.1 %', '0 %')
    """
    if part == 0 or whole == 0:
        return "0 %"
    percent = 100 * part / whole
    return "<0.1 %" if percent < 0.1 else f"{percent:.3g} %"


def _three(x: float) -> str:
    """Three digits."""
    return f"{x:.2f}" if x < 9.995 else f"{x:.1f}" if x < 99.95 else f"{x:.0f}"
