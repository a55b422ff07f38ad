"""FMRegressor and FMClassifier: what is learned, and on which scale."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from made_up import numbers, ratings

from crossfm import Bag, Categorical, FMClassifier, FMRegressor, Rows, Schema
from crossfm.errors import DataError
from crossfm.metrics import rmse

FOLDED = 2e-4  # float32 parameters whose scale was folded in, against float64 arithmetic


def slow_score(intercept, coef, factors, X):
    """The definition, in float64: every pair of columns."""
    V, out = factors.astype(float), []
    for x in np.asarray(X, float):
        s = float(intercept) + float(coef.astype(float) @ x)
        for i in range(len(x)):
            for j in range(i):
                s += float(V[i] @ V[j]) * x[i] * x[j]
        out.append(s)
    return np.array(out)


# --- regression ----------------------------------------------------------------------------------


def test_interactions_are_learned_untuned():
    frame, y = ratings()
    train = {name: column[:500] for name, column in frame.items()}
    test = {name: column[500:] for name, column in frame.items()}
    fm = FMRegressor(random_state=0).fit(train, y[:500])
    linear = FMRegressor(n_factors=0, random_state=0).fit(train, y[:500])
    assert rmse(y[500:], fm.predict(test)) < 0.7 * rmse(y[500:], linear.predict(test))


def test_parameters_are_those_of_raw_values_and_targets():
    X, y = numbers()
    fm = FMRegressor(n_factors=3, random_state=0).fit(X, y)
    want = slow_score(fm.intercept_, fm.coef_, fm.factors_, X)
    np.testing.assert_allclose(fm.predict(X), want, rtol=FOLDED, atol=FOLDED * y.std())
    np.testing.assert_array_equal(fm.model_.score(Rows.from_csr(sp.csr_array(X))), fm.predict(X))
    assert fm.score(X, y) > 0.9
    assert fm.n_features_in_ == 5
    assert fm.coef_.shape == (5,)
    assert fm.factors_.shape == (5, 3)
    assert isinstance(fm.intercept_, float)


def test_scale_of_targets_changes_nothing_but_the_scale():
    frame, y = ratings()
    small = FMRegressor(random_state=0).fit(frame, y)
    large = FMRegressor(random_state=0).fit(frame, 1e6 + 1e3 * y)
    np.testing.assert_allclose(large.predict(frame), 1e6 + 1e3 * small.predict(frame), rtol=1e-5)
    # half the squared error, in the targets' own units
    assert large.history_[-1]["loss"] == pytest.approx(1e6 * small.history_[-1]["loss"], rel=1e-3)


@pytest.mark.parametrize("level", [0.0, 7.5, -1e6])
def test_a_constant_target_is_predicted(level):
    frame, _ = ratings(50)
    fm = FMRegressor(random_state=0).fit(frame, np.full(50, level))
    # what is left of random factors of size 0.01
    np.testing.assert_allclose(fm.predict(frame), level, rtol=1e-6, atol=1e-3)


def test_one_row():
    fm = FMRegressor(random_state=0).fit({"user": ["ann", "bob"]}, [3.0, 3.0])
    np.testing.assert_allclose(fm.predict({"user": ["cid"]}), [3.0], rtol=1e-6)


@pytest.mark.parametrize("solver", ["adagrad", "sgd", "ftrl"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4, 1e9])
def test_raw_columns_of_any_scale_neither_diverge_nor_starve(solver, scale):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 6))
    y = X[:, 0] + X[:, 1] * X[:, 2]
    fm = FMRegressor(solver=solver, n_epochs=100, random_state=0).fit(scale * X, y)
    assert fm.score(scale * X, y) > 0.9


def test_large_offsets_keep_their_precision():
    rng = np.random.default_rng(0)
    X = np.column_stack([1.7e9 + 1e6 * rng.standard_normal(500), rng.standard_normal(500)])
    y = (X[:, 0] - 1.7e9) / 1e6 * X[:, 1]
    fm = FMRegressor(n_epochs=300, learning_rate=0.1, random_state=0).fit(X, y)
    assert fm.score(X, y) > 0.8


def test_scale_values_off_trains_on_values_as_they_are():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3))
    plain = FMRegressor(scale_values=False, random_state=0).fit(X, X[:, 0])
    rows = Rows(np.tile(np.arange(3), (200, 1)), X.astype(np.float32))
    again = FMRegressor(scale_values=False, random_state=0).fit(rows, X[:, 0])
    np.testing.assert_array_equal(plain.coef_, again.coef_)


# --- classification ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["no", "yes"]),
        np.array([-1, 1]),
        np.array([False, True]),
        np.array([2.0, 5.0]),
        np.array(["no", "yes"], dtype=object),
    ],
    ids=["strings", "signs", "booleans", "floats", "objects"],
)
def test_two_classes_of_any_kind(labels):
    frame, y = ratings()
    positive = y > np.median(y)
    fm = FMClassifier(random_state=0).fit(frame, labels[positive.astype(int)])
    np.testing.assert_array_equal(fm.classes_, labels)
    found = fm.predict(frame)
    assert set(found) <= set(labels)
    assert (found == labels[positive.astype(int)]).mean() > 0.9
    score, proba = fm.decision_function(frame), fm.predict_proba(frame)
    np.testing.assert_allclose(proba[:, 1], 1 / (1 + np.exp(-score.astype(float))), rtol=1e-6)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(found == labels[1], score > 0)
    assert fm.score(frame, labels[positive.astype(int)]) == (found == labels[positive * 1]).mean()


def test_several_classes_share_a_softmax():
    frame, y = ratings()
    label = np.array(["low", "middle", "high"])[np.digitize(y, [2.0, 4.0])]
    fm = FMClassifier(n_factors=4, random_state=0).fit(frame, label)
    assert fm.classes_.tolist() == ["high", "low", "middle"]
    assert len(fm.models_) == 3
    n = fm.schema_.n_features_
    assert (fm.coef_.shape, fm.factors_.shape) == ((3, n), (3, n, 4))
    assert fm.intercept_.shape == (3,)
    score, proba = fm.decision_function(frame), fm.predict_proba(frame)
    e = np.exp(score.astype(float))
    np.testing.assert_allclose(proba, e / e.sum(axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(fm.predict(frame), fm.classes_[score.argmax(axis=1)])
    assert fm.score(frame, label) > 0.8
    with pytest.raises(AttributeError, match="use models_"):
        _ = fm.model_


def test_probabilities_start_at_the_base_rate():
    rng = np.random.default_rng(0)
    X = sp.csr_array((200, 3))  # nothing to learn from
    y = (rng.random(200) < 0.2).astype(int)
    fm = FMClassifier(n_epochs=1, learning_rate=1e-6, random_state=0).fit(X, y)
    np.testing.assert_allclose(fm.predict_proba(X)[:, 1], y.mean(), rtol=1e-3)
    three = rng.integers(0, 3, 200)
    fm = FMClassifier(n_epochs=1, learning_rate=1e-6, random_state=0).fit(X, three)
    share = np.bincount(three) / 200
    np.testing.assert_allclose(fm.predict_proba(X)[0], share, rtol=1e-3)


def test_class_weight_is_sample_weight():
    frame, y = ratings()
    label = (y > 4).astype(int)
    share = np.bincount(label) / len(label)
    by_dict = FMClassifier(random_state=0, class_weight={0: 1.0, 1: 3.0}).fit(frame, label)
    by_row = FMClassifier(random_state=0).fit(frame, label, sample_weight=1.0 + 2.0 * label)
    np.testing.assert_array_equal(by_dict.coef_, by_row.coef_)
    balanced = FMClassifier(random_state=0, class_weight="balanced").fit(frame, label)
    by_row = FMClassifier(random_state=0).fit(frame, label, sample_weight=0.5 / share[label])
    np.testing.assert_allclose(balanced.coef_, by_row.coef_, rtol=1e-4, atol=1e-6)
    weight = np.random.default_rng(1).choice([1.0, 2.0, 4.0], len(label))
    both = FMClassifier(random_state=0, class_weight={0: 1.0, 1: 3.0})
    by_row = FMClassifier(random_state=0).fit(
        frame, label, sample_weight=weight * (1.0 + 2.0 * label)
    )
    np.testing.assert_array_equal(both.fit(frame, label, sample_weight=weight).coef_, by_row.coef_)


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adagrad", "sgd", "ftrl"])
def test_weight_zero_is_no_row(solver):
    X, y = numbers()
    weight = np.random.default_rng(1).integers(0, 3, len(y)).astype(float)
    kept = weight > 0
    some = FMRegressor(solver=solver, random_state=0).fit(X, y, sample_weight=weight)
    less = FMRegressor(solver=solver, random_state=0).fit(
        X[kept], y[kept], sample_weight=weight[kept]
    )
    np.testing.assert_array_equal(some.predict(X), less.predict(X))


def test_only_proportions_of_weights_count():
    X, y = numbers()
    weight = np.random.default_rng(1).random(len(y)) + 0.5
    one = FMRegressor(random_state=0).fit(X, y, sample_weight=weight)
    two = FMRegressor(random_state=0).fit(X, y, sample_weight=1024 * weight)
    np.testing.assert_allclose(one.predict(X), two.predict(X), rtol=1e-5)
    none = FMRegressor(random_state=0).fit(X, y)
    ones = FMRegressor(random_state=0).fit(X, y, sample_weight=np.full(len(y), 8.0))
    np.testing.assert_array_equal(none.predict(X), ones.predict(X))


def test_sgd_steps_twice_as_far_for_twice_the_weight():
    X = sp.csr_array(np.array([[1.0, 0.0], [0.0, 1.0]]))
    y, options = [0.0, 1.0], {"solver": "sgd", "n_factors": 0, "n_epochs": 1, "random_state": 0}
    step = 0.01
    fm = FMRegressor(learning_rate=step, **options).fit(X, y, sample_weight=[1.0, 3.0])
    # mean 0.75, deviation sqrt(3)/4: standardised targets -sqrt(3) and 1/sqrt(3), weights 1/2, 3/2
    deviation = np.sqrt(3) / 4
    want = step * deviation * np.array([-np.sqrt(3) / 2, 3 / 2 / np.sqrt(3)])
    np.testing.assert_allclose(fm.coef_, want, rtol=0.03)  # the bias has moved in between


# --- reproducible --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"n_jobs": 3, "deterministic": True}])
def test_a_random_state_gives_the_same_bits(options):
    frame, y = ratings(2000)
    first, second, other = (
        FMRegressor(random_state=seed, n_epochs=3, early_stopping=False, **options).fit(frame, y)
        for seed in (4, np.random.RandomState(4), 5)
    )
    np.testing.assert_array_equal(first.factors_, second.factors_)
    assert not np.array_equal(first.factors_, other.factors_)


def test_warm_start_goes_on():
    frame, y = ratings()
    fm = FMRegressor(n_epochs=3, warm_start=True, random_state=0).fit(frame, y)
    before = fm.history_[-1]["loss"]
    fm.fit(frame, y)
    assert fm.history_[0]["loss"] < before
    assert fm.n_iter_ == 3
    cold = FMRegressor(n_epochs=3, random_state=0).fit(frame, y)
    assert cold.history_[0]["loss"] > before
    more = {"user": [*frame["user"], 99], "film": [*frame["film"], 99]}
    fm.fit(more, np.append(y, 3.0))  # new values have found a place
    assert fm.schema_.n_features_ == cold.schema_.n_features_ + 2


# --- other options -------------------------------------------------------------------------------


def test_ftrl_sets_weights_to_exactly_zero():
    frame, y = ratings()
    fm = FMRegressor(solver="ftrl", l1_linear=100.0, l1_factors=100.0, random_state=0)
    fm.fit(frame, y)
    assert (fm.coef_ == 0).mean() > 0.3
    with pytest.raises(ValueError, match="does not apply to solver='adagrad'"):
        FMRegressor(l1_linear=1.0).fit(frame, y)


def test_a_penalty_of_one_field():
    frame, y = ratings()
    free = FMRegressor(l2_factors=0.0, random_state=0, n_epochs=20).fit(frame, y)
    held = FMRegressor(l2_factors={"film": 5.0}, random_state=0, n_epochs=20).fit(frame, y)

    def size(fm, name):
        return float(np.abs(fm.factors_[fm.schema_.block(name)]).mean())

    assert size(held, "film") < 0.1 * size(free, "film")
    with pytest.raises(DataError, match="'flim'"):
        FMRegressor(l2_factors={"flim": 1.0}).fit(frame, y)


def test_across_fields_pools_a_bag_first():
    rng = np.random.default_rng(0)
    tags = [list(rng.choice(list("abcdef"), 3, replace=False)) for _ in range(200)]
    frame = {"tags": tags, "user": rng.integers(0, 9, 200)}
    y = rng.standard_normal(200)
    schema = Schema([Bag("tags"), Categorical("user")])
    fm = FMRegressor(interactions="across_fields", schema=schema, random_state=0).fit(frame, y)
    assert fm.model_.interactions == "across_fields"
    alone = fm.model_.score(Rows(np.array([[2, 3]])))[0]  # two tags: no pair across fields
    assert alone == pytest.approx(fm.intercept_ + fm.coef_[2] + fm.coef_[3], rel=1e-5)


def test_across_fields_equals_all_where_each_column_is_a_field():
    X, y = numbers()
    found = [
        FMRegressor(interactions=word, random_state=0).fit(X, y).predict(X)
        for word in ("all", "across_fields")
    ]
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_explain_names_the_terms_of_one_row():
    frame, y = ratings()
    fm = FMRegressor(random_state=0).fit(frame, y)
    found = fm.explain({"user": 3, "film": 5})
    assert found.names == ("user=3", "film=5")
    assert found.score == pytest.approx(float(fm.predict({"user": [3], "film": [5]})[0]), rel=1e-5)
    with pytest.raises(DataError, match="one row"):
        fm.explain(frame)
    three = FMClassifier(random_state=0, n_epochs=2).fit(frame, np.digitize(y, [2.0, 4.0]))
    assert three.explain({"user": 3, "film": 5}, of=2).score == pytest.approx(
        float(three.decision_function({"user": [3], "film": [5]})[0, 2]), rel=1e-4, abs=1e-5
    )
    with pytest.raises(DataError, match=r"of=\.\.\."):
        three.explain({"user": 3, "film": 5})
