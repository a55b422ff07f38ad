"""A dot product and a constant are the model's score, for every kind that has pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crossfm as cf
from crossfm.data.rows import Rows
from crossfm.errors import DataError, SchemaError
from crossfm.model import FactorModel
from crossfm.retrieval import Vectors

KINDS = ["fm", "fwfm", "fmfm", "ffm"]


def columns(rng, n, what):
    """A column of a kind, with missing and new values."""
    if what == "categorical":
        return [None if rng.random() < 0.1 else f"v{rng.integers(6)}" for _ in range(n)]
    if what == "numeric":
        return [None if rng.random() < 0.1 else float(rng.normal() * 3) for _ in range(n)]
    return [list(rng.choice(5, rng.integers(0, 4), replace=False)) for _ in range(n)]


def field(name, what):
    if what == "categorical":
        return cf.Categorical(name)
    if what == "numeric":
        return cf.Numeric(name, scale="raw")
    return cf.Bag(name, weights=f"{name}_w", pooling="sqrtn")


def table(rng, n, kinds):
    found = {}
    for number, what in enumerate(kinds):
        found[f"f{number}"] = columns(rng, n, what)
        if what == "bag":
            found[f"f{number}_w"] = [list(rng.uniform(0.5, 2, len(b))) for b in found[f"f{number}"]]
    return found


def a_model(rng, schema, kind, interactions, k):
    m, F = schema.n_features_, len(schema.fields)
    weights, bias = rng.normal(size=m), float(rng.normal())
    more = {"field_of": schema.field_of_, "schema": schema, "interactions": interactions}
    if kind == "ffm":
        return FactorModel(bias, weights, rng.normal(size=(m, F, k)), **more)
    if kind == "fwfm":
        r = rng.normal(size=(F, F))
        r = r + r.T
        np.fill_diagonal(r, 0)
        more["field_weights"] = r
    if kind == "fmfm":
        M = rng.normal(size=(F, F, k, k))
        M = M + M.transpose(1, 0, 3, 2)
        M[np.arange(F), np.arange(F)] = 0
        more["field_weights"] = M
    return FactorModel(bias, weights, rng.normal(size=(m, k)), **more)


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["categorical", "numeric", "bag"]), min_size=2, max_size=5),
    kind=st.sampled_from(KINDS),
    everything=st.booleans(),
    k=st.sampled_from([1, 3, 8]),
    seed=st.integers(0, 2**16),
)
def test_the_score_is_a_constant_and_a_dot_product(kinds, kind, everything, k, seed):
    rng = np.random.default_rng(seed)
    interactions = "all" if everything and kind in ("fm", "ffm") else "across_fields"
    schema = cf.Schema([field(f"f{i}", what) for i, what in enumerate(kinds)])
    schema.fit(table(rng, 30, kinds))
    model = a_model(rng, schema, kind, interactions, k)
    order = rng.permutation(len(kinds))
    cut = rng.integers(1, len(kinds))
    query, item = ([f"f{i}" for i in part] for part in (order[:cut], order[cut:]))
    sides = Vectors(model, query, item)
    Q, items = (table(rng, n, kinds) for n in (4, 6))
    q, constant = sides.query_vectors(Q)
    v = sides.item_vectors(items)
    assert q.shape == (4, sides.dimension)
    assert v.shape == (6, sides.dimension)
    found = constant[:, None] + q.astype(float) @ v.T.astype(float)
    both = {
        name: [Q[name][a] if name.removesuffix("_w") in query else items[name][b]
               for a in range(4) for b in range(6)]
        for name in Q
    }  # fmt: skip
    expected = model.score(schema.transform(both)).reshape(4, 6)
    size = np.abs(constant[:, None]) + np.abs(q) @ np.abs(v).T  # of what the sum is made of
    assert (np.abs(found - expected) <= 1e-5 * np.maximum(size, 1)).all()


def test_rows_of_a_model_without_a_schema():
    rng = np.random.default_rng(0)
    model = FactorModel(0.5, rng.normal(size=9), rng.normal(size=(9, 4)),
                        field_of=[0, 0, 0, 1, 1, 2, 2, 2, 2])  # fmt: skip
    sides = Vectors(model, [0, 2], 1)
    q, constant = sides.query_vectors(Rows([[0, 5], [2, 8]]))
    v = sides.item_vectors(Rows([[3], [4]]))
    pairs = model.score(Rows([[0, 3, 5], [0, 4, 5], [2, 3, 8], [2, 4, 8]])).reshape(2, 2)
    np.testing.assert_allclose(constant[:, None] + q @ v.T, pairs, rtol=1e-5)
    with pytest.raises(DataError, match="features of other fields"):
        sides.item_vectors(Rows([[0]]))
    with pytest.raises(SchemaError, match="no schema to read columns by"):
        sides.item_vectors({"a": [1]})


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_rounded_models(precision):
    rng = np.random.default_rng(0)
    model = FactorModel(0.5, rng.normal(size=9), rng.normal(size=(9, 4)),
                        field_of=[0] * 5 + [1] * 4).quantize(precision)  # fmt: skip
    sides = Vectors(model, 0, 1)
    q, constant = sides.query_vectors(Rows([[3]]))
    v = sides.item_vectors(Rows([[7]]))
    expected = model.score(Rows([[3, 7]]))
    np.testing.assert_allclose(constant + (q @ v.T)[0], expected, rtol=1e-5)


def test_no_rows():
    model = FactorModel(0.5, np.ones(4), np.ones((4, 2)), field_of=[0, 0, 1, 1])
    assert Vectors(model, 0, 1).item_vectors(Rows(np.zeros((0, 1), np.int32))).shape == (0, 3)


def test_refusals():
    log = {"user": [1, 2, 1], "film": ["a", "b", "a"], "age": [1.0, 2.5, 1.5]}
    y = [1.0, 4.0, 2.0]
    model = cf.FMRegressor(2, n_epochs=1).fit(log, y).model_
    for query, item, match in (
        (["usr"], ["film", "age"], "query_fields: no field 'usr'"),
        (["user"], ["film"], "'age': neither of the query nor of the item"),
        (["user", "age"], ["film", "age"], "'age': of the query and of the item"),
        ([], ["film"], "expected one field or several"),
        (["user", "user"], ["film"], "each once"),
        (["user"], [7], "no field 7, the model has 3"),
    ):
        with pytest.raises(SchemaError, match=match):
            Vectors(model, query, item)
    with pytest.raises(SchemaError, match="no column 'film'"):
        Vectors(model, ["user", "age"], "film").item_vectors({"user": [1]})
    higher = cf.HOFMRegressor(2, n_epochs=1).fit(log, y).model_
    with pytest.raises(DataError, match="higher-order machine"):
        Vectors(higher, ["user", "age"], "film")
    bare = FactorModel(0.0, [1.0], [[1.0]])
    with pytest.raises(DataError, match="does not know the field"):
        Vectors(bare, 0, 1)
