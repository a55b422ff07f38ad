"""The server: its answers are the model's, and what it cannot answer it says."""

from __future__ import annotations

import datetime
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import crossfm as cf
from crossfm.errors import DataError, ModelFileError, SchemaError
from crossfm.serving import Limits, Settings, create_app
from crossfm.serving.arrow import ARROW, write_stream

pytest.importorskip("httpx2")
testclient: Any = pytest.importorskip("fastapi.testclient")
N, FILMS = 600, 40
GENRES = [["crime"], ["love", "crime"], [], ["war"]]
QUERY = {"user": 3, "hour": 20}


def log() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    film = rng.integers(0, FILMS, N)
    return {
        "user": rng.integers(0, 15, N),
        "hour": rng.integers(0, 24, N),
        "film": [f"film {i}" for i in film],
        "genres": [GENRES[i % 4] for i in film],
    }


def items() -> pa.Table:
    return pa.table(
        {
            "film": [f"film {i}" for i in range(FILMS)],
            "genres": [GENRES[i % 4] for i in range(FILMS)],
            "title": [f"The {i}th" for i in range(FILMS)],
            "year": [1980 + i for i in range(FILMS)],
        }
    )


def fields() -> list[Any]:
    return [cf.Categorical("user"), cf.Categorical("hour"), cf.Categorical("film"),
            cf.Bag("genres", pooling="mean")]  # fmt: skip


def fitted(make: Any = cf.FMRegressor, seed: int = 0, y: Any = None, **options: Any) -> Any:
    y = np.random.default_rng(seed).normal(3, 1, N) if y is None else y
    model = make(4, schema=cf.Schema(fields()), n_epochs=5, early_stopping=False, random_state=seed,
                 **options)  # fmt: skip
    return model.fit(log(), y)


def settings(folder: Path, model: Any, **more: Any) -> Settings:
    model.save(folder / "m.crossfm")
    if not (folder / "films.parquet").exists():
        pq.write_table(items(), folder / "films.parquet")
    return Settings(
        **{"model": folder / "m.crossfm", "items": folder / "films.parquet", "poll": 0, **more}
    )


@pytest.fixture(scope="module")
def model() -> Any:
    return fitted()


@pytest.fixture
def client(model: Any, tmp_path: Path) -> Iterator[Any]:
    with client_of(create_app(settings(tmp_path, model))) as found:
        yield found


def scores(model: Any, query: dict[str, Any], films: pa.Table) -> Any:
    n = films.num_rows
    columns = {name: [value] * n for name, value in query.items()}
    films = films.select(["film", "genres"])
    return model.predict(
        {**columns, **{c: films.column(c).to_pylist() for c in ("film", "genres")}}
    )


def client_of(app: Any) -> Any:
    """A client on this machine."""
    return testclient.TestClient(app, base_url="http://localhost:8000")


def refused(answer: Any, words: str, status: int = 422) -> None:
    assert answer.status_code == status
    error = answer.json()["error"]
    assert words in error["message"], error


# --- answers ------------------------------------------------------------------------------------


def test_recommendations_are_the_best_by_the_models_scores(client: Any, model: Any) -> None:
    body = {"query": QUERY, "k": 5, "exclude": ["film 3", "no such"], "columns": ["title"]}
    found = client.post("/recommend", json=body).json()
    every = scores(model, QUERY, items())
    order = [i for i in np.argsort(-every, kind="stable").tolist() if i != 3][:5]
    assert found["ids"] == [f"film {i}" for i in order]
    np.testing.assert_allclose(found["scores"], every[order], rtol=1e-5)
    assert found["columns"] == {"title": [f"The {i}th" for i in order]}
    only = client.post("/recommend", json={"query": QUERY, "only": ["film 7", "film 9"]}).json()
    assert sorted(only["ids"]) == ["film 7", "film 9"]


