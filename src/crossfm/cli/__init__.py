"""The command line: ``crossfm fit | evaluate | predict | explain | info``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command that the program was started with, and exit with its code."""
    try:
        from crossfm.cli.app import app

        app(prog_name="crossfm")
    except KeyboardInterrupt:  # while loading, before a command could take care of it
        sys.exit(130)
