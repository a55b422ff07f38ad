"""A small log with everything that can go missing, and the fields to read it with."""

from __future__ import annotations

from typing import Any

from crossfm.data import Bag, Categorical, Numeric, Schema

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
