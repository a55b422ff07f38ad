"""Contributions: terms that sum to the score, against the definition in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crossfm import Bag, Categorical, FactorModel, Numeric, Rows, Schema
from crossfm.errors import DataError
from crossfm.explain import explain_row

EXACT = 1e-12  # float64 sums of a few dozen terms of size 1
SINGLE = 1e-4  # float32 kernel, the same


def slow_terms(model, ids, values, fields):
    """Every term by itself: linear and pairs."""
    V = model.factors.astype(float).tolist()
    w = model.weights.astype(float).tolist()
    linear = [w[i] * x for i, x in zip(ids, values, strict=True)]
    pairs = {}
    for a in range(len(ids)):
        for b in range(a + 1, len(ids)):
            if model.interactions == "across_fields" and fields[a] == fields[b]:
                continue
            dot = sum(p * q for p, q in zip(V[ids[a]], V[ids[b]], strict=True))
            pairs[a, b] = values[a] * values[b] * dot
    return linear, pairs


def drawn(interactions, *, k=5, m=9, seed=0):
    rng = np.random.default_rng(seed)
    field_of = rng.integers(0, 4, 30).astype(np.int32)
    model = FactorModel(
        0.3,
        rng.standard_normal(30),
        rng.standard_normal((30, k)),
        interactions=interactions,
        field_of=field_of,
    )
    ids = rng.integers(0, 30, m)  # repeats too
    values = rng.standard_normal(m).astype(np.float32)
    return model, Rows(ids[None], values[None]), field_of


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
@pytest.mark.parametrize("m", [0, 1, 2, 9, 40])
def test_terms_are_those_of_the_definition_and_sum_to_the_score(interactions, m):
    model, row, field_of = drawn(interactions, m=m)
    found = explain_row(model, row)
    ids, values = row.ids.tolist(), row.values.astype(float).tolist()
    linear, pairs = slow_terms(model, ids, values, field_of[ids].tolist())
    np.testing.assert_allclose(found.linear, linear, rtol=EXACT, atol=EXACT)
    given = {tuple(at): v for at, v in zip(found.pair_of.tolist(), found.pairs, strict=True)}
    assert given.keys() == pairs.keys()
    for at, value in pairs.items():
        assert given[at] == pytest.approx(value, rel=EXACT, abs=EXACT)
    total = math.fsum([model.bias, *linear, *pairs.values()])
    assert found.score == pytest.approx(total, abs=EXACT * (m + 1) ** 2)
    assert found.score == pytest.approx(float(model.score(row)[0]), rel=SINGLE, abs=SINGLE)


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
def test_every_grouping_sums_to_the_score(interactions):
    model, row, _ = drawn(interactions, m=12)
    found = explain_row(model, row)
    assert math.fsum(t.value for t in found.terms()) == pytest.approx(found.score, abs=EXACT)
    for parts in (found.by_feature(), found.by_field()):
        total = found.bias + math.fsum(part.value for part in parts)
        assert total == pytest.approx(found.score, abs=EXACT * 100)
        sizes = [abs(part.value) for part in parts]
        assert sizes == sorted(sizes, reverse=True)
    sizes = [abs(term.value) for term in found.terms()]
    assert sizes == sorted(sizes, reverse=True)


def test_pairs_inside_a_field_meet_only_where_all_pairs_do():
    V = [[1.0], [2.0], [3.0]]
    row = Rows(np.array([[0, 1, 2]]))
    of = np.array([0, 0, 1], np.int32)
    within = explain_row(FactorModel(0.0, np.zeros(3), V, field_of=of), row)
    across = explain_row(FactorModel(0.0, np.zeros(3), V, "across_fields", of), row)
    assert dict(within.by_field()) == {
        ("field 0",): 2.0,
        ("field 0", "field 1"): 9.0,
        ("field 1",): 0.0,
    }
    assert dict(across.by_field()) == {
        ("field 0",): 0.0,
        ("field 0", "field 1"): 9.0,
        ("field 1",): 0.0,
    }


def test_names_come_from_the_schema():
    frame = {"user": ["ann", "bob"], "age": [20.0, 40.0], "tags": ["a|b", "b"]}
    schema = Schema([Categorical("user"), Numeric("age"), Bag("tags", sep="|")]).fit(frame)
    n = schema.n_features_
    rng = np.random.default_rng(0)
    model = FactorModel(1.0, rng.standard_normal(n), rng.standard_normal((n, 3)), schema=schema)
    found = explain_row(model, schema.transform(frame)[:1])
    assert found.names == ("user=ann", "age (-1)", "tags=a", "tags=b")
    assert found.fields == ("user", "age", "tags", "tags")
    text = found.table(limit=3)
    assert "8 smaller ones" in text
    assert text.splitlines()[-1].startswith("score")
    for by in ("feature", "field"):
        assert "bias" in found.table(limit=None, by=by)
    numbers = [float(line.split()[-1]) for line in found.table(limit=None).splitlines()[2:-2]]
    assert sum(numbers) == pytest.approx(found.score, abs=1e-3)  # four digits a line


def test_fields_of_the_rows_come_before_those_of_the_model():
    V = [[1.0], [2.0]]
    model = FactorModel(0.0, np.zeros(2), V, "across_fields", np.array([0, 1], np.int32))
    together = Rows(np.array([[0, 1]]), fields=np.array([[7, 7]]))
    assert explain_row(model, together).score == 0.0
    assert explain_row(model, Rows(np.array([[0, 1]]))).score == 2.0


def test_refusals_say_what_to_do():
    model = FactorModel(0.0, np.zeros(2), np.ones((2, 1)))
    with pytest.raises(DataError, match=r"2 rows; rows\[i:i \+ 1\]"):
        explain_row(model, Rows(np.array([[0], [1]])))
    with pytest.raises(DataError, match="out of range"):
        explain_row(model, Rows(np.array([[2]])))
    across = FactorModel(0.0, np.zeros(2), np.ones((2, 1)), "across_fields")
    with pytest.raises(DataError, match="field"):
        explain_row(across, Rows(np.array([[0, 1]])))
    with pytest.raises(DataError, match="by is 'row'"):
        explain_row(model, Rows(np.array([[0]]))).table(by="row")
