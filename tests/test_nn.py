"""The torch module against the double sum of the definition, in float64."""

from __future__ import annotations

import copy
import io
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'crossfm[torch]'")

from crossfm import nn  # noqa: E402 - after the check for torch
from crossfm.data.rows import Rows  # noqa: E402
from crossfm.errors import DataError  # noqa: E402
from crossfm.model import FactorModel  # noqa: E402
from crossfm.nn.build import network_class  # noqa: E402
from crossfm.nn.ops.dense import cross_dense, cross_dense_fields  # noqa: E402

MODES = ["all", "across_fields"]
N = 30
ENDS = torch.tensor([0, 2, 2])
RTOL = 1e-10  # float64, up to 39 terms
SINGLE = {"rtol": 1e-4, "atol": 1e-4}  # float32, sums of up to 39 terms of size 1 to 10


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small only lose time to threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fresh_graphs():
    """`torch.compile` counts how often it compiles a method, whatever the module."""
    yield
    torch.compiler.reset()


def double_sum(vectors):
    """``[k]``: every pair, as the definition says."""
    total = torch.zeros_like(vectors[0]) if len(vectors) else torch.zeros(())
    for j in range(len(vectors)):
        for i in range(j):
            total = total + vectors[i] * vectors[j]
    return total


def pool(vectors, fields):
    return [
        sum(v for v, f in zip(vectors, fields, strict=True) if f == g) for g in sorted(set(fields))
    ]


def make(k=3, mode="all", seed=0, **options):
    """A float64 module with parameters of size one, fields in no order."""
    torch.manual_seed(seed)
    field_of = np.random.default_rng(seed).integers(0, 4, N) if mode != "all" else None
    fm = nn.FactorizationMachine(
        N, k, interactions=mode, field_of=field_of, dtype=torch.float64, **options
    )
    with torch.no_grad():
        for parameter in fm.parameters():
            parameter.normal_()
    return fm


def expected(fm, features):
    """(linear, crossed) of rows given as lists of (id, x, field)."""
    linear, crossed = [], []
    for row in features:
        linear.append(fm.bias + sum(fm.embedding.weights[i] * x for i, x, _ in row))
        vectors = [fm.embedding.factors[i] * x for i, x, _ in row]
        if fm.interactions == "across_fields":
            vectors = pool(vectors, [f for _, _, f in row])
        crossed.append(double_sum(vectors) if row else torch.zeros(fm.n_factors).double())
    return torch.stack(linear), torch.stack(crossed)


def listed(rows, field_of):
    offsets = rows.row_offsets()
    values = np.ones(rows.nnz) if rows.values is None else rows.values.astype(float)
    if rows.fields is not None:
        fields = rows.fields
    elif field_of is not None:
        fields = field_of.numpy()[rows.ids]
    else:
        fields = np.zeros(rows.nnz)
    return [
        [(int(rows.ids[j]), float(values[j]), int(fields[j])) for j in range(*offsets[r : r + 2])]
        for r in range(len(rows))
    ]


