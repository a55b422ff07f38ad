"""The benchmark of tables: its oracle agrees, and it refuses other ids and values."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("polars")

from benchmarks import speed, tables
from benchmarks.figures import RESULTS
from benchmarks.harness import Disagreement


def test_every_library_finds_the_same_rows(tmp_path):
    path, distinct = tables.make_log(tmp_path, 700)
    mine = tables.ours(path, 2)
    assert mine.ids.shape == (700, 39)
    assert mine.ids.max() < 26 + 26 + distinct
    for name, run in tables.PEERS.items():
        found = run(path)
        tables.compare(name, found, mine)
        assert set(found.seconds) == {"read", "vocabulary", "encode"}
        other = found._replace(ids=found.ids.copy())
        often = int(np.argmin(mine.ids[:, 13]))  # a row with the most frequent token
        other.ids[often, 13] = other.ids[:, 13].max() + 1
        with pytest.raises(Disagreement, match=name):
            tables.compare(name, other, mine)
        with pytest.raises(Disagreement, match="other values"):
            tables.compare(name, found._replace(values=found.values + 0.001), mine)


def test_the_oracle_is_held_against(tmp_path, monkeypatch):
    monkeypatch.delenv("CROSSFM_DATA", raising=False)
    monkeypatch.setattr(tables, "ORACLE_ROWS", 300)
    assert tables.check_oracle(tmp_path) == ["300 made rows"]
    run = tables.ours

    def wrong(path, threads):
        found = run(path, threads)
        return found._replace(ids=found.ids[::-1])

    monkeypatch.setattr(tables, "ours", wrong)
    with pytest.raises(Disagreement, match="ids are not those of the oracle"):
        tables.check_oracle(tmp_path)


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tables, "ORACLE_ROWS", 100)
    monkeypatch.setattr(tables, "BAR", 0.0)
    saved = []
    monkeypatch.setattr(
        tables.Report, "save", lambda self, folder=RESULTS: saved.append(self) or RESULTS
    )
    words = ["tables", "--check", "--rows", "300", "--rounds", "2", "--peers", "pandas"]
    assert speed.main(words) == 0
    assert '"parquet_rows_per_second": {"value":' in capsys.readouterr().out
    (report,) = saved
    assert {len(rounds) for rounds in report.details["seconds"].values()} == {2}
    assert set(report.details["seconds"]) == {"crossfm", "crossfm, 1 thread", "pandas"}


def test_tokens_have_a_long_tail():
    column, seen = tables.tokens(np.random.default_rng(0), 10_000, 10**7, 0.25, salt=1)
    assert 0.2 < column.null_count / 10_000 < 0.3
    words = column.drop_null().to_pylist()
    assert len(set(words)) == seen > 2_000
    assert {len(word) for word in words} == {8}
    assert max(map(words.count, set(words[:50]))) > 100
