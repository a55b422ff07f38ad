"""Estimators of the machines with other crossed terms, from data to a file and back."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_estimator_checks import NOT_EXPECTED

import crossfm as cf
from crossfm.errors import DataError, ModelFileError
from crossfm.solvers import feeding

CLASSES = [cf.FFMClassifier, cf.FwFMClassifier, cf.FmFMClassifier, cf.HOFMClassifier]
REGRESSORS = [cf.FFMRegressor, cf.FwFMRegressor, cf.FmFMRegressor, cf.HOFMRegressor]
HIGHER = (cf.HOFMClassifier, cf.HOFMRegressor)  # go without fields
each = pytest.mark.parametrize("kind", CLASSES + REGRESSORS, ids=lambda kind: kind.__name__)


@parametrize_with_checks(
    [kind() for kind in CLASSES + REGRESSORS],
    expected_failed_checks=lambda estimator: NOT_EXPECTED,
)
def test_contract(estimator, check):
    check(estimator)


def xor(n=400, seed=0):
    """No column alone tells; the third says nothing."""
    rng = np.random.default_rng(seed)
    columns = {name: rng.integers(0, 3, n).astype(str) for name in ("a", "b", "c")}
    return columns, (columns["a"] == columns["b"]).astype(int)


@each
def test_a_frame_is_learned_saved_loaded_and_pickled(kind, tmp_path):
    X, y = xor()
    model = kind(random_state=0, n_epochs=60, early_stopping=False).fit(X, y)
    scores = model.predict_proba(X)[:, 1] if kind in CLASSES else model.predict(X)
    assert np.abs(scores - y).max() < 0.4
    model.save(tmp_path / "m.crossfm")
    loaded = cf.load(tmp_path / "m.crossfm")
    assert type(loaded) is kind
    assert loaded.get_params() == {**model.get_params(), "schema": loaded.schema}
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    one = {name: values[:1] for name, values in X.items()}
    raw = model.model_.score(model.schema_.transform(one))[0]
    np.testing.assert_allclose(model.explain(one).score, raw, rtol=1e-5, atol=1e-5)


@each
def test_learning_goes_on_after_loading_and_with_new_values(kind, tmp_path):
    X, y = xor()
    model = kind(random_state=0, n_epochs=3).fit(X, y)
    model.save(tmp_path / "m.crossfm")
    model = cf.load(tmp_path / "m.crossfm")
    before = model.model_
    new = {"a": ["9"] * 20, "b": ["1"] * 20, "c": ["0"] * 20}
    model.partial_fit(new, np.arange(20) % 2)
    after = model.model_
    assert after.n_features == before.n_features + 1
    assert after.kind == before.kind
    assert np.abs(after.weights[-1]) >= 0
    same = [name for name in ("a", "c") if name in X]
    assert same
    few = {name: values[:2] for name, values in X.items()}
    np.testing.assert_allclose(  # a small batch between two steps is scored like the whole model
        model._machine.score(model.schema_.transform(few)),
        after.score(model.schema_.transform(few)),
        rtol=1e-5,
        atol=1e-6,
    )


@each
def test_every_source_of_fields_gives_the_same_model(kind):
    """A frame of categories, rows that carry fields, and rows of ids of one field each."""
    X, y = xor()
    options = {"random_state": 0, "n_epochs": 5, "early_stopping": False}
    framed = kind(**options).fit(X, y)
    rows = framed.schema_.transform(X)
    carried = rows.replace(fields=framed.schema_.field_of_[rows.ids])
    direct = kind(**options).fit(carried, y)
    n = direct.model_.n_features
    np.testing.assert_array_equal(direct.factors_, framed.factors_[:n])
    np.testing.assert_allclose(direct.predict(carried), framed.predict(X), rtol=1e-6)
    if kind in HIGHER:
        return
    with pytest.raises(DataError, match=r"needs the field of each feature.*libffm"):
        kind(**options).fit(rows, y)
    further = carried.replace(fields=carried.fields + 1)
    with pytest.raises(DataError, match=r"fields go up to 3, .* 0 to 2"):
        direct.predict(further)


@each
def test_a_matrix_has_a_field_a_column(kind):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 4)).astype(np.float32) * np.array([1, 10, 0.1, 1], np.float32)
    z = X[:, 0] * X[:, 1] / 5 + X[:, 2]
    y = (z > 0).astype(int) if kind in CLASSES else z
    model = kind(random_state=0, n_epochs=100, early_stopping=False, l2_factors=0.0).fit(X, y)
    assert model.model_.n_fields == (None if kind in HIGHER else 4)
    if kind not in HIGHER:
        np.testing.assert_array_equal(model.model_.field_of, np.arange(4))
    assert model.score(X, y) > 0.9


def test_field_weights_find_the_pair_that_matters():
    X, y = xor(2000)
    model = cf.FwFMClassifier(random_state=0, n_epochs=20, early_stopping=False).fit(X, y)
    r = model.model_.field_weights
    assert r[0, 1] == r[1, 0] > 2 * max(abs(r[0, 2]), abs(r[1, 2])) > 0


def test_the_scale_of_targets_is_that_of_sets_of_every_size():
    """Vectors of order t are on the scale of the targets' t-th root."""
    X, y = xor()
    rng = np.random.default_rng(1)
    y = y + 0.1 * rng.normal(size=len(y))
    options = {"random_state": 0, "n_epochs": 10, "early_stopping": False, "order": 4}
    one = cf.HOFMRegressor(**options).fit(X, y).predict(X)
    model = cf.HOFMRegressor(**options).fit(X, 1000 * y - 50)
    np.testing.assert_allclose(model.predict(X), 1000 * one - 50, rtol=1e-3, atol=0.05)
    few = {name: values[:2] for name, values in X.items()}
    np.testing.assert_allclose(model.predict(few), model.predict(X)[:2], rtol=1e-5)
    again = model.partial_fit(X, 1000 * y - 50)  # the models go back into a trainer
    assert np.abs(again.predict(X) - 1000 * one + 50).max() < 300


