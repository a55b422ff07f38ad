"""Optimizers of rows: fused, over sparse gradients, and the formula in float64."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'crossfm[torch]'")

from crossfm import nn  # noqa: E402 - after the check for torch
from crossfm.errors import DataError  # noqa: E402
from crossfm.nn import optim  # noqa: E402

N, F, K = 20, 4, 5
OPTIONS = {
    "rowwise_adagrad": {"lr": 0.1, "l2": 0.02, "eps": 1e-6, "initial_accumulator": 0.1},
    "adagrad": {"lr": 0.1, "l2": 0.02, "eps": 1e-6, "initial_accumulator": 0.1},
    "adam": {"lr": 0.05, "l2": 0.02, "betas": (0.8, 0.95), "eps": 1e-6},
    "ftrl": {"lr": 0.3, "l1": 0.05, "l2": 0.02, "beta": 0.5, "initial_accumulator": 0.1},
}
KINDS = list(OPTIONS)
SPARSE = {
    "rowwise_adagrad": optim.RowwiseAdaGrad,
    "adagrad": optim.AdaGrad,
    "adam": optim.LazyAdam,
    "ftrl": optim.FTRL,
}
NETWORKS = ["all", "across_fields", "vector", "deepfm", "linear"]
SINGLE = {"rtol": 1e-4, "atol": 1e-5}  # float32, four steps that divide by roots
DOUBLE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(network, dtype=torch.float32, sparse_grad=True):
    options = {"sparse_grad": sparse_grad, "dtype": dtype}
    of = torch.arange(N) % F
    if network == "linear":
        model = nn.Linear(N, **options)
    elif network == "deepfm":
        model = nn.DeepFM(N, K, of, hidden=(6,), **options)
    else:
        mode = "across_fields" if network == "across_fields" else "all"
        model = nn.FactorizationMachine(
            N, K, network != "vector", mode, field_of=of, init_scale=0.5, **options
        )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # the same numbers in every type
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64))
    return model


def batches(count=4):
    """Bags with values, empty rows and repeated ids; ids from 15 on never occur."""
    rng = torch.Generator().manual_seed(1)
    for _ in range(count):
        lengths = torch.tensor([3, 0, 7, 1, 5])
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        ids = torch.randint(0, 15, (int(lengths.sum()),), generator=rng)
        yield nn.Batch(ids, torch.randn(len(ids), generator=rng), offsets)


def loss_of(model, batch):
    torch.manual_seed(int(batch.ids.sum()))
    out = model(batch)
    parts = out if isinstance(out, tuple) else (out,)
    return sum((part * torch.randn(part.shape, dtype=torch.float64)).sum() for part in parts)


def formula(kind, o, t, p, g, state):
    """One step on the numbers of touched rows, float64."""
    if kind != "ftrl":
        g = g + o["l2"] * p
    if kind == "adam":
        b1, b2 = o["betas"]
        m = state["m"] = b1 * state["m"] + (1 - b1) * g
        v = state["v"] = b2 * state["v"] + (1 - b2) * g**2
        return p - o["lr"] * (m / (1 - b1**t)) / ((v / (1 - b2**t)) ** 0.5 + o["eps"])
    if kind == "ftrl":
        n = state["n"] + g**2
        z = state["z"] = state["z"] + g - (n**0.5 - state["n"] ** 0.5) / o["lr"] * p
        state["n"] = n
        shrunk = z.sign() * (z.abs() - o["l1"]).clamp(min=0)
        return -shrunk / ((o["beta"] + n**0.5) / o["lr"] + o["l2"])
    square = g**2
    if kind == "rowwise_adagrad" and g.dim() == 2:
        square = square.mean(1, keepdim=True).expand_as(g)
    state["a"] = state["a"] + square
    return p - o["lr"] * g / (state["a"] ** 0.5 + o["eps"])


def start(kind, o, p):
    if kind == "adam":
        return {"m": torch.zeros_like(p), "v": torch.zeros_like(p)}
    first = torch.full_like(p, o["initial_accumulator"])
    if kind == "ftrl":  # p is its own solution: its sign is that of -z
        z = -p * ((o["beta"] + first**0.5) / o["lr"] + o["l2"]) - o["l1"] * p.sign()
        return {"z": z, "n": first}
    return {"a": first}


def dense_sgd(dense):
    with torch.no_grad():
        for parameter in dense:
            parameter -= 0.01 * parameter.grad
            parameter.grad = None


def trained_by_the_formula(network, kind):
    """A float64 model with dense gradients, of which the formula takes the touched rows."""
    model, o = make(network, torch.float64, sparse_grad=False), OPTIONS[kind]
    tables, dense = optim.split_parameters(model)
    states = [start(kind, o, table.detach()) for table in tables]
    for t, batch in enumerate(batches(), 1):
        loss_of(model, batch).backward()
        rows = batch.ids.unique()
        with torch.no_grad():
            for table, state in zip(tables, states, strict=True):
                part = {name: s[rows] for name, s in state.items()}
                table[rows] = formula(kind, o, t, table[rows], table.grad[rows], part)
                for name in state:
                    state[name][rows] = part[name]
                table.grad = None
        dense_sgd(dense)
    return model


def trained(model, kind, fused):
    if fused:
        optim.fuse_optimizer(model, kind, **OPTIONS[kind])
    tables, dense = optim.split_parameters(model)
    optimizer = None if fused else SPARSE[kind](tables, **OPTIONS[kind])
    for batch in batches():
        loss_of(model, batch).backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        dense_sgd(dense)
    return model, optimizer


def assert_alike(model, other, tolerance):
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(
            a.double(), b.double(), **tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


# --- equality -----------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_fused_and_sparse_equal_the_formula(kind, network):
    exact = trained_by_the_formula(network, kind)
    for dtype, tolerance in ((torch.float64, DOUBLE), (torch.float32, SINGLE)):
        for fused in (True, False):
            model, _ = trained(make(network, dtype), kind, fused)
            assert_alike(model, exact, tolerance)


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
def test_dense_coalesced_and_repeated_gradients_are_one(kind, shape):
    torch.manual_seed(0)
    first, o = torch.randn(shape), OPTIONS[kind]
    rows, parts = torch.tensor([4, 1, 4]), torch.randn(3, *shape[1:])
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


# --- saving and copying -------------------------------------------------------------------------


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def go(model, optimizer, part):
    for batch in part:
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        dense_sgd(p for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [True, False])
def test_an_optimizer_goes_on_from_its_state(fused, kind, dtype):
    def begin():
        model = make("deepfm", dtype)
        if fused:
            return model, optim.fuse_optimizer(model, kind, **OPTIONS[kind])
        return model, SPARSE[kind](optim.split_parameters(model)[0], **OPTIONS[kind])

    data = list(batches(6))
    model, optimizer = begin()
    go(model, optimizer, data[:3])
    optimizer.param_groups[0]["lr"] = 0.07
    saved = through_a_file(optimizer.state_dict()), through_a_file(model.state_dict())
    go(model, optimizer, data[3:])
    other, resumed = begin()
    other.load_state_dict(saved[1])
    resumed.load_state_dict(saved[0])
    go(other, resumed, data[3:])
    assert resumed.param_groups[0]["lr"] == 0.07
    assert_alike(other, model, {"rtol": 0, "atol": 0})


@pytest.mark.parametrize("kind", KINDS)
def test_a_deep_copy_has_an_optimizer_of_its_own(kind):
    data = list(batches(6))
    model = make("deepfm")
    fused = optim.fuse_optimizer(model, kind, **OPTIONS[kind])
    go(model, fused, data[:3])
    twin = copy.deepcopy(model)
    other = optim.fused_optimizer(twin)
    assert other.lr == fused.lr
    before = {name: p.clone() for name, p in model.state_dict().items()}
    go(twin, other, data[3:])
    for name, p in model.state_dict().items():
        torch.testing.assert_close(p, before[name], rtol=0, atol=0)
    go(model, fused, data[3:])
    assert_alike(twin, model, {"rtol": 0, "atol": 0})
    other.lr = 1e-3
    assert (fused.lr, other.lr) == (OPTIONS[kind]["lr"], 1e-3)


def test_states_follow_their_tables():
    model = make("all")
    fused = optim.fuse_optimizer(model, "adagrad")
    go(model, fused, batches(1))
    (part,) = fused.parts.values()
    for moved in (model.double(), model.to("meta")):
        table = moved.embedding.factors
        state = part.state_of(table)["a"]
        assert (state.dtype, state.device) == (table.dtype, table.device)
    with pytest.raises(DataError, match="is not of this FieldEmbedding"):
        part.state_of(torch.zeros(2, 2))


# --- the handle ---------------------------------------------------------------------------------


def test_the_learning_rate_can_be_set_and_scheduled():
    model = make("all")
    fused = optim.fuse_optimizer(model, "rowwise_adagrad", lr=0.4)
    schedule = torch.optim.lr_scheduler.LambdaLR(fused, lambda epoch: 0.5**epoch)
    fused.step()
    schedule.step()
    assert fused.lr == 0.2
    fused.lr = 0.0
    before = copy.deepcopy(model.state_dict())
    loss_of(model, next(batches())).backward()
    for name, p in model.state_dict().items():
        torch.testing.assert_close(p, before[name], rtol=0, atol=0)
    assert fused.step(lambda: 3) == 3
    with pytest.raises(DataError, match="lr is -1"):
        fused.lr = -1


def test_linear_weights_have_penalties_of_their_own():
    model = make("all")
    optim.fuse_optimizer(model, "adagrad", lr=0.1, l2=0.5, l2_linear=0.0)
    hyper = model.embedding.optimizer.hyper_of
    assert (hyper(model.embedding.factors)["l2"], hyper(model.embedding.weights)["l2"]) == (0.5, 0)
    model = make("all")
    optim.fuse_optimizer(model, "ftrl", l1_linear=2.0)
    hyper = model.embedding.optimizer.hyper_of
    assert (hyper(model.embedding.factors)["l1"], hyper(model.embedding.weights)["l1"]) == (0, 2)


def test_scores_without_gradients_do_not_step():
    model = make("deepfm")
    fused = optim.fuse_optimizer(model)
    before = copy.deepcopy(model.state_dict())
    batch = next(batches())
    with torch.no_grad():
        scores = model(batch)
    assert all(part.step == 0 for part in fused.parts.values())
    torch.testing.assert_close(model(batch).detach(), scores, rtol=0, atol=0)
    for name, p in model.state_dict().items():
        torch.testing.assert_close(p, before[name], rtol=0, atol=0)


def test_gradients_of_values_pass_through():
    model, batch = make("across_fields"), next(batches())
    wanted = batch._replace(values=batch.values.clone().requires_grad_())
    loss_of(model, wanted).backward()
    got = batch._replace(values=batch.values.clone().requires_grad_())
    model = make("across_fields")
    optim.fuse_optimizer(model)
    loss_of(model, got).backward()
    torch.testing.assert_close(got.values.grad, wanted.values.grad)


@pytest.mark.parametrize("fused", [True, False])
def test_frozen_vectors_stay_and_their_weights_learn(fused):
    model = make("all")
    model.embedding.factors.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    trained(model, "adagrad", fused)
    torch.testing.assert_close(model.embedding.factors, before["embedding.factors"], rtol=0, atol=0)
    moved = (model.embedding.weights != before["embedding.weights"]).nonzero().squeeze(1)
    assert moved.tolist() == torch.cat([batch.ids for batch in batches()]).unique().tolist()
    assert model.embedding.weights.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_weights_stay_and_their_vectors_learn(kind):
    results = []
    for fused in (True, False):
        model = make("across_fields")
        model.embedding.weights.requires_grad_(False)
        results.append(trained(model, kind, fused)[0])
    assert_alike(*results, SINGLE)
    torch.testing.assert_close(
        results[0].embedding.weights, make("across_fields").embedding.weights.requires_grad_(False)
    )


def test_parameters_are_split():
    model = torch.nn.ModuleDict({"deep": make("deepfm"), "wide": make("linear")})
    tables, dense = optim.split_parameters(model)
    assert [list(table.shape) for table in tables] == [[N], [N, K], [N]]
    assert len(tables) + len(dense) == len(list(model.parameters()))
    fused = optim.fuse_optimizer(model.deep)
    assert sorted(fused.parts) == ["embedding"]
    tables, rest = optim.split_parameters(model)
    assert [id(table) for table in tables] == [id(model.wide.weights)]
    assert len(rest) == len(dense)
    optim.unfuse(model)
    assert len(optim.split_parameters(model)[0]) == 3
    assert optim.fused_optimizer(model) is None
    loss_of(model.deep, next(batches())).backward()
    assert model.deep.embedding.factors.grad.is_sparse


def test_a_model_of_several_tables_counts_its_steps_once():
    model = torch.nn.ModuleList([make("all"), make("linear")])
    fused = optim.fuse_optimizer(model, "adam")
    for batch in batches(3):
        (model[0](batch) + model[1](batch)).sum().backward()
    assert {name: part.step for name, part in fused.parts.items()} == {"0.embedding": 3, "1": 3}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_they_learn_a_planted_interaction(kind, fused):
    torch.manual_seed(0)
    x = torch.randint(0, 2, (512, 4))
    y = (x[:, 0] * x[:, 1] - x[:, 2] * x[:, 3]).float()
    ids = x + torch.arange(4) * 2
    model = nn.FactorizationMachine(8, 4, init_scale=0.3)
    lr = {"adam": 0.05, "ftrl": 1.0}.get(kind, 0.3)
    if fused:
        optimizer = optim.fuse_optimizer(model, kind, lr=lr)
    else:
        optimizer = SPARSE[kind](optim.split_parameters(model)[0], lr=lr)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (model(ids) - y).pow(2).mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.01  # a linear model stays above 0.1


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adagradd",), r"no optimizer 'adagradd'.*Did you mean 'adagrad'\?"),
        (("adagrad", {"l1": 1.0}), "adagrad has no option 'l1'; it has lr, l2, eps"),
        (("ftrl", {"l_1": 1.0}), r"Did you mean 'l1'\?"),
        (("adagrad", {"l1_linear": 1.0}), "adagrad has no option 'l1'"),
        (("adagrad", {"lr": -1.0}), "lr is -1.0, expected a finite number of 0 or more"),
        (("adagrad", {"l2": float("nan")}), "l2 is nan"),
        (("adam", {"betas": (0.9, 1.0)}), r"betas are \(0.9, 1.0\)"),
        (("ftrl", {"lr": 0.0}), "lr is 0.0, ftrl divides by it"),
    ],
)
def test_bad_options(arguments, message):
    kind, options = arguments[0], arguments[1] if len(arguments) > 1 else {}
    model = make("all")
    with pytest.raises(DataError, match=message):
        optim.fuse_optimizer(model, kind, **options)
    assert optim.fused_optimizer(model) is None
    if kind in SPARSE and "l1" not in message:
        with pytest.raises(DataError, match=message):
            SPARSE[kind](model.parameters(), **options)


def test_what_cannot_be_fused():
    with pytest.raises(DataError, match="ReLU holds no tables"):
        optim.fuse_optimizer(torch.nn.ReLU())
    model = make("all")
    fused = optim.fuse_optimizer(model)
    with pytest.raises(DataError, match=r"embedding has a fused optimizer already.*unfuse"):
        optim.fuse_optimizer(model)
    with pytest.raises(DataError, match="does not see the gradients of a dense x"):
        model(torch.ones(1, N))
    with torch.no_grad():
        model(torch.ones(1, N))
    optim.unfuse(model)
    assert optim.fuse_optimizer(model) is not fused
    tied = torch.nn.ModuleList([make("linear"), make("linear")])
    tied[1].weights = tied[0].weights
    with pytest.raises(DataError, match="0 and 1 share a table"):
        optim.fuse_optimizer(tied)


def test_states_that_do_not_fit():
    model = make("all")
    fused = optim.fuse_optimizer(model, "adagrad")
    go(model, fused, batches(1))
    state = fused.state_dict()
    other = optim.fuse_optimizer(make("all"), "adam")
    with pytest.raises(DataError, match="the state is of 'adagrad', this optimizer is 'adam'"):
        other.load_state_dict(state)
    other = optim.fuse_optimizer(make("linear"), "adagrad")
    with pytest.raises(DataError, match=r"of modules \['embedding'\], the model has \[''\]"):
        other.load_state_dict(state)
    larger = nn.FactorizationMachine(N + 1, K)
    other = optim.fuse_optimizer(larger, "adagrad")
    with pytest.raises(DataError, match=r"a state of .*for a table \[21"):
        other.load_state_dict(state)
    assert other.parts["embedding"].step == 0
