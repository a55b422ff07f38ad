"""Everything an estimator accepts becomes the same Rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import scipy.sparse
from backends import BACKENDS
from numpy.testing import assert_array_equal
from row_checks import assert_equal_rows

from crossfm.data import Bag, Categorical, Numeric, Rows, Schema
from crossfm.data.inputs import as_rows, as_table, file_format, iter_rows, kind_of, take_column
from crossfm.errors import DataError, SchemaError

LOG = {
    "zip": ["01234", "98765", "01234", None, "55555"],
    "user": [3, 1, 3, 2, None],
    "price": [1.0, 2.5, None, 4.0, 5.0],
    "genres": ["1|2", "3", "2", None, "1"],
    "click": [1, 0, 0, 1, 1],
    "weight": [1.0, 2.0, 0.5, 1.0, 1.0],
}
FIELDS = [Categorical("zip"), Categorical("user"), Numeric("price"), Bag("genres", sep="|")]
DENSE = np.array([[1.0, 0.0, 2.5], [0.0, 0.0, -1.0]])


@pytest.fixture
def schema() -> Schema:
    return Schema(FIELDS).fit(LOG)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    pyarrow.parquet.write_table(pa.table(LOG), tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    pyarrow.csv.write_csv(pa.table(LOG), tmp_path / "log.csv")
    return tmp_path / "log.csv"


@pytest.fixture
def libsvm(tmp_path: Path) -> Path:
    (tmp_path / "log.libsvm").write_text("1 0:1 2:0.5\n0 1:2\n1 0:1\n")
    return tmp_path / "log.libsvm"


@pytest.mark.parametrize(
    ("X", "kind"),
    [
        (Rows(np.zeros((2, 3), np.int32)), "rows"),
        (pd.DataFrame({"a": [1]}), "frame"),
        (pl.DataFrame({"a": [1]}).lazy(), "frame"),
        (pa.table({"a": [1]}), "frame"),
        ({"a": [1]}, "frame"),
        ([{"a": 1}], "frame"),
        (scipy.sparse.eye_array(2).tocsr(), "csr"),
        (scipy.sparse.coo_matrix(np.eye(2)), "csr"),
        (np.eye(2), "dense"),
        ([[1, 2], [3, 4]], "dense"),
        ([np.ones(2), np.ones(2)], "dense"),
        ([], "dense"),
        ("a.csv", "path"),
        (Path("a.csv"), "path"),
        (["a.csv", Path("b.csv")], "path"),
        (iter([np.eye(2)]), "batches"),
        ([np.eye(2), np.eye(2)], "batches"),
        ([(np.eye(2), np.zeros(2))], "batches"),
        ((Rows(np.zeros((2, 3), np.int32)) for _ in range(2)), "batches"),
        ([pa.table({"a": [1]})], "batches"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_kinds(X: Any, kind: str) -> None:
    assert kind_of(X) == kind


@pytest.mark.parametrize("X", [None, 3, b"bytes", object()])
def test_what_cannot_be_read(X: Any) -> None:
    with pytest.raises(DataError, match="cannot read rows from"):
        as_rows(X)


@pytest.mark.parametrize("backend", BACKENDS)
def test_frames(backend: str, schema: Schema) -> None:
    want = schema.transform(LOG, "click", "weight")
    got = as_rows(BACKENDS[backend](LOG), schema, targets="click", weights="weight")
    assert_equal_rows(got, want)


def test_files_give_the_rows_of_the_frame(schema: Schema, parquet: Path, csv: Path) -> None:
    want = as_rows(LOG, schema, "click", "weight")
    for path in (parquet, csv, str(csv), [csv], [str(parquet)]):
        assert_equal_rows(as_rows(path, schema, "click", "weight"), want)
        batches = list(iter_rows(path, schema, "click", "weight", batch_rows=2))
        assert [len(batch) for batch in batches] == [2, 2, 1]
        assert_equal_rows(Rows.concatenate(batches), want)
    twice = as_rows([parquet, csv], schema, "click", "weight")
    assert_equal_rows(twice[:5], want)
    assert_equal_rows(twice[5:], want)
    assert_equal_rows(as_rows(csv, schema, LOG["click"], LOG["weight"]), want)


def test_a_folder_stands_for_its_files(schema: Schema, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    with pytest.raises(DataError, match="holds no files"):
        as_rows(folder, schema)
    for part, rows in (("b", slice(3, 5)), ("a", slice(0, 3))):
        table = pa.table({name: values[rows] for name, values in LOG.items()})
        pyarrow.parquet.write_table(table, folder / f"{part}.parquet")
    (folder / "_SUCCESS").touch()
    assert_equal_rows(as_rows(folder, schema, "click"), as_rows(LOG, schema, "click"))


def test_files_of_other_types_join(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("x,y\n2.5,3\n")
    (tmp_path / "c.csv").write_text("x,y\nred,3\n")
    table = as_table([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert table["x"].to_pylist() == [1.0, 2.5]
    with pytest.raises(SchemaError, match="not of the same types"):
        as_table([tmp_path / "a.csv", tmp_path / "c.csv"])
    with pytest.raises(SchemaError, match=r"a\.csv has no column 'xx'"):
        as_table(tmp_path / "a.csv", ["xx"])


def test_dense_arrays_keep_their_zeros() -> None:
    for X in (DENSE, DENSE.tolist(), DENSE.astype(np.float32), DENSE.astype(object)):
        rows = as_rows(X, targets=[1, 0], weights=[2.0, 1.0])
        assert rows.ids.reshape(2, 3).tolist() == [[0, 1, 2], [0, 1, 2]]
        assert rows.values.reshape(2, 3).tolist() == DENSE.tolist()
        assert rows.offsets is None
        assert rows.targets.tolist() == [1.0, 0.0]
        assert rows.weights.tolist() == [2.0, 1.0]
    assert as_rows(np.zeros((0, 3))).n_rows == 0
    assert as_rows(np.array([[True, False]])).values.tolist() == [1.0, 0.0]
    assert as_rows([["1", "2"]]).values.tolist() == [1.0, 2.0]


def test_sparse_matrices() -> None:
    for make in (scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.coo_array):
        rows = as_rows(make(DENSE), targets=[1, 0])
        assert_array_equal(rows.to_csr(3).toarray(), DENSE)
        assert rows.targets.tolist() == [1.0, 0.0]
    repeated = scipy.sparse.csr_array(
        (np.ones(3), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3)
    )
    rows = as_rows(repeated)
    assert rows.ids.tolist() == [0, 2]
    assert rows.values.tolist() == [1.0, 2.0]
    assert repeated.nnz == 3  # the caller's matrix is as it was


def test_text_files(libsvm: Path, tmp_path: Path) -> None:
    rows = as_rows(libsvm)
    assert rows.ids.tolist() == [0, 2, 1, 0]
    assert rows.targets.tolist() == [1.0, 0.0, 1.0]
    assert_equal_rows(Rows.concatenate(list(iter_rows(libsvm, batch_rows=2))), rows)
    assert len(as_rows([libsvm, libsvm])) == 6
    assert as_rows(libsvm, targets=[5, 6, 7]).targets.tolist() == [5.0, 6.0, 7.0]
    (tmp_path / "log.ffm").write_text("1 0:3:1 1:5:0.5\n0 1:4:1\n")
    rows = as_rows(tmp_path / "log.ffm")
    assert rows.fields.tolist() == [0, 1, 1]
    assert_equal_rows(Rows.concatenate(list(iter_rows(tmp_path / "log.ffm", batch_rows=1))), rows)


def test_rows_pass_through(schema: Schema) -> None:
    rows = schema.transform(LOG, "click")
    assert as_rows(rows) is rows
    assert as_rows(rows, schema) is rows  # they were encoded by it
    assert as_rows(rows, targets=[0, 0, 0, 0, 0]).targets.tolist() == [0.0] * 5
    assert [len(batch) for batch in iter_rows(rows, batch_rows=3)] == [3, 2]


def test_batches(schema: Schema) -> None:
    want = schema.transform(LOG, "click")
    table = pa.table(LOG)
    parts = [table.slice(0, 2), table.slice(2)]
    assert_equal_rows(as_rows(iter(parts), schema, targets="click"), want)
    assert_equal_rows(as_rows(schema.transform(p, "click") for p in parts), want)
    labelled = [(p.drop_columns("click"), p["click"].to_numpy()) for p in parts]
    assert_equal_rows(as_rows(labelled, schema), want)
    triples = [(DENSE, [1, 0], [1.0, 2.0]), (DENSE, [0, 1], [3.0, 4.0])]
    rows = as_rows(triples)
    assert rows.targets.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert rows.weights.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert [len(rows) for rows in iter_rows(parts, schema)] == [2, 3]
    with pytest.raises(DataError, match="targets of an iterable of batches come with them"):
        as_rows(iter(parts), schema, targets=[1, 0, 0, 1, 1])
    with pytest.raises(DataError, match="no rows"):
        as_rows(iter([]))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([[1.0, float("nan")]], "row 0, column 1: the value is nan"),
        ([[1.0, 2.0], [float("inf"), 1.0]], "row 1, column 0: the value is inf"),
        ([[1e300]], r"row 0, column 0: the value is 1e\+300"),
        ([1.0, 2.0], r"shape \(2,\), expected \[n_rows, n_features\]; reshape your data"),
        (np.ones((2, 2, 2)), r"shape \(2, 2, 2\)"),
        ([["a", "b"]], "not one of numbers"),
        (np.ones((2, 2), complex), "type complex128, expected real numbers"),
        (scipy.sparse.csr_array(np.ones((2, 2), complex)), "complex128, expected real numbers"),
    ],
)
def test_wrong_matrices(X: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_rows(X)


def test_what_does_not_go_together(schema: Schema, libsvm: Path, csv: Path) -> None:
    for X, error, message in (
        (LOG, SchemaError, r"has columns, so a schema must say .* Schema\.infer"),
        (csv, SchemaError, r"log\.csv' has columns, so a schema must say"),
        ([csv, libsvm], DataError, "some of the files are tables"),
    ):
        with pytest.raises(error, match=message):
            as_rows(X)
    for X in (DENSE, scipy.sparse.csr_array(DENSE), libsvm):
        with pytest.raises(SchemaError, match="a schema reads columns by name"):
            as_rows(X, schema)
        with pytest.raises(SchemaError, match="has no columns by name, so no 'click'"):
            as_rows(X, targets="click")
    with pytest.raises(DataError, match="targets are of type <U1"):
        as_rows(DENSE, targets=["a", "b"])
    with pytest.raises(DataError, match=r"targets have shape \(1,\), expected \[2\]"):
        as_rows(DENSE, targets=[1])
    with pytest.raises(DataError, match="targets of files read in batches"):
        next(iter_rows(csv, schema, targets=[1]))
    with pytest.raises(SchemaError, match="columns with names are needed, a ndarray has none"):
        as_table(DENSE)


def test_missing_files(tmp_path: Path, csv: Path, schema: Schema) -> None:
    with pytest.raises(DataError, match=r"no such file.*Did you mean 'log\.csv'"):
        as_rows(tmp_path / "lgo.csv", schema)
    with pytest.raises(DataError, match="no such file"):
        as_rows([csv, tmp_path / "other.parquet"], schema)


def test_taking_a_column(csv: Path, parquet: Path) -> None:
    assert take_column(csv, "click").tolist() == [1, 0, 0, 1, 1]
    assert take_column(parquet, "zip").tolist() == LOG["zip"]
    for backend in BACKENDS.values():
        assert take_column(backend(LOG), "click").tolist() == LOG["click"]
    assert take_column({"y": pd.Categorical(["a", "b"])}, "y").tolist() == ["a", "b"]
    with pytest.raises(SchemaError, match="Did you mean 'click'"):
        take_column(LOG, "clicks")


def test_formats(tmp_path: Path) -> None:
    for name, want in (
        ("a.parquet", "parquet"), ("a.pq", "parquet"), ("a.CSV", "csv"), ("a.csv.gz", "csv"),
        ("a.tsv", "csv"), ("a.libsvm", "libsvm"), ("a.libfm", "libsvm"), ("a.svm", "libsvm"),
        ("a.ffm", "libffm"), ("a.libffm.gz", "libffm"),
    ):  # fmt: skip
        assert file_format(name) == want
    for text, want in (
        (b"PAR1....", "parquet"), (b"user,item\n1,2\n", "csv"), (b"1 3:1 5:0.5\n", "libsvm"),
        (b"# note\n-1 0:3:1 1:5:1\n", "libffm"), (b"", "csv"), (b"a b\n", "csv"),
    ):  # fmt: skip
        (tmp_path / "data.txt").write_bytes(text)
        assert file_format(tmp_path / "data.txt") == want


def test_arrays_load_no_table_library() -> None:
    code = (
        "import sys, numpy, crossfm.data.inputs as inputs;"
        "inputs.as_rows(numpy.eye(2));"
        "assert not {'pyarrow', 'narwhals', 'pandas', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
