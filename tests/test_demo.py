"""`make demo` does what it says, with the data and without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def demo(*words: str, example: str = "movielens") -> str:
    """What an example prints; `make demo` is the first."""
    program = [sys.executable, ROOT / f"examples/{example}.py", *words]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def column(text: str, row: str) -> float:
    """The first number of a row of the printed table."""
    found = re.search(rf"^{row} +(\d+\.\d+)", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


def test_on_ratings(real_data):
    real_data("ml-100k")
    text = demo()
    mean, biases, machine = (
        column(text, row)
        for row in ("the mean rating", "user and item biases", "factorization machine")
    )
    assert machine < 0.97 * biases < 0.97 * mean
    assert "predicts the same for all" in text
    assert re.search(r"^score +[+]\d", text, re.MULTILINE)


def test_on_the_generated_log():
    text = demo("--generated", "--epochs", "3")
    machine, linear = column(text, "factorization machine"), column(text, "linear model")
    assert machine < linear < column(text, "the mean click rate")
    assert "predicts the same for all" in text


def test_the_example_of_uncertainty(tmp_path):
    text = demo("--generated", "--sweeps", "30", "--out", str(tmp_path), example="uncertainty")
    rows = {name: re.search(rf"^ *{name} +(\d\.\d+)((?: +\d+\.\d%)+)", text, re.MULTILINE)
            for name in ("normal", "ordinal")}  # fmt: skip
    for row in rows.values():
        assert row is not None, text
        assert float(row[1]) < 0.95  # always the mean: 1.2
    inside = [float(share) for share in rows["normal"][2].replace("%", "").split()]
    assert max(abs(a - b) for a, b in zip(inside, (50, 80, 90, 95), strict=True)) < 4
    assert {path.name for path in tmp_path.iterdir()} == {
        "intervals.png",
        "liked.png",
        "traces.png",
    }
