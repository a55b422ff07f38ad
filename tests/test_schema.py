"""Schema: encoding against the plain Python oracle, over every DataFrame library."""

from __future__ import annotations

import copy
import datetime
import itertools
import json
import pickle
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from backends import BACKENDS
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from schema_oracle import OracleSchema, bucket

from crossfm.data import Bag, Categorical, Counts, Numeric, Rows, Schema
from crossfm.errors import DataError, SchemaError

RTOL = 2e-6  # float32 of a float64 computation whose sums are taken in another order
ATOL = 1e-6  # a value near the mean, minus the mean

MAKE = {"categorical": Categorical, "numeric": Numeric, "bag": Bag}

LOG: dict[str, list[Any]] = {
    "user": [7, 3, 7, None, 9, 3, 7],
    "city": ["Rome", "", "Oslo", "Oslo", None, "Rome", "Oslo"],
    "price": [1.5, None, -2.25, 0.0, 10.0, 3.0, 0.1],
    "flag": [True, False, None, True, True, False, True],
    "genres": ["a|b", "", None, " b | a |", "c", "a||a", "b"],
    "tags": [["x", "y"], [], None, ["x", None], ["z"], ["y", "x", "y"], ["x"]],
    "weights": [[1.0, 3.0], [], None, [0.5, 0.5], [2.0], [1.0, 2.0, 3.0], [0.0]],
}
FIELDS = [
    {"kind": "categorical", "name": "user"},
    {"kind": "categorical", "name": "city", "min_count": 2},
    {"kind": "numeric", "name": "price", "scale": "standard"},
    {"kind": "categorical", "name": "flag"},
    {"kind": "bag", "name": "genres", "sep": "|", "pooling": "sqrtn"},
    {"kind": "bag", "name": "tags", "pooling": "mean", "weights": "weights"},
]


def make(fields: list[dict[str, Any]]) -> Schema:
    return Schema(MAKE[f["kind"]](**{k: v for k, v in f.items() if k != "kind"}) for f in fields)


def pairs(rows: Rows) -> list[list[tuple[int, float]]]:
    values = np.ones(rows.nnz) if rows.values is None else rows.values
    offsets = rows.row_offsets()
    return [
        list(zip(rows.ids[a:b].tolist(), values[a:b].tolist(), strict=True))
        for a, b in itertools.pairwise(offsets)
    ]


def assert_rows(rows: Rows, want: list[list[tuple[int, float]]]) -> None:
    got = pairs(rows)
    assert [[i for i, _ in row] for row in got] == [[i for i, _ in row] for row in want]
    assert_allclose(
        [x for row in got for _, x in row],
        [x for row in want for _, x in row],
        rtol=RTOL,
        atol=ATOL,
    )


def assert_equal_rows(a: Rows, b: Rows) -> None:
    for name in ("ids", "values", "offsets", "fields", "targets", "weights"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        if left is not None:
            assert left.dtype == right.dtype
            assert_array_equal(left, right)
    assert len(a) == len(b)


@pytest.fixture(params=BACKENDS)
def constructor(request: pytest.FixtureRequest) -> Any:
    return BACKENDS[request.param]


# --- the encoding -------------------------------------------------------------------------------


def test_every_library_gives_the_rows_of_the_oracle(constructor: Any) -> None:
    frame = constructor(LOG)
    schema = make(FIELDS).fit(frame)
    oracle = OracleSchema(FIELDS).fit(LOG)
    assert schema.n_features_ == oracle.n_features
    rows = schema.transform(frame)
    assert_rows(rows, oracle.transform(LOG))
    assert rows.validate(schema.n_features_).has_repeats is False
    reference = make(FIELDS).fit(pa.table(LOG))
    assert_equal_rows(rows, reference.transform(pa.table(LOG)))
    assert reference.to_json() == schema.to_json()


def test_names_and_blocks() -> None:
    schema = make(FIELDS).fit(LOG)
    assert schema.feature_names() == [
        "user=<unknown>", "user=7", "user=3", "user=9",
        "city=<unknown>", "city=Oslo", "city=Rome",
        "price=<missing>", "price",
        "flag=<unknown>", "flag=True", "flag=False",
        "genres=<unknown>", "genres=a", "genres=b", "genres=c",
        "tags=<unknown>", "tags=x", "tags=y", "tags=z",
    ]  # fmt: skip
    assert schema.feature_name(5) == "city=Oslo"
    assert schema.feature_names(np.array([2, 0])) == ["user=3", "user=<unknown>"]
    assert schema.field_names == ["user", "city", "price", "flag", "genres", "tags"]
    assert schema.field_of_.tolist() == [0] * 4 + [1] * 3 + [2] * 2 + [3] * 3 + [4] * 4 + [5] * 4
    assert schema.field_of_.dtype == np.int32
    assert schema.block("city").tolist() == [4, 5, 6]
    with pytest.raises(SchemaError, match="no feature 20, the schema has 20 features"):
        schema.feature_name(20)
    with pytest.raises(SchemaError, match="no feature -1"):
        schema.feature_name(-1)
    with pytest.raises(SchemaError, match="Did you mean 'city'"):
        schema.block("ctiy")


def test_unseen_values_are_counted() -> None:
    schema = make(FIELDS).fit(LOG)
    assert schema.transform(LOG) is not None
    assert schema.unseen_ == {
        "user": Counts(0, 1),
        "city": Counts(0, 2),
        "price": Counts(0, 1),
        "flag": Counts(0, 1),
        "genres": Counts(0, 1),
        "tags": Counts(0, 2),  # a null bag, a null in a bag
    }
    schema.transform(
        {
            "user": [8, None, 7],
            "city": ["Lima", "Rome", "Bonn"],
            "price": [1.0, 2.0, 3.0],
            "flag": [True, True, False],
            "genres": ["q|a|r", "", "a"],
            "tags": [["x"], [], []],
            "weights": [[1.0], [], []],
        }
    )
    assert schema.unseen_ == {
        "user": Counts(1, 1), "city": Counts(2, 0), "genres": Counts(2, 0)
    }  # fmt: skip


def test_rows_without_bags_are_of_equal_length() -> None:
    schema = Schema([Categorical("user"), Categorical("city")]).fit(LOG)
    rows = schema.transform(LOG)
    assert rows.offsets is None
    assert rows.values is None
    assert rows.row_length == 2
    assert rows.ids.dtype == np.int32
    rows = Schema([Categorical("user"), Numeric("price")]).fit(LOG).transform(LOG)
    assert rows.offsets is None
    assert rows.values is not None
    assert rows.values[3] == 1.0  # the missing price, at its own id
    assert rows.ids.reshape(-1, 2)[:, 1].tolist() == [5, 4, 5, 5, 5, 5, 5]


def ints() -> st.SearchStrategy[Any]:
    return st.none() | st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1)


