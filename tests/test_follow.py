"""``crossfm fit --follow``: folders, files and pipes; snapshots; signals; what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_runs import crossfm_process, crossfm_runs, error_of, make_log

import crossfm as cf
from crossfm.cli import arriving
from crossfm.cli import follow as module
from crossfm.errors import ModelFileError
from crossfm.store import load_latest, load_model

LOG = make_log(3000)
CLICK = ["-t", "click", "--drop", "rating", "--factors", "4"]
END = ["--follow", "--idle", "0"]


def part(low, high, **more):
    return pa.table({name: column[low:high] for name, column in (LOG | more).items()})


def write(folder, name, low, high, **more):
    path = Path(folder) / name
    if path.suffix == ".parquet":
        pq.write_table(part(low, high, **more), path)
    else:
        pa.csv.write_csv(part(low, high, **more), path)
    return path


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "incoming"
    made.mkdir()
    write(made, "a.parquet", 0, 1000)
    write(made, "b.parquet", 1000, 2000)
    return made


def followed(*words: object, code: int = 0) -> dict:
    return json.loads(crossfm_runs("fit", *words, *END, "--json", code=code).stdout)


def same(path, other):
    one, two = load_model(path).model, load_model(other).model
    assert one.schema.feature_names() == two.schema.feature_names()
    np.testing.assert_array_equal(one.factors, two.factors)
    np.testing.assert_array_equal(one.weights, two.weights)


# --- folders ------------------------------------------------------------------------------------


def test_new_files_are_learned_once(folder, tmp_path):
    model = tmp_path / "m.crossfm"
    told = followed(folder, *CLICK, "-m", model)
    assert (told["n_rows"], told["n_files"], told["stopped"]) == (2000, 2, "ended")
    assert told["classes"] == ["no", "yes"]
    assert {"log_loss", "auc"} == told["metrics"].keys()
    before = model.read_bytes()
    told = followed(folder, *CLICK, "-m", model)
    assert (told["n_rows"], told["n_rows_before"], told["n_files"]) == (0, 2000, 0)
    assert model.read_bytes() == before
    write(folder, "c.parquet", 2000, 3000, user=["somebody new"] * 3000)
    told = followed(folder, "-m", model)  # the target is known
    assert (told["n_rows"], told["n_files"]) == (1000, 1)
    assert load_model(model).metadata["about"]["n_rows"] == 3000
    assert "user=somebody new" in load_model(model).model.schema.feature_names()
    assert len(cf.load(model).files_) == 3


def test_as_partial_fit_would(folder, tmp_path):
    followed(folder, *CLICK, "-m", tmp_path / "m")
    schema = load_model(tmp_path / "m").model.schema
    first = pq.read_table(folder / "a.parquet")
    expected = cf.FMClassifier(4, schema=cf.Schema(schema.fields).fit(first), random_state=0)
    for name in ("a", "b"):
        expected.partial_fit(folder / f"{name}.parquet", "click", classes=["no", "yes"])
    np.testing.assert_array_equal(load_model(tmp_path / "m").model.factors, expected.factors_)


def test_half_written_files_wait(folder, tmp_path):
    whole = (folder / "b.parquet").read_bytes()
    (folder / "b.parquet").write_bytes(whole[:-9])
    (folder / "c.parquet.tmp").write_bytes(whole)
    done = crossfm_runs("fit", folder, *CLICK, "-m", tmp_path / "m", *END)
    assert "not learned yet" in done.stderr
    assert "footer is missing" in done.stderr
    assert load_model(tmp_path / "m").metadata["about"]["n_rows"] == 1000
    (folder / "b.parquet").write_bytes(whole)
    assert followed(folder, "-m", tmp_path / "m")["n_rows"] == 1000


def test_text_files_wait_until_they_settle(folder, tmp_path, monkeypatch):
    from crossfm.data.arrivals import Arrivals

    path = write(folder, "c.csv", 2000, 2100)
    for name in ("a.parquet", "b.parquet"):
        (folder / name).unlink()
    source = arriving.FolderSource(folder, Arrivals(), lambda path: {})
    assert source.take(0.0) is None  # it may still be written
    with open(path, "a") as file:
        file.write("u1,1,20,g1,3,yes\n")
    assert source.take(0.0) is None
    assert len(source.take(0.0)) == 101
    source.learned(101, True)
    assert source.take(0.0) is None
    assert source.files == 1
    path = write(folder, "d.csv", 0, 50)
    os.utime(path, (1, 1))  # long ago
    assert len(source.take(0.0)) == 50


def test_a_bad_file_is_left_out(folder, tmp_path):
    (folder / "b.csv").write_text("user,item\nu1\n")
    write(folder, "c.parquet", 2000, 3000)
    done = crossfm_runs("fit", folder, *CLICK, "-m", tmp_path / "m", *END)
    assert "left out: " in done.stderr
    assert "1 batch could not be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert load_model(tmp_path / "m").metadata["about"]["n_rows"] == 3000
    (folder / "a.parquet").rename(folder / "z.parquet")  # now the first one is bad
    told = error_of("fit", folder, *CLICK, "-m", tmp_path / "n", *END)
    assert "b.csv" in told or "columns" in told
    assert not (tmp_path / "n").exists()


def test_rows_of_a_broken_file_are_not_learned_twice(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "JUDGED", 250)
    click = [*LOG["click"][:1600], None, *LOG["click"][1601:]]
    write(folder, "b.parquet", 1000, 2000, click=click)
    told = followed(folder, *CLICK, "-m", tmp_path / "m")
    assert (told["n_rows"], told["n_left_out"], told["n_files"]) == (1500, 1, 1)
    assert followed(folder, "-m", tmp_path / "m")["n_rows"] == 0  # it stops where it stopped


def test_ten_bad_files_in_sequence_end_it(folder, tmp_path):
    for number in range(12):
        (folder / f"c{number:02d}.csv").write_text("user,item\nu1\n")
    told = error_of("fit", folder, *CLICK, "-m", tmp_path / "m", *END)
    assert "c09.csv" in told
    assert load_model(tmp_path / "m").metadata["about"]["n_rows"] == 2000


def test_a_folder_that_vanishes_and_comes_back(folder, tmp_path):
    from crossfm.data.arrivals import Arrivals

    source = arriving.FolderSource(folder, Arrivals(), lambda path: {})
    for _ in range(2):
        source.learned(len(source.take(0.0)), True)
    assert source.take(0.0) is None
    away = folder.rename(tmp_path / "away")
    assert source.take(0.0) is None
    assert "is gone; waiting for it" in source.waits
    away.rename(folder)
    write(folder, "c.parquet", 2000, 2100)
    assert len(source.take(0.0)) == 100
    assert source.waits == ""


def test_nothing_comes(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    told = error_of("fit", empty, *CLICK, "-m", tmp_path / "m", *END)
    assert "no rows came from" in told
    told = error_of("fit", tmp_path / "no" / "log.csv", *CLICK, "-m", tmp_path / "m", *END)
    assert "no such file" in told
    assert not (tmp_path / "m").exists()


# --- lines --------------------------------------------------------------------------------------


def piped(text: str, *words: object, code: int = 0):
    done = subprocess.run(
        [sys.executable, "-m", "crossfm", "fit", "-", *map(str, words)], input=text, text=True,
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def csv_text(low, high):
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(part(low, high), sink)
    return sink.getvalue().to_pybytes().decode()


@pytest.mark.parametrize("kind", ["csv", "tsv", "json"])
def test_a_pipe(folder, tmp_path, kind):
    if kind == "json":
        rows = part(0, 1500).to_pylist()
        text = "\n".join(map(json.dumps, rows))  # the last line has no end
    else:
        text = csv_text(0, 1500).replace(",", "\t" if kind == "tsv" else ",")
    done = piped(text, *CLICK, "-m", tmp_path / "m", "--follow", "--json")
    told = json.loads(done.stdout)
    assert (told["n_rows"], told["stopped"], told["n_files"]) == (1500, "ended", None)
    path = write(tmp_path, "all.parquet", 0, 1500)
    expected = cf.load(tmp_path / "m")
    assert expected.predict(pq.read_table(path)).shape == (1500,)


def test_text_through_a_pipe(tmp_path):
    lines = "".join(f"{i % 2 * 2 - 1} {i % 7}:1 {7 + i % 5}:1\n" for i in range(1200))
    done = piped(lines, "-m", tmp_path / "m", "--follow", "--json")
    assert json.loads(done.stdout)["classes"] == [-1, 1]
    assert load_model(tmp_path / "m").metadata["about"]["n_rows"] == 1200
    more = "".join(f"{i % 2 * 2 - 1} {i % 7}:1 {20 + i}:1\n" for i in range(30))  # new ids
    done = piped(more, "-m", tmp_path / "m", "--follow")
    assert "warning" not in done.stderr
    assert load_model(tmp_path / "m").model.n_features == 50
    told = piped(lines, "-m", tmp_path / "n", "-t", "x", "--follow", code=2).stderr
    assert "leave out --target" in " ".join(told.replace("│", " ").split())


def test_a_file_that_grows(tmp_path):
    path, model = write(tmp_path, "log.csv", 0, 1000), tmp_path / "m"
    assert followed(path, *CLICK, "-m", model)["n_rows"] == 1000
    with open(path, "a") as file:
        file.write('"u1",1,20,"g1",3,"yes"\n"u1",1,2')  # a line that is not ended
    assert followed(path, "-m", model)["n_rows"] == 1
    with open(path, "a") as file:
        file.write('0,"g2",4,"no"\n')
    assert followed(path, "-m", model)["n_rows"] == 1
    assert followed(path, "-m", model)["n_rows"] == 0
    write(tmp_path, "log.csv", 0, 100)  # replaced by a shorter one
    assert followed(path, "-m", model)["n_rows"] == 100


def test_a_bad_line_is_left_out_with_its_batch(tmp_path):
    path, model = write(tmp_path, "log.csv", 0, 1000), tmp_path / "m"
    followed(path, *CLICK, "-m", model)
    with open(path, "a") as file:
        file.write("u1\n")
    told = crossfm_runs("fit", path, "-m", model, *END)
    assert "found 1 columns" in told.stderr
    with open(path, "a") as file:
        file.write('"u1",1,20,"g1",3,"yes"\n')
    assert followed(path, "-m", model)["n_rows"] in (0, 1)


def test_codes_stay_text(tmp_path):
    text = "code,click\n" + "".join(f"{i % 3:03d},{i % 2}\n" for i in range(300))
    (tmp_path / "log.csv").write_text(text)
    followed(tmp_path / "log.csv", "-t", "click", "--categorical", "code", "-m", tmp_path / "m")
    names = load_model(tmp_path / "m").model.schema.feature_names()
    assert names == ["code=<unknown>", "code=000", "code=001", "code=002"]


# --- metrics and tasks --------------------------------------------------------------------------


def test_progressive_validation_is_on_what_is_not_learned(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "JUDGED", 500)
    told = followed(folder, "-t", "rating", "--drop", "click", "--factors", "4",
                    "-m", tmp_path / "m", "--half-life", "1e12")  # fmt: skip
    model, errors = cf.load(tmp_path / "m"), []
    fresh = cf.FMRegressor(4, schema=cf.Schema(model.schema_.fields).fit(
        pq.read_table(folder / "a.parquet")), random_state=0)  # fmt: skip
    for low in range(0, 2000, 500):
        table = part(low, low + 500)
        if low:
            errors.append(fresh.predict(table) - np.array(LOG["rating"][low : low + 500]))
        fresh.partial_fit(table, "rating")
    assert told["metrics"]["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-6)
    assert told["metrics"]["mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-6)


@pytest.mark.parametrize(
    "more", [["--loss", "hinge"], ["--solver", "ftrl"], ["--kind", "ffm"], ["--float16"]]
)
def test_other_models(folder, tmp_path, more, monkeypatch):
    monkeypatch.setattr(module, "JUDGED", 500)
    told = followed(folder, *CLICK, "-m", tmp_path / "m", *more, "--delta")
    assert told["metrics"]["auc"] > 0.5
    assert ("log_loss" in told["metrics"]) == ("hinge" not in more)
    assert followed(folder, "-m", tmp_path / "m", *more)["n_rows"] == 0


# --- snapshots ----------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [True, False])
def test_snapshots_by_rows(folder, tmp_path, delta, monkeypatch):
    monkeypatch.setattr(arriving, "BATCH", 1 << 14)
    seen = []
    write_one = module._Learner._snapshot

    def watched(self, whole=False):
        write_one(self, whole)
        stored = load_latest(tmp_path / "m")
        seen.append(stored.metadata["about"]["n_rows"])
        np.testing.assert_array_equal(stored.model.factors, self.estimator.factors_)

    monkeypatch.setattr(module._Learner, "_snapshot", watched)
    write(folder, "c.parquet", 2000, 3000)
    words = ["--snapshot-every", "900", *(["--delta"] if delta else [])]
    told = followed(folder, *CLICK, "-m", tmp_path / "m", *words)
    assert seen[:3] == [1000, 2000, 3000]
    assert told["snapshots"] == len(seen) <= 3 + delta
    assert load_model(tmp_path / "m").metadata["about"]["n_rows"] == 3000
    assert [p.name for p in tmp_path.iterdir() if "delta" in p.name] == []  # one file at the end
    assert len(cf.load(tmp_path / "m").history_) <= module.KEPT


def test_a_full_disk_is_told_and_training_goes_on(folder, tmp_path, monkeypatch):
    from crossfm.store import Snapshots

    before, calls = Snapshots.write, []

    def full(self, *given, **more):
        calls.append(more)
        if len(calls) == 1:
            raise ModelFileError("cannot write m: No space left on device")
        before(self, *given, **more)

    monkeypatch.setattr(Snapshots, "write", full)
    done = crossfm_runs("fit", folder, *CLICK, "-m", tmp_path / "m", *END)
    assert "no snapshot: cannot write m: No space left" in done.stderr
    assert load_model(tmp_path / "m").metadata["about"]["n_rows"] == 2000
    monkeypatch.setattr(Snapshots, "write", lambda *given, **more: full_for_good())
    write(folder, "c.parquet", 2000, 3000)
    assert "No space" in error_of("fit", folder, "-m", tmp_path / "m", *END)
    assert load_model(tmp_path / "m").metadata["about"]["n_rows"] == 2000


def full_for_good():
    raise ModelFileError("cannot write m: No space left on device")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder(folder, tmp_path):
    place = tmp_path / "fixed"
    place.mkdir(mode=0o555)
    assert "cannot write" in error_of("fit", folder, *CLICK, "-m", place / "m", *END)


# --- signals ------------------------------------------------------------------------------------


def wait_for(path, process):
    for _ in range(1200):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("sign", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 0, "terminated")],
)
def test_signals_write_the_last_snapshot(folder, tmp_path, sign, code, word):
    model = tmp_path / "m.crossfm"
    process = subprocess.Popen(
        [sys.executable, "-m", "crossfm", "fit", folder, *CLICK, "-m", model, "--follow",
         "--delta", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    wait_for(model, process)
    process.send_signal(sign)
    out, told = process.communicate(timeout=120)
    assert process.returncode == code, told
    assert json.loads(out)["stopped"] == word
    assert f"{word}: {model} holds all rows up to here" in told
    n_rows = load_model(model).metadata["about"]["n_rows"]
    assert n_rows in (1000, 2000)
    assert followed(folder, "-m", model)["n_rows"] == 2000 - n_rows


def test_killed_and_started_again(folder, tmp_path):
    """After SIGKILL the last snapshot is whole, and no row of it is learned again."""
    model = tmp_path / "m.crossfm"
    for name in range(6):
        shutil.copy(folder / "a.parquet", folder / f"c{name}.parquet")
    rows = 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-m", "crossfm", "fit", folder, *CLICK, "-m", model, "--follow",
             "--delta", "--snapshot-every", "1", "-q"],
        )  # fmt: skip
        wait_for(model, process)
        time.sleep(0.1)
        process.kill()
        process.wait()
        now = load_latest(model).metadata["about"]["n_rows"]
        assert now >= rows
        rows = now
    followed(folder, "-m", model)
    assert load_model(model).metadata["about"]["n_rows"] == 8000


def test_deltas_of_a_killed_run_are_taken_into_the_file(folder, tmp_path):
    """A clean end leaves one whole file, though all rows had been learned before."""
    model = tmp_path / "m.crossfm"
    process = subprocess.Popen(
        [sys.executable, "-m", "crossfm", "fit", folder, *CLICK, "-m", model, "--follow",
         "--delta", "--snapshot-every", "1", "-q"],
    )  # fmt: skip
    wait_for(model, process)
    for number in range(600):
        write(folder, f"more{number}.parquet", 0, 100)
        if any(tmp_path.glob("*.delta")):
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert any(tmp_path.glob("*.delta"))
    for path in folder.glob("*.parquet"):
        path.unlink()
    learned = load_latest(model)
    assert learned.sequence > 0
    followed(folder, "-m", model)
    assert not any(tmp_path.glob("*.delta"))
    assert load_model(model).metadata["about"]["n_rows"] == learned.metadata["about"]["n_rows"]
    np.testing.assert_array_equal(load_model(model).model.factors, learned.model.factors)


# --- wrong use ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("a.parquet b.parquet --follow", "one folder, one file, or"),
        (". --follow --epochs 3", "--epochs does not go with"),
        (". --follow --valid 0.1", "--valid does not go with"),
        (". --follow --no-stream", "--stream does not go with"),
        (". --follow --snapshot-every often", "is 'often', expected a time"),
        (". --follow --snapshot-every 0", "expected a time"),
        (". --follow --snapshot-every nan", "expected a time"),
        (". --follow --half-life 0", "expected a number of rows above 0"),
        (". --delta", "--delta goes with --follow"),
        (". --idle 3", "--idle goes with --follow"),
        (". --snapshot-every 3s", "--snapshot-every goes with --follow"),
    ],
)
def test_wrong_use(folder, tmp_path, words, told, monkeypatch):
    monkeypatch.chdir(folder)
    done = crossfm_runs("fit", *words.split(), *CLICK, "-m", tmp_path / "m", code=2)
    assert told in " ".join(done.stderr.replace("│", " ").split())


def test_a_model_of_another_target(folder, tmp_path):
    followed(folder, *CLICK, "-m", tmp_path / "m")
    done = crossfm_runs("fit", folder, "-t", "rating", "-m", tmp_path / "m", *END, code=2)
    assert "has learned click" in " ".join(done.stderr.replace("│", " ").split())
    done = crossfm_runs("fit", folder, "-m", tmp_path / "n", *END, code=2)
    assert "--target is missing" in " ".join(done.stderr.replace("│", " ").split())


def test_a_process_of_its_own_is_plain_text(folder, tmp_path):
    done = crossfm_process("fit", folder, *CLICK, "-m", tmp_path / "m", *END)
    assert done.returncode == 0
    assert "\x1b" not in done.stderr + done.stdout
    assert "wrote m, " in done.stderr
