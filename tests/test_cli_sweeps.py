"""Solvers of whole sweeps on the command line: fitted, shown, and used by the other commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from cli_runs import (
    FAST,
    big_log,
    crossfm_runs,
    error_of,
    interrupted,
    make_log,
    sample_files,
    told_by,
    usage_of,
)

import crossfm
from crossfm import Sampling

SWEEPS = ["--epochs", "20", "--factors", "4", "--seed", "1"]


@pytest.fixture(scope="module")
def folder() -> Path:
    return sample_files()


@pytest.fixture(scope="module")
def fitted(folder, tmp_path_factory) -> Path:
    """A model by each solver, and one of ordered levels."""
    out = tmp_path_factory.mktemp("sweeps")
    for name, target, words in (
        ("mcmc", "rating", ["--solver", "mcmc", "--chains", "2", "--keep", "4"]),
        ("vb", "rating", ["--solver", "vb"]),
        ("als", "rating", ["--solver", "als", "--l2-factors", "5"]),
        ("click", "click", ["--solver", "mcmc"]),
        ("ordinal", "rating", ["--task", "ordinal", "--burn-in", "0.25"]),
    ):
        other = "click" if target == "rating" else "rating"
        crossfm_runs("fit", folder / "train.csv", "-t", target, "--drop", other, "-q",
                     "-m", out / name, *words, *SWEEPS)  # fmt: skip
    return out


def train_and_test(folder: Path, target: str):
    train = pa.csv.read_csv(folder / "train.csv")
    y = train.column(target).to_numpy(zero_copy_only=False)
    return train.drop_columns(["rating", "click"]), y, make_log(200, 1)


# --- fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target", "estimator"),
    [
        ("mcmc", "rating",
         crossfm.FMRegressor(solver="mcmc", sampling=Sampling(n_chains=2, keep=4))),
        ("vb", "rating", crossfm.FMRegressor(solver="vb")),
        ("als", "rating", crossfm.FMRegressor(solver="als", l2_factors=5.0)),
        ("click", "click", crossfm.FMClassifier(solver="mcmc")),
        ("ordinal", "rating", crossfm.OrdinalFMRegressor(sampling=Sampling(burn_in=5))),
    ],
)  # fmt: skip
def test_fit_equals_the_estimator(folder, fitted, name, target, estimator):
    X, y, test = train_and_test(folder, target)
    estimator.set_params(n_factors=4, n_epochs=20, random_state=1).fit(X, y)
    model = crossfm.load(fitted / name)
    assert type(model) is type(estimator)
    assert len(model.draws_) == len(estimator.draws_)
    np.testing.assert_array_equal(model.predict(test), estimator.predict(test))


def test_validation_draws_and_chains_are_told(folder, tmp_path):
    told = told_by("fit", folder / "train.csv", "-t", "rating", "--drop", "click", "-m",
                   tmp_path / "m", "--solver", "mcmc", "--chains", "2", "--burn-in", "10",
                   "--keep", "3", "--valid-data", folder / "test.csv", *SWEEPS)  # fmt: skip
    assert (told["epochs"], told["stopped"], told["n_factors"]) == (20, "n_epochs", 4)
    model = crossfm.load(tmp_path / "m")
    r_hat = told["sampling"].pop("r_hat")
    assert told["sampling"] == {
        "method": "mcmc", "n_sweeps": 20, "n_chains": 2, "n_draws": 6, "mean_of": None,
        "burn_in": 10,
    }  # fmt: skip
    assert r_hat == {"noise": pytest.approx(model.diagnostics_["noise"]["r_hat"])}
    test = make_log(200, 1)
    rmse = np.sqrt(np.mean((model.predict(test) - np.array(test["rating"])) ** 2))
    assert told["metrics"]["rmse"] == pytest.approx(rmse, rel=1e-6)  # of the draws in the file
    assert list(told["metrics"]) == ["rmse", "mae"]
    assert told["history"][-1]["rmse"] != told["metrics"]["rmse"]  # of all draws


def test_all_rows_are_trained_on_unless_told_otherwise(tmp_path):
    """Sweeps run to their end: a tenth of many rows is held out where they are to stop alone."""
    rng = np.random.default_rng(0)
    log = pa.table({"user": rng.integers(0, 50, 10_000), "y": rng.normal(size=10_000)})
    pa.parquet.write_table(log, tmp_path / "log.parquet")
    words = ["fit", tmp_path / "log.parquet", "-t", "y", "-m", tmp_path / "m", *SWEEPS]
    for more, n_valid in (
        (["--solver", "mcmc"], 0),
        (["--solver", "als"], 0),
        (["--solver", "als", "--patience", "2"], 1000),
        (["--solver", "mcmc", "--valid", "0.2"], 2000),
    ):
        told = told_by(*words, *more)
        assert told["n_valid_rows"] == n_valid
        assert (told["stopped"] == "early") == ("--patience" in more)  # y is noise


def test_sweeps_are_shown(folder, tmp_path):
    words = ["fit", folder / "train.csv", "-t", "rating", "--drop", "click", "-m", tmp_path / "m"]
    result = crossfm_runs(*words, "--solver", "mcmc", "--epochs", "100", "--chains", "2")
    lines = [line for line in result.stderr.splitlines() if line.startswith("sweep ")]
    assert [line.split(":")[0] for line in lines[:3]] == ["sweep 1/100", "sweep 5/100",
                                                          "sweep 10/100"]  # fmt: skip
    assert lines[-1].startswith("sweep 100/100: train loss")
    facts = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert facts["sweeps"] == "100 of 100"
    assert facts["draws"] == "180, 90 in each of 2 chains, after a burn-in of 10 sweeps"
    assert "of the noise" in facts["R-hat"]
    result = crossfm_runs(*words, "--solver", "vb", *SWEEPS)
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "train", "sweeps", "time", "speed", "model",
    ]  # fmt: skip


def test_ctrl_c_keeps_the_draws_so_far(tmp_path):
    big_log(tmp_path / "log.parquet")
    words = ["fit", tmp_path / "log.parquet", "-t", "rating", "-m", tmp_path / "m", "--solver",
             "mcmc", "--epochs", "4000", "--factors", "2", "--json"]  # fmt: skip
    code, out, said = interrupted([*words, "--burn-in", "1"], "sweep 200/4000")
    assert code == 130
    told = json.loads(out)
    assert told["stopped"] == "interrupted"
    assert 200 <= told["epochs"] < 4000
    n_draws = told["epochs"] - 1
    assert len(crossfm.load(tmp_path / "m").draws_) == told["sampling"]["n_draws"] == n_draws
    assert f"interrupted: {tmp_path / 'm'} holds the {n_draws:,} draws so far" in said
    code, out, said = interrupted([*words, "--burn-in", "0.9", "--chains", "2"], "sweep 1/4000")
    assert code == 130
    assert json.loads(out)["sampling"]["r_hat"] is None
    assert "holds the last draw alone, for the burn-in was not over" in said
    assert len(crossfm.load(tmp_path / "m").draws_) == 2  # one of each chain


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--burn-in 10", "--burn-in goes with --solver mcmc, and adagrad draws nothing"),
        ("--solver vb --chains 2", "--chains goes with --solver mcmc, and vb draws nothing"),
        ("--solver als --keep 2", "--keep goes with --solver mcmc"),
        ("--solver mcmc --learning-rate 0.1", "which takes no gradient steps"),
        ("--solver mcmc --stream", "which needs all rows in memory"),
        ("--solver vb --checkpoint c", "--checkpoint does not go with --solver vb"),
        ("--solver als --follow", "which sweeps over all rows together"),
        ("--solver mcmc --kind ffm", "which fits plain factorization machines"),
        ("--solver mcmc --loss huber", "--loss does not go with --solver mcmc"),
        ("--solver vb --l2-factors 1", "which learns its penalties"),
        ("--solver als --l2-factors adaptive", "takes one number for all fields"),
        ("--solver als --l2-linear -1", "of at least 0"),
        ("--solver als --l2-scaling 0.5", "which counts penalties once"),
        ("--solver mcmc --patience 3", "which predicts a mean over its sweeps"),
        ("--solver mcmc --burn-in 1.5", "a share of them from 0 to below 1"),
        ("--solver mcmc --burn-in 50", "leaves none of 50 sweeps"),
        ("--solver mcmc --burn-in -1", "--burn-in is '-1'"),
        ("--solver mcmc --keep 0", "expected a number of draws of at least 1, all, or mean"),
        ("--solver mcmc --jobs 0", "n_jobs must be"),
        ("--task ordinal --burn-in 200", "leaves none of 200 sweeps"),
        ("--task ordinal --solver als", "by --solver mcmc alone, and als was asked for"),
        ("--task ordinal --keep mean", "--keep mean goes with numbers"),
        ("--task ordinal --loss squared", "which takes levels as an ordered probit"),
        ("--task ordinal --metric auc", "auc is for classes"),
    ],
)
def test_what_does_not_go_together_is_told(folder, tmp_path, words, message):
    said = usage_of("fit", folder / "train.csv", "-t", "rating", "-m", tmp_path / "m",
                    *words.split())  # fmt: skip
    assert message in said
    assert list(tmp_path.iterdir()) == []


def test_targets_that_do_not_go_with_the_solver(folder, tmp_path):
    words = ["fit", folder / "train.csv", "-m", tmp_path / "m"]
    for more, message in (
        (["-t", "rating", "--task", "classification", "--solver", "vb"], "holds 5 classes"),
        (["-t", "click", "--task", "ordinal"], "ordered levels are numbers"),
    ):
        assert message in error_of(*words, *more)
    rows = "".join(f"u{i % 4},{i}.5\n" for i in range(300))
    (tmp_path / "log.csv").write_text("user,y\n" + rows)
    message = error_of("fit", tmp_path / "log.csv", "-t", "y", "-m", tmp_path / "m", "--task",
                       "ordinal")  # fmt: skip
    assert "300 different numbers, and ordered levels are 256 at most" in message


# --- the other commands -------------------------------------------------------------------------


def predicted(model: Path, folder: Path, tmp_path: Path, *words: str) -> pa.Table:
    out = tmp_path / "p.parquet"
    crossfm_runs("predict", model, folder / "test.csv", "-o", out, "--batch-rows", "70", *words)
    return pa.parquet.read_table(out)


@pytest.mark.parametrize("solver", ["mcmc", "vb"])
def test_deviations_and_intervals(folder, fitted, tmp_path, solver):
    test, model = make_log(200, 1), crossfm.load(fitted / solver)
    got = predicted(fitted / solver, folder, tmp_path, "--std", "--interval", "0.8")
    assert got.column_names == ["prediction", "std", "low", "high"]
    mean, deviation = model.predict(test, return_std=True)
    low, high = model.predict_interval(test, 0.8).T
    for name, want in (("prediction", mean), ("std", deviation), ("low", low), ("high", high)):
        # The last bit of float32 varies with the rows of a batch.
        np.testing.assert_allclose(got.column(name).to_numpy(), want, rtol=2e-7)
    alone = predicted(fitted / solver, folder, tmp_path, "--interval", "0.8", "--keep", "user")
    assert alone.column_names == ["user", "prediction", "low", "high"]
    np.testing.assert_array_equal(alone.column("prediction").to_numpy(), model.predict(test))


def test_ordered_levels(folder, fitted, tmp_path):
    test, model = make_log(200, 1), crossfm.load(fitted / "ordinal")
    got = predicted(fitted / "ordinal", folder, tmp_path)
    assert got.column_names == ["prediction"]
    np.testing.assert_array_equal(got.column(0).to_numpy(), model.predict(test))
    got = predicted(fitted / "ordinal", folder, tmp_path, "--proba")
    assert got.column_names == [f"probability_{level}" for level in range(1, 6)]
    shown = np.column_stack([column.to_numpy() for column in got.columns])
    np.testing.assert_allclose(shown, model.predict_proba(test), rtol=1e-6)  # float32


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("als", "--std", "a model of solver als does not know how sure it is"),
        ("rating.crossfm", "--interval 0.9", "a model of solver adagrad does not know"),
        ("click", "--std", "how sure a class is tells its probability"),
        ("ordinal", "--interval 0.9", "of ordered levels --proba has the probabilities"),
        ("mcmc", "--interval 1", "expected a probability above 0 and below 1"),
        ("mcmc", "--interval nan", "expected a probability above 0 and below 1"),
        ("mcmc", "--std --raw", "leave --proba and --raw out"),
        ("mcmc", "--proba", "--proba is for classes"),
    ],
)
def test_what_a_model_does_not_know(folder, fitted, tmp_path, name, words, message):
    model = (folder if "." in name else fitted) / name
    said = usage_of("predict", model, folder / "test.csv", "-o", tmp_path / "p.csv", *words.split())
    assert message in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mcmc", "vb", "als", "ordinal"])
def test_evaluate_numbers(folder, fitted, name):
    test, model = make_log(200, 1), crossfm.load(fitted / name)
    told = told_by("evaluate", fitted / name, folder / "test.csv")
    assert told["task"] == ("ordinal" if name == "ordinal" else "regression")
    gap = model.predict(test).astype(np.float64) - np.array(test["rating"])
    assert told["metrics"] == {"rmse": pytest.approx(np.sqrt(np.mean(gap**2))),
                               "mae": pytest.approx(np.mean(np.abs(gap)))}  # fmt: skip


def test_classes_are_probits_of_averaged_probabilities(folder, fitted, tmp_path):
    test, model = make_log(200, 1), crossfm.load(fitted / "click")
    p = model.predict_proba(test)[:, 1]
    got = predicted(fitted / "click", folder, tmp_path)
    assert got.column("prediction").to_pylist() == model.predict(test).tolist()
    np.testing.assert_allclose(got.column("probability").to_numpy(), p, rtol=1e-6)  # float32
    told = told_by("evaluate", fitted / "click", folder / "test.csv")
    yes = np.array(test["click"]) == "yes"
    want = -np.mean(np.log(np.where(yes, p, 1 - p)))
    assert told["metrics"]["log_loss"] == pytest.approx(want, rel=1e-5)
    assert told_by("explain", fitted / "click", folder / "test.csv")["explained"] == "probit of yes"


def test_contributions_of_draws_sum_to_the_prediction(folder, fitted):
    told = told_by("explain", fitted / "mcmc", folder / "test.csv", "--row", 3)
    assert told["score"] == pytest.approx(told["prediction"], rel=1e-5)  # float32 in the model


def test_info_shows_draws_and_chains(folder, fitted):
    told = told_by("info", fitted / "mcmc")
    assert told["sampling"]["n_draws"] == 8
    assert told["sampling"]["r_hat"].keys() == {"noise"}
    n = crossfm.load(fitted / "mcmc").schema_.n_features_
    assert told["n_parameters"] == 8 * (n * 5 + 1)
    text = crossfm_runs("info", fitted / "mcmc").stdout
    assert "4 factors for each of 8 draws" in text
    assert "mcmc, 20 sweeps" in text
    assert "8, 4 in each of 2 chains, after a burn-in of 2 sweeps" in text
    assert "kept" not in text
    assert "a mean and a variance each" in crossfm_runs("info", fitted / "vb").stdout
    told = told_by("info", fitted / "ordinal")
    assert (told["task"], told["levels"]) == ("ordinal", [1, 2, 3, 4, 5])
    assert told["sampling"]["burn_in"] == 5
    text = crossfm_runs("info", fitted / "ordinal").stdout
    assert "ordinal of rating, 5 levels from 1 to 5" in text
    assert told_by("info", folder / "rating.crossfm")["sampling"] is None


def test_the_mean_of_draws_alone(folder, tmp_path):
    words = ["fit", folder / "train.csv", "-t", "rating", "--drop", "click", "-m", tmp_path / "m",
             "--solver", "mcmc", "--keep", "mean", "--chains", "2", *SWEEPS]  # fmt: skip
    facts = dict(line.split(maxsplit=1) for line in crossfm_runs(*words).stdout.splitlines())
    told = told_by(*words, "--valid-data", folder / "test.csv")
    assert (told["sampling"]["n_draws"], told["sampling"]["mean_of"]) == (0, 36)
    model, test = crossfm.load(tmp_path / "m"), make_log(200, 1)
    assert told["n_factors"] == model.model_.n_factors
    rmse = np.sqrt(np.mean((model.predict(test) - np.array(test["rating"])) ** 2))
    assert told["metrics"]["rmse"] == pytest.approx(rmse, rel=1e-6)
    text = "the mean of 36 alone, 18 in each of 2 chains, after a burn-in of 2 sweeps"
    assert facts["draws"] == text
    assert text in crossfm_runs("info", tmp_path / "m").stdout
    for words in (["--std"], ["--interval", "0.9"]):
        said = usage_of("predict", tmp_path / "m", folder / "test.csv", "-o", "-", *words)
        assert "needs draws, and --keep mean has kept none" in said
    explained = told_by("explain", tmp_path / "m", folder / "test.csv")
    assert explained["score"] == pytest.approx(explained["prediction"], rel=1e-5)
    message = error_of("fit", folder / "train.csv", "-t", "click", "-q", "--solver", "mcmc",
                       "--keep", "mean", "-m", tmp_path / "n", *SWEEPS)  # fmt: skip
    assert "goes with numbers as targets" in message


def test_rounded_draws(folder, fitted, tmp_path):
    told = told_by("quantize", fitted / "mcmc", "--on", folder / "test.csv", "--out",
                   tmp_path / "q")  # fmt: skip
    assert told["metrics"]["rmse"]["after"] == pytest.approx(told["metrics"]["rmse"]["before"],
                                                             abs=0.01)  # fmt: skip
    assert told_by("info", tmp_path / "q")["sampling"]["n_draws"] == 8


def test_a_model_by_sweeps_is_not_followed(folder, fitted):
    message = error_of("fit", folder / "train.csv", "-m", fitted / "mcmc", "--follow", "--idle",
                       "0", *FAST[2:])  # fmt: skip
    assert "cannot go on from new ones" in message
