"""The command line: the command itself, and `fit` on every format."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from cli_runs import FAST, N, crossfm_process, crossfm_runs, sample_files

import crossfm


@pytest.fixture(scope="module")
def folder() -> Path:
    return sample_files()


# --- the command itself -------------------------------------------------------------------------


def test_version():
    assert crossfm_runs("--version").stdout == f"crossfm {crossfm.__version__}\n"


@pytest.mark.parametrize(
    "command", ["", "fit", "evaluate", "predict", "explain", "info", "quantize"]
)
def test_help_has_examples_and_exit_codes(command):
    text = crossfm_runs(*command.split(), "--help").stdout
    assert f"crossfm {command or 'fit'} " in text
    assert "130 interrupted" in " ".join(text.split())


def test_help_is_quick():
    """Typer alone is loaded: neither Arrow nor scikit-learn."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = crossfm_process("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert spent < 0.5, f"{spent:.2f} s of processor time"
    code = (
        "import sys; from crossfm.cli.app import app\n"
        "heavy = {'numpy', 'pyarrow', 'sklearn', 'scipy', 'narwhals', 'torch', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_python_m_is_the_command():
    done = crossfm_process("--version")
    assert (done.returncode, done.stdout) == (0, f"crossfm {crossfm.__version__}\n")


# --- fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train.parquet", "train.csv", "train.tsv", "train.csv.gz"])
def test_fit_on_tables(folder, tmp_path, name):
    out = tmp_path / "m.crossfm"
    result = crossfm_runs("fit", folder / name, "-t", "rating", "--drop", "click", "-m", out,
                          "--valid", "0.25", "--json", *FAST)  # fmt: skip
    told = json.loads(result.stdout)
    assert told["task"] == "regression"
    assert (told["n_rows"], told["n_valid_rows"]) == (450, 150)
    assert told["epochs"] == len(told["history"]) == 3
    assert told["metrics"]["rmse"] == told["history"][told["best_epoch"] - 1]["rmse"]
    assert told["model_bytes"] == out.stat().st_size
    fields = {field["name"]: field["kind"] for field in told["fields"]}
    assert fields == {"user": "categorical", "item": "categorical", "age": "numeric",
                      "genres": "bag"}  # fmt: skip
    assert crossfm.load(out).schema_.field_names == list(fields)


@pytest.mark.parametrize("name", ["train.libsvm", "train.ffm"])
def test_fit_on_text(folder, tmp_path, name):
    out = tmp_path / "m.crossfm"
    result = crossfm_runs("fit", folder / name, "-m", out, "--valid-data",
                          folder / name.replace("train", "test"), "--json", *FAST)  # fmt: skip
    told = json.loads(result.stdout)
    assert told["task"] == "classification"
    assert told["classes"] == [-1, 1]
    assert told["n_features"] == 21
    assert told["n_valid_rows"] == 200
    assert list(told["metrics"]) == ["log_loss", "auc"]


def test_fit_equals_the_estimator(folder, tmp_path):
    """The command does what the library does, to the bit."""
    table = pa.csv.read_csv(folder / "train.csv").drop_columns(["click"])
    y = table.column("rating").to_numpy()
    table = table.drop_columns(["rating"])
    model = crossfm.FMRegressor(n_factors=4, n_epochs=3, random_state=1).fit(table, y)
    ours = crossfm.load(folder / "rating.crossfm").predict(table)
    np.testing.assert_array_equal(ours, model.predict(table))


def test_fit_reads_several_files_and_folders_alike(folder, tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    table = pa.csv.read_csv(folder / "train.csv")
    pa.parquet.write_table(table.slice(0, 250), parts / "a.parquet")
    pa.parquet.write_table(table.slice(250), parts / "b.parquet")
    files = [parts / "a.parquet", parts / "b.parquet"]
    for data, out in ((files, "1"), ([parts], "2")):
        crossfm_runs("fit", *data, "-t", "rating", "--drop", "click", "-q", "-m",
                     tmp_path / out, *FAST)  # fmt: skip
    test = pa.csv.read_csv(folder / "test.csv")
    want = crossfm.load(folder / "rating.crossfm").predict(test)
    for out in ("1", "2"):
        np.testing.assert_array_equal(crossfm.load(tmp_path / out).predict(test), want)


def test_fit_shows_schema_epochs_and_a_summary(folder, tmp_path):
    result = crossfm_runs("fit", folder / "train.csv", "-t", "rating", "--drop", "click", "-m",
                          tmp_path / "m", "--valid", "0.1", *FAST)  # fmt: skip
    notes = result.stderr
    assert "train.csv: 600 rows" in notes
    assert "rating: regression (5 distinct numbers from 1 to 5)" in notes
    assert "bag          sum of a vocabulary, split at '|'" in notes
    epochs = [line for line in notes.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in epochs] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all("train loss" in line and "rmse" in line and "rows/s" in line for line in epochs)
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "rmse", "mae", "epochs", "time", "speed", "model",
    ]  # fmt: skip


def test_columns_are_what_the_options_say(folder, tmp_path):
    result = crossfm_runs(
        "fit", folder / "train.csv", "-t", "click", "-m", tmp_path / "m", "--json",
        "--fields", "user,genres", "--fields", "age", "--categorical", "item",
        "--numeric", "age:bucket", "--bag", "genres:|", *FAST,
    )  # fmt: skip
    fields = json.loads(result.stdout)["fields"]
    assert [(f["name"], f["kind"], f["why"]) for f in fields] == [
        ("user", "categorical", "strings, 12 distinct"),
        ("genres", "bag", "as told"),
        ("age", "numeric", "as told"),
        ("item", "categorical", "as told"),
    ]
    assert "buckets" in fields[2]["encoding"]


def test_a_category_keeps_its_leading_zeros(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("zip,y\n" + "01234,1\n1234,2\n00005,3\n" * 5)
    crossfm_runs("fit", log, "-t", "y", "-m", tmp_path / "m", "--categorical", "zip", "-q", *FAST)
    names = crossfm.load(tmp_path / "m").schema_.feature_names()
    assert {"zip=01234", "zip=1234", "zip=00005"} <= set(names)


def test_weights_are_used_and_are_no_field(folder, tmp_path):
    table = pa.csv.read_csv(folder / "train.csv").drop_columns(["click"])
    weight = np.where(np.arange(N) % 2, 0.0, 1.0)
    pa.parquet.write_table(table.append_column("w", pa.array(weight)), tmp_path / "w.parquet")
    crossfm_runs("fit", tmp_path / "w.parquet", "-t", "rating", "--weight", "w", "-q", "-m",
                 tmp_path / "m", *FAST)  # fmt: skip
    model = crossfm.load(tmp_path / "m")
    assert model.schema_.field_names == ["user", "item", "age", "genres"]
    want = crossfm.FMRegressor(n_factors=4, n_epochs=3, random_state=1).fit(
        table, "rating", sample_weight=weight
    )
    np.testing.assert_array_equal(model.predict(table), want.predict(table))


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b", "c"], "classification"),
        (["true", "false", "true"], "classification"),
        (["0", "1", "1"], "classification"),
        (["0.5", "1", "1"], "regression"),
        (["1", "2", "3"], "regression"),
        (["0.5", "1.25", "9"], "regression"),
    ],
)
def test_task_follows_from_the_target(tmp_path, values, task):
    log = tmp_path / "log.csv"
    log.write_text("user,y\n" + "".join(f"u{i % 4},{values[i % 3]}\n" for i in range(30)))
    result = crossfm_runs("fit", log, "-t", "y", "-m", tmp_path / "m", "--json", *FAST)
    assert json.loads(result.stdout)["task"] == task
    assert f"y: {task}" in result.stderr


