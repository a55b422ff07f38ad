"""Optimizers of rows: fused, over sparse gradients, and the formula in float64."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'crossfm[torch]'")

from optim_problems import (  # noqa: E402 - after the check for torch
    DOUBLE,
    KINDS,
    NETWORKS,
    OPTIONS,
    SINGLE,
    SPARSE,
    F,
    K,
    N,
    assert_alike,
    batches,
    dense_sgd,
    go,
    make,
    start,
    trained,
    trained_by_the_formula,
)

from crossfm.nn import optim  # noqa: E402
from crossfm.nn.build import network_class, networks  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- equality -----------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_fused_and_sparse_equal_the_formula(kind, network):
    exact = trained_by_the_formula(network, kind)
    for dtype, tolerance in ((torch.float64, DOUBLE), (torch.float32, SINGLE)):
        for fused in (True, False):
            model, _ = trained(make(network, dtype), kind, fused)
            assert_alike(model, exact, tolerance)


@pytest.mark.parametrize("name", networks())
def test_fused_equals_sparse_in_every_network(name):
    torch.manual_seed(0)
    ids = torch.randint(0, N // F, (3, 8, F)) * F + torch.arange(F)  # a feature of every field
    results = []
    for fused in (True, False):
        torch.manual_seed(1)
        model = network_class(name)(N, K, field_of=torch.arange(N) % F).eval()
        if fused:
            optim.fuse_optimizer(model, "adagrad", lr=0.1, eps=1e-3)
        tables, dense = optim.split_parameters(model)
        assert bool(tables) != fused
        optimizer = None if fused else optim.AdaGrad(tables, lr=0.1, eps=1e-3)
        for part in ids:
            model(part).pow(2).sum().backward()
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()
            dense_sgd(parameter for parameter in dense if parameter.grad is not None)
        results.append(model)
    assert_alike(*results, SINGLE)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's
def test_a_compiled_network_steps_its_tables():
    data, results = list(batches(3)), []
    for compiled in (False, True):
        model = make("deepfm")
        fused = optim.fuse_optimizer(model, "adam")
        run = torch.compile(model, backend="aot_eager") if compiled else model
        go(run, fused, data)
        results.append(model)
        assert fused.parts["embedding"].step == 3
    torch.compiler.reset()
    assert_alike(*results, SINGLE)


@pytest.mark.parametrize("network", ["all", "deepfm", "linear"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fused", [True, False])
def test_untouched_rows_and_their_state_keep_their_bits(fused, kind, network):
    model = make(network)
    tables = optim.split_parameters(model)[0]
    before = [table.detach().clone() for table in tables]
    _, optimizer = trained(model, kind, fused)
    if fused:
        (part,) = optim.fused_optimizer(model).parts.values()
        assert [id(table) for table in part.module.tables()] == [id(table) for table in tables]
        states = [part.states[place] for place in range(len(tables))]
    else:
        states = [optimizer.state[table] for table in tables]
    for table, first in zip(tables, before, strict=True):
        torch.testing.assert_close(table.detach()[15:], first[15:], rtol=0, atol=0)
        assert (table[:15] != first[:15]).any()
    for table, state in zip(tables, states, strict=True):
        o = OPTIONS[kind]
        untouched = start(kind, o, table.detach()[15:])
        for name, want in untouched.items():
            got = state[name][15:]
            want = want[:, 0] if got.dim() < want.dim() else want
            torch.testing.assert_close(
                got, want, **({"rtol": 1e-6, "atol": 0} if name == "z" else {})
            )


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_tables_have_states_in_single(kind):
    model, optimizer = trained(make("all", torch.bfloat16), kind, False)
    twin, _ = trained(make("all", torch.bfloat16), kind, True)
    assert_alike(model, twin, {"rtol": 0.01, "atol": 0.01})
    state = optimizer.state[model.embedding.factors]
    assert {part.dtype for part in state.values() if torch.is_tensor(part)} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 3)])
@pytest.mark.parametrize("order", [[4, 1, 4], [1, 4, 4]])
def test_dense_coalesced_and_repeated_gradients_are_one(kind, shape, order):
    torch.manual_seed(0)
    first, o = torch.randn(shape), OPTIONS[kind]
    rows, parts = torch.tensor(order), torch.randn(3, *shape[1:])
    if len(shape) > 1:
        parts[:, 0] = 0  # a row counts that has a zero
    repeated = torch.sparse_coo_tensor(rows[None], parts, shape, check_invariants=True)
    results = []
    for grad in (repeated, repeated.coalesce(), repeated.to_dense()):
        table = torch.nn.Parameter(first.clone())
        optimizer = SPARSE[kind]([table], **o)
        for _ in range(2):
            table.grad = grad
            optimizer.step()
        results.append(table.detach())
    for result in results:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)
        assert result[[1, 4]].ne(first[[1, 4]]).any()
        torch.testing.assert_close(result[[0, 2, 3, 5]], first[[0, 2, 3, 5]], rtol=0, atol=0)


def test_groups_have_options_of_their_own():
    tables = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = optim.AdaGrad([{"params": tables[:1], "lr": 0.25}, {"params": tables[1:]}], lr=0.5)
    for table in tables:
        table.grad = torch.ones(2)
    optimizer.step()
    assert [table[0].item() for table in tables] == [0.75, 0.5]
    scalar = torch.nn.Parameter(torch.tensor(1.0))
    scalar.grad = torch.tensor(2.0)
    assert optim.LazyAdam([scalar], lr=0.5, eps=0).step(lambda: 7) == 7
    assert scalar.item() == 0.5


def test_ftrl_makes_zeros_and_keeps_initial_vectors():
    torch.manual_seed(0)
    table = torch.nn.Parameter(torch.randn(100, 4) * 0.01)
    first = table.detach().clone()
    table.grad = torch.full((100, 4), 1e-12)
    optim.FTRL([table]).step()
    torch.testing.assert_close(table.detach(), first)
    weights = torch.nn.Parameter(torch.zeros(3))
    optimizer = optim.FTRL([weights], l1=1.0)
    for _ in range(3):
        weights.grad = torch.tensor([0.1, 1.0, 0.0])
        optimizer.step()
    assert weights[0] == 0
    assert weights[1] < 0
