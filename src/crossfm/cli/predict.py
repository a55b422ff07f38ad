"""``crossfm predict``: rows in, predictions out, batch by batch."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from crossfm.cli.errors import Debug, guarded, usage_error
from crossfm.cli.output import Json, Quiet, Screen

__all__ = ["What", "predict"]


class What(Enum):
    """Which numbers are written."""

    USUAL = "predictions, and the probabilities of classes"
    PROBABILITIES = "probabilities alone"
    RAW = "raw scores"


@guarded
def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A file that fit wrote.", show_default=False)
    ],
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA",
            help="Rows: files of the kind that the model was fitted on.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="NAME.parquet, .csv or .tsv (also .gz, .zst); or -, CSV to standard output.",
        ),
    ],
    proba: Annotated[
        bool, typer.Option("--proba", help="Probabilities alone, without the label.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Raw scores: log odds, for classes.")] = False,
    std: Annotated[
        bool,
        typer.Option(
            "--std", help="Add the deviation of what may be observed, of numbers by mcmc or vb."
        ),
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval",
            metavar="SHARE",
            help="Add low and high, between which an observation lies with this probability: 0.9.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="NAMES", help="Columns to copy to the output: user,item."),
    ] = None,
    batch_rows: Annotated[
        int, typer.Option("--batch-rows", metavar="N", help="Rows at a time.", min=1)
    ] = 65_536,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a prediction for each row, in the order of the rows.

    A regression writes the column prediction; two classes prediction (the label) and probability
    (of the second class); more classes a probability_CLASS for each. A model of the hinge loss has
    scores in their place. Ordered levels have the expected one, and with --proba a
    probability_LEVEL for each. Any number of rows goes through in little memory, and the output
    appears whole or not at all.

    crossfm predict ratings.crossfm test.csv --out scores.parquet
    crossfm predict clicks.crossfm test.parquet --out scores.csv --proba --keep user,ad
    crossfm predict ratings.crossfm test.csv --out scores.csv --std --interval 0.9
    crossfm predict clicks.crossfm test.csv --out - | head
    """
    if proba and raw:
        usage_error("--proba and --raw: give one of them")
    if (proba or raw) and (std or interval is not None):
        usage_error("--std and --interval are of predictions; leave --proba and --raw out")
    if interval is not None and not 0 < interval < 1:
        usage_error(f"--interval is {interval:g}, expected a probability above 0 and below 1")
    if json and out == "-":
        usage_error("--json and --out - both want the standard output; write to a file")
    what = What.PROBABILITIES if proba else What.RAW if raw else What.USUAL
    from crossfm.cli.writing import write_predictions

    names = [n.strip() for text in keep or () for n in text.split(",") if n.strip()]
    screen = Screen(as_json=json, quiet=quiet)
    write_predictions(model, data, out, what, names, batch_rows, screen, std, interval)
