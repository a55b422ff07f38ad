"""What ``crossfm fit`` does: read, choose, show, train, save, sum up."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from crossfm.cli.columns import Wanted
from crossfm.cli.errors import ExitCode, usage_error
from crossfm.cli.examples import Examples, column_names, read_table, read_text, split
from crossfm.cli.format import plural
from crossfm.cli.output import Screen
from crossfm.cli.progress import FitProgress
from crossfm.cli.sampling import drawn, is_sweeping, sampling_of
from crossfm.cli.summary import show_data, sum_up
from crossfm.cli.task import Task, choose_task
from crossfm.errors import DataError, ModelFileError

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = [
    "Order", "asked_task", "check_metrics", "check_parameters", "check_writable", "estimator_class",
    "train",
]  # fmt: skip

MANY_ROWS = 10_000  # from here on a tenth is held out, unless told otherwise
SHARE = 0.1
OF_LOSS = ("loss", "quantile", "epsilon")
NAMES = {"fm": "FM", "ffm": "FFM", "fwfm": "FwFM", "fmfm": "FmFM", "hofm": "HOFM"}  # of estimators
USUAL_LOSSES = ("squared", "logistic")  # others are judged by a metric of their own
OF_CLASSES = ("auc", "grouped_auc")  # of scores in the right order, but of two classes


@dataclass(frozen=True)
class Order:
    """What the command line asks for.

    Attributes:
        data: files and folders.
        model: the file to write.
        wanted: columns.
        task: "auto", "regression", "classification" or "ordinal".
        parameters: of the estimator, by its own names; others keep their defaults.
        valid: share of the rows to hold out; None: a tenth of many rows.
        valid_data: file of other rows to validate on.
        metrics: names; the first decides. Empty: those of the task.
        float16: store factors so.
        stream: read block by block; None: where the rows are many.
        cache_dir: folder of the blocks.
        checkpoint: file of a fit under way.
        sampling: of solvers that draw, what was asked for; see `sampling_of`.
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
    stream: bool | None = None
    cache_dir: Path | None = None
    checkpoint: Path | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sweeps(self) -> bool:
        """Whether the solver is one of whole sweeps."""
        return is_sweeping(self.parameters, self.task)

    @property
    def draws(self) -> bool:
        """Whether it is one that draws."""
        return self.sweeps and self.parameters.get("solver", "mcmc") == "mcmc"


@dataclass(frozen=True)
class Given:
    """What a fit is given, from files that were read whole or that are streamed.

    Attributes:
        X, y, weight: for the estimator.
        valid: rows to validate on, or None.
        wanted: columns.
        task: what is to be learned.
        schema: for the estimator; None for text.
        shown: the same, fitted.
        n_rows: rows read; before any were held out.
        n_train: rows to train on; 0: the estimator holds some out itself.
        n_classes: different targets, where they are labels.
        streamed: whether X are paths.
    """

    X: Any
    y: Any
    weight: Any
    valid: Examples | None
    wanted: Wanted
    task: Task
    schema: Schema | None
    shown: Schema | None
    n_rows: int
    n_train: int
    n_classes: int
    streamed: bool = False


def train(order: Order, screen: Screen) -> None:
    """Train as ordered; ends with exit code 130 after an interrupt."""
    started = time.perf_counter()
    check_parameters(order)
    asked = asked_task(order)
    if order.draws:
        _sampling(order)  # refuses before anything is read
    inputs = [*order.data, *filter(None, [order.valid_data])]
    check_writable(order.model, keep=inputs)
    if order.checkpoint is not None:
        check_writable(order.checkpoint, keep=[*inputs, order.model])
    with screen.busy("reading") as say:
        import crossfm.estimators  # noqa: F401 - scikit-learn takes its time

        given = _given(order, asked, say)
    show_data(screen, order, given)

    estimator = _estimator(order, given)
    valid = given.valid
    interrupted = False
    with FitProgress(screen, sweeps=order.sweeps) as progress:
        try:
            estimator.fit(
                given.X,
                given.y,
                sample_weight=given.weight,
                eval_set=None if valid is None else (valid.X, valid.y, valid.weight),
                progress=progress,
            )
        except KeyboardInterrupt:
            if not hasattr(estimator, "history_"):
                raise KeyboardInterrupt(_nothing_yet(order)) from None
            interrupted = True
    seconds = time.perf_counter() - started
    n_train = given.n_train or progress.n_rows
    n_valid = len(valid) if valid is not None else given.n_rows - n_train
    about = {
        "target": given.wanted.target,
        "weight": given.wanted.weight,
        "data": [path.name for path in order.data],
        "n_rows": n_train,
        "n_valid_rows": n_valid,
        "task_reason": given.task.reason,
        "seconds": seconds,
    }
    estimator.save(order.model, precision="float16" if order.float16 else "float32", metadata=about)
    of_draws = _of_draws_kept(order, estimator, valid, screen)
    sum_up(screen, order, estimator, given.task, about, interrupted, of_draws)
    if interrupted:
        screen.warn(f"interrupted: {order.model} holds {_what_is_left(estimator)}")
        if order.checkpoint is not None:
            screen.warn(f"the same command goes on from {order.checkpoint}")
        raise typer.Exit(int(ExitCode.INTERRUPTED))


