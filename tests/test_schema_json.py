"""A schema's JSON: the same encoding after a round trip; anything broken is refused."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_checks import assert_equal_rows
from schema_cases import FIELDS, LOG, make

from crossfm.data import Bag, Categorical, Numeric, Schema
from crossfm.errors import SchemaError


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
