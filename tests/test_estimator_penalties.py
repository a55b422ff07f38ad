"""Options of the estimators that fields or features have each for themselves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

import crossfm as cf
from crossfm import FFMRegressor, FMClassifier, FMRegressor, FwFMRegressor
from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.store import load_model

RNG = np.random.default_rng(0)
USERS = np.minimum(RNG.zipf(1.4, 900), 200)
FRAME = {"user": USERS, "film": RNG.integers(0, 12, 900)}
Y = RNG.normal(size=200)[USERS - 1] + 0.3 * RNG.normal(size=900)
QUICK = {"random_state": 0, "n_epochs": 4, "early_stopping": False, "n_factors": 3}


def solver_of(fm):
    return fm._machine.trainer.options


@pytest.mark.parametrize("kind", [FMRegressor, FFMRegressor, FwFMRegressor])
@pytest.mark.parametrize("solver", ["adagrad", "sgd", "ftrl", "adam"])
def test_a_field_that_does_not_learn(kind, solver):
    rates = {"film": 1e-12, "*": 0.05}
    fm = kind(**QUICK, solver=solver, learning_rate=rates).fit(FRAME, Y)
    still = fm.schema_.block("film")
    assert np.abs(fm.coef_[still]).max() < 1e-6 < 0.01 < np.abs(fm.coef_).max()
    assert solver_of(fm).field_learning_rates == (0.05, 1e-12)
    assert solver_of(fm).learning_rate == 0.05


def test_fields_that_are_not_named_have_what_none_gives():
    usual = solver_of(FMRegressor(**QUICK).fit(FRAME, Y))
    fm = FMRegressor(
        **QUICK, learning_rate={"film": 0.3}, l2_factors={"film": 0.7}, l2_linear={"user": 0.2}
    ).fit(FRAME, Y)
    found = solver_of(fm)
    assert found.learning_rate == usual.learning_rate
    assert found.field_learning_rates == (usual.learning_rate, 0.3)
    assert found.l2_factors == (usual.l2_factors, 0.7)
    assert found.l2_linear == (0.2, 0.0)
    fm.partial_fit(FRAME, Y)  # what None gives stays that of the first data
    assert solver_of(fm) == found


def test_one_number_for_all_fields_is_the_number():
    one = FMRegressor(**QUICK, learning_rate=0.07, l2_factors=0.03).fit(FRAME, Y)
    each = FMRegressor(**QUICK, learning_rate={"*": 0.07}, l2_factors={"*": 0.03}).fit(FRAME, Y)
    np.testing.assert_allclose(one.factors_, each.factors_, rtol=1e-4, atol=1e-6)


def test_a_matrix_takes_numbers_by_column():
    X = np.random.default_rng(1).normal(size=(300, 3))
    fm = FMRegressor(**QUICK, learning_rate=[0.1, 1e-12, 0.1]).fit(X, X[:, 0] + X[:, 1])
    assert abs(fm.coef_[1]) < 1e-4 < 0.01 < abs(fm.coef_[0])


def test_clones_keep_what_fields_were_given():
    fm = FMRegressor(
        learning_rate={"user": 0.1}, l2_factors={"film": 1.0, "*": 0.1}, l2_scaling=0.5,
        min_count_factors=3,
    )  # fmt: skip
    assert clone(fm).get_params() == fm.get_params()


@pytest.mark.parametrize("kind", [FMRegressor, FFMRegressor, FwFMRegressor])
@pytest.mark.parametrize("solver", ["adagrad", "ftrl"])
def test_rare_features_have_no_vector_in_the_model_nor_in_its_file(kind, solver, tmp_path):
    fm = kind(**QUICK, solver=solver, min_count_factors=5).fit(FRAME, Y)
    users, counts = np.unique(USERS, return_counts=True)
    assert (counts < 5).sum() > 20
    block = fm.schema_.block("user")
    number = {fm.schema_.feature_name(int(i)): int(i) for i in block}
    fm.save(tmp_path / "fm.crossfm")
    for factors in (fm.factors_, load_model(tmp_path / "fm.crossfm").models[0].factors):
        for user, count in zip(users, counts, strict=True):
            i = number[f"user={user}"]
            assert factors[i].any() == (count >= 5)
            assert fm.coef_[i] != 0
    scores = fm.predict(FRAME)
    np.testing.assert_array_equal(cf.load(tmp_path / "fm.crossfm").predict(FRAME), scores)


def test_rare_features_become_frequent_batch_by_batch():
    fm = FMRegressor(**QUICK, min_count_factors=3)
    for seen in range(1, 5):
        fm.partial_fit({"user": ["ann", f"new {seen}"]}, [1.0, 2.0])
        names = [fm.schema_.feature_name(i) for i in range(len(fm.coef_))]
        with_factors = {n for n, v in zip(names, fm.factors_, strict=True) if v.any()}
        assert with_factors == ({"user=ann"} if seen >= 3 else set())


def test_a_streamed_fit_counts_its_files(tmp_path):
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "log.parquet"
    pandas.DataFrame({**FRAME, "y": Y}).to_parquet(path)
    quick = {**QUICK, "min_count_factors": 5, "l2_scaling": 0.5}
    whole = FMRegressor(**quick, stream=False).fit(str(path), "y")
    streamed = FMRegressor(**quick, stream=True, cache_dir=tmp_path / "cache").fit(str(path), "y")
    rare = ~whole.factors_.any(axis=1)
    assert 20 < rare.sum() < len(rare) - 20
    np.testing.assert_array_equal(rare, ~streamed.factors_.any(axis=1))


def test_what_scales_with_counts_shrinks_the_frequent_less():
    """With 0, rare features carry as much penalty as frequent ones: they stay smaller."""
    sizes = {}
    for power in (None, 0.0):
        fm = FMRegressor(**{**QUICK, "n_epochs": 30}, l2_linear=0.3, l2_scaling=power)
        fm.fit(FRAME, Y)
        counts = np.zeros(len(fm.coef_))
        rows = fm.schema_.transform(FRAME)
        np.add.at(counts, rows.ids.ravel(), 1)
        block = fm.schema_.block("user")
        w, n = np.abs(fm.coef_[block]), counts[block]
        sizes[power] = w[n >= 50].mean(), w[(n > 0) & (n < 3)].mean()
    assert sizes[0.0][0] > sizes[None][0]
    assert sizes[0.0][1] < sizes[None][1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": {"usr": 0.1}}, r"learning_rate names the field 'usr'. Did you mean"),
        ({"learning_rate": {"user": 0.0}}, "field_learning_rates must be a finite number above 0"),
        ({"learning_rate": {"*": "quick"}}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": [0.1]}, "learning_rate holds 1 numbers, expected one for each of the 2"),
        ({"l2_linear": {"usr": 0.1, "*": 1.0}}, r"l2_linear names the field 'usr'"),
        ({"l2_scaling": 2.5}, "l2_scaling is 2.5, expected a number from 0"),
        ({"min_count_factors": 0}, "min_count_factors is 0, expected an integer of at least 1"),
        ({"min_count_factors": "few"}, "min_count_factors is 'few', expected an integer"),
    ],
)
def test_refusals_name_the_option(options, message):
    with pytest.raises(DataError, match=message):
        FMClassifier(**{**QUICK, **options}).fit(FRAME, Y > 0)


def test_ids_without_fields_take_no_names():
    rows = Rows(np.array([[0, 1], [1, 2]]), targets=np.array([0.0, 1.0]))
    with pytest.raises(DataError, match="learning_rate names the field 'user', but X has no named"):
        FMRegressor(**QUICK, learning_rate={"user": 0.1}).fit(rows)
