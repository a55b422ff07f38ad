"""What a data scientist would expect to be made of the usual columns."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from crossfm.data import Bag, Categorical, Numeric, Schema
from crossfm.errors import DataError, SchemaError

N = 400
RNG = np.random.default_rng(7)


def guess(values: Any, name: str = "x") -> Any:
    """The field that a column makes beside another one, or the reason why it makes none."""
    frame = {name: values, "other_id": [1, 2] * (len(values) // 2) + [1] * (len(values) % 2)}
    schema = Schema.infer(frame)
    (told,) = [g for g in schema.guesses if g.name == name]
    fields = [field for field in schema.fields if field.name == name]
    return fields[0] if fields else told.reason


def ids(n_values: int, low: int = 1, rows: int = N) -> Any:
    return RNG.integers(low, low + n_values, rows)


CASES: dict[str, tuple[str, Any, Any]] = {
    "few integers": ("x", ids(5), Categorical("x")),
    "month": ("month", ids(12), Categorical("month")),
    "few negative integers": ("x", ids(7, -3), Categorical("x")),
    "many integers": ("x", ids(20_000, 100), Numeric("x")),
    "count": ("n_clicks", RNG.geometric(0.02, N), Numeric("n_clicks", "log")),
    "few counts": ("visits", RNG.geometric(0.5, N), Categorical("visits")),
    "age": ("age", ids(60, 18), Numeric("age")),
    "age of few": ("age", [25, 31, 40, 25], Numeric("age")),
    "user": ("user", ids(300, 10**6), Categorical("user")),
    "userId": ("userId", ids(300), Categorical("userId")),
    "user_id": ("user_id", ids(300), Categorical("user_id")),
    "ITEM_ID": ("ITEM_ID", ids(300), Categorical("ITEM_ID")),
    "movie": ("movie", ids(300), Categorical("movie")),
    "product code": ("product code", ids(300, 10**9), Categorical("product code")),
    "zip": ("zip", ids(300, 10_000), Categorical("zip")),
    "C7": ("C7", ids(300, 10_000), Categorical("C7")),
    "I7": ("I7", ids(300, 0), Numeric("I7")),
    "valid is no id": ("valid", ids(300, 10_000), Numeric("valid")),
    "user ids as floats, some missing": (
        "user_id",
        np.where(RNG.random(N) < 0.2, np.nan, ids(200)),
        Categorical("user_id"),
    ),
    "few integers as floats, some missing": (
        "x",
        np.where(RNG.random(N) < 0.2, np.nan, ids(4)),
        Categorical("x"),
    ),
    "ids without gaps": ("x", RNG.permutation(np.arange(1200) % 300), Categorical("x")),
    "unsigned ids": (
        "user",
        np.array([2**64 - 1, 2**63, 5] * 40, np.uint64),
        Categorical("user"),
    ),
    "fractions": ("x", RNG.normal(size=N), Numeric("x")),
    "fractions of few values": ("x", RNG.integers(1, 10, N) / 2, Numeric("x")),
    "prices": ("x", RNG.lognormal(3, 1.5, N), Numeric("x", "log")),
    "one negative": ("x", np.append(RNG.lognormal(3, 1.5, N), -0.5), Numeric("x", "log")),
    "long tail, but negatives too": ("x", RNG.lognormal(0, 1, N) - 3, Numeric("x")),
    "skewed with negatives": ("x", 30 - RNG.lognormal(3, 1.5, N), Numeric("x")),
    "skewed the other way": ("x", -RNG.lognormal(3, 1.5, N), Numeric("x")),
    "booleans": ("x", RNG.random(N) < 0.5, Categorical("x")),
    "booleans, some missing": ("x", [True, None, False] * 5, Categorical("x")),
    "one value or missing": ("x", ["yes", None, None, "yes"], Categorical("x")),
    "strings": ("x", [f"v{i}" for i in ids(30)], Categorical("x")),
    "zip codes as strings": ("zip", [f"{i:05d}" for i in ids(30)], Categorical("zip")),
    "fractions as strings": ("x", [f"{x:.3f}" for x in RNG.normal(size=N)], Numeric("x")),
    "categorical": ("x", pd.Categorical(["a", "b", "a", None]), Categorical("x")),
    "genres": ("genres", ["Comedy|Drama", "Drama", "Comedy", "Action|Drama"], Bag("genres", "|")),
    "genres, commas": (
        "genres",
        ["Comedy, Drama", "Drama", "Comedy", "Drama, Action", "Action"],
        Bag("genres", ","),
    ),
    "tags, semicolons": ("tags", ["a;b", "b;c;d", "", "a;d", None], Bag("tags", ";")),
    "records": (
        "variant",
        [f"{['red', 'blue', 'green'][i % 3]}, {['S', 'M', 'L'][i // 3 % 3]}" for i in range(N)],
        Categorical("variant"),
    ),
    "lists": ("tags", [["a", "b"], [], None, ["c"]], Bag("tags")),
    "lists of ids": ("history", [[1, 2], [2, 3, 1], [7]], Bag("history")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_fields(case: str) -> None:
    name, values, want = CASES[case]
    assert guess(values, name) == want


LEFT_OUT: dict[str, tuple[str, Any, str]] = {
    "constant": ("x", [3] * 9, "constant: always 3"),
    "constant string": ("x", ["a"] * 9, "constant: always 'a'"),
    "constant boolean": ("x", [True] * 9, "constant: always True"),
    "constant number": ("x", [2.5] * 9, "constant: always 2.5"),
    "missing": ("x", [None] * 9, "all values are missing"),
    "NaN": ("x", np.full(9, np.nan), "all values are missing"),
    "empty strings": ("x", [""] * 9, "all values are missing"),
    "dates": ("x", [datetime.date(2024, 1, 1 + i % 9) for i in range(20)], "dates and times"),
    "times": ("x", [datetime.datetime(2024, 1, 1, i) for i in range(20)], "dates and times"),
    "durations": ("x", [datetime.timedelta(i) for i in range(20)], "dates and times"),
    "unix time": ("timestamp", ids(10**6, 881_250_949), "times in seconds"),
    "unix time in ms": ("created_at", ids(10**9, 1_600_000_000_000), "times in seconds"),
    "row number": ("PassengerId", np.arange(N), "a number of the row: all different (400)"),
    "index": ("Unnamed: 0", np.arange(N), "a number of the row"),
    "row id with gaps": ("id", np.arange(N) * 7, "a number of the row"),
    "names": ("Name", [f"Doe, Mr. John {i}" for i in range(N)], "text, nearly all different"),
    "uuid": ("session", [f"{i:032x}" for i in range(N)], "names or identifiers"),
    "vectors": ("x", [[0.5, 1.5], [2.5, 3.5]], "lists of numbers with fractions"),
    "empty lists": ("x", pa.array([[], None], pa.list_(pa.int64())), "all lists are empty"),
    "lists of lists": ("x", [[["a"]], [["b"]]], "lists of lists"),
    "structs": ("x", [{"a": 1}, {"a": 2}], "it holds struct"),
    "bytes": ("x", [b"\xff\xfe", b"\xfe"], "bytes that are not UTF-8"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_left_out_with_the_reason(case: str) -> None:
    name, values, reason = LEFT_OUT[case]
    if isinstance(values, np.ndarray):
        values = values.tolist()
    told = guess(values, name)
    assert isinstance(told, str), told
    assert reason in told


def test_nearly_all_different_is_reported() -> None:
    users = [*range(N - 4), 1, 2, 3, 4]
    schema = Schema.infer({"user_id": users, "item_id": ids(20)})
    assert schema.fields[0] == Categorical("user_id")
    assert "396 distinct of 400: nearly all different" in schema.guesses[0].reason


def test_long_tails_share_the_unknown_id() -> None:
    seen_once = [f"v{i}" for i in range(3000)] + ["common"] * 3000
    schema = Schema.infer({"x": seen_once, "y": ids(5, rows=6000)})
    assert schema.fields[0] == Categorical("x", min_count=2)
    assert "3,000 seen once share the unknown id" in schema.guesses[0].reason
    assert schema.fit({"x": seen_once, "y": ids(5, rows=6000)}).block("x").size == 2


def test_infinity_is_left_for_fit_to_name() -> None:
    frame = {"x": [1.5, float("inf"), 2.0], "id": [1, 2, 1]}
    with pytest.raises(DataError, match="column 'x', row 1: the value is inf"):
        Schema.infer(frame).fit(frame)


def test_excluded_columns() -> None:
    frame = {"user": [1, 2, 1], "rating": [3, 4, 5]}
    for exclude in ("rating", ["rating"], ("rating",)):
        schema = Schema.infer(frame, exclude)
        assert [g.name for g in schema.guesses] == ["user"]
    with pytest.raises(SchemaError, match=r"no column 'ratign'\. Did you mean 'rating'"):
        Schema.infer(frame, "ratign")
    with pytest.raises(SchemaError, match="all are excluded"):
        Schema.infer(frame, ("user", "rating"))
    with pytest.raises(SchemaError, match=r"'x': constant: always 1.*say what the columns are"):
        Schema.infer({"x": [1, 1]})
    with pytest.raises(DataError, match="no rows"):
        Schema.infer({"x": []})


def test_titanic() -> None:
    rng = np.random.default_rng(0)
    n = 891
    ages = np.where(rng.random(n) < 0.2, np.nan, np.round(rng.uniform(1, 70, n) * 2) / 2)
    frame = pd.DataFrame(
        {
            "PassengerId": np.arange(1, n + 1),
            "Survived": rng.integers(0, 2, n),
            "Pclass": rng.integers(1, 4, n),
            "Name": [f"Braund{i}, Mr. Owen Harris" for i in range(n)],
            "Sex": rng.choice(["male", "female"], n),
            "Age": ages,
            "SibSp": rng.geometric(0.6, n) - 1,
            "Parch": rng.geometric(0.6, n) - 1,
            "Ticket": [f"PC {i}" for i in rng.integers(0, 1200, n)],
            "Fare": rng.lognormal(3, 1, n).round(4),
            "Cabin": np.where(rng.random(n) < 0.77, None, rng.choice(["C85", "E46", "G6"], n)),
            "Embarked": rng.choice(["S", "C", "Q"], n),
        }
    )
    schema = Schema.infer(frame, exclude="Survived")
    kinds = {guess.name: guess.kind for guess in schema.guesses}
    assert kinds == {
        "PassengerId": "left out",
        "Pclass": "categorical",
        "Name": "left out",
        "Sex": "categorical",
        "Age": "numeric",
        "SibSp": "categorical",
        "Parch": "categorical",
        "Ticket": "categorical",
        "Fare": "numeric",
        "Cabin": "categorical",
        "Embarked": "categorical",
    }
    assert Numeric("Fare", "log") in schema.fields
    assert Numeric("Age") in schema.fields
    assert Schema.infer(pl.from_pandas(frame), exclude="Survived").fields == schema.fields
    text = str(schema.fit(frame))
    assert "a number of the row: all different (891)" in text
    assert text.splitlines()[0].split() == ["field", "kind", "encoding", "distinct", "why"]


def test_guesses_survive_json() -> None:
    schema = Schema.infer({"user": [1, 2, 1], "one": [1, 1, 1]})
    assert Schema.from_json(schema.to_json()).guesses == schema.guesses


def test_movielens(real_data: Callable[[str], Path]) -> None:
    folder = real_data("ml-100k")
    ratings = pd.read_csv(
        folder / "u.data", sep="\t", names=["user", "item", "rating", "timestamp"]
    )
    users = pd.read_csv(
        folder / "u.user", sep="|", names=["user", "age", "gender", "occupation", "zip"]
    )
    schema = Schema.infer(ratings.merge(users, on="user"), exclude="rating")
    assert schema.fields == (
        Categorical("user"),
        Categorical("item"),
        Numeric("age"),
        Categorical("gender"),
        Categorical("occupation"),
        Categorical("zip"),
    )
    assert schema.guesses[2].kind == "left out"  # the timestamp


def test_movielens_with_genres(real_data: Callable[[str], Path]) -> None:
    folder = real_data("ml-latest-small")
    frame = pd.read_csv(folder / "ratings.csv").merge(
        pd.read_csv(folder / "movies.csv"), on="movieId"
    )
    schema = Schema.infer(frame, exclude="rating")
    assert schema.fields[:2] == (Categorical("userId"), Categorical("movieId"))
    assert schema.fields[-1] == Bag("genres", sep="|")
    assert schema.fit(frame).block("genres").size == 1 + 20


def test_criteo(real_data: Callable[[str], Path]) -> None:
    frame = pd.read_csv(real_data("criteo-20k") / "criteo.csv")
    schema = Schema.infer(frame, exclude="Label")
    kinds = {field.name: type(field) for field in schema.fields}
    assert kinds == {
        **{f"I{i}": Numeric for i in range(1, 14)},
        **{f"C{i}": Categorical for i in range(1, 27)},
    }
    logarithmic = [f.name for f in schema.fields if isinstance(f, Numeric) and f.scale == "log"]
    assert len(logarithmic) >= 12  # counts with long tails
    rows = schema.fit(frame).transform(frame, targets="Label")
    assert rows.row_length == 39
    assert rows.validate(schema.n_features_).max_id == schema.n_features_ - 1
    assert schema.unseen_["I12"].missing == frame["I12"].isna().sum()


def test_anonymous_categories_written_as_powers_of_ten_stay_categories():
    numbers = [f"1.{i:07d}E7" for i in range(40)]
    frame = pa.table({"C3": numbers * 5, "size": numbers * 5})
    assert Schema.infer(frame).fields == (Categorical("C3"), Numeric("size"))