def _of_draws_kept(
    order: Order, estimator: Any, valid: Examples | None, screen: Screen
) -> dict[str, float]:
    """Metrics of the model where it holds some draws only: those of sweeps are of all draws."""
    if valid is None or order.sampling.get("keep", "all") == "all":
        return {}
    from crossfm.cli.measuring import Collected, values_of
    from crossfm.cli.scoring import Scorer

    scorer = Scorer(order.model, estimator, {})
    truth = scorer.codes(valid.y) if scorer.is_classifier else valid.y
    rows = Collected(truth, scorer.score(valid.X), None, valid.weight, None)
    return values_of(scorer, rows, estimator.eval_metric, screen)


def _what_is_left(estimator: Any) -> str:
    """What an interrupted fit keeps."""
    found = drawn(estimator)
    if found is None:
        return f"the model of epoch {estimator.best_epoch_}"
    if found.method != "mcmc":
        return f"the model of sweep {estimator.best_epoch_}"
    if found.burn_in == found.n_sweeps:
        return "the last draw alone, for the burn-in was not over"
    if found.mean_of:
        return f"the mean of the {plural(found.mean_of, 'draw')} so far"
    return f"the {plural(found.n_draws, 'draw')} so far"


def _nothing_yet(order: Order) -> str:
    of = "sweep" if order.sweeps else "epoch"
    text = f"no {of} was complete, so no model was written"
    if order.checkpoint is not None and order.checkpoint.exists():
        text += f"; the same command goes on from {order.checkpoint}"
    return text


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


def _given(order: Order, asked: str, say: Callable[[str], None]) -> Given:
    """What the options and the files come to."""
    from crossfm.cli.streaming import are_large
    from crossfm.data.inputs import are_tables, paths_of

    paths = paths_of(order.data)
    others = [] if order.valid_data is None else paths_of([order.valid_data])
    tables = are_tables([*paths, *others])
    wanted = _columns(order.wanted, paths, tables)
    if order.stream or (order.stream is None and are_large(paths)):
        return _streamed(order, asked, say, paths, others, wanted, tables)
    examples = read_table(paths, wanted, wanted.types()) if tables else read_text(paths)
    n_read = len(examples)
    valid = _valid(others, wanted, examples.X)
    task = choose_task(examples.y, asked, wanted.target or "the target")
    schema = wanted.schema(examples.X) if tables else None
    if valid is None:
        examples, valid = _hold_out(order, examples, task)
    if schema is not None:
        schema.fit(examples.X)
    return Given(
        examples.X, examples.y, examples.weight, valid, wanted, task, schema, schema, n_read,
        len(examples), len(np.unique(examples.y)),
    )  # fmt: skip


def _streamed(
    order: Order,
    asked: str,
    say: Callable[[str], None],
    paths: Sequence[Path],
    others: Sequence[Path],
    wanted: Wanted,
    tables: bool,
) -> Given:
    """The same, with the rows on disk."""
    from crossfm.cli.streaming import open_stream

    if order.valid and order.parameters.get("patience") == 0:
        usage_error("--patience 0 and --valid: a stream holds rows out to stop by; --valid-data?")
    stream = open_stream(paths, wanted, tables, order.cache_dir, say)
    stream.check_share(order.valid or 0.0)
    valid = _valid(others, wanted, None)
    task = stream.task(asked, wanted.target or "the target")
    return Given(
        stream.X, wanted.target, wanted.weight, valid, wanted, task, stream.schema, stream.fitted,
        len(stream), 0, 0 if stream.labels is None else len(stream.labels), streamed=True,
    )  # fmt: skip


def _columns(wanted: Wanted, paths: Sequence[Path], tables: bool) -> Wanted:
    """The columns, resolved."""
    if not tables:
        if wanted != Wanted():
            usage_error(
                "libsvm and libffm text has no columns by name: leave out --target, --fields and"
                " the like"
            )
        return wanted
    available = column_names(paths[0])
    if wanted.target is None:
        shown = ", ".join(available[:12]) + (", ..." if len(available) > 12 else "")
        usage_error(f"--target is missing: which column is to be learned? There are {shown}")
    return wanted.resolve(available)


def _valid(others: Sequence[Path], wanted: Wanted, X: Any) -> Examples | None:
    """The rows of --valid-data; columns that are text in `X` are so here too."""
    if not others:
        return None
    if wanted.target is None:
        return read_text(others)
    import pyarrow as pa

    text = {}
    if isinstance(X, pa.Table):
        text = {f.name: f.type for f in X.schema if pa.types.is_string(f.type)}
    return read_table(others, wanted, wanted.types() | text)


