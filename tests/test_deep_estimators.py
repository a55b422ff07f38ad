"""DeepRegressor and DeepClassifier: every form of input, every promise of the other estimators."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need PyTorch, an optional extra")

from made_up import numbers, ratings  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_iris  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

import crossfm as cf  # noqa: E402
from crossfm import DeepClassifier, DeepRegressor, FMClassifier, Rows  # noqa: E402
from crossfm.errors import DataError, ModelFileError, SchemaError  # noqa: E402
from crossfm.nn.batch import Batch  # noqa: E402
from crossfm.nn.deepfm import DeepFM  # noqa: E402
from crossfm.nn.training import loop  # noqa: E402

SMALL = {"hidden": (16,)}


def classifier(n_epochs=10, **options):
    given = {"network_options": SMALL, "learning_rate": 0.2, "random_state": 0, "device": "cpu"}
    return DeepClassifier(4, n_epochs=n_epochs, **given | options)


def regressor(n_epochs=10, **options):
    given = {"network_options": SMALL, "learning_rate": 0.2, "random_state": 0, "device": "cpu"}
    return DeepRegressor(4, n_epochs=n_epochs, **given | options)


def app_uses(n=1500, seed=0):
    """Which app is used in which context: one user's habits are not another's."""
    rng = np.random.default_rng(seed)
    log = {
        "user": rng.integers(0, 30, n),
        "app": rng.choice(["mail", "maps", "music", "news", "chess", "bank"], n),
        "weekday": rng.integers(0, 7, n),
    }
    code = np.unique(log["app"], return_inverse=True)[1]
    return log, (log["user"] + code) % 2 == 0


# --- learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        "deepfm",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("nfm", "dcn", "wide_deep")),
    ],
)
def test_learns_what_no_column_tells_alone(network):
    X, y = app_uses()
    fresh, truth = app_uses(500, seed=1)
    model = classifier(n_epochs=15, network=network).fit(X, y)
    assert model.score(fresh, truth) > 0.9
    proba = model.predict_proba(fresh)
    assert proba.shape == (500, 2)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(fresh), proba[:, 1] > 0.5)
    np.testing.assert_allclose(
        model.decision_function(fresh), np.log(proba[:, 1] / proba[:, 0]), rtol=1e-3, atol=1e-4
    )
    assert model.classes_.tolist() == [False, True]
    assert model.feature_names_in_.tolist() == ["user", "app", "weekday"]
    assert model.n_features_in_ == 3
    assert [epoch["epoch"] for epoch in model.history_] == list(range(1, model.n_iter_ + 1))


def test_numbers_on_their_own_scale():
    X, y = ratings(1000)
    model = regressor(n_epochs=12).fit(X, 1000 * y - 7)
    shifted, plain = model.score(X, 1000 * y - 7), regressor(n_epochs=12).fit(X, y).score(X, y)
    assert shifted == pytest.approx(plain, abs=0.02)
    assert plain > 0.8
    deviation = np.sqrt(2 * model.history_[-1]["loss"])  # half the squared error, on y's scale
    assert 50 < deviation < 2000


def test_raw_columns_of_a_matrix():
    """Scales from 0.001 to 10,000, and zeros, dense and sparse alike."""
    import scipy.sparse

    X, y = numbers(1200)
    dense = regressor(n_epochs=15).fit(X[:900], y[:900])
    assert dense.score(X[900:], y[900:]) > 0.8
    sparse = regressor(n_epochs=15).fit(scipy.sparse.csr_array(X[:900]), y[:900])
    np.testing.assert_allclose(sparse.predict(X[900:]), dense.predict(X[900:]), rtol=1e-4)
    np.testing.assert_allclose(
        dense.predict(scipy.sparse.csr_array(X[900:])), dense.predict(X[900:]), rtol=1e-5
    )


def test_more_classes_are_a_network_each():
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = classifier(n_epochs=30).fit(X, names)
    assert model.score(X, names) > 0.9
    assert model.decision_function(X).shape == model.predict_proba(X).shape == (150, 3)
    assert len(model.network_.networks) == 3


def test_early_stopping_keeps_the_best_epoch():
    X, y = app_uses(2000)
    rng = np.random.default_rng(2)
    noise = {**X, "user": rng.integers(0, 500, 2000)}
    y = rng.random(2000) < 0.5
    valid = {name: column[:500] for name, column in noise.items()}, rng.random(500) < 0.5
    model = classifier(n_epochs=30, patience=2).fit(noise, y, eval_set=valid)
    losses = [epoch["log_loss"] for epoch in model.history_]
    assert model.best_epoch_ == 1 + int(np.argmin(losses))
    assert model.n_iter_ == model.best_epoch_ + 2 < 30
    proba = model.predict_proba(valid[0])[:, 1]
    found = -np.mean(np.log(np.where(valid[1], proba, 1 - proba)))
    assert found == pytest.approx(min(losses), rel=1e-5)


def test_holding_out_by_itself():
    X, y = app_uses(1500)
    model = classifier(n_epochs=3, early_stopping=True).fit(X, y)
    assert "log_loss" in model.history_[0]


# --- inputs -------------------------------------------------------------------------------------


def test_frames_rows_files_and_batches_agree(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    X, y = app_uses(600)
    first = classifier(n_epochs=2).fit(X, y)
    expected = first.predict_proba(X)
    table = pa.table({**X, "used": y})
    pq.write_table(table, tmp_path / "log.parquet")
    np.testing.assert_array_equal(
        classifier(n_epochs=2).fit(table, "used").predict_proba(X), expected
    )
    of_file = classifier(n_epochs=2).fit(tmp_path / "log.parquet", "used")
    np.testing.assert_array_equal(of_file.predict_proba(tmp_path / "log.parquet"), expected)
    of_batches = classifier(n_epochs=2, schema=first.schema_).fit(
        (table.slice(at, 200) for at in (0, 200, 400)), "used"
    )
    np.testing.assert_array_equal(of_batches.predict_proba(X), expected)


def test_ids_learn_their_fields_from_their_places():
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(0, 30, 2000), 30 + rng.integers(0, 20, 2000)], axis=1)
    y = (ids.sum(axis=1) % 2).astype(int)
    model = classifier(n_epochs=15).fit(Rows(ids), y)
    assert model.network_.n_fields == 2
    assert model.score(Rows(ids), y) > 0.95
    with pytest.warns(UserWarning, match="beyond the 50 of the fit"):
        model.predict(Rows(np.array([[3, 77]])))
    ids[:, 1] -= 30  # now an id has two places
    assert classifier(n_epochs=1).fit(Rows(ids), y).network_.n_fields == 1


def test_ids_with_fields_of_their_own(tmp_path):
    path = tmp_path / "x.ffm"
    lines = [f"{n % 2} 0:{n % 2}:1 1:{2 + n % 3}:0.5 1:{5 + n % 2}:2\n" for n in range(60)]
    path.write_text("".join(lines))
    model = classifier(n_epochs=12).fit(path)
    assert model.network_.n_fields == 2
    assert model.score(path) == 1.0
    rows = Rows(np.array([[0, 2]]), fields=np.array([[0, 2]]))
    with pytest.raises(DataError, match="X names field 2, the fit saw the fields 0 to 1"):
        model.predict(rows)


def test_unseen_categories_and_missing_values():
    X, y = app_uses(1000)
    model = classifier(n_epochs=3).fit(X, y)
    odd = {"user": [999, None], "app": ["unheard of", None], "weekday": [3, None]}
    assert np.isfinite(model.predict_proba(odd)).all()


def test_a_schema_of_bags():
    schema = cf.Schema([cf.Categorical("user"), cf.Bag("tags", sep="|")])
    rng = np.random.default_rng(0)
    tags = ["|".join(rng.choice(["a", "b", "c"], rng.integers(0, 4))) for _ in range(800)]
    X = {"user": rng.integers(0, 5, 800), "tags": tags}
    y = np.array(["a" in tag for tag in tags])
    model = classifier(n_epochs=10, schema=schema).fit(X, y)
    assert model.score(X, y) > 0.98
    assert not schema.is_fitted


# --- networks of one's own ----------------------------------------------------------------------


class Own(torch.nn.Module):
    def __init__(self, n_features, n_factors, field_of=None, n_fields=None, width=8):
        super().__init__()
        self.table = torch.nn.Embedding(n_features, n_factors, sparse=True)
        self.top = torch.nn.Linear(n_factors * n_fields, width)
        self.out = torch.nn.Linear(width, 1)

    def forward(self, batch):
        assert isinstance(batch, Batch)
        return self.out(torch.relu(self.top(self.table(batch.ids).flatten(1)))).squeeze(1)


def test_a_class_and_a_module_of_ones_own(tmp_path):
    X, y = app_uses(1500)
    given = {"learning_rate_dense": 0.02, "network_options": {"width": 32}}
    model = classifier(n_epochs=15, network=Own, **given).fit(X, y)
    assert model.score(X, y) > 0.9
    module = Own(model.schema_.n_features_, 4, n_fields=3)
    before = module.out.weight.detach().clone()
    ours = classifier(n_epochs=5, network=module, network_options=None).fit(X, y)
    assert torch.equal(module.out.weight, before)  # a copy was trained
    assert not torch.equal(ours.network_.out.weight, before)
    assert isinstance(clone(ours).network, Own)
    model.save(tmp_path / "own.crossfm")
    with pytest.raises(ModelFileError, match="a network of your own"):
        cf.load(tmp_path / "own.crossfm")
    again = cf.load(tmp_path / "own.crossfm", network=Own)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_networks_by_class_and_of_several_outputs():
    X, y = app_uses(500)
    by_name, by_class = classifier(2).fit(X, y), classifier(2, network=DeepFM).fit(X, y)
    np.testing.assert_array_equal(by_name.predict_proba(X), by_class.predict_proba(X))
    kinds = np.arange(500) % 3
    with pytest.raises(DataError, match=r"returned logits \[\d+\], expected \[\d+, n_classes\]"):
        classifier(2, network=by_name.network_, network_options=None).fit(X, kinds)


# --- promises -----------------------------------------------------------------------------------


def test_random_state_decides():
    X, y = app_uses(500)
    one, same, other = (classifier(2, random_state=s).fit(X, y) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.predict_proba(X), same.predict_proba(X))
    assert one.history_[0]["loss"] == same.history_[0]["loss"]
    assert not np.array_equal(one.predict_proba(X), other.predict_proba(X))


def test_weights():
    X, y = app_uses(900)
    weight = np.random.default_rng(0).integers(0, 3, 900).astype(float)
    one = classifier(2).fit(X, y, sample_weight=weight)
    double = classifier(2).fit(X, y, sample_weight=2 * weight)
    np.testing.assert_array_equal(one.predict_proba(X), double.predict_proba(X))
    kept = {name: column[weight > 0] for name, column in X.items()}
    schema = one.schema_
    zero = classifier(2, schema=schema).fit(X, y, sample_weight=(weight > 0).astype(float))
    without = classifier(2, schema=schema).fit(kept, y[weight > 0])
    np.testing.assert_array_equal(zero.predict_proba(X), without.predict_proba(X))
    rare = np.arange(900) % 10 == 0
    balanced = classifier(2, class_weight="balanced").fit(X, rare)
    assert balanced.predict_proba(X)[:, 1].mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("kind", ["frame", "matrix", "ids", "classes"])
def test_save_and_load(tmp_path, kind):
    path = tmp_path / "x.crossfm"
    if kind == "frame":
        X, y = ratings(300)
        model = regressor(2).fit(X, y)
    elif kind == "matrix":
        X, y = numbers(300)
        model = regressor(2, network="nfm").fit(X, y)  # with batch norm
    elif kind == "ids":
        X, y = Rows(np.arange(200).reshape(100, 2) % 14), np.arange(100) % 2
        model = classifier(2).fit(X, y)
    else:
        X, y = load_iris(return_X_y=True)
        model = classifier(2, init_scale=0.1).fit(X, y)
    model.save(path, metadata={"of": "today"})
    again = cf.load(path)
    assert type(again) is type(model)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.history_ == model.history_
    assert (again.n_iter_, again.best_epoch_) == (model.n_iter_, model.best_epoch_)
    assert again.n_features_in_ == model.n_features_in_
    ours, theirs = again.get_params(), model.get_params()
    for name in set(ours) - {"schema", "network_options"}:
        assert ours[name] == theirs[name], name
    assert list(ours["network_options"]["hidden"]) == [16]
    again.fit(X, y)
    if kind != "frame":
        np.testing.assert_array_equal(again.predict(X), model.predict(X))
    again.save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[:-9] + bytes(9), whole.replace(b"Deep", b"Deap")):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError):
            cf.load(path)
    path.write_bytes(whole)
    with pytest.raises(ModelFileError, match=r"holds a network.*crossfm.load"):
        cf.store.load_model(path)


def test_pickle_clone_and_search():
    X, y = app_uses(400)
    model = classifier(2).fit(X, y)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert clone(model).get_params() == model.get_params()
    X, y = load_iris(return_X_y=True)
    search = GridSearchCV(classifier(3), {"n_factors": [2, 4]}, cv=2).fit(X, y)
    assert search.best_params_["n_factors"] in (2, 4)


def test_the_words_of_the_other_estimators():
    """What both have is called alike; the rest is known by name."""
    ours, theirs = set(DeepClassifier().get_params()), set(FMClassifier().get_params())
    assert theirs - ours == {
        "loss", "l1_linear", "l1_factors", "warm_start", "n_jobs", "deterministic", "stream",
        "cache_dir", "l2_scaling", "min_count_factors", "precision",
        "sampling",
    }  # fmt: skip
    assert ours - theirs == {
        "network", "network_options", "learning_rate_dense", "batch_size", "weight_decay",
        "clip_norm", "schedule", "warmup", "device", "mixed_precision",
    }  # fmt: skip
    assert set(DeepRegressor().get_params()) == ours - {"class_weight"}
    assert not hasattr(DeepClassifier, "partial_fit")


def test_an_interrupted_fit_goes_on(tmp_path, monkeypatch):
    X, y = app_uses(600)
    whole = classifier(4).fit(X, y)
    monkeypatch.setattr(loop, "LOOK_SECONDS", -1.0)
    monkeypatch.setattr(loop, "PATIENT_SECONDS", -1.0)

    def progress(event, told):
        if event == "rows" and told["epoch"] == 3:
            raise KeyboardInterrupt

    model = classifier(4, checkpoint=tmp_path / "fit.ckpt")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y, progress=progress)
    assert model.n_iter_ == 2
    assert np.isfinite(model.predict_proba(X)).all()
    model.fit(X, y)
    assert model.n_iter_ == 4
    np.testing.assert_array_equal(model.predict_proba(X), whole.predict_proba(X))
    assert not (tmp_path / "fit.ckpt").exists()


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"network": "deepfn"}, "Did you mean 'deepfm'"),
        ({"network_options": {"hiden": (3,)}}, "no option 'hiden'"),
        ({"network_options": 3}, "network_options is 3, expected a dict"),
        ({"device": "abacus"}, "device is 'abacus'"),
        ({"network_options": {"n_factors": 3}}, "n_factors, which is a parameter of its own"),
        ({"device": "meta"}, "device is 'meta', where tensors have no numbers"),
        ({"solver": "adagradd"}, "solver is 'adagradd'.*Did you mean 'adagrad'"),
        ({"n_factors": 0}, "n_factors is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": -1}, "learning_rate is -1"),
        ({"l2_factors": -1}, "l2_factors is -1"),
        ({"schedule": "often"}, "schedule is 'often'"),
        ({"mixed_precision": "half"}, "mixed_precision is 'half'"),
        ({"interactions": "some"}, "interactions is 'some'"),
        ({"checkpoint": 3}, "checkpoint is 3, expected a path"),
        ({"checkpoint": "x", "random_state": None}, "checkpoint needs random_state"),
        ({"n_epochs": 0}, "n_epochs is 0"),
    ],
)
def test_refused_parameters(given, message):
    X, y = app_uses(50)
    with pytest.raises(DataError, match=message):
        classifier().set_params(**given).fit(X, y)


def test_refused_data():
    X, y = app_uses(50)
    with pytest.raises(DataError, match="all 50 targets are of one class"):
        classifier().fit(X, np.ones(50))
    with pytest.raises(DataError, match="inconsistent numbers of samples"):
        classifier().fit(X, y[:10])
    with pytest.raises(ValueError, match=r"0 sample|no rows|empty"):
        regressor().fit(np.empty((0, 3)), np.empty(0))
    with pytest.raises(SchemaError, match="no column 'app'"):
        classifier(1).fit(X, y).predict({"user": [1], "weekday": [1]})
    with pytest.raises(DataError, match="none of the classes"):
        classifier(1).fit(X, y.astype(int), eval_set=(X, y.astype(int) + 5))


def test_batch_norm_needs_two_rows_a_batch():
    X, y = app_uses(9)
    with pytest.raises(DataError, match="a batch has one row, and batch norm needs two or more"):
        classifier(1, network="nfm", batch_size=1).fit(X, y)


def test_one_row():
    schema = cf.Schema([cf.Categorical("user")])
    model = regressor(2, schema=schema).fit({"user": ["ann"]}, [3.0])
    assert model.predict({"user": ["ann", "bob"]}) == pytest.approx([3.0, 3.0], abs=0.3)


def test_torch_is_imported_when_it_is_needed_and_missed_by_name():
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(name, name='torch')\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import crossfm as cf, crossfm.estimators\n"
        "from crossfm.errors import MissingExtraError\n"
        "cf.FMClassifier\n"
        "try:\n    cf.DeepClassifier\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'crossfm[torch]'" in done.stdout
    code = "import sys, crossfm.estimators; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- scikit-learn's own checks ------------------------------------------------------------------

ONE_STEP = "one step a batch: a row of weight 2 is not two rows"
NOT_EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": ONE_STEP,
    "check_sample_weight_equivalence_on_sparse_data": ONE_STEP,
}


@parametrize_with_checks(
    [
        DeepRegressor(4, network_options={"hidden": (8,)}, n_epochs=15, learning_rate=0.1,
                      learning_rate_dense=0.01, device="cpu"),
        DeepClassifier(4, network_options={"hidden": (8,)}, n_epochs=15, learning_rate=0.1,
                       learning_rate_dense=0.01, device="cpu"),
    ],
    expected_failed_checks=lambda estimator: NOT_EXPECTED,
)  # fmt: skip
def test_contract(estimator, check):
    check(estimator)
