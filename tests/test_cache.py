"""The cache of encoded rows: what it holds, when it is made anew, and what it refuses."""

from __future__ import annotations

import errno
import gzip
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import crossfm as cf
from crossfm.data import cache, learning, streams
from crossfm.data.blockfile import BlockFile, BlockWriter
from crossfm.data.cache import CachedRows, write_rows
from crossfm.data.streams import stream_rows
from crossfm.errors import DataError, ModelFileError, SchemaError


def some_rows(n=50, seed=0, *, even=False):
    rng = np.random.default_rng(seed)
    lengths = np.full(n, 4) if even else rng.integers(0, 6, n)
    nnz = int(lengths.sum())
    return cf.Rows(
        rng.integers(0, 30, nnz).astype(np.int32),
        None if even else rng.normal(size=nnz),
        None if even else np.concatenate([[0], np.cumsum(lengths)]),
        None if even else rng.integers(0, 3, nnz),
        rng.normal(size=n),
        None if even else rng.uniform(0.5, 2, n),
        n,
    )


def same_rows(a, b):
    assert len(a) == len(b)
    for name in ("ids", "values", "offsets", "fields", "targets", "weights"):
        x, y = getattr(a, name), getattr(b, name)
        if x is None or y is None:
            assert x is y, name
        else:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.mark.parametrize("even", [True, False])
def test_blocks_come_back_as_they_were(tmp_path, even):
    rows = some_rows(even=even)
    write_rows(tmp_path / "c", rows.batches(16), {"of": [1, "x"]})
    cached = CachedRows(tmp_path / "c")
    assert (len(cached), cached.n_rows, cached.of) == (4, 50, {"of": [1, "x"]})
    for i, part in enumerate(rows.batches(16)):
        block = cached.block(i)
        same_rows(block, part)
        assert block.validate() == part.validate()
        assert cached.totals[i].nnz == part.nnz
        for array in (block.ids, block.targets):  # views of the file, not copies
            assert not array.flags.owndata
            assert not array.flags.writeable
    np.testing.assert_array_equal(
        cached.counts(), np.bincount(rows.ids, minlength=cached.n_features)
    )
    assert cached.n_features == rows.ids.max() + 1
    assert cached.has_values is not even


def test_targets_that_are_no_float32_are_kept(tmp_path):
    rows = cf.Rows(np.zeros((4, 1), np.int32), n_rows=4)
    exact = np.array([2**24 + 1, 0.1, 3.0, -1e30])
    write_rows(tmp_path / "c", [(rows, exact)], {})
    np.testing.assert_array_equal(CachedRows(tmp_path / "c").raw_targets(0), exact)
    write_rows(tmp_path / "c", [(rows, np.array(["b", "a", "b", "c"], object))], {})
    cached = CachedRows(tmp_path / "c")
    assert np.array(cached.targets.labels)[cached.raw_targets(0).astype(int)].tolist() == [*"babc"]


def test_tally_is_numpys_mean_and_deviation():
    rng = np.random.default_rng(0)
    y, c = 1e6 + rng.normal(size=1000), rng.uniform(0.1, 3, 1000).astype(np.float32)
    tally = cache.TargetTally()
    for part in np.array_split(np.arange(1000), 7):
        tally.take(y[part], c[part])
    mean = np.average(y, weights=c.astype(float))
    assert tally.mean == pytest.approx(mean, rel=1e-14)
    std = np.sqrt(np.average((y - mean) ** 2, weights=c.astype(float)))
    assert tally.std == pytest.approx(std, rel=1e-9)
    assert tally.rows == 1000


@pytest.mark.parametrize(
    ("y", "told"),
    [
        ([1.0, np.nan], "row 3: the target is nan"),
        ([1.0, np.inf], "row 3: the target is inf"),
        (np.array(["a", None], object), "row 3: the target is missing"),
        (np.array(["a", "b"]), "strings, before numbers"),
    ],
)
def test_bad_targets_are_named(y, told):
    tally = cache.TargetTally()
    tally.take(np.array([0.5, 1.0]))
    with pytest.raises(DataError, match=told):
        tally.take(np.asarray(y))


def test_rows_of_weight_zero_are_left_out(tmp_path):
    rows = some_rows(even=True).replace(weights=np.tile([0.0, 2.0], 25))
    write_rows(tmp_path / "c", rows.batches(20), {})
    cached = CachedRows(tmp_path / "c")
    assert cached.n_rows == 25
    same_rows(cached.block(0), rows[:20].take(np.arange(1, 20, 2)))


