"""Fits on files read block by block: the same model as in memory, in bounded memory."""

from __future__ import annotations

import gzip
import os
import signal
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from solver_problems import by_solver, make_rows, with_

import crossfm as cf
from crossfm.data.cache import CachedRows, Totals, write_rows
from crossfm.errors import DataError
from crossfm.estimators import _streaming
from crossfm.solvers import AdaGrad, FusedTrainer, feeding, fit


class Blocks:
    """Rows in memory, in blocks."""

    def __init__(self, rows, size, n_features):
        self.parts = list(rows.batches(size))
        self.totals = [Totals(len(p), p.nnz) for p in self.parts]
        self.weight = len(rows) if rows.weights is None else rows.weights.sum(dtype=np.float64)
        self.n_features = n_features
        self.threads = set()

    def block(self, block):
        self.threads.add(threading.current_thread().name)
        return self.parts[block]

    def counts(self):
        ids = np.concatenate([p.ids for p in self.parts])
        return np.bincount(ids, minlength=self.n_features).astype(np.uint32)


def trained(options, rows, field_of, n_epochs=3):
    trainer = FusedTrainer(options, len(field_of), field_of)
    history, models = fit(trainer, rows, n_epochs=n_epochs)
    return trainer, history, models[0]


def same_state(a, b):
    for name, array in a.state()[0].items():
        np.testing.assert_array_equal(array, b.state()[0][name], err_msg=name)
    assert a.state()[1] == b.state()[1]


@by_solver
@pytest.mark.parametrize("interactions", ["all", "across_fields"])
@pytest.mark.parametrize("size", [7, 64, 1000])
def test_streamed_in_sequence_is_in_memory(base, interactions, size, monkeypatch):
    monkeypatch.setattr(feeding, "GROUP_FEATURES", 300)
    rows, field_of = make_rows(np.random.default_rng(0), 200, weights=True)
    options = with_(base, loss="logistic", interactions=interactions, shuffle=False)
    ours, told, _ = trained(options, Blocks(rows, size, len(field_of)), field_of)
    theirs, expected, _ = trained(options, rows, field_of)
    same_state(ours, theirs)
    assert [e.loss for e in told.epochs] == pytest.approx(
        [e.loss for e in expected.epochs], rel=1e-12
    )


