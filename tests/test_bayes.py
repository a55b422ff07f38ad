"""Estimators by Gibbs sampling, variational Bayes and least squares: what they predict and keep."""

from __future__ import annotations

import pickle
import signal

import numpy as np
import pytest
import scipy.sparse
from made_up import numbers, ratings
from scipy.stats import norm
from sklearn.base import clone

import crossfm as cf
from crossfm import FMClassifier, FMRegressor, Priors, Rows, Sampling
from crossfm.errors import DataError, DivergedError, ModelFileError
from crossfm.solvers.sweeps import effective_sample_size, r_hat

SWEEPS = ["mcmc", "als", "vb"]


def parts_of(n=2400, seed=0):
    frame, y = ratings(n, seed)
    cut = n * 3 // 4
    return (
        {name: column[:cut] for name, column in frame.items()}, y[:cut],
        {name: column[cut:] for name, column in frame.items()}, y[cut:],
    )  # fmt: skip


def definition(model, rows):
    """The double sum, in float64."""
    out = []
    offsets = rows.row_offsets()
    for r in range(len(rows)):
        part = slice(offsets[r], offsets[r + 1])
        ids = rows.ids[part]
        x = np.ones(len(ids)) if rows.values is None else rows.values[part].astype(float)
        V = model.factors[ids].astype(float)
        y = model.bias + model.weights[ids].astype(float) @ x
        y += sum(V[i] @ V[j] * x[i] * x[j] for j in range(len(ids)) for i in range(j))
        out.append(y)
    return np.array(out)


@pytest.mark.parametrize("solver", SWEEPS)
def test_numbers_are_predicted(solver):
    X, y, X_new, y_new = parts_of()
    fm = FMRegressor(4, solver=solver, n_epochs=60, random_state=0).fit(X, y)
    assert fm.score(X_new, y_new) > (0.9 if solver == "als" else 0.98)
    assert fm.n_iter_ == 60
    assert fm.history_[-1]["loss"] < fm.history_[0]["loss"]


@pytest.mark.parametrize("solver", SWEEPS)
def test_classes_are_predicted(solver):
    X, y, X_new, y_new = parts_of()
    fm = FMClassifier(4, solver=solver, n_epochs=60, random_state=0).fit(X, y > 3)
    assert fm.score(X_new, y_new > 3) > 0.9
    assert fm.history_[-1]["loss"] < fm.history_[0]["loss"]


def test_prediction_is_the_mean_over_the_draws():
    X, y = ratings(300)
    fm = FMRegressor(3, solver="mcmc", n_epochs=20, random_state=0).fit(X, y)
    rows = fm.schema_.transform(X)
    assert len(fm.draws_) == 18  # a tenth is left out
    scores = np.array([definition(draw, rows) for draw in fm.draws_])
    np.testing.assert_allclose(fm.predict(X), scores.mean(axis=0), rtol=1e-5)  # float32
    np.testing.assert_allclose(fm.model_.score(rows), scores.mean(axis=0), rtol=1e-5)
    assert fm.model_.n_factors == 18 * 3
    noise = np.mean(y.std() ** 2 / fm.traces_["noise"][0, 2:])
    mean, deviation = fm.predict(X, return_std=True)
    np.testing.assert_allclose(mean, fm.predict(X), rtol=1e-6)
    np.testing.assert_allclose(deviation, np.sqrt(scores.var(axis=0) + noise), rtol=1e-4)
    explained = fm.explain({"user": 3, "film": 4})
    np.testing.assert_allclose(
        explained.score, fm.predict({"user": [3], "film": [4]})[0], rtol=1e-5
    )


def test_probabilities_are_averaged_over_the_draws():
    X, y = ratings(300)
    fm = FMClassifier(3, solver="mcmc", n_epochs=15, random_state=0).fit(X, y > 3)
    rows = fm.schema_.transform(X)
    probability = np.mean([norm.cdf(definition(draw, rows)) for draw in fm.draws_], axis=0)
    np.testing.assert_allclose(fm.predict_proba(X)[:, 1], probability, rtol=1e-4, atol=1e-7)


