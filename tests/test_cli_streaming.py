"""``crossfm fit --stream``: files read block by block, checkpoints, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_runs import FAST, N, crossfm_runs, error_of, sample_files

from crossfm.cli import training
from crossfm.estimators import _streaming
from crossfm.solvers import checkpoint as checkpoints
from crossfm.store import load_model

CLICK = ["-t", "click", "--drop", "rating"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setitem(_streaming.stream_rows.__kwdefaults__, "block_rows", 64)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Copies of the sample files: their caches lie beside them."""
    for name in ("train.csv", "train.parquet", "train.libsvm", "train.ffm", "test.csv"):
        shutil.copy(sample_files() / name, tmp_path)
    return tmp_path


def fitted(*words: object) -> dict:
    return json.loads(crossfm_runs("fit", *words, *FAST, "--json").stdout)


@pytest.mark.parametrize("name", ["train.csv", "train.parquet"])
def test_streamed_as_in_memory(folder, name):
    told = {}
    for stream in ("--stream", "--no-stream"):
        model = folder / f"m{stream}"
        told[stream] = fitted(folder / name, *CLICK, "-m", model, stream, "--valid", "0")
        assert load_model(model).metadata["about"]["n_rows"] == N
    for key in ("task", "task_reason", "classes", "n_rows", "n_valid_rows", "n_features",
                "fields", "epochs"):  # fmt: skip
        assert told["--stream"][key] == told["--no-stream"][key], key
    assert (folder / ".crossfm-cache").is_dir()
    models = [load_model(folder / f"m{stream}").model for stream in told]
    assert models[0].schema.feature_names() == models[1].schema.feature_names()


@pytest.mark.parametrize("name", ["train.libsvm", "train.ffm"])
def test_text_carries_its_targets(folder, name):
    told = fitted(folder / name, "-m", folder / "m", "--stream", "--valid", "0")
    assert (told["task"], told["classes"], told["n_rows"]) == ("classification", [-1, 1], N)
    assert told["task_reason"] == "2 classes, -1 and 1"


def test_blocks_are_held_out(folder):
    told = fitted(folder / "train.csv", *CLICK, "-m", folder / "m", "--stream", "--valid", "0.2")
    assert told["n_valid_rows"] in (64, 128, 64 + N % 64)
    assert told["n_rows"] + told["n_valid_rows"] == N
    assert {"log_loss", "auc"} <= told["metrics"].keys()


def test_rows_to_validate_on(folder):
    told = fitted(folder / "train.parquet", "-t", "rating", "--drop", "click", "-m", folder / "m",
                  "--stream", "--valid-data", folder / "test.csv")  # fmt: skip
    assert (told["n_rows"], told["n_valid_rows"]) == (N, 200)
    assert list(told["metrics"]) == ["rmse", "mae"]


def test_the_cache_lies_where_it_is_told_to_and_is_used_again(folder, monkeypatch):
    place = folder / "elsewhere"
    words = [folder / "train.csv", *CLICK, "-m", folder / "m", "--stream", "--cache-dir", place]
    fitted(*words)
    (made,) = place.iterdir()
    assert not (folder / ".crossfm-cache").exists()
    before = made.stat().st_mtime_ns
    fitted(*words)
    assert (list(place.iterdir()), made.stat().st_mtime_ns) == ([made], before)


def test_large_files_stream_by_themselves(folder, monkeypatch):
    heard = []
    monkeypatch.setattr("crossfm.data.memory.memory_limit", lambda: 20_000)
    monkeypatch.setattr(_streaming, "memory_limit", lambda: 20_000)
    words = [folder / "train.csv", *CLICK, "-m", folder / "m", *FAST]
    assert "block by block" in crossfm_runs("fit", *words).stderr
    assert "block by block" not in crossfm_runs("fit", *words, "--no-stream").stderr
    monkeypatch.setattr("crossfm.data.memory.memory_limit", lambda: 20_000_000)
    assert "block by block" not in crossfm_runs("fit", *words).stderr
    assert not heard


