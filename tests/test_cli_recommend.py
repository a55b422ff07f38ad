"""`crossfm recommend`, and the pictures of `crossfm explain`."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from cli_runs import crossfm_runs, error_of, sample_files, told_by, usage_of

import crossfm


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model of users, their ages, films and genres; the films; and a file of queries."""
    home = tmp_path_factory.mktemp("recommend")
    train = pa.parquet.read_table(sample_files() / "train.parquet")
    columns = ["user", "age", "item", "genres"]
    schema = crossfm.Schema([
        crossfm.Categorical("user"), crossfm.Numeric("age"), crossfm.Categorical("item"),
        crossfm.Bag("genres", sep="|"),
    ])  # fmt: skip
    for name, make in (("rating", crossfm.FMRegressor), ("click", crossfm.FMClassifier)):
        model = make(4, schema=schema, n_epochs=5, random_state=0)
        model.fit(train.select(columns), train.column(name).to_numpy(zero_copy_only=False))
        model.save(home / f"{name}.crossfm")
    films = {"item": list(range(9)), "genres": ["g0|g1", "g2", None] * 3,
             "title": [f"Film {i}" for i in range(9)]}  # fmt: skip
    pa.csv.write_csv(pa.table(films), home / "films.csv")
    pa.csv.write_csv(pa.table({"user": ["u1", "u2"], "age": [22.5, 25.0]}), home / "queries.csv")
    return home


def expected(folder: Path, name: str, user: str, age: float | None):
    films = pa.csv.read_csv(folder / "films.csv")
    rows = films.append_column("user", [[user] * 9]).append_column(
        "age", pa.array([age] * 9, pa.float64())
    )
    model = crossfm.load(folder / f"{name}.crossfm")
    return model.predict_proba(rows)[:, 1] if name == "click" else model.predict(rows)


@pytest.mark.parametrize("name", ["rating", "click"])
def test_the_best_items_of_a_query(folder, name):
    words = [folder / f"{name}.crossfm", "--items", folder / "films.csv", "--user", "u3"]
    told = told_by("recommend", *words, "--age=30", "-k", "4")
    scores = expected(folder, name, "u3", 30.0)
    best = np.argsort(-scores, kind="stable")[:4]
    assert [one["item"] for one in told["items"]] == best.tolist()
    assert [one["title"] for one in told["items"]] == [f"Film {i}" for i in best]
    np.testing.assert_allclose([one["score"] for one in told["items"]], scores[best], rtol=1e-5)
    text = crossfm_runs("recommend", *words, "--exclude", f"{best[0]},77", "--exclude", best[1])
    assert "not given, so unknown: age" in text.stderr
    shown = [int(line.split()[2]) for line in text.stdout.splitlines()[1:8]]
    assert sorted(shown) == sorted(set(range(9)) - set(best[:2].tolist()))
    assert "7 items in all" in text.stdout
    assert "no item has the item 77" in text.stderr
    nobody = crossfm_runs("recommend", *words[:3], "--user", "nobody", "--only", "xyz")
    assert "the model does not know user nobody" in nobody.stderr
    assert "no item has the item xyz" in nobody.stderr
    only = told_by("recommend", *words, "--only", "2,5")
    assert sorted(one["item"] for one in only["items"]) == [2, 5]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_many_queries_to_a_file(folder, tmp_path, ending):
    out = tmp_path / f"best.{ending}"
    crossfm_runs("recommend", folder / "rating.crossfm", "--items", folder / "films.csv",
                 "--queries", folder / "queries.csv", "--out", out, "-k", "3")  # fmt: skip
    found = (pa.csv.read_csv if ending == "csv" else pa.parquet.read_table)(out)
    assert found.column_names == ["user", "age", "rank", "item", "score"]
    assert found.column("user").to_pylist() == ["u1"] * 3 + ["u2"] * 3
    assert found.column("rank").to_pylist() == [1, 2, 3] * 2
    for user, age, low in (("u1", 22.5, 0), ("u2", 25.0, 3)):
        scores = np.sort(expected(folder, "rating", user, age))[::-1][:3]
        np.testing.assert_allclose(found.column("score")[low : low + 3], scores, rtol=1e-5)