def test_quantiles_are_those_of_the_mixture():
    X, y = ratings(200)
    fm = FMRegressor(2, solver="mcmc", n_epochs=10, random_state=0).fit(X, y)
    rows = fm.schema_.transform(X)
    scores = np.array([definition(draw, rows) for draw in fm.draws_])
    noise = y.std() / np.sqrt(fm.traces_["noise"][0, 1:])
    found = fm.predict_quantiles(X, (0.1, 0.7))
    for at, level in enumerate((0.1, 0.7)):
        below = norm.cdf((found[:, at] - scores) / noise[:, None]).mean(axis=0)
        np.testing.assert_allclose(below, level, atol=1e-4)  # float32 numbers
    interval = fm.predict_interval(X, coverage=0.8)
    np.testing.assert_array_equal(interval, fm.predict_quantiles(X, (0.1, 0.9)))


@pytest.mark.parametrize("solver", ["mcmc", "vb"])
def test_intervals_cover_what_they_say(solver):
    X, y, X_new, y_new = parts_of(8000)
    fm = FMRegressor(2, solver=solver, n_epochs=120, random_state=0).fit(X, y)
    low, high = fm.predict_interval(X_new, coverage=0.9).T
    assert 0.88 < np.mean((low < y_new) & (y_new < high)) < 0.92


@pytest.mark.parametrize("solver", SWEEPS)
def test_raw_columns_of_a_matrix(solver):
    """Scaled inside, centres and all: scores and deviations are on the scale of the data."""
    X, y = numbers(400)
    y = y + 20 * np.random.default_rng(1).normal(size=400)
    fm = FMRegressor(2, solver=solver, n_epochs=100, random_state=0).fit(X[:300], y[:300])
    assert fm.score(X[300:], y[300:]) > 0.9
    csr = FMRegressor(2, solver=solver, n_epochs=100, random_state=0)
    csr.fit(scipy.sparse.csr_matrix(X[:300]), y[:300])
    np.testing.assert_allclose(csr.predict(X[300:]), fm.predict(X[300:]), rtol=1e-3)
    if solver != "als":
        gap = np.abs(y[300:] - fm.predict(X[300:]))
        deviation = fm.predict(X[300:], return_std=True)[1]
        assert 0.55 < np.mean(gap < deviation) < 0.8  # a normal number: 0.68


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
def test_forms_of_input(interactions):
    X, y = ratings(300)
    options = {"solver": "mcmc", "n_epochs": 6, "random_state": 0, "interactions": interactions}
    by_frame = FMRegressor(2, **options).fit(X, y)
    rows = by_frame.schema_.transform(X)
    fields = by_frame.schema_.field_of_[rows.ids].astype(np.int32)
    given = Rows(rows.ids, rows.values, rows.offsets, fields, n_rows=len(rows))
    groups = Sampling(groups=by_frame.schema_.field_of_)
    wide = rows.to_csr(by_frame.schema_.n_features_)
    for other in (given, wide, wide.toarray()):
        fm = FMRegressor(2, sampling=groups, **options)
        n = by_frame.schema_.n_features_
        if other is given:
            n = int(rows.ids.max()) + 1
            fm.set_params(sampling=Sampling(groups=by_frame.schema_.field_of_[:n]))
        fm.fit(other, y)
        assert np.corrcoef(fm.predict(other), by_frame.predict(X))[0, 1] > 0.98
    if interactions == "across_fields":
        bare = Rows(rows.ids, rows.values, rows.offsets, n_rows=len(rows))
        with pytest.raises(DataError, match="needs the field of each feature"):
            FMRegressor(2, **options).fit(bare, y)


def test_same_bits_for_a_seed_on_any_number_of_threads():
    X, y = ratings(600)
    options = {"solver": "mcmc", "n_epochs": 10, "random_state": 3}
    one = FMRegressor(4, **options).fit(X, y).predict(X)
    for n_jobs in (1, 2, 4):
        np.testing.assert_array_equal(
            FMRegressor(4, n_jobs=n_jobs, **options).fit(X, y).predict(X), one
        )
    assert (
        FMRegressor(4, solver="mcmc", n_epochs=10, random_state=4).fit(X, y).predict(X) != one
    ).any()


