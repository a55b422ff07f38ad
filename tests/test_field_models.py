"""`FactorModel`s with other crossed terms: scores, identities, files, explanations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from field_oracle import ffm_pairs, fmfm_pairs, fwfm_pairs, hofm_sets
from solver_problems import make_rows
from test_field_solvers import F, entries_of

from crossfm.data.rows import Rows
from crossfm.errors import DataError, ModelFileError
from crossfm.explain import explain_row
from crossfm.model import FactorModel, empty_factors
from crossfm.store import load_model, read_header, save_libfm, save_model

RTOL = 2e-5  # float32, some tens of terms
KINDS = ("ffm", "ffm_across", "fwfm", "fmfm", "hofm", "hofm_across")
by_kind = pytest.mark.parametrize("kind", KINDS)


def make_model(kind, field_of, k, seed=0):
    rng = np.random.default_rng(seed)
    n = len(field_of)
    shape = {"ffm": (n, F, k), "ffm_across": (n, F, k)}.get(kind, (n, k))
    if kind.startswith("hofm"):
        shape = n, 2, k
    return FactorModel(
        rng.normal(),
        rng.normal(size=n),
        rng.normal(size=shape),
        "all" if kind in ("ffm", "hofm") else "across_fields",
        field_of,
        field_weights=pair_numbers(kind, F, k, rng),
        order=3 if kind.startswith("hofm") else 2,
    )


def pair_numbers(kind, n_fields, k, rng):
    """Weights or matrices of pairs, or None."""
    shape = {"fwfm": (), "fmfm": (k, k)}.get(kind)
    if shape is None:
        return None
    r = rng.normal(size=(n_fields, n_fields, *shape)).astype(np.float32)
    turned = r.transpose(1, 0, 3, 2) if shape else r.T
    f, g = np.indices((n_fields, n_fields)).reshape(2, n_fields, n_fields, *[1] * len(shape))
    return np.where(f < g, r, np.where(f > g, turned, np.float32(0)))


def double_sum(model, entries):
    V = model.factors.astype(np.float64)
    linear = model.bias + sum(x * float(model.weights[i]) for i, _, x in entries)
    if model.kind == "ffm":
        across = model.interactions == "across_fields"
        crossed = ffm_pairs(lambda i, g: V[i, g].tolist(), entries, across)[0]
    elif model.kind == "hofm":
        across = model.interactions == "across_fields"
        crossed = hofm_sets(
            lambda i: V[i].ravel().tolist(), model.n_factors, model.order, entries, across
        )[0]
    elif model.kind == "fmfm":
        r = model.field_weights.astype(np.float64)
        crossed = fmfm_pairs(
            lambda i: V[i].tolist(), lambda f, g: r[f, g].ravel().tolist(), entries
        )[0]
    else:
        r = model.field_weights.astype(np.float64)
        crossed = fwfm_pairs(lambda i: V[i].tolist(), lambda f, g: r[f, g], entries)[0]
    return linear + crossed


@by_kind
@pytest.mark.parametrize("k", [1, 3, 4, 6, 8, 16, 17])
@pytest.mark.parametrize("bags", [True, False])
def test_scores_are_the_double_sum(kind, k, bags):
    rows, field_of = make_rows(np.random.default_rng(k), values=bags, bags=bags)
    model = make_model(kind, field_of, k)
    wanted = [double_sum(model, entries) for entries in entries_of(rows, field_of)]
    for n_jobs in (1, 2):
        np.testing.assert_allclose(model.score(rows, n_jobs), wanted, RTOL, 1e-4)


@by_kind
def test_rows_that_carry_fields_in_any_order(kind):
    rng = np.random.default_rng(3)
    rows, field_of = make_rows(rng)
    mixed = rows.replace(fields=rng.integers(0, F, rows.nnz).astype(np.int32))
    model = replace(make_model(kind, field_of, 4), field_of=None)
    wanted = [double_sum(model, entries) for entries in entries_of(mixed, field_of)]
    np.testing.assert_allclose(model.score(mixed), wanted, RTOL, 1e-4)
    if kind == "hofm":  # needs no fields
        assert np.isfinite(model.score(rows)).all()
        return
    with pytest.raises(DataError, match="need to know the field of each feature"):
        model.score(rows)


@by_kind
@pytest.mark.parametrize("ids", [[[0, 1]], [[1, 0]], [[0, 0]], [[2, 1]]])
def test_places_are_fields_only_where_they_are(kind, ids):
    """Rows as long as the fields are many, whose features are of other fields than their places."""
    field_of = np.array([0, 1, 1], np.int32)
    rng = np.random.default_rng(0)
    shape = (3, 4) if kind in ("fwfm", "fmfm") else (3, 2, 4)
    model = FactorModel(0.0, np.zeros(3), rng.normal(size=shape),
                        "all" if kind in ("ffm", "hofm") else "across_fields", field_of,
                        field_weights=pair_numbers(kind, 2, 4, rng),
                        order=3 if kind.startswith("hofm") else 2)  # fmt: skip
    rows = Rows(np.array(ids))
    wanted = [double_sum(model, entries) for entries in entries_of(rows, field_of)]
    np.testing.assert_allclose(model.score(rows), wanted, RTOL, 1e-6)


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
def test_equal_vectors_for_all_fields_are_the_plain_machine(interactions):
    rows, field_of = make_rows(np.random.default_rng(1))
    rng = np.random.default_rng(2)
    V = rng.normal(size=(len(field_of), 5)).astype(np.float32)
    w = rng.normal(size=len(field_of))
    plain = FactorModel(0.5, w, V, interactions, field_of)
    aware = FactorModel(0.5, w, np.repeat(V[:, None], F, axis=1), interactions, field_of)
    np.testing.assert_allclose(aware.score(rows), plain.score(rows), RTOL, 1e-5)


def test_field_weights_of_one_are_the_plain_machine_across_fields():
    rows, field_of = make_rows(np.random.default_rng(1))
    plain = make_model("fwfm", field_of, 6)
    plain = replace(plain, field_weights=None)
    weighted = replace(plain, field_weights=1 - np.eye(F))
    np.testing.assert_allclose(weighted.score(rows), plain.score(rows), RTOL, 1e-5)


def test_matrices_that_are_numbers_are_field_weights():
    rows, field_of = make_rows(np.random.default_rng(1))
    weighted = make_model("fwfm", field_of, 6)
    matrices = weighted.field_weights[:, :, None, None] * np.eye(6, dtype=np.float32)
    matrixed = replace(weighted, field_weights=matrices)
    assert matrixed.kind == "fmfm"
    np.testing.assert_allclose(matrixed.score(rows), weighted.score(rows), RTOL, 1e-4)


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
def test_vectors_of_zero_for_larger_sets_are_the_plain_machine(interactions):
    rows, field_of = make_rows(np.random.default_rng(1))
    rng = np.random.default_rng(2)
    V = rng.normal(size=(len(field_of), 5)).astype(np.float32)
    plain = FactorModel(0.5, rng.normal(size=len(V)), V, interactions, field_of)
    factors = np.stack([V, 0 * V, 0 * V], axis=1)
    higher = replace(plain, factors=factors, order=4)
    assert (higher.kind, higher.n_factors, higher.n_fields) == ("hofm", 5, None)
    np.testing.assert_allclose(higher.score(rows), plain.score(rows), RTOL, 1e-5)


def test_a_table_made_for_it_is_taken_over():
    factors = empty_factors(3, 2, 5)
    assert factors.shape == (3, 5, 2)
    factors[1, 4, 1] = 7
    model = FactorModel(0.0, np.zeros(3), factors)
    assert np.shares_memory(model.factors, factors)
    assert model.factors[1, 4, 1] == 7
    assert (model.kind, model.n_fields, model.n_factors) == ("ffm", 5, 2)
    assert "kind='ffm', n_fields=5, n_features=3, n_factors=2" in repr(model)


# --- files, explanations -----------------------------------------------------------------------


@by_kind
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_file_gives_the_model_back(kind, precision, tmp_path):
    rows, field_of = make_rows(np.random.default_rng(1))
    model = make_model(kind, field_of, 3)
    if precision == "float16":
        model = replace(model, factors=model.factors.astype(np.float16))
    save_model([model, model], tmp_path / "m.crossfm", precision=precision)
    stored = load_model(tmp_path / "m.crossfm")
    np.testing.assert_array_equal(stored.models[1].score(rows), model.score(rows))
    assert stored.models[0].kind == model.kind == read_header(tmp_path / "m.crossfm").kind
    assert stored.header.format_version == 2
    with pytest.raises(DataError, match=f"no model of kind '{model.kind}'"):
        save_libfm(model, tmp_path / "m.libfm")


def test_models_of_one_file_are_of_one_kind(tmp_path):
    _, field_of = make_rows(np.random.default_rng(1))
    models = [make_model(kind, field_of, 3) for kind in ("ffm_across", "fwfm")]
    with pytest.raises(DataError, match="differs from model 0 in kind"):
        save_model(models, tmp_path / "m.crossfm")


def test_a_changed_field_weight_is_found(tmp_path):
    _, field_of = make_rows(np.random.default_rng(1))
    model = make_model("fwfm", field_of, 3)
    path = tmp_path / "m.crossfm"
    save_model(model, path)
    raw = path.read_bytes()
    at = raw.index(model.field_weights.tobytes()) + 4
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    with pytest.raises(ModelFileError, match="tensor field_weights fails its checksum"):
        load_model(path)


@by_kind
def test_explanations_sum_to_the_score(kind):
    rows, field_of = make_rows(np.random.default_rng(1))
    model = make_model(kind, field_of, 3)
    for r in range(10):
        row = rows[r : r + 1]
        np.testing.assert_allclose(explain_row(model, row).score, model.score(row)[0], 1e-4, 1e-5)
    if kind != "hofm":
        with pytest.raises(DataError, match="needs the field of each feature"):
            explain_row(replace(model, field_of=None), rows[:1])


def test_a_larger_set_is_shared_out_to_its_pairs():
    V = np.zeros((3, 2, 1), np.float32)
    V[:, 1] = [[1], [2], [3]]
    found = explain_row(FactorModel(0.0, np.zeros(3), V, order=3), Rows(np.array([[0, 1, 2]])))
    np.testing.assert_allclose(found.pairs, [2.0, 2.0, 2.0])  # 6, of three pairs
    np.testing.assert_allclose([part.value for part in found.by_feature()], [2.0, 2.0, 2.0])


# --- PyTorch -----------------------------------------------------------------------------------


@by_kind
def test_torch_modules_score_the_same_both_ways(kind):
    torch = pytest.importorskip("torch", reason="modules need PyTorch")
    from crossfm import nn

    rows, field_of = make_rows(np.random.default_rng(1))
    model = make_model(kind, field_of, 5)
    module = {
        "ffm": nn.FieldAwareFM, "fwfm": nn.FwFM, "fmfm": nn.FmFM, "hofm": nn.HigherOrderFM
    }[model.kind]  # fmt: skip
    network = module.from_model(model)
    with torch.no_grad():
        np.testing.assert_allclose(network(rows), model.score(rows), 1e-4, 1e-4)
    back = network.to_model(task="classification")
    assert (back.kind, back.interactions) == (model.kind, model.interactions)
    assert back.task == "classification"
    np.testing.assert_array_equal(back.factors, model.factors)
    np.testing.assert_array_equal(back.score(rows), model.score(rows))
    with pytest.raises(DataError, match=f"FactorizationMachine takes 'fm'.*{module.__name__}"):
        nn.FactorizationMachine.from_model(model)


# --- refusals ----------------------------------------------------------------------------------

FIELDS = np.array([0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": np.zeros((2, 0, 3))}, "vectors for 0 fields"),
        ({"factors": np.zeros((2, 1, 3)), "field_of": FIELDS}, r"fields go up to 1, .* 0 to 0"),
        ({"field_weights": np.zeros((2, 2)), "interactions": "all"}, "not with 'all'"),
        ({"field_weights": np.zeros((2, 3))}, r"shape \(2, 3\), expected \[n_fields, n_fields\]"),
        ({"field_weights": [[0, 1], [2, 0]]}, "symmetric with zeros on the diagonal"),
        ({"field_weights": [[1, 1], [1, 0]]}, "symmetric with zeros on the diagonal"),
        ({"field_weights": [[0, np.nan], [np.nan, 0]]}, "not finite"),
        ({"field_weights": "r"}, "must be numbers"),
        ({"field_weights": np.zeros((1, 1)), "field_of": FIELDS}, "fields go up to 1"),
        ({"field_weights": np.zeros((2, 2, 3, 2))}, r"matrices \[n_fields, n_fields, 3, 3\]"),
        ({"field_weights": np.ones((2, 2, 3, 3))}, "symmetric with zeros on the diagonal"),
        ({"order": 1}, "order is 1, expected an integer from 2 to 8"),
        ({"order": 3}, r"expected \[n_features, 2, n_factors\]"),
        ({"order": 3, "factors": np.zeros((2, 3, 1))}, r"expected \[n_features, 2, n_factors\]"),
        ({"factors": np.zeros((2, 1, 1, 3))}, r"\[n_features, n_factors\]"),
        ({"factors": np.full((2, 2, 1), np.nan)}, "factors of feature 0 is not finite"),
    ],
)
def test_parameters_that_make_no_model(changes, message):
    given = {"bias": 0.0, "weights": np.zeros(2), "factors": np.zeros((2, 3)),
             "interactions": "across_fields", **changes}  # fmt: skip
    with pytest.raises(DataError, match=message):
        FactorModel(**given)


def test_rows_with_further_fields_are_refused():
    model = FactorModel(0.0, np.zeros(2), np.zeros((2, 2, 1)))
    with pytest.raises(DataError, match=r"fields go up to 2, .* 0 to 1"):
        model.score(Rows(np.array([[0, 1]]), fields=np.array([[0, 2]])))
    with pytest.raises(DataError, match="field -1 is negative"):
        model.score(Rows(np.array([[0, 1]]), fields=np.array([[0, -1]])))
