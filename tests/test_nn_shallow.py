"""The shallow networks: each against its definition, sums over pairs and sets written as loops."""

from __future__ import annotations

import copy
from itertools import combinations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'crossfm[torch]'")

from crossfm import Bag, Categorical, Schema, nn  # noqa: E402 - after the check for torch
from crossfm.data.rows import Rows  # noqa: E402
from crossfm.errors import DataError  # noqa: E402
from crossfm.nn.batch import Batch  # noqa: E402
from crossfm.nn.embedding import table_parameters  # noqa: E402
from crossfm.nn.ops.anova import degrees, degrees_of_rows  # noqa: E402

# Fields of 12 features; field 4 is in none of these rows.
FIELD_OF = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4]
N, F, K = 12, 5, 3
ROWS = [
    [(0, 1.0), (3, 1.0), (6, 1.0), (9, 1.0)],
    [(2, 1.0), (4, 1.0), (6, 0.5), (7, 0.25), (8, 2.0), (10, -1.5)],  # several of a field, values
    [(1, 1.0), (5, 1.0)],  # fields of which the row has nothing
    [(9, 0.7), (0, 1.0), (8, 1.0), (4, 1.0), (8, 1.0), (1, -2.0)],  # in no order, an id twice
    [],
    [(6, 1.0), (7, 1.0), (8, 1.0)],  # one field alone
    [(2, 0.0), (3, 1.0), (10, 1.0)],  # a zero
    [(11, 2.0)],
]
CASES = [
    ("HigherOrderFM", {"order": 2}),
    ("HigherOrderFM", {"order": 3}),
    ("HigherOrderFM", {"order": 4}),
    ("HigherOrderFM", {"order": 4, "shared": True}),
    ("HigherOrderFM", {"order": 3, "interactions": "across_fields"}),
    ("HigherOrderFM", {"order": 4, "interactions": "across_fields", "shared": True}),
    ("FieldAwareFM", {"interactions": "all"}),
    ("FieldAwareFM", {"interactions": "across_fields"}),
    ("FieldAwareFM", {"linear": False}),
    ("FwFM", {}),
    ("FmFM", {}),
    ("AttentionalFM", {"n_attention": 4}),
]
case = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)]
)
FIELD_ONLY = ["FwFM", "FmFM", "AttentionalFM"]

EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64, sums of some hundred terms of size one
SINGLE = {"rtol": 1e-4, "atol": 1e-4}  # float32, the same sums


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


