"""``crossfm recommend``: the best items of a catalogue, for a query or a file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossfm.cli.errors import Debug, guarded, usage_error
from crossfm.cli.output import Json, Quiet, Screen

__all__ = ["recommend"]


@guarded
def recommend(
    context: typer.Context,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A file that fit wrote.", show_default=False)
    ],
    items: Annotated[
        Path,
        typer.Option(
            "--items",
            metavar="FILE",
            help="The catalogue: Parquet or CSV, a row an item.",
            show_default=False,
        ),
    ],
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries",
            metavar="FILE",
            help="Many queries: Parquet or CSV with the query's columns; goes with --out.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", metavar="N", help="Items a query.", min=1)] = 10,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="IDS", help="Ids to leave out: 12,57."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="IDS", help="Ids to choose from.")
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
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="NAME.parquet, .csv or .tsv; or -, CSV to standard output.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Name the items of the highest predictions, out of all of a catalogue.

    The query is given by the names of its fields: --user 42 --hour 20, several values of a bag
    with commas between. A field that is not given is missing, and counts as an unknown value. Of
    a classifier the probability of the second class is shown.

    crossfm recommend ratings.crossfm --items films.csv --user 42
    crossfm recommend ratings.crossfm --items films.csv --user 42 -k 5 --exclude 50,181
    crossfm recommend ratings.crossfm --items films.csv --queries users.csv --out best.parquet
    """
    if queries is not None and context.args:
        usage_error(f"{context.args[0]} and --queries: give the one query, or the file of them")
    if (queries is None) != (out is None):
        usage_error("--queries and --out go together: many queries are written to a file")
    if json and out == "-":
        usage_error("--json and --out - both want the standard output; write to a file")
    from crossfm.cli.recommending import recommend_many, recommend_one
    from crossfm.serving.settings import Settings

    names = None if item_fields is None else tuple(_parted([item_fields]))
    settings = Settings(model, items, names, id)
    screen = Screen(as_json=json, quiet=quiet)
    choice = _parted(exclude), None if only is None else _parted(only)
    if queries is None:
        recommend_one(settings, context.args, k, *choice, screen)
    else:
        assert out is not None
        recommend_many(settings, queries, k, *choice, out, screen)


def _parted(texts: list[str] | None) -> list[str]:
    """Texts with commas between, one or several times."""
    return [part.strip() for text in texts or () for part in text.split(",") if part.strip()]
