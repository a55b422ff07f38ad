"""Servers for tests, as processes of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def serving(
    model: Path, *options: str, items: bool = True
) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """``crossfm serve`` with the items beside the model: its port, and the process."""
    more = ["--items", str(model.parent / "films.parquet")] if items else []
    command = [
        sys.executable, "-m", "crossfm", "serve", str(model), *more, "--port", "0", "--log",
        "error", *options,
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"at http://127\.0\.0\.1:(\d+)$", line.strip())
            assert found, line + process.stderr.read()
            yield int(found[1]), process
        finally:
            process.kill()


def post(port: int, path: str, body: Any, timeout: float = 30) -> Any:
    """The answer to one request."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(),
        {"content-type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)
