"""Lines that come bit by bit: formats, files that grow and are replaced, pipes."""

from __future__ import annotations

import os

import pytest

from crossfm.data import lines as module
from crossfm.data.lines import GrowingFile, LineFormat, Pipe
from crossfm.errors import DataError


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (b"user,item\n", "csv"),
        (b"user\titem\r\n", "csv"),
        (b"user\n", "csv"),
        (b"a:b c:d,e\n", "csv"),
        (b'{"user": 1}\n', "json"),
        (b"1 3:1 4:0.5\n", "libsvm"),
        (b"-1 qid:3 4:0.5 # why\n", "libsvm"),
        (b"0 1:3:1 2:4:0.5\n", "libffm"),
    ],
)
def test_formats(first, kind):
    assert LineFormat(first, "x").kind == kind


def test_what_lines_hold():
    table = LineFormat(b"user,zip\r\n", "x").parse(b'ann,7\n"b\n",8\n')
    assert table.to_pydict() == {"user": ["ann", "b\n"], "zip": [7, 8]}
    rows = LineFormat(b"0 1:3:1\n", "x").parse(b"1 0:3:1 2:4:0.5\n")
    assert (rows.fields.tolist(), rows.targets.tolist()) == ([0, 2], [1.0])
    table = LineFormat(b"{\n", "x").parse(b'{"a": 1}\n{"a": null, "b": "c"}\n')
    assert table.to_pydict() == {"a": [1, None], "b": [None, "c"]}


@pytest.mark.parametrize(
    ("first", "rest", "told"),
    [
        (b"user,item\n", b"ann\n", "x, line 2: found 1 columns"),
        (b"user,user\n", b"ann,b\n", None),
        (b"1 3:1\n", b"1 3:1\nc 4:1\n", "x, line 2, column 1"),
        (b"{\n", b'{"a": 1}\n{"a": "b"}\n', "the same kind of value"),
        (b"{\n", b"broken\n", "expected a JSON object a line"),
        (b"user\n", b"\xff\xfe\n", "not UTF-8"),
    ],
)
def test_broken_lines(first, rest, told):
    if told is None:
        LineFormat(first, "x").parse(rest)
        return
    with pytest.raises(DataError, match=told):
        LineFormat(first, "x").parse(rest)


def test_an_empty_first_line():
    with pytest.raises(DataError, match="x, line 1 is empty"):
        LineFormat(b"\n", "x")


def test_a_growing_file(tmp_path, monkeypatch):
    path = tmp_path / "log"
    file = GrowingFile(path)
    assert (file.first_line(), file.read(0)) == (None, b"")
    path.write_bytes(b"one")
    assert (file.first_line(), file.read(0), file.at) == (None, b"", 0)
    path.write_bytes(b"one\ntwo\nthr")
    assert (file.first_line(), file.read(0), file.at) == (b"one\n", b"one\ntwo\n", 8)
    assert file.read(0) == b""
    with open(path, "ab") as more:
        more.write(b"ee\n")
    assert GrowingFile(path, 4).read(0) == b"two\nthree\n"
    assert (file.read(0), file.replaced) == (b"three\n", 0)
    path.write_bytes(b"new\n")  # shorter
    assert (file.read(0), file.replaced) == (b"new\n", 1)
    (tmp_path / "other").write_bytes(b"longer than before\n")
    os.replace(tmp_path / "other", path)
    assert (file.read(0), file.replaced) == (b"longer than before\n", 2)
    path.unlink()
    assert file.read(0) == b""
    monkeypatch.setattr(module, "PIECE", 10)
    path.write_bytes(b"x" * 20)
    with pytest.raises(DataError, match="a line of more than 10 bytes"):
        GrowingFile(path).read(0)


def test_a_pipe(monkeypatch):
    out, into = os.pipe()
    pipe = Pipe(out)
    assert pipe.read(0) == b""
    os.write(into, b"one\ntw")
    assert pipe.read(1) == b"one\n"
    os.write(into, b"o")
    assert pipe.read(1) == b""
    os.write(into, b"\nthree")
    assert (pipe.read(1), pipe.ended) == (b"two\n", False)
    os.close(into)
    assert (pipe.read(1), pipe.ended) == (b"three\n", True)
    os.close(out)
    out, into = os.pipe()
    monkeypatch.setattr(module, "PIECE", 4)
    pipe = Pipe(out)
    os.write(into, b"12345678")
    assert pipe.read(1) == b""
    with pytest.raises(DataError, match="stdin: a line of more than 4 bytes"):
        pipe.read(1)
    os.close(into)
    os.close(out)