def test_what_text_is_told_to_be_stays_so(folder):
    """Codes such as 007 are strings where --categorical says so, in a stream too."""
    lines = [f"{i % 3:03d},{i % 2}" for i in range(300)]
    (folder / "codes.csv").write_text("code,click\n" + "\n".join(lines) + "\n")
    told = []
    for stream in ("--stream", "--no-stream"):
        fitted(folder / "codes.csv", "-t", "click", "--categorical", "code", "-m", folder / "m",
               stream)  # fmt: skip
        told.append(load_model(folder / "m").model.schema.feature_names())
    assert told[0] == told[1] == ["code=<unknown>", "code=000", "code=001", "code=002"]


# --- checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_an_interrupted_fit_goes_on(folder, stream, monkeypatch, patient):
    words = [folder / "train.csv", *CLICK, "--valid", "0", stream, "--checkpoint", folder / "c"]
    fitted(*words, "-m", folder / "whole")
    assert not (folder / "c").exists()  # removed at the end

    def stop(self, event, numbers):
        before(self, event, numbers)
        if event == "epoch" and numbers["epoch"] == 2:
            raise KeyboardInterrupt

    before = training.FitProgress.__call__
    monkeypatch.setattr(checkpoints, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(training.FitProgress, "__call__", stop)
    done = crossfm_runs("fit", *words, "-m", folder / "part", *FAST, code=130)
    assert f"goes on from {folder / 'c'}" in done.stderr
    monkeypatch.setattr(training.FitProgress, "__call__", before)
    assert fitted(*words, "-m", folder / "part")["epochs"] == 3
    whole, part = (load_model(folder / name).model for name in ("whole", "part"))
    np.testing.assert_array_equal(whole.factors, part.factors)
    np.testing.assert_array_equal(whole.weights, part.weights)
    assert not (folder / "c").exists()


def test_a_checkpoint_of_another_fit_is_refused(folder):
    (folder / "c").write_text("a letter")
    words = [folder / "train.csv", *CLICK, "-m", folder / "m", "--checkpoint", folder / "c"]
    assert "is no file of blocks" in error_of("fit", *words, *FAST)
    assert not (folder / "m").exists()


# --- what is refused ----------------------------------------------------------------------------


def test_one_block_cannot_be_held_out(folder, monkeypatch):
    monkeypatch.setitem(_streaming.stream_rows.__kwdefaults__, "block_rows", 1000)
    words = [folder / "train.csv", *CLICK, "-m", folder / "m", "--stream", *FAST]
    told = error_of("fit", *words, "--valid", "0.1")
    assert "600 rows are one block" in told
    assert "--valid-data FILE, --valid 0, or --no-stream" in told
    crossfm_runs("fit", *words)


def test_wrong_use(folder):
    words = [folder / "train.csv", *CLICK, "-m", folder / "m"]
    done = crossfm_runs("fit", *words, "--stream", "--patience", "0", "--valid", "0.1", code=2)
    assert "--patience 0" in done.stderr
    told = error_of("fit", *words, "--checkpoint", folder / "no" / "c")
    assert "there is no folder" in told
    told = error_of("fit", *words, "--checkpoint", folder / "train.csv")
    assert "is to be read and to be written" in told


def test_a_target_of_many_numbers_is_no_class(folder, monkeypatch):
    monkeypatch.setattr("crossfm.data.tally.MOST_LABELS", 50)
    lines = [f"u{i % 9},{i}" for i in range(200)]
    (folder / "numbers.csv").write_text("user,n\n" + "\n".join(lines) + "\n")
    words = [folder / "numbers.csv", "-t", "n", "-m", folder / "m", "--stream"]
    assert "too many different numbers" in error_of("fit", *words, "--task", "classification")
    assert fitted(*words)["task"] == "regression"


def test_folders(folder):
    empty = folder / "empty"
    empty.mkdir()
    told = error_of("fit", empty, "-t", "click", "-m", folder / "m", "--stream")
    assert "holds no files" in told
    (empty / "a.csv").write_text("user,click\n")
    told = error_of("fit", empty, "-t", "click", "-m", folder / "m", "--stream")
    assert "no rows" in told
