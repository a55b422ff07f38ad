"""What compiled code prints, which no redirection inside Python reaches."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["captured"]


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
