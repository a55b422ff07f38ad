"""The synthetic click log against its promises, and its planted model against the definition."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from crossfm import datasets
from crossfm.datasets import ClickLog, criteo

SMALL = {"max_values": 300, "n_factors": 3}


@pytest.fixture(scope="module")
def log() -> ClickLog:
    return ClickLog(**SMALL)


def _log_loss(y, p):
    return -np.mean(np.log(np.where(y > 0, p, 1 - p)))


def test_click_log_has_the_documented_shape(log):
    rows = log.rows(500)
    assert len(rows) == 500
    assert rows.row_length == 39
    assert rows.ids.dtype == np.int32
    assert rows.offsets is None
    assert rows.values is None
    assert set(np.unique(rows.targets)) == {0.0, 1.0}
    fields = log.field_of[rows.ids].reshape(500, 39)
    assert (fields == np.arange(39)).all()
    assert len(log.field_names) == 39
    assert len(log.field_of) == log.n_features == log.field_sizes.sum()


def test_click_log_of_full_size():
    sizes = ClickLog(n_factors=1).field_sizes
    assert sizes[:13].min() == 3
    assert sizes[:13].max() == 100
    assert sizes[13:].max() == 500_000
    assert 1_400_000 <= sizes.sum() <= 1_700_000


def test_click_log_is_the_same_however_it_is_cut(log):
    whole = log.rows(20_000)
    again = ClickLog(**SMALL)
    assert (again.rows(9_000).ids == whole[:9_000].ids).all()
    assert (again.rows(9_000).targets == whole[:9_000].targets).all()
    tail = again.rows(3_000, start=7_000)
    assert (tail.ids == whole[7_000:10_000].ids).all()
    assert (tail.targets == whole[7_000:10_000].targets).all()
    pieces = list(datasets.iter_click_log(20_000, 3_333, **SMALL))
    assert [len(piece) for piece in pieces] == [3_333] * 6 + [2]
    assert (np.concatenate([piece.ids for piece in pieces]) == whole.ids).all()
    assert (np.concatenate([piece.targets for piece in pieces]) == whole.targets).all()
    made = datasets.make_click_log(100, start=50, **SMALL)
    assert (made.ids == whole[50:150].ids).all()


def test_click_log_of_a_seed_stays_as_it_is(log):
    # Pinned: a change of these numbers changes every figure that was measured on the log.
    rows = log.rows(2_000)
    digest = hashlib.sha256(rows.ids.astype("<i4").tobytes()).hexdigest()
    assert digest[:16] == "aabc871eb77ed3fe"
    assert int(rows.targets.sum()) == 509


def test_another_seed_is_another_log(log):
    other = ClickLog(seed=1, **SMALL)
    assert (other.rows(100).ids != log.rows(100).ids).mean() > 0.3
    assert not np.allclose(other.weights, log.weights)


def test_click_log_ids_follow_zipf():
    log = ClickLog(max_values=5_000, n_factors=1)
    n = 60_000
    ids = log.rows(n).ids.reshape(n, 39)
    for field in (0, 12, 13, 20, 38):
        size = int(log.field_sizes[field])
        counts = np.bincount(ids[:, field] - ids[:, : field + 1].min(0)[field], minlength=size)
        share = np.arange(1, size + 1) ** -1.05
        share /= share.sum()
        top = min(size, 20)
        spread = 5 * np.sqrt(share[:top] * n) + n / 4096  # sampling, and one quantile cell
        assert (np.abs(counts[:top] - n * share[:top]) < spread).all()
        # the tail: shares of the ranks past 1/10 of the field
        assert counts[size // 10 :].sum() / n == pytest.approx(share[size // 10 :].sum(), abs=0.01)


def test_click_log_scores_are_the_double_sum(log):
    rows = log.rows(50)
    w = log.weights.astype(np.float64)
    V = log.factors.astype(np.float64)
    want = []
    for row in rows.ids.reshape(50, 39):
        y = log.bias + w[row].sum()
        y += sum(V[row[i]] @ V[row[j]] for j in range(39) for i in range(j))
        want.append(y)
    # 39 float32 terms of a few units each
    np.testing.assert_allclose(log.logits(rows), want, rtol=0, atol=2e-5)
    np.testing.assert_allclose(
        log.probabilities(rows), 1 / (1 + np.exp(-np.array(want))), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_model_beats_the_base_rate(seed):
    log = ClickLog(seed=seed, **SMALL)
    rows = log.rows(50_000)
    rate = rows.targets.mean()
    assert rate == pytest.approx(0.25, abs=0.02)
    base = _log_loss(rows.targets, np.full(len(rows), rate))
    planted = _log_loss(rows.targets, log.probabilities(rows))
    assert planted < 0.85 * base
    assert planted == pytest.approx(log.bayes_log_loss(rows), abs=0.01)
    # neither part alone is enough
    linear = log.logits(rows) * 0.0 + log.weights[rows.ids].reshape(-1, 39).sum(1)
    assert np.corrcoef(linear, log.logits(rows))[0, 1] < 0.9


def test_click_log_table_is_one_to_one_with_the_ids(log):
    rows = log.rows(3_000)
    table = log.table(3_000)
    assert table.column_names == ["label", *criteo.COUNTS, *criteo.CATEGORIES]
    assert table["label"].to_pylist() == rows.targets.astype(int).tolist()
    ids = rows.ids.reshape(3_000, 39)
    for field, name in enumerate(log.field_names):
        column = table[name]
        assert column.type == (pa.int32() if field < 13 else pa.string())
        codes = np.unique(column.to_numpy(zero_copy_only=False), return_inverse=True)[1]
        pairs = np.unique(np.stack([ids[:, field], codes]), axis=1).shape[1]
        assert pairs == np.unique(ids[:, field]).size == np.unique(codes).size
    assert all(len(text) == 8 for text in table["C1"].to_pylist())
    assert table.slice(0, 100).equals(log.table(100))


@pytest.mark.parametrize(
    "options",
    [
        {"n_factors": 0},
        {"seed": -1},
        {"max_values": 1},
        {"max_values": 10**9},
        {"click_rate": 0.0},
        {"linear_scale": -1.0},
        {"pairwise_scale": float("nan")},
    ],
)
def test_click_log_refuses_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ClickLog(**{**SMALL, **options})


def test_click_log_refuses_bad_stretches(log):
    with pytest.raises(ValueError, match="negative"):
        log.rows(10, start=-1)
    with pytest.raises(ValueError, match="batch_rows"):
        list(log.batches(10, 0))
    assert len(log.rows(0)) == 0