@pytest.mark.parametrize(("filter", "keep"), [
    ({"genres": "crime"}, lambda i: i % 4 in (0, 1)),
    ({"genres": ["love", "war"], "year": {"min": 1990}}, lambda i: i % 4 in (1, 3) and i >= 10),
    ({"year": {"min": 1985, "max": 1987}}, lambda i: 5 <= i <= 7),
    ({"title": "The 4th"}, lambda i: i == 4),
    ({"title": ["nothing"]}, lambda i: False),
])  # fmt: skip
def test_filters(client: Any, filter: Any, keep: Any) -> None:
    for _ in range(2):  # the second time from what was kept
        body = {"query": QUERY, "k": FILMS, "filter": filter}
        found = client.post("/recommend", json=body).json()
        assert set(found["ids"]) == {f"film {i}" for i in range(FILMS) if keep(i)}


def test_ranking_by_id_by_records_and_by_both(client: Any, model: Any) -> None:
    ids = ["film 5", "film 1", "film 30", "film 12"]
    every = scores(model, QUERY, items())
    expected = sorted(ids, key=lambda one: -every[int(one.split()[1])])
    by_id = client.post("/rank", json={"query": QUERY, "candidates": ids}).json()
    assert (by_id["ids"], by_id["mode"]) == (expected, "vectors")
    np.testing.assert_allclose(
        by_id["scores"], [every[int(one.split()[1])] for one in expected], rtol=1e-5
    )
    named = client.post(
        "/rank", json={"query": QUERY, "candidates": [{"film": one} for one in ids], "k": 2}
    ).json()
    assert (named["ids"], named["mode"]) == (expected[:2], "full")
    np.testing.assert_allclose(named["scores"], by_id["scores"][:2], rtol=1e-5)
    # the hour belongs to the candidate here, and the last is no item at all
    mixed = [{"film": "film 5", "hour": 3}, {"film": "new", "genres": ["war"], "hour": 4}]
    found = client.post("/rank", json={"query": {"user": 3}, "candidates": mixed}).json()
    rows = {
        "user": [3, 3],
        "hour": [3, 4],
        "film": ["film 5", "new"],
        "genres": [GENRES[1], ["war"]],
    }
    np.testing.assert_allclose(sorted(found["scores"]), sorted(model.predict(rows)), rtol=1e-5)
    assert client.post("/rank", json={"query": QUERY, "candidates": []}).json()["ids"] == []


def test_predictions_and_explanations(client: Any, model: Any) -> None:
    rows = [{**QUERY, "film": "film 1", "genres": ["love"]},
            {"user": None, "hour": 1, "film": "new", "genres": None}]  # fmt: skip
    found = client.post("/predict", json={"rows": rows}).json()
    table = {name: [row[name] for row in rows] for name in rows[0]}
    np.testing.assert_allclose(found["predictions"], model.predict(table), rtol=1e-6)
    assert client.post("/predict", json={"rows": []}).json()["predictions"] == []
    for body in ({"row": rows[0]}, {"query": QUERY, "item": "film 1", "top": 3}):
        told = client.post("/explain", json=body).json()
        terms = [one["value"] for one in [*told["linear"], *told["pairs"]]]
        assert told["bias"] + sum(terms) + told["rest"] == pytest.approx(told["score"], abs=1e-6)
        by_field = told["by_field"]
        total = told["bias"] + sum(by_field["linear"]) + sum(v for _, _, v in by_field["pairs"])
        assert total == pytest.approx(told["score"], abs=1e-6)
    assert told["score"] == pytest.approx(told["prediction"], abs=1e-5)
    expected = scores(model, QUERY, items())[1]
    assert told["prediction"] == pytest.approx(float(expected), abs=1e-5)


def test_probabilities_of_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    two = fitted(cf.FMClassifier, y=rng.integers(0, 2, N))
    with client_of(create_app(settings(tmp_path, two))) as client:
        every = client.post("/recommend", json={"query": QUERY, "k": FILMS}).json()
        rows = [{**QUERY, **row} for row in items().select(["film", "genres"]).to_pylist()]
        found = client.post("/predict", json={"rows": rows}).json()
        assert found["classes"] == [0, 1]
        np.testing.assert_allclose(
            sorted(every["scores"]), sorted(p for _, p in found["probabilities"]), rtol=1e-5
        )
    words = fitted(cf.FMClassifier, y=rng.choice(["a", "b", "c"], N))
    with pytest.raises(DataError, match="several classes"):
        create_app(settings(tmp_path, words))
    with client_of(create_app(settings(tmp_path, words, items=None))) as client:
        found = client.post("/predict", json={"rows": rows}).json()
        assert set(found["predictions"]) <= {"a", "b", "c"}
        np.testing.assert_allclose(np.sum(found["probabilities"], axis=1), 1)
        refused(client.post("/rank", json={"query": QUERY, "candidates": rows}), "several classes")
        told = client.post("/explain", json={"row": rows[0]}).json()
        assert told["prediction"] in ("a", "b", "c")