def _hold_out(order: Order, examples: Examples, task: Task) -> tuple[Examples, Examples | None]:
    """Rows to train on and rows to validate on, if any."""
    share = order.valid
    if share is None:  # sweeps run to their end, unless they are told to stop
        stops = not order.sweeps or order.parameters.get("patience")
        share = SHARE if stops and len(examples) >= MANY_ROWS else 0.0
    if share == 0.0:
        return examples, None
    seed = order.parameters["random_state"]
    return split(examples, share, seed, by_class=task.kind != "regression")


# --- the estimator ----------------------------------------------------------------------------


def check_parameters(order: Order) -> None:
    """Refuse parameters that no solver takes, and metrics that do not exist, as wrong use."""
    from crossfm.metrics import get_metric
    from crossfm.solvers import solver_options

    given = {
        name: value
        for name, value in order.parameters.items()
        if name not in ("solver", "n_epochs", "patience", "random_state", "kind", *OF_LOSS)
        and not isinstance(value, dict)
        and value != "adaptive"  # these need the fields: the estimator checks them
    }
    solver = order.parameters.get("solver", "adagrad")
    if order.sweeps:  # what is left to check there are the threads; both read them alike
        solver, given = "sgd", {name: given[name] for name in given if name == "n_jobs"}
    try:
        solver_options(solver, **given)
    except ValueError as error:
        usage_error(str(error))
    for name in order.metrics:
        try:
            metric = get_metric(name)
        except DataError as error:
            usage_error(f"--metric: {error}")
        if metric.name == "grouped_auc":
            usage_error("--metric grouped_auc needs groups; crossfm evaluate has --group")


def asked_task(order: Order) -> str:
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


def estimator_class(kind: str, task: str) -> Any:
    """The estimator for --kind and a task."""
    from crossfm import estimators

    if task == "ordinal":
        return estimators.OrdinalFMRegressor
    of_classes = task == "classification"
    return getattr(estimators, NAMES[kind] + ("Classifier" if of_classes else "Regressor"))


def check_metrics(option: str, names: Sequence[str], classes: bool) -> None:
    """Refuse metrics of numbers for classes, and of classes for numbers."""
    from crossfm.metrics import get_metric

    for name in names:
        if classes and get_metric(name).needs == "value":
            usage_error(f"{option} {name} is for numbers, and classes are predicted")
        if not classes and (get_metric(name).needs == "probability" or name in OF_CLASSES):
            usage_error(f"{option} {name} is for classes, and numbers are predicted")


def _estimator(order: Order, given: Given) -> Any:
    of_classes = given.task.kind == "classification"
    parameters = dict(order.parameters)
    kind = estimator_class(parameters.pop("kind", "fm"), given.task.kind)
    if order.sweeps:
        patient = bool(parameters.get("patience"))
        _check_classes(order, given)
    else:
        patient = parameters.get("patience") != 0
    if not patient:
        parameters.pop("patience", None)
    metrics = list(order.metrics)
    check_metrics("--metric", metrics, of_classes)
    stops: bool | str = given.valid is not None and patient
    if given.streamed:  # the estimator holds blocks out itself
        parameters |= {"stream": True, "cache_dir": order.cache_dir}
        if given.valid is None and order.valid != 0.0 and patient:
            stops = "auto" if order.valid is None else True
            parameters["validation_fraction"] = order.valid or SHARE
    else:
        parameters["stream"] = False
    if not metrics and (given.valid is not None or stops) and (
        parameters.get("loss", "squared") in USUAL_LOSSES
    ):  # fmt: skip
        metrics = ["log_loss"] if of_classes else ["rmse", "mae"]
        if of_classes and given.n_classes == 2:
            metrics.append("auc")
    parameters |= {"early_stopping": stops, "checkpoint": order.checkpoint}
    if order.draws:
        parameters["sampling"] = _sampling(order)
    if given.task.kind == "ordinal":
        for name in ("solver", "stream", "early_stopping", "checkpoint"):
            parameters.pop(name, None)
    return kind(schema=given.schema, eval_metric=metrics or None, verbose=0, **parameters)


def _sampling(order: Order) -> Any:
    """What is drawn and kept, over as many sweeps as there will be."""
    kind = estimator_class("fm", order.task)
    return sampling_of(order.sampling, order.parameters.get("n_epochs") or kind().n_epochs)


def _check_classes(order: Order, given: Given) -> None:
    """Refuse more than two classes, which sweeps do not take."""
    if given.task.kind == "classification" and given.n_classes > 2:
        raise DataError(
            f"{given.wanted.target or 'the target'} holds {given.n_classes} classes, and --solver"
            f" {order.parameters['solver']} is for two; take another solver, or --task ordinal for"
            " numbers in an order, such as ratings"
        )
