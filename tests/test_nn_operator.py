"""The pairwise operator against the double sum over pairs, in float64."""

from __future__ import annotations

from itertools import pairwise as neighbours
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'crossfm[torch]'")

from crossfm import nn  # noqa: E402 - after the check for torch
from crossfm.errors import DataError  # noqa: E402
from crossfm.nn import Batch  # noqa: E402
from crossfm.nn.ops.operator import cross, implementation  # noqa: E402

N, F = 12, 5
SINGLE = 1e-5  # float32: largest error of a result, relative to its largest number
DOUBLE = 1e-12
IMPLEMENTATIONS = [
    ("reference", torch.float64),
    ("reference", torch.float32),
    ("cpu", torch.float32),
]
MODES = [False, True]  # across_fields


@pytest.fixture(autouse=True)
def scratch_of_nan():
    """``torch.empty`` holds NaN: what nobody writes shows."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(before)


# --- the definition ---------------------------------------------------------------------------


class Problem(NamedTuple):
    """A batch, and tables ``[N]`` and ``[N, k]`` in float64."""

    ids: torch.Tensor
    values: torch.Tensor | None
    offsets: torch.Tensor | None
    fields: torch.Tensor
    weights: torch.Tensor | None
    factors: torch.Tensor


def entries(problem):
    """For every row: the places of its features in the flat arrays."""
    if problem.offsets is None:
        n, m = problem.ids.shape
        return [range(r * m, r * m + m) for r in range(n)]
    return [range(a, b) for a, b in neighbours(problem.offsets.tolist())]


def double_sum(problem, across_fields):
    """``(linear [n], crossed [n, k], pooled [n, F, k])``, pair by pair."""
    k = problem.factors.shape[1]
    ids = problem.ids.reshape(-1).tolist()
    fields = problem.fields.expand(problem.ids.shape).reshape(-1).tolist()
    nothing = torch.zeros(k, dtype=torch.float64)
    linear, crossed, pooled = [], [], []
    for row in entries(problem):
        x = {j: 1.0 if problem.values is None else problem.values.reshape(-1)[j] for j in row}
        u = {j: problem.factors[ids[j]] * x[j] for j in row}
        p = [sum((u[j] for j in row if fields[j] == f), nothing) for f in range(F)]
        total = torch.zeros((), dtype=torch.float64)
        if problem.weights is not None:
            total = sum((problem.weights[ids[j]] * x[j] for j in row), total)
        vectors = p if across_fields else list(u.values())
        linear.append(total)
        crossed.append(
            sum((vectors[j] * vectors[i] for j in range(len(vectors)) for i in range(j)), nothing)
        )
        pooled.append(torch.stack(p))
    return torch.stack(linear), torch.stack(crossed), torch.stack(pooled)


def make(kind, k, seed=0, *, values=True, weights=True):
    """Rows of 0 to 9 features, or 3 rows of 7, whose fields do not stand together."""
    torch.manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    offsets = None
    if kind == "bags":
        lengths = torch.tensor([0, 1, 7, 9, 0, 3, 2, 0])
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        shape = (int(lengths.sum()),)
        fields = torch.randint(0, F, shape)
    elif kind == "columns":
        shape, fields = (3, 7), torch.tensor([3, 0, 1, 0, 4, 1, 0])
    else:
        shape, fields = (2, 39), torch.randint(0, F, (2, 39), dtype=torch.int32)
    ids = torch.randint(0, N - 2, shape)  # some ids come twice in a row, two never
    return Problem(
        ids,
        normal(*shape) if values else None,
        offsets,
        fields,
        normal(N) if weights else None,
        normal(N, k),
    )


def leaves(problem, dtype=torch.float64):
    """The problem in another type, floating tensors as leaves that require gradients."""
    return Problem(
        *[
            part.detach().to(dtype).requires_grad_()
            if part is not None and part.is_floating_point()
            else part
            for part in problem
        ]
    )


def run(problem, across_fields, reduce_sum=True, pooled=True, sparse_grad=False, ids=None):
    batch = Batch(
        problem.ids if ids is None else ids, problem.values, problem.offsets, problem.fields
    )
    return cross(
        batch,
        problem.weights,
        problem.factors,
        n_fields=F,
        across_fields=across_fields,
        reduce_sum=reduce_sum,
        pooled=pooled,
        sparse_grad=sparse_grad,
    )


def close(got, want, tolerance):
    """Largest error against the largest number; shapes alike."""
    got, want = got.detach().to_dense().double(), want.detach()
    assert got.shape == want.shape
    scale = float(want.abs().max()) if want.numel() else 0.0
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance * max(scale, 1e-3))


def floats(problem):
    return [part for part in problem if part is not None and part.is_floating_point()]


# --- outputs and gradients --------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 16, 17, 64])
@pytest.mark.parametrize("kind", ["bags", "columns", "wide"])
@pytest.mark.parametrize("across_fields", MODES)
@pytest.mark.parametrize(("name", "dtype"), IMPLEMENTATIONS)
def test_outputs_and_all_gradients(name, dtype, across_fields, kind, k):
    tolerance = DOUBLE if dtype == torch.float64 else SINGLE
    ours = leaves(make(kind, k), dtype)  # both compute with the same rounded numbers
    exact = leaves(ours)
    linear, crossed, pooled = double_sum(exact, across_fields)
    for reduce_sum in (True, False):
        wanted = linear, crossed.sum(1) if reduce_sum else crossed, pooled
        with implementation(name):
            out = run(ours, across_fields, reduce_sum)
        for got, want in zip(out, wanted, strict=True):
            close(got, want, tolerance)
        upstream = [torch.randn_like(part, dtype=dtype) for part in out]
        loss = sum((a.double() * b).sum() for a, b in zip(upstream, wanted, strict=True))
        want = torch.autograd.grad(loss, floats(exact), retain_graph=True)
        for sparse_grad in (True, False):
            with implementation(name):
                out = run(ours, across_fields, reduce_sum, sparse_grad=sparse_grad)
                got = torch.autograd.grad(out, floats(ours), upstream)
            for a, b in zip(got, want, strict=True):
                close(a, b, tolerance)


@pytest.mark.parametrize("across_fields", MODES)
@pytest.mark.parametrize(("name", "dtype"), IMPLEMENTATIONS)
@pytest.mark.parametrize("which", ["linear", "crossed", "pooled"])
@pytest.mark.parametrize(("values", "weights"), [(False, True), (True, False), (False, False)])
def test_gradients_of_one_output_alone(name, dtype, across_fields, which, values, weights):
    ours = leaves(make("bags", 5, values=values, weights=weights), dtype)
    exact = leaves(ours)
    place = ["linear", "crossed", "pooled"].index(which)
    wanted = double_sum(exact, across_fields)[place]
    with implementation(name):
        out = run(ours, across_fields, False, sparse_grad=True)[place]
    close(out, wanted, DOUBLE if dtype == torch.float64 else SINGLE)
    if which == "linear" and not weights:
        assert not out.any()
        return
    upstream = torch.randn_like(out)
    want = torch.autograd.grad(
        wanted, floats(exact), upstream.double(), allow_unused=True, materialize_grads=True
    )
    with implementation(name):
        got = torch.autograd.grad(out, floats(ours), upstream)
    for a, b in zip(got, want, strict=True):
        close(a, b, DOUBLE if dtype == torch.float64 else SINGLE)


@pytest.mark.parametrize("across_fields", MODES)
@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_int32_ids_and_fields_give_the_same_bits(name, across_fields):
    problem = leaves(make("bags", 7), torch.float32)
    narrow = problem._replace(ids=problem.ids.int(), fields=problem.fields.int())
    outs, grads = [], []
    for same in (problem, narrow):
        with implementation(name):
            out = run(same, across_fields, sparse_grad=True)
            grads.append(torch.autograd.grad([part.sum() for part in out], floats(same)))
        outs.append(out)
    for a, b in zip((*outs[0], *grads[0]), (*outs[1], *grads[1]), strict=True):
        torch.testing.assert_close(a.to_dense(), b.to_dense(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("of_values", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_the_type_of_sums_is_that_of_the_tables(name, of_values, dtype):
    """Values of another type change nothing but their own gradient's."""
    factors = torch.ones(3, 2, dtype=dtype, requires_grad=True)
    values = torch.tensor([[1.0, 2.0]], dtype=of_values, requires_grad=True)
    batch = Batch(torch.tensor([[0, 2]]), values)
    with implementation(name):
        found = cross(batch, factors[:, 0], factors, reduce_sum=False, sparse_grad=False)
        (found.linear.sum() + found.crossed.sum()).backward()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert (found.linear.dtype, found.crossed.dtype) == (wide, wide)
    assert (factors.grad.dtype, values.grad.dtype) == (dtype, of_values)
    assert (found.linear.tolist(), found.crossed.tolist()) == ([3.0], [[2.0, 2.0]])
    assert values.grad.tolist() == [[5.0, 3.0]]


