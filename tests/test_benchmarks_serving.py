"""The benchmark of the server: a short run of it, and what it refuses to report."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from benchmarks import serving
from benchmarks.figures import Report
from benchmarks.harness import Disagreement

for _module in ("fastapi", "uvicorn", "httptools", "prometheus_client"):
    pytest.importorskip(_module)


def test_a_short_run_with_new_models(monkeypatch: Any, capsys: Any, tmp_path: Any) -> None:
    monkeypatch.setattr("benchmarks.figures.RESULTS", tmp_path)
    monkeypatch.setattr(serving, "USERS", 50)
    monkeypatch.setattr(serving, "ITEMS", 500)
    monkeypatch.setattr(serving, "CANDIDATES", 20)
    monkeypatch.setattr(serving, "SWAP", 1.0)
    words = ["serving", "--check", "--seconds", "0.3", "--rounds", "1", "--minutes", "0.05"]
    monkeypatch.setattr(sys, "argv", words)
    serving.main()  # its exit code tells of speed, which a test does not judge
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    assert figures["failed_requests"]["holds"]
    assert figures["models_that_answered"]["value"] == 2
    assert figures["rank_requests_per_second"]["value"] > 0


def test_failures_are_no_rate() -> None:
    with pytest.raises(Disagreement, match="requests failed"):
        serving.expect_answers({"statuses": {"200": 5, "503": 1}, "lost": 0})
    with pytest.raises(Disagreement, match="2 lost"):
        serving.expect_answers({"statuses": {"200": 5}, "lost": 2})
    assert not Report("serving").holds
