"""What becomes of one column: categories of every type, numbers, bags."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from backends import BACKENDS
from numpy.testing import assert_allclose
from row_checks import RTOL, assert_equal_rows, pairs
from schema_oracle import bucket

from crossfm.data import Bag, Categorical, Counts, Numeric, Schema
from crossfm.errors import DataError, SchemaError


@pytest.fixture(params=BACKENDS)
def constructor(request: pytest.FixtureRequest) -> Any:
    return BACKENDS[request.param]


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


def test_dates_out_of_range() -> None:
    days = pa.array([10**9], pa.int32()).cast(pa.date32())
    with pytest.raises(DataError, match="column 'day' holds a date out of range"):
        Schema([Categorical("day")]).fit({"day": days})
    late = pa.array([9 * 10**14], pa.int64()).cast(pa.timestamp("ms"))
    assert Schema([Categorical("at")]).fit({"at": late}).feature_name(1).startswith("at=30")


def test_floats_as_categories() -> None:
    schema = Schema([Categorical("x")]).fit({"x": [0.1, 0.1, -0.0, 2.5]})
    assert schema.feature_names() == ["x=<unknown>", "x=0.1", "x=0.0", "x=2.5"]
    assert schema.transform({"x": [0.0, 0.1, 2.5]}).ids.tolist() == [2, 1, 3]
    narrow = np.array([0.1, 2.5, 0.0], np.float32)
    assert schema.transform({"x": narrow}).ids.tolist() == [1, 3, 2]
    assert schema.transform({"x": ["0.1", "2.50", "x", "-0"]}).ids.tolist() == [1, 3, 0, 2]
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


# --- any type -----------------------------------------------------------------------------------

COLUMNS = {
    "null": pa.nulls(3),
    "bool": pa.array([True, None, False]),
    "half": pa.array(np.array([1, 2.5, np.nan], np.float16)),
    "decimal256": pa.array([1, None, 10**40], pa.decimal256(50, 3)),
    "negative scale": pa.array([100, None, 200], pa.decimal128(38, -2)),
    "date64": pa.array([86_400_000, None, 0], pa.int64()).cast(pa.date64()),
    "zoned": pa.array([1, None, 2], pa.int64()).cast(pa.timestamp("ns", "Europe/Rome")),
    "time": pa.array([1, None, 2], pa.int32()).cast(pa.time32("s")),
    "duration": pa.array([1, None, 2], pa.duration("ms")),
    "interval": pa.array([pa.MonthDayNano([1, 2, 3]), None], pa.month_day_nano_interval()),
    "bytes": pa.array([b"a", None, b"\xff"]),
    "fixed bytes": pa.array([b"a", None, b"b"], pa.binary(1)),
    "list view": pa.array([[1, 2], None, []], pa.list_view(pa.int64())),
    "list of null": pa.array([[None], None, []], pa.list_(pa.null())),
    "list of list": pa.array([[[1]], None]),
    "list of dates": pa.array([[datetime.date(2024, 1, 1)], None]),
    "struct": pa.array([{"a": 1}, None]),
    "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
    "union": pa.UnionArray.from_sparse(
        pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]
    ),
    "dictionary with a null in it": pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None, 2]), pa.array(["a", None, ""])
    ),
    "dictionary of dates": pa.array([datetime.date(2024, 1, 1), None]).dictionary_encode(),
    "extension": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, None, 1], pa.int8())),
}  # fmt: skip
ANY_FIELD = (
    Categorical("x"),
    Categorical("x", hash_buckets=10),
    Numeric("x"),
    Numeric("x", "bucket"),
    Bag("x"),
    Bag("x", sep="|"),
)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_any_type_is_encoded_or_refused(name: str) -> None:
    column = COLUMNS[name]
    encoded, errors = 0, []
    for field in ANY_FIELD:
        for table in (pa.table({"x": column}), pa.table({"x": column[:0]})):
            schema = Schema([field])
            try:
                schema.fit(table if len(table) else {"x": [["a"]] if type(field) is Bag else [1]})
                rows = schema.transform(table)
            except (SchemaError, DataError) as error:
                errors.append(str(error))
                continue
            encoded += 1
            assert len(rows) == len(table)
            rows.validate(schema.n_features_)
            assert len(set(schema.feature_names())) == schema.n_features_
            assert Schema.from_json(schema.to_json()) == schema
    refused = {"duration", "interval", "list of list", "struct", "map", "union"}
    assert (encoded == 0) == (name in refused)
    assert all("column 'x'" in error for error in errors), errors