def test_streamed_in_random_order_is_in_memory_in_that_order(monkeypatch):
    monkeypatch.setattr(feeding, "GROUP_FEATURES", 2000)
    monkeypatch.setattr(feeding, "MANY_ROWS", 100)
    monkeypatch.setattr(feeding, "WORK_A_CALL", 1)
    rows, field_of = make_rows(np.random.default_rng(1), 3000)
    options = with_(AdaGrad(loss="logistic", seed=5))
    blocks = Blocks(rows, 100, len(field_of))
    ours, _, _ = trained(options, blocks, field_of, n_epochs=2)
    assert all(name.startswith("crossfm-read") for name in blocks.threads)

    place = FusedTrainer(options, len(field_of), field_of)
    feed = feeding.StreamFeed(place, blocks)
    rng = np.random.default_rng(5)
    orders = []
    for _ in range(2):
        state = rng.bit_generator.state
        groups = feed.groups(rng)
        rng.bit_generator.state = state
        starts = [np.concatenate([np.arange(100) + 100 * b for b in g]) for g in groups]
        epoch, group, seen = [], 0, 0
        for ready, visited in feed.parts(rng):
            assert len(ready) == len(starts[group])
            epoch.append(starts[group][visited])
            seen += len(visited)
            if seen == len(ready):
                group, seen = group + 1, 0
        assert group == len(groups) > 2
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(3000))
        orders += epoch
    assert (orders[0][:50] != orders[len(orders) // 2][:50]).any()  # epochs differ

    theirs = FusedTrainer(options, len(field_of), field_of)
    ready = theirs.prepare(rows)
    for order in orders:
        theirs.train(ready, order)
    same_state(ours, theirs)


def test_deterministic_on_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(feeding, "GROUP_FEATURES", 2000)
    rows, field_of = make_rows(np.random.default_rng(1), 3000)
    found = [
        trained(
            with_(AdaGrad(loss="logistic", n_jobs=n_jobs, deterministic=True)),
            Blocks(rows, 100, len(field_of)),
            field_of,
        )[0]
        for n_jobs in (1, 3)
    ]
    same_state(*found)


def test_calls_that_are_skipped_change_nothing_else(monkeypatch):
    monkeypatch.setattr(feeding, "GROUP_FEATURES", 2000)
    monkeypatch.setattr(feeding, "WORK_A_CALL", 1)
    rows, field_of = make_rows(np.random.default_rng(1), 3000)
    for source in (rows, Blocks(rows, 100, len(field_of))):
        feed = feeding.feed_of(FusedTrainer(AdaGrad(), len(field_of), field_of), source)
        whole = [v for _, v in feed.parts(np.random.default_rng(0))]
        for skip in range(len(whole) + 1):
            rng = np.random.default_rng(0)
            rest = [v for _, v in feed.parts(rng, skip)]
            assert len(rest) == len(whole) - skip
            for got, want in zip(rest, whole[skip:], strict=True):
                np.testing.assert_array_equal(got, want)
            again = np.random.default_rng(0)
            list(feed.parts(again))
            assert rng.bit_generator.state == again.bit_generator.state


def test_features_of_blocks_are_started_as_in_memory():
    rows, field_of = make_rows(np.random.default_rng(1), 300)
    options = with_(AdaGrad(loss="logistic", n_jobs=2))
    ours = FusedTrainer(options, len(field_of), field_of)
    feed = feeding.StreamFeed(ours, Blocks(rows, 100, len(field_of)))
    theirs = FusedTrainer(options, len(field_of), field_of)
    ready = theirs.prepare(rows)
    same_state(ours, theirs)
    assert sorted(feed.hot_ids) == sorted(ready.hot_ids)


def test_groups_take_turns_in_memory_that_is_reused(monkeypatch):
    monkeypatch.setattr(feeding, "GROUP_FEATURES", 2000)
    rows, field_of = make_rows(np.random.default_rng(1), 3000, weights=True)
    feed = feeding.StreamFeed(FusedTrainer(AdaGrad(), len(field_of), field_of),
                              Blocks(rows, 100, len(field_of)))  # fmt: skip
    groups = feed.groups(None)
    for _ in range(2):
        seen = [ready.rows for ready, _ in feed.parts(None)]
        assert len(seen) == len(groups) > 4
        for name in ("ids", "values", "targets", "weights"):
            first, second, third = (getattr(one, name) for one in seen[:3])
            assert np.shares_memory(first, third)
            assert not np.shares_memory(first, second)
    for at, (ready, _) in enumerate(feed.parts(None)):  # read before the next but one
        low = 100 * groups[at][0]
        np.testing.assert_array_equal(ready.rows.ids, rows[low : low + len(ready)].ids)


# --- estimators ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setitem(_streaming.stream_rows.__kwdefaults__, "block_rows", 128)


def make_log(n=1500, seed=0):
    rng = np.random.default_rng(seed)
    user, item = rng.zipf(1.5, n) % 60, rng.integers(0, 40, n)
    taste = rng.normal(size=(100, 2))
    score = (taste[user] * taste[item + 60]).sum(1) + 0.1 * rng.normal(size=n)
    return pa.table(
        {
            "user": user,
            "item": [f"i{i}" for i in item],
            "stars": 3 + score,
            "liked": np.where(score > 0, "yes", "no"),
            "kind": np.digitize(score, [-0.5, 0.5]) * 2,
            "care": rng.uniform(0.5, 2, n).round(1),
        }
    )


@pytest.fixture
def log(tmp_path):
    table = make_log()
    pq.write_table(table, tmp_path / "log.parquet")
    return table, tmp_path / "log.parquet"


SCHEMA = [cf.Categorical("user"), cf.Categorical("item")]


def options(**more):
    return {"schema": cf.Schema(SCHEMA), "n_epochs": 4, "random_state": 0, "shuffle": False,
            "early_stopping": False, **more}  # fmt: skip


@pytest.mark.parametrize("target", ["liked", "kind"])
def test_classes_as_in_memory(log, target):
    ours = cf.FMClassifier(stream=True, **options()).fit(log[1], target)
    theirs = cf.FMClassifier(stream=False, **options()).fit(log[1], target)
    assert ours.classes_.tolist() == theirs.classes_.tolist()
    assert ours.classes_.dtype == theirs.classes_.dtype
    np.testing.assert_array_equal(ours.coef_, theirs.coef_)
    np.testing.assert_array_equal(ours.factors_, theirs.factors_)
    np.testing.assert_array_equal(ours.predict_proba(log[1]), theirs.predict_proba(log[1]))
    assert ours.schema_ == theirs.schema_


@pytest.mark.parametrize("weight", [None, "care"])
def test_numbers_as_in_memory(log, weight):
    ours, theirs = (
        cf.FMRegressor(stream=stream, **options()).fit(log[1], "stars", sample_weight=weight)
        for stream in (True, False)
    )
    # The mean and deviation of the targets are summed in another order.
    np.testing.assert_allclose(ours.predict(log[1]), theirs.predict(log[1]), rtol=1e-4)
    assert ours.history_[-1]["loss"] == pytest.approx(theirs.history_[-1]["loss"], rel=1e-4)


@pytest.mark.parametrize("loss", ["huber", "quantile", "poisson"])
def test_other_losses_as_in_memory(log, loss):
    ours, theirs = (
        cf.FMRegressor(stream=stream, loss=loss, **options()).fit(log[1], "care")
        for stream in (True, False)
    )
    np.testing.assert_allclose(ours.predict(log[1]), theirs.predict(log[1]), rtol=1e-3)


def test_hinge_as_in_memory(log):
    ours, theirs = (
        cf.FMClassifier(stream=stream, loss="hinge", **options()).fit(log[1], "liked")
        for stream in (True, False)
    )
    np.testing.assert_array_equal(ours.coef_, theirs.coef_)


@pytest.mark.parametrize("class_weight", ["balanced", {"yes": 3.0}])
def test_class_weights_as_in_memory(log, class_weight):
    given = options(class_weight=class_weight)
    ours, theirs = (
        cf.FMClassifier(stream=stream, **given).fit(log[1], "liked", sample_weight="care")
        for stream in (True, False)
    )
    np.testing.assert_allclose(ours.predict_proba(log[1]), theirs.predict_proba(log[1]), rtol=1e-4)
    with pytest.raises(DataError, match="class_weight of 0"):
        cf.FMClassifier(stream=True, **options(class_weight={"yes": 0.0})).fit(log[1], "liked")


@pytest.mark.parametrize("ending", ["libsvm", "libsvm.gz", "ffm"])
def test_text_as_in_memory(tmp_path, ending):
    rng = np.random.default_rng(0)
    rows, _ = make_rows(rng, 700)
    rows = rows.replace(values=(rows.values * 20).astype(np.float32))
    rows = rows.replace(targets=2.0 * rows.targets - 1)
    write = cf.data.write_libffm if ending == "ffm" else cf.data.write_libsvm
    if ending == "ffm":
        rows = rows.replace(fields=rows.ids % 3)
    paths = [tmp_path / f"{part}.{ending}" for part in "ab"]
    write(paths[0], rows[:400])
    write(paths[1], rows[400:])
    given = options() | {"schema": None}
    ours, theirs = (cf.FMClassifier(stream=s, **given).fit(paths) for s in (True, False))
    assert ours.classes_.tolist() == theirs.classes_.tolist() == [-1, 1]
    assert ours.classes_.dtype == theirs.classes_.dtype
    np.testing.assert_allclose(ours.predict_proba(paths), theirs.predict_proba(paths), rtol=1e-5)


def test_held_out_blocks_stop_the_fit(log, monkeypatch):
    table, path = log
    asked = {"stream": True} | options(n_epochs=60, early_stopping=True, shuffle=True)
    model = cf.FMRegressor(learning_rate=0.3, **asked).fit(path, "stars")
    told = [epoch["rmse"] for epoch in model.history_]
    assert model.best_epoch_ == int(np.argmin(told)) + 1 < len(told) < 60
    n = table.num_rows
    held = n - model.history_[0]["rows_per_second"] * model.history_[0]["seconds"]
    assert round(held) in (128, 92)  # one of twelve blocks
    again = cf.FMRegressor(learning_rate=0.3, **asked).fit(path, "stars")
    np.testing.assert_array_equal(again.coef_, model.coef_)
    other = cf.FMRegressor(**asked).fit(path, "stars", eval_set=(table, "stars"))
    assert "rmse" in other.history_[0]
    monkeypatch.setattr(_streaming, "MOST_HELD", 400)
    share = {"validation_fraction": 0.9}
    model = cf.FMRegressor(**asked, **share).fit(path, "stars")
    assert model.history_[0]["rows_per_second"] * model.history_[0]["seconds"] > n - 400


def test_streams_by_itself_where_memory_is_short(log, monkeypatch):
    used = []
    inner = _streaming.stream_rows
    monkeypatch.setattr(_streaming, "stream_rows", lambda *a, **o: used.append(1) or inner(*a, **o))
    cf.FMRegressor(**options()).fit(log[1], "stars")
    assert not used
    monkeypatch.setattr(_streaming, "memory_limit", lambda: 50_000)
    cf.FMRegressor(**options()).fit(log[1], "stars")
    assert used == [1]
    cf.FMRegressor(**options()).fit(log[1], np.zeros(1500))  # an array cannot be streamed
    cf.FMRegressor(stream=False, **options()).fit(log[1], "stars")
    assert used == [1]


@pytest.mark.parametrize(
    ("given", "call", "told"),
    [
        ({"stream": 3}, ("log", "stars"), "stream is 3"),
        ({"stream": True}, ("frame", "stars"), "write it to files"),
        ({"stream": True}, ("log", np.zeros(1500)), "name their columns"),
        ({"stream": True}, ("log", "nope"), "no column 'nope'"),
        ({"stream": True}, ("log", None), "requires y"),
        ({"stream": True}, ("log", "liked"), "something else than numbers"),
        ({"stream": True, "checkpoint": "x", "random_state": None}, ("log", "stars"), "integer"),
    ],
)
def test_refusals(log, given, call, told):
    X = log[0] if call[0] == "frame" else log[1]
    with pytest.raises((DataError, cf.errors.SchemaError), match=told):
        cf.FMRegressor(**options(**given)).fit(X, call[1])


def test_warm_start_is_not_streamed(log):
    model = cf.FMRegressor(stream=True, warm_start=True, **options()).fit(log[1], "stars")
    with pytest.raises(DataError, match="partial_fit"):
        model.fit(log[1], "stars")


def test_a_block_altered_between_fits_is_found(log):
    cf.FMRegressor(stream=True, **options()).fit(log[1], "stars")
    (cache,) = (log[1].parent / ".crossfm-cache").iterdir()
    data = bytearray(cache.read_bytes())
    data[3 * 65_536 + 40] ^= 1
    cache.write_bytes(data)
    with pytest.raises(DataError, match="block 2 fails its checksum"):
        cf.FMRegressor(stream=True, **options()).fit(log[1], "stars")
    cache.unlink()
    cf.FMRegressor(stream=True, **options()).fit(log[1], "stars")


def test_one_block_and_no_rows(tmp_path):
    (tmp_path / "few.libsvm").write_text("1 1:1\n0 2:1\n")
    cf.FMRegressor(stream=True).fit(tmp_path / "few.libsvm")
    with pytest.raises(DataError, match="one block"):
        cf.FMRegressor(stream=True, early_stopping=True).fit(tmp_path / "few.libsvm")
    for name, text in (("none.libsvm", b""), ("none.libsvm.gz", gzip.compress(b""))):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(DataError, match="no rows"):
            cf.FMRegressor(stream=True).fit(tmp_path / name)
    (tmp_path / "head.csv").write_text("user,y\n")
    with pytest.raises(DataError, match="no rows"):
        cf.FMRegressor(stream=True).fit(tmp_path / "head.csv", "y")


def test_what_is_told_meanwhile(log, capsys, monkeypatch):
    told = []
    cf.FMRegressor(stream=True, **options()).fit(
        log[1], "stars", progress=lambda event, what: told.append((event, dict(what)))
    )
    reads = [what for event, what in told if event == "read"]
    assert [r["rows"] for r in reads if r["pass"] == 2][-1] == 1500
    rows = [what for event, what in told if event == "rows"]
    assert rows[-1]["rows"] == rows[-1]["n_rows"] == 1500
    monkeypatch.setattr("crossfm.estimators._watching.SILENT_SECONDS", -1.0)
    asked = options(verbose=2, n_epochs=1)
    cf.FMRegressor(stream=True, **asked).fit(log[1], "care")
    shown = capsys.readouterr().out
    assert "pass 2/2 over the files  1,500 rows" in shown
    assert "epoch 1/1  1,500 of 1,500 rows" in shown


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_ctrl_c_keeps_the_last_full_epoch(log, patient):
    asked = options(stream=True, n_epochs=50, shuffle=True)
    model = cf.FMRegressor(**asked)

    def interrupt(event, what):
        if what.get("epoch") == 3 and event == "rows":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        model.fit(log[1], "stars", progress=interrupt)
    assert model.n_iter_ == 3  # the short rest of it is finished
    short = cf.FMRegressor(**asked | {"n_epochs": 3}).fit(log[1], "stars")
    np.testing.assert_array_equal(model.coef_, short.coef_)


def test_reading_goes_on_while_training(tmp_path, monkeypatch):
    monkeypatch.setattr(feeding, "GROUP_FEATURES", 1)
    rows, field_of = make_rows(np.random.default_rng(0), 400)
    write_rows(tmp_path / "c", rows.batches(100), {})
    cached = CachedRows(tmp_path / "c")
    events = []

    class Told:
        totals, weight = cached.totals, 400.0

        def counts(self):
            return cached.counts()

        def block(self, block):
            events.append("read")
            return cached.block(block)

    feed = feeding.StreamFeed(FusedTrainer(AdaGrad(), len(field_of), field_of), Told())
    for _ in feed.parts(None):
        time.sleep(0.05)
        events.append("train")
    # Two are read before the first is done with, and never more than one lies ready.
    assert events == ["read", "read", "train", "read", "train", "read", "train", "train"]
