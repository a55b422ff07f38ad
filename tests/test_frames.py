"""Frames of every library become the same Arrow table, and broken ones a typed error."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from backends import BACKENDS

from crossfm.data.frames import column_names, is_frame, to_arrow
from crossfm.data.values import canonical
from crossfm.errors import SchemaError

COLUMNS = {
    "user": [3, 1, None, 3],
    "name": ["b", None, "a", "b"],
    "price": [1.5, None, -2.25, 0.1],
    "flag": [True, False, None, True],
    "tags": [["x", "y"], [], None, ["x"]],
}


@pytest.fixture(params=BACKENDS)
def constructor(request: pytest.FixtureRequest) -> Any:
    return BACKENDS[request.param]


def categories(table: pa.Table, name: str) -> list[Any]:
    return canonical(table.column(name), name).array.to_pylist()


def test_every_library_gives_the_same_values(constructor: Any) -> None:
    frame = constructor(COLUMNS)
    assert is_frame(frame)
    assert column_names(frame) == list(COLUMNS)
    table = to_arrow(frame)
    assert table.column_names == list(COLUMNS)
    for name in ("user", "name", "price", "flag"):
        assert categories(table, name) == COLUMNS[name]
    tags = [None if bag is None else list(bag) for bag in table.column("tags").to_pylist()]
    assert tags == COLUMNS["tags"]


def test_columns_are_picked_in_the_order_asked_for(constructor: Any) -> None:
    table = to_arrow(constructor(COLUMNS), ["price", "user"])
    assert table.column_names == ["price", "user"]
    assert table.num_rows == 4


def test_a_missing_column_is_named_with_the_nearest(constructor: Any) -> None:
    with pytest.raises(SchemaError, match=r"no column 'usr'\. Did you mean 'user'\?"):
        to_arrow(constructor(COLUMNS), ["usr"])


def test_no_rows(constructor: Any) -> None:
    frame = constructor({"user": [], "name": []})
    assert to_arrow(frame).num_rows == 0
    assert column_names(frame) == ["user", "name"]


def test_arrow_columns_are_not_copied() -> None:
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    assert to_arrow(table) is table
    polars = pl.DataFrame({"a": np.arange(1000)})
    assert (
        to_arrow(polars)["a"].chunk(0).buffers()[1].address
        == polars.to_arrow()["a"].chunk(0).buffers()[1].address
    )
    numpy = np.arange(1000)
    address = to_arrow(pd.DataFrame({"a": numpy}, copy=False))["a"].chunk(0).buffers()[1].address
    assert address == numpy.ctypes.data


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame([[1, 2, 3]], columns=["a", "a", "b"]),
        pd.DataFrame([[1, 2]], columns=[0, "0"]),
        pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]),
        {0: [1], "0": [2]},
    ],
    ids=["pandas", "pandas 0 and '0'", "pyarrow", "dict"],
)
def test_duplicate_columns(frame: Any) -> None:
    with pytest.raises(SchemaError, match=r"'(a|0)'; rename or drop"):
        to_arrow(frame)
    with pytest.raises(SchemaError, match=r"'(a|0)'; rename or drop"):
        column_names(frame)


@pytest.mark.parametrize(
    "values",
    [["a", 1], [1, True], [object(), object()], [1, "a", None, 2.5]],
    ids=["string and integer", "integer and boolean", "objects", "many"],
)
def test_mixed_types_name_the_column(values: list[Any]) -> None:
    for frame in (pd.DataFrame({"x": pd.Series(values, dtype=object)}), {"x": values}):
        with pytest.raises(SchemaError, match=r"column 'x' holds values of mixed .*\(.*\)"):
            to_arrow(frame)


def test_a_mixed_column_that_is_not_asked_for_does_no_harm() -> None:
    frame = pd.DataFrame({"x": pd.Series(["a", 1], dtype=object), "y": [1, 2]})
    assert to_arrow(frame, ["y"])["y"].to_pylist() == [1, 2]


def test_unsigned_ids_beyond_int64_survive() -> None:
    ids = [2**64 - 1, 2**53 + 1, 1]
    for frame in (
        {"x": ids},
        {"x": np.array(ids, np.uint64)},
        pd.DataFrame({"x": pd.Series(ids, dtype=object)}),
        pd.DataFrame({"x": np.array(ids, np.uint64)}),
        pl.DataFrame({"x": pl.Series(ids, dtype=pl.UInt64)}),
    ):
        assert to_arrow(frame)["x"].to_pylist() == ids


def test_pandas_intervals_and_names_that_are_no_strings() -> None:
    cut = pd.cut(pd.Series([1.0, 5.0, None]), [0, 3, 9])
    frame = pd.DataFrame({0: cut, 1: pd.period_range("2024-01", periods=3, freq="M")})
    table = to_arrow(frame)
    assert table.column_names == ["0", "1"]
    assert categories(table, "0") == ["(0, 3]", "(3, 9]", None]
    assert categories(table, "1") == ["2024-01", "2024-02", "2024-03"]


def test_records() -> None:
    records = [{"user": 1, "tags": ["a"]}, {"user": 2, "price": 1.5}]
    assert is_frame(records)
    table = to_arrow(records)
    assert table.to_pydict() == {
        "user": [1, 2],
        "tags": [["a"], None],
        "price": [None, 1.5],
    }
    assert to_arrow({"user": 1, "tags": ["a", "b"]}).to_pydict() == {
        "user": [1],
        "tags": [["a", "b"]],
    }
    with pytest.raises(SchemaError, match="records"):
        to_arrow([{"user": 1}, 7])
    with pytest.raises(SchemaError, match="Did you mean 'price'"):
        to_arrow(records, ["prize"])


def test_columns_of_unequal_length() -> None:
    with pytest.raises(SchemaError, match="'a' has 2, 'b' has 1"):
        to_arrow({"a": [1, 2], "b": [1]})


def test_narwhals_frames_and_series_as_columns() -> None:
    assert to_arrow(nw.from_native(pl.DataFrame({"a": [1]}))).to_pydict() == {"a": [1]}
    assert to_arrow({"a": pd.Series([1, 2]), "b": pl.Series(["x", None])}).to_pydict() == {
        "a": [1, 2],
        "b": ["x", None],
    }
    assert to_arrow({"bag": np.array([[1, 2], [3, 4]])}).to_pydict() == {"bag": [[1, 2], [3, 4]]}


@pytest.mark.parametrize(
    "x", [[[1.0]], np.ones((2, 2)), scipy.sparse.eye(2).tocsr(), "a.csv", None, 3, [], iter([])]
)
def test_what_is_no_frame(x: Any) -> None:
    assert not is_frame(x)


def test_reading_what_is_no_frame() -> None:
    with pytest.raises(SchemaError, match=r"expected a DataFrame .* got ndarray"):
        to_arrow(np.ones((2, 2)))
    with pytest.raises(SchemaError, match="got ndarray"):
        column_names(np.ones((2, 2)))
