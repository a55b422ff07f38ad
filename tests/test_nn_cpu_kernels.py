"""The C++ kernels of the pairwise operator against a float64 double sum over pairs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crossfm import _native  # noqa: E402
from crossfm.errors import DataError  # noqa: E402
from crossfm.nn.ops import cpu  # noqa: E402
from crossfm.nn.ops.arguments import Inputs, Options, Step, Steps, Upstream  # noqa: E402

RTOL = 1e-5  # float32 sums of tens of terms, relative to the largest entry of an array
F = 5  # fields
N = 40  # features: few, so that ids repeat within a batch and within a row


class Case(NamedTuple):
    """A batch, its tables, and the gradients of its outputs, in NumPy."""

    ids: np.ndarray
    values: np.ndarray | None
    offsets: np.ndarray | None
    fields: np.ndarray | None
    weights: np.ndarray | None
    factors: np.ndarray
    across: bool
    reduce_sum: bool
    pooled: bool
    gl: np.ndarray | None
    gc: np.ndarray | None
    gp: np.ndarray | None
    gS: np.ndarray | None

    @property
    def n_rows(self) -> int:
        return len(self.ids) if self.offsets is None else len(self.offsets) - 1

    def rows(self) -> list[tuple[list[int], list[float], list[int], list[int]]]:
        """Ids, values, fields and positions of each row."""
        flat = self.ids.reshape(-1)
        m = self.ids.shape[1] if self.ids.ndim == 2 else 0
        if self.offsets is None:
            bounds = [(r * m, (r + 1) * m) for r in range(self.n_rows)]
        else:
            bounds = list(itertools.pairwise(self.offsets.tolist()))
        x = np.ones(flat.size) if self.values is None else self.values.reshape(-1)
        f = np.zeros(flat.size, int)
        if self.fields is not None:
            f = np.broadcast_to(self.fields, self.ids.shape).reshape(-1)
        return [
            (flat[a:b].tolist(), x[a:b].tolist(), f[a:b].tolist(), list(range(a, b)))
            for a, b in bounds
        ]


def make_case(
    k: int,
    *,
    seed: int = 0,
    n_rows: int = 23,
    ragged: bool = True,
    across: bool = False,
    reduce_sum: bool = True,
    pooled: bool = False,
    values: bool = True,
    weights: bool = True,
    id_type: type = np.int64,
    field_type: type = np.int32,
    columns: bool = False,
    n_features: int = N,
    given: str = "lcpS",
) -> Case:
    rng = np.random.default_rng(seed)
    floats = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    offsets = None
    if ragged:
        lengths = rng.integers(0, 9, n_rows)  # some rows are empty, some fields come twice
        lengths[::7] = 0
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        shape: tuple[int, ...] = (int(offsets[-1]),)
    else:
        shape = (n_rows, 7)
    ids = rng.integers(0, n_features, shape).astype(id_type)
    fields = None
    if across or pooled:
        fields = rng.integers(0, F, shape[-1:] if columns else shape).astype(field_type)
    return Case(
        ids,
        floats(*shape) if values else None,
        offsets,
        fields,
        floats(n_features) if weights else None,
        floats(n_features, k),
        across,
        reduce_sum,
        pooled,
        floats(n_rows) if "l" in given else None,
        (floats(n_rows) if reduce_sum else floats(n_rows, k)) if "c" in given else None,
        floats(n_rows, F, k) if pooled and "p" in given else None,
        floats(n_rows, k) if "S" in given else None,
    )


def by_pairs(case: Case) -> dict[str, np.ndarray]:
    """Outputs and gradients by their definitions, pair by pair."""
    V = case.factors.astype(np.float64)
    w = np.zeros(len(V)) if case.weights is None else case.weights.astype(np.float64)
    n, k = case.n_rows, V.shape[1]
    out = {
        "linear": np.zeros(n), "crossed": np.zeros((n, k)), "pooled": np.zeros((n, F, k)),
        "S": np.zeros((n, k)), "gw": np.zeros(len(V)), "gV": np.zeros(V.shape),
        "gx": np.zeros(case.ids.size),
    }  # fmt: skip
    for r, (ids, x, fields, positions) in enumerate(case.rows()):
        gl = 0.0 if case.gl is None else float(case.gl[r])
        gc = np.zeros(k) if case.gc is None else np.broadcast_to(case.gc[r], k).astype(float)
        for t, i in enumerate(ids):
            out["linear"][r] += w[i] * x[t]
            out["S"][r] += x[t] * V[i]
            out["pooled"][r, fields[t]] += x[t] * V[i]
            h = np.zeros(k)  # gradient of x_i v_i
            for s, j in enumerate(ids):
                if s != t and not (case.across and fields[s] == fields[t]):
                    out["crossed"][r] += 0.5 * x[t] * V[i] * x[s] * V[j]
                    h += gc * x[s] * V[j]
            if case.gp is not None:
                h += case.gp[r, fields[t]]
            if case.gS is not None:
                h += case.gS[r]
            out["gw"][i] += gl * x[t]
            out["gV"][i] += x[t] * h
            out["gx"][positions[t]] += gl * w[i] + h @ V[i]
    if case.reduce_sum:
        out["crossed"] = out["crossed"].sum(1)
    return out


def tensor(array: np.ndarray | None) -> Any:
    return None if array is None else torch.from_numpy(np.ascontiguousarray(array))


def inputs(case: Case) -> Inputs:
    arrays = (case.ids, case.values, case.offsets, case.fields, case.weights, case.factors)
    return Inputs(*map(tensor, arrays))


def grads(case: Case) -> Upstream:
    return Upstream(*map(tensor, (case.gl, case.gc, case.gp, case.gS)))


def options(case: Case) -> Options:
    return Options(F, case.across, case.reduce_sum, case.pooled)


def forward(case: Case) -> tuple[Any, ...]:
    return cpu.forward(inputs(case), options(case))


def backward(case: Case, sparse: bool = True, need_values: bool = True) -> tuple[Any, ...]:
    S = forward(case)[3]
    return cpu.backward(grads(case), inputs(case), S, options(case), need_values, sparse)


def close(got: Any, want: np.ndarray, scale: float | None = None) -> None:
    got = got.numpy() if hasattr(got, "numpy") else got
    assert got.shape == want.shape
    size = scale if scale is not None else np.abs(want).max(initial=0.0)
    np.testing.assert_allclose(got, want, rtol=RTOL, atol=RTOL * max(size, 1e-3))


def check(case: Case) -> None:
    want = by_pairs(case)
    linear, crossed, pooled, S = forward(case)
    close(linear, want["linear"])
    close(crossed, want["crossed"])
    close(S, want["S"])
    if case.pooled:
        close(pooled, want["pooled"])
    else:
        assert pooled.shape == (0,)
    rows, gw, gV, gx = backward(case)
    used = np.unique(case.ids)
    assert rows.tolist() == used.tolist()
    close(gV, want["gV"][used])
    close(gx, want["gx"])
    if case.weights is None:
        assert gw.shape == (0,)
    else:
        close(gw, want["gw"][used])
    rows, gw, gV, gx = backward(case, sparse=False, need_values=False)
    assert rows.shape == gx.shape == (0,)
    close(gV, want["gV"])
    if case.weights is not None:
        close(gw, want["gw"])


@pytest.mark.parametrize("k", [1, 3, 16, 17, 64])
@pytest.mark.parametrize("reduce_sum", [True, False])
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_outputs_and_gradients(k: int, reduce_sum: bool, across: bool, pooled: bool) -> None:
    check(make_case(k, reduce_sum=reduce_sum, across=across, pooled=pooled, seed=k))


@pytest.mark.parametrize("id_type", [np.int32, np.int64])
@pytest.mark.parametrize("field_type", [np.int16, np.int32, np.int64])
@pytest.mark.parametrize("columns", [False, True])
def test_types_and_fields_of_columns(id_type: type, field_type: type, columns: bool) -> None:
    for seed in range(3):
        check(
            make_case(
                16, ragged=False, across=True, pooled=seed == 1, id_type=id_type,
                field_type=field_type, columns=columns, seed=seed,
            )
        )  # fmt: skip


@pytest.mark.parametrize("k", [1, 3, 7, 16, 50])
@pytest.mark.parametrize("given", ["l", "c", "lc", "S", "", "lcS"])
@pytest.mark.parametrize("ragged", [False, True])
def test_without_values_and_with_few_gradients(k: int, given: str, ragged: bool) -> None:
    check(make_case(k, values=False, given=given, ragged=ragged))


def test_columns_of_distinct_fields() -> None:
    case = make_case(16, ragged=False, across=True, columns=True, values=False)
    case = case._replace(ids=case.ids[:, :F].copy(), fields=np.array([3, 0, 4, 1, 2]))
    check(case)
    check(case._replace(weights=None))


def test_many_rows_on_several_threads() -> None:
    check(make_case(3, n_rows=3000, n_features=3_000, across=True, pooled=True))


def empty_cases() -> list[Case]:
    no_rows = make_case(16, n_rows=0, across=True, pooled=True)
    flat = make_case(16, n_rows=0, ragged=False)
    no_features = make_case(16, across=True, pooled=True)
    zero = np.zeros(0, np.float32)
    no_features = no_features._replace(
        ids=no_features.ids[:0], values=zero, fields=no_features.fields[:0],
        offsets=np.zeros(no_features.n_rows + 1, np.int64),
    )  # fmt: skip
    no_columns = make_case(3, ragged=False, values=False)
    return [no_rows, flat, no_features, no_columns._replace(ids=no_columns.ids[:, :0])]


@pytest.mark.parametrize("case", empty_cases(), ids=["rows", "flat", "features", "columns"])
def test_nothing_gives_zeros(case: Case) -> None:
    check(case)


def test_a_feature_alone_crosses_to_nothing() -> None:
    case = make_case(16, ragged=False)
    case = case._replace(ids=case.ids[:, :1].copy(), values=case.values[:, :1].copy())
    assert not forward(case)[1].any()
    pooled = make_case(16, ragged=False, across=True, columns=True)._replace(fields=np.full(7, 2))
    assert not forward(pooled)[1].any()


# --- errors ---------------------------------------------------------------------------------


def both(case: Case, message: str) -> None:
    """Forward and backward refuse the batch, and an update leaves the tables as they are."""
    with pytest.raises(DataError, match=message):
        forward(case)
    S = torch.zeros(case.n_rows, case.factors.shape[1])
    with pytest.raises(DataError, match=message):
        cpu.backward(grads(case), inputs(case), S, options(case), True, True)
    before, step = case.factors.copy(), Step("sgd", {}, {"lr": 1.0})
    with pytest.raises(DataError, match=message):
        cpu.backward_update(grads(case), inputs(case), S, options(case), False, Steps(step, step))
    np.testing.assert_array_equal(case.factors, before)


@pytest.mark.parametrize("bad", [-1, N, 2**40, -(2**40)])
def test_ids_out_of_range(bad: int) -> None:
    case = make_case(16)
    case.ids[30:] = bad
    row = int(np.searchsorted(case.offsets, 30, side="right")) - 1
    both(case, rf"ids\[30\] \(row {row}\) = {bad}, expected 0 to {N - 1}")
    flat = make_case(16, ragged=False)
    flat.ids[11, 4] = bad
    both(flat, rf"ids\[11, 4\] = {bad}, expected 0 to {N - 1}")


def test_narrow_ids_out_of_range() -> None:
    case = make_case(3, ragged=False, id_type=np.int32)
    case.ids[2, 1] = -(2**31)
    both(case, r"ids\[2, 1\] = -2147483648")


@pytest.mark.parametrize(
    ("at", "offset"), [(0, 1), (0, -1), (4, 10**12), (5, -3), (-1, 3), (-1, 10**9)]
)
def test_offsets_that_do_not_rise_to_the_end(at: int, offset: int) -> None:
    case = make_case(16)
    case.offsets[at] = offset
    with np.errstate(over="ignore"):
        both(case, r"offsets\[\d+\] = .*, expected offsets that rise from 0 to the number of ids")


@pytest.mark.parametrize("bad", [-1, F, 2**31 - 1])
@pytest.mark.parametrize("columns", [False, True])
def test_fields_out_of_range(bad: int, columns: bool) -> None:
    case = make_case(16, ragged=False, across=True, columns=columns)
    case.fields.reshape(-1)[3] = bad
    both(case, rf"fields\[3\] = {bad}, expected 0 to {F - 1}")


def test_an_unknown_optimizer_and_rows_out_of_range() -> None:
    table, grad = torch.zeros(3, 2), torch.zeros(1, 2)
    with pytest.raises(DataError, match=r"unknown optimizer 'adagard'.*Did you mean 'adagrad'"):
        cpu.update_rows(torch.tensor([0]), grad, table, Step("adagard", {}, {"lr": 0.1}))
    with pytest.raises(DataError, match=r"rows\[0\] = 3, expected 0 to 2"):
        cpu.update_rows(torch.tensor([3]), grad, table, Step("sgd", {}, {"lr": 0.1}))


# --- steps ----------------------------------------------------------------------------------

HYPER = {"lr": 0.1, "l2": 0.02, "eps": 1e-6, "beta1": 0.9, "beta2": 0.999, "step": 3, "l1": 0.05,
         "beta": 1.0}  # fmt: skip
STATES = {"sgd": "", "adagrad": "a", "rowwise_adagrad": "a", "adam": "mv", "ftrl": "zn"}


def make_state(kind: str, shape: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    if kind == "rowwise_adagrad":
        shape = shape[:1]
    state = {name: rng.uniform(0.1, 1.0, shape).astype(np.float32) for name in STATES[kind]}
    if "z" in state:
        state["z"] -= np.float32(0.5)
        state["n"][::3] = 0.0  # never touched yet
    return state


def stepped(
    kind: str, rows: np.ndarray, g: np.ndarray, p: np.ndarray, state: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The table and its states after the step, by the formulas."""
    h = HYPER
    p = p.astype(np.float64)
    state = {name: s.astype(np.float64) for name, s in state.items()}
    old = p[rows]
    if kind != "ftrl":
        g = g + h["l2"] * old
    if kind == "sgd":
        p[rows] = old - h["lr"] * g
    elif kind in ("adagrad", "rowwise_adagrad"):
        row = kind == "rowwise_adagrad" and g.ndim == 2
        state["a"][rows] += (g * g).mean(1) if row else g * g
        a = state["a"][rows][:, None] if row else state["a"][rows]
        p[rows] = old - h["lr"] * g / (np.sqrt(a) + h["eps"])
    elif kind == "adam":
        m = state["m"][rows] = h["beta1"] * state["m"][rows] + (1 - h["beta1"]) * g
        v = state["v"][rows] = h["beta2"] * state["v"][rows] + (1 - h["beta2"]) * g * g
        m, v = m / (1 - h["beta1"] ** h["step"]), v / (1 - h["beta2"] ** h["step"])
        p[rows] = old - h["lr"] * m / (np.sqrt(v) + h["eps"])
    else:
        n = state["n"][rows]
        state["n"][rows] = n + g * g
        state["z"][rows] += g - (np.sqrt(n + g * g) - np.sqrt(n)) / h["lr"] * old
        z = state["z"][rows]
        shrunk = np.sign(z) * np.maximum(np.abs(z) - h["l1"], 0.0)
        p[rows] = -shrunk / ((h["beta"] + np.sqrt(n + g * g)) / h["lr"] + h["l2"])
    return p, state


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("k", [0, 1, 3, 16, 17, 64])
def test_update_rows(kind: str, k: int) -> None:
    rng = np.random.default_rng(k)
    shape = (N, k) if k else (N,)
    table = rng.normal(size=shape).astype(np.float32)
    rows = rng.permutation(N)[:13]
    g = rng.normal(size=(13, *shape[1:])).astype(np.float32)
    state = make_state(kind, shape, k)
    want, want_state = stepped(kind, rows, g, table, state)
    tensors = {name: torch.from_numpy(s) for name, s in state.items()}
    p = torch.from_numpy(table)
    version = p._version
    cpu.update_rows(torch.from_numpy(rows), torch.from_numpy(g), p, Step(kind, tensors, HYPER))
    close(p, want)
    for name, s in tensors.items():
        close(s, want_state[name])
    assert p._version > version  # autograd sees that the table has changed


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("k", [3, 16])
@pytest.mark.parametrize("across", [False, True])
def test_backward_update_is_backward_then_update(kind: str, k: int, across: bool) -> None:
    case = make_case(k, across=across, pooled=True, seed=4)
    want = by_pairs(case)
    used = np.unique(case.ids)
    factors_state = make_state(kind, (N, k), 1)
    weights_state = make_state(kind, (N,), 2)
    want_V, want_sV = stepped(kind, used, want["gV"][used], case.factors, factors_state)
    want_w, want_sw = stepped(kind, used, want["gw"][used], case.weights, weights_state)
    S = forward(case)[3]
    tables = inputs(case)
    sw = {name: torch.from_numpy(s) for name, s in weights_state.items()}
    sV = {name: torch.from_numpy(s) for name, s in factors_state.items()}
    steps = Steps(Step(kind, sw, HYPER), Step(kind, sV, HYPER))
    gx = cpu.backward_update(grads(case), tables, S, options(case), True, steps)
    close(gx, want["gx"])
    close(tables.weights, want_w)
    close(tables.factors, want_V)
    for got, expected in ((sw, want_sw), (sV, want_sV)):
        for name, s in got.items():
            close(s, expected[name])


