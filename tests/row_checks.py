"""Comparisons of Rows that raise."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from crossfm.data import Rows

RTOL = 2e-6  # float32 of a float64 computation whose sums are taken in another order
ATOL = 1e-6  # a value near the mean, minus the mean


def pairs(rows: Rows) -> list[list[tuple[int, float]]]:
    """Each row as (id, value) pairs."""
    values = np.ones(rows.nnz) if rows.values is None else rows.values
    return [
        list(zip(rows.ids[a:b].tolist(), values[a:b].tolist(), strict=True))
        for a, b in itertools.pairwise(rows.row_offsets())
    ]


def assert_rows(rows: Rows, want: list[list[tuple[int, float]]]) -> None:
    """The same ids in the same order, and values within float32."""
    got = pairs(rows)
    assert [[i for i, _ in row] for row in got] == [[i for i, _ in row] for row in want]
    assert_allclose(
        [x for row in got for _, x in row],
        [x for row in want for _, x in row],
        rtol=RTOL,
        atol=ATOL,
    )


def assert_equal_rows(a: Rows, b: Rows) -> None:
    """The same arrays, bit by bit, of the same types."""
    assert len(a) == len(b)
    for name in ("ids", "values", "offsets", "fields", "targets", "weights"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        if left is not None:
            assert left.dtype == right.dtype
            assert_array_equal(left, right)
