"""Networks, batches and formulas that the tests of optimizers share."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'crossfm[torch]'")

from crossfm import nn  # noqa: E402 - after the check for torch
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


def go(model, optimizer, part):
    for batch in part:
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        dense_sgd(p for p in model.parameters() if p.grad is not None)