def test_a_table_that_is_not_contiguous_steps_too() -> None:
    case = make_case(3, weights=False)
    want = case.factors.copy()
    want[np.unique(case.ids)] -= 0.1 * by_pairs(case)["gV"][np.unique(case.ids)]
    wide = torch.zeros(N, 6)
    factors = wide[:, ::2]
    factors.copy_(torch.from_numpy(case.factors))
    strided = inputs(case)._replace(factors=factors)
    steps = Steps(None, Step("sgd", {}, {"lr": 0.1, "l2": 0.0}))
    cpu.backward_update(grads(case), strided, forward(case)[3], options(case), False, steps)
    close(factors, want)


# --- threads and instruction sets -----------------------------------------------------------


@pytest.mark.parametrize("across", [False, True])
def test_any_number_of_threads_gives_the_same_bits(across: bool) -> None:
    case = make_case(17, n_rows=6000, n_features=3000, across=across, pooled=across)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            tables = Inputs(*[None if t is None else t.clone() for t in inputs(case)])
            outputs = [*forward(case), *backward(case)]
            state = {"a": torch.full((3000,), 0.1)}, {"a": torch.full((3000,), 0.1)}
            steps = Steps(*[Step("rowwise_adagrad", part, HYPER) for part in state])
            cpu.backward_update(grads(case), tables, outputs[3], options(case), False, steps)
            assert not torch.equal(tables.factors, inputs(case).factors)
            results.append([*outputs, tables.weights, tables.factors, state[0]["a"], state[1]["a"]])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.slow
def test_every_instruction_set_level() -> None:
    """The same checks in processes that are held to one level each."""
    selected = "outputs_and_gradients and (17 or 64) or update"
    for level in _native.levels():
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", selected,
             __file__],
            env={**os.environ, "CROSSFM_ISA": level}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{level}:\n{done.stdout[-3000:]}"
