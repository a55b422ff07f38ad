"""The package as seen from outside: light to import, complete, and built level on level."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import crossfm

ROOT = Path(__file__).resolve().parents[1]

HEAVY = {
    "fastapi", "hypothesis", "matplotlib", "narwhals", "numpy.testing", "pandas", "polars",
    "pyarrow", "pytest", "rich", "safetensors", "scipy", "sklearn", "torch", "typer",
}  # fmt: skip


def modules_after(statement: str) -> set[str]:
    """Names in sys.modules of a fresh interpreter after a statement."""
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_import_loads_nothing_heavy():
    assert modules_after("import crossfm") & HEAVY == set()


def test_names_that_need_no_frames_stay_light():
    loaded = modules_after("import crossfm; crossfm.Rows, crossfm.errors, crossfm.metrics")
    assert loaded & HEAVY == set()


def test_import_takes_less_than_half_a_second():
    code = "import time; a = time.perf_counter(); import crossfm; print(time.perf_counter() - a)"
    seconds = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
        for _ in range(3)
    )
    assert seconds < 0.5


@pytest.mark.parametrize("name", crossfm.__all__)
def test_every_public_name_is_there(name):
    assert getattr(crossfm, name) is not None
    assert name in dir(crossfm)


def test_the_lists_of_public_names_agree():
    """Lazy names, type checker's imports and __all__ are three lists of one thing."""
    tree = ast.parse(Path(crossfm.__file__).read_text())
    checked = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = crossfm._HOME | dict.fromkeys(crossfm._MODULES, "crossfm")
    assert checked == lazy
    assert sorted(crossfm.__all__) == sorted([*lazy, "__version__"])


@pytest.mark.parametrize("name", sorted(crossfm._HOME))
def test_a_public_name_is_public_at_home(name):
    home = importlib.import_module(crossfm._HOME[name])
    assert name in home.__all__


def test_an_unknown_name_is_an_attribute_error_with_a_hint():
    with pytest.raises(AttributeError, match=r"no 'Row'\. Did you mean 'Rows'"):
        _ = crossfm.Row


def test_import_levels_hold():
    """The contracts of pyproject.toml: imports point downward, each library has its place."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stub_of_the_core_is_what_the_core_is():
    program = [sys.executable, ROOT / "tools/stubs.py", "--check"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
