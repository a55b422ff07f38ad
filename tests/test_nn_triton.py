"""The Triton kernels against the double sum over pairs, and the optimizers against NumPy.

On a machine without a CUDA device they run in Triton's interpreter, which has to be chosen before
Triton is imported; where something else imported it first, a process of its own runs this file.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

INTERPRET = "TRITON_INTERPRET"
ON_CUDA = torch.cuda.is_available() and os.environ.get(INTERPRET) != "1"
TOO_LATE = not ON_CUDA and os.environ.get(INTERPRET) != "1" and "triton" in sys.modules
DEVICE = "cuda" if ON_CUDA else "cpu"
if not ON_CUDA and not TOO_LATE:
    os.environ[INTERPRET] = "1"
    from crossfm.nn.ops import triton as ops

    TOO_LATE = not ops.interpreted()
elif ON_CUDA:
    from crossfm.nn.ops import triton as ops

from crossfm.errors import DataError  # noqa: E402
from crossfm.nn.ops.arguments import Inputs, Options, Step, Steps, Upstream  # noqa: E402

pytestmark = [
    # Triton 3.9 announces a later default of its compiler.
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset:UserWarning"),
]
needs_kernels = pytest.mark.skipif(
    TOO_LATE, reason="Triton was imported without its interpreter; a process of its own runs these"
)
RTOL = 1e-5  # float32 sums of up to some hundred terms, against the largest number of the result
# One rounding of a stored result; the interpreter cuts bfloat16 off where a GPU rounds.
HALF = {torch.bfloat16: 2**-8 if ON_CUDA else 2**-7, torch.float16: 2**-11}


class Problem(NamedTuple):
    ids: Any
    values: Any
    offsets: Any
    fields: Any
    weights: Any
    factors: Any
    n_fields: int

    def to(self, device: str) -> Problem:
        return Problem(*[a.to(device) if torch.is_tensor(a) else a for a in self])

    @property
    def inputs(self) -> Inputs:
        return Inputs(*self[:6])

    def rows(self) -> list[list[tuple[int, int, int]]]:
        """Of each row: place in the batch, id and field of each feature."""
        ids = self.ids.reshape(-1).tolist()
        if self.offsets is None:
            m = self.ids.shape[1]
            offsets = list(range(0, len(ids) + 1, m))
        else:
            offsets = self.offsets.tolist()
        fields = [0] * len(ids)
        if self.fields is not None:
            fields = self.fields.expand(self.ids.shape).reshape(-1).tolist()
        return [
            [(at, ids[at], fields[at]) for at in range(start, stop)]
            for start, stop in itertools.pairwise(offsets)
        ]


def ragged(k: int, dtype: Any = torch.float32, seed: int = 0, hot: int | None = None) -> Problem:
    """Rows of 0 to 8 features, fields in any order and shared, ids repeated within rows."""
    g = torch.Generator().manual_seed(seed)
    n, F, lengths = 23, 3, [4, 0, 8, 1, 0, 5, 2, 8, 3, 0]
    if hot is not None:
        lengths = lengths * 4
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    nnz = int(offsets[-1])
    ids = torch.randint(0, n, (nnz,), generator=g)
    ids[5] = ids[6]  # of one row
    if hot is not None:
        ids[torch.rand(nnz, generator=g) < 0.8] = hot
    return Problem(
        ids,
        torch.rand(nnz, generator=g) * 2 - 0.5,
        offsets,
        torch.randint(0, F, (nnz,), generator=g, dtype=torch.int32),
        torch.randn(n, generator=g).to(dtype),
        torch.randn(n, k, generator=g).to(dtype),
        F,
    )


def columns(k: int, *, repeat: bool = False, values: bool = False) -> Problem:
    """Three rows of five ids of int32; fields by column."""
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 11, (3, 5), generator=g, dtype=torch.int32)
    fields = torch.tensor([4, 2, 0, 2, 1] if repeat else [4, 2, 0, 3, 1])
    x = torch.rand(3, 5, generator=g) if values else None
    weights, factors = torch.randn(11, generator=g), torch.randn(11, k, generator=g)
    return Problem(ids, x, None, fields, weights, factors, 5)


def double_sum(problem: Problem, across: bool, reduce: bool) -> tuple[Any, ...]:
    """``(linear, crossed, pooled, S)`` in float64 by the definition, over all pairs; and leaves."""
    V = problem.factors.double().requires_grad_()
    w = (problem.weights if problem.weights is not None else V[:, 0] * 0).detach().double()
    w.requires_grad_()
    nnz = problem.ids.numel()
    x = torch.ones(nnz) if problem.values is None else problem.values.reshape(-1)
    x = x.double().requires_grad_()
    k = V.shape[1]
    linear, crossed, pooled, S = [], [], [], []
    zero = V.new_zeros(k)
    for row in problem.rows():
        u = [x[at] * V[i] for at, i, _ in row]
        linear.append(sum((w[i] * x[at] for at, i, _ in row), V.new_zeros(())))
        pairs = zero
        for b in range(len(row)):
            for a in range(b):
                if not across or row[a][2] != row[b][2]:
                    pairs = pairs + u[a] * u[b]
        crossed.append(pairs.sum() if reduce else pairs)
        S.append(sum(u, zero))
        fields = range(problem.n_fields)
        pooled.append(torch.stack([
            sum((v for v, (_, _, f) in zip(u, row, strict=True) if f == field), zero)
            for field in fields
        ]))  # fmt: skip
    out = tuple(torch.stack(each) for each in (linear, crossed, pooled, S))
    return out, (w, V, x)


def close(got: Any, want: Any, rtol: float = RTOL) -> None:
    """Each number within `rtol` of the largest; the same shape."""
    want = want.detach()
    assert got.shape == want.shape
    scale = max(float(want.abs().max()), 1e-3) if want.numel() else 1.0
    torch.testing.assert_close(got.detach().double().cpu(), want, rtol=0, atol=rtol * scale)


def upstream_of(problem: Problem, out: tuple[Any, ...], which: str = "lcps") -> list[Any]:
    g = torch.Generator().manual_seed(5)
    drawn = [torch.randn(each.shape, generator=g) for each in out]
    return [d if name in which else None for name, d in zip("lcps", drawn, strict=True)]


def expected_gradients(out: Any, leaves: Any, upstream: list[Any]) -> list[Any]:
    terms = [(o * g.double()).sum() for o, g in zip(out, upstream, strict=True) if g is not None]
    found = torch.autograd.grad(sum(terms), leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if f is None else f for leaf, f in zip(leaves, found, strict=True)
    ]


def sent(tensors: list[Any]) -> Upstream:
    return Upstream(*[None if t is None else t.to(DEVICE) for t in tensors])


def check(
    problem: Problem, across: bool, reduce: bool, pooled: bool, which: str = "lcps", sparse=True
) -> None:
    """Outputs and all gradients of one problem."""
    inputs, options = problem.to(DEVICE).inputs, Options(problem.n_fields, across, reduce, pooled)
    got = ops.forward(inputs, options)
    out, leaves = double_sum(problem, across, reduce)
    half = HALF.get(problem.factors.dtype, 0.0)
    close(got[0], out[0] if problem.weights is not None else out[0] * 0)
    close(got[1], out[1])
    close(got[3], out[3])
    assert got[1].dtype == torch.float32
    if pooled:
        assert got[2].dtype == problem.factors.dtype
        close(got[2], out[2], RTOL + half)
    else:
        assert got[2].shape == (0,)
        which = which.replace("p", "")
    upstream = upstream_of(problem, out, which)
    dw, dV, dx = expected_gradients(out, leaves, upstream)
    need = problem.values is not None
    rows, gw, gV, gx = ops.backward(sent(upstream), inputs, got[3], options, need, sparse)
    if sparse:
        seen = sorted(set(problem.ids.reshape(-1).tolist()))
        assert rows.tolist() == seen
        assert rows.dtype == torch.int64
        dw, dV = dw[seen], dV[seen]
    else:
        assert rows.shape == (0,)
    assert gV.dtype == problem.factors.dtype
    close(gV, dV, RTOL + half)
    if problem.weights is not None:
        close(gw, dw, RTOL + half)
    else:
        assert gw.shape == (0,)
    close(gx, dx if need else dx[:0])


@needs_kernels
@pytest.mark.parametrize("k", [1, 3, 16, 17, 64])
@pytest.mark.parametrize("across", [False, True])
def test_double_sum(k: int, across: bool) -> None:
    check(ragged(k), across, reduce=k != 16, pooled=k in (3, 16))


@needs_kernels
@pytest.mark.parametrize(
    ("across", "reduce", "pooled"),
    [(False, False, False), (True, False, True), (True, True, False), (False, True, True)],
)
@pytest.mark.parametrize("repeat", [False, True])
def test_constant_length(across: bool, reduce: bool, pooled: bool, repeat: bool) -> None:
    check(columns(5, repeat=repeat, values=reduce), across, reduce, pooled)


@needs_kernels
@pytest.mark.parametrize("which", ["l", "c", "p", "s"])
def test_each_gradient_alone(which: str) -> None:
    check(ragged(4), across=True, reduce=True, pooled=True, which=which)


@needs_kernels
@pytest.mark.parametrize("sparse", [True, False])
def test_a_hot_id_over_many_chunks(sparse: bool) -> None:
    problem = ragged(3, hot=7)
    assert int((problem.ids == 7).sum()) > 3 * 32
    check(problem, across=False, reduce=True, pooled=False, sparse=sparse)


@needs_kernels
@pytest.mark.parametrize("hot", [0, 22])
def test_a_hot_id_at_either_end(hot: int) -> None:
    check(ragged(3, hot=hot), across=True, reduce=False, pooled=False)


@needs_kernels
@pytest.mark.parametrize("count", [31, 32, 33, 64, 65])
def test_runs_that_end_at_the_border_of_a_chunk(count: int) -> None:
    ids = torch.tensor([2] * count + [3] * 32 + [5])[:, None]
    problem = Problem(
        ids, torch.linspace(0.5, 1.5, len(ids))[:, None], None, None, torch.ones(6),
        torch.arange(12.0).view(6, 2), 1,
    )  # fmt: skip
    check(problem, across=False, reduce=True, pooled=False, which="cs")


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("across", [False, True])
def test_half_precision_tables_are_summed_in_float32(dtype: Any, across: bool) -> None:
    check(ragged(17, dtype), across, reduce=True, pooled=True)


@needs_kernels
def test_double_precision() -> None:
    problem = ragged(3, torch.float64)
    problem = problem._replace(values=problem.values.double())
    got = ops.forward(problem.to(DEVICE).inputs, Options(3, True, True, False))
    out, _ = double_sum(problem, across=True, reduce=True)
    close(got[1], out[1], 1e-13)


@needs_kernels
def test_without_linear_weights() -> None:
    check(ragged(3)._replace(weights=None), across=False, reduce=True, pooled=False)


@needs_kernels
@pytest.mark.parametrize("rows", [0, 3])
def test_no_features(rows: int) -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    problem = Problem(empty, None, torch.zeros(rows + 1, dtype=torch.int64), empty, torch.ones(4),
                      torch.ones(4, 2), 2).to(DEVICE)  # fmt: skip
    options = Options(2, True, False, True)
    linear, crossed, pooled, S = ops.forward(problem.inputs, options)
    assert linear.tolist() == [0.0] * rows
    assert crossed.tolist() == S.tolist() == [[0.0, 0.0]] * rows
    assert pooled.shape == (rows, 2, 2)
    upstream = Upstream(linear, crossed, None, S)
    rows_, gw, gV, _ = ops.backward(upstream, problem.inputs, S, options, False, True)
    assert rows_.shape == gw.shape == (0,)
    assert gV.shape == (0, 2)


@needs_kernels
def test_ids_out_of_range_count_as_absent() -> None:
    problem = ragged(3)
    bad = problem.ids.clone()
    bad[[0, 3, 9, 20]] = torch.tensor([-1, 23, 2**40, -(2**40)])
    keep = torch.ones(len(bad), dtype=torch.bool)
    keep[[0, 3, 9, 20]] = False
    counts = torch.tensor([0, *keep.cumsum(0).tolist()])[problem.offsets]
    absent = problem._replace(ids=bad[keep], values=problem.values[keep], offsets=counts,
                              fields=problem.fields[keep])  # fmt: skip
    inputs, others = problem._replace(ids=bad).to(DEVICE).inputs, absent.to(DEVICE).inputs
    for across in (False, True):
        got = ops.forward(inputs, Options(3, across, True, True))
        want = ops.forward(others, Options(3, across, True, True))
        torch.testing.assert_close(got, want)
    upstream = sent([torch.ones(10), torch.ones(10), None, None])
    options = Options(3, False, True)
    got = ops.backward(upstream, inputs, want[3], options, True, True)
    want = ops.backward(upstream, others, want[3], options, True, True)
    torch.testing.assert_close(got[:3], want[:3])
    assert (got[3][~keep.to(DEVICE)] == 0).all()
    torch.testing.assert_close(got[3][keep.to(DEVICE)], want[3])


@pytest.mark.skipif(not ON_CUDA, reason="needs 4 GB, and as much again in the interpreter")
def test_a_table_of_more_than_two_to_the_31_numbers() -> None:
    n = 2**27 + 8
    V = torch.zeros(n, 16, dtype=torch.float16, device=DEVICE)
    ids = torch.tensor([[n - 1, n - 3], [n - 1, 0]], device=DEVICE)
    V[ids.flatten()] = torch.arange(1.0, 5.0, device=DEVICE).half()[:, None]
    inputs, options = Inputs(ids, None, None, None, None, V), Options(0, False, True)
    _, crossed, _, S = ops.forward(inputs, options)
    assert crossed.tolist() == [3 * 2 * 16, 3 * 4 * 16]
    upstream = Upstream(None, torch.ones(2, device=DEVICE), None, None)
    steps = Steps(None, Step("sgd", {}, {"lr": 1.0}))
    ops.backward_update(upstream, inputs, S, options, False, steps)
    assert V[[n - 1, n - 3, 0], 15].tolist() == [3 - 6, 2 - 3, 4 - 3]


@needs_kernels
def test_fields_out_of_range_are_not_followed() -> None:
    problem = ragged(3)
    fields = problem.fields.clone()
    fields[4], fields[-1] = 99, -1
    inputs = problem._replace(fields=fields).to(DEVICE).inputs
    pooled = ops.forward(inputs, Options(3, False, True, True))[2]
    assert torch.isfinite(pooled).all()


HYPER = {
    "sgd": {"lr": 0.1, "l2": 0.01},
    "adagrad": {"lr": 0.1, "l2": 0.01, "eps": 1e-8},
    "rowwise_adagrad": {"lr": 0.1, "l2": 0.01, "eps": 1e-8},
    "adam": {"lr": 0.1, "l2": 0.01, "eps": 1e-8, "beta1": 0.9, "beta2": 0.99, "step": 3},
    "ftrl": {"lr": 0.1, "l2": 0.01, "l1": 0.2, "beta": 1.0},
}


def state_of(kind: str, table: Any, seed: int = 3) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    shape = table.shape[:1] if kind == "rowwise_adagrad" else table.shape
    names = {"sgd": "", "adagrad": "a", "rowwise_adagrad": "a", "adam": "mv", "ftrl": "zn"}[kind]
    return {name: torch.rand(shape, generator=g) for name in names}


def stepped(kind: str, p: Any, g: Any, state: dict[str, Any], o: dict[str, float]) -> Any:
    """The formulas, on the touched rows, in float64; returns p and writes the states."""
    lr, l2 = o["lr"], o["l2"]
    if kind == "ftrl":
        n = state["n"] + g**2
        z = state["z"] + g - (np.sqrt(n) - np.sqrt(state["n"])) / lr * p
        state["n"], state["z"] = n, z
        shrunk = np.sign(z) * np.maximum(np.abs(z) - o["l1"], 0)
        return -shrunk / ((o["beta"] + np.sqrt(n)) / lr + l2)
    g = g + l2 * p
    if kind == "sgd":
        return p - lr * g
    if kind == "adam":
        state["m"] = o["beta1"] * state["m"] + (1 - o["beta1"]) * g
        state["v"] = o["beta2"] * state["v"] + (1 - o["beta2"]) * g**2
        m = state["m"] / (1 - o["beta1"] ** o["step"])
        return p - lr * m / (np.sqrt(state["v"] / (1 - o["beta2"] ** o["step"])) + o["eps"])
    if kind == "rowwise_adagrad" and g.ndim == 2:
        state["a"] = state["a"] + (g**2).mean(1)
        return p - lr * g / (np.sqrt(state["a"])[:, None] + o["eps"])
    state["a"] = state["a"] + g**2
    return p - lr * g / (np.sqrt(state["a"]) + o["eps"])


def check_step(kind: str, rows: Any, grad: Any, before: Any, state: Any, after: Any, new: Any):
    """The touched rows moved by the formula, the others not at all."""
    at = np.asarray(rows)
    wide = {name: s.double().numpy()[at] for name, s in state.items()}
    p = stepped(kind, before.double().numpy()[at], np.asarray(grad), wide, HYPER[kind])
    want = before.double().clone()
    want[at] = torch.from_numpy(p)
    half = HALF.get(before.dtype, 0.0)
    close(after, want, RTOL + half)
    rest = torch.ones(len(before), dtype=torch.bool)
    rest[at] = False
    assert torch.equal(after.cpu()[rest], before[rest])
    for name, s in state.items():
        want = s.double().clone()
        want[at] = torch.from_numpy(wide[name])
        close(new[name], want)


@needs_kernels
@pytest.mark.parametrize("kind", list(HYPER))
@pytest.mark.parametrize("k", [None, 5])
def test_update_rows(kind: str, k: int | None) -> None:
    g = torch.Generator().manual_seed(8)
    shape = (9,) if k is None else (9, k)
    table = torch.randn(shape, generator=g)
    rows = torch.tensor([1, 4, 8])
    grad = torch.randn(3, *shape[1:], generator=g)
    state = state_of(kind, table)
    after = table.clone().to(DEVICE)
    new = {name: s.clone().to(DEVICE) for name, s in state.items()}
    ops.update_rows(rows.to(DEVICE), grad.to(DEVICE), after, Step(kind, new, HYPER[kind]))
    check_step(kind, rows, grad.double(), table, state, after, new)


@needs_kernels
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*[(kind, torch.float32) for kind in HYPER], ("rowwise_adagrad", torch.bfloat16)],
)
def test_backward_and_update_in_one(kind: str, dtype: Any) -> None:
    problem = ragged(3, dtype, hot=7)
    across = kind == "adagrad"
    there = problem.to(DEVICE)
    there = there._replace(weights=there.weights.clone(), factors=there.factors.clone())
    out, leaves = double_sum(problem, across, True)
    upstream = upstream_of(problem, out, "lc")
    dw, dV, dx = expected_gradients(out, leaves, upstream)
    states = state_of(kind, problem.weights), state_of(kind, problem.factors)
    new = [{name: s.clone().to(DEVICE) for name, s in state.items()} for state in states]
    S = out[3].detach().float().to(DEVICE)
    steps = Steps(*[Step(kind, state, HYPER[kind]) for state in new])
    options = Options(3, across, True)
    gx = ops.backward_update(sent(upstream), there.inputs, S, options, True, steps)
    close(gx, dx)
    rows = sorted(set(problem.ids.tolist()))
    check_step(kind, rows, dw[rows], problem.weights, states[0], there.weights, new[0])
    check_step(kind, rows, dV[rows], problem.factors, states[1], there.factors, new[1])


@needs_kernels
def test_bad_arguments_are_named() -> None:
    problem = columns(2)
    with pytest.raises(DataError, match="fields are not given"):
        ops.forward(problem._replace(fields=None).to(DEVICE).inputs, Options(5, True, True, False))
    table = torch.zeros(4, 3, device=DEVICE)
    rows = torch.tensor([1], device=DEVICE)
    with pytest.raises(DataError, match=r"no optimizer 'adagard'.*Did you mean 'adagrad'"):
        ops.update_rows(rows, table[:1], table, Step("adagard", {}, {"lr": 1.0}))
    with pytest.raises(DataError, match="'table' has strides"):
        ops.update_rows(rows, table.T[:1], table.T, Step("sgd", {}, {"lr": 1.0}))
    inputs = problem._replace(factors=problem.factors.to("meta")).inputs
    with pytest.raises(DataError, match="factors is on meta, expected"):
        ops.forward(inputs, Options(5, False, True, False))


@pytest.mark.skipif(not TOO_LATE, reason="the interpreter could be chosen in this process")
def test_in_a_process_of_its_own() -> None:
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(
        call, env={**os.environ, INTERPRET: "1"}, cwd=Path(__file__).parents[1],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def test_without_triton_the_remedy_is_named() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from crossfm.errors import MissingExtraError\n"
        "try:\n    import crossfm.nn.ops.triton\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "pip install triton" in run.stdout, run.stderr


@pytest.mark.skipif(ON_CUDA, reason="the tests above run what a compiler made")
def test_the_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    script = Path(__file__).with_name("triton_without_gpu.py")
    # The switches of the interpreter and of the cache are this process's own.
    env = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    run = subprocess.run(
        [sys.executable, str(script)], env={**env, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.split() == [
        "pairwise_bwd_kernel",
        "pairwise_bwd_parts_kernel",
        "pairwise_fwd_kernel",
        "pairwise_values_kernel",
        "pools_fwd_kernel",
        "update_rows_kernel",
    ]
