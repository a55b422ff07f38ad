"""Models of float16 and int8 factors: what is rounded, how they score, what their files hold."""

from __future__ import annotations

import copy
import itertools
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from cli_runs import crossfm_runs
from test_store import make_model, put, rewrite

import crossfm as cf
from crossfm import _native
from crossfm.data.rows import Rows
from crossfm.errors import DataError, ModelFileError
from crossfm.explain import explain_row
from crossfm.factors import PackedFactors
from crossfm.model import FactorModel
from crossfm.solvers import AdaGrad, FusedTrainer
from crossfm.store import load_model, save_model

KINDS = ("float16", "int8")
RTOL, ATOL = 2e-5, 2e-4  # float32, sums of a few hundred terms of size 1


def rounded(V, precision):
    """The definition, in float64."""
    if precision == "float16":
        return V.astype(np.float16).astype(np.float64)
    flat = V.reshape(len(V), -1).astype(np.float64)
    step = np.abs(flat).max(axis=1, keepdims=True) / 127
    return (np.rint(flat / step) * step).reshape(V.shape)


def double_sum(model, V, rows, fields=None):
    """bias + linear + the plain sum over pairs, in float64."""
    offsets, scores = rows.row_offsets(), []
    for r in range(len(rows)):
        at = slice(offsets[r], offsets[r + 1])
        ids = rows.ids[at]
        x = np.ones(len(ids)) if rows.values is None else rows.values[at].astype(np.float64)
        f = None if fields is None else fields[ids]
        y = model.bias + sum(x * model.weights[ids].astype(np.float64))
        for j in range(len(ids)):
            for i in range(j):
                if model.interactions == "across_fields" and f[i] == f[j]:
                    continue
                if V.ndim == 3:
                    y += x[i] * x[j] * (V[ids[i], f[j]] @ V[ids[j], f[i]])
                    continue
                weight = 1.0 if model.field_weights is None else model.field_weights[f[i], f[j]]
                y += weight * x[i] * x[j] * (V[ids[i]] @ V[ids[j]])
        scores.append(y)
    return np.array(scores)


def all_rows(rng, n):
    return (
        Rows(rng.integers(0, n, (20, 7))),
        Rows(rng.integers(0, n, 5), offsets=np.array([0, 0, 1, 5, 5])),
        Rows(
            rng.integers(0, n, 40).astype(np.int64),
            values=rng.normal(size=40).astype(np.float32),
            offsets=np.array([0, 0, 1, 10, 40]),
        ),
    )


@pytest.mark.parametrize("k", [1, 3, 4, 8, 12, 16, 17, 24, 32, 39, 64, 128])
@pytest.mark.parametrize("precision", KINDS)
def test_scores_are_those_of_the_rounded_factors(k, precision):
    rng = np.random.default_rng(k)
    n = 50
    model = FactorModel(0.3, rng.normal(size=n), rng.normal(size=(n, k)) / np.sqrt(k))
    small = model.quantize(precision)
    V = rounded(model.factors, precision)
    np.testing.assert_allclose(small.factors, V, rtol=1e-6, atol=0)
    for rows in all_rows(rng, n):
        want = double_sum(model, V, rows)
        np.testing.assert_allclose(small.score(rows, n_jobs=1), want, rtol=RTOL, atol=ATOL)
        np.testing.assert_array_equal(small.score(rows, n_jobs=3), small.score(rows, n_jobs=1))