# --- broken files -------------------------------------------------------------------------------


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_a_changed_bit_is_found(tmp_path):
    path = tmp_path / "c"
    write_rows(path, some_rows().batches(20), {})
    good = path.read_bytes()
    for block in range(3):
        path.write_bytes(good)
        flip(path, 65_536 * (block + 1) + 100)
        cached = CachedRows(path)
        for other in {0, 1, 2} - {block}:
            cached.block(other)
        with pytest.raises(DataError, match=f"block {block} fails its checksum.*makes it anew"):
            cached.block(block)
    for at in (3, len(good) - 2, len(good) - 20, len(good) - 200):
        path.write_bytes(good)
        flip(path, at)
        with pytest.raises(DataError, match=str(path)):
            CachedRows(path)
    for size in (0, 10, 70_000, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(DataError, match=str(path)):
            CachedRows(path)


def test_read_into_checks_what_it_reads(tmp_path):
    path = tmp_path / "b"
    arrays = {"a": np.arange(12.0).reshape(3, 4)[:, :3], "b": np.zeros(0, np.int32)}
    with open(path, "wb") as file:
        writer = BlockWriter(file)
        writer.add(arrays)
        writer.finish({})
    found = {"a": np.zeros((3, 3)), "b": np.zeros(0, np.int32)}
    BlockFile(path).read_into(0, found)
    np.testing.assert_array_equal(found["a"], arrays["a"])
    with pytest.raises(DataError, match="expected"):
        BlockFile(path).read_into(0, {"a": np.zeros((3, 4))})
    flip(path, 65_536 + 8)
    with pytest.raises(ModelFileError, match="checksum"):
        BlockFile(path, error=ModelFileError).read_into(0, found)


def test_what_fails_half_way_leaves_nothing(tmp_path):
    def blocks():
        yield some_rows()
        raise RuntimeError("the source ends here")

    with pytest.raises(RuntimeError, match="ends here"):
        write_rows(tmp_path / "c", blocks(), {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_data_error(tmp_path, monkeypatch):
    def full(self, arrays, about=None):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BlockWriter, "add", full)
    with pytest.raises(DataError, match="No space left"):
        write_rows(tmp_path / "c", [some_rows()], {})
    assert list(tmp_path.iterdir()) == []


# --- files as blocks ----------------------------------------------------------------------------


def make_log(n=1000, seed=0):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "user": [f"u{u}" for u in rng.zipf(1.6, n) % 97],
            "hour": rng.integers(0, 24, n),
            "price": rng.lognormal(size=n),
            "tags": ["|".join(f"t{t}" for t in rng.integers(0, 9, rng.integers(0, 4)))
                     for _ in range(n)],
            "clicked": rng.integers(0, 2, n),
        }
    )  # fmt: skip


def whole(cached):
    return cf.Rows.concatenate([cached.block(i) for i in range(len(cached))])


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz"])
def test_tables_are_encoded_as_in_memory(tmp_path, ending):
    table = make_log()
    path = tmp_path / f"log.{ending}"
    if ending == "parquet":
        pq.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, tmp_path / "log.csv")
        if ending == "csv.gz":
            path.write_bytes(gzip.compress((tmp_path / "log.csv").read_bytes()))
    cached, schema = stream_rows(path, targets="clicked", block_rows=128)
    table = cf.data.read_table(path)  # CSV has no empty strings
    expected = cf.Schema.infer(table, "clicked").fit(table)
    assert schema == expected
    same_rows(whole(cached), expected.transform(table, "clicked"))
    assert len(cached) == 8


def test_values_of_several_kinds_are_counted_as_one_column():
    parts = [{"c": [1, 2, 2]}, {"c": [2.0, 3.5]}, {"c": ["2", "x", "x", "x"]}, {"c": [None, 1]}]
    fields = [cf.Categorical("c")]
    schema = cf.Schema(fields).fit_batches(parts)
    assert schema.feature_names() == ["c=<unknown>", "c=2", "c=x", "c=1", "c=3.5"]


def test_min_count_and_hashing(tmp_path):
    table = make_log()
    fields = [cf.Categorical("user", min_count=3), cf.Categorical("hour", hash_buckets=50)]
    pq.write_table(table, tmp_path / "log.parquet")
    _, schema = stream_rows(
        tmp_path / "log.parquet", schema=cf.Schema(fields), targets="clicked", block_rows=100
    )
    assert schema == cf.Schema(fields).fit(table)
    told = []
    stream_rows(
        tmp_path / "log.parquet", schema=cf.Schema(fields[1:]), targets="clicked", block_rows=100,
        progress=lambda event, what: told.append(what),
    )  # fmt: skip
    assert [t["rows"] for t in told if t["pass"] == 1] == [100]  # no pass for hashed fields
    assert [t["rows"] for t in told if t["pass"] == 2][-1] == 1000


def test_values_beyond_memory_are_forgotten_aloud(monkeypatch):
    monkeypatch.setattr(learning, "MOST_RARE", 10)
    monkeypatch.setattr(learning, "PENDING", 10)
    parts = [{"c": ["often"] * 2 + [f"{i}-{j}" for j in range(20)]} for i in range(5)]
    with pytest.warns(UserWarning, match="forgotten on the way"):
        schema = cf.Schema([cf.Categorical("c", min_count=2)]).fit_batches(parts)
    assert schema.feature_names() == ["c=<unknown>", "c=often"]