def words() -> st.SearchStrategy[Any]:
    return st.none() | st.sampled_from(["a", "b", "c", "ü", "", "a b", "7"]) | st.text(max_size=3)


def floats() -> st.SearchStrategy[Any]:
    return st.none() | st.floats(-1e6, 1e6, allow_subnormal=False)


@st.composite
def schemas_and_frames(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, list[Any]]]]:
    fields: list[dict[str, Any]] = []
    columns: dict[str, st.SearchStrategy[Any]] = {}
    for f in range(draw(st.integers(1, 4))):
        name = f"c{f}"
        kind = draw(st.sampled_from(["categorical", "numeric", "bag"]))
        field: dict[str, Any] = {"kind": kind, "name": name}
        if kind == "numeric":
            field["scale"] = draw(st.sampled_from(["standard", "log", "raw"]))
            columns[name] = floats()
        else:
            values = draw(st.sampled_from([ints(), words()]))
            if draw(st.booleans()):
                field["hash_buckets"] = draw(st.integers(1, 9))
            else:
                field["min_count"] = draw(st.integers(1, 3))
            columns[name] = values
        if kind == "bag":
            field["pooling"] = draw(st.sampled_from(["sum", "mean", "sqrtn"]))
            columns[name] = st.none() | st.lists(values, max_size=4)
        fields.append(field)
    frames = []
    for _ in range(3):
        n = draw(st.integers(0 if frames else 1, 12))
        frames.append({name: draw(st.lists(s, min_size=n, max_size=n))
                       for name, s in columns.items()})  # fmt: skip
    return fields, frames


def typed(frame: dict[str, list[Any]], like: dict[str, list[Any]]) -> pa.Table:
    """An Arrow table; columns without a value take the type of another frame's."""
    arrays = {}
    for name, values in frame.items():
        kind = pa.array(like[name]).type
        arrays[name] = pa.array(values, None if pa.types.is_null(kind) else kind)
    return pa.table(arrays)


@given(schemas_and_frames())
def test_random_schemas_agree_with_the_oracle(
    drawn: tuple[list[dict[str, Any]], list[dict[str, list[Any]]]],
) -> None:
    fields, (first, second, third) = drawn
    everything = {name: first[name] + second[name] + third[name] for name in first}
    schema, oracle = make(fields), OracleSchema(fields)
    schema.fit(typed(first, everything))
    oracle.fit(first)
    for frame in (first, second, third):
        assert schema.n_features_ == oracle.n_features
        for other in (first, second, third):
            rows = schema.transform(typed(other, everything))
            assert_rows(rows, oracle.transform(other))
            rows.validate(schema.n_features_)
        loaded = Schema.from_json(schema.to_json())
        assert loaded == schema
        assert_equal_rows(loaded.transform(typed(second, everything)),
                          schema.transform(typed(second, everything)))  # fmt: skip
        schema = loaded
        names = schema.feature_names()
        fields_of = [names[i].split("=")[0] for i in range(len(names))]
        assert fields_of == [schema.field_names[f] for f in schema.field_of_]
        schema.partial_fit(typed(frame, everything))
        oracle.partial_fit(frame)


# --- types --------------------------------------------------------------------------------------

SAME_IDS = {
    "int64": pa.array([1, 2, 2, None]),
    "int8": pa.array([1, 2, 2, None], pa.int8()),
    "uint64": pa.array([1, 2, 2, None], pa.uint64()),
    "float": pa.array([1.0, 2.0, 2.0, None]),
    "float32 with NaN": pa.array(np.array([1, 2, 2, np.nan], np.float32)),
    "string": pa.array(["1", "2", "2", None]),
    "string of floats": pa.array(["1.0", "2.0", " 2 ", ""]),
    "large string": pa.array(["1", "2", "2", None], pa.large_string()),
    "string view": pa.array(["1", "2", "2", None], pa.string_view()),
    "bytes": pa.array([b"1", b"2", b"2", None]),
    "dictionary": pa.array(["1", "2", "2", None]).dictionary_encode(),
    "dictionary of ints": pa.array([1, 2, 2, None]).dictionary_encode(),
    "decimal": pa.array([1, 2, 2, None], pa.decimal128(10, 2)),
    "run end": pa.RunEndEncodedArray.from_arrays([1, 3, 4], pa.array([1, 2, None])),
}