def test_several_classes():
    X, _ = xor()
    y = (X["a"].astype(int) + X["b"].astype(int)) % 3
    for kind in CLASSES:
        model = kind(random_state=0, n_epochs=80, early_stopping=False).fit(X, y)
        assert len(model.models_) == 3
        assert model.score(X, y) > 0.95


@each
def test_options_that_make_no_such_model(kind):
    X, y = xor(50)
    with pytest.raises(DataError, match="n_factors must be an integer from 1"):
        kind(n_factors=0).fit(X, y)
    if "Fw" in kind.__name__ or "FmFM" in kind.__name__:
        with pytest.raises(DataError, match="take 'across_fields'"):
            kind(interactions="all").fit(X, y)
    elif kind in HIGHER:
        with pytest.raises(DataError, match="order is 2, expected an integer of at least 3"):
            kind(order=2).fit(X, y)
        assert kind(order=4).get_params()["order"] == 4
    else:
        assert kind().n_factors == 4


@each
@pytest.mark.parametrize("solver", ["adagrad", "sgd", "ftrl", "adam"])
def test_every_solver_learns(kind, solver):
    X, y = xor(1500)
    rate = {"sgd": 0.1, "adam": 0.01}.get(solver)
    model = kind(solver=solver, learning_rate=rate, random_state=0, n_epochs=40, l2_factors=0.0,
                 init_scale=0.2, early_stopping=False).fit(X, y)  # fmt: skip
    scores = model.predict_proba(X)[:, 1] if kind in CLASSES else model.predict(X)
    assert np.abs(scores - y).mean() < 0.15


@each
@pytest.mark.parametrize("form", ["frame", "libffm"])
def test_files_are_streamed_to_the_same_model(kind, form, tmp_path, monkeypatch):
    monkeypatch.setattr(feeding, "GROUP_FEATURES", 500)
    X, y = xor(600)
    options = {"random_state": 0, "n_epochs": 4, "early_stopping": False, "shuffle": False}
    if form == "frame":
        path = tmp_path / "log.parquet"
        pq.write_table(pa.table({**X, "y": y}), path, row_group_size=100)
        given = (path, "y")
    else:
        path = tmp_path / "log.ffm"
        lines = [
            f"{label} " + " ".join(f"{f}:{3 * f + int(X[n][r])}:1" for f, n in enumerate(X))
            for r, label in enumerate(y)
        ]
        path.write_text("\n".join(lines) + "\n")
        given = (path,)
    whole = kind(**options).fit(*given)
    streamed = kind(stream=True, cache_dir=tmp_path / "cache", **options).fit(*given)
    assert streamed.model_.n_fields == whole.model_.n_fields == (None if kind in HIGHER else 3)
    np.testing.assert_allclose(streamed.factors_, whole.factors_, rtol=1e-4, atol=1e-6)
    few = {name: column[:50] for name, column in X.items()} if form == "frame" else path
    np.testing.assert_allclose(streamed.predict(few), whole.predict(few), rtol=1e-4, atol=1e-5)


def test_a_stream_without_fields_is_refused(tmp_path):
    (tmp_path / "log.libsvm").write_text("1 0:1 2:1\n0 1:1 2:1\n" * 9)
    with pytest.raises(DataError, match=r"FFMClassifier needs the field of each feature"):
        cf.FFMClassifier(stream=True).fit(tmp_path / "log.libsvm")


def test_a_file_whose_estimator_is_another_is_refused(tmp_path):
    X, y = xor(50)
    model = cf.FFMClassifier(n_epochs=1).fit(X, y)
    from crossfm.store import load_model, save_model

    path = tmp_path / "m.crossfm"
    model.save(path)
    stored = load_model(path)
    save_model(stored.models, path, metadata={**stored.metadata, "estimator": "FMClassifier"})
    with pytest.raises(ModelFileError, match="broken description"):
        cf.load(path)