def test_scales_of_many_rows_are_those_of_a_sample(monkeypatch):
    monkeypatch.setattr(learning, "SAMPLE", 64)
    x = np.random.default_rng(0).normal(3.0, 2.0, 5000)
    schema = cf.Schema([cf.Numeric("x")])
    schema.fit_batches({"x": part} for part in np.array_split(x, 13))
    state = schema._encodings[0].state()
    kept = x[::64]  # 5000 numbers at a stride at which no more than 128 are left
    assert (state["seen"], state["mean"]) == (len(kept), pytest.approx(kept.mean()))


def test_text_and_several_paths(tmp_path):
    rows = some_rows(60)
    rows = rows.replace(weights=None, targets=np.sign(rows.targets))
    cf.data.write_libffm(tmp_path / "a.ffm", rows[:25])
    cf.data.write_libffm(tmp_path / "b.ffm.gz", rows[25:])
    cached, schema = stream_rows([tmp_path / "a.ffm", tmp_path / "b.ffm.gz"], block_rows=10)
    assert schema is None
    got, want = whole(cached), rows
    np.testing.assert_array_equal(got.ids, want.ids)
    np.testing.assert_array_equal(got.fields, want.fields)
    np.testing.assert_array_equal(got.targets, want.targets)
    assert sorted(cached.targets.labels) == [-1.0, 1.0]


def test_what_cannot_be_streamed_is_refused(tmp_path):
    (tmp_path / "none.libsvm").write_text("")
    with pytest.raises(DataError, match="no rows"):
        stream_rows(tmp_path / "none.libsvm")
    (tmp_path / "a.libsvm").write_text("1 1:1\n")
    with pytest.raises(SchemaError, match="no columns"):
        stream_rows(tmp_path / "a.libsvm", targets="y")
    with pytest.raises(SchemaError, match="leave it out"):
        stream_rows(tmp_path / "a.libsvm", schema=cf.Schema([cf.Numeric("x")]))
    pq.write_table(make_log(), tmp_path / "log.parquet")
    with pytest.raises(SchemaError, match="tell the model the answer"):
        stream_rows(
            tmp_path / "log.parquet", schema=cf.Schema([cf.Numeric("clicked")]), targets="clicked"
        )


# --- taken again, or made anew ------------------------------------------------------------------


def test_a_cache_is_taken_again_until_something_changes(tmp_path, monkeypatch):
    path = tmp_path / "log.parquet"
    pq.write_table(make_log(), path)
    made = []
    write = streams.write_rows

    def counting(*arguments, **options):
        made.append(1)
        write(*arguments, **options)

    monkeypatch.setattr(streams, "write_rows", counting)

    def is_made(**options):
        before = len(made)
        stream_rows(path, **{"targets": "clicked", "block_rows": 100, **options})
        return len(made) > before

    assert is_made()
    assert not is_made()
    assert is_made(schema=cf.Schema([cf.Categorical("user")]))
    assert is_made(schema=cf.Schema([cf.Categorical("user", min_count=2)]))
    assert not is_made(schema=cf.Schema([cf.Categorical("user")]))
    assert is_made(targets="hour")
    assert is_made(weights="price")
    assert is_made(block_rows=50)
    assert not is_made()
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))  # the same size
    assert is_made()
    assert not is_made()
    pq.write_table(make_log(900), path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))  # the same time
    assert is_made()
    assert stream_rows(path, targets="clicked", block_rows=100)[0].n_rows == 900
    monkeypatch.setattr(cache, "CACHE_VERSION", 2)
    assert is_made()
    monkeypatch.setattr(streams, "version", lambda name: "99")
    assert is_made()
    assert not is_made()
    folder = tmp_path / ".crossfm-cache"
    for found in folder.iterdir():  # a cut-off cache is no cache
        found.write_bytes(found.read_bytes()[:-1])
    assert is_made()
    assert not list(folder.glob("*.tmp"))


def test_where_the_folder_cannot_be_written_to(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.libsvm").write_text("1 1:1\n0 2:1\n")
    (source / ".crossfm-cache").write_text("not a folder")  # also for those who may write anywhere
    fallback = tmp_path / "elsewhere"
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(fallback))
    cached, _ = stream_rows(source / "a.libsvm")
    assert fallback in cached.path.parents
    assert stream_rows(source / "a.libsvm")[0].path == cached.path  # and found there again
    with pytest.raises(DataError, match="cannot write"):
        stream_rows(source / "a.libsvm", cache_dir=source / ".crossfm-cache" / "x")
    named = tmp_path / "named"
    assert stream_rows(source / "a.libsvm", cache_dir=named)[0].path.parent == named


WRITER = """
import sys
import numpy as np
import crossfm as cf
from crossfm.data.cache import write_rows

def blocks():
    rows = cf.Rows(np.arange(65_536, dtype=np.int32).reshape(-1, 16), targets=np.zeros(4096))
    for i in range(10**6):
        if i == 3:
            print("writing", flush=True)
        yield rows
write_rows(sys.argv[1], blocks(), {"of": "new"})
"""


def test_killed_while_writing(tmp_path):
    path = tmp_path / "c"
    write_rows(path, [some_rows()], {"of": "old"})
    program = [sys.executable, "-c", textwrap.dedent(WRITER), str(path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    assert process.returncode != 0
    assert CachedRows(path).of == {"of": "old"}
