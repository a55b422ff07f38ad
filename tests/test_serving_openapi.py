"""Requests drawn from the OpenAPI document: answers are those it describes, and none is a 5xx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

import crossfm as cf
from crossfm.serving import Settings, create_app

pytest.importorskip("fastapi")
schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")

N = 300
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("api")
    rng = np.random.default_rng(0)
    log = {
        "user": rng.integers(0, 9, N),
        "age": rng.normal(size=N),
        "film": [f"f{i}" for i in rng.integers(0, 20, N)],
        "tags": [["a", "b"][: i % 3] for i in range(N)],
    }
    fields = [cf.Categorical("user"), cf.Numeric("age"), cf.Categorical("film"), cf.Bag("tags")]
    model = cf.FMClassifier(3, schema=cf.Schema(fields), n_epochs=3, random_state=0)
    model.fit(log, rng.integers(0, 2, N)).save(folder / "m.crossfm")
    items = {"film": [f"f{i}" for i in range(20)], "tags": [["a"]] * 20, "year": list(range(20))}
    pq.write_table(pa.table(items), folder / "films.parquet")
    # Of any host: schemathesis has a name of its own for the application.
    asked = Settings(folder / "m.crossfm", folder / "films.parquet", host="0.0.0.0", poll=0)
    app = create_app(asked)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_answers_are_those_described(api: Any) -> None:
    seen = set()
    for found in api.get_all_operations():
        operation = found.ok()
        seen.add(operation.path)

        @given(operation.as_strategy())
        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        def judge(case: Any) -> None:
            answer = case.call(headers={"host": "localhost"})
            assert answer.status_code < 500, answer.text
            case.validate_response(answer, checks=CHECKS)

        judge()
    assert {"/predict", "/rank", "/recommend", "/explain", "/model", "/metrics"} <= seen
