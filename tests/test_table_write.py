"""Tables and encoded rows as files: what is written reads back the same, or nothing is written."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_checks import assert_equal_rows, pairs
from schema_cases import FIELDS, LOG, make

from crossfm.data import (
    Bag,
    Categorical,
    Numeric,
    Rows,
    Schema,
    read_table,
    rows_table,
    table_rows,
    write_table,
)
from crossfm.errors import DataError, SchemaError

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TABLE = pa.table(
    {
        "user": [3, 1, None],
        "city": pa.array(["Oslo", None, 'a,"b"\tc']).dictionary_encode(),
        "price": [0.1, -1e-300, None],
        "sure": [True, None, False],
        "x": pa.array([0.1, 3e-39, 1.0], pa.float32()),
    }
)


@pytest.mark.parametrize(
    "name", ["t.parquet", "t.pq", "t.csv", "t.tsv", "t.tab", "t.csv.gz", "t.tsv.zst", "T.CSV"]
)
@pytest.mark.parametrize("frame", [TABLE, TABLE.to_pandas(), pl.from_arrow(TABLE)])
def test_what_is_written_reads_back(tmp_path: Any, name: str, frame: Any) -> None:
    write_table(tmp_path / name, frame)
    found = read_table(tmp_path / name, types={"x": pa.float32(), "user": pa.int64()})
    assert found.to_pydict() == TABLE.to_pydict()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_packed_as_the_name_says_and_equal_bytes(tmp_path: Any) -> None:
    for name in ("a.csv.gz", "b.csv.gz", "a.csv"):
        write_table(tmp_path / name, TABLE)
    packed = (tmp_path / "a.csv.gz").read_bytes()
    assert packed == (tmp_path / "b.csv.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "a.csv").read_bytes()
    write_table(tmp_path / "a.csv.zst", TABLE)
    assert (tmp_path / "a.csv.zst").read_bytes()[:4] == b"\x28\xb5\x2f\xfd"


def test_nothing_is_half_written(tmp_path: Any) -> None:
    path = tmp_path / "t.csv"
    write_table(path, {"a": [1]})
    with pytest.raises(DataError, match=r"column 'b' holds list<.*>, for which CSV has no place"):
        write_table(path, {"a": [2], "b": [[1, 2]]})
    assert read_table(path).to_pydict() == {"a": [1]}
    with pytest.raises(DataError, match="its name does not say what it is"):
        write_table(tmp_path / "t.xlsx", {"a": [1]})
    with pytest.raises(DataError, match="cannot write"):
        write_table(tmp_path / "nowhere" / "t.parquet", {"a": [1]})
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@st.composite
def drawn_rows(draw: Any) -> Rows:
    lengths = draw(st.lists(st.integers(0, 3), max_size=5))
    nnz, n = sum(lengths), len(lengths)
    ids = st.integers(0, 2**31 - 1)

    def maybe(values: Any, size: int, dtype: Any) -> Any:
        drawn = draw(st.none() | st.lists(values, min_size=size, max_size=size))
        return None if drawn is None else np.array(drawn, dtype)

    return Rows(
        np.array(draw(st.lists(ids, min_size=nnz, max_size=nnz)), draw(st.sampled_from("il"))),
        maybe(FLOATS, nnz, np.float32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        maybe(ids, nnz, np.int32),
        maybe(FLOATS, n, np.float32),
        maybe(FLOATS.map(abs), n, np.float32),
    )


@given(drawn_rows())
def test_rows_come_back_from_their_table(tmp_path_factory: Any, rows: Rows) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    write_table(path, rows)
    found = table_rows(read_table(path))
    assert found.ids.dtype == rows.ids.dtype
    assert pairs(found) == pairs(rows)
    for name in ("values", "fields", "targets", "weights"):
        assert (getattr(found, name) is None) == (getattr(rows, name) is None)
    even = Rows(found.ids, found.values, rows.row_offsets(), found.fields, found.targets,
                found.weights)  # fmt: skip
    assert_equal_rows(even, rows)


def test_equal_rows_come_back_without_offsets(tmp_path: Any) -> None:
    rows = Rows([[1, 2], [3, 4]], targets=[1, 0])
    write_table(tmp_path / "rows.parquet", rows)
    assert_equal_rows(table_rows(read_table(tmp_path / "rows.parquet")), rows)


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({"id": [[1]]}, SchemaError, "no column 'ids'. Did you mean 'id'"),
        ({"ids": [[1]], "x": [1]}, SchemaError, "unknown column 'x'"),
        ({"ids": [1]}, SchemaError, "column 'ids' holds int64, expected lists"),
        ({"ids": [["a"]]}, SchemaError, "not of numbers"),
        ({"ids": [[1], None]}, DataError, "something is missing"),
        ({"ids": [[1, None]]}, DataError, "something is missing"),
        ({"ids": [[1, 2], [3]], "values": [[1.0, 2.0], []]}, DataError, "row 1: 0 values for 1 id"),
        ({"ids": [[1]], "target": [None]}, DataError, "something is missing"),
        ({"ids": [[1.5]]}, SchemaError, "not of numbers"),
    ],
)
def test_tables_that_are_no_rows(table: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        table_rows(table)


def test_a_column_for_each_field(tmp_path: Any) -> None:
    schema = make(FIELDS).fit(LOG)
    rows = schema.transform(LOG, targets=np.arange(7))
    table = rows_table(rows, schema)
    names = [*schema.field_names, "genres.weight", "tags.weight", "target"]
    assert sorted(table.column_names) == sorted(names)
    found = table.to_pydict()
    first = {name: int(schema.block(name)[0]) for name in schema.field_names}
    for row, features in enumerate(pairs(rows)):
        left = []
        for name in schema.field_names:
            cell = found[name][row]
            if name == "price":
                left.append((first[name] + (cell is not None), 1.0 if cell is None else cell))
            elif f"{name}.weight" in found:
                left += zip(cell, found[f"{name}.weight"][row], strict=True)
            else:
                left.append((cell, 1.0))
        assert left == features
    assert found["target"] == list(range(7))


def test_encoded_columns_in_a_csv_file(tmp_path: Any) -> None:
    log = pd.DataFrame({"user": ["a", "b", None, "a"], "age": [1.0, None, 3.0, 8.0]})
    fields = [Categorical("user"), Numeric("age", scale="bucket", n_buckets=2)]
    schema = Schema([*fields, Categorical("hashed", hash_buckets=3)]).fit(log.assign(hashed=7))
    rows = schema.transform(log.assign(hashed=7), weights=[1, 2, 3, 4])
    write_table(tmp_path / "t.csv.gz", rows_table(rows, schema))
    found = read_table(tmp_path / "t.csv.gz")
    assert found.column_names == ["user", "age", "hashed", "weight"]
    ids = np.stack([found[name].to_numpy() for name in schema.field_names], axis=1)
    assert (ids.ravel() == rows.ids).all()
    assert found["weight"].to_pylist() == [1, 2, 3, 4]


def test_bags_without_weights_and_rows_of_another_schema() -> None:
    schema = Schema([Bag("tags"), Categorical("user")]).fit({"tags": [["x"], []], "user": [1, 2]})
    rows = schema.transform({"tags": [["x", "y"], [], None], "user": [2, 1, None]})
    want = {"tags": [[1, 0], [], [0]], "user": [4, 3, 2]}
    assert rows_table(rows, schema).to_pydict() == want
    assert rows_table(rows[:0], schema).num_rows == 0
    with pytest.raises(DataError, match="'user' does not have one feature in each row"):
        rows_table(Rows([[1, 3], [1, 0]]), schema)
    with pytest.raises(DataError, match="out of range"):
        rows_table(Rows([[1, 99]]), schema)
    with pytest.raises(SchemaError, match="not fitted"):
        rows_table(rows, Schema([Categorical("user")]))


def test_names_that_meet() -> None:
    schema = Schema([Categorical("target")]).fit({"target": [1]})
    rows = schema.transform({"target": [1]})
    assert rows_table(rows, schema).to_pydict() == {"target": [1]}
    with pytest.raises(SchemaError, match=r"'target', which is also a field.*targets=None"):
        rows_table(rows.replace(targets=[1.0]), schema)
    log = {"t": [["x", "x"]], "t.weight": ["y"]}
    both = Schema([Bag("t"), Categorical("t.weight")]).fit(log)
    with pytest.raises(SchemaError, match="is a field, and the weights of 't'"):
        rows_table(both.transform(log), both)
