"""Write src/crossfm/_native.pyi, the types of the C++ core, as nanobind tells them.

python tools/stubs.py          write the stub
python tools/stubs.py --check  compare it with what would be written
"""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from pathlib import Path

from nanobind.stubgen import StubGen

import crossfm._native

STUB = Path(__file__).resolve().parents[1] / "src/crossfm/_native.pyi"


def stub() -> str:
    """The stub's text, formatted as all sources are."""
    generator = StubGen(crossfm._native)
    generator.put(crossfm._native)
    text = generator.get()
    # Which layout an argument needs is checked at run time; its dtype is what helps a reader.
    layout = r"dict\([^()]*(?:\([^()]*\))?[^()]*\)"
    text = re.sub(rf"Annotated\[(NDArray(?:\[[\w.]+\])?), {layout}\]", r"\1", text)
    text = text.replace("from typing import Annotated\n", "from typing import Any\n")
    text = text.replace(") -> object:", ") -> Any:")
    # What this machine's chip offers is not a type.
    text = re.sub(r"^(\w+: \w+) = .*$", r"\1", text, flags=re.MULTILINE)
    text = text.replace("import numpy\n", "\nimport numpy\n", 1).lstrip()
    formatted = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", STUB, "-"],
        input=text, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return formatted.stdout


def main() -> None:
    wanted = stub()
    if "--check" in sys.argv[1:]:
        found = STUB.read_text() if STUB.exists() else ""
        if found != wanted:
            changes = difflib.unified_diff(
                found.splitlines(), wanted.splitlines(), STUB.name, "make stubs", lineterm="", n=0
            )
            sys.exit(
                "the core's stub is not what the core is; run `make stubs`\n" + "\n".join(changes)
            )
    else:
        STUB.write_text(wanted)


if __name__ == "__main__":
    main()
