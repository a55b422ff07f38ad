"""benchmarks.retrieval: the worker searches, searches that disagree are not compared."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import retrieval
from benchmarks.figures import Report
from benchmarks.harness import Disagreement, Worker


def test_the_worker_searches(tmp_path):
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(500, 4)), rng.normal(size=(6, 4))
    for name, array in (("vectors", vectors), ("queries", queries)):
        np.save(tmp_path / f"{name}.npy", array.astype(np.float32))
    found = {}
    with Worker("crossfm-search") as worker:
        told = worker.ask("ask", vectors=str(tmp_path / "vectors.npy"))
        assert told["version"].startswith("crossfm")
        for storage in ("float32", "bfloat16"):
            path = str(tmp_path / "found.npz")
            told = worker.ask("ask", queries=str(tmp_path / "queries.npy"), k=5, at_once=2,
                              found=path, storage=storage)  # fmt: skip
            assert len(told["seconds"]) == 3
            found["crossfm" if storage == "float32" else storage] = dict(np.load(path))
    expected = np.argsort(-(queries[:2] @ vectors.T), axis=1)[:, :5]
    np.testing.assert_array_equal(found["crossfm"]["places"], expected)
    retrieval.expect_agreement(found)
    found["faiss"] = {**found["crossfm"], "places": expected[:, ::-1]}
    with pytest.raises(Disagreement, match="faiss names"):
        retrieval.expect_agreement(found)


def test_pre_ranking(monkeypatch, capsys):
    monkeypatch.setattr(retrieval, "N_CANDIDATES", 100)
    monkeypatch.setattr(retrieval, "N_QUERIES", 5)
    report = Report("retrieval")
    retrieval.pre_ranking(300, report)
    assert report.figures[0].name == "rank_10000_by_id_p99"
    assert "p99" in capsys.readouterr().out


def test_approximate_search(monkeypatch, capsys):
    monkeypatch.setattr(retrieval, "TOGETHER", 60)
    report = Report("retrieval")
    retrieval.approximate(4_000, 1, report)
    recall, times = report.figures
    assert (recall.name, times.name) == ("approximate_recall_at_100", "approximate_times_exact")
    assert recall.value > 0.9
    assert "drawn at random" in capsys.readouterr().out