def make_rows(kind, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "ids":
        return Rows(rng.integers(0, N, (6, 9)).astype(np.int32))
    lengths = rng.integers(0, 8, 9)
    lengths[[0, 8]] = 0
    nnz = lengths.sum()
    return Rows(
        rng.integers(0, N, nnz),
        rng.normal(size=nnz),
        np.r_[0, np.cumsum(lengths)],
        rng.integers(0, 3, nnz) if kind == "own fields" else None,
    )


# --- operations -----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 16, 17, 64])
@pytest.mark.parametrize("fields", [0, 1, 2, 39])
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_pairwise_equals_the_double_sum(batch, fields, k):
    v = torch.randn(batch, fields, k, dtype=torch.float64)
    want = torch.zeros(batch, k, dtype=torch.float64)
    for j in range(fields):
        for i in range(j):
            want += v[:, i] * v[:, j]
    got = nn.pairwise(v, reduce_sum=False)
    torch.testing.assert_close(got, want, rtol=RTOL, atol=1e-11)
    torch.testing.assert_close(nn.pairwise(v), want.sum(1), rtol=RTOL, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype):
    v = (torch.randn(7, 39, 16) * 0.1).to(dtype)
    got = nn.pairwise(v)
    assert got.dtype == dtype
    want = nn.pairwise(v.double())
    torch.testing.assert_close(got.double(), want, rtol=torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.parametrize(
    ("v", "message"),
    [
        (torch.zeros(3, 4), r"v has shape \[3, 4\], expected \[batch, fields, k\]"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), "v holds torch.int64, expected floating"),
    ],
)
def test_pairwise_refuses(v, message):
    with pytest.raises(DataError, match=message):
        nn.pairwise(v)


def test_gradients_of_operations():
    torch.manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    check = torch.autograd.gradcheck
    assert check(nn.pairwise, (leaf(2, 4, 3),))
    assert check(lambda v: nn.pairwise(v, reduce_sum=False), (leaf(2, 4, 3),))
    assert check(cross_dense, (leaf(3, 5), leaf(5, 2)))
    assert check(lambda x, V: cross_dense_fields(x, V, [2, 1, 2]), (leaf(3, 5), leaf(5, 2)))
    assert torch.autograd.gradgradcheck(nn.pairwise, (leaf(2, 4, 3),))


# --- the module -----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 16, 17])
@pytest.mark.parametrize("mode", MODES)
def test_dense_equals_the_double_sum(mode, k):
    fm = make(k, mode, reduce_sum=False)
    x = torch.randn(4, N, dtype=torch.float64)
    x[1] = 0
    fields = [0] * N if mode == "all" else fm.embedding.field_of.tolist()
    rows = [[(i, x[r, i], fields[i]) for i in range(N)] for r in range(4)]
    linear, crossed = fm(x)
    want_linear, want_crossed = expected(fm, rows)
    torch.testing.assert_close(linear, want_linear, rtol=RTOL, atol=1e-10)
    torch.testing.assert_close(crossed, want_crossed, rtol=RTOL, atol=1e-10)
    fm.reduce_sum = True
    torch.testing.assert_close(fm(x), want_linear + want_crossed.sum(1), rtol=RTOL, atol=1e-9)


@pytest.mark.parametrize("kind", ["ids", "values", "own fields"])
@pytest.mark.parametrize("mode", MODES)
def test_rows_equal_the_double_sum(mode, kind):
    fm, rows = make(5, mode, reduce_sum=False), make_rows(kind)
    linear, crossed = fm(rows)
    want_linear, want_crossed = expected(fm, listed(rows, fm.embedding.field_of))
    torch.testing.assert_close(linear, want_linear, rtol=RTOL, atol=1e-10)
    torch.testing.assert_close(crossed, want_crossed, rtol=RTOL, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_equal_those_of_the_double_sum(mode):
    fm, rows = make(3, mode), make_rows("values")
    linear, crossed = expected(fm, listed(rows, fm.embedding.field_of))
    want = torch.autograd.grad((linear + crossed.sum(1)).pow(2).sum(), list(fm.parameters()))
    got = torch.autograd.grad(fm(rows).pow(2).sum(), list(fm.parameters()))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.to_dense(), b, rtol=RTOL, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_gradcheck_of_the_module(mode):
    fm = make(2, mode, reduce_sum=False)
    x = torch.randn(3, N, dtype=torch.float64, requires_grad=True)

    def run(x, bias, weights, factors):
        parameters = {"bias": bias, "embedding.weights": weights, "embedding.factors": factors}
        return torch.func.functional_call(fm, parameters, (x,))

    assert torch.autograd.gradcheck(run, (x, *fm.parameters()))


@pytest.mark.parametrize("mode", MODES)
def test_dense_ids_and_rows_agree(mode):
    fm = make(4, mode)
    ids = np.stack([np.random.default_rng(r).permutation(N)[:6] for r in range(5)])
    dense = torch.zeros(5, N, dtype=torch.float64)
    dense[torch.arange(5)[:, None], torch.tensor(ids)] = 1
    want = fm(dense)
    for same in (torch.tensor(ids), torch.tensor(ids, dtype=torch.int32), Rows(ids)):
        torch.testing.assert_close(fm(same), want, rtol=RTOL, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_batches_of_one_and_of_none_keep_their_shape(mode):
    for fm in (make(3, mode), make(3, mode, reduce_sum=False)):
        for n in (0, 1):
            for x in (
                torch.zeros(n, N, dtype=torch.float64),
                torch.zeros(n, 4, dtype=torch.int64),
                Rows(np.zeros((n, 4), np.int64)),
                Rows(np.zeros(0, np.int64), offsets=np.zeros(n + 1, np.int64)),
            ):
                out = fm(x)
                shapes = [tuple(part.shape) for part in (out if type(out) is tuple else [out])]
                assert shapes == ([(n,)] if fm.reduce_sum else [(n,), (n, 3)])


@pytest.mark.parametrize("mode", MODES)
def test_models_there_and_back(mode):
    rng = np.random.default_rng(1)
    field_of = rng.integers(0, 4, N)
    model = FactorModel(0.3, rng.normal(size=N), rng.normal(size=(N, 17)), mode, field_of)
    fm = nn.FactorizationMachine.from_model(model)
    for kind in ("ids", "values", "own fields"):
        rows = make_rows(kind)
        np.testing.assert_allclose(fm(rows).detach().numpy(), model.score(rows), **SINGLE)
    again = fm.to_model(task="classification", metadata={"a": 1})
    np.testing.assert_array_equal(again.weights, model.weights)
    np.testing.assert_array_equal(again.factors, model.factors)
    np.testing.assert_array_equal(again.field_of, model.field_of)
    assert again.bias == np.float32(0.3)
    assert (again.interactions, again.task, again.metadata) == (mode, "classification", {"a": 1})
    with torch.no_grad():
        fm.embedding.factors.zero_()
    assert again.factors.any()
    assert model.factors.any()


def test_read_only_rows_are_taken_without_a_warning():
    ids = np.zeros((2, 3), np.int64)
    ids.flags.writeable = False
    assert make()(Rows(ids)).shape == (2,)


@pytest.mark.parametrize("mode", MODES)
def test_state_dict_and_deepcopy(mode):
    fm, x = make(3, mode), torch.randn(4, N, dtype=torch.float64)
    twin = copy.deepcopy(fm)
    file = io.BytesIO()
    torch.save(fm.state_dict(), file)
    file.seek(0)
    other = make(3, mode, seed=7)  # other fields too
    other.load_state_dict(torch.load(file, weights_only=True))
    for same in (twin, other):
        torch.testing.assert_close(same(x), fm(x), rtol=0, atol=0)
    with torch.no_grad():
        fm.embedding.factors.zero_()
    assert twin.embedding.factors.any()
    assert sorted(fm.state_dict()) == sorted(
        ["bias", "embedding.factors", "embedding.weights"]
        + ["embedding.field_of"] * (mode != "all")
    )


@pytest.mark.parametrize("mode", MODES)
def test_compiles_whole(mode):
    fm, x = make(3, mode), torch.randn(5, N, dtype=torch.float64)
    compiled = torch.compile(fm, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), fm(x), rtol=RTOL, atol=1e-10)
    weight = torch.linspace(-1, 2, 5, dtype=torch.float64)
    (compiled(x) * weight).sum().backward()
    parameters = list(fm.parameters())
    want = torch.autograd.grad((fm(x) * weight).sum(), parameters)
    for parameter, gradient in zip(parameters, want, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=RTOL, atol=1e-10)
    with torch.no_grad():
        for ids in (torch.randint(0, N, (5, 4)), nn.Batch(torch.tensor([0, 5]), offsets=ENDS)):
            torch.testing.assert_close(compiled(ids), fm(ids), rtol=RTOL, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_training_compiles_whole_with_dense_gradients(mode):
    fm, ids = make(3, mode, sparse_grad=False), torch.randint(0, N, (5, 4))
    want = torch.autograd.grad(fm(ids).pow(2).sum(), list(fm.parameters()))
    compiled = torch.compile(fm, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(ids).pow(2).sum(), list(fm.parameters()))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=RTOL, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_exports_with_any_number_of_rows(mode):
    fm, rows = make(3, mode), torch.export.Dim("rows", min=2, max=1000)
    ids = torch.randint(0, N, (5, 4))
    exported = torch.export.export(fm, (ids,), dynamic_shapes=({0: rows},)).module()
    other = torch.randint(0, N, (7, 4))
    torch.testing.assert_close(exported(other), fm(other), rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_parameters_are_summed_in_single(mode):
    fm = make(16, mode)
    half = copy.deepcopy(fm).bfloat16()
    fm.load_state_dict(half.state_dict())  # the same rounded numbers
    x = torch.randn(5, N).bfloat16()
    for given, wide in ((x, x.double()), (torch.randint(0, N, (5, 4)),) * 2):
        got = half(given)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, fm(wide).float(), **SINGLE)


@pytest.mark.parametrize("mode", MODES)
def test_autocast_costs_no_digits(mode):
    fm, x = make(16, mode).float(), torch.randn(5, N)
    ids = torch.randint(0, N, (5, 4))
    compiled = torch.compile(fm, backend="aot_eager", fullgraph=True)
    for given in (x, ids, x.bfloat16()):
        want = fm(given.float()) if given.is_floating_point() else fm(given)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(fm(given), want, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x), fm(x), **SINGLE)


def test_it_learns_a_planted_interaction():
    torch.manual_seed(0)
    x = torch.randint(0, 2, (512, 4)).float()
    y = x[:, 0] * x[:, 1] - x[:, 2] * x[:, 3]
    fm = nn.FactorizationMachine(4, 4, init_scale=0.3)
    optimizer = torch.optim.Adam(fm.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (fm(x) - y).pow(2).mean()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3  # a linear model stays above 0.1


def test_repr_names_sizes():
    said = repr(make(3))
    for part in ("reduce_sum=True", "n_features=30, n_factors=3", "interactions='all'"):
        assert part in said


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, N + 1).double(), r"shape \[2, 31\], expected \[batch, 30\]"),
        (torch.zeros(N).double(), r"x.unsqueeze\(0\)"),
        (torch.zeros(2, N), "x holds torch.float32, the parameters torch.float64"),
        (
            torch.zeros(2, N, dtype=torch.bool),
            r"x is torch.bool \[2, 30\], expected int",
        ),
        (
            torch.zeros(2, dtype=torch.int64),
            r"x is torch.int64 \[2\], expected",
        ),
        (torch.tensor([[0, N]]), "id 30 at position 1 is out of range, expected 0 to 29"),
        (torch.tensor([[-1, 0]]), "id -1 at position 0"),
        (np.zeros((2, N)), "x is ndarray, expected a tensor, a Batch or crossfm.Rows"),
        (Rows(np.array([[N]])), "row 0: feature id 30 is out of range"),
    ],
)
def test_bad_input(x, message):
    with pytest.raises(DataError, match=message):
        make()(x)