@pytest.mark.parametrize("across_fields", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_tables_are_summed_in_single(dtype, across_fields):
    ours = leaves(make("wide", 16)._replace(values=None), dtype)
    exact = leaves(ours)
    linear, crossed, pooled = double_sum(exact, across_fields)
    out = run(ours, across_fields, sparse_grad=True)
    assert (out.linear.dtype, out.crossed.dtype) == (torch.float32, torch.float32)
    assert out.pooled.dtype == dtype
    close(out.linear, linear, SINGLE)
    close(out.crossed, crossed.sum(1), SINGLE)
    close(out.pooled, pooled, torch.finfo(dtype).eps)
    want = torch.autograd.grad(linear.sum() + crossed.sum(), floats(exact))
    got = torch.autograd.grad(out.linear.sum() + out.crossed.sum(), floats(ours))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype
        close(a, b, torch.finfo(dtype).eps)


# --- sparse gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bags", "wide"])
@pytest.mark.parametrize(("name", "dtype"), IMPLEMENTATIONS)
def test_sparse_gradients_are_coalesced_and_rise(name, dtype, kind):
    problem = leaves(make(kind, 6), dtype)
    tables = [problem.weights, problem.factors]
    with implementation(name):
        sparse = torch.autograd.grad(run(problem, True, sparse_grad=True).crossed.sum(), tables)
        dense = torch.autograd.grad(run(problem, True, sparse_grad=False).crossed.sum(), tables)
    for a, b, table in zip(sparse, dense, tables, strict=True):
        assert a.is_sparse
        assert a.is_coalesced()
        assert not b.is_sparse
        assert a.shape == table.shape
        assert a.indices()[0].tolist() == sorted(set(problem.ids.reshape(-1).tolist()))
        torch.testing.assert_close(a.to_dense(), b, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_a_table_used_twice_adds_up(name):
    problem = leaves(make("bags", 3), torch.float32)
    with implementation(name):
        once = torch.autograd.grad(
            run(problem, False, sparse_grad=True).crossed.sum(), [*problem[4:]]
        )
        twice = torch.autograd.grad(
            sum(run(problem, False, sparse_grad=True).crossed.sum() for _ in range(2)),
            [*problem[4:]],
        )
    for a, b in zip(once, twice, strict=True):
        close(b, 2 * a.to_dense().double(), 1e-6)


# --- PyTorch's own checks ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bags", "columns"])
@pytest.mark.parametrize("across_fields", MODES)
@pytest.mark.parametrize("reduce_sum", [True, False])
def test_gradcheck(kind, across_fields, reduce_sum):
    problem = leaves(make(kind, 2))

    def function(*parts):
        values, weights, factors = parts
        return run(
            problem._replace(values=values, weights=weights, factors=factors),
            across_fields,
            reduce_sum,
        )

    assert torch.autograd.gradcheck(function, floats(problem))


@pytest.mark.parametrize("kind", ["bags", "columns"])
@pytest.mark.parametrize("across_fields", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(kind, across_fields, dtype):
    torch.use_deterministic_algorithms(False)
    problem = leaves(make(kind, 3), dtype)
    for reduce_sum, pooled in ((True, True), (False, False)):
        options = F, across_fields, reduce_sum, pooled
        torch.library.opcheck(torch.ops.crossfm.pairwise.default, (*problem, *options, False))
        torch.library.opcheck(
            torch.ops.crossfm.pairwise.default,
            (*problem, *options, True),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


@pytest.mark.parametrize("sparse", [True, False])
def test_opcheck_of_the_backward_operator(sparse):
    torch.use_deterministic_algorithms(False)
    problem = Problem(
        *[
            part.float() if part is not None and part.is_floating_point() else part
            for part in make("bags", 3)
        ]
    )
    out = torch.ops.crossfm.pairwise(*problem, F, True, True, True, sparse)
    torch.library.opcheck(
        torch.ops.crossfm.pairwise_backward.default,
        (*out[:3], None, *problem, out[3], F, True, True, True, sparse),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_a_second_derivative_is_refused():
    problem = leaves(make("bags", 2))
    (grad,) = torch.autograd.grad(
        run(problem, False).crossed.sum(), [problem.factors], create_graph=True
    )
    with pytest.raises(RuntimeError, match="pairwise_backward"):
        grad.sum().backward()


# --- batches of nothing, and bad ones ---------------------------------------------------------


@pytest.mark.parametrize("across_fields", MODES)
@pytest.mark.parametrize("sparse_grad", [True, False])
@pytest.mark.parametrize(("name", "dtype"), IMPLEMENTATIONS)
@pytest.mark.parametrize("n", [0, 3])
def test_no_rows_and_empty_rows(name, dtype, across_fields, sparse_grad, n):
    weights = torch.ones(N, dtype=dtype, requires_grad=True)
    factors = torch.ones(N, 4, dtype=dtype, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    for ids, offsets in (
        (none, torch.zeros(n + 1, dtype=torch.int64)),
        (none.view(n, 0) if n else none.view(0, 7), None),
    ):
        problem = Problem(ids, None, offsets, torch.zeros_like(ids), weights, factors)
        with implementation(name):
            out = run(problem, across_fields, False, sparse_grad=sparse_grad)
            loss = sum(part.sum() for part in out)
            got = torch.autograd.grad(loss, [weights, factors])
        assert [list(part.shape) for part in out] == [[n], [n, 4], [n, F, 4]]
        for part in (*out, *got):
            assert not part.to_dense().any()


def fit(**parts):
    return Batch(**{"ids": torch.tensor([0, 1, 2]), "offsets": torch.tensor([0, 1, 3])} | parts)


META = torch.device("meta")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (fit(ids=torch.tensor([0, N, 1])), "id 12 at position 1 is out of range, expected 0 to 11"),
        (fit(ids=torch.tensor([0, 1, -1])), "id -1 at position 2 is out of range"),
        (fit(ids=torch.tensor([0, N, 1]), checked=N + 1), "id 12 at position 1"),
        (fit(ids=torch.tensor([0, 1, 2]).short()), r"ids are torch.int16 \[3\], expected int32"),
        (fit(ids=torch.tensor([[0, 1, 2]])), r"ids are torch.int64 \[1, 3\].*come with offsets"),
        (fit(offsets=None), r"ids are torch.int64 \[3\], expected int32 or int64 \[batch, m\]"),
        (fit(offsets=torch.tensor([0, 3, 1, 3])), "offsets fall after row 1"),
        (fit(offsets=torch.tensor([1, 2, 3])), "offsets run from 1 to 3, expected 0 to 3"),
        (fit(offsets=torch.tensor([0, 2])), "offsets run from 0 to 2, expected 0 to 3"),
        (fit(offsets=torch.tensor([0, 3]).int()), "offsets are torch.int32"),
        (fit(offsets=torch.zeros(0, dtype=torch.int64)), r"offsets are torch.int64 \[0\]"),
        (fit(values=torch.ones(2)), r"values are torch.float32 \[2\], expected floats \[3\]"),
        (fit(values=torch.tensor([1, 2, 3])), "values are torch.int64"),
        (fit(fields=torch.ones(3)), "fields are torch.float32"),
        (fit(fields=torch.ones(2, dtype=torch.int64)), r"fields are torch.int64 \[2\]"),
        (fit(fields=torch.tensor([0, F, 0])), "fields run from 0 to 5, expected 0 to 4"),
        (fit(fields=torch.tensor([0, -1, 0])), "fields run from -1 to 0"),
        (fit(ids=torch.zeros(3, dtype=torch.int64, device=META)), "ids: on meta, the parameters"),
        (fit(values=torch.ones(3, device=META)), r"values: on meta.*batch.to\('cpu'\) moves"),
        (fit(offsets=torch.tensor([0, 1, 3], device=META)), "offsets: on meta"),
        (torch.zeros(2, 3), r"x is torch.float32 \[2, 3\], expected int32 or int64 ids"),
        ([[0, 1]], "x is list, expected a tensor, a Batch or crossfm.Rows"),
    ],
)
def test_bad_batches(batch, message):
    embedding = nn.FieldEmbedding(N, 2, field_of=[0] * N, n_fields=F, interactions="across_fields")
    with pytest.raises(DataError, match=message):
        embedding.cross(batch)


def test_parameters_on_another_device():
    embedding = nn.FieldEmbedding(N, 2, device=META)
    with pytest.raises(DataError, match="ids: on cpu, the parameters on meta"):
        embedding.cross(torch.zeros(1, 1, dtype=torch.int64))


@pytest.mark.parametrize(
    "parts", [{"ids": torch.tensor([0, N, 1])}, {"ids": torch.tensor([0, -1, 1])}]
)
def test_a_batch_that_lies_about_its_ids_reads_nothing_outside(parts):
    with pytest.raises(DataError, match=rf"{int(parts['ids'][1])}, expected 0 to 11"):
        nn.FieldEmbedding(N, 2).cross(fit(**parts, checked=N))


def test_fields_that_nobody_knows():
    batch = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(DataError, match=r"give the module field_of=\.\.\., or n_fields"):
        nn.FieldEmbedding(N, 2)(batch)
    with pytest.raises(DataError, match=r"give the module field_of=\.\.\., or rows that"):
        nn.FieldEmbedding(N, 2, n_fields=3)(batch)


def test_implementations_have_names():
    with pytest.raises(DataError, match="Did you mean 'triton'"), implementation("tritn"):
        pass