def test_models_of_draws_answer_by_the_estimator(tmp_path: Path) -> None:
    sampled = cf.FMRegressor(
        2, solver="mcmc", schema=cf.Schema(fields()), n_epochs=8, random_state=0
    ).fit(log(), np.random.default_rng(0).normal(3, 1, N))
    with client_of(create_app(settings(tmp_path, sampled, items=None))) as client:
        rows = [{**QUERY, **row} for row in items().select(["film", "genres"]).to_pylist()]
        found = client.post("/predict", json={"rows": rows}).json()["predictions"]
        table = {name: [row[name] for row in rows] for name in rows[0]}
        np.testing.assert_allclose(found, sampled.predict(table), rtol=1e-6)
        ranked = client.post("/rank", json={"query": {}, "candidates": rows}).json()
        np.testing.assert_allclose(ranked["scores"], sorted(found, reverse=True), rtol=1e-6)
        refused(client.post("/recommend", json={"query": QUERY}), "no items")


def test_ids_and_filters_of_any_type(tmp_path: Path) -> None:
    days = [datetime.datetime(2024, 1, 1) + datetime.timedelta(days=i) for i in range(20)]
    at = np.random.default_rng(0).integers(0, 20, N)
    table = {"user": at % 7, "day": [days[i] for i in at], "number": at}
    for name, ids, text in (("day", days, "2024-01-03"), ("number", list(range(20)), "2")):
        schema = cf.Schema([cf.Categorical("user"), cf.Categorical(name)])
        model = cf.FMRegressor(2, schema=schema, n_epochs=2, random_state=0)
        model.fit({"user": table["user"], name: table[name]}, np.sin(at))
        shop = pa.table({name: ids, "when": [None, *days[1:]], "kind": ["x", "y"] * 10})
        shop = shop.set_column(2, "kind", shop.column("kind").dictionary_encode())
        pq.write_table(shop, tmp_path / "films.parquet")
        with client_of(create_app(settings(tmp_path, model))) as client:
            ranked = client.post("/rank", json={"query": {"user": 1}, "candidates": [text]}).json()
            assert str(ranked["ids"][0]).startswith(text)
            assert client.post("/explain", json={"query": {"user": 1}, "item": text}).json()["bias"]
            body = {"query": {"user": 1}, "k": 30, "exclude": [text], "columns": ["when"],
                    "filter": {"when": {"max": "2024-01-05"}}}  # fmt: skip
            found = client.post("/recommend", json=body).json()
            assert sorted(found["columns"]["when"]) == [f"2024-01-0{d} 00:00:00" for d in (2, 4, 5)]
            kinds = client.post("/recommend", json={"query": {"user": 1}, "filter": {"kind": "y"}})
            assert len(kinds.json()["ids"]) == 10
            assert client.get("/openapi.json").status_code == 200


