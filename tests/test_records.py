"""RecordSchema encodes plain records as Schema encodes columns."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfm.data import Bag, Categorical, Numeric, Schema
from crossfm.data.records import RecordSchema
from crossfm.errors import DataError, SchemaError

INTEGERS = st.integers(-(2**62), 2**62)
# Whether a whole number beyond 2^53 is an integer or a float is told by its column, not by itself.
FLOATS = (
    st.floats(-50, 50) | st.floats(-(2.0**53), 2.0**53) | st.floats(-1e-3, 1e-3) | st.just(math.nan)
)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ["1", "1.0", " 01", "-0", "+3", "1e3", "true", "False", "0.5", "2024-01-31", "nan", "a"]
)
DATES = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1))
KINDS = {
    "bool": st.booleans(),
    "int": INTEGERS | st.integers(-3, 3),
    "uint": st.integers(2**63, 2**64 - 1),
    "float": FLOATS,
    "string": WORDS,
    "datetime": DATES,
}


def columns(kind: str, n: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.none() | KINDS[kind], min_size=n, max_size=n)


def expect_same(schema: Schema, frame: dict[str, list[Any]]) -> None:
    """The same ids and values of each row, or the same kind of error."""
    records = RecordSchema.from_json(schema.to_json())
    try:
        rows = schema.transform(frame)
    except (SchemaError, DataError) as error:
        with pytest.raises(type(error)):
            records.transform(frame)
        return
    found = records.transform(frame)
    assert found.ids.tolist() == rows.ids.tolist()
    assert found.row_offsets().tolist() == rows.row_offsets().tolist()
    ones = np.ones(rows.nnz, np.float32)
    np.testing.assert_allclose(
        ones if found.values is None else found.values,
        ones if rows.values is None else rows.values,
        rtol=1e-6,
    )
    shared = schema.records().transform(frame)
    assert shared.ids.tolist() == rows.ids.tolist()
    as_records = [dict(zip(frame, row, strict=True)) for row in zip(*frame.values(), strict=True)]
    again = records.transform(as_records)
    assert again.ids.tolist() == rows.ids.tolist()


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(KINDS)), st.booleans())
def test_categories_of_any_kind_among_known_ones_of_any_kind(
    data: Any, fitted: str, asked: str, hashed: bool
) -> None:
    if {fitted, asked} == {"datetime", "string"}:
        asked = fitted  # texts of dates have a test of their own
    learned = {"c": data.draw(columns(fitted, 6))}
    schema = Schema([Categorical("c", hash_buckets=50 if hashed else None)]).fit(learned)
    expect_same(schema, learned)
    new = data.draw(columns(asked, 4))
    # values that are known, written in the way of the other kind
    texts = [str(value) for value in learned["c"] if value is not None][:3]
    expect_same(schema, {"c": new})
    if fitted in ("int", "float") and texts:
        expect_same(schema, {"c": texts})


def test_integers_beyond_int64_among_booleans() -> None:
    schema = Schema([Categorical("c")]).fit({"c": [None, False]})
    expect_same(schema, {"c": [None, 2**63]})


def test_dates_are_found_by_their_texts_and_texts_of_dates() -> None:
    days = [datetime.datetime(2024, 1, 31), datetime.datetime(2024, 2, 1, 18, 30)]
    schema = Schema([Categorical("day")]).fit({"day": days})
    expect_same(schema, {"day": ["2024-01-31", " 2024-02-01 18:30:00", "2024-02-01T18:30:00", "x"]})
    expect_same(schema, {"day": [datetime.date(2024, 1, 31)]})
    utc = datetime.datetime(2024, 2, 1, 18, 30, tzinfo=datetime.UTC)
    records = RecordSchema.from_json(schema.to_json())
    assert records.transform({"day": [utc]}).ids.tolist() == [2]
    assert records.transform({"day": np.array(["2024-01-31"], "M8[ns]")}).ids.tolist() == [1]
    with pytest.raises(SchemaError, match="expected a date"):
        records.transform({"day": [3]})


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.none() | st.floats(-1e30, 1e30) | st.integers(-5, 5), min_size=2, max_size=9),
    st.sampled_from(["standard", "log", "bucket", "raw"]),
    st.lists(st.none() | st.floats(-1e30, 1e30), min_size=1, max_size=5),
)
def test_numbers_are_scaled_alike(
    learned: list[float | None], scale: Any, new: list[float | None]
) -> None:
    schema = Schema([Numeric("x", scale=scale, n_buckets=4)]).fit({"x": [1.0, *learned]})
    expect_same(schema, {"x": [1.0, *learned]})
    expect_same(schema, {"x": [0.5, *new]})


BAGS = st.lists(
    st.none() | st.lists(st.none() | st.sampled_from(["a", "b", "c", "new", ""]), max_size=5),
    min_size=1, max_size=5,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(BAGS, st.sampled_from(["sum", "mean", "sqrtn"]), st.booleans(), st.data())
def test_bags_are_pooled_alike(
    bags: list[list[str] | None], pooling: Any, weighted: bool, data: Any
) -> None:
    fields: list[Any] = [
        Categorical("u"),
        Bag("t", pooling=pooling, weights="w" if weighted else None),
    ]
    weight = st.floats(0, 4, width=32)
    frame: dict[str, Any] = {
        "u": list(range(len(bags))),
        "t": bags,
        "w": [
            None if bag is None else data.draw(
                st.lists(weight, min_size=len(bag), max_size=len(bag))
            )
            for bag in bags
        ],
    }  # fmt: skip
    learned = {"u": [1, 2], "t": [["a", "b", "a"], ["c"]], "w": [[1.0, 2.0, 3.0], [1.0]]}
    schema = Schema(fields).fit(learned)
    if all(bag is None for bag in bags):
        frame["w"] = [None] * len(bags)
    expect_same(schema, frame if weighted else {"u": frame["u"], "t": frame["t"]})


def test_bags_of_separated_strings_and_what_grew_later() -> None:
    schema = Schema([Bag("t", sep="|"), Categorical("u")])
    schema.fit({"t": ["a|b", "c"], "u": [1, 2]}).partial_fit({"t": ["d| e", ""], "u": [3, 1]})
    expect_same(schema, {"t": [" e |a|a", None, "", "x||b"], "u": [3, None, 2, 9]})
    records = RecordSchema.from_json(schema.to_json())
    assert records.n_features_ == schema.n_features_
    assert records.field_of_.tolist() == schema.field_of_.tolist()
    one_side = records.transform([{"u": "3"}], fields=["u"])
    assert one_side.ids.tolist() == schema.transform({"u": [3]}, fields=["u"]).ids.tolist()


@pytest.mark.parametrize("frame", [
    {"user": [math.inf], "age": [1], "tags": [[]]},
    {"user": [2**70], "age": [1], "tags": [[]]},
    {"user": [[1]], "age": [1], "tags": [[]]},
    {"user": [{}], "age": [1], "tags": [[]]},
    {"user": ["\ud800"], "age": [1], "tags": [["\ud800"]]},
    {"user": [1], "age": ["old"], "tags": [[]]},
    {"user": [1], "age": [[3]], "tags": [[]]},
    {"user": [1], "age": [math.inf], "tags": [[]]},
    {"user": [1], "age": [10**400], "tags": [[]]},
    {"user": [1], "age": [1], "tags": ["a"]},
    {"user": [1], "age": [1], "tags": [[["a"]]]},
    {"user": [1], "tags": [[]]},
    {"user": [1, 2], "age": [1], "tags": [[]]},
    {"user": 1, "age": 1, "tags": [[]]},
    [{"user": 1}, 3],
    "log.csv",
])  # fmt: skip
def test_what_cannot_be_a_row_is_refused(frame: Any) -> None:
    schema = Schema([Categorical("user"), Numeric("age"), Bag("tags")])
    schema.fit({"user": [1], "age": [2.0], "tags": [["a"]]})
    with pytest.raises((SchemaError, DataError)):
        RecordSchema.from_json(schema.to_json()).transform(frame)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "crossfm-schema"}', "nonsense"])
def test_text_that_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(SchemaError):
        RecordSchema.from_json(text)
    with pytest.raises(SchemaError, match="not fitted"):
        RecordSchema.from_json(Schema([Categorical("a")]).to_json())


def test_what_a_schema_learns_later_its_records_do_not_know() -> None:
    schema = Schema([Categorical("a"), Categorical("b")]).fit({"a": [1], "b": ["x"]})
    records = schema.records()
    schema.partial_fit({"a": [2], "b": ["y"]})
    assert records.transform([{"a": 2, "b": "y"}]).ids.tolist() == [0, 2]
    assert schema.records().transform([{"a": 2, "b": "y"}]).ids.tolist() == [4, 5]
