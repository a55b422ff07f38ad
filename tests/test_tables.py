"""Parquet and CSV as tables: equal to what was written, and typed errors on everything else."""

from __future__ import annotations

import csv
import gzip
import io

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfm.data import tables
from crossfm.data.tables import iter_tables, read_table
from crossfm.errors import CrossfmError, DataError, SchemaError


def batched(path, **options):
    pieces = list(iter_tables(path, 2, **options))
    assert [piece.num_rows for piece in pieces[:-1]] == [2] * max(len(pieces) - 1, 0)
    return pa.concat_tables(pieces) if pieces else pa.table({})


@pytest.fixture(params=[read_table, batched], ids=["whole", "batches"])
def read(request):
    return request.param


@pytest.fixture
def write(tmp_path):
    def to(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to


TABLE = pa.table(
    {
        "user": [1, 2, 3, 4, 5],
        "rating": [4.5, None, 3.0, 2.0, 1.0],
        "title": ["Été", None, 'a,"b"', "two\nlines", "x"],
    }
)
CSV = 'user,rating,title\r\n1,4.5,Été\r\n2,NA,""\r\n3,3,"a,""b"""\r\n4,2,"two\nlines"\r\n5,1,x'


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.tab", "t.tsv.gz", "T.CSV"])
def test_csv(read, write, name):
    text = CSV if "csv" in name.lower() else CSV.replace(",", "\t").replace("a\t", "a,")
    data = text.encode()
    path = write(name, gzip.compress(data) if name.endswith(".gz") else data)
    assert read(path).equals(TABLE)
    picked = read(path, columns=["title", "user"])
    assert picked.equals(TABLE.select(["title", "user"]))


@pytest.mark.parametrize("name", ["t.parquet", "t.pq", "t.data"])
def test_parquet(read, tmp_path, name):
    pa.parquet.write_table(TABLE, tmp_path / name, row_group_size=3)
    assert read(tmp_path / name).equals(TABLE)
    picked = read(tmp_path / name, columns=["title", "user"])
    assert picked.equals(TABLE.select(["title", "user"]))


def test_parquet_keeps_lists(read, tmp_path):
    table = pa.table({"tags": [["a", "b"], [], None, ["c"]], "n": [1, 2, 3, 4]})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet").equals(table)
    assert read(tmp_path / "t.parquet", columns=["tags"]).equals(table.select(["tags"]))


def test_csv_with_a_byte_order_mark(read, write):
    assert read(write("t.csv", b"\xef\xbb\xbfa,b\n1,2\n")).column_names == ["a", "b"]


def test_every_way_to_say_missing(write):
    cells = tables.MISSING
    path = write("t.csv", "a,b\n" + "".join(f"{cell},x\n" for cell in cells))
    assert read_table(path)["a"].null_count == len(cells)


def test_header_alone_is_an_empty_table(write):
    path = write("t.csv", "a,b\n")
    assert read_table(path).num_rows == 0
    assert list(iter_tables(path)) == []


def test_types_can_be_given(read, write):
    path = write("t.csv", "zip,n\n00501,1\n10001,2\n94043,3\n")
    table = read(path, types={"zip": pa.string()})
    assert table["zip"].to_pylist() == ["00501", "10001", "94043"]


def test_batches_do_not_depend_on_blocks(write, monkeypatch):
    path = write("t.csv", "a,b\n" + "".join(f"{j},{'x' * (j % 7)}y\n" for j in range(500)))
    whole = read_table(path)
    for block in (16, 64, 1000):
        monkeypatch.setattr(tables, "CSV_BLOCK_BYTES", block)
        pieces = list(iter_tables(path, 33))
        assert [len(piece) for piece in pieces] == [33] * 15 + [5]
        assert pa.concat_tables(pieces).equals(whole)


def test_a_type_that_changes_in_a_later_block(write, monkeypatch):
    monkeypatch.setattr(tables, "CSV_BLOCK_BYTES", 16)
    path = write("t.csv", "a,b\n" + "1,2\n" * 20 + "x,3\n")
    with pytest.raises(DataError, match=r"t\.csv, line 22: invalid value 'x', expected int64"):
        list(iter_tables(path))
    assert read_table(path)["a"].to_pylist()[-1] == "x"
    assert batched(path, types={"a": pa.string()})["a"].to_pylist()[-1] == "x"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "is empty"),
        ("t.csv", "a,b,a\n1,2,3\n", "2 columns are named 'a'"),
        ("t.csv", "a,b\n1,2\n3\n", "line 3: found 1 columns"),
        ("t.csv", "a,b\n1,2\n3,4,5\n", "line 3: found 3 columns: 3,4,5, expected 2"),
        ("t.tsv", "a\tb\n1\n", "line 2: found 1 columns"),
        ("t.csv", b"a,b\n1,\xff\n", "column 'b' holds text that is not UTF-8"),
        ("t.csv", b"a,\xff\n1,2\n", "cannot be read"),
        ("t.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 500, mtime=0)[:-20], "cannot be read"),
        ("t.csv.gz", b"a,b\n1,2\n", "cannot be read"),
        ("t.parquet", b"", "cannot be read"),
        ("t.parquet", b"PAR1 and nothing more", "cannot be read"),
        ("t.data", b"PAR1", "cannot be read"),
        ("t.xlsx", b"PK", "expected one of .parquet"),
    ],
)
def test_damaged_files(read, write, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read(write(name, content))
    assert name in str(caught.value)


def test_missing_files_and_folders(read, tmp_path, write):
    write("ratings.csv", "a\n1\n")
    with pytest.raises(DataError, match=r"no such file\. Did you mean 'ratings\.csv'\?"):
        read(tmp_path / "rating.csv")
    with pytest.raises(DataError, match="no folder"):
        read(tmp_path / "nowhere" / "t.csv")
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_absent_columns_are_named(read, tmp_path, write, name):
    if name == "t.csv":
        write(name, CSV)
    else:
        pa.parquet.write_table(TABLE, tmp_path / name)
    with pytest.raises(SchemaError, match=r"no column 'usr'\. Did you mean 'user'\?"):
        read(tmp_path / name, columns=["rating", "usr"])


def test_parquet_with_a_repeated_column(read, tmp_path):
    table = pa.table([[1], [2]], names=["a", "a"])
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="2 columns are named 'a'"):
        read(tmp_path / "t.parquet")


