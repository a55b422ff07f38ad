"""The server's page in headless Chromium: pick, look, ask why, change, watch; by keyboard too."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serving_runs import post, serving

import crossfm as cf

for _module in ("fastapi", "uvicorn", "httptools", "prometheus_client", "websockets"):
    pytest.importorskip(_module)
pytestmark = pytest.mark.skipif(browser.chromium() is None, reason="Chromium is not installed")

N, FILMS = 3_000, 30
HOSTILE = '<img src=x onerror="window.broken=1">'
ROWS = "[...document.querySelectorAll('#items li')]"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(0)
    film = rng.integers(0, FILMS, N)
    log = {"user": rng.integers(0, 20, N), "hour": rng.integers(0, 24, N), "film": film,
           "tags": [["old", "new"][: i % 3] for i in film]}  # fmt: skip
    fields = [cf.Categorical("user"), cf.Categorical("hour"), cf.Categorical("film"),
              cf.Bag("tags")]  # fmt: skip
    model = cf.FMRegressor(8, schema=cf.Schema(fields), n_epochs=30, early_stopping=False,
                           init_scale=0.5, random_state=0)  # fmt: skip
    y = np.sin(log["user"] * 1.7 + film) + np.cos(log["hour"] * 0.9 + film * 2.3)
    model.fit(log, y).save(folder / "m.crossfm")
    titles = [HOSTILE] + [f"Film number {i}" for i in range(1, FILMS)]
    table = {"film": list(range(FILMS)), "title": titles,
             "tags": [["old", "new"][: i % 3] for i in range(FILMS)]}  # fmt: skip
    pq.write_table(pa.table(table), folder / "films.parquet")
    return folder / "m.crossfm"


@contextmanager
def opened(
    model: Path, folder: Path, path: str = "/", *options: str, items: bool = True
) -> Iterator[tuple[browser.Page, int]]:
    with serving(model, *options, items=items) as (port, _), browser.page(folder) as page:
        page.size(1280, 900)
        page.prefer("light")
        page.open(f"http://127.0.0.1:{port}{path}")
        yield page, port
        assert page.errors == []
        own = f"http://127.0.0.1:{port}/"
        assert all(one.startswith((own, "about:", "data:")) for one in page.asked)


def shown(page: browser.Page) -> list[int]:
    found: list[int] = page.run(f"{ROWS}.map((row) => row.item)")
    return found


def best(port: int, user: int, hour: int) -> list[int]:
    query = {"query": {"user": user, "hour": hour}, "k": 20}
    found: list[int] = post(port, "/recommend", query)["ids"]
    return found


def put(page: browser.Page, field: str, text: str) -> None:
    page.run(f"document.getElementById('field-{field}').focus()")
    page.run(f"document.getElementById('field-{field}').select()")
    page.type(text)


def test_a_ranking_is_shown_explained_and_moves(model: Path, tmp_path: Path) -> None:
    with opened(model, tmp_path) as (page, port):
        page.until(f"{ROWS}.length === 20")
        put(page, "user", "7")
        put(page, "hour", "20")
        page.until(f"JSON.stringify({ROWS}.map((r) => r.item)) === '{_text(best(port, 7, 20))}'")
        assert "user=7" in page.run("location.search")
        page.run(f"{ROWS}[2].click()")
        page.until("!document.getElementById('why').hidden")
        item = shown(page)[2]
        told = post(port, "/explain", {"query": {"user": 7, "hour": 20}, "item": item})
        numbers = page.run(
            "[...document.querySelectorAll('#terms tbody td:nth-child(2)')]"
            ".map((cell) => Number(cell.textContent.replace('−', '-')))"
        )
        assert sum(numbers) == pytest.approx(told["score"], abs=0.002)
        total = page.run("document.querySelector('#terms tfoot').textContent")
        assert f"{abs(told['score']):.4f}" in total
        assert page.run(f"{ROWS}[2].getAttribute('aria-selected')") == "true"
        put(page, "hour", "3")
        page.until(f"JSON.stringify({ROWS}.map((r) => r.item)) === '{_text(best(port, 7, 3))}'")
        assert best(port, 7, 3) != best(port, 7, 20)
        moved = page.run("[...document.querySelectorAll('.move')].map((mark) => mark.textContent)")
        assert any("▲" in mark for mark in moved)
        assert any("▼" in mark for mark in moved)
        page.run("history.back()")  # to before the explanation
        page.until("document.getElementById('why').hidden")
        assert page.run("window.broken") is None
        assert page.run("document.querySelectorAll('#items img').length") == 0


def test_by_keyboard_alone(model: Path, tmp_path: Path) -> None:
    with opened(model, tmp_path, "/?user=3&hour=5") as (page, _):
        page.until(f"{ROWS}.length === 20")
        for _ in range(20):
            page.press("Tab")
            if page.run("document.activeElement.getAttribute('role') === 'option'"):
                break
        page.press("ArrowDown")
        page.press("ArrowDown")
        page.press("ArrowUp")
        assert page.run(f"{ROWS}.indexOf(document.activeElement)") == 1
        page.press("Enter")
        page.until("document.activeElement.id === 'why-title'")
        page.press("Escape")
        page.until("document.getElementById('why').hidden")
        assert page.run(f"{ROWS}.indexOf(document.activeElement)") == 1
        page.press("End")
        assert page.run(f"{ROWS}.indexOf(document.activeElement)") == 19


def test_what_the_server_refuses_is_shown(model: Path, tmp_path: Path) -> None:
    with opened(model, tmp_path, "/?user=3", "--max-k", "5") as (page, port):
        page.until(f"{ROWS}.length === 5")  # of 20 that were chosen
        page.run(
            "fetch = ((own) => (path, more) => own(path.replace('recommend', 'nothing'), more))"
            "(fetch)"
        )
        put(page, "user", "4")
        page.until("!document.getElementById('problem').hidden")
        assert "Not Found" in page.run("document.getElementById('problem').textContent")
        page.errors.clear()  # the console names the 404 too
        page.open(f"http://127.0.0.1:{port}/?user=3&hour=1")
        page.until(f"{ROWS}.length === 5")
        put(page, "user", "nobody that is known")
        page.until(f"{ROWS}.length === 5")
        assert page.run("document.getElementById('problem').hidden")


def test_a_token_is_asked_for(model: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a token of some length")
    with (
        serving(model, "--token-file", str(tmp_path / "token")) as (port, _),
        browser.page(tmp_path) as page,
    ):
        page.open(f"http://127.0.0.1:{port}/")
        page.until("document.getElementById('ask-token').open")
        page.type("wrong")
        page.press("Enter")
        page.until(
            "document.getElementById('ask-token').open"
            " && document.getElementById('token').value === ''"
        )
        page.type("a token of some length")
        page.run("document.querySelector('#ask-token button').click()")
        page.until(f"{ROWS}.length === 20")


def test_without_items_a_row_is_predicted(model: Path, tmp_path: Path) -> None:
    path = "/?user=3&hour=5&film=4&tags=old"
    with opened(model, tmp_path, path, items=False) as (page, port):
        page.until("!document.getElementById('predict').hidden")
        page.run("document.getElementById('predict').click()")
        page.until("!document.getElementById('why').hidden")
        row = {"user": 3, "hour": 5, "film": 4, "tags": ["old"]}
        (expected,) = post(port, "/predict", {"rows": [row]})["predictions"]
        title = page.run("document.getElementById('why-title').textContent")
        assert title == f"Prediction {expected:.3f}"


@pytest.mark.parametrize("width", [1280, 360])
def test_both_themes(model: Path, tmp_path: Path, width: int) -> None:
    with opened(model, tmp_path, "/?user=3&hour=5&why=4") as (page, _):
        page.size(width, 900)
        page.until("!document.getElementById('why').hidden")
        paper, pictures = {}, {}
        for scheme in ("light", "dark"):
            page.prefer(scheme)
            paper[scheme] = page.run("getComputedStyle(document.body).backgroundColor")
            other = {"light": "Dark", "dark": "Light"}[scheme]
            page.until(f"document.getElementById('theme').textContent === '{other}'")
            pictures[scheme] = page.picture(_folder(tmp_path) / f"{scheme}-{width}.png")
        assert _brightness(paper["light"]) > 200
        assert _brightness(paper["dark"]) < 60
        assert min(path.stat().st_size for path in pictures.values()) > 10_000
        page.run("document.getElementById('theme').click()")
        assert page.run("getComputedStyle(document.body).backgroundColor") == paper["light"]
        widest = page.run("document.documentElement.scrollWidth")
        assert widest <= width  # nothing is beyond the edge


def _folder(other: Path) -> Path:
    """Where pictures go: CROSSFM_PICTURES, to look at them, or a folder that is thrown away."""
    found = Path(os.environ.get("CROSSFM_PICTURES", other))
    found.mkdir(parents=True, exist_ok=True)
    return found


def _brightness(colour: str) -> float:
    numbers: Any = colour[colour.index("(") + 1 : -1].split(",")[:3]
    return sum(map(float, numbers)) / 3


def _text(ids: list[int]) -> str:
    return json.dumps(ids, separators=(",", ":"))