def test_networks_predict_and_rank(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    network = cf.DeepClassifier(
        network="deepfm", n_epochs=1, random_state=0, schema=cf.Schema(fields())
    ).fit(log(), np.random.default_rng(0).integers(0, 2, N))
    rows = [{**QUERY, **row} for row in items().select(["film", "genres"]).to_pylist()[:5]]
    with client_of(create_app(settings(tmp_path, network, items=None))) as client:
        found = client.post("/predict", json={"rows": rows}).json()["probabilities"]
        np.testing.assert_allclose(found, network.predict_proba(rows), rtol=1e-6)
        ranked = client.post("/rank", json={"query": {}, "candidates": rows}).json()
        assert ranked["scores"] == sorted((one for _, one in found), reverse=True)
        assert client.get("/model").json()["kind"] == "network"
        refused(client.post("/explain", json={"row": rows[0]}), "no terms")
    with pytest.raises(DataError, match="one machine of pairs"):
        create_app(settings(tmp_path, network))


def test_levels_and_matrices(tmp_path: Path) -> None:
    y = np.random.default_rng(0).integers(1, 5, N)
    levels = cf.OrdinalFMRegressor(2, n_epochs=5, random_state=0, schema=cf.Schema(fields()))
    with client_of(create_app(settings(tmp_path, levels.fit(log(), y), items=None))) as client:
        row = {**QUERY, "film": "film 1", "genres": []}
        found = client.post("/predict", json={"rows": [row]}).json()
        assert found["classes"] == [1, 2, 3, 4]
        assert sum(found["probabilities"][0]) == pytest.approx(1)
    matrix = cf.FMRegressor(2, n_epochs=2, random_state=0).fit(np.ones((N, 3)) * y[:, None], y)
    with pytest.raises(DataError, match="without names of columns"):
        create_app(settings(tmp_path, matrix, items=None))


def test_arrow_streams_in_and_out(client: Any, model: Any) -> None:
    def ask(path: str, table: pa.Table) -> pa.Table:
        body = write_stream({c: table.column(c) for c in table.column_names}, {})
        answer = client.post(path, content=body, headers={"content-type": ARROW})
        assert answer.status_code == 200, answer.text
        return pa.ipc.open_stream(io.BytesIO(answer.content)).read_all()

    films = items()
    every = scores(model, QUERY, films)
    n = [3] * FILMS
    rows = (
        films.select(["film", "genres"])
        .append_column("user", [n])
        .append_column("hour", [[20] * FILMS])
    )
    np.testing.assert_allclose(ask("/predict", rows).column("prediction"), every, rtol=1e-5)
    query = json.dumps(QUERY)
    for candidates in (films, films.select(["film"]), rows.select(["film", "genres"])):
        ranked = ask(f"/rank?query={query}&k=7", candidates)
        np.testing.assert_allclose(ranked.column("score"), np.sort(every)[::-1][:7], rtol=1e-5)
    queries = pa.table({"user": [3, 4], "hour": [20, 21]})
    found = ask("/recommend?k=4", queries)
    assert found.column("query").to_pylist() == [0] * 4 + [1] * 4
    assert found.column("rank").to_pylist() == [1, 2, 3, 4] * 2
    np.testing.assert_allclose(found.column("score")[:4], np.sort(every)[::-1][:4], rtol=1e-5)


def test_what_the_model_is_and_knows(client: Any) -> None:
    told = client.get("/model").json()
    assert {one["name"]: one["side"] for one in told["fields"]} == {
        "user": "query", "hour": "query", "film": "item", "genres": "item",
    }  # fmt: skip
    assert told["items"] == {
        "n_items": FILMS, "id": "film", "columns": ["film", "genres", "title", "year"],
    }  # fmt: skip
    assert client.get("/values/film", params={"prefix": "FILM 3", "limit": 50}).json()["values"]
    assert client.get("/values/user?limit=3").json()["values"][0] in range(15)
    refused(client.get("/values/film?limit=0"), "limit")
    refused(client.get("/values/nothing"), "no field 'nothing'")
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["model"] == told["version"]
    client.post("/recommend", json={"query": QUERY})
    text = client.get("/metrics").text
    assert 'crossfm_requests_total{path="/recommend",status="200"} 1.0' in text
    assert 'crossfm_model_loads_total{result="loaded"} 1.0' in text


def test_examples_of_the_openapi_document_are_answered(client: Any) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path in ("/predict", "/rank", "/recommend", "/explain"):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        name = content["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
        for example in schemas[name]["examples"]:
            assert client.post(path, json=example).status_code == 200


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "body", "words"), [
    ("/recommend", {"query": {"user": 1}}, "no column 'hour'"),
    ("/recommend", {"query": {"user": 1, "hour": [1]}}, "lists"),
    ("/recommend", {"query": QUERY, "k": 0}, "k: "),
    ("/recommend", {"query": QUERY, "k": 10**9}, "at most"),
    ("/recommend", {"query": QUERY, "k": 10**30}, "at most"),
    ("/recommend", {"query": QUERY, "kk": 3}, "kk: "),
    ("/recommend", {"query": QUERY, "filter": {"yeer": 3}}, "Did you mean 'year'"),
    ("/recommend", {"query": QUERY, "filter": {"year": {"least": 3}}}, "expected a value"),
    ("/recommend", {"query": QUERY, "filter": {"year": "new"}}, "cannot be compared"),
    ("/recommend", {"query": QUERY, "filter": {"year": {"min": "new"}}}, "cannot be compared"),
    ("/recommend", {"query": QUERY, "columns": ["titel"]}, "Did you mean 'title'"),
    ("/recommend", {"query": {"user": 1, "hour": 2**70}}, "64 bits"),
    ("/recommend", [], "the body"),
    ("/rank", {"query": QUERY, "candidates": ["film 1", "film 99"]}, "'film 99'"),
    ("/rank", {"query": QUERY, "candidates": ["film 1", {}]}, "candidates"),
    ("/rank", {"query": QUERY, "candidates": [{"film": "film 99"}]}, "'film 99'"),
    ("/rank", {"query": QUERY, "candidates": [[1]]}, "candidates"),
    ("/rank", {"query": QUERY}, "candidates"),
    ("/predict", {"rows": [{"user": 1}]}, "no column"),
    ("/predict", {"rows": [3]}, "rows"),
    ("/explain", {}, "give row alone"),
    ("/explain", {"row": {}, "query": QUERY, "item": "film 1"}, "give row alone"),
    ("/explain", {"query": QUERY, "item": "film 99"}, "'film 99'"),
])  # fmt: skip
def test_what_cannot_be_answered_is_said(client: Any, path: str, body: Any, words: str) -> None:
    answer = client.post(
        path, content=json.dumps(body), headers={"content-type": "application/json"}
    )
    refused(answer, words)


