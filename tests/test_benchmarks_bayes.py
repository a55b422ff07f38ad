"""The parts of the benchmarks of Gibbs sampling, on ratings made up here."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import bayes, quality


def table(user, item, day, rating):
    ids = {"user": np.array(user, np.int32), "item": np.array(item, np.int32)}
    return pa.table({**ids, "timestamp": np.array(day) * bayes.DAY, "rating": np.float32(rating)})


TRAIN = table([1, 1, 2, 3, 3, 1], [1, 2, 2, 1, 4, 4], [7, 7, 9, 9, 9, 8], [1, 2, 3, 4, 5, 3])
TEST = table([2, 4], [4, 3], [8, 6], [2, 4])


def test_extended_features():
    found = bayes.Extended.of(TRAIN, TEST)
    assert found.sizes == (4, 4, 4, 4, 4)  # a day more for those unseen; the test part's user 4
    ids, users, items = found.parts[0]
    np.testing.assert_array_equal(ids[0], [1, 4, 12])
    np.testing.assert_array_equal(ids[:, 0], [1, 1, 3, 3, 3, 2])
    np.testing.assert_array_equal(found.parts[1][0][:, 0], [2, 0])
    np.testing.assert_array_equal(users, [0, 0, 1, 2, 2, 0])
    of_users, of_items = (block.rows for block in found.blocks(0))
    np.testing.assert_array_equal(of_users.offsets, [0, 3, 4, 6, 6])
    np.testing.assert_array_equal(of_users.ids, 8 + np.array([0, 1, 3, 1, 0, 3]))
    np.testing.assert_allclose(of_users.values[:4], [3**-0.5] * 3 + [1])
    np.testing.assert_array_equal(of_items.ids, 16 + np.array([0, 2, 0, 1, 2, 0]))
    np.testing.assert_array_equal(items, [0, 1, 1, 0, 3, 3])


@pytest.mark.parametrize("likelihood", ["normal", "ordinal"])
def test_the_extended_machine_predicts_ratings(likelihood, monkeypatch):
    monkeypatch.setattr(bayes, "N_SWEEPS_EXTENDED", 60)
    rng = np.random.default_rng(0)
    pairs = rng.permutation(600)
    user, item = 1 + pairs // 20, 1 + pairs % 20
    rating = np.clip(np.round(3 + 1.2 * (user % 3 - 1) + 0.8 * (item % 3 - 1)), 1, 5)
    parts = [table(user[at], item[at], rng.integers(0, 5, len(user[at])), rating[at])
             for at in (slice(500), slice(500, None))]  # fmt: skip
    data = bayes.Extended.of(*parts)
    constant = bayes.rmse(data.truth, np.full(100, data.known.mean()))
    assert bayes.rmse(data.truth, data.predicted(likelihood, 0)) < 0.5 * constant


def test_parts_of_columns():
    given = pa.table({"age": [24, 25, 7], "zip_prefix": ["85", "T8", "0"]})
    found = bayes.with_parts(given)
    assert found["age_step"].to_pylist() == [20, 25, 5]
    assert found["zip_first"].to_pylist() == ["8", "T", "0"]


def test_gibbs_sampling_goes_without_the_options_of_others():
    with pytest.raises(SystemExit):
        quality.main(["frappe", "--solver", "mcmc", "--models", "ffm"])