def test_parts_of_a_batch_that_are_no_tensors():
    one = torch.tensor([[0, 1]])
    for batch, message in (
        (nn.Batch([[0, 1]]), "ids: list, expected a tensor"),
        (nn.Batch(None), "ids: NoneType, expected a tensor"),
        (nn.Batch(one, values=np.ones((1, 2))), "values: ndarray, expected a tensor"),
        (nn.Batch(one[0], offsets=[0, 2]), "offsets: list, expected a tensor"),
    ):
        with pytest.raises(DataError, match=message):
            make()(batch)


@pytest.mark.parametrize("name", nn.networks())
def test_networks_are_made_without_memory_and_filled_later(name):
    of = network_class(name)
    torch.manual_seed(0)
    options = {"gate_fields": ([0], [1, 2])} if name == "finalmlp" else {}
    there = of(6, 4, field_of=[0, 1, 0, 1, 2, 2], **options).eval()
    with torch.device("meta"):
        later = of(6, 4, field_of=[0, 1, 0, 1, 2, 2], **options).eval()
    given = copy.deepcopy(later)
    given.load_state_dict(there.state_dict(), assign=True)
    later = copy.deepcopy(later).to_empty(device="cpu")
    for buffer in later.buffers():
        buffer.fill_(99)  # what memory held before
    later.load_state_dict(there.state_dict())
    ids = torch.tensor([[0, 1, 4], [2, 3, 5]])
    for filled in (later, given):
        torch.testing.assert_close(filled(ids), there(ids), rtol=0, atol=0)