@pytest.mark.parametrize("name", SAME_IDS)
def test_the_same_ids_meet_in_every_type(name: str) -> None:
    schema = Schema([Categorical("x")]).fit(pa.table({"x": SAME_IDS["int64"]}))
    rows = schema.transform(pa.table({"x": SAME_IDS[name]}))
    assert rows.ids.tolist() == [2, 1, 1, 0]
    assert schema.unseen_ == {"x": Counts(0, 1)}


@pytest.mark.parametrize("fitted", ["int64", "float", "string", "decimal", "uint64", "bytes"])
def test_whichever_type_was_fitted(fitted: str) -> None:
    schema = Schema([Categorical("x")]).fit(pa.table({"x": SAME_IDS[fitted]}))
    for name, array in SAME_IDS.items():
        if name == "string of floats" and fitted in ("string", "bytes"):
            continue  # between strings nothing is read as a number
        assert schema.transform(pa.table({"x": array})).ids.tolist() == [2, 1, 1, 0], name


@pytest.mark.parametrize("name", [n for n in SAME_IDS if n != "string of floats"])
def test_hashing_is_of_the_value_not_of_the_type(name: str) -> None:
    want = [1 + bucket("1", 50), 1 + bucket("2", 50), 1 + bucket("2", 50), 0]
    schema = Schema([Categorical("x", hash_buckets=50)]).fit(pa.table({"x": SAME_IDS[name]}))
    assert schema.n_features_ == 51
    assert schema.transform(pa.table({"x": SAME_IDS[name]})).ids.tolist() == want
    assert schema.feature_names([0, 7]) == ["x=<unknown>", "x=<bucket 6>"]


def test_hashing_fractions_beside_whole_numbers() -> None:
    schema = Schema([Categorical("x", hash_buckets=1000)]).fit({"x": [1]})
    whole = schema.transform({"x": [1.0]}).ids[0]
    assert schema.transform({"x": [1.5, 1.0]}).ids[1] == whole
    assert schema.transform({"x": ["1"]}).ids[0] == whole


def test_unsigned_ids_never_pass_through_floats() -> None:
    big = [2**64 - 1, 2**64 - 2, 2**63, 2**53 + 1, 5]
    schema = Schema([Categorical("x")]).fit({"x": big})
    assert [schema.feature_name(i) for i in range(1, 6)] == [f"x={v}" for v in sorted(big)]
    want = [5, 4, 3, 2, 1]
    loaded = Schema.from_json(schema.to_json())
    for same in (big, [str(v) for v in big], pa.array(big, pa.uint64()).dictionary_encode()):
        assert schema.transform({"x": same}).ids.tolist() == want
        assert loaded.transform({"x": same}).ids.tolist() == want
    assert schema.transform({"x": [2**64 - 3, 5]}).ids.tolist() == [0, 1]
    assert schema.transform({"x": [-1, 5]}).ids.tolist() == [0, 1]
    small = Schema([Categorical("x")]).fit({"x": [2**53, 2**53 + 1, -1]})
    assert small.transform({"x": [2**53 + 1, -1, 2**53]}).ids.tolist() == [3, 1, 2]
    assert small.transform({"x": np.array([2**64 - 1], np.uint64)}).ids.tolist() == [0]


def test_values_without_an_equal_are_unknown_not_missing() -> None:
    schema = Schema([Categorical("x")]).fit({"x": [1, 2]})
    for strange in (["one", "1e0", "9" * 40, "0x1", "--1"], [1.5, 2.5, 1e300, -0.5, 3.0]):
        assert schema.transform({"x": strange}).ids.tolist() == [0] * 5
        assert schema.unseen_ == {"x": Counts(5, 0)}
    schema = Schema([Categorical("x")]).fit({"x": [True, False]})
    assert schema.transform({"x": ["True", "false", "yes"]}).ids.tolist() == [2, 1, 0]
    assert schema.transform({"x": [1, 0, 2]}).ids.tolist() == [2, 1, 0]


def test_dates_as_categories() -> None:
    days = [datetime.date(2024, 1, 31), datetime.date(2024, 2, 1), None]
    schema = Schema([Categorical("day")]).fit({"day": days})
    assert schema.feature_names() == ["day=<unknown>", "day=2024-01-31", "day=2024-02-01"]
    for same in (
        pd.DataFrame({"day": pd.to_datetime(pd.Series(days))}),
        pl.DataFrame({"day": days}),
        {"day": ["2024-01-31", "2024-02-01", ""]},
        {"day": pa.array(days, pa.date32()).cast(pa.timestamp("ns", "UTC"))},
    ):
        assert schema.transform(same).ids.tolist() == [1, 2, 0]
    loaded = Schema.from_json(schema.to_json())
    assert loaded == schema
    assert loaded.transform({"day": days}).ids.tolist() == [1, 2, 0]
    with pytest.raises(
        SchemaError, match="column 'day' holds integers such as '3', expected dates"
    ):
        schema.transform({"day": [3, 4]})
    moment = Schema([Categorical("at")]).fit({"at": [datetime.datetime(2024, 1, 31, 18, 30)]})
    assert moment.feature_name(1) == "at=2024-01-31 18:30:00"


