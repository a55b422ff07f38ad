"""What ``crossfm fit`` does: read, choose, show, train, save, sum up."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from crossfm.cli.columns import Wanted
from crossfm.cli.errors import ExitCode, usage_error
from crossfm.cli.examples import Examples, column_names, read_table, read_text, split
from crossfm.cli.format import a_rate, a_size, a_time, a_value, plural
from crossfm.cli.output import Screen
from crossfm.cli.progress import FitProgress
from crossfm.cli.task import Task, choose_task
from crossfm.errors import DataError, ModelFileError

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["Order", "check_metrics", "check_writable", "train"]

MANY_ROWS = 10_000  # from here on a tenth is held out, unless told otherwise
SHARE = 0.1
OF_LOSS = ("loss", "quantile", "epsilon")
USUAL_LOSSES = ("squared", "logistic")  # others are judged by a metric of their own
OF_CLASSES = ("auc", "grouped_auc")  # of scores in the right order, but of two classes


@dataclass(frozen=True)
class Order:
    """What the command line asks for.

    Attributes:
        data: files and folders.
        model: the file to write.
        wanted: columns.
        task: "auto", "regression" or "classification".
        parameters: of the estimator, by its own names; others keep their defaults.
        valid: share of the rows to hold out; None: a tenth of many rows.
        valid_data: file of other rows to validate on.
        metrics: names; the first decides. Empty: those of the task.
        float16: store factors so.
    """

    data: Sequence[Path]
    model: Path
    wanted: Wanted
    task: str
    parameters: Mapping[str, Any]
    valid: float | None
    valid_data: Path | None
    metrics: Sequence[str]
    float16: bool


def train(order: Order, screen: Screen) -> None:
    """Train as ordered; ends with exit code 130 after an interrupt."""
    started = time.perf_counter()
    _check_parameters(order)
    asked = _asked(order)
    check_writable(order.model, keep=[*order.data, *filter(None, [order.valid_data])])
    with screen.busy("reading"):
        import crossfm.estimators  # noqa: F401 - scikit-learn takes its time

        examples, valid, wanted = _read(order)
        task = choose_task(examples.y, asked, wanted.target or "the target")
        schema = wanted.schema(examples.X) if wanted.target is not None else None
        n_read = len(examples)
        if valid is None:
            examples, valid = _hold_out(order, examples, task)
        if schema is not None:
            schema.fit(examples.X)
    _show_data(screen, order, wanted, task, n_read, valid, schema)

    estimator = _estimator(order, task, schema, valid)
    interrupted = False
    with FitProgress(screen) as progress:
        try:
            estimator.fit(
                examples.X,
                examples.y,
                sample_weight=examples.weight,
                eval_set=None if valid is None else (valid.X, valid.y, valid.weight),
                progress=progress,
            )
        except KeyboardInterrupt:
            if not hasattr(estimator, "history_"):
                raise KeyboardInterrupt("no epoch was complete, so no model was written") from None
            interrupted = True
    seconds = time.perf_counter() - started
    about = {
        "target": wanted.target,
        "weight": wanted.weight,
        "data": [path.name for path in order.data],
        "n_rows": len(examples),
        "n_valid_rows": 0 if valid is None else len(valid),
        "task_reason": task.reason,
        "seconds": seconds,
    }
    estimator.save(order.model, precision="float16" if order.float16 else "float32", metadata=about)
    _sum_up(screen, order, estimator, task, about, interrupted)
    if interrupted:
        screen.warn(f"interrupted: {order.model} holds the model of epoch {estimator.best_epoch_}")
        raise typer.Exit(int(ExitCode.INTERRUPTED))


def check_writable(path: Path, keep: Sequence[Path] = ()) -> None:
    """Refuse, before any work is done, a file that could not be written after it.

    Args:
        path: what is to be written.
        keep: files that it must not replace: those that are read.

    Raises:
        ModelFileError: a folder of that name, no folder to put it in, or one that refuses.
        DataError: it is one of `keep`.
    """
    for other in keep:
        if path.exists() and other.exists() and path.samefile(other):
            raise DataError(f"{path} is to be read and to be written; name another file to write")
    if path.is_dir():
        raise ModelFileError(f"cannot write {path}: it is a folder; name a file in it")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise ModelFileError(f"cannot write {path}: there is no folder {folder}; make it first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ModelFileError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that takes files"
        ) from error


# --- reading ----------------------------------------------------------------------------------


def _read(order: Order) -> tuple[Examples, Examples | None, Wanted]:
    """The rows, those of --valid-data, and the columns, resolved."""
    from crossfm.data.inputs import are_tables, paths_of

    paths = paths_of(order.data)
    others = [] if order.valid_data is None else paths_of([order.valid_data])
    wanted = order.wanted
    if not are_tables([*paths, *others]):
        if wanted != Wanted(wanted.target) or wanted.target is not None:
            usage_error(
                "libsvm and libffm text has no columns by name: leave out --target, --fields and"
                " the like"
            )
        return read_text(paths), read_text(others) if others else None, wanted
    available = column_names(paths[0])
    if wanted.target is None:
        shown = ", ".join(available[:12]) + (", ..." if len(available) > 12 else "")
        usage_error(f"--target is missing: which column is to be learned? There are {shown}")
    wanted = wanted.resolve(available)
    examples = read_table(paths, wanted, wanted.types())
    valid = None
    if others:
        import pyarrow as pa

        assert isinstance(examples.X, pa.Table)
        text = {f.name: f.type for f in examples.X.schema if pa.types.is_string(f.type)}
        valid = read_table(others, wanted, wanted.types() | text)
    return examples, valid, wanted


def _hold_out(order: Order, examples: Examples, task: Task) -> tuple[Examples, Examples | None]:
    """Rows to train on and rows to validate on, if any."""
    share = order.valid
    if share is None:
        share = SHARE if len(examples) >= MANY_ROWS else 0.0
    if share == 0.0:
        return examples, None
    seed = order.parameters["random_state"]
    return split(examples, share, seed, by_class=task.kind == "classification")


# --- the estimator ----------------------------------------------------------------------------


def _check_parameters(order: Order) -> None:
    """Refuse parameters that no solver takes, and metrics that do not exist, as wrong use."""
    from crossfm.metrics import get_metric
    from crossfm.solvers import solver_options

    given = {
        name: value
        for name, value in order.parameters.items()
        if name not in ("solver", "n_epochs", "patience", "random_state", *OF_LOSS)
    }
    try:
        solver_options(order.parameters.get("solver", "adagrad"), **given)
    except ValueError as error:
        usage_error(str(error))
    for name in order.metrics:
        try:
            metric = get_metric(name)
        except DataError as error:
            usage_error(f"--metric: {error}")
        if metric.name == "grouped_auc":
            usage_error("--metric grouped_auc needs groups; crossfm evaluate has --group")


def _asked(order: Order) -> str:
    """The task that was asked for, by itself or by its loss."""
    loss = order.parameters.get("loss")
    for option, of in (("quantile", "quantile"), ("epsilon", "huber")):
        if option in order.parameters and loss != of:
            usage_error(f"--{option} belongs to --loss {of}")
    if loss is None:
        return order.task
    task = "classification" if loss in ("logistic", "hinge") else "regression"
    if order.task not in ("auto", task):
        usage_error(f"--loss {loss} is for {task}, and --task {order.task} was asked for")
    return task


def check_metrics(option: str, names: Sequence[str], classes: bool) -> None:
    """Refuse metrics of numbers for classes, and of classes for numbers."""
    from crossfm.metrics import get_metric

    for name in names:
        if classes and get_metric(name).needs == "value":
            usage_error(f"{option} {name} is for numbers, and classes are predicted")
        if not classes and (get_metric(name).needs == "probability" or name in OF_CLASSES):
            usage_error(f"{option} {name} is for classes, and numbers are predicted")


def _estimator(order: Order, task: Task, schema: Schema | None, valid: Examples | None) -> Any:
    from crossfm.estimators import FMClassifier, FMRegressor

    kind = FMRegressor if task.kind == "regression" else FMClassifier
    parameters = dict(order.parameters)
    stops = valid is not None and parameters.get("patience") != 0
    if parameters.get("patience") == 0:
        del parameters["patience"]
    metrics = list(order.metrics)
    check_metrics("--metric", metrics, task.kind == "classification")
    if not metrics and valid is not None and parameters.get("loss", "squared") in USUAL_LOSSES:
        metrics = ["rmse", "mae"] if task.kind == "regression" else ["log_loss"]
        if task.kind == "classification" and len(np.unique(valid.y)) == 2:
            metrics.append("auc")
    return kind(
        schema=schema, early_stopping=stops, eval_metric=metrics or None, verbose=0, **parameters
    )


# --- showing ----------------------------------------------------------------------------------


def _show_data(
    screen: Screen,
    order: Order,
    wanted: Wanted,
    task: Task,
    n_read: int,
    valid: Examples | None,
    schema: Schema | None,
) -> None:
    names = ", ".join(path.name or str(path) for path in order.data[:3])
    names += f" and {len(order.data) - 3} more" if len(order.data) > 3 else ""
    facts = [
        ("data", f"{names}: {plural(n_read, 'row')}"),
        ("target", f"{wanted.target or 'first word of a line'}: {task.kind} ({task.reason})"),
    ]
    if order.valid_data is not None and valid is not None:
        facts.append(("validation", f"{order.valid_data.name}: {plural(len(valid), 'row')}"))
    elif valid is not None:
        hint = "" if order.valid is not None else " (--valid 0 trains on all)"
        facts.append(("validation", f"{plural(len(valid), 'row')} held out at random{hint}"))
    screen.facts(facts)
    if schema is not None:
        from crossfm.data.show import HEADER, schema_rows

        screen.note()
        screen.table(
            HEADER,
            schema_rows(schema),
            right=("distinct",),
            footer=f"{plural(len(schema.fields), 'field')}, {schema.n_features_:,} features",
        )
    screen.note()


def _sum_up(
    screen: Screen,
    order: Order,
    estimator: Any,
    task: Task,
    about: Mapping[str, Any],
    interrupted: bool,
) -> None:
    history = estimator.history_
    best = estimator.best_epoch_
    kept = next((epoch for epoch in history if epoch["epoch"] == best), history[-1])
    ours = ("epoch", "loss", "seconds", "rows_per_second")
    metrics = {name: value for name, value in kept.items() if name not in ours}
    trained = sum(epoch["seconds"] for epoch in history)
    rate = len(history) * about["n_rows"] / max(trained, 1e-9)
    of = int(estimator.n_epochs)
    stopped = "interrupted" if interrupted else "early" if len(history) < of else "n_epochs"
    size = order.model.stat().st_size
    n_features, n_factors = estimator.models_[0].factors.shape

    reason = {"early": ", stopped early", "interrupted": ", interrupted", "n_epochs": ""}[stopped]
    facts = [(name, a_value(value)) for name, value in metrics.items()]
    if not metrics:
        facts.append(("train loss", a_value(kept["loss"])))
    kept_words = f", kept epoch {best}" if best != len(history) else ""
    facts += [
        ("epochs", f"{len(history)} of {of}{reason}{kept_words}"),
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
