"""Checkpoints: stopped anywhere, a fit goes on to the same bits, or says why it will not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc

import numpy as np
import pytest
from solver_problems import SOLVER_CASES, make_rows, with_
from test_streaming import Blocks, same_state

import crossfm as cf
from crossfm.data.files import remove_leftovers, replacing
from crossfm.errors import DataError, ModelFileError
from crossfm.fitting import Watch
from crossfm.solvers import AdaGrad, Checkpoint, FusedTrainer, feeding, fit
from crossfm.solvers import checkpoint as checkpoints


class Stop(Exception):
    """Raised from a callback: the end of a process, for those who look at files only."""


def stopping(at):
    """A progress callback that stops at its `at`-th call."""
    calls = iter(range(10**9))

    def tell(event, told):
        if next(calls) == at:
            raise Stop

    return tell


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(feeding, "WORK_A_CALL", 1)  # 256 rows a call
    monkeypatch.setattr(feeding, "GROUP_FEATURES", 2000)
    monkeypatch.setattr(feeding, "MANY_ROWS", 100)


ROWS, FIELD_OF = make_rows(np.random.default_rng(3), 1500)


def problem(base, streamed, **more):
    source = Blocks(ROWS, 128, len(FIELD_OF)) if streamed else ROWS
    return FusedTrainer(
        with_(base, loss="logistic", seed=7, **more), len(FIELD_OF), FIELD_OF
    ), source


def watch_of(patience):
    valid = ROWS[:100]

    def evaluate(scores):
        return {"loss": float(np.mean((scores - valid.targets) ** 2))}

    return Watch(valid, evaluate, "loss", lambda new, best: new < best, patience)


@pytest.mark.parametrize(
    "base",
    [*SOLVER_CASES, AdaGrad(learning_rate=0.1, precision="bfloat16")],
    ids=[*(o.optimizer for o in SOLVER_CASES), "bfloat16"],
)
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("patience", [0, 2])
def test_goes_on_to_the_same_bits_from_anywhere(base, streamed, patience, tmp_path):
    told = {"n_epochs": 3, "watch": watch_of(patience)}
    trainer, source = problem(base, streamed)
    expected, _ = fit(trainer, source, **told)
    for at in (1, 8, 17):
        keeping = Checkpoint(tmp_path / "c", {"of": [1]}, seconds=0.0)
        stopped = 0
        for _ in range(100):  # stopped again and again after `at` more calls
            again, source = problem(base, streamed)
            try:
                history, _ = fit(
                    again, source, checkpoint=keeping, progress=stopping(at + stopped), **told
                )
            except Stop:
                stopped += 1
                continue
            break
        assert stopped
        same_state(trainer, again)
        assert not (tmp_path / "c").exists()
        same = [(e.number, e.metrics) for e in history.epochs]
        assert same == [(e.number, e.metrics) for e in expected.epochs]
        losses = [e.loss for e in history.epochs]
        assert losses == [e.loss for e in expected.epochs]
        assert (history.best_epoch, history.stopped) == (expected.best_epoch, expected.stopped)


def test_deterministic_threads_go_on_too(tmp_path):
    base = AdaGrad()
    more = {"n_jobs": 2, "deterministic": True}
    trainer, source = problem(base, True, **more)
    fit(trainer, source, n_epochs=2)
    keeping = Checkpoint(tmp_path / "c", seconds=0.0)
    again, source = problem(base, True, **more)
    with pytest.raises(Stop):
        fit(again, source, n_epochs=2, checkpoint=keeping, progress=stopping(4))
    again, source = problem(base, True, **more)
    fit(again, source, n_epochs=2, checkpoint=keeping)
    same_state(trainer, again)


def stopped_at(path, at=4, of=None, base=None, **more):
    trainer, source = problem(base or AdaGrad(), False, **more)
    with pytest.raises(Stop):
        fit(trainer, source, n_epochs=3, checkpoint=Checkpoint(path, of or {}, seconds=0.0),
            progress=stopping(at))  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        ({"learning_rate": 0.1}, {"learning_rate": 0.2}, r"learning_rate \(0.1 then, 0.2 now\)"),
        ({"of": {"rows": 1}}, {"of": {"rows": 2}}, r"rows \(1 then, 2 now\)"),
        ({"base": cf.solvers.SGD()}, {}, r"solver \('sgd' then, 'adagrad' now\)"),
        ({"n_factors": 4}, {"n_factors": 8}, "n_factors"),
        ({"l2_factors": (0.1,) * 5}, {"l2_factors": (0.1, 0.2, 0.1, 0.1, 0.1)}, "l2_factors"),
    ],
)
def test_another_fit_is_refused(tmp_path, then, now, told):
    path = stopped_at(tmp_path / "c", **then)
    before = path.read_bytes()
    with pytest.raises(DataError, match=f"another fit: {told}.*Delete it"):
        stopped_at(path, **now)
    assert path.read_bytes() == before


def test_threads_may_change_in_between(tmp_path):
    path = stopped_at(tmp_path / "c", n_jobs=1)
    trainer, source = problem(AdaGrad(), False, n_jobs=2)
    history, _ = fit(trainer, source, n_epochs=3, checkpoint=Checkpoint(path))
    assert len(history.epochs) == 3


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = stopped_at(tmp_path / "c")
    good = path.read_bytes()
    for at in (2, 65_536 + 50, len(good) - 100, len(good) - 3):
        data = bytearray(good)
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match="Delete it"):
            stopped_at(path)
    path.write_bytes(b"something else")
    with pytest.raises(ModelFileError, match="Delete it"):
        stopped_at(path)
    cf.data.cache.write_rows(path, [ROWS], {})
    with pytest.raises(ModelFileError, match="no checkpoint of a fit"):
        stopped_at(path)


def test_a_newer_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "VERSION", 2)
    path = stopped_at(tmp_path / "c")
    monkeypatch.setattr(checkpoints, "VERSION", 1)
    with pytest.raises(ModelFileError, match=r"has version 2.*Update"):
        stopped_at(path)


def test_saving_takes_no_memory_of_the_parameters_size(tmp_path):
    trainer = FusedTrainer(AdaGrad(n_factors=16), 400_000)  # 51 MB
    keeping = Checkpoint(tmp_path / "c")
    place, history = checkpoints.Place(rng=np.random.default_rng(0).bit_generator.state), None
    tracemalloc.start()
    try:
        keeping.save(trainer, place, cf.solvers.History(), None)
        assert tracemalloc.get_traced_memory()[1] < 5e6
        tracemalloc.reset_peak()
        keeping.load(trainer)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert history is None
    assert (tmp_path / "c").stat().st_size > 50e6


def test_leftovers_of_killed_writes_go(tmp_path):
    with replacing(tmp_path / "c") as file:
        (left,) = tmp_path.glob(".c.*.tmp")
        name = left.name
        file.write(b"whole")
    (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".c.other.tmp").write_bytes(b"not ours")
    remove_leftovers(tmp_path / "c", older_than=60.0)
    assert (tmp_path / name).exists()
    remove_leftovers(tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".c.other.tmp", "c"]


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_ctrl_c_leaves_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(cf.solvers.training, "PATIENT_SECONDS", -1.0)
    rng = np.random.default_rng(0)
    rows, y = cf.Rows(rng.integers(0, 500, (3000, 4))), rng.integers(0, 2, 3000)
    asked = {"n_epochs": 3, "random_state": 0, "early_stopping": False}
    whole = cf.FMClassifier(**asked).fit(rows, y)

    def interrupt(event, told):
        if event == "rows" and told["epoch"] == 2:
            signal.raise_signal(signal.SIGINT)

    model = cf.FMClassifier(**asked, checkpoint=tmp_path / "c")
    with pytest.raises(KeyboardInterrupt):
        model.fit(rows, y, progress=interrupt)
    assert model.n_iter_ == 1  # the last full epoch
    assert (tmp_path / "c").exists()
    model.fit(rows, y)
    np.testing.assert_array_equal(model.factors_, whole.factors_)
    assert [e["loss"] for e in model.history_] == [e["loss"] for e in whole.history_]
    assert not (tmp_path / "c").exists()


def test_estimators_refuse_other_rows(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows, y = cf.Rows(rng.integers(0, 500, (3000, 4))), rng.integers(0, 2, 3000)
    model = cf.FMClassifier(n_epochs=3, random_state=0, checkpoint=tmp_path / "c")
    monkeypatch.setattr(checkpoints, "SAVE_SECONDS", 0.0)
    with pytest.raises(Stop):
        model.fit(rows, y, progress=stopping(3))
    with pytest.raises(DataError, match="checksum"):
        model.fit(rows, 1 - y)
    with pytest.raises(DataError, match="random_state to be an integer"):
        cf.FMRegressor(checkpoint=tmp_path / "c").fit(rows, y)


# --- killed -------------------------------------------------------------------------------------

PROGRAM = """
import sys
import numpy as np
import crossfm as cf
from crossfm.data import streams
from crossfm.solvers import checkpoint, feeding

