"""Text in parts on several threads: the rows, and the errors, of one part on one thread."""

from __future__ import annotations

import gzip
import os
import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from text_oracle import as_lists, nearest_float32, oracle

from crossfm.data import text
from crossfm.data.text import iter_libsvm, read_libffm, read_libsvm, write_libsvm
from crossfm.errors import DataError

PIECES = st.sampled_from(
    [
        "1 3:0.5 7:1", "-1 2:1e-3\r", "", "   ", "# 1 1:1 :::", "0.5", "2 1:1 # 9:9",
        "1 " + " ".join(f"{i}:{i}.25" for i in range(40)), "1 2147483648:1",
        "3 12345678:1 123456789:2 9223372036854775807:3", "1\t4:1\v5:.5", "0 0:0.1234567890123456",
        "1 7:16777217.00000000000000001", "#" + ":" * 50, "1 5:-0", "1 1:1 0002:1",
    ]
)  # fmt: skip
WRONG = st.sampled_from(["1 x:1", "y 1:1", "1 1:1e39", "1 1:1 qid:3", "1 qid:7 2:1", "1 1:nan"])
QUERIES = st.sampled_from(["1 qid:7 2:1", "0 qid:8", "", "# none", "1 qid:9 3:0.5 # 1", "1  qid:1"])
PARTS = st.integers(1, 60)
THREADS = st.sampled_from([1, 2, 4])


def read(path, content, part_bytes, n_jobs, with_fields=False):
    """Rows as lists with their queries, or the message of the error."""
    path.write_bytes(content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "PART_BYTES", part_bytes)
        try:
            if with_fields:
                return as_lists(read_libffm(path, n_jobs=n_jobs)), None
            rows, qids = read_libsvm(path, n_jobs=n_jobs, return_qids=True)
        except DataError as error:
            return str(error)
    return as_lists(rows), None if qids is None else qids.tolist()


@pytest.mark.fuzz
@given(st.lists(PIECES, max_size=30), st.sampled_from(["", "\n"]), PARTS, THREADS)
@example(["#" * 500, "1 1:1"], "", 7, 4)
@example(["1 1:1", "2 " + "5:2.5 " * 500, "3 2:1"], "\n", 10, 4)
def test_any_cut_gives_the_rows_of_the_slow_parser(tmp_path_factory, lines, end, part, n_jobs):
    content = "\n".join(lines) + end
    found = read(tmp_path_factory.mktemp("t") / "t", content, part, n_jobs)
    assert found == (oracle(content), None)


@pytest.mark.fuzz
@given(st.lists(PIECES, max_size=20), WRONG, st.lists(PIECES | WRONG, max_size=20), PARTS, THREADS)
def test_the_first_error_is_the_one_that_is_told(tmp_path_factory, before, wrong, after, part, n):
    path = tmp_path_factory.mktemp("t") / "t"
    content = "\n".join([*before, wrong, *after])
    told = read(path, content, 10**9, 1)
    assert read(path, content, part, n) == told
    first = oracle("\n".join([*before, wrong]))
    if "qid" not in content:
        assert f", line {first}, column " in told


@pytest.mark.fuzz
@given(st.lists(QUERIES, max_size=20), st.booleans(), PARTS, THREADS)
def test_queries_in_parts(tmp_path_factory, lines, stray, part, n_jobs):
    path = tmp_path_factory.mktemp("t") / "t"
    content = "\n".join([*lines, *["4 1:1"] * stray])
    found = read(path, content, part, n_jobs)
    assert found == read(path, content, 10**9, 1)
    numbers = [int(line.split("qid:")[1].split()[0]) for line in lines if "qid:" in line]
    if stray and numbers:
        assert f"line {len(lines) + 1}, column 3: found '1:1', expected qid:n" in found
    else:
        assert found[1] == (numbers or None)


@given(st.integers(1, 80), THREADS)
def test_fields_in_parts(tmp_path_factory, part, n_jobs):
    lines = ["1 0:3:0.5 2147483647:7:1", "# 1:1", "-1 1:4294967296:1", "0 12345678:1:1"] * 5
    content = "\n".join(lines)
    path = tmp_path_factory.mktemp("t") / "t"
    assert read(path, content, part, n_jobs, True) == (oracle(content, True), None)


def large_text(n_rows, seed=0):
    """Rows of all lengths with comments between, larger than a few parts."""
    rng = np.random.default_rng(seed)
    lines = []
    for row in range(n_rows):
        ids = rng.integers(0, 10 ** rng.integers(1, 8), rng.integers(0, 12))
        values = rng.standard_normal(len(ids)).astype(np.float32)
        tokens = [f"{i}:{v}" for i, v in zip(ids.tolist(), values.tolist(), strict=True)]
        lines.append(f"{row % 2} {' '.join(tokens)}" + "  # note: x" * (row % 7 == 0))
    return "\n".join(lines)


@pytest.mark.parametrize("late", ["", "\n1 4294967296:1", "\n1 4294967296:1 x"])
def test_threads_give_equal_arrays(tmp_path, late):
    path = tmp_path / "t"
    content = large_text(20_000) + late
    outcomes = [read(path, content, part, n) for part in (10_000, 1 << 20) for n in (1, 2, 4)]
    if late.endswith("x"):
        assert ", line 20001, column 16: found 'x', expected id:value" in outcomes[0]
    else:
        assert len(outcomes[0][0]) == 20_000 + bool(late)
    assert all(other == outcomes[0] for other in outcomes[1:])


