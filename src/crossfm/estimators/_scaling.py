"""Columns of numbers brought to a common size for training, and the way back into the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows

__all__ = ["Scaling"]

OFTEN = 0.5  # a column that is not zero in this share of the rows is standardised
LARGEST_OFFSET = 1000.0  # mean in deviations; more would drown in float32 once folded back
CONSTANT = 1e-6  # deviation in means below which a column counts as constant
ENTRIES = 1 << 20  # looked at in float64 at a time


@dataclass(frozen=True, eq=False)
class Scaling:
    r"""What training sees of a value: ``z_i = (x_i - centre_i) / scale_i``.

    A column is left alone where all of its values are 0 or 1. One that is mostly not zero is
    standardised: its mean and deviation. Others keep their zeros and are only divided, by the
    root mean square of what is not zero, and only where that is above 1.

    Because a product of shifted values is again a sum of products, linear terms and a constant,
    a factorization machine on z is exactly one on x, which `fold` finds::

        u_i = v_i / s_i,   M = sum_i m_i u_i
        w_i' = w_i / s_i - <u_i, M> + m_i |u_i|^2
        w0'  = w0 - sum_i m_i w_i / s_i + 1/2 (|M|^2 - sum_i m_i^2 |u_i|^2)

    Attributes:
        scale: ``s``, float64 ``[n_features]``.
        centre: ``m``, float64 ``[n_features]``; zero in columns that keep their zeros.
        centred: the columns with a centre. They are in every row.
    """

    scale: NDArray[np.float64]
    centre: NDArray[np.float64]
    centred: NDArray[np.int64]

    @staticmethod
    def learn(rows: Rows, n_features: int, *, centre: bool) -> Scaling | None:
        """The scaling for these rows, whose weights count; None where nothing is to be done."""
        if rows.values is None or rows.nnz == 0 or bool((rows.values == 1).all()):
            return None
        c = np.ones(len(rows)) if rows.weights is None else rows.weights.astype(np.float64)
        total = c.sum()
        present, sums, squares, spread = np.zeros((4, n_features))
        other = np.zeros(n_features, bool)
        pieces = list(_pieces(rows, n_features))
        for part, entries in pieces:
            ids, x, c_x = _numbers_of(rows, c, part, entries)
            present += np.bincount(ids, c_x, n_features)
            sums += np.bincount(ids, c_x * x, n_features)
            squares += np.bincount(ids, c_x * x * x, n_features)
            other[ids[(x != 1) & (c_x > 0)]] = True
        mean = sums / total
        for part, entries in pieces:
            ids, x, c_x = _numbers_of(rows, c, part, entries)
            spread += np.bincount(ids, c_x * (x - mean[ids]) ** 2, n_features)
        spread += (total - present).clip(0) * mean**2  # of the zeros that are left out
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.sqrt(squares / present)
        deviation = np.sqrt(spread / total)
        scale, middle = np.ones(n_features), np.zeros(n_features)
        sparse = other & (size > 1)
        scale[sparse] = size[sparse]
        if centre:
            often = other & (present >= OFTEN * total) & (size > 0)
            scale[often] = size[often]
            varies = often & (deviation > CONSTANT * np.abs(mean))
            middle[varies] = mean[varies]
            scale[varies] = np.maximum(deviation, np.abs(mean) / LARGEST_OFFSET)[varies]
        if (scale == 1).all() and not middle.any():
            return None
        return Scaling(scale, middle, np.flatnonzero(middle))

    @staticmethod
    def learn_blocks(
        blocks: Iterable[Rows], n_features: int
    ) -> tuple[Scaling | None, float | None]:
        """As `learn` without centres, of blocks of rows; and the sum of their scaled squares."""
        present, squares, plain = np.zeros((3, n_features))
        other = np.zeros(n_features, bool)
        for rows in blocks:
            ones = np.ones(rows.nnz, np.float32)
            rows = rows if rows.values is not None else rows.replace(values=ones)
            c = np.ones(len(rows)) if rows.weights is None else rows.weights.astype(np.float64)
            ids, x, c_x = _numbers_of(rows, c, slice(None), slice(None))
            present += np.bincount(ids, c_x, n_features)
            squares += np.bincount(ids, c_x * x * x, n_features)
            plain += np.bincount(ids, x * x, n_features)
            other[ids[(x != 1) & (c_x > 0)]] = True
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.sqrt(squares / present)
        scale = np.where(other & (size > 1), size, 1.0)
        if (scale == 1).all():
            return None, None
        none = np.zeros(n_features)
        return Scaling(scale, none, np.flatnonzero(none)), float((plain / scale**2).sum())

    def grown(self, n_features: int) -> Scaling:
        """The same with room for more ids, which are left alone."""
        more = n_features - len(self.scale)
        if more <= 0:
            return self
        return Scaling(
            np.concatenate([self.scale, np.ones(more)]),
            np.concatenate([self.centre, np.zeros(more)]),
            self.centred,
        )

    def apply(self, rows: Rows) -> Rows:
        """Rows as training sees them. Every row must hold the centred columns."""
        z = np.ones(rows.nnz, np.float32) if rows.values is None else rows.values.copy()
        for low in range(0, rows.nnz, ENTRIES):
            part = slice(low, low + ENTRIES)
            ids = rows.ids[part]
            z[part] = (z[part] - self.centre[ids]) / self.scale[ids]
        return rows.replace(values=z)

    def fold(
        self,
        bias: float,
        weights: NDArray[np.float64],
        factors: NDArray[np.float64],
        ids: NDArray[np.int64] | slice,
        centred: tuple[NDArray[np.float64], NDArray[np.float64]],
    ) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Parameters of the features `ids` for values as they come.

        Args:
            bias: ``w0`` on scaled values.
            weights: ``w`` of `ids`, float64.
            factors: ``V`` of `ids`, float64 ``[len(ids), k]``.
            ids: the features.
            centred: ``w`` and ``V`` of the centred features, whichever `ids` are.

        Returns:
            the bias, the weights and the factors of `ids` on raw values.
        """
        scale, middle = self.scale[ids], self.centre[ids]
        w, u = weights / scale, factors / scale[:, None]
        if len(self.centred):
            m, s = self.centre[self.centred], self.scale[self.centred]
            u_c = centred[1] / s[:, None]
            total = (m[:, None] * u_c).sum(axis=0)  # M [k]
            w = w - (u * total).sum(axis=1) + middle * (u * u).sum(axis=1)
            squares = float(((m[:, None] * u_c) ** 2).sum())
            bias = bias - float((m * centred[0] / s).sum())
            bias += 0.5 * (float(total @ total) - squares)
        return bias, w, u

    def unfold(
        self, bias: float, weights: NDArray[np.float64], factors: NDArray[np.float64]
    ) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """The inverse of `fold`, for all features at once."""
        v = factors * self.scale[:, None]
        w = weights
        if len(self.centred):
            m = self.centre[self.centred]
            u_c = factors[self.centred]
            total = (m[:, None] * u_c).sum(axis=0)
            w = w + (factors * total).sum(axis=1) - self.centre * (factors**2).sum(axis=1)
            squares = float(((m[:, None] * u_c) ** 2).sum())
            bias = bias + float((m * w[self.centred]).sum())
            bias -= 0.5 * (float(total @ total) - squares)
        return bias, w * self.scale, v

    def state(self) -> dict[str, Any]:
        """What is not 1 and 0, for JSON."""
        ids = np.flatnonzero((self.scale != 1) | (self.centre != 0))
        return {
            "ids": ids.tolist(),
            "scale": self.scale[ids].tolist(),
            "centre": self.centre[ids].tolist(),
        }

    @staticmethod
    def from_state(state: Mapping[str, Any] | None, n_features: int) -> Scaling | None:
        """What `state` described."""
        if state is None:
            return None
        scale, middle = np.ones(n_features), np.zeros(n_features)
        ids = np.asarray(state["ids"], np.int64)
        scale[ids], middle[ids] = state["scale"], state["centre"]
        if not (np.isfinite(scale).all() and np.isfinite(middle).all() and (scale > 0).all()):
            raise ValueError("a scale that is not a positive number")
        return Scaling(scale, middle, np.flatnonzero(middle))


def _pieces(rows: Rows, n_features: int) -> Iterator[tuple[slice, slice]]:
    """Runs of rows and of their entries, few at a time but not fewer than there are features."""
    offsets = rows.row_offsets()
    starts = np.searchsorted(offsets, np.arange(0, rows.nnz, max(ENTRIES, n_features)))
    for low, high in pairwise(np.unique(np.append(starts, len(rows))).tolist()):
        yield slice(low, high), slice(int(offsets[low]), int(offsets[high]))


def _numbers_of(
    rows: Rows, c: NDArray[np.float64], part: slice, entries: slice
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Id, value and weight of each entry of some rows."""
    assert rows.values is not None
    x = rows.values[entries].astype(np.float64)
    return rows.ids[entries], x, np.repeat(c[part], rows[part].row_lengths())
