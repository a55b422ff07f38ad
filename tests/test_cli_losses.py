"""Losses on the command line: fitted, saved, and used by the other commands."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from cli_runs import FAST, crossfm_runs, error_of, told_by, usage_of

import crossfm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log whose target is a count, a label or a number, as one wants."""
    folder = tmp_path_factory.mktemp("losses")
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 8, 400), rng.integers(0, 6, 400)
    log = {
        "user": [f"u{u}" for u in user],
        "item": [f"i{i}" for i in item],
        "count": rng.poisson(1 + user),
        "even": np.where((user + item) % 2, "no", "yes"),
    }
    pa.parquet.write_table(pa.table(log), folder / "log.parquet")
    return folder


@pytest.mark.parametrize(
    ("loss", "more", "metric"),
    [
        ("poisson", [], "poisson_deviance"),
        ("huber", ["--epsilon", "2"], "mae"),
        ("quantile", ["--quantile", "0.8"], "pinball@0.8"),
    ],
)
def test_a_loss_of_numbers_goes_through_all_commands(folder, tmp_path, loss, more, metric):
    data, model = folder / "log.parquet", tmp_path / "m.crossfm"
    told = told_by("fit", data, "-t", "count", "-m", model, "--drop", "even", "--loss", loss,
                   *more, "--valid", "0.2", *FAST)  # fmt: skip
    assert metric in told["metrics"]
    fm, table = crossfm.load(model), pa.parquet.read_table(data)
    assert fm.loss == loss
    measured = told_by("evaluate", model, data, "--target", "count")["metrics"]
    known = crossfm.metrics.get_metric(metric)
    count = table.column("count").to_numpy()
    assert measured[metric] == pytest.approx(known(count, fm.predict(table)), rel=1e-5)
    crossfm_runs("predict", model, data, "--out", tmp_path / "p.parquet")
    written = pa.parquet.read_table(tmp_path / "p.parquet").column("prediction").to_numpy()
    np.testing.assert_array_equal(written, fm.predict(table))
    explained = told_by("explain", model, data)
    assert ("explained" in explained) == (loss == "poisson")
    of_score = np.exp(explained["score"]) if loss == "poisson" else explained["score"]
    assert of_score == pytest.approx(float(written[0]), rel=1e-4)


def test_hinge_goes_through_all_commands(folder, tmp_path):
    data, model = folder / "log.parquet", tmp_path / "m.crossfm"
    told = told_by("fit", data, "-t", "even", "-m", model, "--drop", "count", "--loss", "hinge",
                   "--valid", "0.2", *FAST)  # fmt: skip
    assert list(told["metrics"]) == ["hinge_loss"]
    measured = told_by("evaluate", model, data, "--target", "even")["metrics"]
    assert list(measured) == ["hinge_loss", "auc"]
    fm, table = crossfm.load(model), pa.parquet.read_table(data)
    crossfm_runs("predict", model, data, "--out", tmp_path / "p.parquet")
    written = pa.parquet.read_table(tmp_path / "p.parquet")
    assert written.column_names == ["prediction", "score"]
    np.testing.assert_array_equal(written.column("score"), fm.decision_function(table))
    explained = told_by("explain", model, data)
    assert explained["explained"] == "score of yes"
    assert explained["score"] == pytest.approx(float(written.column("score")[0].as_py()), rel=1e-4)
    for words in (
        ("predict", model, data, "--out", tmp_path / "q.csv", "--proba"),
        ("evaluate", model, data, "--target", "even", "--metrics", "log_loss"),
    ):
        assert "knows no probabilities" in usage_of(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loss", "poison"], "--loss is 'poison', expected one of squared, huber"),
        (["--loss", "huber", "--quantile", "0.3"], "--quantile belongs to --loss quantile"),
        (["--loss", "hinge", "--task", "regression"], "--loss hinge is for classification"),
    ],
)
def test_wrong_use_is_told(folder, tmp_path, words, message):
    said = usage_of("fit", folder / "log.parquet", "-t", "count", "-m", tmp_path / "m.crossfm",
                    *words)  # fmt: skip
    assert message in said


def test_targets_that_a_loss_cannot_take(folder, tmp_path):
    table = pa.table({"user": ["a", "b", "a"], "change": [1.0, -2.0, 0.5]})
    pa.csv.write_csv(table, tmp_path / "log.csv")
    said = error_of("fit", tmp_path / "log.csv", "-t", "change", "-m", tmp_path / "m.crossfm",
                    "--loss", "poisson")  # fmt: skip
    assert "row 1: the target is negative" in said