def test_values_that_begin_late_are_ones_before(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PART_BYTES", 64)
    content = "1 1:1 2:1\n" * 100 + "1 3:2.5 4:1\n" + "0 5:1 6:1\n" * 100
    for n_jobs in (1, 2):
        (tmp_path / "t").write_text(content)
        rows = read_libsvm(tmp_path / "t", n_jobs=n_jobs)
        assert rows.offsets is None
        assert np.flatnonzero(rows.values != 1).tolist() == [200]
        assert rows.values[200] == 2.5


@pytest.mark.parametrize("n_jobs", [0, -2, 1.5, True])
def test_n_jobs_is_checked(tmp_path, n_jobs):
    (tmp_path / "t").write_text("1 1:1")
    with pytest.raises(DataError, match="n_jobs must be"):
        read_libsvm(tmp_path / "t", n_jobs=n_jobs)


# Packed, and files that cannot be mapped


def packed(content, name):
    if name.endswith(".gz"):
        return gzip.compress(content)
    return pa.Codec("zstd").compress(content, asbytes=True)


@pytest.mark.parametrize("name", ["t.gz", "t.zst"])
def test_packed_text_is_the_text(tmp_path, monkeypatch, name):
    content = large_text(5_000).encode()
    (tmp_path / "t").write_bytes(content)
    cut = content.index(b"\n", len(content) // 2) + 1
    several = packed(content[:cut], name) + packed(content[cut:], name)  # two members, two frames
    whole = as_lists(read_libsvm(tmp_path / "t"))
    for chunk in (1000, 8 << 20):
        monkeypatch.setattr(text, "CHUNK_BYTES", chunk)
        for data in (packed(content, name), several):
            (tmp_path / name).write_bytes(data)
            assert as_lists(read_libsvm(tmp_path / name)) == whole
            batches = [row for b in iter_libsvm(tmp_path / name, 999) for row in as_lists(b)]
            assert batches == whole


@pytest.mark.parametrize(("name", "kind"), [("t.gz", "gzip"), ("t.zst", "zstd")])
def test_packed_data_that_is_not_whole(tmp_path, name, kind):
    data = packed(b"1 1:1 2:0.5\n" * 1000, name)
    for damaged in (data[:-1], data[: len(data) // 2], data[:3], b"1 1:1\n", data + b"more"):
        (tmp_path / name).write_bytes(damaged)
        for attempt in (read_libsvm, lambda path: list(iter_libsvm(path))):
            with pytest.raises(DataError, match=f"not a whole {kind} file"):
                attempt(tmp_path / name)


@pytest.mark.parametrize("name", ["t.gz", "t.zst"])
def test_an_error_in_packed_text_has_its_line(tmp_path, monkeypatch, name):
    monkeypatch.setattr(text, "CHUNK_BYTES", 100)
    (tmp_path / name).write_bytes(packed(b"1 1:1\n" * 500 + b"1 z:1\n" + b"1 1:1\n" * 500, name))
    with pytest.raises(DataError, match="line 501, column 3: found 'z:1'"):
        read_libsvm(tmp_path / name)


def test_packed_writing_is_repeatable(tmp_path):
    (tmp_path / "t").write_text(large_text(300))
    rows = read_libsvm(tmp_path / "t")
    for name in ("a.zst", "b.zst", "a.gz", "b.gz"):
        write_libsvm(tmp_path / name, rows)
        assert as_lists(read_libsvm(tmp_path / name)) == as_lists(rows)
    for suffix in ("zst", "gz"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    content = b"1 1:1 2:0.5\n" * 50_000
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    try:
        rows = read_libsvm(tmp_path / "pipe")
    finally:
        writer.join()
    assert len(rows) == 50_000


# Numbers, many at once


def nearest(numbers):
    """The nearest float32 of each: by way of float64, exactly where that could round twice."""
    double = np.array([float(number) for number in numbers])
    found = double.astype(np.float32)
    doubtful = (double.view(np.uint64) & 0x1FFFFFFF) == 0x10000000
    doubtful |= (np.abs(double) < 1.2e-38) & (double != 0)
    for at in np.flatnonzero(doubtful):
        found[at] = nearest_float32(numbers[at])
    return found


def random_numbers(rng, n):
    """Decimal numbers of many forms, all within the range of float32."""
    bits = rng.integers(0, 0x7F800000, n, dtype=np.uint32) | rng.integers(0, 2, n, np.uint32) << 31
    drawn = bits.view(np.float32)
    usual = rng.standard_normal(n) * 10.0 ** rng.integers(-6, 7, n)
    forms = ("%.17g", "%.9g", "%.7g", "%.6f", "%.0f", "%.12e", "%.3f", "%.16f")
    numbers = []
    for at in range(n):
        form = forms[at % len(forms)]
        x = drawn[at] if at % 3 == 0 and form[-1] != "f" else usual[at]
        number = form % x
        numbers.append(number if float(number) < 3.4e38 else "1")
    return numbers


@pytest.mark.parametrize(
    "n", [100_000, pytest.param(2_000_000, marks=pytest.mark.slow)], ids=["some", "millions"]
)
def test_random_numbers_are_the_nearest_float32(tmp_path, n):
    rng = np.random.default_rng(7)
    for start in range(0, n, 100_000):
        numbers = random_numbers(rng, min(n - start, 100_000))
        (tmp_path / "t").write_text("1 " + "\n1 ".join(f"3:{number}" for number in numbers))
        got = read_libsvm(tmp_path / "t").values
        assert (got.view(np.uint32) == nearest(numbers).view(np.uint32)).all()