def test_weights_count_as_rows_do():
    """Least squares draws nothing: a weight of 2 is a row twice."""
    X, y = ratings(200)
    weight = 1.0 + (np.arange(200) % 2)
    twice = np.repeat(np.arange(200), weight.astype(int))
    options = {"solver": "als", "n_epochs": 300, "random_state": 0}
    # penalties are in units of the mean weight
    by_weight = FMRegressor(0, l2_linear=2.0, **options).fit(X, y, sample_weight=weight)
    by_row = FMRegressor(0, l2_linear=3.0, **options).fit(
        {name: column[twice] for name, column in X.items()}, y[twice]
    )
    np.testing.assert_allclose(by_weight.predict(X), by_row.predict(X), atol=1e-3)


def test_diagnostics_tell_chains_that_agree_from_others():
    X, y = ratings(300)
    sampling = Sampling(burn_in=10, n_chains=2)
    fm = FMRegressor(2, solver="mcmc", n_epochs=90, sampling=sampling, random_state=0).fit(X, y)
    found = fm.diagnostics_
    assert found.keys() == fm.traces_.keys()
    noise = fm.traces_["noise"][:, 10:]
    assert found["noise"] == {"r_hat": r_hat(noise),
                              "effective_sample_size": effective_sample_size(noise)}  # fmt: skip
    assert found["noise"]["r_hat"] < 1.2
    assert found["factor_mean"]["r_hat"].shape == (2, 2)
    trace = fm.traces_["factor_mean"][:, 10:, 1, 0]
    assert found["factor_mean"]["r_hat"][1, 0] == r_hat(trace)
    fm.traces_["noise"][1] += 100.0  # another chain altogether
    assert fm.diagnostics_["noise"]["r_hat"] > 1.5
    assert np.isnan(
        FMRegressor(2, solver="mcmc", n_epochs=2).fit(X, y).diagnostics_["noise"]["r_hat"]
    )
    with pytest.raises(AttributeError, match="after 'mcmc' alone"):
        _ = FMRegressor(2, solver="als", n_epochs=2).fit(X, y).diagnostics_
    with pytest.raises(AttributeError, match="after a fit by mcmc"):
        _ = FMRegressor(2, n_epochs=2).fit(X, y).diagnostics_


def test_diagnostics_of_a_burn_in_that_was_not_over():
    def stop(event, told):
        if told["epoch"] == 4:
            raise KeyboardInterrupt

    X, y = ratings(300)
    fm = FMRegressor(2, solver="mcmc", n_epochs=90, sampling=Sampling(burn_in=10), random_state=0)
    with pytest.raises(KeyboardInterrupt):
        fm.fit(X, y, progress=stop)
    assert fm.traces_["noise"].shape == (1, 4)
    assert np.isnan(fm.diagnostics_["noise"]["r_hat"])
    assert fm.diagnostics_["factor_mean"]["r_hat"].shape == (2, 2)


def test_draws_are_thinned_and_chains_pooled():
    X, y = ratings(200)
    sampling = Sampling(burn_in=5, n_chains=2, keep=4)
    fm = FMRegressor(2, solver="mcmc", n_epochs=25, sampling=sampling, random_state=0).fit(X, y)
    assert len(fm.draws_) == 8
    assert fm.traces_["noise"].shape == (2, 25)
    assert fm.traces_["factor_mean"].shape == (2, 25, 2, 2)
    every = fm.set_params(sampling=Sampling(burn_in=5, n_chains=2)).fit(X, y)
    assert len(every.draws_) == 40
    kept = [draw.bias for draw in every.draws_[4:20:5]]
    again = clone(fm).set_params(sampling=sampling).fit(X, y)
    assert [draw.bias for draw in again.draws_[:4]] == kept


def test_groups():
    X, y = ratings(200)

    def shape(groups, data=X):
        fm = FMRegressor(1, solver="mcmc", n_epochs=2, sampling=Sampling(groups=groups))
        return fm.fit(data, y).traces_["linear_mean"].shape[2]

    assert shape("fields") == 2
    assert shape("one") == shape({"user": "a", "film": "a"}) == 1
    assert shape({"user": "a"}) == 2
    assert shape("fields", np.column_stack([X["user"], X["film"]])) == 1
    for groups, message in (
        ("field", "groups is 'field'"),
        ({"usr": 1}, "Did you mean 'user'"),
        ([0, 1], r"groups has shape \(2,\)"),
    ):
        with pytest.raises(DataError, match=message):
            shape(groups)