folder, kept = sys.argv[1:]
checkpoint.SAVE_SECONDS = 0.0
feeding.WORK_A_CALL, feeding.GROUP_FEATURES = 1, 4000
streams.stream_rows.__kwdefaults__["block_rows"] = 256
model = cf.FMClassifier(
    n_factors=8, n_epochs=4, random_state=3, stream=True, early_stopping=True, patience=2,
    checkpoint=kept,
)
print("ready", flush=True)
model.fit(folder + "/log.libsvm")
np.savez(folder + "/done.npz", coef=model.coef_, factors=model.factors_, n=model.n_iter_)
"""


def test_killed_at_any_moment(tmp_path):
    rng = np.random.default_rng(0)
    rows = cf.Rows(rng.integers(0, 2000, (3000, 4)), targets=rng.integers(0, 2, 3000))
    cf.data.write_libsvm(tmp_path / "log.libsvm", rows)
    kept = tmp_path / "checkpoint"

    def run(seconds=None):
        program = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path), str(kept)]
        with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            started = time.perf_counter()
            if seconds is not None:
                time.sleep(seconds)
                process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
            process.communicate(timeout=60)
        return process.returncode, time.perf_counter() - started

    code, whole = run()
    assert code == 0
    expected = dict(np.load(tmp_path / "done.npz"))
    killed = 0
    for moment in (0.4, 0.7):
        for found in [*(tmp_path / ".crossfm-cache").iterdir(), tmp_path / "done.npz"]:
            found.unlink()  # the cache is written anew too
        code, _ = run(moment * whole)
        killed += code != 0
        assert code or not kept.exists()
        assert run()[0] == 0
        found = np.load(tmp_path / "done.npz")
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=f"{name} at {moment}")
        assert not kept.exists()
        assert not list(tmp_path.glob(".checkpoint*"))
    assert killed