@pytest.mark.parametrize("body", [
    b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"query": ' * 5_000, b"null", b"3", b'"text"',
    b'{"query": {"user": "\\ud800", "hour": 1}}', b'{"query": {"user": 1e999, "hour": 1}}',
    b'{"query": {"user": ' + b"9" * 5_000 + b', "hour": 1}}',
])  # fmt: skip
def test_bodies_that_are_no_request(client: Any, body: bytes) -> None:
    for path in ("/recommend", "/rank", "/predict", "/explain"):
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422, answer.text
    assert client.post("/recommend", json={"query": QUERY}).status_code == 200


def test_arrow_bodies_that_are_no_table(client: Any) -> None:
    table = pa.table({"user": [1] * 5_000, "hour": [1] * 5_000})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as stream:
        stream.write_table(table)
    good = write_stream({"user": [1], "hour": [1]}, {})
    bodies = {
        "compressed": sink.getvalue().to_pybytes(),
        "no Arrow stream": b"nonsense",
        "rows": write_stream({"user": [1] * 10_001, "hour": [1] * 10_001}, {}),
        "no column": write_stream({"user": [1]}, {}),
    }
    headers = {"content-type": ARROW}
    for words, body in bodies.items():
        refused(client.post("/recommend", content=body, headers=headers), words)
    refused(client.post("/rank", content=good, headers=headers), "parameter query")
    refused(client.post("/rank?query=[]", content=good, headers=headers), "no JSON object")
    rng = np.random.default_rng(0)
    for _ in range(300):  # bytes changed at random: a table still, or refused
        broken = bytearray(good)
        for at in rng.integers(0, len(broken), 3):
            broken[at] = rng.integers(0, 256)
        answer = client.post("/recommend?k=1", content=bytes(broken), headers=headers)
        assert answer.status_code in (200, 422)
    text = client.post("/recommend", content=b"{}", headers={"content-type": "text/plain"})
    refused(text, "expected application/json", 415)


