"""`crossfm evaluate`, `predict`, `explain` and `info`."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from cli_runs import FAST, crossfm_process, crossfm_runs, error_of, make_log, sample_files
from typer.testing import CliRunner

import crossfm
from crossfm.cli.app import app


@pytest.fixture(scope="module")
def folder() -> Path:
    return sample_files()


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


def test_rows_without_a_group_share_one(folder, tmp_path):
    log = make_log(200, 1)
    log["user"] = [None if user == "u3" else user for user in log["user"]]
    pa.parquet.write_table(pa.table(log), tmp_path / "log.parquet")
    result = crossfm_runs("evaluate", folder / "click.crossfm", tmp_path / "log.parquet",
                          "--group", "user", "--json")  # fmt: skip
    groups = json.loads(result.stdout)["groups"]["grouped_auc"]
    assert groups["n_groups"] + groups["n_skipped"] == 12


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
    assert lines[0] == "prediction,probability"
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
