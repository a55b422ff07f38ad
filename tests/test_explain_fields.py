"""Strengths of fields against the terms of single rows; nearest features."""

from __future__ import annotations

import numpy as np
import pytest

import crossfm as cf
from crossfm.data.rows import Rows
from crossfm.errors import DataError, SchemaError
from crossfm.explain import explain_row, field_strengths, nearest
from crossfm.explain.strengths import BATCH
from crossfm.model import FactorModel

rng = np.random.default_rng(0)
LOG = {
    "user": rng.integers(0, 9, 80),
    "age": rng.normal(40, 10, 80),
    "tags": [list(rng.choice(5, rng.integers(0, 4), replace=False)) for _ in range(80)],
}
SCHEMA = cf.Schema([cf.Categorical("user"), cf.Numeric("age"), cf.Bag("tags", pooling="mean")])
SCHEMA.fit(LOG)
N, F, K = SCHEMA.n_features_, 3, 4


def a_model(kind, interactions):
    rng = np.random.default_rng(1)
    more = {"schema": SCHEMA, "field_of": SCHEMA.field_of_, "interactions": interactions}
    if kind == "ffm":
        return FactorModel(0.3, rng.normal(size=N), rng.normal(size=(N, F, K)), **more)
    if kind in ("fwfm", "fmfm"):
        shape = (F, F) if kind == "fwfm" else (F, F, K, K)
        r = rng.normal(size=shape)
        r = r + (r.T if kind == "fwfm" else r.transpose(1, 0, 3, 2))
        r[np.arange(F), np.arange(F)] = 0
        more["field_weights"] = r
    return FactorModel(0.3, rng.normal(size=N), rng.normal(size=(N, K)), **more)


@pytest.mark.parametrize(
    ("kind", "interactions"),
    [("fm", "all"), ("fm", "across_fields"), ("ffm", "all"), ("ffm", "across_fields"),
     ("fwfm", "across_fields"), ("fmfm", "across_fields")],
)  # fmt: skip
def test_strengths_are_those_of_each_row(kind, interactions):
    model, rows = a_model(kind, interactions), SCHEMA.transform(LOG)
    names, each = SCHEMA.field_names, np.zeros((len(rows), F, F))
    for r in range(len(rows)):
        for part in explain_row(model, rows[r : r + 1]).by_field():
            at = [names.index(name) for name in part.names]
            each[r, at[0], at[-1]] = each[r, at[-1], at[0]] = part.value
    found = field_strengths(model, rows)
    assert found.fields == tuple(names)
    assert found.n_rows == len(rows)
    np.testing.assert_allclose(found.mean, each.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.mean_size, np.abs(each).mean(0), atol=1e-6)
    np.testing.assert_allclose(found.deviation, each.std(0), atol=1e-6)
    upper = np.triu(found.mean).sum() + model.bias
    assert upper == pytest.approx(model.score(rows).mean(), abs=1e-4)
    best, value = found.strongest(1)[0]
    assert value == pytest.approx(found.deviation.max())
    at = [names.index(name) for name in best]
    assert found.deviation[at[0], at[-1]] == pytest.approx(value)


def test_many_rows_go_in_batches():
    model = a_model("fm", "all")
    rows = SCHEMA.transform(LOG).take(np.arange(2 * BATCH + 7) % 80)
    whole, one = field_strengths(model, rows), field_strengths(model, rows[:80])
    np.testing.assert_allclose(whole.mean, one.mean, atol=0.01)
    np.testing.assert_allclose(whole.deviation, one.deviation, rtol=0.01, atol=1e-9)


def test_strengths_refuse():
    bare = FactorModel(0.0, [1.0], [[1.0]])
    with pytest.raises(DataError, match="field of each feature is not known"):
        field_strengths(bare, Rows([[0]]))
    with pytest.raises(DataError, match="no rows"):
        field_strengths(a_model("fm", "all"), SCHEMA.transform(LOG)[:0])
    higher = FactorModel(0.0, [1.0], np.ones((1, 2, 3)), field_of=[0], order=3)
    with pytest.raises(DataError, match="higher-order"):
        field_strengths(higher, Rows([[0]]))
    rows = Rows([[0]], fields=[[0]])
    assert field_strengths(bare, rows).fields == ("0",)


def test_nearest():
    model = a_model("fm", "all")
    own = SCHEMA.block("user")[1:]
    V = model.factors.astype(float)
    at = int(own[3])
    name = SCHEMA.feature_name(at)
    others = own[own != at]
    cosine = V[others] @ V[at] / np.linalg.norm(V[others], axis=1) / np.linalg.norm(V[at])
    found = nearest(model, name, 4)
    order = np.argsort(-cosine)[:4]
    assert [one.id for one in found] == others[order].tolist()
    assert [one.name for one in found] == SCHEMA.feature_names(others[order])
    np.testing.assert_allclose([one.similarity for one in found], cosine[order], rtol=1e-6)
    inner = nearest(model, at, 1, by="inner")[0]
    assert inner.similarity == pytest.approx((V[others] @ V[at]).max())
    assert {one.name.split("=")[0] for one in nearest(model, at, 99, field="tags")} == {"tags"}
    assert len(nearest(model, at, 99)) == len(others)
    assert len(nearest(a_model("ffm", "all"), at, 2)) == 2
    for arguments, error, match in (
        (("usr=3",), SchemaError, "no field 'usr'"),
        (("user=99",), SchemaError, "no feature 'user=99'"),
        ((999,), SchemaError, "no feature 999"),
        ((at, 0), DataError, "k is 0"),
    ):
        with pytest.raises(error, match=match):
            nearest(model, *arguments)
    with pytest.raises(DataError, match="by is 'euclid'"):
        nearest(model, at, by="euclid")
    with pytest.raises(SchemaError, match="no field 'tag'"):
        nearest(model, at, field="tag")
    zero = FactorModel(0.0, [0, 0], [[0.0], [0.0]])
    assert nearest(zero, 0, 1)[0].similarity == 0.0
