"""Tables read with dictionaries: the same values, and the same rows, whatever the file is like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from row_checks import assert_equal_rows

import crossfm.data.tables
from crossfm.data import Bag, Categorical, Numeric, Schema, as_rows, iter_rows, stream_rows
from crossfm.data.coded import decoded
from crossfm.data.inputs import as_table
from crossfm.data.tables import iter_tables, read_table
from crossfm.errors import SchemaError

FIELDS = [
    Categorical("city"),
    Categorical("user", min_count=2),
    Categorical("page", hash_buckets=50),
    Categorical("day"),
    Numeric("price", scale="log"),
    Numeric("age"),
    Numeric("size", scale="bucket", n_buckets=4),
]


def log(n: int, seed: int = 0) -> pa.Table:
    """A few values that return, many that do not, missing ones, and dictionaries in the table."""
    rng = np.random.default_rng(seed)

    def words(count: int) -> pa.Array:
        drawn = (rng.pareto(0.7, n) * 3).astype(np.int64) % count
        return pa.array([f"w{j:x}" if j else "" for j in drawn], mask=rng.random(n) < 0.1)

    return pa.table(
        {
            "city": words(9),
            "user": words(10**6),
            "page": words(500).cast(pa.large_string()),
            "day": words(7).dictionary_encode(),
            "price": pa.array(rng.pareto(1.0, n), mask=rng.random(n) < 0.4),
            "age": pa.array(rng.integers(0, 90, n).astype(np.int16), mask=rng.random(n) < 0.1),
            "size": pa.array(rng.standard_normal(n)),
            "clicked": (rng.random(n) < 0.3).astype(np.int8),
        }
    )


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("schema", "tables", "learning"):
        monkeypatch.setattr(f"crossfm.data.{module}.threads_for", lambda n_rows: request.param)


@pytest.fixture(params=["dictionaries", "plain", "some"])
def packed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the file's sizes say of its columns."""
    say = {"dictionaries": lambda *a: True, "plain": lambda *a: False,
           "some": lambda metadata, name: name == "city"}  # fmt: skip
    monkeypatch.setattr(crossfm.data.tables, "_is_packed_column", say[request.param])


def write(table: pa.Table, path: Any, **options: Any) -> Any:
    pa.parquet.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("group", [100, 999, 5000])
def test_parquet_gives_the_same_rows(
    tmp_path: Any, group: int, packed: None, threads: None
) -> None:
    table = log(3001)
    path = write(table, tmp_path / "log.parquet", row_group_size=group, data_page_size=2000)
    read = read_table(path, dictionaries=True)
    assert all(
        isinstance(read.schema.field(name).type, pa.DictionaryType)
        for name in ("city", "user", "page", "day")
    )
    assert read.to_pydict() == read_table(path).to_pydict()
    reference = Schema(FIELDS).fit(decoded(table))
    schema = Schema(FIELDS).fit(read)
    assert schema.to_json() == reference.to_json()
    want = reference.transform(decoded(table), targets="clicked")
    assert_equal_rows(schema.transform(read, targets="clicked"), want)
    assert schema.unseen_ == reference.unseen_
    assert_equal_rows(as_rows(path, schema, "clicked"), want)
    for batch_rows in (29, 257, 4000) if group == 999 else (257,):
        batches = list(iter_rows(path, schema, "clicked", batch_rows=batch_rows))
        assert_equal_rows(type(want).concatenate(batches), want)
        again = Schema(FIELDS).fit_batches(
            iter_tables(path, batch_rows, schema.columns, dictionaries=True)
        )
        assert again.to_json() == reference.to_json()


def test_streams_give_the_same_rows(tmp_path: Any, threads: None) -> None:
    for name, seed in (("a.parquet", 1), ("b.parquet", 2)):
        write(log(1500, seed), tmp_path / name, row_group_size=400)
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    cached, learned = stream_rows(
        paths, schema=Schema(FIELDS), targets="clicked", cache_dir=tmp_path / "c", block_rows=700
    )
    table = pa.concat_tables([decoded(read_table(path)) for path in paths])
    reference = Schema(FIELDS).fit(table)
    assert learned == reference
    want = reference.transform(table)
    blocks = [cached.block(at).replace(targets=None) for at in range(len(cached))]
    assert_equal_rows(type(want).concatenate(blocks), want)