def test_limits_and_token(model: Any, tmp_path: Path) -> None:
    limits = Limits(k=5, candidates=3, rows=2, bytes=2_000)
    asked = settings(tmp_path, model, token="a secret token", limits=limits)
    assert "secret" not in repr(asked)
    with client_of(create_app(asked)) as client:
        refused(client.post("/recommend", json={"query": QUERY}), "Bearer", 401)
        refused(client.get("/model", headers={"authorization": "Bearer wrong"}), "Bearer", 401)
        assert client.get("/healthz").status_code == 200
        client.headers["authorization"] = "Bearer a secret token"
        assert len(client.post("/recommend", json={"query": QUERY, "k": 5}).json()["ids"]) == 5
        refused(client.post("/recommend", json={"query": QUERY, "k": 6}), "at most 5")
        four = {"query": QUERY, "candidates": [f"film {i}" for i in range(4)]}
        refused(client.post("/rank", json=four), "at most 3")
        row = {**QUERY, "film": "film 1", "genres": []}
        refused(client.post("/predict", json={"rows": [row] * 3}), "at most 2")
        refused(client.post("/predict", content=b" " * 2_001), "larger than 2,000", 413)
        parts = (b" " * 100 for _ in range(30))  # of a length that is not told before
        refused(client.post("/predict", content=parts), "larger than 2,000", 413)
        refused(client.get("/nothing"), "Not Found", 404)
        refused(client.get("/rank"), "Method Not Allowed", 405)


def test_other_names_of_this_machine_are_not_served(client: Any) -> None:
    refused(client.get("/model", headers={"host": "evil.example"}), "localhost only", 421)
    for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]", "[::1]:8000"):
        assert client.get("/model", headers={"host": host}).status_code == 200
    for host in ("", "[::1", "localhost.evil.example", "127.0.0.1.nip.example:80", "::1"):
        refused(client.get("/model", headers={"host": host}), "localhost only", 421)


# --- new files ----------------------------------------------------------------------------------


def test_a_new_model_takes_over_and_a_broken_one_is_refused(model: Any, tmp_path: Path) -> None:
    asked = settings(tmp_path, model)
    with client_of(create_app(asked)) as client:
        first = client.get("/model").json()["version"]
        other = fitted(seed=1)
        other.save(asked.model)
        assert client.post("/recommend", json={"query": QUERY}).json()["model"] == first
        second = client.post("/model/reload").json()["version"]
        assert second != first
        found = client.post("/recommend", json={"query": QUERY, "k": 1}).json()
        assert found["model"] == second
        assert found["scores"][0] == pytest.approx(scores(other, QUERY, items()).max(), abs=1e-5)
        whole = asked.model.read_bytes()
        for broken in (b"", whole[:-100], whole[:5000] + b"x" + whole[5001:]):
            asked.model.write_bytes(broken)
            assert client.post("/model/reload").status_code == 422
            told = client.get("/model").json()
            assert told["version"] == second
            assert "m.crossfm" in told["refused"]
            assert client.post("/recommend", json={"query": QUERY}).json()["model"] == second
        asked.model.unlink()
        assert client.post("/model/reload").status_code == 422
        asked.model.write_bytes(whole)
        assert client.post("/model/reload").json()["refused"] is None
        assert 'loads_total{result="refused"} 4.0' in client.get("/metrics").text


def test_files_that_cannot_be_served(model: Any, tmp_path: Path) -> None:
    asked = settings(tmp_path, model)
    with pytest.raises(ModelFileError, match="cannot read"):
        create_app(Settings(tmp_path / "absent.crossfm"))
    pq.write_table(pa.table({"title": ["x"]}), tmp_path / "films.parquet")
    with pytest.raises(SchemaError, match="columns of no fields"):
        create_app(asked)
    pq.write_table(pa.table(log()), tmp_path / "films.parquet")
    with pytest.raises(SchemaError, match="columns of all fields"):
        create_app(asked)
    pq.write_table(pa.table({"film": ["a", "a"], "genres": [[], []]}), tmp_path / "films.parquet")
    with pytest.raises(DataError, match="2 times"):
        create_app(asked)


@pytest.mark.parametrize("wrong", [
    {"port": 70_000}, {"token": "short"}, {"poll": -1.0}, {"token": "ünïcödé-token"},
])  # fmt: skip
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        Settings(Path("m.crossfm"), **wrong)
    with pytest.raises(DataError, match="above 0"):
        Limits(k=0)
    assert os.fspath(Settings(Path("m.crossfm")).model) == "m.crossfm"
