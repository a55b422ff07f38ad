"""Wrong use and bad input on the command line: exit codes, one line, nothing half written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_runs import crossfm_process, crossfm_runs, error_of, sample_files


@pytest.fixture(scope="module")
def folder() -> Path:
    return sample_files()


# --- wrong use, and bad input -------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "fit train.csv -m m.crossfm",  # no --target
        "fit train.csv -t rating",  # no --model
        "fit train.csv -t rating -m m --valid 0.1 --valid-data test.csv",
        "fit train.csv -t rating -m m --solver adamw",
        "fit train.csv -t rating -m m --task ranking",
        "fit train.csv -t rating -m m --factors -1",
        "fit train.csv -t rating -m m --learning-rate 0",
        "fit train.csv -t rating -m m --learning-rate nan",
        "fit train.csv -t rating -m m --l2-factors -0.1",
        "fit train.csv -t rating -m m --jobs 0",
        "fit train.csv -t rating -m m --valid 1.5",
        "fit train.csv -t rating -m m --valid 0.1 --metric rmsee",
        "fit train.csv -t rating -m m --valid 0.1 --metric grouped_auc",
        "fit train.csv -t rating -m m --metric auc",
        "fit train.csv -t click -m m --metric rmse",
        "fit train.csv -t rating -m m --categorical age --numeric age",
        "fit train.libsvm -t rating -m m",
        "fit train.csv -t rating -m m --nonsense",
        "evaluate rating.crossfm test.csv --metrics rsme",
        "evaluate rating.crossfm test.csv --metrics auc --group user",
        "evaluate click.crossfm test.csv --metrics grouped_auc",
        "evaluate rating.crossfm test.csv --metrics log_loss",
        "evaluate rating.crossfm test.csv --metrics auc",
        "evaluate click.crossfm test.csv --metrics mae",
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
        ("fit train.csv -t rating -m ./train.csv", "name another file to write"),
        ("predict rating.crossfm test.csv -o test.csv", "name another file to write"),
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
        ("user;y\na;1\nb;2\n", "line 1: the columns are separated by ';', expected commas"),
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


def test_numbers_with_fractions_are_no_classes(tmp_path):
    (tmp_path / "log.csv").write_text("user,y\na,1.5\nb,2\na,3\nb,1\n")
    words = ["fit", tmp_path / "log.csv", "-t", "y", "-m", tmp_path / "m"]
    assert "y holds numbers with fractions such as 1.5" in error_of(
        *words, "--task", "classification"
    )


def test_a_file_without_a_column_says_which_it_has(folder, tmp_path):
    (tmp_path / "log.csv").write_text("usr,items\na,1\nb,2\n")
    message = error_of("predict", folder / "rating.crossfm", tmp_path / "log.csv", "-o", "-")
    assert "Did you mean 'usr'? The columns are 'usr', 'items'" in message


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_behind_standard_output(folder):
    words = ["predict", folder / "rating.crossfm", folder / "test.csv", "--out", "-"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "crossfm", *map(str, words), "-q"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write to standard output")
    assert done.stderr.count("\n") == 1
