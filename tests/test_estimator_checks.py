"""scikit-learn's own checks of both estimators, and the tools that rely on them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from crossfm import FMClassifier, FMRegressor, OrdinalFMRegressor

# One pass takes one step a row. A row of weight 2 takes one step of twice the size, which is not
# two steps with another row between them; so it is for every solver that goes row by row
# (scikit-learn's own SGDRegressor is exempt from these two checks for the same reason). What does
# hold is in test_estimators.py: weight 0 is no row, and only proportions of weights count.
ONE_STEP = "one step a row: a row of weight 2 is not two rows"
SWEEPS = ("mcmc", "als", "vb")
START = "weights are brought to a mean of 1: beside a penalty a row of weight 2 is not two rows"
DRAWN = {
    "check_sample_weight_equivalence_on_dense_data": START,
    "check_sample_weight_equivalence_on_sparse_data": START,
}
LEVELS = "ratings have a predict_proba over their levels, which is taken for a classifier's"
OF_LEVELS = {
    **DRAWN,
    "check_estimator_sparse_array": LEVELS,
    "check_estimator_sparse_matrix": LEVELS,
    "check_regressors_no_decision_function": LEVELS,
}
NOT_EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": ONE_STEP,
    "check_sample_weight_equivalence_on_sparse_data": ONE_STEP,
}


@parametrize_with_checks(
    [FMRegressor(), FMClassifier()],
    expected_failed_checks=lambda estimator: NOT_EXPECTED,
)
def test_contract(estimator, check):
    check(estimator)


def expected(estimator):
    """The checks that do not hold, by reason."""
    if isinstance(estimator, OrdinalFMRegressor):
        return OF_LEVELS
    return DRAWN if estimator.solver in SWEEPS else NOT_EXPECTED


@parametrize_with_checks(
    [
        FMRegressor(solver="ftrl", l1_linear=0.01, interactions="across_fields"),
        FMRegressor(solver="sgd", early_stopping=True, validation_fraction=0.3),
        FMClassifier(n_jobs=2, deterministic=True, n_factors=3),
        FMRegressor(solver="adam"),
        FMRegressor(loss="huber"),
        FMRegressor(loss="poisson"),
        FMRegressor(loss="quantile"),
        FMClassifier(loss="hinge", solver="adam"),
        *(
            cls(solver=solver, n_epochs=20)
            for solver in SWEEPS
            for cls in (FMRegressor, FMClassifier)
        ),
        OrdinalFMRegressor(n_epochs=20),
    ],
    expected_failed_checks=expected,
)
@pytest.mark.slow
def test_contract_of_other_options(estimator, check):
    check(estimator)


def test_tags():
    tags = FMRegressor().__sklearn_tags__()
    assert tags.input_tags.sparse
    assert not tags.regressor_tags.poor_score
    assert not tags.non_deterministic
    assert FMClassifier(n_jobs=2).__sklearn_tags__().non_deterministic
    assert not FMClassifier(n_jobs=2, deterministic=True).__sklearn_tags__().non_deterministic
    assert FMClassifier().__sklearn_tags__().classifier_tags.multi_class


# --- untuned, beside the usual linear model -----------------------------------------------------

NEAR = 0.02  # of R2 or accuracy: what the folds of a few hundred rows leave to chance


@pytest.mark.parametrize(
    ("load", "ours", "theirs"),
    [
        (load_diabetes, FMRegressor, RidgeCV()),
        (load_breast_cancer, FMClassifier, LogisticRegression()),
        (load_iris, FMClassifier, LogisticRegression()),
    ],
    ids=["diabetes", "breast_cancer", "iris"],
)
def test_untuned_on_raw_columns_near_a_linear_model_on_scaled_ones(load, ours, theirs):
    X, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    found = cross_val_score(ours(random_state=0), X[order], y[order], cv=5).mean()
    baseline = make_pipeline(StandardScaler(), theirs)
    assert found > cross_val_score(baseline, X[order], y[order], cv=5).mean() - NEAR


# --- pipelines, searches, copies ----------------------------------------------------------------


def test_pipeline_with_one_hot_columns():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 5, (400, 3)).astype(str)
    y = (X[:, 0] == X[:, 1]).astype(int)  # no column alone tells
    pipe = make_pipeline(OneHotEncoder(), FMClassifier(n_factors=4, n_epochs=150, random_state=0))
    assert pipe.fit(X[:300], y[:300]).score(X[300:], y[300:]) > 0.95


def test_pipeline_that_hands_on_frames():
    pd = pytest.importorskip("pandas", reason="frames need pandas, a development extra")
    X, y = load_iris(return_X_y=True, as_frame=True)
    pipe = make_pipeline(StandardScaler(), FMClassifier(random_state=0))
    pipe.set_output(transform="pandas")
    assert isinstance(X, pd.DataFrame)
    assert pipe.fit(X, y).score(X, y) > 0.9
    assert pipe[-1].feature_names_in_.tolist() == list(X.columns)


def test_grid_search_and_cross_validation():
    X, y = load_iris(return_X_y=True)
    grid = {"n_factors": np.array([0, 4]), "learning_rate": [0.01, 0.1]}
    search = GridSearchCV(FMClassifier(n_epochs=5, random_state=0), grid, cv=3).fit(X, y)
    assert set(search.best_params_) == set(grid)
    proba = cross_val_predict(FMClassifier(random_state=0), X, y, cv=3, method="predict_proba")
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    scores = cross_val_score(FMClassifier(random_state=0), X, y, cv=3, scoring="neg_log_loss")
    assert scores.mean() > -0.3


def test_frames_in_cross_validation():
    pd = pytest.importorskip("pandas", reason="frames need pandas, a development extra")
    rng = np.random.default_rng(0)
    log = pd.DataFrame({"user": rng.integers(0, 20, 600), "item": rng.integers(0, 10, 600)})
    effect = rng.standard_normal(20)[log["user"]] + rng.standard_normal(10)[log["item"]]
    scores = cross_val_score(FMRegressor(random_state=0), log, effect, cv=3)
    assert scores.min() > 0.9


@pytest.mark.parametrize("frame", [False, True])
def test_pickle_and_clone(frame):
    X, y = load_iris(return_X_y=True, as_frame=frame)
    fitted = FMClassifier(n_epochs=5, random_state=0, class_weight="balanced").fit(X, y)
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301 - our own bytes
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert again.history_ == fitted.history_
    copy = clone(fitted)
    assert not copy.__sklearn_is_fitted__()
    assert copy.get_params() == fitted.get_params()
    np.testing.assert_array_equal(copy.fit(X, y).predict_proba(X), fitted.predict_proba(X))