def test_files_whose_dictionaries_differ(tmp_path: Any) -> None:
    write(log(300, 1), tmp_path / "a.parquet")
    write(log(200, 2), tmp_path / "b.parquet")
    view = log(100, 3)
    plain = view.set_column(0, "city", view["city"].cast(pa.large_string()))
    write(plain, tmp_path / "c.parquet")
    nothing = view.set_column(1, "user", pa.nulls(100))
    write(nothing, tmp_path / "d.parquet")
    paths = sorted(tmp_path.iterdir())
    table = as_table(paths, dictionaries=True)
    want = as_table(paths)
    assert table.num_rows == 700
    assert table.to_pydict() == want.to_pydict()
    assert Schema(FIELDS).fit(table) == Schema(FIELDS).fit(want)


def test_files_whose_columns_are_no_strings_in_all(tmp_path: Any) -> None:
    write(pa.table({"a": ["x", "y"]}), tmp_path / "a.parquet")
    write(pa.table({"a": pa.array([b"z"])}), tmp_path / "b.parquet")
    paths = sorted(tmp_path.iterdir())
    found = as_table(paths, dictionaries=True)["a"]
    assert found.to_pylist() == as_table(paths)["a"].to_pylist()
    write(pa.table({"a": [1]}), tmp_path / "b.parquet")
    with pytest.raises(SchemaError, match="not of the same types"):
        as_table(paths, dictionaries=True)


def test_csv_gives_the_same_rows(tmp_path: Any, threads: None) -> None:
    table = log(2000)
    pa.csv.write_csv(decoded(table), tmp_path / "log.csv")
    read = read_table(tmp_path / "log.csv", dictionaries=True)
    plain = read_table(tmp_path / "log.csv")
    assert isinstance(read.schema.field("user").type, pa.DictionaryType)
    assert decoded(read).equals(plain)
    schema, reference = Schema(FIELDS).fit(read), Schema(FIELDS).fit(plain)
    assert schema == reference
    assert_equal_rows(schema.transform(read), reference.transform(plain))


def test_lists_and_nested_columns_stay_as_they_are(tmp_path: Any) -> None:
    table = pa.table(
        {
            "tags": [["a", "b"], None, []],
            "genres": ["x|y", None, "y"],
            "place": [{"city": "Rome"}, None, {"city": None}],
        }
    )
    path = write(table, tmp_path / "t.parquet")
    read = read_table(path, dictionaries=True)
    assert decoded(read).equals(table)
    assert read.schema.field("tags").type == table.schema.field("tags").type
    fields = [Bag("tags"), Bag("genres", sep="|"), Categorical("genres2")]
    both = read.append_column("genres2", read["genres"])
    same = table.append_column("genres2", table["genres"])
    reference = Schema(fields).fit(same)
    assert Schema(fields).fit(both) == reference
    assert_equal_rows(reference.transform(both), reference.transform(same))


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_rows(tmp_path: Any, n: int) -> None:
    table = log(1).slice(0, n)
    path = write(table, tmp_path / "t.parquet")
    read = read_table(path, dictionaries=True)
    assert read.num_rows == n
    assert read.to_pydict() == table.to_pydict()
    schema = Schema(FIELDS).fit(log(50))
    assert_equal_rows(schema.transform(read), schema.transform(table))


def test_columns_too_large_for_a_dictionary_are_read_as_strings(tmp_path: Any) -> None:
    """The choice itself: by the sizes in the file."""
    n = 400_000
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "few": pa.array(np.array(["aa", "bb", "cc"])[rng.integers(0, 3, n)]),
            "many": pa.array(rng.integers(0, 2**40, n)).cast(pa.string()),
        }
    )
    path = write(table, tmp_path / "t.parquet")
    with crossfm.data.tables._open_parquet(path, True) as file:
        read = file.read()
    assert isinstance(read.schema.field("few").type, pa.DictionaryType)
    assert read.schema.field("many").type == pa.string()