def test_floats_as_categories() -> None:
    schema = Schema([Categorical("x")]).fit({"x": [0.1, 0.1, -0.0, 2.5]})
    assert schema.feature_names() == ["x=<unknown>", "x=0.1", "x=0.0", "x=2.5"]
    assert schema.transform({"x": [0.0, 0.1, 2.5]}).ids.tolist() == [2, 1, 3]
    narrow = np.array([0.1, 2.5, 0.0], np.float32)
    assert schema.transform({"x": narrow}).ids.tolist() == [1, 3, 2]
    assert schema.transform({"x": ["0.1", "2.50", "x"]}).ids.tolist() == [1, 3, 0]
    assert schema.transform({"x": [0, 1]}).ids.tolist() == [2, 0]
    assert Schema.from_json(schema.to_json()) == schema


def test_all_missing_and_no_rows() -> None:
    nothing = {"x": [None, None], "n": [None, None], "b": [None, None]}
    schema = Schema([Categorical("x"), Numeric("n"), Bag("b"), Numeric("q", "bucket")])
    schema.fit({**nothing, "q": [None, None]})
    assert schema.n_features_ == 1 + 2 + 1 + 2
    rows = schema.transform({**nothing, "q": [None, None]})
    assert pairs(rows) == [[(0, 1.0), (1, 1.0), (3, 1.0), (4, 1.0)]] * 2
    empty = schema.transform({"x": [], "n": [], "b": [], "q": []})
    assert len(empty) == 0
    assert empty.offsets is not None
    assert empty.offsets.tolist() == [0]
    assert len(Schema([Categorical("x")]).fit({"x": [1]}).transform({"x": []})) == 0
    with pytest.raises(DataError, match="no rows"):
        schema.fit({"x": [], "n": [], "b": [], "q": []})
    loaded = Schema.from_json(schema.to_json())  # what had no kind takes that of the first value
    loaded.partial_fit({"x": ["a"], "n": [3.0], "b": [["y"]], "q": [1.0]})
    assert loaded.feature_names([6, 7]) == ["x=a", "b=y"]
    dictionary = pa.DictionaryArray.from_arrays(pa.array([], pa.int8()), pa.array([], pa.string()))
    assert len(Schema([Categorical("x")]).fit({"x": [1]}).transform({"x": dictionary})) == 0


# --- numbers ------------------------------------------------------------------------------------


def test_scales() -> None:
    x = [0.0, 1.0, 3.0, 7.0, None, -1.0]
    valid = np.array([0.0, 1.0, 3.0, 7.0, -1.0])

    def encoded(scale: Any) -> list[float]:
        rows = Schema([Numeric("x", scale)]).fit({"x": x}).transform({"x": x})
        assert rows.values is not None
        assert rows.ids.tolist() == [1, 1, 1, 1, 0, 1]
        return np.delete(rows.values, 4).tolist()

    assert_allclose(encoded("raw"), valid)
    assert_allclose(encoded("standard"), (valid - valid.mean()) / valid.std(), rtol=RTOL)
    log = np.sign(valid) * np.log1p(np.abs(valid))
    assert_allclose(encoded("log"), (log - log.mean()) / log.std(), rtol=RTOL)


def test_a_constant_or_huge_column_scales_to_finite_numbers() -> None:
    for x in ([5.0, 5.0], [0.1] * 3, [1e300, 3e300], [1e-300, 2e-300], [0.0]):
        rows = Schema([Numeric("x")]).fit({"x": x}).transform({"x": x})
        rows.validate()
    rows = Schema([Numeric("x")]).fit({"x": [1e300, 3e300]}).transform({"x": [1e300, 3e300]})
    assert_allclose(rows.values, [-1, 1], rtol=RTOL)
    with pytest.raises(DataError, match=r"column 'x', row 1: the value is 1e\+300"):
        Schema([Numeric("x")]).fit({"x": [1.0, 2.0]}).transform({"x": [1.0, 1e300]})


def test_buckets_hold_equal_shares() -> None:
    x = np.random.default_rng(0).lognormal(size=1000)
    schema = Schema([Numeric("x", "bucket", n_buckets=8)]).fit({"x": x})
    rows = schema.transform({"x": x})
    assert rows.values is None
    assert schema.n_features_ == 9
    assert np.bincount(rows.ids, minlength=9).tolist() == [0] + [125] * 8
    order = np.argsort(x)
    assert (np.diff(rows.ids[order]) >= 0).all()
    assert schema.transform({"x": [-5.0, 1e9, None]}).ids.tolist() == [1, 8, 0]
    assert schema.feature_name(1).startswith("x<")
    assert "<=x<" in schema.feature_name(2)
    assert schema.feature_name(8).startswith("x>=")
    assert_equal_rows(Schema.from_json(schema.to_json()).transform({"x": x}), rows)


