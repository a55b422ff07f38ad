"""``crossfm serve``: a model behind HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from crossfm.cli.errors import Debug, guarded, usage_error

__all__ = ["serve"]

LEVELS = ("debug", "info", "warning", "error")


@guarded
def serve(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A model file; when it changes, the new one takes over.",
            show_default=False,
        ),
    ],
    items: Annotated[
        Path | None,
        typer.Option(
            "--items",
            metavar="FILE",
            help="The catalogue to recommend from: Parquet or CSV.",
            show_default=False,
        ),
    ] = None,
    item_fields: Annotated[
        str | None,
        typer.Option(
            "--item-fields",
            metavar="NAMES",
            help="Fields of the model that describe an item; those whose columns FILE has.",
            show_default=False,
        ),
    ] = None,
    id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="COLUMN",
            help="What names an item; the first of its fields.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; 0.0.0.0: all of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0: any free one.", min=0, max=65535)] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="Holds the token that requests must bring (or the variable CROSSFM_TOKEN).",
            show_default=False,
        ),
    ] = None,
    most_k: Annotated[int, typer.Option("--max-k", min=1, help="Items of an answer.")] = 1_000,
    most_candidates: Annotated[
        int, typer.Option("--max-candidates", min=1, help="Candidates of a ranking.")
    ] = 10_000,
    most_rows: Annotated[
        int, typer.Option("--max-rows", min=1, help="Rows of a prediction.")
    ] = 10_000,
    most_mb: Annotated[float, typer.Option("--max-mb", help="Size of a body, in MiB.")] = 8.0,
    seconds: Annotated[
        float,
        typer.Option("--timeout", help="Seconds for a request to arrive, and to be answered."),
    ] = 10.0,
    in_flight: Annotated[
        int, typer.Option("--max-requests", min=1, help="Requests at a time.")
    ] = 256,
    poll: Annotated[
        float, typer.Option("--poll", help="Seconds between looks at the files; 0: never.", min=0)
    ] = 1.0,
    threads: Annotated[
        int, typer.Option("--threads", help="Threads of a search; -1: all cores.")
    ] = 1,
    log_level: Annotated[
        str, typer.Option("--log", metavar="LEVEL", help=f"{', '.join(LEVELS)}: JSON on stderr.")
    ] = "info",
    debug: Debug = False,
) -> None:
    """Answer requests for predictions, rankings, recommendations and their reasons.

    A page to try it with is at /, the requests are described at /openapi.json. A new file in the
    place of the model takes over without a request lost; one that is broken is refused, and the
    model of before goes on. Ctrl-C or SIGTERM: requests in progress are answered, then it ends.

    crossfm serve ratings.crossfm --items films.csv
    crossfm serve clicks.crossfm --host 0.0.0.0 --token-file secret.txt
    """
    if log_level not in LEVELS:
        usage_error(f"--log is {log_level!r}, expected one of {', '.join(LEVELS)}")
    if most_mb <= 0 or seconds <= 0:
        usage_error("--max-mb and --timeout are numbers above 0")
    from crossfm.errors import DataError
    from crossfm.serving import Limits, Settings, expect_extra

    expect_extra()
    try:
        token = os.environ.get("CROSSFM_TOKEN") if token_file is None else token_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the token from {token_file}: {error}") from error
    names = None
    if item_fields is not None:
        names = tuple(name.strip() for name in item_fields.split(",") if name.strip())
    limits = Limits(
        most_k, most_candidates, most_rows, round(most_mb * (1 << 20)), seconds, in_flight
    )
    settings = Settings(
        model, items, names, id, host, port, token.strip() if token else None, limits, poll, threads
    )
    from crossfm.serving.logs import log_to_stderr
    from crossfm.serving.running import serve as run

    log_to_stderr(log_level)
    if token is None and not settings.is_local:
        typer.echo(
            f"crossfm: anyone who reaches {host} can ask; --token-file sets a token", err=True
        )
    run(settings, told=lambda url: typer.echo(f"crossfm: {model.name} at {url}", err=True))