def test_fit_goes_on():
    X, y, X_new, y_new = parts_of()
    fm = FMRegressor(4, solver="mcmc", n_epochs=10, warm_start=True, random_state=0).fit(X, y)
    first = [draw.bias for draw in fm.draws_]
    rmse = np.sqrt(np.mean((fm.predict(X_new) - y_new) ** 2))
    fm.set_params(n_epochs=60).fit(X, y)
    assert len(fm.draws_) == 9 + 60
    assert [draw.bias for draw in fm.draws_[:9]] == first
    assert fm.traces_["bias"].shape == (1, 70)
    assert np.sqrt(np.mean((fm.predict(X_new) - y_new) ** 2)) < rmse
    # A chain that goes on is past its burn-in: its first new sweep fits as its last one did.
    losses = [epoch["loss"] for epoch in fm.history_]
    assert losses[0] < 3 * np.median(losses)
    new = {"user": np.r_[X["user"], 77], "film": np.r_[X["film"], 3]}
    fm.set_params(n_epochs=5).fit(new, np.r_[y, 3.0])
    assert fm.predict({"user": [77], "film": [3]}).shape == (1,)
    for options, message in (
        ({"solver": "als"}, "fitted by 'mcmc'"),
        ({"solver": "adagrad"}, "fitted by 'mcmc'"),
        ({"n_factors": 3}, "n_factors is 3"),
        ({"sampling": Sampling(groups="one")}, "the groups or factors"),
    ):
        with pytest.raises(DataError, match=message):
            pickle.loads(pickle.dumps(fm)).set_params(**options).fit(X, y)  # noqa: S301


@pytest.mark.parametrize("kind", ["mcmc", "als", "vb", "probit", "groups"])
def test_files_hold_the_draws(tmp_path, kind):
    X, y = ratings(200)
    sampling = Sampling(n_chains=2, keep=3, priors=Priors(rate=2.0)) if kind == "mcmc" else None
    if kind == "groups":
        sampling = Sampling(groups={"user": 7})
    options = {"n_epochs": 10, "random_state": 0, "sampling": sampling}
    if kind == "probit":
        fm = FMClassifier(3, solver="mcmc", **options).fit(X, y > 3)
    else:
        fm = FMRegressor(3, solver=kind if kind in SWEEPS else "mcmc", **options).fit(X, y)
    fm.save(tmp_path / "a.crossfm")
    again = cf.load(tmp_path / "a.crossfm")
    assert again.get_params() == fm.get_params() | {"schema": again.schema}
    np.testing.assert_array_equal(again.predict(X), fm.predict(X))
    if kind == "probit":
        np.testing.assert_array_equal(again.predict_proba(X), fm.predict_proba(X))
    elif kind != "als":
        for one, other in zip(again.predict(X, True), fm.predict(X, True), strict=True):
            np.testing.assert_array_equal(one, other)
    for name, trace in fm.traces_.items():
        np.testing.assert_array_equal(again.traces_[name], trace)
    again.save(tmp_path / "b.crossfm", precision="float16")
    rounded = cf.load(tmp_path / "b.crossfm")
    np.testing.assert_allclose(rounded.predict(X) * 1.0, fm.predict(X) * 1.0, atol=0.05)
    y = y > 3 if kind == "probit" else y
    assert again.set_params(warm_start=True, n_epochs=2).fit(X, y).traces_["bias"].shape[1] == 12
    with pytest.raises(DataError, match="float16"):
        rounded.set_params(warm_start=True, n_epochs=2).fit(X, y)


