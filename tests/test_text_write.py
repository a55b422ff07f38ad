"""libsvm and libffm text as written: reads back the same, and never half written."""

from __future__ import annotations

import stat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_oracle import same

from crossfm.data import text
from crossfm.data.rows import Rows
from crossfm.data.text import read_libffm, read_libsvm, write_libffm, write_libsvm
from crossfm.errors import DataError

IDS = st.integers(0, 50) | st.integers(0, 2**63 - 1)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def drawn_rows(draw):
    lengths = draw(st.lists(st.integers(0, 4), max_size=6))
    nnz = sum(lengths)
    ids = draw(st.lists(IDS, min_size=nnz, max_size=nnz))
    values = draw(st.none() | st.lists(FLOATS, min_size=nnz, max_size=nnz))
    fields = draw(st.lists(st.integers(0, 2**31 - 1), min_size=nnz, max_size=nnz))
    targets = draw(st.lists(FLOATS, min_size=len(lengths), max_size=len(lengths)))
    return Rows(
        np.array(ids, np.int64),
        None if values is None else np.array(values, np.float32),
        np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        np.array(fields, np.int32),
        np.array(targets, np.float32),
    )


@given(drawn_rows(), st.booleans(), st.sampled_from(["t.txt", "t.txt.gz"]))
def test_what_is_written_reads_back(tmp_path_factory, rows, zero_based, name):
    path = tmp_path_factory.mktemp("svm") / name
    if not zero_based and rows.nnz and rows.ids.max() == 2**63 - 1:
        with pytest.raises(DataError, match="zero_based"):
            write_libffm(path, rows, zero_based=zero_based)
        assert not path.exists()
        return
    write_libffm(path, rows, zero_based=zero_based)
    same(read_libffm(path, zero_based=zero_based), rows)
    plain = Rows(rows.ids, rows.values, rows.offsets, None, rows.targets)
    write_libsvm(path, plain, zero_based=zero_based)
    same(read_libsvm(path, zero_based=zero_based), plain)


def test_written_text(tmp_path, monkeypatch):
    rows = Rows(
        np.array([[3, 7], [1, 2]]),
        values=np.array([[0.1, 1.0], [-0.0, 1e-20]]),
        targets=np.array([1.0, -1.0]),
    )
    write_libsvm(tmp_path / "t", rows)
    assert (tmp_path / "t").read_bytes() == b"1 3:0.1 7:1\n-1 1:-0 2:1e-20\n"
    write_libffm(tmp_path / "t", rows, field_of=[9, 8, 7, 6, 5, 4, 3, 2], zero_based=False)
    assert (tmp_path / "t").read_bytes() == b"1 6:4:0.1 2:8:1\n-1 8:2:-0 7:3:1e-20\n"
    write_libsvm(tmp_path / "t", Rows(np.array([4, 5]), n_rows=2), qids=[1, 2])
    assert (tmp_path / "t").read_bytes() == b"0 qid:1 4:1\n0 qid:2 5:1\n"
    write_libsvm(tmp_path / "t", Rows(np.array([4]), offsets=[0, 0, 1], targets=[1, 2]))
    assert (tmp_path / "t").read_bytes() == b"1\n2 4:1\n"
    write_libsvm(tmp_path / "t", rows[:0])
    assert (tmp_path / "t").read_bytes() == b""
    write_libsvm(tmp_path / "t", rows)
    whole = (tmp_path / "t").read_bytes()
    for features in (1, 2, 3):  # written in pieces of that size
        monkeypatch.setattr(text, "CHUNK_FEATURES", features)
        write_libsvm(tmp_path / "t", rows)
        assert (tmp_path / "t").read_bytes() == whole


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t.libsvm"
    path.write_text("old")
    path.chmod(0o640)
    good = Rows(np.array([[1, 2]]), targets=np.array([1.0]))
    with pytest.raises(DataError, match="weights"):
        write_libsvm(path, good.replace(weights=np.ones(1, np.float32)))
    with pytest.raises(DataError, match="finite"):
        write_libsvm(path, good.replace(values=np.array([1, np.nan], np.float32)))
    with pytest.raises(DataError, match="qids"):
        write_libsvm(path, good, qids=[1, 2])
    with pytest.raises(DataError, match="fields"):
        write_libffm(path, good)
    with pytest.raises(DataError, match="field_of has 2 features, the rows an id 2"):
        write_libffm(path, good, field_of=[0, 1])

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("crossfm.data.files.os.fsync", full)
        with pytest.raises(DataError, match="No space left"):
            write_libsvm(path, good)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["t.libsvm"]
    write_libsvm(path, good)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(DataError, match="cannot write"):
        write_libsvm(tmp_path / "absent" / "t", good)
    with pytest.raises(DataError, match="is a folder"):
        write_libsvm(tmp_path, good)