def test_buckets_of_few_values_are_one_each() -> None:
    x = [1.0] * 90 + [2.0] * 9 + [50.0]
    schema = Schema([Numeric("x", "bucket", n_buckets=4)]).fit({"x": x})
    assert schema.transform({"x": [1.0, 2.0, 50.0]}).ids.tolist() == [1, 2, 3]
    constant = Schema([Numeric("x", "bucket")]).fit({"x": [3.0, 3.0]})
    assert constant.transform({"x": [3.0, None]}).ids.tolist() == [1, 0]
    heavy = [0.0] * 500 + list(range(1, 101))
    schema = Schema([Numeric("x", "bucket", n_buckets=4)]).fit({"x": heavy})
    assert schema.transform({"x": [0.0]}).ids.tolist() == [1]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            ["12", "x", None],
            r"column 'age' holds strings such as 'x' \(row 1\), expected numbers; ",
        ),
        ([[1], [2], [3]], r"column 'age' holds lists, expected numbers; use Bag\('age'\)"),
        ([datetime.date(2024, 1, 1)] * 3, "column 'age' holds dates, expected numbers; derive"),
    ],
)
def test_numbers_of_a_wrong_type(column: list[Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Schema([Numeric("age")]).fit({"age": column})


def test_infinity_names_its_row(constructor: Any) -> None:
    frame = constructor({"age": [1.0, 2.0, float("-inf"), float("inf")]})
    for field in (Numeric("age"), Categorical("age")):
        with pytest.raises(DataError, match="column 'age', row 2: the value is -inf"):
            Schema([field]).fit(frame)


def test_nan_is_missing() -> None:
    for frame in (
        pl.DataFrame({"x": [1.0, float("nan"), 2.5]}),
        pa.table({"x": pa.array([1.0, float("nan"), 2.5])}),
        pd.DataFrame({"x": [1.0, float("nan"), 2.5]}),
        {"x": ["1.0", "nan", " 2.5"]},
    ):
        assert Schema([Numeric("x")]).fit(frame).transform(frame).ids.tolist() == [1, 0, 1]


def test_booleans_and_decimals_are_numbers() -> None:
    schema = Schema([Numeric("x", "raw")]).fit({"x": [True, False, None]})
    assert schema.transform({"x": [True, False, None]}).values.tolist() == [1.0, 0.0, 1.0]
    decimals = pa.array([1, 2, None], pa.decimal128(10, 2))
    assert schema.transform({"x": decimals}).values.tolist() == [1.0, 2.0, 1.0]


# --- bags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "large", "view", "fixed", "strings"])
def test_kinds_of_lists(kind: str) -> None:
    bags = [["a", "b"], None, ["b", "c"], ["c", "a"]]
    types = {
        "list": pa.list_(pa.string()),
        "large": pa.large_list(pa.large_string()),
        "view": pa.list_view(pa.string()),
        "fixed": pa.list_(pa.string(), 2),
    }
    column: Any = (
        pa.array([None if bag is None else ";".join(bag) for bag in bags])
        if kind == "strings"
        else pa.array([["z", "z"], *bags], types[kind])[1:]
    )
    schema = Schema([Bag("x", sep=";")]).fit({"x": column})
    assert schema.feature_names() == ["x=<unknown>", "x=a", "x=b", "x=c"]
    rows = schema.transform({"x": column})
    assert pairs(rows) == [
        [(1, 1.0), (2, 1.0)], [(0, 1.0)], [(2, 1.0), (3, 1.0)], [(3, 1.0), (1, 1.0)]
    ]  # fmt: skip


def test_pooling_by_hand() -> None:
    frame = {
        "x": [["a", "b", "a", "c"], ["b"], [], None],
        "w": [[1.0, 2.0, 3.0, 2.0], [4.0], [], []],
    }

    def values(**options: Any) -> list[list[float]]:
        schema = Schema([Bag("x", **options)]).fit(frame)
        return [[x for _, x in row] for row in pairs(schema.transform(frame))]

    half, root = 0.5, 4**-0.5
    assert values() == [[2.0, 1.0, 1.0], [1.0], [], [1.0]]
    assert values(pooling="mean") == [[half, 0.25, 0.25], [1.0], [], [1.0]]
    assert values(pooling="sqrtn") == [[2 * root, root, root], [1.0], [], [1.0]]
    assert values(weights="w") == [[4.0, 2.0, 2.0], [4.0], [], [1.0]]
    assert values(weights="w", pooling="mean") == [[0.5, 0.25, 0.25], [1.0], [], [1.0]]
    got = values(weights="w", pooling="sqrtn")
    norm = np.sqrt(1 + 4 + 9 + 4)
    assert_allclose(got[0], [4 / norm, 2 / norm, 2 / norm], rtol=RTOL)


def test_weights_in_separated_strings() -> None:
    frame = {"x": ["a|b", "c", None, ""], "w": ["0.5|2", "3", None, ""]}
    schema = Schema([Bag("x", sep="|", weights="w")]).fit(frame)
    assert pairs(schema.transform(frame)) == [[(1, 0.5), (2, 2.0)], [(3, 3.0)], [(0, 1.0)], []]


@pytest.mark.parametrize(
    ("weights", "pooling", "message"),
    [
        ([[1.0], [1.0, 2.0]], "sum", "row 1: column 'w' has 2 weights for 1 values of 'x'"),
        ([None, [1.0]], "sum", "row 0: column 'w' has 0 weights for 1 values of 'x'"),
        ([[1.0], [None]], "sum", "row 1: a weight in column 'w' is nan, expected a number"),
        ([[-1.0], [1.0]], "mean", r"row 0: a weight in column 'w' is -1.0, .* not negative"),
        ([[1.0], [float("inf")]], "sum", "column 'w', row 1: the value is inf"),
    ],
)
def test_wrong_weights(weights: Any, pooling: Any, message: str) -> None:
    frame = {"x": [["a"], ["b"]], "w": weights}
    with pytest.raises(DataError, match=message):
        Schema([Bag("x", weights="w", pooling=pooling)]).fit(frame).transform(frame)


def test_weights_that_are_all_zero() -> None:
    frame = {"x": [["a", "b"]], "w": [[0.0, 0.0]]}
    for pooling in ("mean", "sqrtn"):
        rows = Schema([Bag("x", weights="w", pooling=pooling)]).fit(frame).transform(frame)  # type: ignore[arg-type]
        assert rows.values.tolist() == [0.0, 0.0]


def test_wrong_columns_for_bags() -> None:
    with pytest.raises(
        SchemaError, match=r"holds strings such as 'a\|b', expected lists; give the"
    ):
        Schema([Bag("x")]).fit({"x": ["a|b"]})
    with pytest.raises(SchemaError, match=r"holds int64, .* Categorical\('x'\)"):
        Schema([Bag("x")]).fit({"x": [1]})
    with pytest.raises(SchemaError, match="lists of lists"):
        Schema([Bag("x")]).fit({"x": [[[1]]]})
    with pytest.raises(SchemaError, match=r"column 'x' holds lists, .* use Bag\('x'\)"):
        Schema([Categorical("x")]).fit({"x": [[1]]})


def test_bags_of_integers_and_dictionaries() -> None:
    lists = pa.array([[1, 2], [2]])
    schema = Schema([Bag("x")]).fit({"x": lists})
    assert schema.feature_names([1, 2]) == ["x=2", "x=1"]
    encoded = pa.ListArray.from_arrays([0, 2, 3], pa.array(["1", "2", "2"]).dictionary_encode())
    assert pairs(schema.transform({"x": encoded})) == [[(2, 1.0), (1, 1.0)], [(1, 1.0)]]


# --- growth -------------------------------------------------------------------------------------


def test_growth_appends_and_moves_nothing() -> None:
    schema = Schema([Categorical("u"), Bag("t"), Numeric("n")])
    first = {"u": [1, 1, 2], "t": [["a"], ["b"], ["b"]], "n": [1.0, 3.0, None]}
    schema.partial_fit(first)  # the first call fits
    names = schema.feature_names()
    before = schema.transform(first)
    schema.partial_fit({"u": [5, 4, 5, 1], "t": [["c"]] * 4, "n": [100.0] * 4})
    assert schema.feature_names() == [*names, "u=5", "u=4", "t=c"]
    assert schema.field_of_.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 0, 0, 1]
    assert schema.block("u").tolist() == [0, 1, 2, 8, 9]
    assert_equal_rows(schema.transform(first), before)
    schema.partial_fit({"u": [4, 6], "t": [["c"], ["d"]], "n": [None, None]})
    assert schema.feature_names()[-2:] == ["u=6", "t=d"]
    rows = schema.transform({"u": [6, 2, 9], "t": [["c", "d"], ["a"], []], "n": [1.0, 1.0, 1.0]})
    assert [[i for i, _ in row] for row in pairs(rows)] == [[11, 10, 12, 7], [2, 5, 7], [0, 7]]
    loaded = Schema.from_json(schema.to_json())
    assert loaded == schema
    assert loaded.feature_names() == schema.feature_names()
    size = schema.n_features_
    schema.partial_fit(first)
    assert schema.n_features_ == size


def test_min_count_adds_up_over_batches() -> None:
    schema = Schema([Categorical("u", min_count=2)]).fit({"u": ["a", "a", "b"]})
    assert schema.feature_names() == ["u=<unknown>", "u=a"]
    schema = Schema.from_json(schema.to_json())
    schema.partial_fit({"u": ["c", "b"]})
    assert schema.feature_names() == ["u=<unknown>", "u=a", "u=b"]
    schema.partial_fit({"u": ["c"]})
    assert schema.feature_names() == ["u=<unknown>", "u=a", "u=b", "u=c"]


def test_growth_widens_the_kind_of_values() -> None:
    schema = Schema([Categorical("u")]).fit({"u": [1, 2]})
    schema.partial_fit({"u": [1.0, 2.5]})
    assert schema.feature_names() == ["u=<unknown>", "u=1.0", "u=2.0", "u=2.5"]
    schema.partial_fit({"u": ["1", "b"]})
    assert schema.feature_names() == ["u=<unknown>", "u=1", "u=2", "u=2.5", "u=b"]
    assert schema.transform({"u": [1, 2, 7]}).ids.tolist() == [1, 2, 0]
    assert schema.transform({"u": ["b", "2.5", "1"]}).ids.tolist() == [4, 3, 1]
    schema = Schema([Categorical("u")]).fit({"u": [2**53 + 1, -1]}).partial_fit({"u": [0.5]})
    assert schema.feature_names()[1:] == ["u=-1", f"u={2**53 + 1}", "u=0.5"]
    schema = Schema([Categorical("u")]).fit({"u": [-1]}).partial_fit({"u": [2**64 - 1]})
    assert schema.feature_names()[1:] == ["u=-1", f"u={2**64 - 1}"]
    schema = Schema([Categorical("u")]).fit({"u": [3]}).partial_fit({"u": [2**64 - 1, 3]})
    assert schema.feature_names()[1:] == ["u=3", f"u={2**64 - 1}"]
    assert schema.transform({"u": [3, -3]}).ids.tolist() == [1, 0]


def test_a_failed_growth_changes_nothing() -> None:
    schema = Schema([Categorical("u"), Categorical("d"), Numeric("n")])
    schema.fit({"u": [1], "d": [datetime.date(2024, 1, 1)], "n": [1.0]})
    before = schema.to_json()
    for bad in (
        {"u": [2], "d": [7], "n": [1.0]},
        {"u": [2], "d": [datetime.date(2024, 1, 2)], "n": ["x"]},
    ):
        with pytest.raises(SchemaError):
            schema.partial_fit(bad)
        assert schema.to_json() == before


def test_a_refit_forgets() -> None:
    schema = Schema([Categorical("u")]).fit({"u": [1, 2, 3]}).fit({"u": ["a"]})
    assert schema.feature_names() == ["u=<unknown>", "u=a"]


def test_copies_are_independent() -> None:
    schema = Schema([Categorical("u")]).fit({"u": [1, 2]})
    schema.transform({"u": [1]})
    sent = pickle.loads(pickle.dumps(schema))  # noqa: S301 - as to the workers of a grid search
    for twin in (schema.copy(), copy.deepcopy(schema), sent):
        assert twin == schema
        twin.partial_fit({"u": [3]})
        assert twin.transform({"u": [3, 2]}).ids.tolist() == [3, 2]
        assert twin != schema
        assert schema.n_features_ == 3
        assert schema.transform({"u": [3, 2]}).ids.tolist() == [0, 2]


# --- targets ------------------------------------------------------------------------------------


def test_targets_and_weights(constructor: Any) -> None:
    frame = constructor({"u": [1, 2], "y": [3, 4], "w": [0.5, 2.0]})
    schema = Schema([Categorical("u")]).fit(frame)
    rows = schema.transform(frame, targets="y", weights="w")
    assert rows.targets.tolist() == [3.0, 4.0]
    assert rows.weights.tolist() == [0.5, 2.0]
    rows = schema.transform(frame, targets=[1, 0], weights=np.array([1.0, 2.0]))
    assert rows.targets.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([1.0, float("nan")], "row 1: target is nan, expected a finite number"),
        ([1.0, 1e300], r"row 1: target is 1e\+300"),
        ([1.0], r"targets have shape \(1,\), the frame has 2 rows"),
        (["a", "b"], "targets are of type <U1, expected numbers"),
        ("y", "row 1: target is nan"),
        ("z", "no column 'z'"),
        ("s", "column 's' holds strings such as 'a'"),
    ],
)
def test_wrong_targets(targets: Any, message: str) -> None:
    frame = {"u": [1, 2], "y": [3, None], "s": ["a", "b"]}
    with pytest.raises((DataError, SchemaError), match=message):
        Schema([Categorical("u")]).fit(frame).transform(frame, targets)


