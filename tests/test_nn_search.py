"""Top-k by PyTorch names the items that the core's scan names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import crossfm as cf
from crossfm.errors import DataError
from crossfm.model import FactorModel
from crossfm.retrieval import ItemIndex, Retriever

torch = pytest.importorskip("torch")

from crossfm.nn import search  # noqa: E402
from crossfm.nn.search import TorchIndex  # noqa: E402

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 3), (50, 5, 50), (3_000, 17, 20)])
def test_the_same_as_the_core(monkeypatch: Any, device: str, n: int, d: int, k: int) -> None:
    monkeypatch.setattr(search, "AT_ONCE", 7 * n)  # several blocks
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(n, d)), rng.normal(size=(40, d))
    both = ItemIndex(d), TorchIndex(d, device)
    half = np.arange(n // 2)
    for index in both:  # in two parts, the first of which is replaced
        index.put(half, np.ones((len(half), d), np.float32))
        index.put(np.arange(n)[::-1], vectors[::-1].astype(np.float32))
    assert len(both[1]) == n
    allowed = rng.random(n) < 0.6
    for mask in (None, allowed, np.zeros(n, bool)):
        found = [index.top(queries.astype(np.float32), k, mask) for index in both]
        np.testing.assert_array_equal(found[0][0], found[1][0])
        np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(both[1].vectors(half), both[0].vectors(half))


@pytest.mark.parametrize("device", DEVICES)
def test_a_retriever_on_a_device(device: str, tmp_path: Any) -> None:
    rng = np.random.default_rng(1)
    items = {"item": np.arange(500)}
    schema = cf.Schema([cf.Categorical("user"), cf.Categorical("item")])
    schema.fit({"user": np.arange(500) % 9, **items})
    n = schema.n_features_
    model = FactorModel(0.0, rng.normal(size=n), rng.normal(size=(n, 4)), field_of=schema.field_of_,
                        schema=schema)  # fmt: skip
    sides: Any = {"query_fields": "user", "item_fields": "item"}
    shops = [Retriever(model, items, **sides, device=one) for one in (None, device)]
    for more in (
        {},
        {"exclude": [1, 2, 3]},
        {"only": [[5, 6]] * 9},
        {"filter": items["item"] > 250},
    ):
        found = [shop.recommend({"user": list(range(9))}, 7, **more) for shop in shops]
        np.testing.assert_array_equal(found[0].ids, found[1].ids)
    shops[1].remove([4]).save(tmp_path / "items")
    again = Retriever.load(tmp_path / "items", model, device=device)
    assert again.n_items == 499


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(DataError, match="cannot be used"):
        TorchIndex(3, "cuda:99")
    index = TorchIndex(3, "cpu")
    with pytest.raises(DataError, match="not finite"):
        index.put(np.arange(1), np.full((1, 3), np.nan, np.float32))
    assert index.top(np.zeros((2, 3), np.float32), 4)[0].tolist() == [[-1] * 4] * 2
