"""`make demo` does what it says, with the data and without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def demo(*words: str) -> str:
    """What the demo prints."""
    program = [sys.executable, ROOT / "examples/movielens.py", *words]
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