def test_wrong_queries(folder, tmp_path):
    words = ["recommend", folder / "rating.crossfm", "--items", folder / "films.csv"]
    assert "no option --usr. Did you mean '--user'?" in usage_of(*words, "--usr", "u1")
    assert "describes the items" in usage_of(*words, "--genres", "g0")
    assert "needs a value" in usage_of(*words, "--user")
    assert "given twice" in usage_of(*words, "--user", "u1", "--user=u2")
    assert "'u1' is no option" in usage_of(*words, "u1")
    assert "go together" in usage_of(*words, "--queries", folder / "queries.csv")
    assert "go together" in usage_of(*words, "--out", tmp_path / "x.csv")
    both = ["--queries", folder / "queries.csv", "--out", tmp_path / "x.csv", "--user", "u1"]
    assert "--user and --queries" in usage_of(*words, *both)
    assert "end in one of" in usage_of(*words, *both[:2], "--out", tmp_path / "x.txt")
    assert "expected a number" in error_of(*words, "--age", "old")
    assert "absent.csv" in error_of(*words[:3], tmp_path / "absent.csv", "--user", "u1")
    empty = tmp_path / "empty.csv"
    empty.write_text("item,genres\n")
    assert "no items" in error_of(*words[:3], empty, "--user", "u1")
    none = tmp_path / "none.csv"
    none.write_text("title\nx\n")
    assert "columns of no fields" in error_of(*words[:3], none, "--user", "u1")
    over = ["--queries", folder / "queries.csv", "--out", folder / "queries.csv"]
    assert "to be read and to be written" in error_of(*words, *over)


# --- pictures -----------------------------------------------------------------------------------


@pytest.fixture
def row(tmp_path) -> Path:
    path = tmp_path / "row.json"
    path.write_text(json.dumps({"user": "u1", "age": 30, "item": 3, "genres": "g0|<b>g1</b>"}))
    return path


@pytest.mark.parametrize("ending", ["png", "svg", "html"])
def test_a_row_is_drawn(folder, row, tmp_path, ending):
    pytest.importorskip("matplotlib")
    out = tmp_path / f"why.{ending}"
    told = crossfm_runs("explain", folder / "rating.crossfm", row, "--plot", out, "-k", "3")
    assert f"{out} written" in told.stderr
    content = out.read_bytes()
    if ending == "png":
        assert content.startswith(b"\x89PNG")
        assert len(content) > 5_000
    elif ending == "svg":
        assert ElementTree.fromstring(content).tag.endswith("svg")
    else:
        page = content.decode()
        assert "<svg" in page
        assert "<b>" not in page
        assert "http://www.w3.org" in page  # a name of the format; nothing is fetched
        assert "src=" not in page
        score = told.stdout.splitlines()[-1].split()[-1]
        assert score in page
        crossfm_runs("explain", folder / "rating.crossfm", row, "--plot", out, "--by", "field")
        assert "user × item" in out.read_text()


def test_fields_of_a_file(folder, tmp_path):
    pytest.importorskip("matplotlib")
    test, out = sample_files() / "test.parquet", tmp_path / "fields.html"
    words = ["explain", folder / "rating.crossfm", test, "--fields"]
    told = told_by(*words, "--plot", out)
    assert told["fields"] == ["user", "age", "item", "genres"]
    assert told["n_rows"] == 200
    mean = np.array(told["mean"])
    model = crossfm.load(folder / "rating.crossfm")
    scores = model.predict(pa.parquet.read_table(test))
    assert np.triu(mean).sum() + model.model_.bias == pytest.approx(scores.mean(), abs=1e-4)
    assert "user × item" in out.read_text()
    lines = crossfm_runs(*words, "-k", "2").stdout.splitlines()
    assert lines[-1] == "standard deviations over 200 rows"
    assert len(lines) == 4


def test_pictures_that_cannot_be(folder, row, tmp_path):
    words = ["explain", folder / "rating.crossfm", row]
    assert "end in one of" in usage_of(*words, "--plot", tmp_path / "why.gif")
    assert "no folder" in error_of(*words, "--plot", tmp_path / "absent" / "why.png")
    assert "leave --row and --by out" in usage_of(*words, "--fields", "--row", "1")
