"""What compiled code prints, which no redirection inside Python reaches."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["captured", "clocked"]


def captured(call: Callable[[], Any], path: Path) -> str:
    """What C and C++ code prints on standard output during a call; `path` holds it meanwhile."""
    sys.stdout.flush()
    kept = os.dup(1)
    with path.open("wb") as sink:
        os.dup2(sink.fileno(), 1)
        try:
            call()
            # C++ flushes its stream at exit only; ctypes reaches the C library's buffers.
            ctypes.CDLL(None).fflush(None)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
    return path.read_text(encoding="utf-8", errors="replace")


def clocked(call: Callable[[], Any]) -> list[tuple[float, str]]:
    """What a call prints on standard output, each line with the second at which it came."""
    library = ctypes.CDLL(None)
    stream = ctypes.c_void_p.in_dll(library, "stdout")
    unbuffered, line_buffered = 2, 1  # _IONBF, _IOLBF
    lines: list[tuple[float, str]] = []
    out, into = os.pipe()

    def listen() -> None:
        with os.fdopen(out, encoding="utf-8", errors="replace") as source:
            lines.extend((time.perf_counter(), line) for line in source)

    listener = threading.Thread(target=listen)
    sys.stdout.flush()
    library.fflush(None)
    kept = os.dup(1)
    os.dup2(into, 1)
    os.close(into)
    library.setvbuf(stream, None, unbuffered, 0)
    listener.start()
    try:
        call()
    finally:
        library.fflush(None)
        library.setvbuf(stream, None, line_buffered, 0)
        os.dup2(kept, 1)
        os.close(kept)
        listener.join()
    return lines
