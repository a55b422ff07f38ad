"""Schema: encoding against the plain Python oracle, over every DataFrame library; growth; names."""

from __future__ import annotations

import copy
import datetime
import pickle
import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from backends import BACKENDS
from hypothesis import given
from hypothesis import strategies as st
from row_checks import assert_equal_rows, assert_rows, pairs
from schema_cases import FIELDS, LOG, make
from schema_oracle import OracleSchema, bucket

from crossfm import _native
from crossfm.data import Bag, Categorical, Counts, Numeric, Schema, vocabulary
from crossfm.errors import DataError, SchemaError


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


def test_categories_in_the_order_of_ids() -> None:
    fields = [Categorical("user"), Bag("tags"), Numeric("age"), Categorical("zip", hash_buckets=4)]
    table = {"user": [3, 1, 1], "tags": [["b"], ["a", "b"], None], "age": [1.0, 2, 3],
             "zip": ["x", "y", "z"]}  # fmt: skip
    schema = Schema(fields).fit(table)
    for name, values in (("user", [1, 3]), ("tags", ["b", "a"])):
        assert schema.categories(name) == values
        first = schema.block(name)[0] + 1  # the first id is of what is not known
        told = [schema.feature_name(first + at) for at in range(len(values))]
        assert told == [f"{name}={value}" for value in values]
    assert schema.categories("tags", "A") == ["a"]
    assert schema.categories("tags", limit=1) == ["b"]
    for name in ("age", "zip"):
        with pytest.raises(SchemaError, match="keeps no values"):
            schema.categories(name)
    with pytest.raises(SchemaError, match="Did you mean 'user'"):
        schema.categories("usr")
    with pytest.raises(SchemaError, match="fit"):
        Schema(fields).categories("user")


def test_unseen_values_are_counted() -> None:
    schema = make(FIELDS).fit(LOG)
    schema.transform(LOG)
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
    return st.none() | st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


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


def test_threads_that_read_at_once_see_the_whole_vocabulary(monkeypatch) -> None:
    """A loaded schema builds its index at the first need; no thread may find it empty."""
    inserting, read = threading.Event(), threading.Event()

    class Slow(vocabulary.PositionIndex):
        def insert(self, array: Any) -> None:
            if not inserting.is_set():
                inserting.set()
                read.wait(timeout=10)
            super().insert(array)

    log = {"user": [3, 1, 2]}
    schema = Schema([Categorical("user")]).fit(log)
    want = schema.transform(log).ids
    loaded = Schema.from_json(schema.to_json())
    monkeypatch.setattr(vocabulary, "PositionIndex", Slow)
    first: list[Any] = []
    thread = threading.Thread(target=lambda: first.append(loaded.transform(log).ids))
    thread.start()
    assert inserting.wait(timeout=10)
    second = loaded.transform(log).ids
    read.set()
    thread.join()
    np.testing.assert_array_equal(second, want)
    np.testing.assert_array_equal(first[0], want)


def test_an_index_is_searched_while_it_grows():
    """Native look-ups run without the interpreter's lock, and so does growth."""
    index, n, step = _native.IntIndex(), 200_000, 1000
    wrong = []

    def search():
        for _ in range(20):
            places = index.find(np.arange(n, dtype=np.int64))
            known = places >= 0
            wrong.append(int((places[known] != np.flatnonzero(known)).sum()))

    readers = [threading.Thread(target=search) for _ in range(2)]
    for reader in readers:
        reader.start()
    for low in range(0, n, step):
        index.insert(np.arange(low, low + step, dtype=np.int64))
    for reader in readers:
        reader.join()
    assert len(wrong) == 40
    assert not any(wrong)
    assert (index.find(np.arange(n, dtype=np.int64)) == np.arange(n)).all()


def test_schemas_joined_and_read_field_by_field() -> None:
    users = Schema([Categorical("user")]).fit({"user": [3, 3, 5]})
    users.partial_fit({"user": [9]})  # grown: its ids move behind those that came first
    others = Schema([Numeric("age"), Bag("tags")]).fit({"age": [1.0, 3.0], "tags": [["a"], []]})
    joined = Schema.joined([users, others])
    names = [
        "user=<unknown>",
        "user=3",
        "user=5",
        "age=<missing>",
        "age",
        "tags=<unknown>",
        "tags=a",
    ]
    assert joined.feature_names() == [*names, "user=9"]
    whole = {"user": [9, 3], "age": [3.0, None], "tags": [["a", "b"], ["a"]]}
    rows = joined.transform(whole)
    assert [joined.feature_names(rows[r : r + 1].ids) for r in (0, 1)] == [
        ["user=9", "age", "tags=a", "tags=<unknown>"],
        ["user=3", "age=<missing>", "tags=a"],
    ]
    part = joined.transform({"tags": whole["tags"], "user": whole["user"]}, fields=["tags", "user"])
    assert joined.feature_names(part.ids) == [
        *("user=9", "tags=a", "tags=<unknown>"),
        *("user=3", "tags=a"),
    ]
    assert joined.unseen_.keys() == {"tags"}
    joined.partial_fit({"tags": [["c"]]}, fields=["tags"])
    assert joined.feature_names()[-1] == "tags=c"
    assert users.n_features_ == 4  # what was joined is not touched
    assert Schema.from_json(joined.to_json()) == joined
    with pytest.raises(SchemaError, match="no field 'tag'"):
        joined.transform(whole, fields=["tag"])
    with pytest.raises(SchemaError, match="more than one field of the name 'user'"):
        Schema.joined([users, users])
    assert not Schema.joined([users, Schema([Numeric("x")])]).is_fitted