def test_broken_descriptions_of_draws(tmp_path):
    from crossfm.store import load_model, save_model

    X, y = ratings(100)
    path = tmp_path / "a.crossfm"
    FMRegressor(2, solver="mcmc", n_epochs=5, random_state=0).fit(X, y).save(path)
    stored = load_model(path)
    for change in (
        {"noises": {"shape": [9], "float64": ""}},
        {"method": "guess"},
        {"traces": {}},
        {"cutpoints": stored.metadata["draws"]["noises"]},
        {"noises": {"shape": [1], "float64": "AAAAAAAA8H8="}},
    ):
        draws = {**stored.metadata["draws"], **change}
        save_model(stored.models, path, metadata={**stored.metadata, "draws": draws})
        with pytest.raises(ModelFileError, match="broken description"):
            cf.load(path)


def test_validation_is_of_the_mean_so_far():
    X, y, X_new, y_new = parts_of()
    told = []
    fm = FMRegressor(4, solver="mcmc", n_epochs=20, random_state=0).fit(
        X, y, eval_set=(X_new, y_new), progress=lambda event, numbers: told.append((event, numbers))
    )
    rmse = np.sqrt(np.mean((fm.predict(X_new) - y_new) ** 2))
    np.testing.assert_allclose(fm.history_[-1]["rmse"], rmse, rtol=1e-5)
    assert fm.n_iter_ == fm.best_epoch_ == 20
    assert [event for event, _ in told] == ["epoch"] * 20
    assert told[-1][1]["of"] == 20
    fm = FMClassifier(4, solver="mcmc", n_epochs=20, random_state=0)
    fm.fit(X, y > 3, eval_set=(X_new, y_new > 3))
    p = np.where(y_new > 3, fm.predict_proba(X_new)[:, 1], fm.predict_proba(X_new)[:, 0])
    np.testing.assert_allclose(fm.history_[-1]["log_loss"], -np.log(p).mean(), rtol=1e-5)


def test_least_squares_stop_early():
    X, y = ratings(200)
    y_new = np.random.default_rng(1).normal(size=200)  # nothing to learn from
    fm = FMRegressor(8, solver="als", n_epochs=50, early_stopping=True, random_state=0)
    fm.fit(X, y, eval_set=(X, y_new))
    assert fm.n_iter_ == fm.best_epoch_ + 3 < 50
    rmse = np.sqrt(np.mean((fm.predict(X) - y_new) ** 2))
    np.testing.assert_allclose(fm.history_[fm.best_epoch_ - 1]["rmse"], rmse, rtol=1e-5)
    held = FMRegressor(2, solver="als", n_epochs=3, early_stopping=True, random_state=0).fit(X, y)
    assert "rmse" in held.history_[0]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("at", [2, 12])