def test_batch_rows_must_be_positive(write):
    with pytest.raises(ValueError, match="batch_rows"):
        next(iter_tables(write("t.csv", CSV), 0))


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=20))
def test_csv_of_any_text_reads_back(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *cells])
    path.write_bytes(text.getvalue().encode())
    table = read_table(path, types={"a": pa.string(), "b": pa.string()})
    want = [tuple(None if cell in tables.MISSING else cell for cell in row) for row in cells]
    assert list(zip(table["a"].to_pylist(), table["b"].to_pylist(), strict=True)) == want


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Bytes of good files, to be damaged."""
    folder = tmp_path_factory.mktemp("seeds")
    pa.parquet.write_table(TABLE, folder / "t.parquet", row_group_size=2)
    return {
        "t.csv": CSV.encode(),
        "t.csv.gz": gzip.compress(CSV.encode()),
        "t.parquet": (folder / "t.parquet").read_bytes(),
    }


@pytest.mark.fuzz
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
@given(data=st.data())
def test_damaged_bytes_end_in_a_typed_error_or_a_table(tmp_path_factory, seeds, name, data):
    content = bytearray(seeds[name])
    places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for at, byte in data.draw(st.lists(places, min_size=1, max_size=4)):
        content[at] = byte
    del content[data.draw(st.integers(0, len(content)) | st.just(len(content))) :]
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(bytes(content))
    for read in (read_table, batched):
        try:
            table = read(path)
        except (CrossfmError, MemoryError):
            continue
        assert isinstance(table, pa.Table)
