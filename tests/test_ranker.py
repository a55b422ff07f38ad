"""Pre-ranking: the scores of the model, whichever way the candidates come."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import crossfm as cf
from crossfm import _native
from crossfm.errors import DataError, SchemaError
from crossfm.retrieval import Ranker, Retriever
from crossfm.retrieval.places import Places

rng = np.random.default_rng(0)
N = 60
FILMS = pd.DataFrame({"film": [f"f{i}" for i in range(N)], "year": rng.integers(1950, 2020, N)})
LOG = pd.DataFrame({"user": rng.integers(0, 20, 1500), "hour": rng.integers(0, 24, 1500)})
LOG["likes"] = [
    list(rng.choice(["x", "y", "z"], rng.integers(0, 3), replace=False)) for _ in range(1500)
]
LOG = LOG.join(FILMS.iloc[rng.integers(0, N, 1500)].reset_index(drop=True))
LOG["seen"] = rng.integers(0, 5, 1500).astype(float)
PLAIN = [cf.Categorical("user"), cf.Categorical("hour"), cf.Bag("likes"), cf.Categorical("film"),
         cf.Numeric("year")]  # fmt: skip
QUERY = {"user": 7, "hour": 20, "likes": ["x", "z"]}
NAMES = FILMS.film.to_numpy()


def fitted(*more, make=cf.FMRegressor, **options):
    model = make(3, n_epochs=10, schema=cf.Schema([*PLAIN, *more]), early_stopping=False,
                 random_state=0, **options)  # fmt: skip
    return model.fit(LOG, np.sin(LOG.user + LOG.year) + 0.1 * LOG.seen)


def ranker_of(model, **more):
    options = {"query_fields": ["user", "hour", "likes"], "item_fields": ["film", "year"], **more}
    return Ranker(model, **options)


def expected(model, films, **columns):
    rows = films.assign(user=QUERY["user"], hour=QUERY["hour"], **columns)
    rows["likes"] = [QUERY["likes"]] * len(rows)
    return model.predict(rows)


@pytest.mark.parametrize(
    "make", [cf.FMRegressor, cf.FwFMRegressor, cf.FmFMRegressor, cf.FFMRegressor]
)
def test_candidates_by_id_and_by_features(make):
    model = fitted(make=make)
    ranker = ranker_of(model, items=FILMS)
    assert ranker.mode == "vectors"
    some = rng.permutation(N)[:25]
    wanted = expected(model, FILMS.iloc[some])
    query = ranker.query(QUERY)
    for candidates in (NAMES[some], NAMES[some].tolist(), FILMS.iloc[some]):
        np.testing.assert_allclose(query.scores(candidates), wanted, rtol=1e-5, atol=1e-5)
    new = pd.DataFrame({"film": ["never seen"], "year": [1999]})
    np.testing.assert_allclose(query.scores(new), expected(model, new), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ranker.scores(QUERY, NAMES[some]), query.scores(NAMES[some]))


def test_the_best_first():
    model = fitted()
    query = ranker_of(model, items=FILMS).query(QUERY)
    scores = expected(model, FILMS)
    order = np.argsort(-scores, kind="stable")
    for candidates in (NAMES, FILMS):
        for k in (1, 7, N, None, 200):
            found = query.rank(candidates, k)
            assert found.ids[0].tolist() == NAMES[order][: k or N].tolist()
            np.testing.assert_allclose(found.scores[0], scores[order][:k], rtol=1e-5, atol=1e-5)
    twice = ["f3", "f5", "f3", "f5", "f3"]  # equal scores keep their order
    best = "f3" if scores[3] > scores[5] else "f5"
    assert query.rank(twice, 2).ids[0].tolist() == [best, best]
    assert query.rank(
        FILMS[["film", "year"]].drop(columns="film").assign(film=""), 2
    ).ids.shape == (1, 2)
    assert query.rank([]).ids.shape == (1, 0)
    assert query.rank([], 3).scores.shape == (1, 0)


def test_fields_of_both_sides():
    model = fitted(cf.Numeric("seen"))
    ranker = ranker_of(model, cross_fields="seen", items=FILMS)
    assert ranker.mode == "full"
    seen = rng.integers(0, 5, N).astype(float)
    wanted = expected(model, FILMS, seen=seen)
    query = ranker.query(QUERY)
    np.testing.assert_allclose(query.scores(FILMS.assign(seen=seen)), wanted, atol=1e-5)
    np.testing.assert_allclose(query.scores(NAMES, {"seen": seen}), wanted, atol=1e-5)
    best = query.rank(NAMES, 3, {"seen": seen}).ids[0]
    assert best.tolist() == NAMES[np.argsort(-wanted, kind="stable")[:3]].tolist()
    with pytest.raises(DataError, match="give them with cross="):
        query.scores(NAMES)
    with pytest.raises(DataError, match="cross has 3 rows for 60"):
        query.scores(NAMES, {"seen": [1.0, 2.0, 3.0]})


def test_refusals():
    model = fitted()
    ranker = ranker_of(model, items=FILMS)
    query = ranker.query(QUERY)
    with pytest.raises(DataError, match="no item has the film 'f99'"):
        query.scores(["f1", "f99"])
    with pytest.raises(DataError, match="a query is one row, got 2"):
        ranker.query({"user": [1, 2], "hour": [1, 2], "likes": [[], []]})
    with pytest.raises(SchemaError, match="no column 'hour'"):
        ranker.query({"user": 3})
    with pytest.raises(DataError, match="no items to find ids among"):
        ranker_of(model).query(QUERY).scores(["f1"])
    with pytest.raises(DataError, match="k is 0"):
        query.rank(NAMES, 0)
    with pytest.raises(DataError, match="film 'f0' is there twice"):
        ranker_of(model, items=pd.concat([FILMS, FILMS[:1]]))
    with pytest.raises(SchemaError, match="items have no column 'number'"):
        ranker_of(model, items=FILMS, id="number")
    with pytest.raises(SchemaError, match="neither of the query nor of the item"):
        Ranker(model, query_fields="user", item_fields=["film", "year"])
    with pytest.raises(DataError, match="expected a FactorModel"):
        ranker_of(FILMS)


@pytest.mark.parametrize(
    "ids",
    [np.arange(50)[::-1], rng.integers(0, 10**12, 50),
     np.arange(-7, 43, dtype=np.int16), [f"a{i}" for i in range(50)], [(i, "x") for i in range(3)]],
)  # fmt: skip
def test_places(ids):
    listed = np.asarray(ids).tolist() if not isinstance(ids, list) else ids
    array = np.empty(len(listed), object)
    array[:] = listed
    places = Places(ids if isinstance(ids, np.ndarray) else array, "film")
    order = rng.permutation(len(listed))
    asked = [listed[i] for i in order]
    np.testing.assert_array_equal(places.of(asked), order)
    assert len(places) == len(listed)
    strange = 10**15 if isinstance(listed[0], int) else "strange"
    assert places.of([listed[0], strange], unknown="skip").tolist() == [0, -1]
    with pytest.raises(DataError, match="no item has the film"):
        places.of([listed[0], strange])
    assert places.of([]).tolist() == []


def test_places_refuse():
    with pytest.raises(DataError, match="film 3 is there twice"):
        Places(np.array([1, 3, 3]), "film")
    with pytest.raises(DataError, match="row 1 has no film"):
        Places(np.array(["a", None], object), "film")
    with pytest.raises(DataError, match="films are numbers, got <U1"):
        Places(np.arange(3), "film").of(["a"])


def test_what_the_core_refuses():
    vectors, query = np.ones((5, 3), np.float32), np.ones(3, np.float32)
    for places, q, n in (([5], query, 1), ([-1], query, 1), ([0], query[:2], 1), ([0], query, 2)):
        with pytest.raises(ValueError, match=r"must be|no vector"):
            _native.dot_rows(vectors, np.array(places), q, 0.0, np.empty(n, np.float32))


def test_candidates_of_a_retriever_and_as_records():
    model = fitted()
    shop = Retriever(model, FILMS, query_fields=["user", "hour", "likes"],
                     item_fields=["film", "year"])  # fmt: skip
    shop.remove(NAMES[0])
    ranker = ranker_of(model, items=shop)
    some = rng.permutation(np.arange(1, N))[:25]
    wanted = expected(model, FILMS.iloc[some])
    np.testing.assert_allclose(ranker.scores(QUERY, NAMES[some]), wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match=f"no item has the film {str(NAMES[0])!r}"):
        ranker.scores(QUERY, NAMES[:3])
    sent = FILMS.iloc[some].to_dict("records")
    np.testing.assert_allclose(ranker.scores(QUERY, sent), wanted, rtol=1e-5, atol=1e-5)
    assert (
        ranker.rank(QUERY, sent, k=3).ids.tolist()
        == ranker.rank(QUERY, NAMES[some], k=3).ids.tolist()
    )
    nameless = [{"film": None, "year": one["year"]} for one in sent[:4]]
    assert sorted(ranker.rank(QUERY, nameless).ids[0].tolist()) == [0, 1, 2, 3]
    columns = {name: [value] for name, value in QUERY.items()}
    np.testing.assert_array_equal(
        ranker.scores(columns, NAMES[some]), ranker.scores(QUERY, NAMES[some])
    )
    with pytest.raises(SchemaError, match="other fields than the ranker's"):
        Ranker(model, query_fields=["user", "hour"], item_fields=["film", "year"],
               cross_fields="likes", items=shop)  # fmt: skip