def test_sizes_of_numpy_are_integers():
    fm = nn.FactorizationMachine(np.int64(3), np.int32(2), field_of=[0, 1, 1])
    assert [type(size) for size in (fm.n_features, fm.n_factors)] == [int, int]
    assert nn.FieldAwareFM(np.int64(3), np.int64(2), [0, 1, 1])(torch.tensor([[0, 2]])).shape == (
        1,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_features": 0}, "n_features is 0"),
        ({"n_factors": 2.0}, "n_factors is 2.0"),
        ({"interactions": "across"}, "Did you mean 'across_fields'"),
        ({"field_of": [0, 1]}, r"field_of is int64 \[2\], expected integers"),
        ({"field_of": [0.0, 1.0, 2.0]}, "field_of is float64"),
        ({"field_of": [0, 1, -1]}, r"field_of\[2\] is -1, expected integers of 0 or more"),
        ({"n_fields": 1.5}, "n_fields is 1.5, expected an integer"),
        ({"init_scale": "small"}, "init_scale is 'small', expected a finite number"),
        ({"init_scale": float("inf")}, "init_scale is inf, expected a finite number"),
        ({"dtype": torch.int32}, "dtype is torch.int32"),
        ({"dtype": "float32"}, "dtype is 'float32', expected floating point: torch.float32"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(DataError, match=message):
        nn.FactorizationMachine(**{"n_features": 3, "n_factors": 2} | options)


def test_across_fields_needs_fields():
    fm = nn.FactorizationMachine(3, 2, interactions="across_fields")
    for x in (torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.int64), Rows(np.zeros((1, 3), int))):
        with pytest.raises(DataError, match=r"field of each (feature|column) is not known"):
            fm(x)
    assert fm(Rows(np.zeros((1, 2), int), fields=np.zeros((1, 2), int))).shape == (1,)


def test_without_torch_the_error_holds_the_command():
    script = "import sys; sys.modules['torch'] = None; import crossfm.nn"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "MissingExtraError" in done.stderr
    assert "pip install 'crossfm[torch]'" in done.stderr


def test_from_model_says_what_it_takes():
    from crossfm import FMRegressor

    fm = FMRegressor(n_epochs=1).fit({"user": ["ann", "bob"]}, [1.0, 2.0])
    with pytest.raises(DataError, match=r"FMRegressor, expected a FactorModel; take its \.model_"):
        nn.FactorizationMachine.from_model(fm)
    with pytest.raises(DataError, match="str, expected a FactorModel"):
        nn.FactorizationMachine.from_model("ratings.crossfm")
