"""partial_fit: one pass a call, growing tables, work in proportion to the batch; and files."""

from __future__ import annotations

import copy
import json
import pickle
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from made_up import numbers, ratings

from crossfm import Categorical, FMClassifier, FMRegressor, Rows, Schema, load
from crossfm.errors import DataError, DivergedError, ModelFileError
from crossfm.store import load_model, save_model

ONE_PASS = {"n_factors": 4, "n_epochs": 1, "random_state": 0}


def batches(frame, y, size):
    for low in range(0, len(y), size):
        part = slice(low, low + size)
        yield {name: column[part] for name, column in frame.items()}, y[part]


# --- learning piece by piece --------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adagrad", "sgd", "ftrl"])
def test_the_first_batch_is_one_epoch(solver):
    frame, y = ratings()
    by_fit = FMRegressor(solver=solver, **ONE_PASS).fit(frame, y)
    by_part = FMRegressor(solver=solver, **ONE_PASS).partial_fit(frame, y)
    np.testing.assert_array_equal(by_fit.factors_, by_part.factors_)
    assert by_part.n_iter_ == 1
    label = (y > 3).astype(int)
    by_fit = FMClassifier(solver=solver, **ONE_PASS).fit(frame, label)
    by_part = FMClassifier(solver=solver, **ONE_PASS).partial_fit(frame, label, classes=[0, 1])
    np.testing.assert_array_equal(by_fit.factors_, by_part.factors_)


@pytest.mark.parametrize("solver", ["adagrad", "ftrl"])
def test_unshuffled_batches_are_one_epoch(solver):
    """The optimizer's state lives on from call to call."""
    frame, y = ratings()
    schema = Schema([Categorical("user"), Categorical("film")]).fit(frame)
    options = ONE_PASS | {"solver": solver, "schema": schema, "shuffle": False}
    label = (y > 3).astype(int)
    whole = FMClassifier(learning_rate=0.1, l2_factors=0.01, warm_start=True, **options)
    parts = FMClassifier(learning_rate=0.1, l2_factors=0.01, **options)
    whole.fit(frame, label)
    parts.partial_fit(frame, label, classes=[0, 1])
    np.testing.assert_array_equal(parts.factors_, whole.factors_)
    whole.fit(frame, label)
    for part, target in batches(frame, label, 150):
        parts.partial_fit(part, target)
    np.testing.assert_array_equal(parts.factors_, whole.factors_)
    assert parts.n_iter_ == len(parts.history_) == 5


def test_streaming_learns():
    frame, y = ratings(6300)
    fm = FMRegressor(random_state=0)
    for part, target in list(batches(frame, y, 300))[:-1]:
        fm.partial_fit(part, target)
    assert fm.score({name: column[6000:] for name, column in frame.items()}, y[6000:]) > 0.8


def test_new_categories_grow_the_table_and_known_ids_stay():
    frame, y = ratings()
    fm = FMRegressor(**ONE_PASS).partial_fit(frame, y)
    n, names = fm.schema_.n_features_, fm.schema_.feature_names()
    before = fm.factors_.copy(), fm.coef_.copy()
    assert fm.predict({"user": ["new"], "film": ["new too"]}).shape == (1,)
    fm.partial_fit({"user": ["new"] * 5, "film": ["new too"] * 5}, [9.0] * 5)
    assert fm.schema_.feature_names() == [*names, "user=new", "film=new too"]
    assert fm.coef_.shape == (n + 2,)
    assert (fm.coef_[n:] > 0).all()
    np.testing.assert_array_equal(fm.coef_[:n], before[1])  # rows that were not touched
    np.testing.assert_array_equal(fm.factors_[:n], before[0])
    assert fm.model_.field_of.tolist() == fm.schema_.field_of_.tolist()


def test_new_ids_grow_the_table():
    fm = FMRegressor(**ONE_PASS).partial_fit(Rows(np.array([[0, 1]])), [1.0])
    fm.partial_fit(Rows(np.array([[0, 5000]])), [3.0])
    assert fm.coef_.shape == (5001,)
    assert fm.coef_[5000] > 0 == fm.coef_[4999]


def test_new_ids_beside_scaled_ones_keep_their_values():
    fm = FMRegressor(**ONE_PASS)
    fm.partial_fit(Rows(np.array([[0, 1]] * 4), np.full((4, 2), 100.0)), [1.0, 2.0, 1.0, 2.0])
    assert fm._features.scaling.scale.tolist() == [100.0, 100.0]
    fm.partial_fit(Rows(np.array([[0, 3]]), np.array([[100.0, 7.0]])), [2.0])
    assert fm._features.scaling.scale.tolist() == [100.0, 100.0, 1.0, 1.0]
    rows = Rows(np.array([[1, 3]]), np.array([[50.0, 2.0]]))
    np.testing.assert_allclose(fm.predict(rows), fm.model_.score(rows), rtol=1e-6)