# --- the schema itself --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Schema([]), "at least one field"),
        (lambda: Schema(["user"]), r"got 'user'; write Categorical\('user'\)"),  # type: ignore[list-item]
        (lambda: Schema([Categorical("a"), Numeric("a")]), "more than one field of the name 'a'"),
        (lambda: Categorical(""), "first argument is a column's name"),
        (lambda: Categorical("a", 0), "min_count is 0, expected an integer of at least 1"),
        (lambda: Categorical("a", hash_buckets=True), "hash_buckets is True"),
        (lambda: Categorical("a", 2, 10), "min_count=2 has no meaning with hash_buckets"),
        (lambda: Numeric("a", "logs"), "scale is 'logs'.*Did you mean 'log'"),  # type: ignore[arg-type]
        (lambda: Numeric("a", n_buckets=1), "n_buckets is 1"),
        (lambda: Bag("a", sep=""), "sep is ''"),
        (lambda: Bag("a", pooling="max"), "pooling is 'max', expected one of 'sum', 'mean'"),  # type: ignore[arg-type]
        (lambda: Bag("a", weights=3), "weights is 3"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_wrong_fields(build: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        build()


def test_not_fitted() -> None:
    schema = Schema([Categorical("u")])
    assert not schema.is_fitted
    for use in (
        lambda: schema.transform({"u": [1]}),
        lambda: schema.n_features_,
        lambda: schema.field_of_,
        lambda: schema.feature_name(0),
    ):
        with pytest.raises(SchemaError, match=r"not fitted; call schema\.fit"):
            use()


def test_more_buckets_than_ids_can_number() -> None:
    schema = Schema([Categorical("a", hash_buckets=2**61), Categorical("b", hash_buckets=2**61)])
    with pytest.raises(SchemaError, match="more than ids can number"):
        schema.fit({"a": [1], "b": [1]})


def test_wide_ids() -> None:
    schema = Schema([Categorical("a", hash_buckets=2**33), Categorical("b")])
    schema.fit({"a": ["x"], "b": ["y"]})
    rows = schema.transform({"a": ["x"], "b": ["y"]})
    assert rows.ids.dtype == np.int64
    assert rows.ids.tolist() == [1 + bucket("x", 2**33), 2**33 + 2]


def test_a_missing_column(constructor: Any) -> None:
    schema = Schema([Categorical("user"), Bag("genres", sep="|", weights="w")])
    assert schema.columns == ["user", "genres", "w"]
    frame = constructor({"usr": [1], "genres": ["a"], "w": ["1"]})
    with pytest.raises(SchemaError, match=r"no column 'user'\. Did you mean 'usr'\?"):
        schema.fit(frame)


def test_json_of_every_kind_of_value() -> None:
    frame = {
        "int": [2**62, -5, None],
        "uint": [2**64 - 1, 5, None],
        "bool": [True, False, None],
        "float": [0.1, 1e-300, None],
        "string": ['"\u2028\\ü🜲', "b\n", None],
        "date": [datetime.date(1901, 1, 1), datetime.date(2300, 1, 1), None],
        "bag": [["a"], ["b"], None],
        "hashed": ["q", "r", "s"],
        "number": [1.0, 2.5, None],
        "bucket": [1.0, 2.5, None],
    }
    schema = Schema(
        [
            *map(Categorical, ("int", "uint", "bool", "float", "string", "date")),
            Bag("bag", pooling="mean", min_count=2),
            Categorical("hashed", hash_buckets=10),
            Numeric("number", "log"),
            Numeric("bucket", "bucket"),
        ]
    )
    assert Schema.from_json(schema.to_json()) == schema  # before it is fitted
    schema.fit(frame)
    text = schema.to_json()
    loaded = Schema.from_json(text)
    assert loaded == schema
    assert loaded.to_json() == text
    assert loaded.feature_names() == schema.feature_names()
    assert_equal_rows(loaded.transform(frame), schema.transform(frame))
    assert loaded != Schema(schema.fields)
    assert schema != "schema"


def test_foreign_and_future_json() -> None:
    document = json.loads(Schema([Categorical("u")]).fit({"u": [1, 2]}).to_json())
    for text, message in (
        ("{", "not JSON"),
        ("[]", "not a schema"),
        ('{"format": "other"}', "not a schema"),
        ("[" * 100_000, "not JSON"),
        (json.dumps({**document, "version": 2}), "version 2, this crossfm reads version 1"),
        (json.dumps({**document, "version": None}), "version None"),
    ):
        with pytest.raises(SchemaError, match=message):
            Schema.from_json(text)


def broken(change: Any) -> str:
    frame = {"u": [1, 2], "n": [1.0, 2.0], "b": [0.5, 3.0]}
    schema = Schema([Categorical("u"), Numeric("n"), Numeric("b", "bucket")]).fit(frame)
    document = json.loads(schema.to_json())
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("fields"),
        lambda d: d.pop("runs"),
        lambda d: d.update(fields=[]),
        lambda d: d.update(fields=7),
        lambda d: d.update(runs=[[0, 3]]),
        lambda d: d.update(runs=[[0, 3], [1, 2], [2, 4]]),
        lambda d: d.update(runs=[[0, 3], [1, 2], [2, 3], [0, -1]]),
        lambda d: d.update(runs=[[1, 2], [0, 3], [2, 3]]),
        lambda d: d.update(runs=[[0, 3], [1, 2], [7, 3]]),
        lambda d: d.update(runs=[[0, 3.0], [1, 2], [2, 3]]),
        lambda d: d.update(guesses=[["a"]]),
        lambda d: d["fields"][0].update(kind="tensor"),
        lambda d: d["fields"][0].update(name=3),
        lambda d: d["fields"][0].update(extra=3),
        lambda d: d["fields"][0].update(min_count="1"),
        lambda d: d["fields"][0].update(fitted=None),
        lambda d: d["fields"][0]["fitted"].update(kind="complex"),
        lambda d: d["fields"][0]["fitted"].update(kind=["int"]),
        lambda d: d["fields"][0]["fitted"].update(values=[1, 1]),
        lambda d: d["fields"][0]["fitted"].update(values=[1, "2"]),
        lambda d: d["fields"][0]["fitted"].update(values=[1, 2.0]),
        lambda d: d["fields"][0]["fitted"].update(values=[1, True]),
        lambda d: d["fields"][0]["fitted"].update(values=[1, None]),
        lambda d: d["fields"][0]["fitted"].update(values=[1, 2**64]),
        lambda d: d["fields"][0]["fitted"].update(values={"1": 2}),
        lambda d: d["fields"][0]["fitted"].update(rare=[3], rare_counts=[1, 2]),
        lambda d: d["fields"][0]["fitted"].update(rare=[1], rare_counts=[1]),
        lambda d: d["fields"][1]["fitted"].update(mean=float("nan")),
        lambda d: d["fields"][1]["fitted"].update(std=0),
        lambda d: d["fields"][1]["fitted"].update(std="1"),
        lambda d: d["fields"][1]["fitted"].update(seen=-1),
        lambda d: d["fields"][2]["fitted"].update(edges=[2.0, 1.0]),
        lambda d: d["fields"][2]["fitted"].update(edges=["x"]),
        lambda d: d["fields"][2].update(fitted=[]),
    ],
)
def test_broken_json(change: Any) -> None:
    with pytest.raises(SchemaError, match="the schema is broken"):
        Schema.from_json(broken(change))


