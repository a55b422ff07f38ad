"""``crossfm explain``: one row's prediction, taken apart into what each feature adds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossfm.cli.errors import Debug, guarded, usage_error
from crossfm.cli.output import Json, Screen

__all__ = ["explain"]

BY = ("term", "feature", "field")


@guarded
def explain(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A file that fit wrote.", show_default=False)
    ],
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A JSON object of column: value (a list or lines of them), - for the standard"
            " input, or a file of the kind that the model was fitted on.",
            show_default=False,
        ),
    ],
    row: Annotated[
        int, typer.Option("--row", "-r", metavar="N", help="Which row, counted from 0.", min=0)
    ] = 0,
    k: Annotated[
        int, typer.Option("-k", metavar="N", help="How many contributions to show.", min=1)
    ] = 10,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="WHAT",
            help="term: features and pairs of them; feature: pairs shared out; field: both summed.",
        ),
    ] = "term",
    label: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="LABEL", help="Of several classes, which; else the predicted one."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw it too: NAME.png, .svg, .pdf, or .html with the numbers beside.",
            show_default=False,
        ),
    ] = None,
    fields: Annotated[
        bool,
        typer.Option(
            "--fields", help="In place of one row: how much fields move the scores of all rows."
        ),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what each feature, and each pair of features, adds to one prediction.

    The contributions sum to the score: the prediction, or the log odds of a class. With --fields
    it is how much each field, and each pair of fields, differs over all rows of the data.

    crossfm explain ratings.crossfm row.json
    crossfm explain ratings.crossfm test.csv --row 17 -k 5
    crossfm explain clicks.crossfm test.parquet --row 17 --by field
    crossfm explain ratings.crossfm test.csv --row 17 --plot why.html
    crossfm explain ratings.crossfm test.csv --fields --plot fields.png
    """
    if by not in BY:
        usage_error(f"--by is {by!r}, expected one of {', '.join(BY)}")
    if fields and (row or by != "term"):
        usage_error("--fields is of all rows; leave --row and --by out")
    from crossfm.cli.explaining import explain_fields, explain_one

    screen = Screen(as_json=json)
    if fields:
        explain_fields(model, data, k, label, plot, screen)
    else:
        explain_one(model, data, row, k, by, label, plot, screen)
