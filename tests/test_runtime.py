"""The small runtime scores, ranks and recalls as the whole library does, without Arrow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crossfm as cf
from crossfm.errors import DataError, ModelFileError, SchemaError
from crossfm.retrieval import Ranker, Retriever
from crossfm.runtime import Runtime

N = 400
SIDES: dict[str, Any] = {"query_fields": ["user", "age"], "item_fields": ["film", "genres"]}


def log() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    genres = [["crime"], ["love", "crime"], [], ["war"]]
    films = rng.integers(0, 30, N)
    return {
        "user": rng.integers(0, 40, N).tolist(),
        "age": rng.normal(40, 10, N).round(1).tolist(),
        "film": [f"film {i}" for i in films],
        "genres": [genres[i % 4] for i in films],
    }


def films() -> dict[str, Any]:
    table = log()
    first = dict(zip(table["film"], table["genres"], strict=True))
    return {"film": list(first), "genres": list(first.values()), "year": list(range(len(first)))}


def records(table: dict[str, Any], n: int = 50) -> list[dict[str, Any]]:
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)][:n]


TARGETS = np.random.default_rng(1)
CASES: dict[str, tuple[Any, Any]] = {
    "numbers": (cf.FMRegressor(4, random_state=0), TARGETS.normal(3, 1, N)),
    "counts": (cf.FMRegressor(4, loss="poisson", random_state=0), TARGETS.poisson(2, N)),
    "two classes": (cf.FMClassifier(4, random_state=0), TARGETS.integers(0, 2, N)),
    "words": (cf.FMClassifier(4, random_state=0), TARGETS.choice(["a", "b", "c"], N)),
    "margins": (cf.FMClassifier(4, loss="hinge", random_state=0), TARGETS.integers(0, 2, N)),
    "fields": (cf.FwFMRegressor(4, random_state=0), TARGETS.normal(size=N)),
}


@pytest.mark.parametrize("case", CASES)
def test_predictions_are_those_of_the_estimator(case: str, tmp_path: Path) -> None:
    estimator, y = CASES[case]
    estimator.fit(log(), y)
    estimator.save(tmp_path / "m.crossfm")
    small = Runtime.load(tmp_path / "m.crossfm")
    asked = records(log())
    new = {"user": 10**6, "age": None, "film": "never seen", "genres": ["new"]}
    asked.append(new)
    table = {name: [record[name] for record in asked] for name in asked[0]}
    expected = estimator.predict(table)
    found = small.predict(asked)
    assert found.dtype.kind == expected.dtype.kind
    assert found.tolist() == expected.tolist()
    if hasattr(estimator, "predict_proba"):
        np.testing.assert_allclose(
            small.predict_proba(asked), estimator.predict_proba(table), atol=1e-12
        )
    else:
        with pytest.raises(DataError, match="no probabilities"):
            small.predict_proba(asked)


SCRIPT = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pyarrow", "pandas", "polars", "torch", "narwhals", "sklearn"}:
            raise ModuleNotFoundError(f"{name} is absent", name=name)

sys.meta_path.insert(0, Absent())
from crossfm.runtime import Runtime

folder, asked = sys.argv[1], json.loads(sys.argv[2])
small = Runtime.load(folder + "/m.crossfm")
shop = small.retriever(folder + "/films.items")
sides = dict(query_fields=["user", "age"], item_fields=["film", "genres"])
ranker = small.ranker(items=shop, **sides)
raw = small.ranker(items={"film": ["film 1", "film 2"], "genres": [["war"], []]}, **sides)
top = shop.recommend(asked, k=5, exclude=["film 3"])
only = shop.recommend(asked[:1], k=2, only=["film 1", "film 2"])
print(json.dumps({
    "predictions": small.predict(asked).tolist(),
    "ids": top.ids.tolist(), "scores": top.scores.tolist(), "only": only.ids.tolist(),
    "ranked": ranker.rank(asked[0], ["film 1", "film 2", "film 4"]).ids.tolist(),
    "raw": raw.scores(asked[0], ["film 2", "film 1"]).tolist(),
    "sent": raw.scores(asked[0], [{"film": "film 1", "genres": ["war"]}]).tolist(),
    "year": shop.recommend(asked[:1], 3, filter=[i < 3 for i in range(shop.n_items)]).ids.tolist(),
}))
"""


def test_it_runs_where_arrow_pandas_torch_and_scikit_learn_are_absent(tmp_path: Path) -> None:
    model = cf.FMRegressor(4, random_state=0).fit(log(), np.random.default_rng(2).normal(3, 1, N))
    model.save(tmp_path / "m.crossfm")
    shop = Retriever(model, films(), **SIDES)
    shop.save(tmp_path / "films.items")
    asked = records(log(), 7)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), json.dumps(asked)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    table = {name: [record[name] for record in asked] for name in asked[0]}
    assert found["predictions"] == model.predict(table).tolist()
    top = shop.recommend(table, k=5, exclude=["film 3"])
    assert found["ids"] == top.ids.tolist()
    np.testing.assert_allclose(found["scores"], top.scores, rtol=1e-6)
    assert sorted(found["only"][0]) == ["film 1", "film 2"]
    ranker = Ranker(model, items=films(), **SIDES)
    ranked = ranker.rank(asked[0], ["film 1", "film 2", "film 4"])
    assert found["ranked"] == ranked.ids.tolist()
    sent = {"film": ["film 2", "film 1"], "genres": [[], ["war"]]}
    np.testing.assert_allclose(found["raw"], ranker.scores(asked[0], sent), rtol=1e-5)
    np.testing.assert_allclose(found["sent"], found["raw"][1:], rtol=1e-6)
    assert set(found["year"][0]) == set(films()["film"][:3])


def test_what_it_does_not_know_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.crossfm"
    sampled = cf.FMRegressor(2, solver="mcmc", n_epochs=5, random_state=0)
    sampled.fit(log(), CASES["numbers"][1]).save(path)
    with pytest.raises(ModelFileError, match=r"draws of a posterior.*crossfm\.load"):
        Runtime.load(path)
    cf.OrdinalFMRegressor(2, n_epochs=5, random_state=0).fit(
        log(), np.random.default_rng(0).integers(1, 4, N)
    ).save(path)
    with pytest.raises(ModelFileError, match="small runtime does not know"):
        Runtime.load(path)
    with pytest.raises(ModelFileError, match="cannot read"):
        Runtime.load(tmp_path / "absent.crossfm")
    cf.FMRegressor(2, random_state=0).fit(log(), CASES["numbers"][1]).save(path)
    small = Runtime.load(path)
    with pytest.raises(SchemaError, match="no column 'age'"):
        small.predict([{"user": 1, "film": "film 1", "genres": []}])
    with pytest.raises(DataError, match="finite number"):
        small.predict([{"user": 1, "age": float("inf"), "film": "film 1", "genres": []}])
    assert small.predict([]).shape == (0,)
