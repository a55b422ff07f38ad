"""What ``crossfm fit`` says of its data before the training, and of the model after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from crossfm.cli.format import a_rate, a_size, a_time, a_value, plural
from crossfm.cli.output import Screen
from crossfm.cli.sampling import drawn
from crossfm.cli.task import Task

if TYPE_CHECKING:
    from crossfm.cli.training import Given, Order
    from crossfm.data.schema import Schema

__all__ = ["fields_of", "show_data", "show_schema", "sum_up"]


def show_data(screen: Screen, order: Order, given: Given) -> None:
    """Files, target, validation and fields, on the way."""
    wanted, task, valid, schema = given.wanted, given.task, given.valid, given.shown
    names = ", ".join(path.name or str(path) for path in order.data[:3])
    names += f" and {len(order.data) - 3} more" if len(order.data) > 3 else ""
    how = ", read block by block from a cache on disk" if given.streamed else ""
    facts = [
        ("data", f"{names}: {plural(given.n_rows, 'row')}{how}"),
        ("target", f"{wanted.target or 'first word of a line'}: {task.kind} ({task.reason})"),
    ]
    if order.valid_data is not None and valid is not None:
        facts.append(("validation", f"{order.valid_data.name}: {plural(len(valid), 'row')}"))
    elif valid is not None:
        hint = "" if order.valid is not None else " (--valid 0 trains on all)"
        facts.append(("validation", f"{plural(len(valid), 'row')} held out at random{hint}"))
    screen.facts(facts)
    if schema is not None:
        show_schema(screen, schema)
    screen.note()


def show_schema(screen: Screen, schema: Schema) -> None:
    """A table of the fields."""
    from crossfm.data.show import HEADER, schema_rows

    screen.note()
    screen.table(
        HEADER,
        schema_rows(schema),
        right=("distinct",),
        footer=f"{plural(len(schema.fields), 'field')}, {schema.n_features_:,} features",
    )


def sum_up(
    screen: Screen,
    order: Order,
    estimator: Any,
    task: Task,
    about: Mapping[str, Any],
    interrupted: bool,
    measured: Mapping[str, float],
) -> None:
    """Metrics, epochs, speed and the file: the result; `measured` instead of an epoch's metrics."""
    history = estimator.history_
    best = estimator.best_epoch_
    kept = next((epoch for epoch in history if epoch["epoch"] == best), history[-1])
    ours = ("epoch", "loss", "seconds", "rows_per_second")
    metrics = {name: value for name, value in kept.items() if name not in ours} | dict(measured)
    trained = sum(epoch["seconds"] for epoch in history)
    draws = drawn(estimator)
    n_chains = 1 if draws is None else draws.n_chains
    rate = len(history) * about["n_rows"] * n_chains / max(trained, 1e-9)
    of = int(estimator.n_epochs)
    stopped = "interrupted" if interrupted else "early" if len(history) < of else "n_epochs"
    size = order.model.stat().st_size
    one = estimator.draws_[0] if draws is not None and draws.n_draws else estimator.models_[0]
    n_features, n_factors = one.n_features, one.n_factors

    reason = {"early": ", stopped early", "interrupted": ", interrupted", "n_epochs": ""}[stopped]
    facts = [(name, a_value(value)) for name, value in metrics.items()]
    if not metrics:
        facts.append(("train loss", a_value(kept["loss"])))
    what = "epoch" if draws is None else "sweep"
    kept_words = f", kept {what} {best}" if best != len(history) else ""
    facts += [
        ("epochs" if draws is None else "sweeps", f"{len(history)} of {of}{reason}{kept_words}"),
        *([] if draws is None else draws.facts()),
        ("time", f"{a_time(about['seconds'])}, {a_time(trained)} of it training"),
        ("speed", a_rate(rate)),
        ("model", f"{order.model}, {a_size(size)}: {n_features:,} features, {n_factors} factors"),
    ]
    if not screen.quiet:
        screen.note()
        screen.result(facts)
    schema = estimator.schema_
    unseen = {} if schema is None or about["n_valid_rows"] == 0 else schema.unseen_
    screen.object(
        {
            "model": str(order.model),
            "model_bytes": size,
            "task": task.kind,
            "task_reason": task.reason,
            "target": about["target"],
            "classes": getattr(estimator, "classes_", np.array([])).tolist() or None,
            "levels": getattr(estimator, "levels_", np.array([])).tolist() or None,
            "n_rows": about["n_rows"],
            "n_valid_rows": about["n_valid_rows"],
            "n_features": n_features,
            "n_factors": n_factors,
            "fields": None if schema is None else fields_of(schema),
            "metrics": metrics,
            "unseen": {name: counts._asdict() for name, counts in unseen.items()},
            "epochs": len(history),
            "best_epoch": best,
            "stopped": stopped,
            "sampling": None if draws is None else draws.told(),
            "seconds": about["seconds"],
            "rows_per_second": rate,
            "history": history,
        }
    )


def fields_of(schema: Schema) -> list[dict[str, Any]]:
    """The fields of a fitted schema, for JSON."""
    from crossfm.data.show import schema_rows

    found = []
    for (name, kind, encoding, _, why), field in zip(
        schema_rows(schema), schema.fields, strict=False
    ):
        found.append(
            {
                "name": name,
                "kind": kind,
                "encoding": encoding,
                "n_features": len(schema.block(field.name)),
                "why": why or None,
            }
        )
    return found
