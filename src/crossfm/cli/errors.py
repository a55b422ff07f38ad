"""Exit codes, and exceptions as one line on stderr."""

from __future__ import annotations

import functools
import sys
import traceback
import warnings
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, NoReturn, TextIO

import typer

from crossfm.errors import CrossfmError

__all__ = ["EXIT_CODES", "Debug", "ExitCode", "guarded", "usage_error"]


class ExitCode(IntEnum):
    """What a command ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 done; 1 bad data, schema or model (one line on stderr says where and what to"
    " do); 2 wrong use of the command; 130 interrupted by Ctrl-C."
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def usage_error(message: str) -> NoReturn:
    """End with exit code 2 and the command's usage."""
    raise typer.BadParameter(message)


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with its exceptions reported in one line, and an exit code for each.

    Its option `debug` adds the traceback.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("always", category=UserWarning)
                warnings.showwarning = _show_warning
                return command(*args, **options)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except KeyboardInterrupt as stop:
            _say("interrupted", str(stop) or "nothing was written")
            code = ExitCode.INTERRUPTED
        except Exception as error:
            if options.get("debug"):
                traceback.print_exc()
            _say("error", _message(error))
            code = ExitCode.FAILED
        raise typer.Exit(int(code))

    return run


def _message(error: Exception) -> str:
    if isinstance(error, CrossfmError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory{': ' if str(error) else ''}{error}; use fewer rows, factors or jobs"
    text = str(error).strip().split("\n", 1)[0][:200]
    return (
        f"something went wrong inside crossfm ({type(error).__name__}: {text}). Run the same"
        " command with --debug to see where, and please report it"
    )


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _say("warning", str(message), "bold yellow")


def _say(word: str, message: str, style: str = "bold red") -> None:
    """``word: message`` on stderr, in one line; the word in colour on a terminal."""
    text = " ".join(message.split())
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True).print(Text.assemble((f"{word}: ", style), text))
    else:
        print(f"{word}: {text}", file=sys.stderr)