def test_rows_are_held_out_class_by_class(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("user,y\n" + "".join(f"u{i % 4},{int(i % 10 == 0)}\n" for i in range(200)))
    result = crossfm_runs("fit", log, "-t", "y", "-m", tmp_path / "m", "--valid", "0.1",
                          "--metric", "auc,log_loss", "--json", *FAST)  # fmt: skip
    told = json.loads(result.stdout)
    assert told["n_valid_rows"] == 20
    assert list(told["metrics"]) == ["auc", "log_loss"]


def test_early_stopping_keeps_the_best_epoch(folder, tmp_path):
    words = ["fit", folder / "train.csv", "-t", "rating", "--drop", "click", "--json", "--factors",
             "8", "--valid", "0.3", "--learning-rate", "0.5"]  # fmt: skip
    told = json.loads(crossfm_runs(*words, "--patience", "2", "-m", tmp_path / "a").stdout)
    assert told["stopped"] == "early"
    assert told["epochs"] == told["best_epoch"] + 2
    never = json.loads(
        crossfm_runs(*words, "--patience", "0", "--epochs", "20", "-m", tmp_path / "b").stdout
    )
    assert (never["stopped"], never["epochs"], never["best_epoch"]) == ("n_epochs", 20, 20)


def test_half_precision_is_smaller(folder, tmp_path):
    for flag in ([], ["--float16"]):
        crossfm_runs("fit", folder / "train.libsvm", "-m", tmp_path / f"m{len(flag)}", "-q",
                     "--factors", "64", "--epochs", "1", *flag)  # fmt: skip
    assert (tmp_path / "m1").stat().st_size < 0.7 * (tmp_path / "m0").stat().st_size
