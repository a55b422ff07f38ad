"""Linear, PairwiseInteraction and FieldEmbedding."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'crossfm[torch]'")

from crossfm import Rows, nn  # noqa: E402 - after the check for torch
from crossfm.errors import DataError  # noqa: E402
from crossfm.nn import optim  # noqa: E402
from crossfm.nn.embedding import table_parameters  # noqa: E402

N, F, K = 10, 3, 4
EXACT = {"rtol": 0, "atol": 0}
DOUBLE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True)
def small():
    """One thread, and no graphs of other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
    torch.compiler.reset()


def rows():
    """Bags with values; a row is empty, one holds an id twice."""
    return Rows(
        np.array([1, 1, 4, 9, 0, 7]), np.array([2, 3, 1, -1, 0.5, 4]), np.array([0, 3, 3, 6])
    )


def filled(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


# --- Linear -------------------------------------------------------------------------------------


def test_linear_is_the_sum_of_weights():
    linear = filled(nn.Linear(N, dtype=torch.float64))
    w = linear.weights.tolist()
    bias = linear.bias.item()
    want = [5 * w[1] + w[4], 0.0, -w[9] + 0.5 * w[0] + 4 * w[7]]
    got = linear(rows())
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64) + bias, **DOUBLE)
    dense = torch.tensor(rows().to_csr(N).toarray(), dtype=torch.float64)
    torch.testing.assert_close(linear(dense), got, **DOUBLE)
    ids = torch.tensor([[1, 2], [3, 3]])
    want = torch.tensor([w[1] + w[2], 2 * w[3]], dtype=torch.float64) + bias
    for same in (ids, ids.int(), nn.Batch(ids), Rows(ids.numpy())):
        torch.testing.assert_close(linear(same), want, **DOUBLE)
    assert [linear(torch.zeros(0, 3, dtype=torch.int64)).shape, linear(dense[:1]).shape] == [
        (0,),
        (1,),
    ]


def test_gradients_of_linear_are_sparse_by_row():
    linear = nn.Linear(N)
    (linear(rows()) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    grad = linear.weights.grad
    assert grad._indices().tolist() == [[0, 1, 4, 7, 9]]  # rising, each once
    assert grad._values().tolist() == [1.5, 5.0, 1.0, 12.0, -3.0]
    assert linear.bias.grad == 6
    dense = nn.Linear(N, sparse_grad=False, bias=False)
    (dense(rows()) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    torch.testing.assert_close(dense.weights.grad, grad.to_dense(), **EXACT)
    assert dense.bias is None
    assert [name for name, _ in linear.named_parameters()] == ["weights", "bias"]
    assert table_parameters(linear) == [linear.weights]


def test_linear_travels():
    linear = filled(nn.Linear(N, sparse_grad=False))
    ids = torch.randint(0, N, (5, 3))
    twin = nn.Linear(N)
    twin.load_state_dict(linear.state_dict())
    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    for same in (copy.deepcopy(linear), twin, compiled):
        torch.testing.assert_close(same(ids), linear(ids), **EXACT)
    with torch.autocast("cpu", torch.bfloat16):
        for x in (ids, torch.randn(4, N)):
            with torch.autocast("cpu", enabled=False):
                want = linear(x)
            torch.testing.assert_close(linear(x), want, **EXACT)
    half = linear.bfloat16()
    assert half(ids).dtype == half(torch.randn(2, N).bfloat16()).dtype == torch.float32
    linear.reset_parameters()
    assert not linear(ids).any()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, N + 1), r"shape \[2, 11\], expected \[batch, 10\]"),
        (torch.zeros(2, N).double(), "x holds torch.float64, the parameters torch.float32"),
        (torch.zeros(2, N, device="meta"), "x: on meta, the parameters on cpu"),
        (torch.tensor([[0, N]]), "id 10 at position 1 is out of range"),
        (Rows(np.array([[0, 1], [N, 1]])), "row 1: feature id 10 is out of range"),
    ],
)
def test_linear_refuses(x, message):
    with pytest.raises(DataError, match=message):
        nn.Linear(N)(x)


def test_linear_needs_features():
    with pytest.raises(DataError, match="n_features is 0"):
        nn.Linear(0)


# --- PairwiseInteraction ------------------------------------------------------------------------


def test_interaction_of_pooled_fields_is_the_machine_across_fields():
    fm = nn.FactorizationMachine(
        N, K, False, "across_fields", field_of=np.arange(N) % F, dtype=torch.float64
    )
    filled(fm)
    pooled = fm.embedding(rows())
    assert pooled.shape == (3, F, K)
    crossed = fm(rows())[1]
    torch.testing.assert_close(nn.PairwiseInteraction(False)(pooled), crossed, **DOUBLE)
    torch.testing.assert_close(nn.PairwiseInteraction()(pooled), crossed.sum(1), **DOUBLE)
    assert repr(nn.PairwiseInteraction(False)) == "PairwiseInteraction(reduce_sum=False)"
    assert not list(nn.PairwiseInteraction().parameters())


def test_interaction_keeps_its_digits_under_autocast():
    v = torch.randn(5, 39, 16)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(nn.PairwiseInteraction()(v), nn.pairwise(v), **EXACT)


# --- FieldEmbedding -----------------------------------------------------------------------------


def test_vectors_are_scaled_and_pooled_by_field():
    field_of = [0, 2, 1, 0, 2, 1, 0, 1, 2, 1]  # in no order
    embedding = filled(nn.FieldEmbedding(N, K, field_of, n_fields=F + 1, dtype=torch.float64))
    v = embedding.factors.detach()
    want = torch.zeros(3, F + 1, K, dtype=torch.float64)
    want[0, 2] = 5 * v[1] + v[4]
    want[2, 1] = -v[9] + 4 * v[7]
    want[2, 0] = 0.5 * v[0]
    torch.testing.assert_close(embedding(rows()).detach(), want, **DOUBLE)


