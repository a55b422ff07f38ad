"""``crossfm fit``: files in, a trained and saved model out. Its options; training.py does it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crossfm.cli.columns import Wanted
from crossfm.cli.errors import Debug, guarded, usage_error
from crossfm.cli.output import Json, Quiet, Screen
from crossfm.cli.sampling import SWEEPS, check_foreign, is_sweeping, read_burn_in, read_keep

__all__ = ["fit"]

COLUMNS, TRAINING, VALIDATION = "Columns", "Training", "Validation"
SAMPLING = "Sampling"
LARGE = "Larger than memory, longer than patience"
ONLINE = "Online"
TASKS = ("auto", "regression", "classification", "ordinal")
LOSSES = ("squared", "huber", "poisson", "quantile", "logistic", "hinge")
KINDS = ("fm", "ffm", "fwfm", "fmfm", "hofm")
SOLVERS = ("adagrad", "rowwise_adagrad", "sgd", "ftrl", "adam", *SWEEPS)
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
        _option(
            TRAINING,
            "TASK",
            "regression, classification, or ordinal (ratings as ordered levels, by sampling); else"
            " the target tells.",
        ),
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
        int | None, _option(TRAINING, "N", "Passes over the rows, or sweeps, at most.", min=1)
    ] = None,
    learning_rate: Annotated[float | None, _option(TRAINING, "X", "Size of the steps.")] = None,
    l2_linear: Annotated[
        str | None,
        _option(TRAINING, "X", "Penalty of linear weights: a number, 'user:0.1,*:0.01', adaptive."),
    ] = None,
    l2_factors: Annotated[
        str | None, _option(TRAINING, "X", "Penalty of the factors, in the same forms.")
    ] = None,
    l2_scaling: Annotated[
        float | None,
        _option(TRAINING, "X", "With what power of a feature's count its penalty grows."),
    ] = None,
    min_count_factors: Annotated[
        int | None,
        _option(TRAINING, "N", "Features have factors once they were seen so often.", min=1),
    ] = None,
    solver: Annotated[
        str | None,
        _option(
            TRAINING,
            "NAME",
            "adagrad (where left out), rowwise_adagrad, sgd, ftrl or adam; or by sweeps mcmc (Gibbs"
            " sampling), vb (variational Bayes) or als.",
        ),
    ] = None,
    interactions: Annotated[
        str | None,
        _option(TRAINING, "WHICH", "all features meet, or those across_fields only."),
    ] = None,
    jobs: Annotated[
        int | None, _option(TRAINING, "N", "Threads; -1: all cores.", "--jobs", "-j", min=-1)
    ] = None,
    seed: Annotated[int, _option(TRAINING, "N", "Of every random choice.", min=0)] = 0,
    burn_in: Annotated[
        str | None,
        _option(
            SAMPLING, "N|SHARE", "Sweeps at the start that are not kept: 50, or 0.25; else a tenth."
        ),
    ] = None,
    chains: Annotated[
        int | None, _option(SAMPLING, "N", "Independent runs, whose draws are pooled.", min=1)
    ] = None,
    keep: Annotated[
        str | None,
        _option(
            SAMPLING,
            "N|all|mean",
            "Draws of each chain in the model, evenly spaced; else all; or their mean alone.",
        ),
    ] = None,
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
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Learn from rows as they come: new files of a folder, lines of a file that grows,"
            " or of stdin (-).",
            rich_help_panel=ONLINE,
        ),
    ] = False,
    snapshot_every: Annotated[
        str | None,
        _option(ONLINE, "WHEN", "Write the model after so long (60s, 5m) or so many rows (50000)."),
    ] = None,
    delta: Annotated[
        bool,
        typer.Option(
            "--delta",
            help="Snapshots hold changed rows only, in files beside the model.",
            rich_help_panel=ONLINE,
        ),
    ] = False,
    half_life: Annotated[
        float | None,
        _option(ONLINE, "ROWS", "Rows after which one counts for half in what is told; 100000."),
    ] = None,
    idle: Annotated[
        float | None,
        _option(ONLINE, "SECONDS", "End when nothing has come for so long; else never.", min=0.0),
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
    Solvers that sweep train on all rows and to their end, unless told otherwise.
    Ctrl-C keeps the last full epoch, or the draws so far. A model that is there already is
    replaced when the new one is whole, and not before. With --follow training goes on from it,
    until Ctrl-C.

    crossfm fit ratings.csv --target rating --model ratings.crossfm
    crossfm fit clicks/ -t click -m clicks.crossfm --valid-data monday.csv
    crossfm fit films.csv -t stars -m films.crossfm --drop title --bag 'tags:|'
    crossfm fit train.libsvm -m small.crossfm --factors 8 --metric auc
    crossfm fit ratings.csv -t rating -m ratings.crossfm --solver mcmc --epochs 200 --chains 2
    crossfm fit year/ -t click -m clicks.crossfm --stream --checkpoint clicks.checkpoint
    crossfm fit incoming/ -t click -m clicks.crossfm --follow --snapshot-every 5m
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
    penalties = {
        "l2_linear": _penalty("--l2-linear", l2_linear),
        "l2_factors": _penalty("--l2-factors", l2_factors),
    }
    check_foreign(
        solver,
        task,
        {"--burn-in": burn_in, "--chains": chains, "--keep": keep, "--loss": loss, "--kind": kind,
         "--learning-rate": learning_rate, "--l2-linear": penalties["l2_linear"],
         "--l2-factors": penalties["l2_factors"], "--l2-scaling": l2_scaling,
         "--min-count-factors": min_count_factors, "--patience": patience,
         "--stream": stream or None, "--cache-dir": cache_dir, "--checkpoint": checkpoint,
         "--follow": follow or None},
    )  # fmt: skip
    sampling = {"burn_in": read_burn_in(burn_in), "n_chains": chains, "keep": read_keep(keep)}
    parameters = {
        "loss": loss,
        "quantile": quantile,
        "kind": kind,
        "epsilon": epsilon,
        "n_factors": factors,
        "n_epochs": epochs,
        "learning_rate": learning_rate,
        **penalties,
        "l2_scaling": l2_scaling,
        "min_count_factors": min_count_factors,
        "solver": solver,
        "interactions": interactions,
        "n_jobs": jobs,
        "patience": patience,
        "random_state": seed,
    }
    from crossfm.cli.training import Order, train

    order = Order(
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
        stream=False if is_sweeping(parameters, task) else stream,
        cache_dir=cache_dir,
        checkpoint=checkpoint,
        sampling={name: value for name, value in sampling.items() if value is not None},
    )
    screen = Screen(as_json=json, quiet=quiet)
    if not follow:
        online = {"--snapshot-every": snapshot_every, "--delta": delta or None,
                  "--half-life": half_life, "--idle": idle}  # fmt: skip
        _refuse(online, "goes with --follow")
        train(order, screen)
        return
    offline = {"--epochs": epochs, "--patience": patience, "--valid": valid,
               "--valid-data": valid_data, "--metric": metric or None, "--stream": stream,
               "--cache-dir": cache_dir, "--checkpoint": checkpoint}  # fmt: skip
    _refuse(offline, "does not go with --follow, which sees each row once")
    if len(data) != 1:
        usage_error("--follow takes one folder, one file, or - for stdin")
    if half_life is not None and not 0 < half_life < float("inf"):
        usage_error(f"--half-life is {half_life:g}, expected a number of rows above 0")
    from crossfm.cli.follow import Following
    from crossfm.cli.follow import follow as learn_on

    seconds, rows = _every(snapshot_every or "60s")
    learn_on(order, Following(seconds, rows, half_life or 100_000.0, idle, delta), screen)


def _refuse(options: dict[str, Any], why: str) -> None:
    for option, value in options.items():
        if value is not None:
            usage_error(f"{option} {why}")


def _penalty(option: str, text: str | None) -> float | str | dict[str, float] | None:
    """A number, "adaptive", or a number for each field.

    >>> _penalty("--l2-factors", "0.5"), _penalty("--l2-factors", "user:0.1,*:0.01")
    (0.5, {'user': 0.1, '*': 0.01})
    """
    if text is None or text == "adaptive":
        return text
    try:
        if ":" not in text:
            return float(text)
        pairs = [part.rpartition(":") for part in text.split(",")]
        return {name.strip(): float(number) for name, _, number in pairs}
    except ValueError:
        usage_error(
            f"{option} is {text!r}, expected a number, numbers by field as in user:0.1,*:0.01,"
            " or adaptive"
        )


def _every(text: str) -> tuple[float | None, int | None]:
    """Seconds, or rows.

    >>> _every("5m"), _every("50000")
    ((300.0, None), (None, 50000))
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf") or (not unit and (value < 1 or value != int(value))):
        usage_error(
            f"--snapshot-every is {text!r}, expected a time such as 60s, 5m or 1h, or a number of"
            " rows such as 50000"
        )
    return (value * units[unit], None) if unit else (None, int(value))
