"""Dictionary columns: encoded as their values would be, whatever the dictionaries look like."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from row_checks import assert_equal_rows, assert_rows
from schema_cases import make
from schema_oracle import OracleSchema

from crossfm import _native
from crossfm.data import Categorical, Counts, Numeric, Schema, coded, schema, tables
from crossfm.data.coded import Coded, as_dictionary, count_values, decoded, order_values
from crossfm.data.hashing import PositionIndex
from crossfm.data.values import ARROW, Values
from crossfm.errors import DataError, SchemaError

FIELDS = [
    {"kind": "categorical", "name": "word"},
    {"kind": "categorical", "name": "number", "min_count": 2},
    {"kind": "categorical", "name": "flag"},
    {"kind": "categorical", "name": "hashed", "hash_buckets": 5},
]
INDEX_TYPES = [
    pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()
]  # fmt: skip


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (schema, tables):
        monkeypatch.setattr(module, "threads_for", lambda n_rows: request.param)


def column_of(kind: pa.DataType, values: st.SearchStrategy[Any], sizes: list[int]) -> Any:
    """A chunked dictionary column: values repeated, unused and null, codes null, chunks sliced."""

    @st.composite
    def drawn(draw: Any) -> pa.ChunkedArray:
        index = draw(st.sampled_from(INDEX_TYPES))
        chunks = []
        for size in sizes:
            words = draw(st.lists(st.none() | values, min_size=1, max_size=6))
            places = st.none() | st.integers(0, len(words) - 1)
            before = draw(st.integers(0, 9))
            codes = draw(st.lists(places, min_size=size + before, max_size=size + before))
            whole = pa.DictionaryArray.from_arrays(pa.array(codes, index), pa.array(words, kind))
            chunks.append(whole.slice(before))
        return pa.chunked_array(chunks, pa.dictionary(index, kind))

    return drawn()


@st.composite
def drawn_tables(draw: Any, count: int) -> list[pa.Table]:
    words = st.sampled_from(["", "a", "b", "ab", "é", "zoo", "\0", "longer than eight"])
    found = []
    for _ in range(count):
        columns = {}
        n = draw(st.integers(1, 20))
        for name, kind, values in (
            ("word", draw(st.sampled_from([pa.string(), pa.large_string()])), words),
            ("number", draw(st.sampled_from([pa.int64(), pa.int8()])), st.integers(-3, 3)),
            ("flag", pa.bool_(), st.booleans()),
            ("hashed", pa.string(), words),
        ):
            cuts = sorted(draw(st.lists(st.integers(0, n), max_size=3)))
            sizes = [b - a for a, b in itertools.pairwise([0, *cuts, n])]
            columns[name] = draw(column_of(kind, values, sizes))
        found.append(pa.table(columns))
    return found


@given(drawn_tables(2))
def test_dictionaries_give_the_rows_of_the_oracle(both: list[pa.Table]) -> None:
    first, second = both
    fitted, oracle = make(FIELDS).fit(first), OracleSchema(FIELDS).fit(first.to_pydict())
    assert_rows(fitted.transform(first), oracle.transform(first.to_pydict()))
    assert_rows(fitted.transform(second), oracle.transform(second.to_pydict()))
    plain = make(FIELDS).fit(decoded(first))
    assert fitted.to_json() == plain.to_json()
    assert_equal_rows(fitted.transform(second), plain.transform(decoded(second)))
    assert fitted.unseen_ == plain.unseen_
    fitted.partial_fit(second), oracle.partial_fit(second.to_pydict())
    assert_rows(fitted.transform(first), oracle.transform(first.to_pydict()))
    assert_rows(fitted.transform(second), oracle.transform(second.to_pydict()))
    batches = make(FIELDS).fit_batches([first, second])
    whole = pa.concat_tables(map(decoded, both), promote_options="permissive")
    assert batches.to_json() == make(FIELDS).fit(whole).to_json()


def test_frames_with_categories(threads: None) -> None:
    words = ["b", "a", None, "b", "c", "", "b", "a"] * 9
    numbers = [3, 1, 2, 2, None, 3, 3, 1] * 9
    log = {"w": words, "n": numbers}
    fields = [{"kind": "categorical", "name": name} for name in log]
    want = OracleSchema(fields).fit(log).transform(log)
    frames = [
        pd.DataFrame({"w": pd.Categorical(words), "n": pd.Categorical(numbers)}),
        pd.DataFrame({"w": pd.Categorical(words, ["zz", "c", "b", "a", ""]), "n": numbers}),
        pl.DataFrame({"w": pl.Series(words, dtype=pl.Categorical), "n": numbers}),
        pl.DataFrame(
            {"w": pl.Series(words, dtype=pl.Enum(["", "c", "b", "a", "q"])), "n": numbers}
        ),
    ]
    for frame in frames:
        fitted = make(fields).fit(frame)
        assert_rows(fitted.transform(frame), want)
        assert fitted.unseen_ == {"w": Counts(0, 18), "n": Counts(0, 9)}
        assert_rows(fitted.transform(frame[:1]), want[:1])


def test_all_values_missing_in_a_dictionary() -> None:
    """No kind is learned of it: integers may come later."""
    empty = pa.DictionaryArray.from_arrays(pa.array([None, 1, 2], pa.int8()), ["x", "", None])
    fitted = Schema([Categorical("a")]).fit(pa.table({"a": empty}))
    assert fitted.n_features_ == 1
    assert fitted.transform(pa.table({"a": empty})).ids.tolist() == [0, 0, 0]
    assert fitted.unseen_ == {"a": Counts(0, 3)}
    fitted.partial_fit({"a": [5, None]})
    assert fitted.feature_names() == ["a=<unknown>", "a=5"]
    assert fitted.transform({"a": [5.0, 7.0, None]}).ids.tolist() == [1, 0, 0]
    assert fitted.unseen_ == {"a": Counts(1, 1)}


def test_only_values_that_occur_say_what_a_column_is() -> None:
    whole = pa.DictionaryArray.from_arrays(pa.array([0, 2, 0, None], pa.int32()), [1.0, 2.5, 4.0])
    fitted = Schema([Categorical("a")]).fit(pa.table({"a": whole}))
    assert fitted.feature_names() == ["a=<unknown>", "a=1", "a=4"]
    assert fitted.transform({"a": [4, 1]}).ids.tolist() == [2, 1]
    infinite = pa.DictionaryArray.from_arrays(pa.array([0, 0, 1]), [1.5, float("inf")])
    with pytest.raises(DataError, match="column 'a', row 2: the value is inf"):
        Schema([Categorical("a")]).fit(pa.table({"a": infinite}))
    assert Schema([Categorical("a")]).fit(pa.table({"a": infinite[:2]})).n_features_ == 2


def test_bytes_in_a_dictionary() -> None:
    good = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array([b"x", b"y"]))
    fitted = Schema([Categorical("a")]).fit(pa.table({"a": good}))
    assert fitted.transform({"a": ["y", "x"]}).ids.tolist() == [2, 1]
    bad = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array([b"x", b"\xff"]))
    with pytest.raises(SchemaError, match="not UTF-8"):
        Schema([Categorical("a")]).fit(pa.table({"a": bad}))


def test_dates_in_a_dictionary_do_not_mix_with_numbers() -> None:
    dates = pa.array([0, 86_400], pa.timestamp("s")).dictionary_encode()
    fitted = Schema([Categorical("day")]).fit(pa.table({"day": dates}))
    assert fitted.feature_names()[1:] == ["day=1970-01-01", "day=1970-01-02"]
    with pytest.raises(SchemaError, match="holds integers such as '3', expected dates"):
        fitted.transform(pa.table({"day": pa.array([3, 4]).dictionary_encode()}))


def test_codes_beyond_their_dictionary() -> None:
    broken = pa.DictionaryArray.from_arrays(pa.array([0, 7], pa.int8()), ["x", "y"], safe=False)
    fitted = Schema([Categorical("a")]).fit({"a": ["x", "y"]})
    for call in (fitted.transform, fitted.fit):
        with pytest.raises(DataError, match="'a' has codes that are not below 2"):
            call(pa.table({"a": broken}))
    hidden = pa.DictionaryArray.from_arrays(
        pa.Array.from_buffers(pa.int8(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(b"\x00\x07")]),
        ["x", "y"],
        safe=False,
    )  # fmt: skip  (the bad code stands where nothing does)
    assert fitted.transform(pa.table({"a": hidden})).ids.tolist() == [1, 0]


def test_a_large_dictionary_beside_few_rows_is_not_looked_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = pa.array([f"v{j}" for j in range(1000)])
    column = pa.DictionaryArray.from_arrays(pa.array(np.arange(1000) % 10), values)
    table = pa.table({"a": column})
    fitted = Schema([Categorical("a")]).fit(table)
    looked: list[int] = []
    find = PositionIndex.find
    monkeypatch.setattr(
        PositionIndex, "find", lambda self, array: looked.append(len(array)) or find(self, array)
    )
    assert fitted.transform(table[7:9]).ids.tolist() == [8, 9]
    assert looked == [2]


def test_chunks_that_share_a_dictionary_share_its_values() -> None:
    values = pa.array(["x", "y"])
    chunks = [pa.DictionaryArray.from_arrays(pa.array([0, 1, 1]), values) for _ in range(3)]
    column = pa.chunked_array(chunks)
    found = coded.coded(column, "a")
    assert isinstance(found, Coded)
    assert found.values.to_pylist() == ["x", "y"]
    assert found.counts().tolist() == [3, 6]
    sliced = pa.table({"a": column}).slice(1, 7)["a"]
    again = coded.coded(sliced, "a")
    assert again is not None
    assert again.counts().sum() == 7


# --- the parts ----------------------------------------------------------------------------------


WORDS = st.text(max_size=12) | st.sampled_from(["12345678", "123456789", "12345678\0", "\0", ""])


@given(st.lists(st.none() | WORDS), st.integers(0, 3))
def test_counting_strings(words: list[str | None], before: int) -> None:
    array = pa.array([*["out"] * before, *words], pa.large_string()).slice(before)
    values, counts = count_values(Values("string", array))
    want = Counter(word for word in words if word is not None)
    assert dict(zip(values.to_pylist(), counts.tolist(), strict=True)) == want
    assert values.to_pylist() == list(want)  # as they came
    order = values.take(order_values(values, counts)).to_pylist()
    assert order == sorted(want, key=lambda word: (-want[word], word.encode()))


@pytest.mark.parametrize("kind", ["int", "uint", "float", "bool", "datetime"])
def test_counting_numbers(kind: str) -> None:
    drawn = np.random.default_rng(0).integers(0, 2 if kind == "bool" else 50, 1000)
    plain: dict[str, Any] = {"float": drawn / 4, "bool": drawn.astype(bool)}
    array = pa.array(plain.get(kind, drawn)).cast(ARROW[kind])
    array = pa.compute.if_else(pa.array(drawn % 7 > 0), array, None).slice(3)
    values, counts = count_values(Values(kind, array))
    want = Counter(value for value in array.to_pylist() if value is not None)
    assert dict(zip(values.to_pylist(), counts.tolist(), strict=True)) == want
    order = values.take(order_values(values, counts)).to_pylist()
    assert order == sorted(want, key=lambda value: (-want[value], value))
    twice, sums = count_values(Values(kind, pa.concat_arrays([values, values])), np.tile(counts, 2))
    assert twice.equals(values)
    assert sums.tolist() == (2 * counts).tolist()


@given(st.lists(st.lists(st.none() | WORDS), max_size=4))
def test_columns_become_dictionaries(chunks: list[list[str | None]]) -> None:
    column = pa.chunked_array([pa.array(chunk, pa.string()) for chunk in chunks], pa.string())
    made = as_dictionary(column)
    assert made.type == pa.dictionary(pa.int32(), pa.string())
    assert made.to_pylist() == column.to_pylist()
    made.validate(full=True)
    table = decoded(pa.table({"a": made, "b": np.arange(len(made))}))
    assert table.equals(pa.table({"a": column, "b": np.arange(len(made))}))


def test_an_index_taken_from_begins_anew() -> None:
    index = PositionIndex("string")
    assert index.encode(pa.array(["x", "y", "x"], pa.large_string())).tolist() == [0, 1, 0]
    assert index.take().to_pylist() == ["x", "y"]
    assert len(index) == 0
    assert index.encode(pa.array(["z"], pa.large_string())).tolist() == [0]
    assert index.take().to_pylist() == ["z"]


# --- the matrix ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("n", [0, 1, 17, 5003])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_matrix_is_written_as_numpy_would(n: int, wide: bool, threads: int) -> None:
    rng = np.random.default_rng(n)
    kind = np.int64 if wide else np.int32
    width = 5
    writer = _native.RowWriter(n, width, wide)
    want = np.zeros((n, width), np.int64)
    values = np.ones((n, width), np.float32)
    for column in range(3):  # codes, in pieces of odd sizes
        cuts = np.sort(rng.integers(0, n + 1, 4))
        for a, b in itertools.pairwise([0, *cuts.tolist(), n]):
            table = rng.integers(5, 1000, 9).astype(kind)
            codes = rng.integers(0, 9, b - a).astype(np.int32)
            bit = int(rng.integers(0, 20))
            there = rng.random(bit + b - a) < 0.8 if column else np.ones(bit + b - a, bool)
            bits = np.packbits(there, bitorder="little") if column else None
            codes[~there[bit:]] = 99
            writer.add_codes(column, codes, bits, bit, table, 4)
            codes[~there[bit:]] = 0
            want[a:b, column] = np.where(there[bit:], table[codes], 4)
    local = rng.integers(0, 50, n).astype(np.int32)
    writer.add_ids(3, local, 2000, 2000)
    want[:, 3] = local + 2000
    x = np.where(rng.random(n) < 0.3, np.nan, rng.standard_normal(n))
    writer.add_numbers(4, x, 0.25, 3.0, 3001, 3000)
    want[:, 4] = np.where(np.isnan(x), 3000, 3001)
    values[:, 4] = np.where(np.isnan(x), 1.0, (x - 0.25) / 3.0)
    got, got_values = np.empty(n * width, kind), np.full(n * width, np.nan, np.float32)
    nones, beyond = writer.write(got, got_values, threads)
    assert_array_equal(got.reshape(n, width), want)
    assert_array_equal(got_values.reshape(n, width), values)
    assert nones.tolist() == [(want[:, c] == (4, 4, 4, 2000, 3000)[c]).sum() for c in range(width)]
    assert beyond.tolist() == [-1] * width


def test_the_first_number_beyond_float32_is_found() -> None:
    x = np.zeros(40_000)
    x[[30_000, 12_345]] = 1e300
    writer = _native.RowWriter(len(x), 1, False)
    writer.add_numbers(0, x, 0.0, 1.0, 1, 0)
    ids, values = np.empty(len(x), np.int32), np.empty(len(x), np.float32)
    assert writer.write(ids, values, 2)[1].tolist() == [12_345]
    log = {"x": x, "c": np.arange(len(x)) % 3}
    fields = Schema([Categorical("c"), Numeric("x", scale="raw")]).fit(log)
    with pytest.raises(DataError, match=r"column 'x', row 12345: the value is 1e\+300, 1e\+300"):
        fields.transform(log)


def test_the_matrix_refuses_what_does_not_fit() -> None:
    ids, values = np.empty(4, np.int32), np.empty(4, np.float32)
    codes, table = np.array([0, 5], np.int32), np.array([1, 2], np.int32)

    def writer() -> Any:
        return _native.RowWriter(2, 2, False)

    short = writer()
    short.add_ids(0, codes, 0, 0)
    with pytest.raises(ValueError, match="as many rows"):
        short.write(ids, None, 1)
    with pytest.raises(ValueError, match="too many rows"):
        short.add_ids(0, codes, 0, 0)
    with pytest.raises(ValueError, match="no such column"):
        short.add_ids(2, codes, 0, 0)
    with pytest.raises(ValueError, match="type of the matrix"):
        short.add_codes(1, codes, None, 0, table.astype(np.int64), 0)
    with pytest.raises(ValueError, match="bitmap"):
        short.add_codes(1, codes, np.zeros(1, np.uint8), 7, table, 0)
    short.add_codes(1, codes, None, 0, table, 0)
    with pytest.raises(IndexError, match="not below"):
        short.write(ids, None, 1)
    with pytest.raises(ValueError, match="size and type"):
        short.write(ids[:3], None, 1)
    with pytest.raises(ValueError, match="size and type"):
        short.write(ids.astype(np.int64), None, 1)
    numbers = writer()
    numbers.add_ids(0, codes, 0, 0)
    numbers.add_numbers(1, np.zeros(2), 0.0, 1.0, 1, 0)
    with pytest.raises(ValueError, match="need values"):
        numbers.write(ids, None, 1)
    numbers.write(ids, values, 1)
    with pytest.raises(ValueError, match="not below"):
        _native.count_codes(codes, None, 0, 5)
    with pytest.raises(ValueError, match="as many counts"):
        _native.order_strings(np.zeros(2, np.int64), np.zeros(0, np.uint8), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="beyond the data"):
        _native.order_strings(
            np.array([0, 3], np.int64), np.zeros(2, np.uint8), np.zeros(1, np.int64)
        )
