"""FactorModel: scores against the double sum of the definition, and what it refuses."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from crossfm.by_field import group_fields
from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.model import FactorModel, empty_factors

N, N_FIELDS = 200, 7
RTOL = 2e-6  # float32: 24 bits, up to 39 terms that partly cancel, relative to their sizes


def double_sum(model, ids, values, fields):
    """One row's score by the definition, float64, and the sum of its terms' sizes."""
    w, v = model.weights.astype(float), model.factors.astype(float)
    terms = [model.bias] + [w[i] * x for i, x in zip(ids, values, strict=True)]
    if model.interactions == "all":
        vectors = [v[i] * x for i, x in zip(ids, values, strict=True)]
    else:
        vectors = [
            sum(v[i] * x for i, x, f in zip(ids, values, fields, strict=True) if f == g)
            for g in sorted(set(fields))
        ]
    terms += [vectors[i] @ vectors[j] for j in range(len(vectors)) for i in range(j)]
    size = sum(abs(t) for t in terms) + sum(u @ u for u in vectors)
    return sum(terms), size


def assert_scores(model, rows, field_of, **options):
    got = model.score(rows, **options)
    assert got.dtype == np.float32
    assert got.shape == (len(rows),)
    offsets = rows.row_offsets()
    for r in range(len(rows)):
        part = slice(offsets[r], offsets[r + 1])
        ids = rows.ids[part]
        values = np.ones(len(ids)) if rows.values is None else rows.values[part].astype(float)
        fields = field_of[ids] if rows.fields is None else rows.fields[part]
        want, size = double_sum(model, ids, values, fields)
        assert abs(got[r] - want) <= RTOL * size, (r, got[r], want)


def make_model(k, interactions="all", seed=0):
    rng = np.random.default_rng([seed, k])
    field_of = np.sort(rng.integers(0, N_FIELDS, N)).astype(np.int32)
    return FactorModel(0.3, rng.normal(size=N), rng.normal(size=(N, k)), interactions, field_of)


def make_rows(kind, model, seed=0):
    rng = np.random.default_rng([seed, len(kind)])
    if kind == "39 features":
        return Rows(np.sort(rng.integers(0, N, (9, 39)), axis=1))
    if kind == "1 feature":
        return Rows(rng.integers(0, N, (9, 1)).astype(np.int32))
    lengths = rng.integers(0, 12, 33)
    lengths[[0, 5, 32]] = 0
    offsets = np.r_[0, np.cumsum(lengths)]
    ids = rng.integers(0, N, offsets[-1])
    if kind == "repeated ids":
        ids %= 5
    values = None if kind == "bags" else rng.normal(size=ids.size)
    fields = rng.integers(0, 4, ids.size) if kind == "own fields" else None
    return Rows(ids, values, offsets, fields)


KINDS = ["39 features", "1 feature", "bags", "values", "repeated ids", "own fields"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interactions", ["all", "across_fields"])
@pytest.mark.parametrize("k", [1, 3, 16, 17, 64])
def test_score_equals_the_double_sum(k, interactions, kind):
    model = make_model(k, interactions)
    assert_scores(model, make_rows(kind, model), model.field_of)


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
def test_no_factors_is_a_linear_model(interactions):
    model = make_model(0, interactions)
    assert_scores(model, make_rows("values", model), model.field_of)


def test_scores_are_bit_equal_for_any_number_of_threads():
    model = make_model(16, "across_fields")
    rows = Rows(np.random.default_rng(1).integers(0, N, (9001, 5)))
    one = model.score(rows, n_jobs=1)
    for n_jobs in (None, 2, 3, -1):
        np.testing.assert_array_equal(model.score(rows, n_jobs=n_jobs), one)


def test_one_feature_a_field_makes_both_interactions_equal():
    rng = np.random.default_rng(2)
    field_of = np.repeat(np.arange(5), 10).astype(np.int32)
    ids = rng.integers(0, 10, (50, 5)) + np.arange(5) * 10
    weights, factors = rng.normal(size=50), rng.normal(size=(50, 8))
    values = rng.normal(size=(50, 5))
    both = [
        FactorModel(0.1, weights, factors, mode, field_of).score(Rows(ids, values))
        for mode in ("all", "across_fields")
    ]
    np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-5)  # other sums of 10 float32 terms


def test_the_order_of_features_does_not_matter():
    model = make_model(16, "across_fields")
    rng = np.random.default_rng(3)
    ids = rng.integers(0, N, (40, 9))
    shuffled = rng.permuted(ids, axis=1)
    assert_scores(model, Rows(shuffled), model.field_of)
    np.testing.assert_allclose(
        model.score(Rows(shuffled)), model.score(Rows(ids)), rtol=1e-4, atol=1e-4
    )


def test_group_fields_keeps_good_rows_and_sorts_others():
    field_of = np.array([0, 0, 1, 1], np.int32)
    good = Rows(np.array([0, 2, 3, 1, 2, 0]), offsets=np.array([0, 0, 3, 5, 6, 6]))
    assert group_fields(good, field_of) is good
    mixed = Rows(np.array([2, 0, 3]), np.array([1.0, 2.0, 3.0]), np.array([0, 0, 3, 3]))
    fixed = group_fields(mixed, field_of)
    assert fixed.ids.tolist() == [0, 2, 3]
    assert fixed.values.tolist() == [2, 1, 3]
    assert fixed.fields.tolist() == [0, 1, 1]
    assert len(group_fields(Rows(np.zeros((0, 3), np.int32)), field_of)) == 0


def test_empty_batches_and_rows():
    model = make_model(3)
    assert model.score(Rows(np.zeros((0, 4), np.int64))).shape == (0,)
    assert model.score(Rows(np.zeros((2, 0), np.int64))).tolist() == [np.float32(0.3)] * 2
    assert model.score(Rows(np.array([1]), offsets=np.array([0, 0, 1]))).shape == (2,)


# --- the record itself ----------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 1, 3, 4, 17])
def test_factors_lie_padded_and_aligned(k):
    model = make_model(k)
    assert model.factors.shape == (N, k)
    assert model.factors.strides[0] == 4 * max(4, -(-k // 4) * 4)
    assert model._held.table.ctypes.data % 64 == 0
    assert not model._held.table[:, k:].any()
    assert (model.n_features, model.n_factors) == (N, k)


def test_empty_factors_are_taken_over_without_a_copy():
    factors = empty_factors(10, 3)
    factors[...] = 1
    model = FactorModel(0, np.zeros(10), factors)
    assert np.shares_memory(model.factors, factors)
    again = FactorModel(0, np.zeros(10), model.factors)
    assert np.shares_memory(again.factors, factors)
    part = FactorModel(0, np.zeros(5), factors[::2])
    assert not np.shares_memory(part.factors, factors)
    factors.base[3] = 7  # a padding float
    dirty = FactorModel(0, np.zeros(10), factors)
    assert not np.shares_memory(dirty.factors, factors)
    assert not dirty._held.table[:, 3].any()


def test_arrays_are_copies_and_read_only():
    weights, factors, field_of = np.zeros(3, np.float32), np.zeros((3, 4)), np.zeros(3, np.int32)
    model = FactorModel(0, weights, factors, field_of=field_of)
    weights[0] = factors[0] = field_of[0] = 9
    for array in (model.weights, model.factors, model.field_of):
        assert not array.any()
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(AttributeError):
        model.bias = 3.0


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, through_pickle])
def test_copies_score_the_same(make):
    model = make_model(5, "across_fields")
    other = make(model)
    rows = make_rows("values", model)
    np.testing.assert_array_equal(other.score(rows), model.score(rows))
    assert other._held.table.ctypes.data % 64 == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.nan, [0.0], [[0.0]]), "bias is nan"),
        (("x", [0.0], [[0.0]]), "bias is 'x', expected a number"),
        ((1e300, [0.0], [[0.0]]), "bias is 1e\\+300"),
        ((0, [0.0, np.inf], [[0.0]] * 2), "weights of feature 1 is not finite"),
        ((0, [0.0, 0.0], [[0.0], [np.nan]]), "factors of feature 1 is not finite"),
        ((0, [1e300], [[0.0]]), "weights of feature 0 is not finite"),
        ((0, [0.0, 0.0], [[0.0]]), "weights has 2 features, factors has 1"),
        ((0, [[0.0]], [[0.0]]), "weights has shape \\(1, 1\\), expected \\[n_features\\]"),
        ((0, [0.0], [0.0]), "factors has shape \\(1,\\)"),
        ((0, ["a"], [[0.0]]), "weights must be numbers"),
        ((0, [], np.zeros((0, 3))), "weights holds no features"),
        ((0, [0.0], [[0.0]], "across_field"), "Did you mean 'across_fields'"),
        ((0, [0.0], [[0.0]], "all", [0, 1]), "field_of has shape \\(2,\\), expected \\[1\\]"),
        ((0, [0.0], [[0.0]], "all", [0.5]), "field_of holds float64"),
        ((0, [0.0], [[0.0]], "all", [-1]), "field_of runs from -1"),
        ((0, [0.0], [[0.0]], "all", None, None, "ranking"), "task is 'ranking'"),
        ((0, [0.0], [[0.0]], "all", None, None, "regression", 3), "metadata is 3"),
    ],
)
def test_bad_parameters(arguments, message):
    with pytest.raises(DataError, match=message):
        FactorModel(*arguments)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (Rows(np.array([[0, N]])), "row 0: feature id 200 is out of range"),
        (Rows(np.array([[0], [-1]])), "row 1: feature id -1"),
        (Rows(np.array([[0]]), np.array([[np.nan]])), "row 0"),
        (Rows(np.array([0, 1]), offsets=np.array([0, 2, 1, 2])), "row 1"),
        (np.zeros((2, 3)), "score takes Rows, got ndarray"),
    ],
)
def test_bad_rows(rows, message):
    with pytest.raises(DataError, match=message):
        make_model(3).score(rows)


def test_across_fields_needs_fields():
    model = FactorModel(0, np.zeros(3), np.ones((3, 2)), "across_fields")
    with pytest.raises(DataError, match="need to know the field"):
        model.score(Rows(np.array([[0, 1]])))
    assert model.score(Rows(np.array([[0, 1]]), fields=np.array([[0, 1]]))) == [2]
    assert model.score(Rows(np.array([[0, 1]]), fields=np.array([[4, 4]]))) == [0]


@pytest.mark.parametrize("n_jobs", [0, 1.5, True])
def test_bad_n_jobs(n_jobs):
    with pytest.raises(DataError, match="n_jobs is"):
        make_model(3).score(Rows(np.array([[0]])), n_jobs=n_jobs)