def make(name, dtype=torch.float64, seed=0, **options):
    """A network whose parameters are all of size one."""
    torch.manual_seed(seed)
    network = getattr(nn, name)(N, K, FIELD_OF, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network


def batch_of(rows, dtype=torch.float64, **parts):
    ids = torch.tensor([i for row in rows for i, _ in row], dtype=torch.int64)
    values = torch.tensor([x for row in rows for _, x in row], dtype=dtype)
    return Batch(ids, values, torch.tensor(np.cumsum([0, *map(len, rows)])), **parts)


def close(got, want, **tolerance):
    torch.testing.assert_close(got.detach().double(), want.detach().double(), **tolerance)


# --- definitions ----------------------------------------------------------------------------


def pool(V, row, field_of):
    p = np.zeros((F, V.shape[1]))
    for i, x in row:
        p[field_of[i]] += x * V[i]
    return p


def hofm(state, row, field_of, order=3, shared=False, interactions="all", **_):
    V, y = state["embedding.factors"], 0.0
    for t in range(2, order + 1):
        v = V if shared else V[:, (t - 2) * K : (t - 1) * K]
        vectors = [x * v[i] for i, x in row] if interactions == "all" else pool(v, row, field_of)
        for chosen in combinations(vectors, t):
            y += np.prod(chosen, axis=0).sum()
    return y


def ffm(state, row, field_of, interactions="all", **_):
    V, y = state["embedding.factors"].reshape(N, F, -1), 0.0
    for a, (i, x) in enumerate(row):
        for j, z in row[a + 1 :]:
            f, g = field_of[i], field_of[j]
            if interactions == "all" or f != g:
                y += V[i, g] @ V[j, f] * x * z
    return y


def fwfm(state, row, field_of):
    p, y, pair = pool(state["embedding.factors"], row, field_of), 0.0, 0
    for f in range(F):
        for g in range(f + 1, F):
            y += state["pair_weights"][pair] * p[f] @ p[g]
            pair += 1
    return y


def fmfm(state, row, field_of):
    p, y, pair = pool(state["embedding.factors"], row, field_of), 0.0, 0
    for f in range(F):
        for g in range(f + 1, F):
            M = state["pair_matrices"][pair]
            for a in range(K):
                for b in range(K):
                    y += p[f, a] * M[a, b] * p[g, b]
            pair += 1
    return y


def afm(state, row, field_of, **_):
    p = pool(state["embedding.factors"], row, field_of)
    W, b, h = (state[f"attention.{part}"] for part in ("0.weight", "0.bias", "2.weight"))
    there = sorted({field_of[i] for i, x in row if x != 0})
    pairs = [p[f] * p[g] for f, g in combinations(there, 2)]
    if not pairs:
        return 0.0
    scores = np.array([h[0] @ np.maximum(W @ e + b, 0) for e in pairs])
    a = np.exp(scores - scores.max())
    total = sum(a_e * e for a_e, e in zip(a / a.sum(), pairs, strict=True))
    return state["output.weight"][0] @ total


DEFINITIONS = {
    "HigherOrderFM": hofm, "FieldAwareFM": ffm, "FwFM": fwfm, "FmFM": fmfm, "AttentionalFM": afm,
}  # fmt: skip


def expected(name, network, rows, field_of=FIELD_OF, **options):
    state = {key: tensor.double().numpy() for key, tensor in network.state_dict().items()}
    w = state.get("embedding.weights", np.zeros(N))
    logits = [
        state["bias"]
        + sum(w[i] * x for i, x in row)
        + DEFINITIONS[name](state, row, field_of, **options)
        for row in rows
    ]
    return torch.tensor(np.array(logits))


# --- right ----------------------------------------------------------------------------------


@case
def test_logits_are_those_of_the_definition(name, options):
    network = make(name, **options)
    want = expected(name, network, ROWS, **options)
    assert want.std() > 0.1  # rows differ
    close(network(batch_of(ROWS)), want, **EXACT)
    plain = [[(i, 1.0) for i, _ in row] for row in ROWS]
    close(
        network(batch_of(ROWS)._replace(values=None)),
        expected(name, network, plain, **options),
        **EXACT,
    )


@case
def test_logits_are_those_of_the_definition_in_float32(name, options):
    network = make(name, torch.float32, **options)
    got = network(batch_of(ROWS, torch.float32))
    assert got.dtype == torch.float32
    want = expected(name, network, ROWS, **options)
    scale = want.abs().max()
    close(got / scale, want / scale, **SINGLE)


@case
@pytest.mark.parametrize("bags", [False, True])
def test_all_kinds_of_input_agree(name, options, bags):
    network = make(name, torch.float32, **options)
    ids = np.array([[0, 3, 6, 9], [2, 5, 8, 10], [1, 4, 7, 11]])
    if bags:  # several features of a field
        ids = np.array([[0, 3, 1, 1], [2, 6, 8, 7], [9, 4, 10, 5]])
    want = expected(name, network, [[(i, 1.0) for i in row] for row in ids], **options)
    fields = np.array(FIELD_OF, dtype=np.int32)[ids.ravel()]
    inputs = {
        "ids": torch.tensor(ids),
        "int32": torch.tensor(ids.astype(np.int32)),
        "rows": Rows(ids),
        "batch": Batch.of(Rows(ids)),
        "values": Rows(ids, np.ones(ids.size)),
        "offsets": Rows(ids.ravel(), offsets=np.arange(4) * 4),
        "fields": Rows(ids.ravel(), offsets=np.arange(4) * 4, fields=fields),
    }
    scale = want.abs().max()
    for x in inputs.values():
        got = network(x)
        assert got.shape == (3,)
        close(got / scale, want / scale, **SINGLE)


@case
def test_rows_may_carry_their_fields(name, options):
    torch.manual_seed(0)
    network = getattr(nn, name)(N, K, n_fields=F, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    ids = torch.tensor([[0, 3, 6], [5, 1, 6]])
    columns = torch.tensor([4, 0, 2])  # another field in each column, whatever the id
    for fields in (columns, columns.int(), columns.expand(2, 3)):
        got = network(Batch(ids, fields=fields))
        for row, logit in zip(ids.tolist(), got, strict=True):
            own = dict(zip(row, columns.tolist(), strict=True))
            want = expected(name, network, [[(i, 1.0) for i in row]], own, **options)
            close(logit[None], want, **EXACT)


@case
def test_a_batch_may_be_of_one_row_or_none(name, options):
    network = make(name, **options)
    whole = network(batch_of(ROWS))
    for r, row in enumerate(ROWS):
        one = network(batch_of([row]))
        assert one.shape == (1,)
        close(one, whole[r : r + 1], **EXACT)
    assert network(batch_of([])).shape == (0,)
    assert network(torch.zeros(0, 3, dtype=torch.int64)).shape == (0,)
    close(network(torch.zeros(2, 0, dtype=torch.int64)), network.bias.expand(2), **EXACT)


@case
def test_gradients_are_the_slopes(name, options):
    network = make(name, sparse_grad=False, **options)
    given = batch_of(ROWS)
    names = [key for key, _ in network.named_parameters()]

    def logits(values, *parameters):
        network_of = dict(zip(names, parameters, strict=True))
        batch = given._replace(values=values)
        return torch.func.functional_call(network, network_of, (batch,))

    values = torch.randn(given.values.shape, dtype=torch.float64).requires_grad_()
    parameters = [p.detach().clone().requires_grad_() for p in network.parameters()]
    torch.autograd.gradcheck(logits, (values, *parameters))


@case
def test_gradients_of_tables_are_sparse_by_row(name, options):
    network, dense = (make(name, sparse_grad=sparse, **options) for sparse in (True, False))
    for module in (network, dense):
        module(batch_of(ROWS[:4])).square().sum().backward()
    touched = sorted({i for row in ROWS[:4] for i, _ in row})
    for table, other in zip(table_parameters(network), table_parameters(dense), strict=True):
        assert table.grad.is_sparse
        assert table.grad.coalesce().indices().tolist() == [touched]
        close(table.grad.to_dense(), other.grad, **EXACT)


@case
def test_fused_optimizers_step_all_tables(name, options):
    network, other = (make(name, torch.float32, **options) for _ in range(2))
    nn.optim.fuse_optimizer(network, "adagrad", lr=0.01)
    apart = nn.optim.AdaGrad(table_parameters(other), lr=0.01)
    for _ in range(2):
        for module in (network, other):
            module(batch_of(ROWS, torch.float32)).tanh().sum().backward()
        apart.step()
        apart.zero_grad()
    for table, twin in zip(table_parameters(network), table_parameters(other), strict=True):
        assert table.grad is None
        close(table, twin, rtol=1e-4, atol=1e-5)


# --- identities -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["all", "across_fields"])
def test_order_two_is_the_factorization_machine(mode):
    network = make("HigherOrderFM", order=2, interactions=mode)
    close(network(batch_of(ROWS)), machine(network, mode)(batch_of(ROWS)), **EXACT)


def machine(network, mode, V=None):
    """A factorization machine with a network's linear part and vectors."""
    fm = nn.FactorizationMachine(N, K, interactions=mode, field_of=FIELD_OF, dtype=torch.float64)
    with torch.no_grad():
        fm.bias.copy_(network.bias)
        fm.embedding.weights.copy_(network.embedding.weights)
        fm.embedding.factors.copy_(network.embedding.factors if V is None else V)
    return fm


def test_shared_vectors_are_equal_vectors():
    shared, own = make("HigherOrderFM", order=4, shared=True), make("HigherOrderFM", order=4)
    with torch.no_grad():
        own.bias.copy_(shared.bias)
        own.embedding.weights.copy_(shared.embedding.weights)
        own.embedding.factors.copy_(shared.embedding.factors.repeat(1, 3))
    close(own(batch_of(ROWS)), shared(batch_of(ROWS)), **EXACT)


@pytest.mark.parametrize("mode", ["all", "across_fields"])
def test_field_aware_with_equal_vectors_is_the_factorization_machine(mode):
    network = make("FieldAwareFM", interactions=mode)
    V = torch.randn(N, K, dtype=torch.float64)
    with torch.no_grad():
        network.embedding.factors.copy_(V.repeat(1, F))
    close(network(batch_of(ROWS)), machine(network, mode, V)(batch_of(ROWS)), **EXACT)


@pytest.mark.parametrize("name", ["FwFM", "FmFM"])
def test_field_weights_start_as_the_factorization_machine(name):
    torch.manual_seed(0)
    network = getattr(nn, name)(N, K, FIELD_OF, init_scale=1.0, dtype=torch.float64)
    fm = machine(network, "across_fields")
    close(network(batch_of(ROWS)), fm(batch_of(ROWS)), **EXACT)
    assert network(batch_of(ROWS)).std() > 0.1


def test_multiples_of_the_identity_are_weights():
    weighted, matrixed = make("FwFM"), make("FmFM")
    with torch.no_grad():
        eye = torch.eye(K, dtype=torch.float64)
        matrixed.pair_matrices.copy_(weighted.pair_weights[:, None, None] * eye)
        for part in ("bias", "embedding.weights", "embedding.factors"):
            matrixed.get_parameter(part).copy_(weighted.get_parameter(part))
    close(matrixed(batch_of(ROWS)), weighted(batch_of(ROWS)), **EXACT)


def test_even_attention_is_the_mean_of_the_pairs():
    network = make("AttentionalFM")
    with torch.no_grad():
        network.attention[2].weight.zero_()
        network.output.weight.fill_(1.0)
        network.embedding.weights.zero_()
        network.bias.zero_()
    fm = machine(network, "across_fields")
    close(network(batch_of(ROWS[:1])), fm(batch_of(ROWS[:1])) / 6, **EXACT)  # 4 fields: 6 pairs


def test_a_field_alone_has_no_pairs():
    for name in ("FieldAwareFM", *FIELD_ONLY):
        network = getattr(nn, name)(4, 2, n_fields=1, init_scale=1.0)
        got = network(Batch(torch.tensor([[1]]), fields=torch.tensor([0])))
        close(got, torch.zeros(1), **EXACT)


# --- the ANOVA kernel -----------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("fields", "k"), [(0, 2), (1, 3), (2, 1), (6, 3), (9, 2)])
def test_anova_is_the_sum_over_sets(order, fields, k):
    v = torch.randn(4, fields, k, dtype=torch.float64)
    want = torch.zeros(4, k, dtype=torch.float64)
    for chosen in combinations(range(fields), order):
        product = torch.ones(4, k, dtype=torch.float64)
        for f in chosen:
            product = product * v[:, f]
        want += product
    close(nn.anova(v, order, reduce_sum=False), want, **EXACT)
    close(nn.anova(v, order), want.sum(1), **EXACT)
    assert nn.anova(v[:1], order).shape == (1,)
    assert nn.anova(v[:0], order).shape == (0,)
    if fields == 6:
        v.requires_grad_()
        assert torch.autograd.gradcheck(lambda v: nn.anova(v, order), v)
        assert torch.autograd.gradgradcheck(lambda v: nn.anova(v, order, reduce_sum=False), v)


@pytest.mark.parametrize(
    "lengths", [[0, 1, 9, 2, 0, 8, 3, 5, 4, 0], [3, 4, 4, 2, 4, 4, 3, 1, 4, 2]]
)
def test_anova_of_rows_of_any_length(lengths):
    row = torch.repeat_interleave(torch.arange(10), torch.tensor(lengths))
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    v = torch.randn(len(row), 2, dtype=torch.float64)
    v[row == 5] *= 1e200  # a row's numbers stay in their row, infinite ones too
    found = degrees_of_rows(v, row, offsets, 4)
    for r in set(range(10)) - {5}:
        for got, want in zip(found, degrees(v[row == r][None], 4), strict=True):
            close(got[r], want[0], **EXACT)
    assert not found[3][5].isfinite().any()
    v = v.clamp(-1, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: degrees_of_rows(v, row, offsets, 3)[2], v)
    nothing = degrees_of_rows(v[:0], row[:0], torch.zeros(4, dtype=torch.int64), 3)
    assert nothing[2].tolist() == [[0.0, 0.0]] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_anova_of_half_precision_is_summed_in_single(dtype):
    v = torch.rand(7, 20, 4).to(dtype)
    got = nn.anova(v, 3)
    assert got.dtype == dtype
    close(got, nn.anova(v.double(), 3), rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_anova_keeps_its_digits():
    """Power sums lose them: one large vector among small ones."""
    v = torch.full((1, 30, 1), 1e-3)
    v[0, 11] = 1e3
    close(nn.anova(v, 3), nn.anova(v.double(), 3), rtol=1e-6, atol=0)  # float32, nothing subtracted


# --- modules like any other -----------------------------------------------------------------


@case
def test_copies_and_states(name, options):
    network, other = make(name, **options), make(name, seed=1, **options)
    batch = batch_of(ROWS)
    want = network(batch).detach()
    assert not torch.equal(other(batch), want)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(batch), want)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        twin.embedding.factors.zero_()
    assert torch.equal(network(batch), want)


@case
@pytest.mark.parametrize("kind", ["ids", "rows of any length"])
def test_compiles_to_one_graph(name, options, kind):
    network = make(name, torch.float32, **options)
    batch = Batch(torch.tensor([[0, 3, 6, 9], [2, 6, 8, 11]]))
    if kind != "ids":
        batch = batch_of(ROWS, torch.float32)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        close(compiled(batch), network(batch), **SINGLE)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's
@pytest.mark.parametrize("name", list(DEFINITIONS))
def test_trains_compiled(name):
    network, plain = (make(name, torch.float32) for _ in range(2))
    compiled = torch.compile(network, backend="aot_eager")
    batch = batch_of(ROWS, torch.float32)
    for module in (compiled, plain):
        module(batch).tanh().sum().backward()
    for parameter, twin in zip(network.parameters(), plain.parameters(), strict=True):
        close(parameter.grad.to_dense(), twin.grad.to_dense(), **SINGLE)


@case
def test_half_precision(name, options):
    network = make(name, torch.float32, sparse_grad=False, **options)
    with torch.no_grad():
        network.embedding.factors *= 0.5
    batch = batch_of(ROWS, torch.float32)
    want = network(batch).detach()
    size = float(want.abs().max())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = network(batch)
        got.float().sum().backward()
    assert got.dtype == torch.float32
    close(got, want, rtol=0.05, atol=0.02 * size)  # bfloat16 has 8 bits
    assert all(p.grad.isfinite().all() for p in network.parameters())
    got = copy.deepcopy(network).bfloat16()(batch_of(ROWS, torch.bfloat16))
    assert got.dtype == torch.float32
    close(got, want, rtol=0.05, atol=0.05 * size)


def test_of_a_schema():
    frame = {"user": ["ann", "bob", "ann"], "item": ["pen", "ink", "cup"], "tags": ["a", "a|b", ""]}
    pd = pytest.importorskip("pandas", reason="a frame to encode")
    frame = pd.DataFrame(frame)
    schema = Schema([Categorical("user"), Categorical("item"), Bag("tags", sep="|")]).fit(frame)
    for short, name in (("hofm", "HigherOrderFM"), ("ffm", "FieldAwareFM"), ("fwfm", "FwFM"),
                        ("fmfm", "FmFM"), ("afm", "AttentionalFM")):  # fmt: skip
        network = nn.build(short, schema, n_factors=4)
        assert type(network) is getattr(nn, name)
        assert (network.n_fields, network.n_factors) == (3, 4)
        assert network(schema.transform(frame)).shape == (3,)
        assert type(network).from_schema(schema, 2).n_factors == 2


def test_dropout_is_for_training():
    network = make("AttentionalFM", dropout=0.5, attention_dropout=0.5)
    batch = batch_of(ROWS)
    assert not torch.equal(network(batch), network(batch))
    network.eval()
    close(network(batch), expected("AttentionalFM", network, ROWS), **EXACT)


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("HigherOrderFM", {"order": 1}, r"order is 1, expected 2 or more"),
        ("HigherOrderFM", {"order": 2.5}, r"order is 2.5, expected an integer"),
        ("HigherOrderFM", {"interactions": "al"}, r"Did you mean 'all'"),
        ("HigherOrderFM", {"interactions": "across_fields"}, r"needs to know its fields"),
        ("FieldAwareFM", {}, r"FieldAwareFM needs to know its fields"),
        ("FieldAwareFM", {"n_fields": 0}, r"n_fields is 0"),
        ("FieldAwareFM", {"field_of": [0, 1]}, r"field_of is int64 \[2\]"),
        ("FieldAwareFM", {"n_fields": 2, "interactions": "across"}, r"interactions is 'across'"),
        ("FwFM", {"n_fields": 2, "interactions": "all"}, r"FwFM crosses the pooled vectors"),
        ("FmFM", {"n_fields": 2, "interactions": "all"}, r"FmFM crosses the pooled vectors"),
        ("AttentionalFM", {"n_fields": 2, "interactions": "all"}, r"crosses the pooled vectors"),
        ("AttentionalFM", {"n_fields": 2, "n_attention": 0}, r"n_attention is 0"),
        ("AttentionalFM", {"n_fields": 2, "dropout": 1.0}, r"dropout is 1.0"),
        ("AttentionalFM", {"n_fields": 2, "attention_dropout": -1}, r"attention_dropout is -1"),
    ],
)
def test_wrong_arguments(name, options, message):
    with pytest.raises(DataError, match=message):
        getattr(nn, name)(5, 2, **options)