@pytest.mark.fuzz
@given(st.data())
def test_mutated_json_is_refused_or_encodes(data: st.DataObject) -> None:
    text = make(FIELDS).fit(LOG).to_json()
    at = data.draw(st.integers(0, len(text) - 1))
    cut = data.draw(st.integers(0, 3))
    mutated = (
        text[:at]
        + data.draw(st.text('0123456789"[]{},:.-enulltrfas', max_size=3))
        + text[at + cut :]
    )
    try:
        schema = Schema.from_json(mutated)
    except SchemaError:
        return
    if schema.is_fitted:
        assert len(schema.feature_names()) == schema.n_features_


def test_table_of_a_schema() -> None:
    schema = make(FIELDS)
    assert repr(schema) == (
        "Schema([Categorical('user'), Categorical('city', min_count=2), Numeric('price'),"
        " Categorical('flag'), Bag('genres', sep='|', pooling='sqrtn'),"
        " Bag('tags', pooling='mean', weights='weights')])"
    )
    assert "not fitted yet" in str(schema)
    lines = str(schema.fit(LOG)).splitlines()
    assert len(lines) == 2 + 6 + 1
    assert lines[0].split() == ["field", "kind", "encoding", "distinct"]
    assert lines[2].split() == ["user", "categorical", "vocabulary", "3"]
    assert lines[-1] == "6 fields, 20 features"
