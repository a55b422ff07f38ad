r"""A synthetic click log: Zipf-distributed ids over 39 fields, labels drawn from a planted FM.

No row of it is real. It has the shape of the public display-advertising logs (13 small fields,
26 with up to half a million values, one click in four rows) and one thing that they lack: the
click probability of every row is known, so a model's log loss can be held against the best
that any model can reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ClickLog", "iter_click_log", "make_click_log"]

N_SMALL = 13
N_LARGE = 26
BLOCK = 8192  # rows drawn from one stream; a log is the same however it is cut
ZIPF = 1.05  # exponent: the hottest 1,024 of 1.5 M features hold about 70% of all touches
CELL_BITS = 12  # quantile table of 4,096 cells a field: stays in the first-level cache
RANK_BITS = 12  # fixed-point digits of a rank behind the binary point
CALIBRATION_ROWS = 4 * BLOCK

# One stream of random numbers a purpose, so that none depends on how much of another was used.
PLANTED, CALIBRATION, FEATURES, LABELS = range(4)


class ClickLog:
    r"""A click log without end: any stretch of its rows can be made, in any order.

    Row ``r`` holds one feature of each of 39 fields: 13 with 3 to 100 values, 26 with 32 to
    `max_values`. Within a field the value of rank ``j = 1, 2, ...`` has a probability in
    proportion to ``j ** -1.05``. Labels are drawn from an FM planted on the same features::

        P(click) = sigmoid(w0 + sum_i w_i + sum_{i<j} <v_i, v_j>)

    whose linear and pairwise parts are scaled to standard deviations of `linear_scale` and
    `pairwise_scale`, and whose bias makes the mean click probability `click_rate`.

    Args:
        n_factors: length k of the planted vectors.
        seed: another seed, another planted model and other rows.
        max_values: number of values of the largest field, at least 2. The default makes
            1,560,818 features in all.
        click_rate: mean click probability, between 0 and 1.
        linear_scale: standard deviation of the linear part of the logit.
        pairwise_scale: standard deviation of the pairwise part of the logit.

    Attributes:
        n_features: number of feature ids; ids of a field are contiguous, by falling frequency.
        field_names: ``I1 .. I13, C1 .. C26``.
        field_sizes: number of values of each field, int64 ``[39]``.
        field_of: field of each feature id, int32 ``[n_features]``.
        bias, weights, factors: the planted FM, float, float32 ``[n_features]`` and
            ``[n_features, k]``.

    Example:
        >>> log = ClickLog(max_values=1000)
        >>> train, test = log.rows(2000), log.rows(1000, start=2000)
        >>> len(train), train.row_length, log.n_features
        (2000, 39, 7944)
        >>> bool((log.rows(10).ids == train[:10].ids).all())
        True
    """

    def __init__(
        self,
        *,
        n_factors: int = 8,
        seed: int = 0,
        max_values: int = 500_000,
        click_rate: float = 0.25,
        linear_scale: float = 1.0,
        pairwise_scale: float = 1.0,
    ) -> None:
        for name, number, least in (
            ("n_factors", n_factors, 1),
            ("seed", seed, 0),
            ("max_values", max_values, 2),
        ):
            if int(number) != number or number < least:
                raise DataError(f"{name} must be an integer of at least {least}, got {number!r}")
        if max_values > 100_000_000:
            raise DataError(f"max_values must be at most 100,000,000, got {max_values}")
        if not 0.0 < click_rate < 1.0:
            raise DataError(f"click_rate must lie between 0 and 1, got {click_rate!r}")
        if not (linear_scale >= 0.0 and pairwise_scale >= 0.0):
            raise DataError(
                "linear_scale and pairwise_scale must not be negative,"
                f" got {linear_scale!r} and {pairwise_scale!r}"
            )
        self.n_factors = int(n_factors)
        self.seed = int(seed)
        self.max_values = int(max_values)
        self.click_rate = float(click_rate)
        self.field_sizes = _field_sizes(self.max_values)  # [39]
        self.field_names = [f"I{j + 1}" for j in range(N_SMALL)]
        self.field_names += [f"C{j + 1}" for j in range(N_LARGE)]
        self.n_features = int(self.field_sizes.sum())
        self._starts = np.concatenate(([0], np.cumsum(self.field_sizes)[:-1]))  # [39]
        self._quantiles = np.stack([_zipf_quantiles(int(n)) for n in self.field_sizes])
        self._steps = np.diff(self._quantiles, axis=1)  # [39, cells]
        self._plant(float(linear_scale), float(pairwise_scale))

    @property
    def field_of(self) -> NDArray[np.int32]:
        """Field of each feature id, ``[n_features]``."""
        return np.repeat(np.arange(self.field_sizes.size, dtype=np.int32), self.field_sizes)

    def rows(self, n_rows: int, *, start: int = 0) -> Rows:
        """Rows ``start .. start + n_rows`` of the log, with clicks 0/1 as targets.

        Returns:
            Rows with int32 ids, 39 a row, values and offsets None.
        """
        _expect_stretch(start, n_rows)
        ids = np.empty((n_rows, self.field_sizes.size), dtype=np.int32)
        targets = np.empty(n_rows, dtype=np.float32)
        for part, block, inside in _blocks(start, n_rows):
            drawn = self._draw(FEATURES, block)
            ids[part] = drawn.T[inside]
            clicks = self._uniform(LABELS, block, BLOCK) < _sigmoid(self._logits(drawn))
            targets[part] = clicks[inside]
        return Rows(ids, targets=targets)

    def batches(self, n_rows: int, batch_rows: int, *, start: int = 0) -> Iterator[Rows]:
        """The same rows in batches of `batch_rows`, the last one shorter."""
        if batch_rows < 1:
            raise DataError(f"batch_rows must be at least 1, got {batch_rows}")
        for at in range(start, start + n_rows, batch_rows):
            yield self.rows(min(batch_rows, start + n_rows - at), start=at)

    def logits(self, rows: Rows) -> NDArray[np.float32]:
        """Planted score of rows of this log, ``[n]``."""
        ids = rows.ids.reshape(len(rows), -1)
        out = np.empty(len(rows), dtype=np.float32)
        for at in range(0, len(rows), BLOCK):
            out[at : at + BLOCK] = self._logits(ids[at : at + BLOCK].T)
        return out

    def probabilities(self, rows: Rows) -> NDArray[np.float64]:
        """True click probability of rows of this log, ``[n]``."""
        return _sigmoid(self.logits(rows))

    def bayes_log_loss(self, rows: Rows) -> float:
        """Expected log loss of the true probabilities: no model does better on such rows."""
        p = self.probabilities(rows)
        return float(-np.mean(p * np.log(p) + (1.0 - p) * np.log1p(-p)))

    def table(self, n_rows: int, *, start: int = 0) -> pa.Table:
        """The same rows as raw columns, for pipelines that begin with a table.

        Returns:
            An Arrow table with `label` (int8), ``I1 .. I13`` (int32) and ``C1 .. C26``
            (strings of eight hexadecimal digits, each standing for one value of its field).
        """
        return self.to_table(self.rows(n_rows, start=start))

    def to_table(self, rows: Rows) -> pa.Table:
        """Raw columns of rows of this log; see `table`."""
        import pyarrow as pa

        if rows.targets is None:
            raise DataError("the rows have no targets")
        ranks = rows.ids.reshape(len(rows), -1).T - self._starts[:, None].astype(np.int32)
        columns: dict[str, Any] = {"label": pa.array(rows.targets.astype(np.int8))}
        for field, name in enumerate(self.field_names):
            if field < N_SMALL:
                columns[name] = pa.array(np.ascontiguousarray(ranks[field]))
            else:
                columns[name] = _hex_strings(_scramble(ranks[field], field))
        return pa.table(columns)

    def _plant(self, linear_scale: float, pairwise_scale: float) -> None:
        """Draw the planted FM and scale its two parts on rows that the log never holds."""
        self.weights = np.empty(self.n_features, dtype=np.float32)
        self.factors = np.empty((self.n_features, self.n_factors), dtype=np.float32)
        for field, (start, size) in enumerate(zip(self._starts, self.field_sizes, strict=True)):
            here = slice(int(start), int(start + size))
            normal = _normal(self._stream(PLANTED, field), int(size) * (self.n_factors + 1))
            self.weights[here] = normal[:size]
            self.factors[here] = normal[size:].reshape(int(size), self.n_factors)
        self.bias = 0.0
        squares = np.einsum("ik,ik->i", self.factors, self.factors)  # [n_features]
        sample = [self._draw(CALIBRATION, b) for b in range(CALIBRATION_ROWS // BLOCK)]

        self._gathered = self.weights
        linear = np.concatenate([self._sums(ids)[0] for ids in sample])
        self._gathered = np.float32(-0.5) * squares
        pairwise = np.concatenate([self._logits(ids) for ids in sample])
        by_linear = linear_scale / max(float(linear.std(dtype=np.float64)), 1e-12)
        by_pairwise = pairwise_scale / max(float(pairwise.std(dtype=np.float64)), 1e-12)

        self.weights *= np.float32(by_linear)
        self.factors *= np.float32(np.sqrt(by_pairwise))
        self._gathered = self.weights + np.float32(by_pairwise) * self._gathered
        logits = by_linear * linear.astype(np.float64) + by_pairwise * pairwise
        self.bias = _bias_for(logits, self.click_rate)

    def _logits(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Planted score of ids [39, rows].

        With u_i = w_i - |v_i|^2 / 2 in `_gathered`: y = w0 + sum_i u_i + |S|^2 / 2.
        """
        u, S = self._sums(ids)
        for k in range(self.n_factors):  # in this order on every machine
            u += np.float32(0.5) * S[:, k] * S[:, k]
        return u + np.float32(self.bias)

    def _sums(self, ids: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        u = np.zeros(ids.shape[1], dtype=np.float32)  # [rows]
        S = np.zeros((ids.shape[1], self.n_factors), dtype=np.float32)  # [rows, k]
        for of_field in ids:
            u += self._gathered.take(of_field)
            S += self.factors.take(of_field, axis=0)
        return u, S

    def _draw(self, purpose: int, block: int) -> NDArray[np.int32]:
        """Feature ids of one block, [39, BLOCK]."""
        raw = self._stream(purpose, block).random_raw(self.field_sizes.size * BLOCK // 2)
        bits = raw.view(np.uint32).reshape(-1, BLOCK)
        ids = np.empty(bits.shape, dtype=np.int32)
        low_bits = 32 - CELL_BITS
        for field, drawn in enumerate(bits):
            cell = drawn >> np.uint32(low_bits)
            place = (drawn & np.uint32((1 << low_bits) - 1)).astype(np.int64)
            place *= self._steps[field].take(cell)
            place >>= low_bits
            place += self._quantiles[field].take(cell)
            place >>= RANK_BITS
            place += self._starts[field]
            ids[field] = place
        return ids

    def _uniform(self, purpose: int, block: int, n: int) -> NDArray[np.float64]:
        """Numbers in [0, 1) with 53 bits, [n]."""
        raw: NDArray[np.uint64] = self._stream(purpose, block).random_raw(n)
        return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _stream(self, purpose: int, block: int) -> np.random.SFC64:
        return np.random.SFC64(np.random.SeedSequence([self.seed, purpose, block]))


def make_click_log(
    n_rows: int,
    *,
    start: int = 0,
    n_factors: int = 8,
    seed: int = 0,
    max_values: int = 500_000,
    click_rate: float = 0.25,
) -> Rows:
    """Rows of a synthetic click log: 39 Zipf-distributed ids each, clicks from a planted FM.

    The first rows of a longer log are the same rows, so a test part is what follows the
    training part; both share the ids.

    Args:
        n_rows: number of rows.
        start: first row.
        n_factors: length of the planted vectors.
        seed: another seed, another planted model and other rows.
        max_values: number of values of the largest field.
        click_rate: mean click probability.

    `ClickLog` also gives the fields, the raw columns and the true click probabilities.

    Example:
        >>> train = make_click_log(1000, max_values=100)
        >>> test = make_click_log(500, start=1000, max_values=100)
        >>> train.ids.shape, test.targets.shape
        ((39000,), (500,))
    """
    log = ClickLog(n_factors=n_factors, seed=seed, max_values=max_values, click_rate=click_rate)
    return log.rows(n_rows, start=start)


def iter_click_log(n_rows: int, batch_rows: int = 65_536, **options: Any) -> Iterator[Rows]:
    """The rows of `make_click_log` in batches, for logs larger than memory.

    Example:
        >>> [len(rows) for rows in iter_click_log(250, 100, max_values=100)]
        [100, 100, 50]
    """
    start = options.pop("start", 0)
    yield from ClickLog(**options).batches(n_rows, batch_rows, start=start)


def _field_sizes(max_values: int) -> NDArray[np.int64]:
    """13 sizes from 3 to 100 and 26 from `max_values` down to 32, both in geometric steps."""
    least = min(32, max_values)
    small = 3.0 * (100.0 / 3.0) ** (np.arange(N_SMALL) / (N_SMALL - 1))
    large = max_values * (least / max_values) ** (np.arange(N_LARGE) / (N_LARGE - 1))
    small = np.minimum(small, max_values)
    sizes: NDArray[np.float64] = np.maximum(np.rint(np.concatenate((small, large))), 2)
    return sizes.astype(np.int64)


def _zipf_quantiles(n_values: int) -> NDArray[np.int64]:
    """Rank (fixed point) at each 1/4096 of probability of a Zipf distribution over n values.

    Between two of them ranks are drawn evenly, which is exact inside a frequent value and
    within a few thousandths in the tail.
    """
    mass = np.cumsum(np.arange(1, n_values + 1, dtype=np.float64) ** -ZIPF)
    at = np.linspace(0.0, mass[-1], (1 << CELL_BITS) + 1)
    edges = np.concatenate(([0.0], mass))
    places: NDArray[np.float64] = np.interp(at, edges, np.arange(n_values + 1))
    return np.floor(places * (1 << RANK_BITS)).astype(np.int64)


def _normal(stream: np.random.SFC64, n: int) -> NDArray[np.float32]:
    """Nearly normal numbers of variance 1 [n]: sums of four even ones, the same everywhere."""
    quarters = stream.random_raw(n).view(np.int16).reshape(n, 4)
    total = quarters[:, 0].astype(np.int32)
    for j in range(1, 4):
        total += quarters[:, j]
    return ((total + 2) / np.float64(65536.0 / np.sqrt(3.0))).astype(np.float32)


def _bias_for(logits: NDArray[np.float64], rate: float) -> float:
    """The bias that gives a mean probability of `rate`, by bisection."""
    low, high = -100.0, 100.0
    while high - low > 1e-9:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _sigmoid(logits + middle).mean() < rate else (low, middle)
    return 0.5 * (low + high)


def _sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))


