"""The deep networks: each against its paper's equations, and what holds for all of them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import nn_oracle
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'crossfm[torch]'")

from safetensors.torch import load_file, save_file  # noqa: E402 - after the check for torch

from crossfm import (  # noqa: E402
    Bag,
    Categorical,
    Schema,
    nn,
)
from crossfm.data.rows import Rows  # noqa: E402
from crossfm.errors import DataError, SchemaError  # noqa: E402
from crossfm.model import FactorModel  # noqa: E402
from crossfm.nn.afn import LogarithmicLayer  # noqa: E402
from crossfm.nn.batch import Batch  # noqa: E402
from crossfm.nn.build import network_class  # noqa: E402
from crossfm.nn.dcn import CrossMixture  # noqa: E402
from crossfm.nn.embedding import table_parameters  # noqa: E402
from crossfm.nn.fibinet import BilinearInteraction  # noqa: E402
from crossfm.nn.finalmlp import BilinearFusion, FeatureGate  # noqa: E402
from crossfm.nn.fnn import FNN  # noqa: E402
from crossfm.nn.pnn import InnerProducts  # noqa: E402
from crossfm.nn.xdeepfm import CIN  # noqa: E402

# Fields of 14 features: the third takes several features a row, and 4 is in none of these rows.
FIELD_OF = [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4]
F, K = 5, 3
ROWS = [
    [(0, 1.0), (3, 1.0), (7, 1.0), (10, 1.0)],
    [(2, 1.0), (4, 1.0), (7, 0.5), (8, 0.25), (9, 2.0), (11, -1.5)],  # a bag, values
    [(1, 1.0), (6, 1.0)],  # fields of which the row has nothing
    [(10, 0.7), (0, 1.0), (9, 1.0), (5, 1.0), (9, 1.0)],  # in no order, an id twice
    [],
    [(2, 0.0), (3, 1.0)],
]
SMALL = {"hidden": (6, 4)}

# (network, options): every variant of every paper.
CASES = [
    ("nfm", {"hidden": (6, 4)}),
    ("nfm", {"hidden": (6,), "batch_norm": False, "interactions": "all"}),
    ("deepfm", SMALL),
    ("deepfm", {"hidden": (6,), "batch_norm": True, "interactions": "all", "activation": "tanh"}),
    ("wide_deep", SMALL),
    ("wide_deep", {"hidden": ()}),
    ("fnn", {"hidden": (6, 4), "activation": "tanh", "batch_norm": True}),
    ("pnn", {"hidden": (6,), "product": "inner"}),
    ("pnn", {"hidden": (6,), "product": "outer"}),
    ("pnn", {"hidden": (6,), "product": "both", "batch_norm": True}),
    ("dcn", SMALL),
    ("dcn", {"hidden": (6, 4), "structure": "stacked", "n_layers": 2}),
    ("dcn", {"hidden": (6,), "rank": 2}),
    ("dcn", {"hidden": (6,), "rank": 2, "n_experts": 3, "structure": "stacked"}),
    ("dcn", {"hidden": None, "n_layers": 1}),
    ("xdeepfm", {"hidden": (6,), "cin": (4, 3, 2)}),
    ("autoint", {"n_layers": 2, "n_attention": 4, "n_heads": 2}),
    ("autoint", {"n_layers": 1, "n_attention": 2, "n_heads": 3, "hidden": (6,)}),
    ("afn", {"hidden": (6,), "n_neurons": 4}),
    ("afn", {"hidden": (6,), "n_neurons": 4, "log_norm": False, "parallel_hidden": (5,)}),
    ("fibinet", {"hidden": (6,), "bilinear": "all"}),
    ("fibinet", {"hidden": (6,), "bilinear": "each", "reduction": 2}),
    ("fibinet", {"hidden": (6,), "bilinear": "interaction"}),
    ("finalmlp", {"hidden": (6, 4), "gate_hidden": (5,)}),
    ("finalmlp", {"hidden": (6,), "second_hidden": (4,), "n_heads": 2, "gates": False}),
    ("finalmlp", {"hidden": (4,), "n_heads": 2, "gate_fields": ([0], [1, 2]), "dropout": 0.5}),
]
DEEP = list(dict.fromkeys(name for name, _ in CASES))
FIRST = {name: next(options for other, options in CASES if other == name) for name in DEEP}
case = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)]
)
each = pytest.mark.parametrize("name", DEEP)

EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64, sums of some hundred terms of size one
SINGLE = {"rtol": 1e-4, "atol": 1e-4}  # float32, the same sums


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small only lose time to threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(name, dtype=torch.float64, seed=0, **options):
    """A network in evaluation whose parameters and statistics are all of size one."""
    torch.manual_seed(seed)
    of = network_class(name)
    network = of(len(FIELD_OF), K, FIELD_OF, dtype=dtype, **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            size = parameter.shape[-1] if parameter.dim() > 1 and len(parameter) < 40 else 1
            parameter.normal_(std=size**-0.5)
        for key, tensor in network.named_buffers():
            if key.endswith("running_mean"):
                tensor.normal_()
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2)
    return network


def batch_of(rows, dtype=torch.float64):
    ids = torch.tensor([i for row in rows for i, _ in row], dtype=torch.int64)
    values = torch.tensor([x for row in rows for _, x in row], dtype=dtype)
    offsets = torch.tensor(np.cumsum([0, *map(len, rows)]))
    return Batch(ids, values, offsets)


def expected(name, network, rows, field_of=FIELD_OF, **options):
    state = nn_oracle.State({k: v.double().numpy() for k, v in network.state_dict().items()})
    oracle = getattr(nn_oracle, name)
    listed = [[(i, x, field_of[i]) for i, x in row] for row in rows]
    logits = [float(oracle(state, row, F, **options)) for row in listed]
    return torch.tensor(logits, dtype=torch.float64)


def close(got, want, **tolerance):
    torch.testing.assert_close(got.double(), want.double(), **tolerance)


# Right ---------------------------------------------------------------------------------------


@case
def test_logits_are_those_of_the_paper(name, options):
    network = make(name, **options)
    want = expected(name, network, ROWS, **options)
    assert want.std() > 0.01  # rows differ
    close(network(batch_of(ROWS)).detach(), want, **EXACT)


@case
def test_logits_are_those_of_the_paper_in_float32(name, options):
    network = make(name, torch.float32, **options)
    got = network(batch_of(ROWS, torch.float32))
    assert got.dtype == torch.float32
    want = expected(name, network, ROWS, **options)
    scale = want.abs().max().clamp(min=1)
    close(got.detach() / scale, want / scale, **SINGLE)


@each
def test_all_kinds_of_input_agree(name):
    network = make(name, torch.float32, **FIRST[name])
    ids = np.array([[0, 3, 7, 10, 12], [2, 6, 9, 11, 13], [1, 4, 8, 10, 12]])
    want = expected(name, network, [[(i, 1.0) for i in row] for row in ids], **FIRST[name])
    fields = np.tile(np.arange(5, dtype=np.int32), 3)
    inputs = {
        "ids": torch.tensor(ids),
        "int32": torch.tensor(ids.astype(np.int32)),
        "rows": Rows(ids),
        "batch": Batch.of(Rows(ids)),
        "offsets": Rows(ids.ravel(), offsets=np.arange(4) * 5),
        "fields": Rows(ids.ravel(), offsets=np.arange(4) * 5, fields=fields),
        "columns": Batch(torch.tensor(ids), fields=torch.arange(5)),
    }
    scale = want.abs().max().clamp(min=1)
    for kind, x in inputs.items():
        got = network(x).detach()
        assert got.shape == (3,), kind
        close(got / scale, want / scale, **SINGLE)


@each
def test_a_batch_may_be_of_one_row_or_none(name):
    network = make(name, **FIRST[name])
    whole = network(batch_of(ROWS))
    for r, row in enumerate(ROWS):
        one = network(batch_of([row]))
        assert one.shape == (1,)
        close(one.detach(), whole[r : r + 1].detach(), **EXACT)
    assert network(batch_of([])).shape == (0,)


@case
def test_gradients_reach_every_parameter(name, options):
    missed = None
    for seed in range(5):  # relus of a few numbers may all be at rest
        network = make(name, seed=seed, sparse_grad=False, **options)
        network(batch_of(ROWS)).square().sum().backward()
        gradients = {key: parameter.grad for key, parameter in network.named_parameters()}
        assert all(g is not None and g.isfinite().all() for g in gradients.values())
        at_rest = {key for key, g in gradients.items() if not g.any()}
        missed = at_rest if missed is None else missed & at_rest
    assert not missed


@each
def test_gradients_are_the_slopes(name):
    network = make(name, sparse_grad=False, **FIRST[name])
    batch = batch_of(ROWS)
    network(batch).sum().backward()
    generator = torch.Generator().manual_seed(0)
    h = 1e-6
    for key, parameter in network.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            slope = 0.0
            for sign in (1, -1):
                parameter += sign * h * direction
                slope += sign * float(network(batch).sum()) / (2 * h)
                parameter -= sign * h * direction
        got = float((parameter.grad * direction).sum())
        assert got == pytest.approx(slope, rel=1e-4, abs=1e-6), key  # second order of h, rounding


@each
def test_gradients_of_tables_are_sparse_by_row(name):
    network = make(name, torch.float32, **FIRST[name])
    network(torch.tensor([[0, 3], [2, 3]])).sum().backward()
    tables = table_parameters(network)
    assert len(tables) == (2 if network.embedding.weights is not None else 1)
    for table in tables:
        assert table.grad.is_sparse
        assert table.grad.coalesce().indices().tolist() == [[0, 2, 3]]


def test_identities():
    # Matrices that halve nothing: a full CIN layer of one row with weights 1/2 off the diagonal is
    # the crossed term of a machine; the inner products add up to it.
    p = torch.randn(7, F, K, dtype=torch.float64)
    crossed = 0.5 * (p.sum(1).square() - p.square().sum(1)).sum(1)
    close(InnerProducts(F)(p).sum(1), crossed, **EXACT)
    cin = CIN(F, (1,), dtype=torch.float64)
    with torch.no_grad():
        cin.compress[0].weight.copy_(0.5 * (1 - torch.eye(F)).reshape(1, -1))
    close(cin(p)[:, 0].detach(), crossed, **EXACT)
    bilinear = BilinearInteraction(F, K, "each", dtype=torch.float64)
    with torch.no_grad():
        bilinear.W.copy_(torch.eye(K).expand_as(bilinear.W))
    close(bilinear(p).sum((1, 2)).detach(), crossed, **EXACT)


def test_afn_takes_zeros_and_negative_numbers():
    layer = LogarithmicLayer(2, 3, norm=False, dtype=torch.float64)
    p = torch.tensor([[[0.0, -2.0, 3.0], [1.0, 1.0, -1.0]]], dtype=torch.float64).requires_grad_()
    h = layer(p)
    h.sum().backward()
    assert h.isfinite().all()
    assert p.grad.isfinite().all()
    close(layer(-p), h, **EXACT)


def test_fnn_starts_from_a_trained_machine():
    rng = np.random.default_rng(0)
    w, V = rng.normal(size=len(FIELD_OF)), rng.normal(size=(len(FIELD_OF), K))
    model = FactorModel(0.5, w, V, field_of=FIELD_OF)
    network = FNN.from_model(model, hidden=(4,), dtype=torch.float64)
    p = network.embedding(batch_of(ROWS)).detach()
    assert p.shape == (len(ROWS), F, K + 1)
    want = sum(np.float32(w[i]) * x for i, x in ROWS[1] if FIELD_OF[i] == 2)
    assert float(p[1, 2, 0]) == pytest.approx(want, rel=1e-6)
    with pytest.raises(DataError, match=r"model is dict, expected a FactorModel"):
        FNN.from_model({})
    with pytest.raises(DataError, match=r"needs to know its fields"):
        FNN.from_model(FactorModel(0.5, w, V))


# A module like any other -----------------------------------------------------------------------


@each
def test_state_is_saved_and_loaded_without_pickle(name, tmp_path):
    network = make(name, torch.float32, **FIRST[name])
    batch = batch_of(ROWS, torch.float32)
    want = network(batch).detach()
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    torch.save(network.state_dict(), tmp_path / "network.pt")
    for state in (
        load_file(tmp_path / "network.safetensors"),
        torch.load(tmp_path / "network.pt", weights_only=True),
    ):
        other = make(name, torch.float32, seed=1, **FIRST[name])
        assert not torch.equal(other(batch).detach(), want)
        other.load_state_dict(state)
        assert torch.equal(other(batch).detach(), want)


@each
def test_copies_are_independent(name):
    network = make(name, **FIRST[name])
    batch = batch_of(ROWS)
    want = network(batch).detach()
    other = copy.deepcopy(network)
    assert torch.equal(other(batch).detach(), want)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    assert not torch.equal(other(batch).detach(), want)
    assert torch.equal(network(batch).detach(), want)


@each
def test_compiles_to_one_graph(name):
    network = make(name, torch.float32, **FIRST[name])
    ids = torch.tensor([[0, 3, 7, 10], [2, 6, 9, 11]])
    torch.compiler.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        close(compiled(ids), network(ids), **SINGLE)


@each
def test_half_precision_where_autocast_says_so(name):
    network = make(name, torch.float32, sparse_grad=False, **FIRST[name])
    batch = batch_of(ROWS, torch.float32)
    want = network(batch).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = network(batch)
        got.float().sum().backward()
    assert got.shape == want.shape
    # bfloat16 has 8 bits; a handful of layers of numbers of size one.
    close(got.detach().float(), want, rtol=0.1, atol=0.05 * float(want.abs().max().clamp(min=1)))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@each
def test_parameters_go_where_they_are_told(name):
    of = network_class(name)
    network = of(len(FIELD_OF), K, FIELD_OF, device="meta", dtype=torch.float64, **FIRST[name])
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    assert {t.device.type for t in tensors.values()} == {"meta"}
    assert {p.dtype for p in network.parameters()} == {torch.float64}


@each
def test_trains_with_dropout_and_batch_norm(name):
    torch.manual_seed(0)
    of = network_class(name)
    options = {"hidden": (6,), "dropout": 0.5, "batch_norm": True}
    if name == "nfm":
        options["crossed_dropout"] = 0.5
    if name == "autoint":
        options["attention_dropout"] = 0.5
    network = of(len(FIELD_OF), K, FIELD_OF, init_scale=1.0, **options)
    batch = batch_of(ROWS, torch.float32)
    assert not torch.equal(network(batch), network(batch))
    network.eval()
    assert torch.equal(network(batch), network(batch))
    assert network(batch_of(ROWS[:1], torch.float32)).shape == (1,)


# It learns -------------------------------------------------------------------------------------


def planted(n=12, seed=0):
    """Every user with every item, and noise: whether one likes the other takes both to know."""
    rng = np.random.default_rng(seed)
    users, items = rng.normal(size=(n, 2)), rng.normal(size=(n, 2))
    users -= users.mean(0)
    items -= items.mean(0)
    u, i = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    ids = np.stack([u.ravel(), n + i.ravel(), 2 * n + rng.integers(0, 3, n * n)], 1)
    y = ((users @ items.T).ravel() > 0).astype(np.float32)
    return torch.tensor(ids), torch.tensor(y), np.repeat([0, 1, 2], [n, n, 3])


def log_loss_after(score, parameters, y, steps):
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    loss = None
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(score(), y)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@each
def test_learns_what_a_linear_model_cannot(name):
    torch.manual_seed(0)
    ids, y, field_of = planted()
    w, b = torch.zeros(len(field_of), requires_grad=True), torch.zeros((), requires_grad=True)
    linear = log_loss_after(lambda: b + w[ids].sum(1), [w, b], y, 200)
    options = FIRST[name] | ({"hidden": None} if name == "autoint" else {"hidden": (32, 16)})
    of = network_class(name)
    network = of(len(field_of), 4, field_of, init_scale=0.1, sparse_grad=False, **options)
    deep = log_loss_after(lambda: network(ids), network.parameters(), y, 150)
    assert linear > 0.5
    assert deep < 0.4 * linear


# By name ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    import pandas as pd

    frame = pd.DataFrame(
        {"user": ["ann", "bob", "ann", "eve"], "tags": ["a|b", "b", "", "c|a"], "n": list("xyxz")}
    )
    schema = Schema([Categorical("user"), Bag("tags", sep="|"), Categorical("n")]).fit(frame)
    return frame, schema


def test_networks_are_listed():
    assert set(DEEP) < set(nn.networks())
    assert nn.networks()[0] == "fm"


@pytest.mark.parametrize("name", nn.networks())
def test_built_from_a_schema(name, table):
    frame, schema = table
    network = nn.build(name, schema, n_factors=4)
    assert network.n_factors == 4
    logits = network.eval()(schema.transform(frame))
    assert logits.shape == (4,)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["dcnv2", "DCNv2", "DCN"])
def test_the_name_of_the_class_does_too(name, table):
    assert type(nn.build(name, table[1])).__name__ == "DCNv2"


def test_refusals_by_name(table):
    schema = table[1]
    with pytest.raises(DataError, match=r"no network 'deepmf'; .* Did you mean 'deepfm'\?"):
        nn.build("deepmf", schema)
    with pytest.raises(DataError, match=r"PNN has no option 'prodct'; .*Did you mean 'product'\?"):
        nn.build("pnn", schema, prodct="inner")
    with pytest.raises(DataError, match=r"FNN has no option 'linear'"):
        nn.build("fnn", schema, linear=True)
    with pytest.raises(DataError, match=r"n_features comes from the schema"):
        nn.build("pnn", schema, n_features=5)
    for name in ("deepfm", "fm"):
        with pytest.raises(SchemaError, match=r"the schema is not fitted"):
            nn.build(name, Schema([Categorical("user")]))
        with pytest.raises(DataError, match=r"schema is dict, expected a fitted"):
            nn.build(name, {})


# Refusals --------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_factors": 0}, r"n_factors is 0"),
        ({"field_of": None}, r"needs to know its fields"),
        ({"field_of": [0, 1]}, r"field_of is int64 \[2\], expected integers of 0 or more, \[14\]"),
        ({"n_fields": 2}, r"n_fields is 2, field_of names 5"),
        ({"hidden": (4, 0)}, r"sizes are integers of 1 or more"),
        ({"hidden": (4, 2.5)}, r"sizes are integers of 1 or more"),
        ({"hidden": 8}, r"hidden is 8, expected the size of each hidden layer"),
        ({"hidden": "8"}, r"hidden is '8', expected the size of each hidden layer"),
        ({"dropout": 1.0}, r"dropout is 1\.0, expected 0 or more and less than 1"),
        ({"dropout": "some"}, r"dropout is 'some', expected 0 or more and less than 1"),
        ({"activation": ["relu"], "hidden": (4,)}, r"activation is \['relu'\], expected one of"),
        ({"activation": "rleu", "hidden": (4,)}, r"Did you mean 'relu'\?"),
        ({"init_scale": -1.0}, r"init_scale is -1\.0"),
    ],
)
def test_wrong_arguments(name, wrong, message):
    of = network_class(name)
    arguments = {"n_features": 14, "n_factors": K, "field_of": FIELD_OF, "hidden": (4,)} | wrong
    with pytest.raises(DataError, match=message):
        of(**arguments)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nfm", {"crossed_dropout": -0.1}, r"crossed_dropout is -0\.1"),
        ("pnn", {"product": "iner"}, r"product is 'iner', .*Did you mean 'inner'\?"),
        ("dcn", {"structure": "stack"}, r"structure is 'stack', .*Did you mean 'stacked'\?"),
        ("dcn", {"n_layers": 0}, r"n_layers is 0, expected an integer of 1 or more"),
        ("dcn", {"n_experts": 2}, r"n_experts is 2, and experts need a rank"),
        ("dcn", {"rank": 0}, r"rank is 0"),
        ("xdeepfm", {"cin": ()}, r"layers of a CIN are \[\]"),
        ("autoint", {"n_heads": 0}, r"n_heads is 0"),
        ("autoint", {"n_layers": 0}, r"n_layers is 0"),
        ("autoint", {"attention_dropout": 2}, r"attention_dropout is 2"),
        ("afn", {"n_neurons": 0}, r"n_neurons is 0"),
        ("fibinet", {"bilinear": "al"}, r"bilinear is 'al', .*Did you mean 'all'\?"),
        ("fibinet", {"reduction": 0}, r"reduction is 0"),
        ("finalmlp", {"hidden": (5,), "n_heads": 2}, r"n_heads is 2, which does not divide"),
        ("finalmlp", {"gate_fields": ([0],)}, r"gate_fields holds 1 lists of fields, expected 2"),
        ("finalmlp", {"gate_fields": ([9], [])}, r"gate_fields holds \[9\], .* from 0 to 4"),
    ],
)
def test_wrong_options(name, options, message):
    with pytest.raises(DataError, match=message):
        network_class(name)(len(FIELD_OF), K, FIELD_OF, **options)


def test_wrong_parts():
    with pytest.raises(DataError, match=r"of 1 field: it takes 2 or more"):
        BilinearInteraction(1, 3)
    with pytest.raises(DataError, match=r"eps is 0"):
        LogarithmicLayer(3, 2, eps=0)
    with pytest.raises(DataError, match=r"does not divide"):
        BilinearFusion(4, 5, n_heads=2)
    with pytest.raises(DataError, match=r"gate_fields"):
        FeatureGate(3, 4, fields=[-1])
    assert CrossMixture(4, 2, 1)(torch.ones(2, 4), torch.ones(2, 4)).shape == (2, 4)


@each
def test_wrong_input(name):
    network = make(name, torch.float32, **FIRST[name])
    with pytest.raises(DataError, match=r"id 99 at position 1"):
        network(torch.tensor([[0, 99]]))
    with pytest.raises(DataError, match=r"x is torch.float32"):
        network(torch.zeros(2, 3))
    with pytest.raises(DataError, match=r"x is list"):
        network([[0, 1]])


# Two processes ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch comes without torch.distributed")
    worker = Path(__file__).with_name("nn_ddp.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, worker, str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            out, err = process.communicate(timeout=180)
            assert process.returncode == 0, err
            worst = json.loads(out.splitlines()[-1])
            assert set(worst) == {f"{n}, {way}" for n in DEEP for way in ("dense", "sparse")}
            assert max(worst.values()) < 1e-12, worst  # float64, the same sums in two parts
    finally:
        for process in processes:
            process.kill()
            process.wait()
