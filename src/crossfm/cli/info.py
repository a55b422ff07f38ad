"""``crossfm info``: what a model file holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossfm.cli.errors import Debug, guarded
from crossfm.cli.format import a_count, a_rate, a_size, a_time, a_value, plural
from crossfm.cli.output import Json, Screen
from crossfm.cli.sampling import Drawn, drawn

if TYPE_CHECKING:
    from crossfm.store import StoredModel

__all__ = ["info"]

SHOWN = 8  # epochs of a longer history
OURS = ("epoch", "loss", "seconds", "rows_per_second")


@guarded
def info(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model file.", show_default=False)
    ],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a model file holds: fields, features, parameters, training.

    The whole file is read, and its checksums are checked.

    crossfm info ratings.crossfm
    crossfm info ratings.crossfm --json
    """
    from crossfm.store import load_model

    stored = load_model(model)
    draws = _draws(model, stored.metadata)
    told = _told(model, stored, draws)
    screen = Screen(as_json=json)
    screen.object(told)
    screen.result(_facts(told, draws))
    schema = stored.models[0].schema
    if schema is not None:
        from crossfm.data.show import HEADER, schema_rows

        rows = [row[:4] for row in schema_rows(schema) if row[1] != "left out"]
        screen.result_line()
        screen.result_table(HEADER[:4], rows, right=("distinct",))
    history = told["history"]
    if history:
        screen.result_line()
        _show_history(screen, history, told["best_epoch"], draws)


def _told(path: Path, stored: StoredModel, draws: Drawn | None) -> dict[str, Any]:
    """All of it, for JSON."""
    header, metadata = stored.header, stored.metadata
    m, n, k = header.n_models, header.n_features, header.n_factors
    schema = stored.models[0].schema
    about = metadata.get("about")
    fields = None
    if schema is not None:
        from crossfm.cli.summary import fields_of

        fields = fields_of(schema)
    targets = metadata.get("targets")
    levels = targets.get("levels") if isinstance(targets, dict) else None
    return {
        "model": str(path),
        "model_bytes": path.stat().st_size,
        "format_version": header.format_version,
        "crossfm_version": header.crossfm_version,
        "estimator": metadata.get("estimator"),
        "task": "ordinal" if levels else header.task,
        "classes": targets.get("classes") if isinstance(targets, dict) else None,
        "levels": levels,
        "interactions": header.interactions,
        "n_models": m,
        "n_features": n,
        "n_factors": k,
        "n_parameters": m * (n * (k + 1) + 1),
        "precision": header.precision,
        "fields": fields,
        "parameters": metadata.get("parameters"),
        "about": about if isinstance(about, dict) else {},
        "best_epoch": metadata.get("best_epoch"),
        "sampling": None if draws is None else draws.told(),
        "history": metadata.get("history") or [],
    }


def _draws(path: Path, metadata: Mapping[str, Any]) -> Drawn | None:
    """What sweeps have left, where the model is of such."""
    if metadata.get("draws") is None:
        return None
    from crossfm.estimators import load

    return drawn(load(path))


def _facts(told: dict[str, Any], draws: Drawn | None) -> list[tuple[str, str]]:
    about = told["about"]
    task = told["task"]
    if about.get("target"):
        task += f" of {about['target']}"
    if told["classes"]:
        classes = [repr(label) for label in told["classes"]]
        more = f" and {len(classes) - 6} more" if len(classes) > 6 else ""
        task += f", classes {', '.join(classes[:6])}{more}"
    if told["levels"]:
        lowest, *_, highest = told["levels"]
        task += f", {len(told['levels'])} levels from {lowest:g} to {highest:g}"
    each = ""
    if draws is None and told["n_models"] > 1:
        each = f" for each of {told['n_models']} classes"
    elif draws is not None and draws.n_draws > 1:
        each = f" for each of {draws.n_draws:,} draws"
    elif told["n_models"] > 1:
        each = ", a mean and a variance each"
    facts = [
        ("model", f"{told['model']}, {a_size(told['model_bytes'])}, checksums good"),
        (
            "format",
            f"version {told['format_version']}, written by crossfm {told['crossfm_version']}",
        ),
        ("task", task),
        (
            "parameters",
            f"{a_count(told['n_parameters'])}, {told['precision']}: {told['n_features']:,}"
            f" features, {told['n_factors']} factors{each}",
        ),
        ("interactions", told["interactions"].replace("_", " ")),
    ]
    options = told["parameters"] or {}
    if draws is not None:
        facts += [("solver", f"{draws.method}, {plural(draws.n_sweeps, 'sweep')}"), *draws.facts()]
    elif "solver" in options:
        rate = options.get("learning_rate")
        facts.append(("solver", options["solver"] + (f", learning rate {rate:g}" if rate else "")))
    if about.get("n_rows"):
        data = ", ".join(about.get("data") or [])
        valid = about.get("n_valid_rows")
        checked = f", {a_count(valid)} to validate" if valid else ""
        took = f", in {a_time(about['seconds'])}" if about.get("seconds") else ""
        facts.append(("trained on", f"{data}: {a_count(about['n_rows'])} rows{checked}{took}"))
    return facts


def _show_history(
    screen: Screen, history: list[dict[str, Any]], best: int | None, draws: Drawn | None
) -> None:
    """A row an epoch or sweep; of a long history the first, the best, the last and some between."""
    names = [name for name in history[-1] if name not in OURS]
    n = len(history)
    picked = set(range(n))
    if n > SHOWN:
        picked = {round(i * (n - 1) / (SHOWN - 2)) for i in range(SHOWN - 1)}
        picked |= {i for i, epoch in enumerate(history) if epoch["epoch"] == best}
    pooled = draws is not None and draws.method == "mcmc"  # of which no sweep is the model
    rows = []
    for i in sorted(picked):
        epoch = history[i]
        rows.append(
            [
                f"{epoch['epoch']}",
                a_value(epoch["loss"]),
                *(a_value(epoch[name]) for name in names),
                a_rate(epoch["rows_per_second"]),
                "kept" if epoch["epoch"] == best and not pooled else "",
            ]
        )
    header = ["epoch" if draws is None else "sweep", "train loss", *names, "speed", ""]
    screen.result_table(header, rows, right=header[:-1])
