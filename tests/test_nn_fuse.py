"""Fused optimizers: their handle, states and copies, and what they refuse."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'crossfm[torch]'")

from optim_problems import (  # noqa: E402 - after the check for torch
    KINDS,
    OPTIONS,
    SINGLE,
    SPARSE,
    K,
    N,
    assert_alike,
    batches,
    go,
    loss_of,
    make,
    trained,
)

from crossfm import nn  # noqa: E402
from crossfm.errors import DataError  # noqa: E402
from crossfm.nn import optim  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- saving and copying -------------------------------------------------------------------------


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


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
        (("adagrad", {"lr": "fast"}), "lr is 'fast', expected a finite number of 0 or more"),
        (("adam", {"betas": (0.9, 1.0)}), r"betas are \(0.9, 1.0\)"),
        (("adam", {"betas": (0.9,)}), r"betas are \(0.9,\), expected two numbers"),
        (("adam", {"betas": 0.9}), r"betas are 0.9, expected two numbers"),
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


def test_a_loaded_state_is_a_copy():
    model = make("all")
    fused = optim.fuse_optimizer(model, "adagrad")
    go(model, fused, batches(1))
    twin = make("all")
    other = optim.fuse_optimizer(twin, "adagrad")
    other.load_state_dict(fused.state_dict())
    before = other.state_dict()["modules"]["embedding"]["states"][1]["a"].clone()
    go(model, fused, batches(2))
    after = other.state_dict()["modules"]["embedding"]["states"][1]["a"]
    torch.testing.assert_close(after, before, rtol=0, atol=0)


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
    with pytest.raises(DataError, match="the state has no groups, kind, modules: expected what"):
        other.load_state_dict(model.state_dict())
    state["modules"]["embedding"]["states"][2] = {}
    with pytest.raises(DataError, match="embedding: a state of table 2, the module has 2 tables"):
        fused.load_state_dict(state)
