"""What stands in several places of the project's frame says the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINNED = {
    name.lower().replace("_", "-"): version
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)$", (ROOT / "requirements/pinned.txt").read_text(), re.MULTILINE
    )
}
EXTRAS = PROJECT["project"]["optional-dependencies"]
WANTED = [
    *PROJECT["build-system"]["requires"],
    *PROJECT["project"]["dependencies"],
    *EXTRAS["dev"],
    *EXTRAS["torch"],
    *EXTRAS["plot"],
    *EXTRAS["onnx"],
]


@pytest.mark.parametrize("text", WANTED)
def test_what_is_wanted_is_pinned_at_a_version_that_is_allowed(text):
    requirement = Requirement(text)
    pin = PINNED[requirement.name.lower().replace("_", "-")]
    assert requirement.specifier.contains(pin)


def test_pins_are_releases():
    """A local version such as 2.13.0+cpu names one build, and would fail on another platform."""
    assert not [pin for pin in PINNED.values() if "+" in pin]


def test_the_changelog_is_about_this_version():
    version = PROJECT["project"]["version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_make_help_lists_every_command():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (\S+)", makefile, re.MULTILINE))
    described = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert phony == described
    assert {"setup", "demo", "test", "lint", "bench", "help"} <= phony
