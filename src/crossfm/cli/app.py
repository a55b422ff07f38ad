"""The command ``crossfm`` itself: its commands, version and help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from crossfm.cli.errors import EXIT_CODES
from crossfm.cli.evaluate import evaluate
from crossfm.cli.explain import explain
from crossfm.cli.fit import fit
from crossfm.cli.info import info
from crossfm.cli.predict import predict
from crossfm.cli.quantize import quantize
from crossfm.cli.recommend import recommend
from crossfm.cli.serve import serve

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # errors are reported in one line, see errors.py
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _help(command: Callable[..., Any]) -> str:
    """The docstring as the terminal wraps it: lines of prose joined, examples left alone."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(
        _examples(part) if part.startswith("crossfm ") else " ".join(part.split())
        for part in paragraphs
    )


def _examples(text: str) -> str:
    lines = (line.split(" ", 2) for line in text.splitlines())
    return "\n".join(f"[bold]{first} {name}[/] {rest}" for first, name, rest in lines)


def _version(asked: bool) -> None:
    if asked:
        import crossfm

        typer.echo(f"crossfm {crossfm.__version__}")
        raise typer.Exit


def crossfm(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Factorization machines: from a table of columns to a trained, explained model.

    crossfm fit ratings.csv --target rating --model ratings.crossfm
    crossfm evaluate ratings.crossfm test.csv
    crossfm predict ratings.crossfm test.csv --out scores.csv
    crossfm recommend ratings.crossfm --items films.csv --user 42
    crossfm explain ratings.crossfm test.csv --row 17
    crossfm serve ratings.crossfm --items films.csv
    crossfm info ratings.crossfm [dim]# what the model holds[/]
    crossfm quantize ratings.crossfm --precision int8 --on test.csv --out small.crossfm
    """


app.callback(help=_help(crossfm), epilog=EXIT_CODES)(crossfm)
OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}  # fields are options too
for _command in (fit, evaluate, predict, recommend, explain, serve, info, quantize):
    app.command(
        _command.__name__, help=_help(_command), epilog=EXIT_CODES, no_args_is_help=True,
        context_settings=OPEN if _command is recommend else None,
    )(_command)  # fmt: skip
