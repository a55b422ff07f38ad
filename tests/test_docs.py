"""The README and docs/ hold: examples run and print what they say, links lead somewhere.

In a ```python block, `>>>` lines are doctests. A block without them is a program; where a
```text block follows it, that is what the program prints, numbers with a decimal point to within a
hundredth: chips differ in the last digits of a fit. In a ```console block, lines after `$` are
commands, and what follows them is what they write to stdout, `...` standing for anything. The
blocks of one page share their names and their folder.
`<!-- needs: ml-100k -->` anywhere on a page says which real data its examples read.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import itertools
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import crossfm

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    language: str
    line: int  # of its first line, from 0
    text: str


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a markdown page, in order."""
    found: list[Block] = []
    lines: list[str] = []
    language = start = None
    for number, line in enumerate(page.splitlines(keepends=True)):
        fence = re.match(r"```(\w*)\s*$", line)
        if fence is None:
            lines.append(line)
        elif language is None:
            language, start, lines = fence[1], number + 1, []
        else:
            assert start is not None
            found.append(Block(language, start, "".join(lines)))
            language = None
    assert language is None, f"the block that starts at line {start} has no end"
    return found


def is_close(got: str, want: str) -> bool:
    """Equal but for white space, for what `...` stands for, and for a hundredth of a number."""
    number = r"-?\d+\.\d+"
    wanted = " ".join(want.split())
    pattern = "".join(
        ".*?" if part == "..." else f"({number})" if re.fullmatch(number, part) else re.escape(part)
        for part in re.split(rf"(\.\.\.|{number})", wanted)
    )
    found = re.fullmatch(pattern, " ".join(got.split()))
    pairs = zip(found.groups(), re.findall(number, wanted), strict=True) if found else ()
    return bool(found) and all(math.isclose(float(a), float(b), rel_tol=0.01) for a, b in pairs)


def stdout_of(command: str) -> str:
    """What a command writes to stdout; it must succeed."""
    folder = Path(sys.executable).parent
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "COLUMNS": "120"}
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, f"{command}{done.stderr}"
    return done.stdout


def failures_of(page: str, name: str) -> str:
    """Run a page's examples; what differs, as text ('' if nothing)."""
    names: dict[str, object] = {}
    report = io.StringIO()
    blocks = blocks_of(page)
    for block, after in itertools.zip_longest(blocks, blocks[1:]):
        if block.language == "console":
            for command, want in re.findall(
                r"^\$ (.+\n)((?:[^$].*\n|\n)*)", block.text, re.MULTILINE
            ):
                told = stdout_of(command)
                if want.strip() and not is_close(told, want):
                    report.write(f"{name}: {command}printed\n{told}and the page says\n{want}")
        if block.language != "python":
            continue
        if ">>> " in block.text:
            test = doctest.DocTestParser().get_doctest(block.text, names, name, name, block.line)
            runner = doctest.DocTestRunner(optionflags=FLAGS)
            runner.run(test, out=report.write, clear_globs=False)
            names |= test.globs
        else:
            printed = io.StringIO()
            code = compile("\n" * block.line + block.text, name, "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, names)
            told = printed.getvalue()
            if after and after.language == "text" and not is_close(told, after.text):
                report.write(
                    f"{name}, line {block.line}: printed\n{told}and the page says\n{after.text}"
                )
    return report.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_print_what_the_page_says(page, real_data, tmp_path, monkeypatch):
    text = page.read_text()
    for name in re.findall(r"<!-- needs: ([\w-]+) -->", text):
        real_data(name)
    monkeypatch.chdir(tmp_path)
    failures = failures_of(text, page.name)
    assert not failures, failures


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, heading = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{page.name} links to {target}, which does not exist"
        if heading:
            slugs = {
                re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
                for title in re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            }
            assert heading in slugs, f"{page.name} links to {target}: no such heading"


def test_the_reference_is_what_the_docstrings_say():
    program = [sys.executable, ROOT / "tools/reference.py", "--check"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_reference_names_everything_public():
    reference = (ROOT / "docs/api.md").read_text()
    named = set(re.findall(r"^#### `([\w.]+)", reference, re.MULTILINE))
    public = {f"crossfm.{name}" for name in crossfm.__all__ if name not in crossfm._MODULES}
    for module in (*crossfm._MODULES, "explain.plots"):
        inner = importlib.import_module(f"crossfm.{module}").__all__
        public |= {f"crossfm.{module}.{name}" for name in inner}
    assert named == public


class TestThisChecker:
    """The checker itself sees what it should."""

    def test_sees_wrong_doctest(self):
        assert "Expected" in failures_of("```python\n>>> 1 + 1\n3\n```\n", "page")

    def test_sees_right_doctest_up_to_the_fence(self):
        assert failures_of("```python\n>>> 1 + 1\n2\n```\n", "page") == ""

    def test_sees_wrong_output_of_a_program(self):
        page = "```python\nprint(1)\n```\n\n```text\n2\n```\n"
        assert "page says" in failures_of(page, "page")

    def test_takes_numbers_that_are_close(self):
        page = "```python\nprint('RMSE', 0.917)\n```\n```text\nRMSE {}\n```\n"
        assert failures_of(page.format("0.918"), "page") == ""
        assert "page says" in failures_of(page.format("0.943"), "page")

    def test_sees_wrong_output_of_a_command(self):
        page = "```console\n$ echo a 1.00 b\na {} ...\n$ true\n```\n"
        assert failures_of(page.format("1.001"), "page") == ""
        assert "page says" in failures_of(page.format("1.1"), "page")

    def test_shares_names_between_blocks(self):
        page = "```python\na = 1\n```\n```python\n>>> a\n1\n```\n"
        assert failures_of(page, "page") == ""