@pytest.mark.parametrize("name", list(DEFINITIONS))
@pytest.mark.parametrize("size", ["n_features", "n_factors"])
def test_wrong_sizes(name, size):
    with pytest.raises(DataError, match=f"{size} is 0"):
        getattr(nn, name)(**{"n_features": 5, "n_factors": 2, "n_fields": 2, size: 0})


@pytest.mark.parametrize("name", list(DEFINITIONS))
def test_wrong_input(name):
    network = make(name)
    with pytest.raises(DataError, match=r"id 12 at position 1 is out of range, expected 0 to 11"):
        network(torch.tensor([[0, 12]]))
    with pytest.raises(DataError, match=r"expected int32 or int64 ids \[batch, m\]"):
        network(torch.zeros(2, 3))
    if name != "HigherOrderFM":
        with pytest.raises(DataError, match=r"fields run from 5 to 5, expected 0 to 4"):
            network(Batch(torch.tensor([[0]]), fields=torch.tensor([5])))
        nameless = getattr(nn, name)(N, K, n_fields=2)
        with pytest.raises(DataError, match=r"the field of each feature is not known"):
            nameless(torch.tensor([[0]]))


def test_wrong_vectors():
    with pytest.raises(DataError, match=r"v has shape \[3, 2\], expected \[batch, fields, k\]"):
        nn.anova(torch.zeros(3, 2), 2)
    with pytest.raises(DataError, match=r"v holds torch.int64"):
        nn.anova(torch.zeros(1, 3, 2, dtype=torch.int64), 2)
    for order in (0, True, 2.0):
        with pytest.raises(DataError, match=r"order is .*, expected an integer of 1 or more"):
            nn.anova(torch.zeros(1, 3, 2), order)