def test_an_interrupt_keeps_the_last_full_sweep(at):
    X, y = ratings(200)

    def progress(event, numbers):
        if numbers["epoch"] == at:
            signal.raise_signal(signal.SIGINT)

    options = {"solver": "mcmc", "random_state": 0, "sampling": Sampling(burn_in=5)}
    fm = FMRegressor(2, n_epochs=50, **options)
    with pytest.raises(KeyboardInterrupt):
        fm.fit(X, y, progress=progress)
    assert fm.n_iter_ == at
    assert len(fm.draws_) == max(1, at - 5)
    whole = FMRegressor(2, n_epochs=12, **options).fit(X, y)
    if at == 12:
        np.testing.assert_array_equal(fm.predict(X), whole.predict(X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.1}, "learning_rate=0.1 does not apply to solver='mcmc'"),
        ({"l2_factors": 0.1}, "learns its penalties"),
        ({"l1_linear": 0.1}, "l1_linear=0.1"),
        ({"min_count_factors": 3}, "min_count_factors=3"),
        ({"checkpoint": "a", "random_state": 0}, "checkpoint='a'"),
        ({"stream": True}, "stream=True"),
        ({"early_stopping": True}, "early_stopping=True does not go"),
        ({"loss": "huber"}, "loss='huber' does not go"),
        ({"sampling": {"burn_in": 3}}, "sampling is {'burn_in'"),
        ({"sampling": Sampling(burn_in=3), "n_epochs": 3}, "burn_in is 3 of 3 sweeps"),
        ({"sampling": Sampling(burn_in=-1)}, "burn_in is -1"),
        ({"sampling": Sampling(n_chains=0)}, "n_chains is 0"),
        ({"sampling": Sampling(keep=0)}, "keep .* is 0"),
        ({"sampling": Sampling(keep="some")}, "keep .* is 'some'"),
        ({"sampling": Sampling(n_chains=2), "solver": "als"}, "draws nothing"),
        ({"sampling": Sampling(), "solver": "sgd"}, "sampling is for the solvers"),
        ({"solver": "als", "l2_factors": -1.0}, "l2_factors is -1"),
        ({"solver": "als", "l2_factors": {"user": 1.0}}, "one number for all"),
        ({"solver": "mcmcm"}, "Did you mean 'mcmc'"),
        ({"init_scale": -1.0}, "init_scale is -1"),
        ({"interactions": "none"}, "interactions is 'none'"),
        ({"n_epochs": 0}, "n_epochs is 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    X, y = ratings(50)
    with pytest.raises(DataError, match=message):
        FMRegressor(**({"solver": "mcmc"} | options)).fit(X, y)


def test_what_only_some_solvers_have():
    X, y = ratings(50)
    assert not hasattr(FMRegressor(solver="mcmc"), "partial_fit")
    assert not hasattr(FMRegressor(), "predict_interval")
    fm = FMRegressor(n_epochs=1).fit(X, y)
    for name in ("draws_", "traces_"):
        with pytest.raises(AttributeError, match="after a fit by mcmc"):
            getattr(fm, name)
    for solver in ("adagrad", "als"):
        with pytest.raises(DataError, match="solver='mcmc'"):
            FMRegressor(solver=solver, n_epochs=1).fit(X, y).predict(X, return_std=True)
    with pytest.raises(DataError, match="plain factorization machines"):
        cf.FFMRegressor(solver="mcmc").fit(X, y)
    with pytest.raises(DataError, match="Only binary classification"):
        FMClassifier(solver="mcmc").fit(X, np.round(y))
    fm = FMRegressor(solver="mcmc", n_epochs=2, random_state=0).fit(X, y)
    for coverage in (0.0, 1.0, "most"):
        with pytest.raises(DataError, match="coverage is"):
            fm.predict_interval(X, coverage)
    with pytest.raises(DataError, match="level is 2"):
        fm.predict_quantiles(X, [0.5, 2.0])


# --- odd data -----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SWEEPS)
def test_odd_data(solver):
    rng = np.random.default_rng(0)
    options = {"solver": solver, "n_epochs": 20, "random_state": 0}
    constant = FMRegressor(2, **options).fit({"a": ["x", "y"] * 20}, np.full(40, 5.0))
    np.testing.assert_allclose(constant.predict({"a": ["x", "new"]}), 5.0, atol=1.0)
    known = cf.Schema([cf.Categorical("a")])
    alone = FMRegressor(2, schema=known, **options).fit({"a": ["x"] * 40}, 3 + rng.normal(size=40))
    assert abs(alone.predict({"a": ["x"]})[0] - 3) < 1
    few = FMRegressor(20, **options).fit({"a": ["x", "y", "x"], "b": [1, 2, 2]}, [1.0, 2.0, 3.0])
    assert np.isfinite(few.predict({"a": ["x", "q"], "b": [1, 9]})).all()
    zeros = FMRegressor(2, **options).fit(np.zeros((30, 3)), 2 + rng.normal(size=30))
    assert abs(zeros.predict(np.zeros((1, 3)))[0] - 2) < 1
    with pytest.raises(DataError, match="NaN"):
        FMRegressor(2, **options).fit(np.full((3, 2), np.nan), [1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="NaN"):
        FMRegressor(2, **options).fit({"a": ["x", "y"]}, [1.0, np.nan])
    twice = Rows(np.array([[0, 0], [1, 2]]), targets=np.array([1.0, 2.0]))
    with pytest.raises(DataError, match="same feature twice"):
        FMRegressor(2, **options).fit(twice)


def test_a_chain_that_leaves_the_numbers_is_stopped():
    X = np.random.default_rng(0).normal(size=(50, 3)) * 1e18
    with pytest.raises(DivergedError, match="scale the targets"):
        FMRegressor(2, solver="als", l2_factors=0.0, scale_values=False, init_scale=1e15,
                    random_state=0).fit(X, np.arange(50.0))  # fmt: skip
