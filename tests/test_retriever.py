"""Exact top-k: the scan against a sort, the retriever against scores of the model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest

import crossfm as cf
from crossfm import _native
from crossfm.errors import DataError, ModelFileError, SchemaError
from crossfm.retrieval import ItemIndex, Retriever


def sorted_top(queries, vectors, k, allowed=None):
    """Places and scores by a full sort in float64."""
    scores = queries.astype(float) @ vectors.T.astype(float)
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(scores, order, 1)
    return np.where(np.isneginf(found), -1, order), found


# --- the scan -------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("n", "d", "n_queries", "k"),
    [(1, 1, 1, 1), (15, 3, 2, 15), (16, 4, 9, 5), (17, 17, 3, 20), (1000, 17, 1, 100),
     (5000, 8, 21, 10), (20_000, 33, 5, 300)],
)  # fmt: skip
def test_the_scan_is_a_sort(storage, n, d, n_queries, k):
    rng = np.random.default_rng(n)
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    queries = rng.normal(size=(n_queries, d)).astype(np.float32)
    index = ItemIndex(d, storage)
    index.put(np.arange(n), vectors)
    allowed = rng.random(n) < 0.7
    for mask in (None, allowed):
        expected_places, expected = sorted_top(queries, vectors, k, mask)
        for n_jobs in (1, 3):
            places, scores = index.top(queries, k, mask, n_jobs)
            assert places.shape == scores.shape == (n_queries, k)
            width = expected.shape[1]
            finite = np.isfinite(expected)
            np.testing.assert_allclose(
                scores[:, :width][finite], expected[finite], rtol=2e-5, atol=2e-5
            )
            assert (places[:, :width] == expected_places).mean() > 0.99  # but for near ties
            assert (places[:, width:] == -1).all()
            assert np.isneginf(scores[:, width:]).all()
    assert index.top(queries[:0], k)[0].shape == (0, k)


def test_equal_scores_by_place():
    index = ItemIndex(2)
    index.put(np.arange(100), np.tile(np.float32([[1, 1]]), (100, 1)))
    places, _ = index.top(np.ones((9, 2), np.float32), 7, n_jobs=2)
    assert (places == np.arange(7)).all()
    mask = np.arange(100) % 3 == 1
    assert index.top(np.ones((1, 2), np.float32), 3, mask)[0].tolist() == [[1, 4, 7]]


def test_what_rounding_hides_is_found():
    """Items that bfloat16 cannot tell apart come in their exact order."""
    n = 3000
    vectors = np.ones((n, 4), np.float32)
    vectors[:, 0] += np.random.default_rng(0).permutation(n) * 1e-5
    index = ItemIndex(4, "bfloat16")
    index.put(np.arange(n), vectors)
    places, _ = index.top(np.ones((2, 4), np.float32), 1)
    best = vectors[:, 0].max()
    assert (vectors[places[:, 0], 0] == best).all()


def test_places_are_put_in_any_order():
    rng = np.random.default_rng(0)
    for storage in ("float32", "bfloat16"):
        index, vectors = ItemIndex(3, storage), np.zeros((200, 3), np.float32)
        for _ in range(20):
            places = rng.choice(rng.integers(1, 200), 1, replace=False)
            new = rng.normal(size=(1, 3)).astype(np.float32)
            index.put(places, new)
            vectors[places] = new
        np.testing.assert_array_equal(index.vectors(np.arange(len(index))), vectors[: len(index)])


def test_what_the_scan_refuses():
    index = ItemIndex(3)
    index.put(np.arange(4), np.ones((4, 3), np.float32))
    with pytest.raises(DataError, match="not finite"):
        index.put(np.array([0]), np.float32([[1, np.nan, 0]]))
    with pytest.raises(DataError, match="storage is 'int4'"):
        ItemIndex(3, "int4")
    out = np.empty((1, 2), np.int64), np.empty((1, 2), np.float32)
    for arguments in (
        (np.ones((1, 4), np.float32), 2, None, *out),
        (np.ones((1, 3), np.float32), 0, None, *out),
        (np.ones((1, 3), np.float32), 3, None, *out),
        (np.ones((1, 3), np.float32), 2, np.zeros(2, np.uint16), *out),
    ):
        with pytest.raises(ValueError, match="must be"):
            index._scan.top(*arguments)
    with pytest.raises(ValueError, match="from 0 to"):
        index._scan.put(np.array([-1]), np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match="no item"):
        index._scan.get(np.array([4]), np.empty((1, 3), np.float32))
    with pytest.raises(ValueError, match="d must be"):
        _native.ItemScan(0)


# --- the retriever --------------------------------------------------------------------------------

rng = np.random.default_rng(0)
N = 120
FILMS = pd.DataFrame(
    {
        "film": [f"film {i}" for i in range(N)],
        "year": rng.integers(1950, 2020, N),
        "tags": ["|".join(rng.choice(["a", "b", "c", "d"], 2, replace=False)) for _ in range(N)],
        "shelf": rng.integers(0, 3, N),  # no field of the model
    }
)
LOG = pd.DataFrame(
    {"user": rng.integers(0, 30, 2000), "film": FILMS.film[rng.integers(0, N, 2000)]}
)
LOG = LOG.merge(FILMS.drop(columns="shelf"), on="film")
SCHEMA = cf.Schema(
    [cf.Categorical("user"), cf.Categorical("film"), cf.Numeric("year"), cf.Bag("tags", sep="|")]
)
USERS = {"user": [3, 7, 29, 1000]}
ITEM = ["film", "year", "tags"]


@pytest.fixture(scope="module")
def model():
    fm = cf.FMRegressor(4, n_epochs=20, schema=SCHEMA, early_stopping=False, random_state=0)
    return fm.fit(LOG, np.sin(LOG.user * 1.3 + LOG.year))


@pytest.fixture
def films(model):
    return Retriever(model, FILMS, query_fields="user", item_fields=ITEM)


def scores_of(model, user, films=FILMS):
    return model.predict(films.assign(user=user))


def best(model, user, k, keep=None):
    scores = scores_of(model, user)
    if keep is not None:
        scores = np.where(keep, scores, -np.inf)
    order = np.argsort(-scores, kind="stable")[:k]
    return FILMS.film.to_numpy()[order].tolist(), scores[order]


def expect_best(found, model, k, keep=None):
    for row, user in enumerate(USERS["user"]):
        ids, scores = best(model, user, k, keep if keep is None or keep.ndim == 1 else keep[row])
        assert found.ids[row].tolist() == ids
        np.testing.assert_allclose(found.scores[row], scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_the_best_by_the_model_itself(model, storage):
    films = Retriever(model, FILMS, query_fields="user", item_fields=ITEM, storage=storage)
    assert films.n_items == N
    assert films.dimension == 5
    expect_best(films.recommend(USERS, 10), model, 10)
    expect_best(films.recommend(pd.DataFrame(USERS), N), model, N)


def test_left_out_let_in_and_filtered(model, films):
    names = FILMS.film.to_numpy()
    some = names[::2].tolist()
    expect_best(films.recommend(USERS, 5, exclude=some), model, 5, ~np.isin(names, some))
    expect_best(films.recommend(USERS, 5, only=some), model, 5, np.isin(names, some))
    each = [names[:20].tolist(), [], None, ["no such film", "film 3"]]
    keep = np.array([~np.isin(names, one or []) for one in each])
    expect_best(films.recommend(USERS, 5, exclude=each), model, 5, keep)
    let_in = [names[:40].tolist(), some, names.tolist(), names[90:].tolist()]
    keep = np.array([np.isin(names, one) for one in let_in])
    expect_best(films.recommend(USERS, 5, only=let_in), model, 5, keep)
    both = films.recommend(USERS, 5, only=let_in, exclude=each)
    keep &= np.array([~np.isin(names, one or []) for one in each])
    expect_best(both, model, 5, keep)
    new = (FILMS.year >= 2000).to_numpy() & (FILMS.shelf == 1).to_numpy()
    expression = (pc.field("year") >= 2000) & (pc.field("shelf") == 1)
    expect_best(films.recommend(USERS, 3, filter=expression), model, 3, new)
    expect_best(films.recommend(USERS, 3, filter=new), model, 3, new)
    one = np.arange(N) == 17  # so few that they are scored alone
    expect_best(films.recommend(USERS, 1, filter=one), model, 1, one)


def test_fewer_than_wanted(films):
    found = films.recommend({"user": [3]}, 4, only=["film 5", "film 9", "none"])
    assert set(found.ids[0][:2]) == {"film 5", "film 9"}
    assert found.ids[0][2:].tolist() == [None, None]
    assert np.isneginf(found.scores[0][2:]).all()
    assert films.recommend({"user": [3]}, 2, only=[]).ids.tolist() == [[None, None]]
    assert films.recommend({"user": [3]}, 200).ids[0][N:].tolist() == [None] * (200 - N)
    assert len(films.recommend({"user": []}, 2)) == 0


def test_items_come_change_and_go(model, films):
    changed = FILMS[:3].assign(year=1900)
    added = FILMS[3:5].assign(film=["new 1", "new 2"], year=2050)
    assert films.put(pd.concat([changed, added])).n_items == N + 2
    films.remove(["film 7", "film 8"])
    assert films.n_items == N
    now = pd.concat([changed, FILMS[3:], added]).query("film not in ('film 7', 'film 8')")
    assert sorted(films.ids) == sorted(now.film)
    found = films.recommend({"user": [3]}, N)
    scores = dict(zip(now.film, scores_of(model, 3, now), strict=True))
    for name, score in zip(found.ids[0], found.scores[0], strict=True):
        assert score == pytest.approx(scores[name], abs=1e-5)
    films.put(FILMS[7:8])  # back again
    assert films.n_items == N + 1
    with pytest.raises(DataError, match="no item has the film 'film 8'"):
        films.remove("film 8")
    late = films.recommend({"user": [3]}, 3, filter=pc.field("year") == 2050)
    assert set(late.ids[0][:2]) == {"new 1", "new 2"}


def test_numbers_as_ids_and_another_column_for_them(model):
    numbered = FILMS.assign(number=np.arange(N) * 10)
    films = Retriever(model, numbered, query_fields="user", item_fields=ITEM, id="number")
    found = films.recommend(USERS, 5)
    assert found.ids.dtype.kind == "i"
    names = FILMS.film.to_numpy()[found.ids // 10]
    for row, user in enumerate(USERS["user"]):
        assert names[row].tolist() == best(model, user, 5)[0]
    assert films.recommend({"user": [3]}, 1, only=[170]).ids.tolist() == [[170]]


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_files(model, storage, tmp_path):
    films = Retriever(model, FILMS, query_fields="user", item_fields=ITEM, storage=storage)
    films.remove("film 0")
    films.save(tmp_path / "films")
    again = Retriever.load(tmp_path / "films", model)
    for one in (films, again):
        found = one.recommend(USERS, 10, filter=pc.field("shelf") == 1)
        assert "film 0" not in found.ids
    first, second = (one.recommend(USERS, 10) for one in (films, again))
    np.testing.assert_array_equal(first.ids, second.ids)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert again.put(FILMS[:1]).n_items == N
    other = cf.FMRegressor(4, n_epochs=1, schema=SCHEMA, random_state=1).fit(LOG, np.ones(len(LOG)))
    with pytest.raises(ModelFileError, match="made with another model"):
        Retriever.load(tmp_path / "films", other)
    data = bytearray((tmp_path / "films").read_bytes())
    data[-9] ^= 1
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(ModelFileError, match="checksum"):
        Retriever.load(tmp_path / "bad", model)
    for path in ("none", "empty"):
        (tmp_path / "empty").write_bytes(b"")
        with pytest.raises(ModelFileError, match="no whole file"):
            Retriever.load(tmp_path / path, model)


def test_refusals(model, films):
    twice = pd.concat([FILMS, FILMS[:1]])
    nameless = FILMS.assign(film=[None, *FILMS.film[1:]])
    for items, error, match in (
        (twice, DataError, "film=film 0 is 2 times among the items"),
        (nameless, DataError, "row 0 of the items has no 'film'"),
        (FILMS.drop(columns="film"), SchemaError, "items have no column 'film'"),
        (FILMS.drop(columns="year"), SchemaError, "no column 'year'"),
        (FILMS[:0], DataError, "there are no items"),
    ):
        with pytest.raises(error, match=match):
            Retriever(model, items, query_fields="user", item_fields=ITEM)
    for arguments, match in (
        ({"k": 0}, "k is 0"),
        ({"exclude": [["film 1"]]}, "1 lists for 4 queries"),
        ({"filter": np.ones(3, bool)}, "expected an expression of Arrow"),
        ({"filter": pc.field("yaer") > 3}, "cannot be applied"),
    ):
        with pytest.raises((DataError, SchemaError), match=match):
            films.recommend(USERS, **{"k": 3, **arguments})
    with pytest.raises(SchemaError, match="no column 'user'"):
        films.recommend({"usr": [3]})
    with pytest.raises(DataError, match="expected a FactorModel"):
        Retriever("model", FILMS, query_fields="user", item_fields=ITEM)
    before = films.n_items
    with pytest.raises(DataError):
        films.put(twice)
    assert films.n_items == before
