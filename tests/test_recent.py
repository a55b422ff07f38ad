"""recent_items: by brute force, over types of columns, and what it refuses."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfm.data import recent_items
from crossfm.errors import DataError, SchemaError

ROW = st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 6))


def brute(log, n, asked):
    """For (user, time) pairs; time None: the end."""
    order = sorted(range(len(log)), key=lambda row: log[row][2])
    return [
        [log[row][1] for row in order
         if log[row][0] == user and (time is None or log[row][2] < time)][-n:]
        for user, time in asked
    ]  # fmt: skip


@given(st.lists(ROW, min_size=1, max_size=30), st.integers(1, 4), st.data())
def test_brute_force(log, n, data):
    user, item, time = (list(column) for column in zip(*log, strict=True))
    table = {"user": user, "item": item, "time": time}
    own = [(row[0], row[2]) for row in log]
    assert recent_items(table, n).to_pylist() == brute(log, n, own)
    asked = data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 8)), max_size=6))
    users, moments = [row[0] for row in asked], [row[1] for row in asked]
    at = pa.table({"user": pa.array(users, pa.int64()), "time": pa.array(moments, pa.int64())})
    assert recent_items(table, n, at=at).to_pylist() == brute(log, n, asked)
    ended = recent_items(table, n, at=at.select(["user"])).to_pylist()
    assert ended == brute(log, n, [(one, None) for one in users])


@given(st.lists(ROW, min_size=1, max_size=20))
def test_without_times_the_rows_are_the_order(log):
    user, item, _ = (list(column) for column in zip(*log, strict=True))
    numbered = [(u, i, row) for row, (u, i, _) in enumerate(log)]
    table = {"user": user, "item": item}
    wanted = brute(numbered, 3, [(row[0], row[2]) for row in numbered])
    assert recent_items(table, 3, time=None).to_pylist() == wanted
    ended = brute(numbered, 3, [(u, None) for u in user])
    assert recent_items(table, 3, time=None, at={"user": user}).to_pylist() == ended


DAYS = [dt.date(2020, 1, day) for day in (1, 2, 3)]


@pytest.mark.parametrize(
    "times",
    [DAYS, [dt.datetime(2020, 1, 1, hour) for hour in (1, 2, 3)], [0.5, 1.5, 2.5], ["a", "b", "c"],
     pd.to_datetime(DAYS), pa.chunked_array([[1], [2, 3]])],
    ids=["dates", "datetimes", "floats", "texts", "pandas", "chunks"],
)  # fmt: skip
def test_types_of_time(times):
    log = {"user": ["x", "x", "x"], "item": [7, 8, 9], "time": times}
    assert recent_items(log, 1).to_pylist() == [[], [7], [8]]


def test_tables_and_names():
    log = {"who": ["x", "y", "x"], "what": ["a", "b", "c"], "when": [3, 2, 1]}
    names = {"user": "who", "item": "what", "time": "when"}
    wanted = [["c"], [], []]
    coded = pd.DataFrame(log).astype({"who": "category", "what": "category"})
    for table in (log, pd.DataFrame(log), pl.DataFrame(log), pa.table(log), coded):
        assert recent_items(table, 2, **names).to_pylist() == wanted
    frame = pd.DataFrame(log)
    frame["lately"] = recent_items(frame, 2, **names)
    assert list(frame["lately"][0]) == ["c"]


def test_nothing():
    log = {"user": [1], "item": [2], "time": [3]}
    assert recent_items(log, at={"user": []}).to_pylist() == []
    none = pa.table({name: pa.array([], pa.int64()) for name in log})
    assert recent_items(none).to_pylist() == []
    assert recent_items(none, at=log).to_pylist() == [[]]
    assert recent_items(log, 10**12).to_pylist() == [[]]


LOG = {"user": [1, 1, 2], "item": [4, 5, 6], "time": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize(
    ("change", "given", "error", "message"),
    [
        ({}, {"n": 0}, DataError, "n is 0"),
        ({}, {"n": True}, DataError, "n is True"),
        ({}, {"n": 1.5}, DataError, "n is 1.5"),
        ({}, {"user": "usr"}, SchemaError, "no column 'usr'. Did you mean 'user'"),
        ({}, {"time": "when"}, SchemaError, "no column 'when'"),
        ({}, {"at": {"item": [1]}}, SchemaError, "no column 'user'"),
        ({}, {"at": {"user": ["x"]}}, SchemaError, "make them one type"),
        ({}, {"at": {"user": [1], "time": [None]}}, DataError, "row 0 of at has no 'time'"),
        ({"user": [1, None, 2]}, {}, DataError, "row 1 of log has no 'user'"),
        ({"item": [1, 2, None]}, {}, DataError, "row 2 of log has no 'item'"),
        ({"time": [np.nan, 1.0, 2.0]}, {}, DataError, "row 0 of log has no 'time'"),
        ({"time": [[1], [2], [3]]}, {}, SchemaError, "have no order"),
    ],
)
def test_refused(change, given, error, message):
    with pytest.raises(error, match=message):
        recent_items({**LOG, **change}, **given)
