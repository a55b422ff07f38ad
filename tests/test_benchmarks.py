"""The benchmarks' own parts: bars, JSON, medians, workers, agreement. No peer is needed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from benchmarks import ffm, levels, peers, speed
from benchmarks.figures import Figure, Report, Spread
from benchmarks.harness import (
    Disagreement,
    Entry,
    Runs,
    Worker,
    WorkerError,
    base_log_loss,
    check_agreement,
    contest,
    log_loss,
    ratio,
    scoring_ratio,
)
from benchmarks.workers import Part, peak_memory


def last_line(text):
    return json.loads(text.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("value", "bar", "better", "holds"),
    [
        (3.0, 3.0, ">=", True),
        (2.999, 3.0, ">=", False),
        (0.925, 0.925, "<=", True),
        (0.9251, 0.925, "<=", False),
        (float("nan"), 0.0, ">=", False),
        (float("nan"), 0.0, "<=", False),
    ],
)
def test_bar_holds(value, bar, better, holds):
    assert Figure("x", value, bar, better).holds is holds


def test_check_ends_with_one_json_object_and_status_zero(tmp_path, capsys):
    report = Report("a b", [Figure("fast", 4.0, 3.0, ">="), Figure("small", 1.0, 2.0, "<=")])
    assert report.finish(check=True, folder=tmp_path) == 0
    assert last_line(capsys.readouterr().out) == {
        "figures": {
            "fast": {"value": 4.0, "bar": 3.0, "holds": True},
            "small": {"value": 1.0, "bar": 2.0, "holds": True},
        }
    }
    saved = json.loads((tmp_path / "a-b.json").read_text())
    assert saved["figures"]["small"]["better"] == "<="
    assert [path.name for path in tmp_path.iterdir()] == ["a-b.json"]


def test_a_missed_bar_gives_status_one_and_its_value_unbent(tmp_path, capsys):
    report = Report("x", [Figure("fast", 2.5, 3.0, ">="), Figure("small", 1.0, 2.0, "<=")])
    assert report.finish(check=True, folder=tmp_path) == 1
    figures = last_line(capsys.readouterr().out)["figures"]
    assert figures["fast"] == {"value": 2.5, "bar": 3.0, "holds": False}
    assert figures["small"]["holds"] is True


def test_without_check_there_is_no_json_and_no_failure(tmp_path, capsys):
    assert Report("x", [Figure("f", 0.0, 1.0, ">=")]).finish(check=False, folder=tmp_path) == 0
    assert '"figures"' not in capsys.readouterr().out


def test_no_figures_do_not_hold(tmp_path, capsys):
    assert Report("x").finish(check=True, folder=tmp_path) == 1
    assert last_line(capsys.readouterr().out) == {"figures": {}}


def test_a_value_that_is_no_number_is_valid_json(tmp_path, capsys):
    report = Report("x", [Figure("f", float("nan"), 1.0, "<=")])
    assert report.finish(check=True, folder=tmp_path) == 1
    found = last_line(capsys.readouterr().out)["figures"]["f"]
    assert found == {"value": None, "bar": 1.0, "holds": False}


def test_spread_is_the_median():
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0, 3)
    assert Spread.of([4.0, 1.0]).median == 2.5
    with pytest.raises(ValueError, match="no measurements"):
        Spread.of([])


def runs(label, seconds, losses, *, n_rows=100, max_rows=None, epochs=2, **options):
    entry = Entry(label, label, {"n_epochs": epochs, **options}, max_rows)
    return Runs(entry, "1", n_rows, list(seconds), list(losses))


def test_ratio_is_taken_within_rounds():
    ours = runs("a", [1.0, 2.0, 4.0], [0.5] * 3)
    theirs = runs("b", [3.0, 8.0, 16.0], [0.5] * 3)
    assert ratio(ours, theirs) == Spread(4.0, 3.0, 4.0, 3)
    assert ours.rates == [200.0, 100.0, 50.0]


def test_log_loss_is_the_definition():
    y, z = np.array([1.0, 0.0, 1.0]), np.array([0.3, -2.0, 800.0])
    p = 1 / (1 + np.exp(-z[:2]))
    expected = -(np.log(p[0]) + np.log(1 - p[1]) + 0.0) / 3
    np.testing.assert_allclose(log_loss(y, z), expected, rtol=1e-12)  # float64, three terms
    np.testing.assert_allclose(base_log_loss(np.array([1, 0, 0, 0])), log_loss(
        np.array([1, 0, 0, 0]), np.full(4, np.log(1 / 3))), rtol=1e-12)  # fmt: skip


def test_agreement_refuses_what_did_not_learn_or_lies_apart():
    y = np.array([1.0, 0.0, 0.0, 0.0])
    good = runs("a", [1.0], [0.40])
    check_agreement({"a": good, "b": runs("b", [1.0], [0.41])}, y, within=0.02)
    check_agreement({"a": good, "b": runs("b", [1.0], [9.0], max_rows=5)}, y, within=0.02)
    with pytest.raises(Disagreement, match="another task"):
        check_agreement({"a": good, "b": runs("b", [1.0], [0.45])}, y, within=0.02)
    with pytest.raises(Disagreement, match="base rate"):
        check_agreement({"a": good, "b": runs("b", [1.0], [0.60])}, y, within=0.02)
    with pytest.raises(Disagreement, match="base rate"):
        check_agreement({"a": good, "b": runs("b", [1.0], [float("nan")])}, y, within=0.02)


def small_part(n_rows, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 4, (n_rows, 3)).astype(np.int32) + np.array([0, 4, 8], np.int32)
    targets = (ids[:, 0] < 2).astype(np.float32)
    offsets = np.arange(n_rows + 1, dtype=np.int64) * 3
    return Part(ids.ravel(), offsets, None, targets, 12)


def test_a_part_survives_its_folder(tmp_path):
    part = small_part(5, 0)
    part.save(tmp_path / "p")
    back = Part.load(tmp_path / "p")
    for name in ("ids", "offsets", "targets"):
        np.testing.assert_array_equal(getattr(back, name), getattr(part, name))
    assert back.values is None
    assert back.n_features == 12
    np.testing.assert_array_equal(part.head(2).csr().toarray(), part.csr().toarray()[:2])


def test_a_contest_of_crossfm_against_itself():
    options = {"n_epochs": 3, "n_factors": 4, "learning_rate": 0.3}
    entries = [Entry("one", "crossfm", options), Entry("again", "crossfm", options)]
    said = []
    found = contest(entries, small_part(200, 1), small_part(50, 2), rounds=2, say=said.append)
    assert [line.split(":")[0] for line in said] == ["one", "again", "again", "one"]
    assert all(len(r.seconds) == len(r.losses) == 2 for r in found.values())
    assert found["one"].losses == found["again"].losses  # one thread, one seed: bit-equal
    assert found["one"].loss < 0.5 < base_log_loss(small_part(50, 2).targets)
    assert found["one"].version.startswith("crossfm ")
    assert all(rate > 0 for r in found.values() for rate in r.scoring_rates)
    assert len(found["one"].scoring_rates) == 2


def test_memory_of_a_fit_is_that_of_its_process():
    used = speed.memory(small_part(50, 1), small_part(5, 2), {"n_epochs": 1, "n_factors": 4})
    assert 0 < used["interpreter"] <= used["peak"]
    assert used["above"] == used["peak"] - used["parameters"] - used["data"]
    assert peak_memory() > 1_000_000


def worker_that(tmp_path, body):
    path = tmp_path / "worker.py"
    path.write_text(textwrap.dedent(body))
    return Worker("fake", [sys.executable, str(path)])


def test_a_worker_that_ends_is_named_with_its_last_words(tmp_path):
    body = """
        import sys
        sys.stdin.readline()
        print("out of luck", file=sys.stderr)
        sys.exit(0)
    """
    with worker_that(tmp_path, body) as worker:
        with pytest.raises(WorkerError, match=r"fake ended \(status 0\) at 'train'") as caught:
            worker.ask("train")
        assert "out of luck" in str(caught.value)


def test_a_worker_that_fails_is_named_with_its_reason(tmp_path):
    body = """
        import sys
        for line in sys.stdin:
            print('{"error": "ValueError: bad"}', flush=True)
    """
    with (
        worker_that(tmp_path, body) as worker,
        pytest.raises(WorkerError, match="ValueError: bad"),
    ):
        worker.ask("load")


def test_what_an_entrant_prints_does_not_reach_the_pipe(tmp_path):
    body = """
        from benchmarks.workers import Entrant, serve

        class Loud(Entrant):
            def version(self): return "1"
            def prepare(self): print("loading")
            def train(self, **options): print("epoch 1"); return {"seconds": 1.0}
            def score(self): return [0.0]

        serve(Loud())
    """
    part = small_part(3, 0)
    part.save(tmp_path / "d")
    with worker_that(tmp_path, body) as worker:
        place = str(tmp_path / "d")
        asked = {"train": place, "test": place, "scratch": str(tmp_path)}
        assert worker.ask("load", **asked) == {"version": "1"}
        answer = worker.ask("train", options={}, scores=str(tmp_path / "s.npy"))
        assert answer == {"seconds": 1.0}
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), [0.0])


def test_a_missing_peer_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "VENV", tmp_path / "nothing")
    assert peers.problem("xlearn") == "not installed: run python -m benchmarks.peers install"
    monkeypatch.setattr(peers, "install", dict)
    with pytest.raises(peers.PeerError, match=r"xlearn not installed.*benchmarks\.peers install"):
        peers.ensure("xlearn")


def test_speed_promises_are_the_ones_asked_for():
    found = {
        "crossfm": runs("crossfm", [1.0], [0.50]),
        "crossfm, 2 threads": runs("crossfm, 2 threads", [0.58], [0.5005]),
        "xlearn": runs("xlearn", [6.5], [0.51]),
        "modern-fm": runs("modern-fm", [30.0], [0.49]),
        "modern-fm, batches": runs("modern-fm, batches", [14.0], [0.51]),
        "modern-fm, SGD": runs("modern-fm, SGD", [9.0], [0.48], optimizer="sgd"),
    }
    used = {"above": 150e6}
    figures = {f.name: f for f in speed.figures(found, used)}
    assert {name: f.holds for name, f in figures.items()} == {
        "speed_over_xlearn": True,
        "log_loss_behind_xlearn": True,
        "speed_over_modern_fm": False,
        "log_loss_behind_modern_fm": False,
        "two_threads_over_one": True,
        "two_threads_log_loss_behind_one": True,
        "memory_above_parameters_and_data": True,
    }
    assert figures["speed_over_xlearn"].value == 6.5
    assert figures["speed_over_xlearn"].bar == 5.5
    assert figures["speed_over_modern_fm"].bar == 15.0
    assert figures["speed_over_modern_fm"].value == 14.0  # over its faster AdaGrad setting
    assert figures["log_loss_behind_modern_fm"].value == pytest.approx(0.01)  # behind the better
    assert figures["two_threads_over_one"].bar == 1.7


def test_scoring_is_promised_of_the_libraries_that_measure_it():
    found = {
        "crossfm": runs("crossfm", [1.0, 1.0, 1.0], [0.5] * 3),
        "crossfm, 2 threads": runs("crossfm, 2 threads", [0.6] * 3, [0.5] * 3),
        "xlearn": runs("xlearn", [3.5] * 3, [0.5] * 3),
        "modern-fm": runs("modern-fm", [30.0] * 3, [0.5] * 3),
        "modern-fm, batches": runs("modern-fm, batches", [14.0] * 3, [0.5] * 3),
    }
    found["crossfm"].scoring_rates = [60.0, 70.0, 80.0]
    found["modern-fm"].scoring_rates = [10.0, 10.0, 10.0]
    found["modern-fm, batches"].scoring_rates = [10.0, 20.0, 20.0]
    figures = {f.name: f for f in speed.figures(found, {"above": 1.0})}
    assert "scoring_over_xlearn" not in figures
    figure = figures["scoring_over_modern_fm"]
    assert (figure.value, figure.bar, figure.holds) == (4.0, 5.0, False)  # over the faster one
    assert scoring_ratio(found["crossfm"], found["modern-fm"]) == Spread(7.0, 6.0, 8.0, 3)


def test_lines_are_clocked_as_compiled_code_prints_them():
    body = """
        import ctypes, threading
        from benchmarks.workers import output

        library, heard = ctypes.CDLL(None), threading.Event()
        output.time.perf_counter = lambda: heard.set() or 1.5

        def call():
            library.printf(b"first\\n")
            assert heard.wait(60), "a line waits in the buffer of the C library"
            library.printf(b"second\\n")

        assert output.clocked(call) == [(1.5, "first\\n"), (1.5, "second\\n")]
        print("back")
    """
    code = textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "back\n"), done.stderr


# --- field-aware machines -----------------------------------------------------------------------


def field_part(n=400):
    rng = np.random.default_rng(0)
    ids = (rng.integers(0, 5, (n, 3)) + 5 * np.arange(3)).astype(np.int32)
    targets = ((ids[:, 0] + ids[:, 1]) % 2).astype(np.float32)
    field_of = np.repeat(np.arange(3), 5).astype(np.int32)
    return Part(ids.ravel(), np.arange(n + 1) * 3, None, targets, 15, field_of)


def test_fields_travel_with_their_part(tmp_path):
    part = field_part()
    part.save(tmp_path)
    np.testing.assert_array_equal(Part.load(tmp_path).field_of, part.field_of)
    np.testing.assert_array_equal(part.head(7).field_of, part.field_of)
    Part(part.ids, part.offsets, None, part.targets, 15).save(tmp_path / "plain")
    assert Part.load(tmp_path / "plain").field_of is None


def test_a_contest_of_field_aware_machines_is_learned_and_judged():
    part = field_part()
    slow = {"learning_rate": 0.2, "init_scale": 0.1}
    labels = ("crossfm", ffm.ROWWISE, "xlearn")
    entries = [ffm.entry_of("crossfm", 30, slow, label) for label in labels]
    runs = contest(entries, part, part, rounds=1)
    assert runs["crossfm"].loss < 0.2  # no weight of a feature alone tells
    found = {figure.name: figure for figure in ffm.figures(runs)}
    names = {"speed_over_xlearn", "log_loss_behind_xlearn"}
    assert set(found) == names | {f"rowwise_{name}" for name in names}
    assert found["log_loss_behind_xlearn"].value == 0.0
    assert found["speed_over_xlearn"].bar == 2.0
    assert found["rowwise_speed_over_xlearn"].bar == 3.0


@pytest.mark.parametrize("model", ["fm", "ffm"])
def test_each_level_runs_its_own_kernels_and_they_agree(model):
    from crossfm import _native

    names = list(_native.levels())
    part = field_part()
    runs = contest(levels.entries_of(model, names), part, part, rounds=1)
    assert [r.version.split("(")[1] for r in runs.values()] == [f"{name})" for name in names]
    (figure,) = levels.figures(model, runs)
    assert figure.name == f"{model}_log_loss_apart"
    assert figure.holds
    runs[names[-1]].losses = [runs[names[0]].loss + 0.001]
    assert not levels.figures(model, runs)[0].holds or len(names) == 1
