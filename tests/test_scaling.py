"""Scaling of values: what training sees, and the exact way back into the parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfm import Rows
from crossfm.estimators._matrix import check_matrix, matrix_rows
from crossfm.estimators._scaling import Scaling


def slow_score(bias, w, V, x):
    """The definition in float64, pair by pair."""
    n = len(x)
    total = bias + sum(w[i] * x[i] for i in range(n))
    return total + sum(V[i] @ V[j] * x[i] * x[j] for i in range(n) for j in range(i))


@given(st.integers(0, 10_000))
def test_folding_is_exact(seed):
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 6)), int(rng.integers(0, 4))
    centre = np.where(rng.random(n) < 0.5, rng.normal(0, 10, n), 0.0)
    scaling = Scaling(np.exp(rng.normal(0, 2, n)), centre, np.flatnonzero(centre))
    bias, w, V = rng.normal(), rng.standard_normal(n), rng.standard_normal((n, k))
    at = scaling.centred
    folded = scaling.fold(bias, w, V, slice(None), (w[at], V[at]))
    for _ in range(3):
        x = rng.normal(0, 10, n)
        z = (x - centre) / scaling.scale
        want = slow_score(bias, w, V, z)
        assert slow_score(*folded, x) == pytest.approx(want, rel=1e-9, abs=1e-6)
    for given_, back in zip((bias, w, V), scaling.unfold(*folded), strict=True):
        np.testing.assert_allclose(back, given_, rtol=1e-7, atol=1e-7)
    some = np.flatnonzero(rng.random(n) < 0.5)  # a part of the table is the part of the whole
    part = scaling.fold(bias, w[some], V[some], some, (w[at], V[at]))
    assert part[0] == folded[0]
    np.testing.assert_array_equal(part[1], folded[1][some])
    np.testing.assert_array_equal(part[2], folded[2][some])


def learned(X, weights=None):
    rows = matrix_rows(check_matrix(X, None, "test"))
    rows = rows.replace(weights=weights)
    return Scaling.learn(rows, X.shape[1], centre=True)


def test_what_is_done_to_each_kind_of_column():
    rng = np.random.default_rng(0)
    n = 1000
    often = rng.normal(5, 2, n) * (rng.random(n) < 0.8)
    seldom = 40 * rng.standard_normal(n) * (rng.random(n) < 0.2)
    small = 0.01 * rng.random(n) * (rng.random(n) < 0.2)
    one_hot = (rng.random(n) < 0.9).astype(float)
    constant = np.full(n, -8.0)
    X = np.column_stack([often, seldom, small, one_hot, constant, np.zeros(n)])
    found = learned(X)
    x = X.astype(np.float32).astype(float)
    rms = np.sqrt((x[:, 1][x[:, 1] != 0] ** 2).mean())
    np.testing.assert_allclose(found.centre, [x[:, 0].mean(), 0, 0, 0, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(found.scale, [x[:, 0].std(), rms, 1, 1, 8, 1], rtol=1e-12)
    assert found.centred.tolist() == [0]
    z = found.apply(matrix_rows(check_matrix(X, None, "test"), found.centred))
    dense = z.to_csr(6).toarray()
    np.testing.assert_allclose(dense[:, 0].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(dense[:, 0].std(), 1, rtol=1e-6)
    np.testing.assert_array_equal(dense[:, 1] == 0, X[:, 1] == 0)


def test_weights_count_as_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(3, 2, (50, 3)) * (rng.random((50, 3)) < 0.8)
    weight = rng.integers(1, 4, 50)
    one, two = learned(X, weight.astype(np.float32)), learned(X.repeat(weight, axis=0))
    np.testing.assert_allclose(one.scale, two.scale, rtol=1e-12)
    np.testing.assert_allclose(one.centre, two.centre, rtol=1e-12)


def test_lookups_are_left_alone():
    assert learned(np.eye(5)) is None
    ids = np.array([[0, 1], [1, 2]])
    assert Scaling.learn(Rows(ids), 3, centre=True) is None
    assert Scaling.learn(Rows(ids, np.ones((2, 2), np.float32)), 3, centre=True) is None
    halves = Rows(ids, np.full((2, 2), 0.5, np.float32))
    assert Scaling.learn(halves, 3, centre=False) is None  # a mean over bags stays one
    large = Scaling.learn(Rows(ids, np.full((2, 2), 30.0, np.float32)), 3, centre=False)
    np.testing.assert_allclose(large.scale, 30)
    assert not len(large.centred)


def test_offsets_that_float32_could_not_bear_are_bounded():
    x = 1e9 + np.random.default_rng(0).normal(0, 2e4, 100)
    found = learned(x[:, None])
    assert found.scale[0] == pytest.approx(1e6, rel=1e-3)  # a thousandth of the mean


def test_state_comes_back():
    found = learned(np.random.default_rng(0).normal(3, 2, (50, 3)))
    again = Scaling.from_state(found.state(), 3)
    np.testing.assert_array_equal(again.scale, found.scale)
    np.testing.assert_array_equal(again.centre, found.centre)
    assert Scaling.from_state(None, 3) is None
    for bad in ({"ids": [0], "scale": [0.0], "centre": [0.0]}, {"ids": [9], "scale": [1.0]}):
        with pytest.raises((ValueError, KeyError, IndexError)):
            Scaling.from_state(bad, 3)
    wide = found.grown(5)
    assert wide.scale.tolist()[3:] == [1, 1]
    assert wide.centre.tolist()[3:] == [0, 0]


def test_many_entries_are_looked_at_a_few_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 4, 60)
    ids = np.concatenate([np.sort(rng.choice(4, m, replace=False)) for m in lengths])
    rows = Rows(
        ids,
        rng.normal(5, 3, len(ids)),
        np.concatenate([[0], np.cumsum(lengths)]),
        weights=rng.choice([0.0, 1.0, 2.5], 60),
    )
    whole = Scaling.learn(rows, 4, centre=True)
    z = whole.apply(rows).values
    monkeypatch.setattr("crossfm.estimators._scaling.ENTRIES", 7)
    pieces = Scaling.learn(rows, 4, centre=True)
    np.testing.assert_allclose(pieces.scale, whole.scale, rtol=1e-12)
    np.testing.assert_allclose(pieces.centre, whole.centre, rtol=1e-12)
    np.testing.assert_array_equal(whole.apply(rows).values, z)


@pytest.mark.parametrize("centred", [[], [0], [1, 3]])
def test_zeros_of_centred_columns_are_put_in(centred):
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 4)) * (rng.random((40, 4)) < 0.5)
    at = np.array(centred, dtype=np.int64)
    for form in (np.asarray, sp.csr_array):
        rows = matrix_rows(check_matrix(form(X), None, "test"), at)
        rows.validate(4)
        offsets = rows.row_offsets()
        for r, x in enumerate(X.astype(np.float32)):
            ids = rows.ids[offsets[r] : offsets[r + 1]].tolist()
            assert ids == [c for c in range(4) if x[c] != 0 or c in centred]
            np.testing.assert_array_equal(rows.values[offsets[r] : offsets[r + 1]], x[ids])