def test_scales_are_those_of_the_first_data():
    X, y = numbers()
    fm = FMRegressor(**ONE_PASS).partial_fit(X[:100], y[:100])
    for _ in range(40):
        fm.partial_fit(1.0 * X, y)
    assert fm.score(X, y) > 0.9
    np.testing.assert_array_equal(fm.predict(X), fm.model_.score(Rows.from_csr(sp.csr_array(X))))


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
def test_a_score_between_two_batches_is_that_of_the_whole_model(form):
    """Few rows are scored from their own parameters alone, to the same bits."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 60)) * (rng.random((400, 60)) < 0.05)
    X[:, 0] = rng.normal(5, 2, 400)  # a centred column
    y = X @ rng.standard_normal(60)
    fm = FMRegressor(**ONE_PASS).partial_fit(form(X), y)
    fm.partial_fit(form(X[:10]), y[:10])
    some = fm.predict(form(X[:2]))
    assert fm._machine._models is None  # the whole was not needed
    np.testing.assert_array_equal(some, fm.model_.score(Rows.from_csr(sp.csr_array(X[:2]))))


def test_several_classes_and_labels_that_come_late():
    frame, y = ratings()
    label = np.array(["low", "middle", "high"])[np.digitize(y, [2.0, 4.0])]
    fm = FMClassifier(random_state=0)
    with pytest.raises(DataError, match="classes must be passed on the first call"):
        fm.partial_fit(frame, label)
    some = label != "high"
    first = {name: column[some] for name, column in frame.items()}
    fm.partial_fit(first, label[some], classes=["low", "middle", "high"])
    for _ in range(30):
        fm.partial_fit(frame, label)
    assert fm.score(frame, label) > 0.8
    with pytest.raises(DataError, match="target 'huge' is none of the classes"):
        fm.partial_fit({"user": [10**6], "film": [1]}, ["huge"])
    assert np.isfinite(fm.decision_function(frame)).all()  # still in order
    assert fm.models_[0].n_features == fm.schema_.n_features_
    with pytest.raises(DataError, match="in the first call they were"):
        fm.partial_fit(frame, label, classes=["low", "high"])
    with pytest.raises(DataError, match="'balanced' needs all targets"):
        FMClassifier(class_weight="balanced").partial_fit(frame, label, classes=[1, 2])


def test_partial_fit_goes_on_from_fit():
    frame, y = ratings()
    fm = FMRegressor(n_epochs=20, random_state=0).fit(frame, y)
    before = fm.score(frame, y)
    fm.partial_fit({name: column[:50] for name, column in frame.items()}, y[:50])
    assert fm.n_iter_ == 21
    assert fm.score(frame, y) > before - 0.02


def test_batches_and_files_are_learned_piece_by_piece(tmp_path):
    frame, y = ratings()
    one, two = FMRegressor(**ONE_PASS), FMRegressor(**ONE_PASS)
    for part, target in batches(frame, y, 100):
        one.partial_fit(part, target)
    two.partial_fit(batches(frame, y, 100))
    np.testing.assert_array_equal(one.factors_, two.factors_)
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, (part, target) in zip(paths, batches(frame, y, 300), strict=True):
        pq.write_table(pa.table({**part, "rating": target}), path)
    three, four = FMRegressor(**ONE_PASS), FMRegressor(**ONE_PASS)
    for part, target in batches(frame, y, 300):
        three.partial_fit(part, target)
    four.partial_fit(paths, "rating")
    np.testing.assert_array_equal(three.factors_, four.factors_)


def test_a_batch_that_diverges_leaves_the_model_of_before_if_it_was_asked_for():
    frame, y = ratings()
    fm = FMRegressor(solver="sgd", **ONE_PASS).partial_fit(frame, y)
    good = fm.predict(frame)
    with pytest.raises(DivergedError):
        fm.set_params(learning_rate=100.0).partial_fit(frame, y)
    np.testing.assert_array_equal(fm.predict(frame), good)
    X = np.eye(3)
    fm = FMRegressor(solver="sgd", scale_values=False, **ONE_PASS)
    fm.partial_fit(X, [1.0, 2.0, 4.0]).partial_fit(X, [1.0, 2.0, 4.0])
    with pytest.raises(DivergedError) as caught:
        fm.partial_fit(np.full((99, 3), 1e6), np.ones(99))
    assert "load the last file" in caught.value.__notes__[0]
    assert not fm.__sklearn_is_fitted__()


def test_a_small_batch_costs_nothing_of_the_table():
    """Two tables, one 30 times larger: a batch takes about as long."""
    rng = np.random.default_rng(0)
    times = []
    for n_features in (50_000, 1_500_000):
        fm = FMClassifier(random_state=0)
        start = Rows(np.array([[0, 1], [n_features - 2, n_features - 1]]))
        fm.partial_fit(start, [0, 1], classes=[0, 1])
        taken = []
        for _ in range(15):
            rows = Rows(rng.integers(0, n_features, (100, 20)))
            y = rng.integers(0, 2, 100)
            started = time.perf_counter()
            fm.partial_fit(rows, y)
            fm.predict(rows)
            taken.append(time.perf_counter() - started)
        times.append(min(taken))
    # the large table is 200 MB: a single pass over it takes 20 ms or more
    assert times[1] < 5 * times[0] + 0.004


# --- files --------------------------------------------------------------------------------------


def fitted(kind):
    frame, y = ratings()
    X, z = numbers()
    label = np.array(["low", "middle", "high"])[np.digitize(y, [2.0, 4.0])]
    options = {"n_factors": 5, "n_epochs": 3, "random_state": 0}
    if kind == "frame":
        return FMRegressor(**options).fit(frame, y), frame, y
    if kind == "matrix":
        return FMRegressor(**options).fit(X, z), X, z
    if kind == "rows":
        rows = Rows(np.stack(list(frame.values()), axis=1), np.full((600, 2), 3.0, np.float32))
        return FMClassifier(class_weight={0: 2.0}, **options).fit(rows, y > 3), rows, y > 3
    if kind == "across":
        return FMRegressor(interactions="across_fields", **options).fit(X, z), X, z
    if kind == "partial":
        fm = FMRegressor(**options)
        return fm.partial_fit(frame, y).partial_fit({"user": [99], "film": [99]}, [3.0]), frame, y
    return FMClassifier(**options).fit(frame, label), frame, label


KINDS = ["frame", "matrix", "rows", "across", "partial", "classes"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_estimator_predicts_the_same_and_learns_on(kind, tmp_path):
    fm, X, y = fitted(kind)
    path = tmp_path / "model.crossfm"
    fm.save(path)
    again = load(path)
    assert type(again) is type(fm)
    for method in ("predict", "predict_proba", "decision_function"):
        if hasattr(fm, method):
            np.testing.assert_array_equal(getattr(again, method)(X), getattr(fm, method)(X))
    assert again.score(X, y) == fm.score(X, y)
    assert again.history_ == fm.history_
    assert (again.n_iter_, again.best_epoch_) == (fm.n_iter_, fm.best_epoch_)
    assert again.n_features_in_ == fm.n_features_in_
    assert again.get_params() == fm.get_params() | {"schema": again.schema}
    if hasattr(fm, "classes_"):
        np.testing.assert_array_equal(again.classes_, fm.classes_)
        assert again.classes_.dtype == fm.classes_.dtype
    before = again.score(X, y)
    for _ in range(3):
        again.partial_fit(X, y)
    assert again.score(X, y) > before - 0.05
    again.save(path)
    np.testing.assert_array_equal(load(path).predict(X), again.predict(X))


@pytest.mark.parametrize("kind", KINDS)
def test_copies_learn_on_too(kind):
    fm, X, y = fitted(kind)
    for copied in (copy.deepcopy(fm), pickle.loads(pickle.dumps(fm))):  # noqa: S301
        np.testing.assert_array_equal(copied.predict(X), fm.predict(X))
        copied.partial_fit(X, y)
        assert not np.array_equal(copied.models_[0].factors, fm.models_[0].factors)


@pytest.mark.parametrize("kind", ["matrix", "across", "frame"])
def test_unfolding_is_the_inverse_of_folding(kind):
    fm, *_ = fitted(kind)
    machine = fm._machine
    trained = [machine.trainer.parameters(0)[i] for i in (0, 1, 2)]
    found = machine._unfolded(machine.models()[0])
    np.testing.assert_allclose(found.factors, trained[2], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.weights, trained[1], rtol=1e-4, atol=1e-5)
    assert found.bias == pytest.approx(trained[0], abs=1e-4)


def test_half_precision(tmp_path):
    fm, X, _ = fitted("frame")
    fm.save(tmp_path / "half.crossfm", precision="float16")
    np.testing.assert_allclose(load(tmp_path / "half.crossfm").predict(X), fm.predict(X), rtol=5e-3)


def test_files_that_no_estimator_wrote(tmp_path):
    fm, *_ = fitted("frame")
    path = tmp_path / "model.crossfm"
    save_model(fm.model_, path)
    with pytest.raises(ModelFileError, match="no estimator wrote it"):
        load(path)
    fm.save(path)
    metadata = load_model(path).metadata
    json.dumps(metadata)
    for change in (
        {"estimator": "os.system"},
        {"targets": {"mean": 0.0, "std": -1.0}},
        {"targets": {}},
        {"features": {"kind": "matrix", "scaling": None}},
        {"parameters": None},
        {"history": 3},
    ):
        save_model(fm.model_, path, metadata=metadata | change)
        with pytest.raises(ModelFileError, match=r"no estimator wrote it|broken description"):
            load(path)
    with pytest.raises(ModelFileError, match="Check the path"):
        load(tmp_path / "absent.crossfm")


def test_parameters_that_json_cannot_hold_come_back_as_defaults(tmp_path):
    frame, y = ratings(50)
    fm = FMRegressor(n_epochs=1, random_state=np.random.RandomState(0), l2_factors={"user": 1e-3})
    fm.fit(frame, y).save(tmp_path / "m.crossfm")
    again = load(tmp_path / "m.crossfm")
    assert again.random_state is None
    assert again.l2_factors == {"user": 1e-3}
    assert again.schema.fields == fm.schema_.fields
    assert not again.schema.is_fitted
    again.fit(frame, y)
