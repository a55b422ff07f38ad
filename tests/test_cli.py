"""The command line: each command on each format, exit codes, pipes, interrupts, bad input."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

import crossfm
from crossfm.cli.app import app

N = 600
FAST = ["--epochs", "3", "--factors", "4", "--seed", "1"]


def crossfm_runs(*words: object, code: int = 0):
    """The command in this process; its result, after its exit code was checked."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return result


def crossfm_process(*words: object, **options):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "crossfm", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def error_of(*words: object, code: int = 1) -> str:
    """The one line that a command says on stderr when it fails."""
    result = crossfm_runs(*words, code=code)
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert lines, "nothing was said"
    assert lines[-1].startswith("error: ")
    return lines[-1]


def make_log(n: int = N, seed: int = 0) -> dict[str, list]:
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 12, n), rng.integers(0, 9, n)
    taste = np.random.default_rng(99).normal(0, 1, (12, 9))
    score = taste[user, item] + rng.normal(0, 0.2, n)
    genres = [
        "|".join(sorted({f"g{i % 3}", f"g{(i + u) % 4}"})) for u, i in zip(user, item, strict=True)
    ]
    return {
        "user": [f"u{u}" for u in user],
        "item": item.tolist(),
        "age": (20 + user * 2.5).tolist(),
        "genres": genres,
        "rating": np.clip(np.round(3 + score), 1, 5).astype(int).tolist(),
        "click": np.where(score > 0, "yes", "no").tolist(),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Files of every format: a log of N rows to train on, another of 200 to test on."""
    home = tmp_path_factory.mktemp("cli")
    for name, n, seed in (("train", N, 0), ("test", 200, 1)):
        log = make_log(n, seed)
        table = pa.table(log)
        pa.parquet.write_table(table, home / f"{name}.parquet")
        pa.csv.write_csv(table, home / f"{name}.csv")
        pa.csv.write_csv(table, home / f"{name}.tsv", pa.csv.WriteOptions(delimiter="\t"))
        (home / f"{name}.csv.gz").write_bytes(gzip.compress((home / f"{name}.csv").read_bytes()))
        users = [int(u[1:]) for u in log["user"]]
        items = log["item"]
        labels = [1 if c == "yes" else -1 for c in log["click"]]
        (home / f"{name}.libsvm").write_text(
            "".join(f"{y} {u}:1 {12 + i}:1\n" for y, u, i in zip(labels, users, items, strict=True))
        )
        (home / f"{name}.ffm").write_text(
            "".join(
                f"{y} 0:{u}:1 1:{12 + i}:1\n" for y, u, i in zip(labels, users, items, strict=True)
            )
        )
    crossfm_runs("fit", home / "train.csv", "-t", "rating", "--drop", "click", "-m",
                 home / "rating.crossfm", "-q", *FAST)  # fmt: skip
    crossfm_runs("fit", home / "train.csv", "-t", "click", "--drop", "rating", "-m",
                 home / "click.crossfm", "-q", "--valid", "0.2", *FAST)  # fmt: skip
    crossfm_runs("fit", home / "train.libsvm", "-m", home / "text.crossfm", "-q", *FAST)
    (home / "row.json").write_text('{"usr": "u1", "item": 2, "age": 30, "genres": "g1"}')
    (home / "broken.json").write_text('{"user": ')
    (home / "number.json").write_text("[1, 2]")
    return home


# --- the command itself -------------------------------------------------------------------------


def test_version():
    assert crossfm_runs("--version").stdout == f"crossfm {crossfm.__version__}\n"


@pytest.mark.parametrize("command", ["", "fit", "evaluate", "predict", "explain", "info"])
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


# --- evaluate -----------------------------------------------------------------------------------


def test_evaluate_regression(folder):
    result = crossfm_runs("evaluate", folder / "rating.crossfm", folder / "test.csv", "--json")
    told = json.loads(result.stdout)
    test = pa.csv.read_csv(folder / "test.csv")
    error = crossfm.load(folder / "rating.crossfm").predict(test) - test.column("rating").to_numpy()
    assert told["metrics"]["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-6)
    assert told["metrics"]["mae"] == pytest.approx(np.mean(np.abs(error)), rel=1e-6)
    assert told["n_rows"] == 200


def test_evaluate_classes_by_group(folder):
    result = crossfm_runs("evaluate", folder / "click.crossfm", folder / "test.parquet",
                          "--metrics", "auc,log_loss,grouped_auc", "--group", "user",
                          "--json")  # fmt: skip
    told = json.loads(result.stdout)
    from sklearn.metrics import log_loss, roc_auc_score

    test = pa.csv.read_csv(folder / "test.csv")
    truth = np.array(test.column("click").to_pylist()) == "yes"
    proba = crossfm.load(folder / "click.crossfm").predict_proba(test)[:, 1]
    assert told["metrics"]["auc"] == pytest.approx(roc_auc_score(truth, proba))
    assert told["metrics"]["log_loss"] == pytest.approx(log_loss(truth, proba), rel=1e-6)
    assert told["groups"]["grouped_auc"]["n_groups"] == 12


def test_evaluate_text(folder):
    told = json.loads(
        crossfm_runs("evaluate", folder / "text.crossfm", folder / "test.libsvm", "--json").stdout
    )
    assert list(told["metrics"]) == ["log_loss", "auc", "normalized_entropy", "ece"]
    assert told["metrics"]["auc"] > 0.5


def test_labels_are_known_by_what_they_say(folder, tmp_path):
    """1, "1" and 1.0 are one label; a model learned from text reads labels of any of them."""
    (tmp_path / "a.csv").write_text("user,y\n" + "u1,1\nu2,0\n" * 10)
    crossfm_runs("fit", tmp_path / "a.csv", "-t", "y", "-m", tmp_path / "m", "-q", *FAST)
    values = []
    for ones, zeros in (("1", "0"), ("1.0", "0.0")):
        (tmp_path / "b.csv").write_text("user,y\n" + f"u1,{ones}\nu2,{zeros}\n" * 3)
        told = crossfm_runs("evaluate", tmp_path / "m", tmp_path / "b.csv", "--json").stdout
        values.append(json.loads(told)["metrics"])
    assert values[0] == values[1]


def test_what_was_not_seen_is_reported(folder, tmp_path):
    (tmp_path / "new.csv").write_text(
        "user,item,age,genres,rating\nu1,1,20,g1,3\nstranger,1,,g1|new,4\n"
    )
    result = crossfm_runs("evaluate", folder / "rating.crossfm", tmp_path / "new.csv", "--json")
    unseen = json.loads(result.stdout)["unseen"]
    assert unseen["user"] == {"unknown": 1, "missing": 0}
    assert unseen["age"] == {"unknown": 0, "missing": 1}
    assert unseen["genres"]["unknown"] == 1
    assert "not seen in training: user 1, genres 1" in result.stderr
    (tmp_path / "new.libsvm").write_text("1 3:1 999:1\n-1 2:1\n")
    result = crossfm_runs("evaluate", folder / "text.crossfm", tmp_path / "new.libsvm", "--json")
    assert json.loads(result.stdout)["unseen"] == {"ids": {"unknown": 1, "missing": 0}}


# --- predict ------------------------------------------------------------------------------------


def test_predict_in_batches_equals_whole(folder, tmp_path):
    want = crossfm.load(folder / "rating.crossfm").predict(pa.csv.read_csv(folder / "test.csv"))
    for name, rows in (("test.csv", 7), ("test.parquet", 64), ("test.tsv", 100_000)):
        out = tmp_path / f"{rows}.parquet"
        crossfm_runs("predict", folder / "rating.crossfm", folder / name, "-o", out,
                     "--batch-rows", rows)  # fmt: skip
        got = pa.parquet.read_table(out).column("prediction").to_numpy()
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "csv.gz"])
def test_predict_writes_every_format(folder, tmp_path, ending):
    out = tmp_path / f"scores.{ending}"
    crossfm_runs("predict", folder / "click.crossfm", folder / "test.csv", "-o", out,
                 "--keep", "user,genres", "--batch-rows", "90")  # fmt: skip
    if ending == "parquet":
        got = pa.parquet.read_table(out).to_pydict()
    else:
        text = gzip.decompress(out.read_bytes()) if ending == "csv.gz" else out.read_bytes()
        lines = list(csv.DictReader(
            text.decode().splitlines(), delimiter="\t" if ending == "tsv" else ","
        ))  # fmt: skip
        got = {name: [line[name] for line in lines] for name in lines[0]}
    log = make_log(200, 1)
    model = crossfm.load(folder / "click.crossfm")
    assert list(got) == ["user", "genres", "prediction", "probability"]
    assert got["user"] == log["user"]
    assert got["genres"] == log["genres"]
    assert got["prediction"] == model.predict(log).tolist()
    want = model.predict_proba(log)[:, 1]
    np.testing.assert_allclose(np.array(got["probability"], float), want, rtol=1e-6)  # float32


def test_predict_raw_and_proba(folder, tmp_path):
    log = make_log(200, 1)
    model = crossfm.load(folder / "click.crossfm")
    for flag, name, want in (
        ("--raw", "score", model.decision_function(log)),
        ("--proba", "probability", model.predict_proba(log)[:, 1]),
    ):
        out = tmp_path / f"{name}.parquet"
        crossfm_runs("predict", folder / "click.crossfm", folder / "test.csv", flag, "-o", out)
        got = pa.parquet.read_table(out)
        assert got.column_names == [name]
        np.testing.assert_allclose(got.column(name).to_numpy(), want, rtol=1e-6)  # float32


def test_predict_more_than_two_classes(folder, tmp_path):
    crossfm_runs("fit", folder / "train.csv", "-t", "rating", "--task", "classification", "-q",
                 "--drop", "click", "-m", tmp_path / "m", *FAST)  # fmt: skip
    crossfm_runs("predict", tmp_path / "m", folder / "test.csv", "-o", tmp_path / "s.parquet")
    got = pa.parquet.read_table(tmp_path / "s.parquet")
    names = [f"probability_{label}" for label in range(1, 6)]
    assert got.column_names == ["prediction", *names]
    total = sum(got.column(name).to_numpy() for name in names)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)  # five float32
    result = crossfm_runs("evaluate", tmp_path / "m", folder / "test.csv", "--json")
    assert list(json.loads(result.stdout)["metrics"]) == ["log_loss"]


def test_predict_to_standard_output(folder):
    done = crossfm_process("predict", folder / "text.crossfm", folder / "test.libsvm", "-o", "-")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert done.stderr == ""
    assert lines[0].replace('"', "") == "prediction,probability"
    assert len(lines) == 201


def test_a_reader_that_leaves_early_is_no_error(folder):
    command = f"{sys.executable} -m crossfm predict click.crossfm test.csv -o - --batch-rows 1"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 1"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""


def test_failed_predictions_leave_the_old_file(folder, tmp_path):
    out = tmp_path / "scores.csv"
    out.write_text("old")
    bad = tmp_path / "bad.csv"
    good = (folder / "test.csv").read_text()
    bad.write_text(good + "u1,2,inf,g1,3,yes\n")
    message = error_of("predict", folder / "rating.crossfm", bad, "-o", out, "--batch-rows", "50")
    assert "inf" in message
    assert out.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.csv", "scores.csv"]


# --- explain ------------------------------------------------------------------------------------


def test_contributions_sum_to_the_score(folder):
    log = make_log(200, 1)
    model = crossfm.load(folder / "rating.crossfm")
    for by in ("term", "feature", "field"):
        told = json.loads(
            crossfm_runs("explain", folder / "rating.crossfm", folder / "test.csv", "--row", 17,
                         "-k", 3, "--by", by, "--json").stdout
        )  # fmt: skip
        assert (told["row"], told["target"]) == (17, log["rating"][17])
        assert told["prediction"] == pytest.approx(float(model.predict(log)[17]), rel=1e-6)
        total = sum(part["value"] for part in told["contributions"]) + told["rest"]["value"]
        assert total == pytest.approx(told["score"], abs=1e-12)
        assert told["score"] == pytest.approx(told["prediction"], rel=1e-5)  # float32 in the model
        sizes = [abs(part["value"]) for part in told["contributions"]]
        assert len(sizes) == 3
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("form", ["object", "list", "lines", "stdin"])
def test_explain_reads_json(folder, tmp_path, form):
    log = make_log(200, 1)
    records = [{name: column[i] for name, column in log.items()} for i in (3, 4)]
    path = tmp_path / ("rows.jsonl" if form == "lines" else "row.json")
    text = {
        "object": json.dumps(records[0]),
        "list": json.dumps(records[::-1]),
        "lines": "".join(json.dumps(record) + "\n" for record in records[::-1]),
        "stdin": json.dumps(records[::-1]),
    }[form]
    path.write_text(text)
    row = 0 if form == "object" else 1
    if form == "stdin":
        words = ["explain", str(folder / "click.crossfm"), "-", "--row", "1", "--json"]
        result = CliRunner().invoke(app, words, input=text)
        assert result.exit_code == 0, result.output
    else:
        result = crossfm_runs("explain", folder / "click.crossfm", path, "--row", row, "--json")
    told = json.loads(result.stdout)
    model = crossfm.load(folder / "click.crossfm")
    assert told["score"] == pytest.approx(float(model.decision_function(log)[3]), abs=1e-5)
    assert told["explained"] == "log odds of yes"
    assert told["target"] == log["click"][3]


def test_explain_text_and_several_classes(folder, tmp_path):
    model = crossfm.load(folder / "text.crossfm")
    result = crossfm_runs("explain", folder / "text.crossfm", folder / "test.libsvm", "--row", 9,
                          "--json")  # fmt: skip
    told = json.loads(result.stdout)
    want = float(model.decision_function(str(folder / "test.libsvm"))[9])
    assert told["score"] == pytest.approx(want, abs=1e-5)
    crossfm_runs("fit", folder / "train.csv", "-t", "rating", "--task", "classification", "-q",
                 "--drop", "click", "-m", tmp_path / "m", *FAST)  # fmt: skip
    scores = crossfm.load(tmp_path / "m").decision_function(make_log(200, 1))
    for label in (1, 4):
        result = crossfm_runs("explain", tmp_path / "m", folder / "test.csv", "--row", 2,
                              "--class", label, "--json")  # fmt: skip
        want = float(scores[2, label - 1])
        assert json.loads(result.stdout)["score"] == pytest.approx(want, abs=1e-5)


def test_explain_shows_a_table(folder):
    lines = crossfm_runs(
        "explain", folder / "rating.crossfm", folder / "test.csv", "-k", 4
    ).stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["row", "prediction", "target"]
    assert lines[4].split() == ["what", "adds"]
    assert "smaller ones" in lines[9]
    assert lines[10].startswith("score")
    assert len(lines) == 11


# --- info ---------------------------------------------------------------------------------------


def test_info(folder):
    told = json.loads(crossfm_runs("info", folder / "rating.crossfm", "--json").stdout)
    model = crossfm.load(folder / "rating.crossfm")
    n, k = model.factors_.shape
    assert told["n_parameters"] == n * (k + 1) + 1
    assert told["format_version"] == 1
    assert told["about"]["target"] == "rating"
    assert [field["name"] for field in told["fields"]] == ["user", "item", "age", "genres"]
    assert sum(field["n_features"] for field in told["fields"]) == n
    assert len(told["history"]) == 3
    text = crossfm_runs("info", folder / "rating.crossfm").stdout
    assert "regression of rating" in text
    assert "version 1, written by crossfm" in text
    assert "categorical" in text
    assert "train loss" in text


def test_info_of_text_and_of_foreign_models(folder, tmp_path):
    assert "classes -1, 1" in crossfm_runs("info", folder / "text.crossfm").stdout
    from crossfm.store import save_model

    save_model(crossfm.FactorModel(0.5, [1.0], [[2.0, 3.0]]), tmp_path / "m")
    told = json.loads(crossfm_runs("info", tmp_path / "m", "--json").stdout)
    assert (told["estimator"], told["n_parameters"], told["history"]) == (None, 4, [])
    crossfm_runs("info", tmp_path / "m")


# --- wrong use, and bad input -------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "fit train.csv -m m.crossfm",  # no --target
        "fit train.csv -t rating",  # no --model
        "fit train.csv -t rating -m m --valid 0.1 --valid-data test.csv",
        "fit train.csv -t rating -m m --solver adam",
        "fit train.csv -t rating -m m --task ranking",
        "fit train.csv -t rating -m m --factors -1",
        "fit train.csv -t rating -m m --learning-rate 0",
        "fit train.csv -t rating -m m --learning-rate nan",
        "fit train.csv -t rating -m m --l2-factors -0.1",
        "fit train.csv -t rating -m m --jobs 0",
        "fit train.csv -t rating -m m --valid 1.5",
        "fit train.csv -t rating -m m --valid 0.1 --metric rmsee",
        "fit train.csv -t rating -m m --valid 0.1 --metric grouped_auc",
        "fit train.csv -t rating -m m --categorical age --numeric age",
        "fit train.libsvm -t rating -m m",
        "fit train.csv -t rating -m m --nonsense",
        "evaluate rating.crossfm test.csv --metrics rsme",
        "evaluate rating.crossfm test.csv --metrics auc --group user",
        "evaluate click.crossfm test.csv --metrics grouped_auc",
        "evaluate rating.crossfm test.csv --metrics log_loss",
        "evaluate text.crossfm test.libsvm --group user",
        "predict rating.crossfm test.csv -o scores.xlsx",
        "predict rating.crossfm test.csv -o s.csv --proba",
        "predict click.crossfm test.csv -o s.csv --proba --raw",
        "predict click.crossfm test.csv -o - --json",
        "predict text.crossfm test.libsvm -o s.csv --keep user",
        "predict rating.crossfm test.csv",
        "explain rating.crossfm test.csv --by row",
        "explain rating.crossfm test.csv --class 3",
        "explain click.crossfm test.csv --class maybe",
        "explain rating.crossfm test.csv --row -1",
        "nonsense",
    ],
)
def test_wrong_use_ends_with_2(folder, words, monkeypatch):
    monkeypatch.chdir(folder)
    result = crossfm_runs(*words.split(), code=2)
    assert result.stdout == ""
    assert "Error" in result.stderr
    assert not (folder / "m").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit train.csv -t ratng -m m", "no column 'ratng'. Did you mean 'rating'?"),
        ("fit train.csv -t rating -m m --drop clik", "Did you mean 'click'?"),
        ("fit train.csv -t rating -m m --fields usr", "Did you mean 'user'?"),
        ("fit train.csv -t rating -m m --bag genre:|", "Did you mean 'genres'?"),
        ("fit train.csv -t rating -m m --numeric age:logg", "Did you mean 'log'?"),
        ("fit train.csv -t rating -m m --numeric user", "column 'user' holds strings"),
        ("fit train.csv -t rating -m m --categorical rating", "'rating' is the target"),
        ("fit train.csv -t user -m m --task regression", "user holds strings such as 'u0'"),
        ("fit train.csv -t rating -m m --weight user", "column 'user' holds strings"),
        ("fit trian.csv -t rating -m m", "no such file. Did you mean 'train.csv'?"),
        ("fit train.csv train.libsvm -t rating -m m", "give one kind"),
        ("fit train.csv -t rating -m nowhere/m", "there is no folder"),
        ("fit train.csv -t rating -m train.csv/m", "there is no folder"),
        ("fit train.csv -t rating -m .", "it is a folder"),
        ("fit train.csv -t rating -m /proc/m", "cannot write /proc/m"),
        ("fit train.csv -t rating -m m --valid 0.0001", "too few to hold out"),
        ("evaluate nothing.crossfm test.csv", "cannot read nothing.crossfm"),
        ("evaluate train.csv test.csv", "not a model file"),
        ("evaluate rating.crossfm test.libsvm", "fitted on columns with names"),
        ("evaluate text.crossfm test.csv", "test.csv is a table"),
        ("evaluate rating.crossfm test.csv -t ratin", "Did you mean 'rating'?"),
        ("evaluate rating.crossfm test.csv -t click", "click holds strings"),
        ("evaluate click.crossfm test.csv -t user", "the label 'u"),
        ("predict rating.crossfm test.csv -o s.csv --keep usr", "Did you mean 'user'?"),
        ("predict rating.crossfm test.csv -o nowhere/s.csv", "there is no folder"),
        ("explain rating.crossfm test.csv --row 200", "test.csv has 200 rows, no row 200"),
        ("explain rating.crossfm row.json", "no column 'user'. Did you mean 'usr'?"),
        ("explain rating.crossfm broken.json", "broken.json is not JSON"),
        ("explain rating.crossfm number.json", "expected an object of column: value"),
        ("explain rating.crossfm test.libsvm", "fitted on columns with names"),
        ("explain text.crossfm row.json", "takes no JSON"),
        ("info train.csv", "not a model file"),
    ],
)
def test_bad_input_is_one_line(folder, words, said, monkeypatch):
    monkeypatch.chdir(folder)
    assert said in error_of(*words.split())
    assert not (folder / "m").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("user,y\n", "no rows"),
        ("user,y\na,1\nb\n", "line 3"),
        ("user,user,y\na,b,1\n", "2 columns are named 'user'"),
        ("user,y\na,1\nb,\nc,2\n", "the target 'y' is missing in 1 rows, first in row 1"),
        ("user,y\na,1.5\nb,inf\nc,2.5\n", "infinity: row 1"),
        ("user,y\na,1\nb,1\n", "y is 1 in all 2 rows"),
        ("user,y\na,no\nb,no\n", "nothing to learn"),
        ("x,y\n1,2\n1,3\n1,4\n", "constant"),
        ("user,y\n" + "".join(f"a,t{i}\n" for i in range(101)), "101 different strings"),
    ],
)
def test_bad_tables(tmp_path, text, said):
    (tmp_path / "log.csv").write_text(text)
    message = error_of("fit", tmp_path / "log.csv", "-t", "y", "-m", tmp_path / "m")
    assert said in message
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv"]


def test_bad_text(tmp_path):
    (tmp_path / "log.libsvm").write_text("1 3:1\n0 4:1 x:2\n")
    message = error_of("fit", tmp_path / "log.libsvm", "-m", tmp_path / "m")
    assert "line 2, column 7" in message
    (tmp_path / "one.libsvm").write_text("1 3:1\n1 4:1\n")
    message = error_of("fit", tmp_path / "one.libsvm", "-m", tmp_path / "m")
    assert "nothing to learn" in message


def test_damaged_models(folder, tmp_path):
    whole = (folder / "rating.crossfm").read_bytes()
    altered = bytearray(whole)
    altered[-1] ^= 1
    for name, content in (("short", whole[:-7]), ("altered", bytes(altered)), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        for words in (["info"], ["evaluate", folder / "test.csv"],
                      ["predict", folder / "test.csv", "-o", tmp_path / "s.csv"]):  # fmt: skip
            message = error_of(words[0], tmp_path / name, *words[1:])
            assert str(tmp_path / name) in message
    assert not (tmp_path / "s.csv").exists()


def test_a_fit_that_diverges_leaves_the_old_model(folder, tmp_path):
    model = tmp_path / "m.crossfm"
    model.write_bytes(b"old")
    rng = np.random.default_rng(0)
    (tmp_path / "log.libsvm").write_text(
        "".join(f"{rng.normal():.3f} 0:{x:.3f} 1:{x * 3:.3f}\n" for x in rng.normal(0, 1, 300))
    )
    message = error_of("fit", tmp_path / "log.libsvm", "-m", model, "-q", "--solver", "sgd",
                       "--learning-rate", "1e6")  # fmt: skip
    assert "diverged in epoch 1" in message
    assert model.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.libsvm", "m.crossfm"]


def test_debug_shows_where(folder):
    words = ["fit", folder / "train.csv", "-t", "ratng", "-m", folder / "m"]
    assert "Traceback" not in crossfm_process(*words).stderr
    done = crossfm_process(*words, "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "SchemaError" in done.stderr


def test_an_unexpected_error_says_how_to_see_more(folder, monkeypatch):
    monkeypatch.setattr("crossfm.store.load_model", lambda path: 1 / 0)
    message = error_of("info", folder / "rating.crossfm")
    assert "ZeroDivisionError" in message
    assert "--debug" in message


# --- pipes and interrupts -----------------------------------------------------------------------


def test_pipes_get_plain_lines(folder, tmp_path):
    done = crossfm_process("fit", folder / "train.csv", "-t", "rating", "-m", tmp_path / "m", *FAST)
    assert done.returncode == 0
    for text in (done.stdout, done.stderr):
        assert "\x1b" not in text, "a control sequence"
        assert "━" not in text, "a bar"
        assert "\r" not in text
    done = crossfm_process("fit", folder / "train.csv", "-t", "rating", "-m", tmp_path / "m", "-q",
                           *FAST)  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")


def test_json_is_all_of_standard_output(folder, tmp_path):
    done = crossfm_process("fit", folder / "train.csv", "-t", "rating", "-m", tmp_path / "m",
                           "--json", *FAST)  # fmt: skip
    assert json.loads(done.stdout)["model"] == str(tmp_path / "m")
    assert "epoch 3/3" in done.stderr


def test_a_terminal_gets_bars_and_colours(folder, tmp_path):
    """In a pseudo-terminal of 80 columns no line is longer, and epochs stand below each other."""
    import pty

    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "crossfm", "fit", folder / "train.csv", "-t", "rating", "-m",
         tmp_path / "m", *FAST],
        stdin=child, stdout=child, stderr=child, env=environment,
    )  # fmt: skip
    os.close(child)
    seen = b""
    while True:
        try:
            part = os.read(parent, 65_536)
        except OSError:  # the other side was closed
            break
        if not part:
            break
        seen += part
    os.close(parent)
    assert process.wait(60) == 0
    text = seen.decode()
    assert "\x1b[" in text
    assert "epoch  train loss" in text
    assert "━" in text


def _big_log(path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 300_000
    table = pa.table({"user": rng.integers(0, 5000, n), "item": rng.integers(0, 3000, n),
                      "rating": rng.normal(0, 1, n)})  # fmt: skip
    pa.parquet.write_table(table, path)


def _interrupted(words: list[object], wait_for: str) -> tuple[int, str, str]:
    """Start the command, send SIGINT once it says `wait_for`; exit code, stdout, stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "crossfm", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    heard = ""
    deadline = time.monotonic() + 60
    while wait_for not in heard and time.monotonic() < deadline:
        heard += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    out, rest = process.communicate(timeout=60)
    assert time.monotonic() - sent < 20, "an interrupt is answered soon"
    return process.returncode, out, heard + rest


def test_interrupt_saves_the_last_full_epoch(tmp_path):
    _big_log(tmp_path / "log.parquet")
    model = tmp_path / "m.crossfm"
    code, out, said = _interrupted(
        ["fit", tmp_path / "log.parquet", "-t", "rating", "-m", model, "--epochs", "5000",
         "--valid", "0", "--json"],
        "epoch 2/5000",
    )  # fmt: skip
    assert code == 130
    told = json.loads(out)
    assert told["stopped"] == "interrupted"
    assert 2 <= told["epochs"] < 5000
    assert f"interrupted: {model} holds the model of epoch {told['best_epoch']}" in said
    assert "Traceback" not in said
    assert len(crossfm.load(model).history_) == told["epochs"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.parquet", "m.crossfm"]


def test_interrupt_before_an_epoch_leaves_the_old_model(tmp_path):
    _big_log(tmp_path / "log.parquet")
    model = tmp_path / "m.crossfm"
    model.write_bytes(b"old")
    code, out, said = _interrupted(
        ["fit", tmp_path / "log.parquet", "-t", "rating", "-m", model, "--factors", "4000"],
        "features",
    )
    assert code == 130
    assert out == ""
    assert re.match(
        "interrupted: (no epoch was complete|nothing was written)", said.splitlines()[-1]
    )
    assert "Traceback" not in said
    assert model.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.parquet", "m.crossfm"]
