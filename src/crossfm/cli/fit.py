"""``crossfm fit``: files in, a trained and saved model out. Its options; training.py does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crossfm.cli.columns import Wanted
from crossfm.cli.errors import Debug, guarded, usage_error
from crossfm.cli.output import Json, Quiet, Screen

__all__ = ["fit"]

COLUMNS, TRAINING, VALIDATION = "Columns", "Training", "Validation"
LARGE = "Larger than memory, longer than patience"
TASKS = ("auto", "regression", "classification")
LOSSES = ("squared", "huber", "poisson", "quantile", "logistic", "hinge")
KINDS = ("fm", "ffm", "fwfm", "fmfm", "hofm")
SOLVERS = ("adagrad", "sgd", "ftrl", "adam")
INTERACTIONS = ("all", "across_fields")


def _option(panel: str | None, metavar: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(
        *names, metavar=metavar, help=text, rich_help_panel=panel, show_default=False, **more
    )


@guarded
def fit(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA",
            help="Parquet, CSV, TSV, libsvm or libffm files (text also .gz, .zst), or a folder of"
            " them.",
            show_default=False,
        ),
    ],
    model: Annotated[
        Path, _option(None, "FILE", "The file to write, by custom NAME.crossfm.", "--model", "-m")
    ],
    target: Annotated[
        str | None,
        _option(COLUMNS, "NAME", "What to learn. Text formats carry it.", "--target", "-t"),
    ] = None,
    fields: Annotated[
        list[str] | None,
        _option(COLUMNS, "NAMES", "Learn from these only: user,item."),
    ] = None,
    drop: Annotated[list[str] | None, _option(COLUMNS, "NAMES", "Leave these out.")] = None,
    categorical: Annotated[
        list[str] | None, _option(COLUMNS, "NAMES", "These are categories: zip,hour.")
    ] = None,
    numeric: Annotated[
        list[str] | None,
        _option(COLUMNS, "NAMES", "These are numbers: age, or price:log (raw, bucket)."),
    ] = None,
    bag: Annotated[
        list[str] | None,
        _option(COLUMNS, "NAME:SEP", "Several values a row, and what parts them: 'genres:|'."),
    ] = None,
    weight: Annotated[
        str | None, _option(COLUMNS, "NAME", "The column with the weight of each row.")
    ] = None,
    task: Annotated[
        str,
        _option(TRAINING, "TASK", "regression or classification; else the target tells."),
    ] = "auto",
    loss: Annotated[
        str | None,
        _option(
            TRAINING, "NAME", "squared, huber, poisson or quantile; of classes logistic or hinge."
        ),
    ] = None,
    quantile: Annotated[
        float | None, _option(TRAINING, "Q", "Which one, for --loss quantile; else the median.")
    ] = None,
    epsilon: Annotated[
        float | None, _option(TRAINING, "X", "From which deviation on --loss huber is linear.")
    ] = None,
    kind: Annotated[
        str | None,
        _option(
            TRAINING,
            "MODEL",
            "fm (where left out), ffm (field-aware), fwfm (-weighted), fmfm (-matrixed) or hofm"
            " (of order 3).",
        ),
    ] = None,
    factors: Annotated[
        int | None, _option(TRAINING, "N", "Length of each feature's vector.", min=0, max=4096)
    ] = None,
    epochs: Annotated[
        int | None, _option(TRAINING, "N", "Passes over the rows, at most.", min=1)
    ] = None,
    learning_rate: Annotated[float | None, _option(TRAINING, "X", "Size of the steps.")] = None,
    l2_linear: Annotated[float | None, _option(TRAINING, "X", "Penalty of linear weights.")] = None,
    l2_factors: Annotated[float | None, _option(TRAINING, "X", "Penalty of the factors.")] = None,
    solver: Annotated[
        str | None, _option(TRAINING, "NAME", "adagrad (where left out), sgd, ftrl or adam.")
    ] = None,
    interactions: Annotated[
        str | None,
        _option(TRAINING, "WHICH", "all features meet, or those across_fields only."),
    ] = None,
    jobs: Annotated[
        int | None, _option(TRAINING, "N", "Threads; -1: all cores.", "--jobs", "-j", min=-1)
    ] = None,
    seed: Annotated[int, _option(TRAINING, "N", "Of every random choice.", min=0)] = 0,
    valid: Annotated[
        float | None,
        _option(VALIDATION, "SHARE", "Hold out a random share: 0.1. 0: none.", min=0.0, max=0.9),
    ] = None,
    valid_data: Annotated[
        Path | None, _option(VALIDATION, "FILE", "Validate on these rows instead.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        _option(VALIDATION, "NAMES", "auc,log_loss,... The first decides when to stop."),
    ] = None,
    patience: Annotated[
        int | None,
        _option(VALIDATION, "N", "Epochs without progress before it stops. 0: run all.", min=0),
    ] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Read files block by block, from a cache on disk. Else where their rows would"
            " take more than a quarter of the memory.",
            rich_help_panel=LARGE,
            show_default=False,
        ),
    ] = None,
    cache_dir: Annotated[
        Path | None,
        _option(LARGE, "FOLDER", "Of that cache; else .crossfm-cache beside the first file."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        _option(LARGE, "FILE", "Where a fit that is killed keeps its state, and goes on from."),
    ] = None,
    float16: Annotated[
        bool, typer.Option("--float16", help="Store the factors in half the space.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a model and save it.

    Columns become fields by themselves, and what was made of them is shown. With rows held out
    for validation (a tenth of 10,000 rows or more, unless told otherwise) the best epoch is kept.
    Ctrl-C keeps the last full epoch. A model that is there already is replaced when the new one
    is whole, and not before.

    crossfm fit ratings.csv --target rating --model ratings.crossfm
    crossfm fit clicks/ -t click -m clicks.crossfm --valid-data monday.csv
    crossfm fit films.csv -t stars -m films.crossfm --drop title --bag 'tags:|'
    crossfm fit train.libsvm -m small.crossfm --factors 8 --metric auc
    crossfm fit year/ -t click -m clicks.crossfm --stream --checkpoint clicks.checkpoint
    """
    if valid is not None and valid_data is not None:
        usage_error("--valid and --valid-data: give one of them")
    for option, value, choices in (
        ("--task", task, TASKS),
        ("--loss", loss, LOSSES),
        ("--kind", kind, KINDS),
        ("--solver", solver, SOLVERS),
        ("--interactions", interactions, INTERACTIONS),
    ):
        if value is not None and value not in choices:
            usage_error(f"{option} is {value!r}, expected one of {', '.join(choices)}")
    parameters = {
        "loss": loss,
        "quantile": quantile,
        "kind": kind,
        "epsilon": epsilon,
        "n_factors": factors,
        "n_epochs": epochs,
        "learning_rate": learning_rate,
        "l2_linear": l2_linear,
        "l2_factors": l2_factors,
        "solver": solver,
        "interactions": interactions,
        "n_jobs": jobs,
        "patience": patience,
        "random_state": seed,
    }
    from crossfm.cli.training import Order, train

    train(
        Order(
            data=data,
            model=model,
            wanted=Wanted(
                target,
                weight,
                fields or (),
                drop or (),
                categorical or (),
                numeric or (),
                bag or (),
            ),
            task=task,
            parameters={name: value for name, value in parameters.items() if value is not None},
            valid=valid,
            valid_data=valid_data,
            metrics=[m.strip() for text in metric or () for m in text.split(",") if m.strip()],
            float16=float16,
            stream=stream,
            cache_dir=cache_dir,
            checkpoint=checkpoint,
        ),
        Screen(as_json=json, quiet=quiet),
    )
