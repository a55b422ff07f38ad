"""Write docs/api.md: every public name, its parameters, and the first line of its docstring.

python tools/reference.py          write the page
python tools/reference.py --check  compare it with what would be written

Docstrings are the reference; the page is their index.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import crossfm

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/api.md"
BELOW = ("explain.plots",)  # public modules within others
HEAD = """\
# API reference

Every public name, with the first line of what it says of itself; `help(crossfm.Schema)` shows the
rest: formulas, parameters with shapes and defaults, what is raised, an example. Names that begin
with an underscore, and modules that are not listed here, may change without notice.

<!-- Written by `make docs` from the docstrings; a test compares. -->
"""


def first_line(thing: object) -> str:
    """What a name says of itself in its first sentence or line."""
    text = inspect.getdoc(thing) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def call(name: str, thing: Any) -> str:
    """A name with its parameters and defaults, without types."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return name
    shown = []
    star = False
    for parameter in signature.parameters.values():
        if parameter.name == "self" or parameter.name.startswith("_"):
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            star = True
            shown.append(f"*{parameter.name}")
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            shown.append(f"**{parameter.name}")
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            shown.append("*")
        default = parameter.default
        if default is parameter.empty:
            shown.append(parameter.name)
        elif type(default) in (int, float, str, bool, type(None), tuple):
            shown.append(f"{parameter.name}={default!r}")
        else:
            shown.append(f"{parameter.name}=...")
    return f"{name}({', '.join(shown)})"


def members(cls: type) -> list[tuple[str, Any]]:
    """Public methods and properties that crossfm's own classes define, in order of definition."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("crossfm"):
            continue
        for name, value in vars(base).items():
            if name.startswith("_"):
                continue
            if isinstance(value, property | staticmethod | classmethod) or inspect.isfunction(
                value
            ):
                found[name] = value
    return list(found.items())


def entry(full_name: str, thing: Any) -> list[str]:
    """The lines of one name: a row for a function, a section for a class."""
    source = Path(inspect.getsourcefile(thing) or "").resolve().relative_to(ROOT).as_posix()
    link = f"[{Path(source).name}](../{source})"
    lines = [f"#### `{call(full_name, thing)}`", "", f"{first_line(thing)} ({link})", ""]
    if not inspect.isclass(thing) or issubclass(thing, BaseException):
        return lines
    rows = []
    for name, value in members(thing):
        if isinstance(value, property):
            rows.append(f"| `{name}` | {first_line(value)} |")
        else:
            function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            rows.append(f"| `{call(name, function)}` | {first_line(function)} |")
    if rows:
        lines += ["| member | |", "|---|---|", *rows, ""]
    return lines


def page() -> str:
    """The whole page."""
    lines = [HEAD, "## crossfm", ""]
    seen: dict[int, str] = {}
    for name in crossfm.__all__:
        thing = getattr(crossfm, name)
        if inspect.ismodule(thing) or name == "__version__":
            continue
        seen[id(thing)] = f"crossfm.{name}"
        lines += entry(f"crossfm.{name}", thing)
    lines += ["#### `crossfm.__version__`", "", "The version that is installed.", ""]
    for module_name in sorted((*crossfm._MODULES, *BELOW)):
        module = importlib.import_module(f"crossfm.{module_name}")
        lines += [f"## `crossfm.{module_name}`", "", first_line(module), ""]
        for name in module.__all__:
            thing = getattr(module, name)
            full = f"crossfm.{module_name}.{name}"
            if id(thing) in seen:
                lines += [f"#### `{full}`", "", f"`{seen[id(thing)]}`, above.", ""]
            elif inspect.isfunction(thing) or inspect.isclass(thing):
                lines += entry(full, thing)
            elif inspect.ismodule(thing):
                lines += [f"#### `{full}`", "", first_line(thing), ""]
            else:
                kind = type(thing).__name__
                known = isinstance(thing, dict) or dataclasses.is_dataclass(thing)
                what = f": {', '.join(f'`{k}`' for k in thing)}" if isinstance(thing, dict) else ""
                lines += [f"#### `{full}`", "", f"{kind}{what}" if known else kind, ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    wanted = page()
    if "--check" in sys.argv[1:]:
        found = PAGE.read_text() if PAGE.exists() else ""
        if found != wanted:
            changes = difflib.unified_diff(
                found.splitlines(),
                wanted.splitlines(),
                "docs/api.md",
                "make docs",
                lineterm="",
                n=0,
            )
            sys.exit(
                "docs/api.md is not what the docstrings say; run `make docs`\n" + "\n".join(changes)
            )
    else:
        PAGE.write_text(wanted)


if __name__ == "__main__":
    main()