def _expect_stretch(start: int, n_rows: int) -> None:
    if start < 0 or n_rows < 0:
        raise DataError(f"start and n_rows must not be negative, got {start} and {n_rows}")


def _blocks(start: int, n_rows: int) -> Iterator[tuple[slice, int, slice]]:
    """(rows of the output, block, rows of the block) for rows start .. start + n_rows."""
    _expect_stretch(start, n_rows)
    for block in range(start // BLOCK, -(-(start + n_rows) // BLOCK)):
        low = max(start, block * BLOCK)
        high = min(start + n_rows, (block + 1) * BLOCK)
        yield (
            slice(low - start, high - start),
            block,
            slice(low - block * BLOCK, high - block * BLOCK),
        )


def _scramble(ranks: NDArray[np.int32], field: int) -> NDArray[np.uint32]:
    """One-to-one on 32 bits, another one for each field: ranks that no longer look like ranks."""
    x = ranks.astype(np.uint32) + np.uint32(field * 0x9E3779B1 & 0xFFFFFFFF)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def _hex_strings(numbers: NDArray[np.uint32]) -> pa.Array:
    """Numbers as strings of eight hexadecimal digits."""
    import pyarrow as pa

    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    shifts = np.arange(28, -4, -4, dtype=np.uint32)
    text = digits[(numbers[:, None] >> shifts) & np.uint32(15)]  # [n, 8]
    ends = np.arange(numbers.size + 1, dtype=np.int64) * 8
    strings = pa.LargeStringArray.from_buffers(numbers.size, pa.py_buffer(ends), pa.py_buffer(text))
    return strings.cast(pa.string()) if ends[-1] < 2**31 else strings