@pytest.mark.parametrize("kind", ["across", "ffm", "ffm of odd length", "fwfm"])
@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("bags", [False, True])
def test_models_that_go_by_field(kind, precision, bags):
    rng = np.random.default_rng(5)
    n_fields, each, k = 5, 6, {"ffm of odd length": 3}.get(kind, 4)
    fields = np.repeat(np.arange(n_fields), each)
    n = len(fields)
    shape = (n, n_fields, k) if kind.startswith("ffm") else (n, k)
    weights = rng.normal(size=(n_fields, n_fields))
    weights = (weights + weights.T) * (1 - np.eye(n_fields))
    model = FactorModel(
        0.1,
        rng.normal(size=n),
        rng.normal(size=shape),
        "across_fields",
        fields,
        field_weights=weights if kind == "fwfm" else None,
    )
    small = model.quantize(precision)
    assert (small.kind, small.n_fields, small.n_factors) == (
        model.kind, model.n_fields, model.n_factors,
    )  # fmt: skip
    if bags:
        rows = Rows(
            np.sort(rng.integers(0, n, (30, 9)), axis=1),
            values=rng.normal(size=270).astype(np.float32),
        )
    else:
        rows = Rows(np.arange(n_fields) * each + rng.integers(0, each, (30, n_fields)))
    V = rounded(model.factors, precision)
    want = double_sum(model, V, rows, fields)
    np.testing.assert_allclose(small.score(rows), want, rtol=RTOL, atol=ATOL)
    explained = [explain_row(small, rows[r : r + 1]).score for r in range(3)]
    np.testing.assert_allclose(explained, want[:3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", KINDS)
def test_matrices_of_fields_and_higher_orders(precision):
    rng = np.random.default_rng(6)
    n, n_fields, k = 20, 4, 3
    fields = np.repeat(np.arange(n_fields), 5)
    M = rng.normal(size=(n_fields, n_fields, k, k))
    M += M.transpose(1, 0, 3, 2)
    M[np.arange(n_fields), np.arange(n_fields)] = 0
    rows = Rows(np.arange(n_fields) * 5 + rng.integers(0, 5, (30, n_fields)))
    w = rng.normal(size=n)
    matrixed = FactorModel(
        0.1, w, rng.normal(size=(n, k)), "across_fields", fields, field_weights=M
    ).quantize(precision)
    V = matrixed.factors.astype(np.float64)
    want = [
        0.1
        + sum(w[ids])
        + sum(V[i] @ M[f, g] @ V[j] for g, j in enumerate(ids) for f, i in enumerate(ids[:g]))
        for ids in rows.ids.reshape(30, -1)
    ]
    np.testing.assert_allclose(matrixed.score(rows), want, rtol=RTOL, atol=ATOL)
    order = FactorModel(0.1, w, rng.normal(size=(n, 2, k)), order=3).quantize(precision)
    V = order.factors.astype(np.float64)
    want = [
        0.1
        + sum(w[ids])
        + sum((V[i, 0] * V[j, 0]).sum() for i, j in itertools.combinations(ids, 2))
        + sum((V[i, 1] * V[j, 1] * V[h, 1]).sum() for i, j, h in itertools.combinations(ids, 3))
        for ids in rows.ids.reshape(30, -1)
    ]
    np.testing.assert_allclose(order.score(rows), want, rtol=RTOL, atol=ATOL)


def test_errors_stay_within_what_is_promised():
    V = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    V[3] = 0
    V[4] *= 1e-30
    half = np.abs(PackedFactors.pack(V, "float16").unpack() - V)
    assert (half <= np.maximum(2.0**-11 * np.abs(V), 2.0**-25)).all()
    eight = np.abs(PackedFactors.pack(V, "int8").unpack() - V)
    assert (eight <= 1.0001 / 254 * np.abs(V).max(axis=1, keepdims=True)).all()
    assert not eight[3].any()


def test_rounding_a_feature_too_small_for_a_scale():
    V = np.full((1, 4), 1e-45, np.float32)  # a 127th of it is 0
    assert not PackedFactors.pack(V, "int8").unpack().any()


HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
HALVES = HALVES[np.isfinite(HALVES)].astype(np.float32)

LEVEL_SCRIPT = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_precision import HALVES, FactorModel, Rows, all_rows, KINDS
from crossfm import _native
half = FactorModel(0, np.zeros(len(HALVES)), HALVES[:, None]).quantize("float16")
ids = np.arange(len(HALVES))
squares = half.score(Rows(np.stack([ids, ids], axis=1)))
assert (squares == HALVES * HALVES).all()  # 22 bits at most: exact
ones = half.score(Rows(np.stack([ids, np.full(len(ids), np.flatnonzero(HALVES == 1)[0])], axis=1)))
large = np.abs(HALVES) > 0.1
assert (np.sign(ones[large]) == np.sign(HALVES[large])).all()
scores = []
for k in (3, 16, 24, 64):
    rng = np.random.default_rng(k)
    model = FactorModel(0.3, rng.normal(size=50), rng.normal(size=(50, k)) / np.sqrt(k))
    for precision in KINDS:
        scores += [model.quantize(precision).score(rows).tolist() for rows in all_rows(rng, 50)]
print(json.dumps([_native.isa, scores]))
"""


def test_all_instruction_sets_read_the_same_numbers():
    found = []
    for level in _native.levels():
        run = subprocess.run(
            [sys.executable, "-c", LEVEL_SCRIPT, os.path.dirname(__file__)],
            env={**os.environ, "CROSSFM_ISA": level},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        isa, scores = json.loads(run.stdout)
        assert isa == level
        found.append(scores)
    for scores in found[1:]:
        for got, want in zip(scores, found[0], strict=True):
            np.testing.assert_allclose(got, want, rtol=RTOL, atol=ATOL)


# --- the model -------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", KINDS)
def test_what_a_rounded_model_is(precision):
    model = make_model(9, 5, metadata={"a": 1})
    small = model.quantize(precision)
    assert (model.precision, small.precision) == ("float32", precision)
    assert repr(small).endswith(f"precision={precision!r})")
    assert small.quantize(precision) is small
    assert (small.n_features, small.n_factors, small.metadata) == (9, 5, {"a": 1})
    np.testing.assert_array_equal(small.weights, model.weights)
    np.testing.assert_array_equal(small.vectors([3, 1]), small.factors[[3, 1]])
    np.testing.assert_array_equal(small.vectors(4), small.factors[4])
    for array in (small.weights, small.factors, small.packed.codes):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(AttributeError, match="no attribute 'facters'"):
        _ = small.facters
    back = small.quantize("float32")
    assert back.precision == "float32"
    np.testing.assert_array_equal(back.factors, small.factors)
    for other in (pickle.loads(pickle.dumps(small)), copy.deepcopy(small)):  # noqa: S301 - our own
        assert other.precision == precision
        np.testing.assert_array_equal(other.factors, small.factors)


def test_bytes_in_memory():
    V = np.ones((1000, 64), np.float32)
    assert PackedFactors.pack(V, "float16").nbytes == 1000 * 128
    assert PackedFactors.pack(V, "int8").nbytes == 1000 * (64 + 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_model().quantize("int4"), "precision is 'int4', expected one of .*mean"),
        (lambda: FactorModel(0, [0], [[7e4]]).quantize("float16"), "70000 does not fit"),
        (lambda: packed(np.float16, np.nan), "not finite"),
        (lambda: packed(np.int8, 1), "need scales"),
        (lambda: packed(np.int8, 1, [-1.0, 1]), "the scale of feature 0 is -1.0"),
        (lambda: packed(np.int8, 1, [1.0, np.inf]), "the scale of feature 1 is inf"),
        (lambda: packed(np.int8, 1, [1.0]), r"scales have shape \(1,\)"),
        (lambda: packed(np.int16, 1), "int16, expected float16 or int8"),
        (lambda: PackedFactors(np.zeros((2, 5), np.int8), None, (2, 5)), "codes have shape"),
        (lambda: FactorModel(0, [0], packed(np.float16, 1)), "weights has 1 features, factors"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


def packed(dtype, value, scales=None):
    codes = np.full((2, 4), value, dtype)
    return PackedFactors(codes, None if scales is None else np.array(scales, np.float32), (2, 4))


# --- files and estimators --------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 3, 16])
@pytest.mark.parametrize("fields", [0, 3])
@pytest.mark.parametrize("precision", KINDS)
def test_files(tmp_path, k, fields, precision):
    model = make_model(11, k)
    if fields:
        V = np.random.default_rng(1).normal(size=(11, fields, max(k, 1)))
        model = FactorModel(0.5, model.weights, V, field_of=model.field_of)
    save_model(model, tmp_path / "a", precision=precision)
    small = model.quantize(precision)
    save_model(small, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    stored = load_model(tmp_path / "a")
    assert stored.header.precision == stored.model.precision == precision
    version = 3 if precision == "int8" else 2 if fields else 1
    assert stored.header.format_version == version
    np.testing.assert_array_equal(stored.model.factors, small.factors)
    np.testing.assert_array_equal(stored.model.weights, model.weights)
    exact = load_model(tmp_path / "a", precision="float32").model
    assert exact.precision == "float32"
    np.testing.assert_array_equal(exact.factors, small.factors)
    with pytest.raises(DataError, match="precision is 'int9'"):
        load_model(tmp_path / "a", precision="int9")


def test_files_are_smaller(tmp_path):
    model = make_model(5000, 64)
    sizes = {}
    for precision in ("float32", *KINDS):
        save_model(model, tmp_path / precision, precision=precision)
        sizes[precision] = (tmp_path / precision).stat().st_size
    assert sizes["float16"] < 0.53 * sizes["float32"]
    assert sizes["int8"] < 0.30 * sizes["float32"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("tensors", "factor_scales", ...), "an entry for .*factor_scales"),
        (put("tensors", "factor_scales", "shape", [1, 6]), "factor_scales: shape"),
        (put("tensors", "factor_scales", "dtype", "F16"), "factor_scales: type"),
        (put("tensors", "factors", "dtype", "F32"), "names among"),
        (put("format_version", 5), "format version 5, .* pip install --upgrade crossfm"),
    ],
)
def test_files_that_lie(tmp_path, change, message):
    save_model(make_model(), tmp_path / "m", precision="int8")
    rewrite(tmp_path / "m", change)
    with pytest.raises(ModelFileError, match=message):
        load_model(tmp_path / "m")


LOG = {"user": [1, 1, 2, 2, 3, 3], "item": ["a", "b", "a", "b", "a", "b"]}
CLICKS = [0, 1, 1, 0, 1, 1]


@pytest.mark.parametrize("precision", KINDS)
def test_estimators(tmp_path, precision):
    model = cf.FMClassifier(random_state=0).fit(LOG, CLICKS)
    model.save(tmp_path / "m", precision=precision)
    small = cf.load(tmp_path / "m")
    assert small.model_.precision == precision
    np.testing.assert_array_equal(
        small.decision_function(LOG),
        model.model_.quantize(precision).score(model.schema_.transform(LOG)),
    )
    message = f"as {precision}, and training goes on from float32 only.*quantize.*crossfm.load"
    with pytest.raises(DataError, match=message):
        small.partial_fit({"user": [9], "item": ["c"]}, [1])
    with pytest.raises(DataError, match=message):
        small.set_params(warm_start=True).fit(LOG, CLICKS)
    assert small.predict(LOG).shape == (6,)  # as it was
    small.save(tmp_path / "again")
    assert (tmp_path / "again").stat().st_size == pytest.approx(
        (tmp_path / "m").stat().st_size, rel=0.05
    )
    cf.load(tmp_path / "m", precision="float32").partial_fit({"user": [9], "item": ["c"]}, [1])
    trainer = FusedTrainer(AdaGrad(n_factors=16), small.model_.n_features)
    with pytest.raises(DataError, match="training goes on from float32 only"):
        trainer.load([small.model_])


# --- the command -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from cli_runs import make_log

    folder = tmp_path_factory.mktemp("quantize")
    pq.write_table(pa.table(make_log()), folder / "log.parquet")
    target = next(name for name in ("rating", "score", "y") if name in make_log())
    crossfm_runs("fit", folder / "log.parquet", "--target", target, "-m", folder / "m", "-q",
                 "--factors", "32", "--epochs", "3", "--seed", "1")  # fmt: skip
    return folder


@pytest.mark.parametrize("precision", KINDS)
def test_the_command_measures_what_it_writes(files, tmp_path, precision):
    out = tmp_path / "small"
    words = ("quantize", files / "m", "-p", precision, "--on", files / "log.parquet", "-o", out)
    told = json.loads(crossfm_runs(*words, "--json").stdout)
    assert told["precision"] == {"before": "float32", "after": precision}
    assert told["bytes"]["after"] == out.stat().st_size < told["bytes"]["before"]
    for path, when in ((files / "m", "before"), (out, "after")):
        measured = json.loads(
            crossfm_runs("evaluate", path, files / "log.parquet", "--json").stdout
        )
        for name, value in measured["metrics"].items():
            assert told["metrics"][name][when] == pytest.approx(value, rel=1e-12)
    assert 0 < told["score_difference"]["mean"] <= told["score_difference"]["largest"] < 0.1
    text = crossfm_runs(*words).stdout
    assert "scores apart" in text
    assert f"float32 to {precision}" in text


def test_the_command_refuses(files, tmp_path):
    small = tmp_path / "x"
    crossfm_runs("quantize", files / "m", "-o", small, "-q")
    for words, message in (
        ((files / "m", "-p", "int4", "-o", tmp_path / "y"), "expected float16 or int8"),
        ((files / "m",), "give --on"),
        ((small, "-o", tmp_path / "y"), "as int8 already"),
    ):
        told = crossfm_runs("quantize", *words, code=2).stderr
        assert message in " ".join(told.replace("│", " ").split())
    assert not (tmp_path / "y").exists()