def test_fields_of_columns_and_of_batches():
    embedding = filled(nn.FieldEmbedding(N, K, n_fields=2, linear=False))
    v, ids = embedding.factors.detach(), torch.tensor([[3, 4, 5]])
    want = torch.stack([v[4], v[3] + v[5]])[None]
    for fields in ([1, 0, 1], [[1, 0, 1]]):
        got = embedding(nn.Batch(ids, fields=torch.tensor(fields))).detach()
        torch.testing.assert_close(got, want)
    assert embedding.weights is None
    assert not embedding.cross(ids).linear.any()


def test_fields_share_a_table():
    share = [0, 1, 2, 0, 1, 2]  # ids 0 to 2 are candidates, 3 to 5 the same items in a history
    embedding = nn.FieldEmbedding(6, 2, [0, 0, 0, 1, 1, 1], share=share)
    filled(embedding)
    assert embedding.factors.shape == (3, 2)
    v = embedding.factors.detach()
    got = embedding(torch.tensor([[1, 3, 5]]))
    torch.testing.assert_close(got.detach(), torch.stack([v[1], v[0] + v[2]])[None])
    got.sum().backward()
    assert embedding.factors.grad._indices().tolist() == [[0, 1, 2]]
    with pytest.raises(DataError, match="id 6 at position 0 is out of range, expected 0 to 5"):
        embedding(torch.tensor([[6]]))
    v = v.clone()
    optim.fuse_optimizer(embedding, "adagrad", lr=0.5)
    embedding(torch.tensor([[1, 3, 4]])).sum().backward()
    torch.testing.assert_close(
        v - embedding.factors.detach(), torch.tensor([[0.5], [0.5], [0]]).expand(3, 2)
    )


def test_pretrained_and_frozen_vectors():
    pretrained = np.arange(N * 2, dtype=np.float32).reshape(N, 2)
    embedding = nn.FieldEmbedding(N, 2, [0] * N, pretrained=pretrained, frozen=True)
    torch.testing.assert_close(embedding.factors.detach(), torch.from_numpy(pretrained), **EXACT)
    embedding.cross(rows()).linear.sum().backward()
    assert embedding.factors.grad is None
    assert embedding.weights.grad._indices().tolist() == [[0, 1, 4, 7, 9]]
    with pytest.raises(DataError, match=r"pretrained has shape \[2, 2\], expected \[10, 2\]"):
        nn.FieldEmbedding(N, 2, pretrained=np.ones((2, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_features": 0}, "n_features is 0"),
        ({"n_factors": True}, "n_factors is True"),
        ({"interactions": "al"}, "Did you mean 'all'"),
        ({"init_scale": -1.0}, "init_scale is -1.0"),
        ({"field_of": [0, 1]}, r"field_of is int64 \[2\], expected integers of 0 or more, \[10\]"),
        ({"share": [0.5] * N}, r"share is float64 \[10\]"),
        ({"field_of": range(N), "n_fields": 3}, "n_fields is 3, field_of names 10 fields"),
        ({"dtype": torch.int64}, "dtype is torch.int64, expected floating point"),
        ({"n_fields": "3"}, "n_fields is '3', expected an integer"),
        ({"share": [0] * (N - 1) + [-2]}, r"share\[9\] is -2, expected integers of 0 or more"),
        ({"pretrained": "vectors"}, r"pretrained is no table of numbers.*expected \[10, 4\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(DataError, match=message):
        nn.FieldEmbedding(**{"n_features": N, "n_factors": K} | options)


@pytest.mark.parametrize("mode", ["all", "across_fields"])
def test_embeddings_compile_and_copy(mode):
    embedding = nn.FieldEmbedding(N, K, np.arange(N) % F, interactions=mode, sparse_grad=False)
    ids = torch.randint(0, N, (5, 3))
    compiled = torch.compile(embedding, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(ids), embedding(ids), **EXACT)
    torch.testing.assert_close(copy.deepcopy(embedding)(ids), embedding(ids), **EXACT)
    compiled(ids).sum().backward()
    counts = torch.bincount(ids.reshape(-1), minlength=N).float()
    torch.testing.assert_close(embedding.factors.grad, counts[:, None].expand(N, K))


# --- columns of one field -----------------------------------------------------------------------


@pytest.mark.parametrize("field_of", [[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 2, 2]])
def test_columns_of_one_field_pool_as_their_ids_do(field_of):
    """Ids in blocks: columns of one field, and a column of two, against fields given one by one."""
    torch.manual_seed(0)
    embedding = nn.FieldEmbedding(6, 3, field_of=field_of, interactions="across_fields")
    for ids in ([[0, 2, 4], [1, 3, 5]], [[0, 2, 4], [2, 3, 5]], [[5, 0, 1], [4, 1, 0]]):
        batch = nn.Batch(torch.tensor(ids))
        named = batch._replace(fields=torch.tensor(field_of)[batch.ids])
        got, want = embedding.cross(batch, pooled=True), embedding.cross(named, pooled=True)
        for one, other in zip(got, want, strict=True):
            torch.testing.assert_close(one, other)


def test_fields_that_are_loaded_count():
    """Whether ids stand in blocks is looked at again after loading."""
    mixed = nn.FieldEmbedding(4, 2, field_of=[0, 1, 0, 1], interactions="across_fields")
    blocks = nn.FieldEmbedding(4, 2, field_of=[0, 0, 1, 1], interactions="across_fields")
    blocks.load_state_dict(mixed.state_dict())
    ids = torch.tensor([[0, 1], [2, 3]])
    torch.testing.assert_close(blocks(ids), mixed(ids))
