"""``crossfm fit --follow``: learn from rows as they come, and keep a snapshot for a server."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from crossfm.cli.arriving import FolderSource, LineSource, Source
from crossfm.cli.columns import Wanted
from crossfm.cli.errors import ExitCode, usage_error
from crossfm.cli.format import a_count, a_rate, a_size, a_time, a_value, plural
from crossfm.cli.output import Screen
from crossfm.cli.summary import fields_of, show_schema
from crossfm.cli.task import Task, choose_task, labels_of, target_of
from crossfm.cli.training import (
    Order,
    asked_task,
    check_parameters,
    check_writable,
    estimator_class,
)
from crossfm.data.lines import GrowingFile, LineFormat, Pipe
from crossfm.errors import DataError, ModelFileError, SchemaError

__all__ = ["Following", "follow"]

WAIT = 0.2  # seconds between two looks
MOST_BAD = 10  # batches in sequence that cannot be read
JUDGED = 8192  # rows learned between two looks at what is not learned yet
KEPT = 50  # entries of the history in a snapshot


@dataclass(frozen=True)
class Following:
    """How to follow.

    Attributes:
        seconds: between two snapshots, or None.
        rows: the same in rows, or None.
        half_life: of the running metrics, in rows.
        idle: seconds without rows after which to end; None: never.
        delta: whether snapshots hold changed rows only.
    """

    seconds: float | None
    rows: int | None
    half_life: float
    idle: float | None
    delta: bool


def follow(order: Order, how: Following, screen: Screen) -> None:
    """Learn until the source ends, it is idle for long, or a signal comes.

    SIGINT ends with exit code 130, SIGTERM with 0; both write the last snapshot before.
    """
    check_parameters(order)
    (data,) = order.data
    is_pipe = str(data) == "-"
    if not is_pipe and not data.is_dir() and not data.parent.is_dir():
        raise DataError(f"{data}: no such file, and no folder {data.parent} for it to come to")
    check_writable(order.model, keep=[] if is_pipe else [data])
    with screen.busy("loading"):
        import crossfm.estimators  # noqa: F401 - scikit-learn takes its time
    with _Signals() as signals:
        learner = _Learner(order, how, screen)
        with screen.busy(f"waiting for rows of {'stdin' if is_pipe else data}") as say:
            learner.run(learner.source(data, is_pipe), signals, say)
    learner.sum_up(signals)
    if signals.came == signal.SIGINT:
        raise typer.Exit(int(ExitCode.INTERRUPTED))


class _Signals:
    """While the block runs, SIGINT and SIGTERM are noted; a second one interrupts."""

    def __init__(self) -> None:
        self.came: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came is not None:
            raise KeyboardInterrupt("the last snapshot was not written")
        self.came = number


class _Learner:
    """The estimator, the snapshots, and what is told of both."""

    def __init__(self, order: Order, how: Following, screen: Screen) -> None:
        from crossfm.store import Snapshots

        self.order, self.how, self.screen = order, how, screen
        self.wanted = order.wanted
        self.resolved = False
        self.estimator: Any = None
        self.task: Task | None = None
        self.about: Mapping[str, Any] = {}
        self.running: Any = None
        self.n_rows = self.n_before = self.n_bad = self.n_snapshots = 0
        self.training = 0.0  # seconds
        self.unsaved = 0  # rows
        self.in_deltas = False  # the model file lacks what deltas beside it hold
        self.saved_at = time.monotonic()
        self.refused = False  # the last snapshot
        self.snapshots = Snapshots(
            order.model, precision="float16" if order.float16 else "float32", deltas=how.delta
        )
        if order.model.exists():
            self._go_on()

    # --- the loop -----------------------------------------------------------------------------

    def source(self, data: Path, is_pipe: bool) -> Source:
        """Where the rows come from."""
        from crossfm.data.arrivals import Arrivals

        self.folder: FolderSource | None = None
        if is_pipe:
            return LineSource(Pipe(0), self._types)
        if data.is_dir():
            arrivals = Arrivals() if self.estimator is None else self.estimator._files
            self.folder = FolderSource(data, arrivals, self._types)
            return self.folder
        followed = self.about.get("followed") or {}
        at = followed.get("at") if followed.get("file") == str(data.resolve()) else 0
        return LineSource(GrowingFile(data, int(at or 0)), self._types)

    def run(self, source: Source, signals: _Signals, say: Any) -> None:
        """Take, judge, learn, save."""
        self.from_ = source
        last, bad, told = time.monotonic(), 0, ""
        while signals.came is None and not source.ended:
            idle = time.monotonic() - last
            over = self.how.idle is not None and idle >= self.how.idle
            try:
                batch = source.take(0.0 if over else WAIT, all_of_it=over)
                if batch is not None and len(batch):
                    self._learn(batch, source)
                    last, bad = time.monotonic(), 0
            except (DataError, SchemaError) as error:
                bad, last = bad + 1, time.monotonic()
                if self.estimator is None or bad >= MOST_BAD:
                    self._last_snapshot()
                    raise
                self._leave_out(source, error)
                continue
            if source.waits != told:
                told = source.waits
                if told:
                    self.screen.warn(told)
            self._snapshot_if_due()
            say(self._status())
            if over and batch is None:
                break
        if signals.came is not None and isinstance(source, LineSource) and self.estimator:
            self._learn_rest(source)
        self._last_snapshot()
        if self.estimator is None and signals.came is None:
            raise DataError(f"no rows came from {source.name}, so no model was written")

    def _learn_rest(self, source: LineSource) -> None:
        """The lines that were taken from a pipe are nowhere else."""
        try:
            batch = source.rest()
            if batch is not None and len(batch):
                self._learn(batch, source)
        except (DataError, SchemaError) as error:
            self._leave_out(source, error)

    def _leave_out(self, source: Source, error: Exception) -> None:
        """Go on without a batch that cannot be read."""
        self.n_bad += 1
        text = " ".join(str(error).split())
        if isinstance(source, FolderSource):
            source.refuse()
        self.screen.warn(f"left out: {text}")

    def _learn(self, batch: Any, source: Source) -> None:
        """Judge the model by some rows, then learn from them, until the batch ends."""
        if self.estimator is None:
            self._begin(batch)
        for low in range(0, len(batch), JUDGED):
            part = batch[low : low + JUDGED]
            self._learn_part(part)
            source.learned(len(part), low + len(part) == len(batch))

    def _learn_part(self, batch: Any) -> None:
        if self.estimator.__sklearn_is_fitted__():
            self._judge(batch)
        started = time.perf_counter()
        try:
            self._fit(batch)
        finally:
            if not self.estimator.__sklearn_is_fitted__():
                self.estimator = None
        n = len(batch)
        if self.folder is not None:  # the memory of files is saved with the estimator
            self.estimator._learned_files = self.folder.arrivals
        self.training += time.perf_counter() - started
        self.n_rows += n
        self.unsaved += n

    def _fit(self, batch: Any) -> None:
        more = {}
        if self.classes is not None and not self.estimator.__sklearn_is_fitted__():
            more["classes"] = self.classes
        target = self.wanted.target
        if target is None:
            y = labels_of(batch.targets)
            self.estimator.partial_fit(batch.replace(targets=None), y, **more)
        else:
            self.estimator.partial_fit(batch, target, sample_weight=self.wanted.weight, **more)

    def _judge(self, batch: Any) -> None:
        """Progressive validation: predict what is not learned yet."""
        estimator = self.estimator
        y = self._targets(batch)
        X = batch.replace(targets=None) if self.wanted.target is None else batch
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # ids that are new
            if self.running.n_classes == 0:
                self.running.add(y, estimator.predict(X))
                return
            codes = estimator._targets.encode(y)
            if estimator._targets.loss == "hinge":
                scores = np.asarray(estimator.decision_function(X), np.float64)
                if scores.ndim == 1:
                    scores = np.stack([-scores, scores], axis=1)
                p = 1 / (1 + np.exp(-np.clip(scores, -30, 30)))
            else:
                p = estimator.predict_proba(X)
        self.running.add(codes, p)

    def _targets(self, batch: Any) -> NDArray[Any]:
        if self.wanted.target is None:
            return labels_of(batch.targets)
        return target_of(batch, self.wanted.target)

    # --- the beginning ------------------------------------------------------------------------

    def _types(self, what: Path | LineFormat) -> dict[str, Any]:
        """Types to read a file's columns with."""
        if self.estimator is not None:
            schema = self.estimator.schema_
            return {} if schema is None else dict(schema.column_types)
        if isinstance(what, LineFormat):
            if what.kind != "csv":
                return {}
            table: Any = what.parse(b"")
            names = table.column_names
        else:
            from crossfm.cli.examples import column_names

            names = column_names(what)
        return self._resolve(names).types()

    def _resolve(self, names: list[str]) -> Wanted:
        if not self.resolved:
            if self.wanted.target is None:
                usage_error(
                    f"--target is missing: which column is to be learned? There are"
                    f" {', '.join(names[:12])}"
                )
            self.wanted, self.resolved = self.wanted.resolve(names), True
        return self.wanted

    def _begin(self, batch: Any) -> None:
        """What the first rows tell: columns, task, classes."""
        from crossfm.data.rows import Rows

        if isinstance(batch, Rows):
            if self.wanted != Wanted():
                usage_error("libsvm and libffm text has no columns by name: leave out --target")
        else:
            self._resolve(batch.column_names)
        y = self._targets(batch)
        asked = asked_task(self.order)
        self.task = choose_task(y, asked, self.wanted.target or "the target")
        schema = None if isinstance(batch, Rows) else self.wanted.schema(batch).fit(batch)
        of_classes = self.task.kind == "classification"
        parameters = dict(self.order.parameters)
        kind = estimator_class(parameters.pop("kind", "fm"), self.task.kind)
        self.estimator = kind(schema=schema, verbose=0, **parameters)
        self._watch(np.unique(y) if of_classes else None)
        self.screen.facts(
            [("data", f"{self.from_.name}: first {plural(len(batch), 'row')}"),
             ("target", f"{self.wanted.target or 'first word of a line'}: {self.task.kind}"
                        f" ({self.task.reason})")]
        )  # fmt: skip
        if schema is not None:
            show_schema(self.screen, schema)
        self.screen.note()

    def _go_on(self) -> None:
        """Take up the model that is there."""
        from crossfm.estimators import load
        from crossfm.store import load_latest

        latest = load_latest(self.order.model)
        about, self.in_deltas = latest.metadata.get("about"), latest.sequence > 0
        estimator = load(self.order.model, deltas=True, precision="float32")
        if not hasattr(estimator, "partial_fit"):
            raise ModelFileError(
                f"{self.order.model} holds a network, or a machine fitted by sweeps over all rows"
                " together, which cannot go on from new ones; name another file to write"
            )
        self.about = about if isinstance(about, dict) else {}
        given = {name: value for name, value in self.order.parameters.items() if name != "kind"}
        target = self.about.get("target")
        if self.wanted.target is not None and self.wanted.target != target:
            usage_error(
                f"--target {self.wanted.target}: {self.order.model} has learned"
                f" {target or 'text without columns'}; name another file to begin anew"
            )
        self.wanted, self.resolved = Wanted(target, self.about.get("weight")), True
        estimator.set_params(**given)
        self.estimator = estimator
        of_classes = hasattr(estimator, "classes_")
        kind = "classification" if of_classes else "regression"
        self.task = Task(kind, "as before")  # type: ignore[arg-type]
        self._watch(estimator.classes_ if of_classes else None)
        self.n_before = int(self.about.get("n_rows") or 0)
        self.screen.note(
            f"goes on from {self.order.model}, which has learned {plural(self.n_before, 'row')}"
        )

    def _watch(self, classes: NDArray[Any] | None) -> None:
        from crossfm.metrics import RunningMetrics

        self.classes = classes
        n_classes = 0 if classes is None else len(classes)
        self.running = RunningMetrics(n_classes, self.how.half_life)

    # --- snapshots ----------------------------------------------------------------------------

    def _snapshot_if_due(self) -> None:
        how, since = self.how, time.monotonic() - self.saved_at
        by_rows = how.rows is not None and self.unsaved >= how.rows
        by_time = how.seconds is not None and since >= how.seconds
        if self.unsaved and (by_rows or by_time or self.n_snapshots == 0):
            try:
                self._snapshot()
            except ModelFileError as error:  # a full disk may be emptied
                if not self.refused:
                    self.screen.warn(f"no snapshot: {' '.join(str(error).split())}")
                self.refused, self.saved_at = True, time.monotonic()

    def _last_snapshot(self) -> None:
        """The whole model, where something is not in the file yet."""
        if self.estimator is not None and (self.unsaved or self.in_deltas):
            self._snapshot(whole=True)

    def _snapshot(self, whole: bool = False) -> None:
        from crossfm.estimators._saving import description

        estimator = self.estimator
        estimator.history_ = estimator.history_[-KEPT:]
        assert self.task is not None
        about: dict[str, Any] = {
            "target": self.wanted.target,
            "weight": self.wanted.weight,
            "data": [path.name for path in self.order.data],
            "n_rows": self.n_before + self.n_rows,
            "n_valid_rows": 0,
            "task_reason": self.task.reason,
            "seconds": self.training,
            "running": self._metrics(),
        }
        if self.from_.at is not None:
            about["followed"] = {"file": str(self.order.data[0].resolve()), "at": self.from_.at}
        self.snapshots.write(estimator.models_, description(estimator, about), whole=whole)
        self.unsaved, self.saved_at, self.refused = 0, time.monotonic(), False
        self.in_deltas = self.snapshots.written != self.order.model
        self.n_snapshots += 1
        if not self.screen.live and self.snapshots.written is not None:
            size = a_size(self.snapshots.written.stat().st_size)
            self.screen.note(f"{self._status()}; wrote {self.snapshots.written.name}, {size}")

    # --- telling ------------------------------------------------------------------------------

    def _metrics(self) -> dict[str, float]:
        values = {} if self.running is None else self.running.values()
        if self.estimator is not None and self.estimator.loss == "hinge":
            values.pop("log_loss", None)
        return values

    def _status(self) -> str:
        if self.estimator is None:
            return f"waiting for rows of {self.from_.name}"
        parts = [f"{a_count(self.n_rows)} rows"]
        parts += [f"{name} {a_value(x)}" for name, x in self._metrics().items()]
        if self.training:
            parts.append(a_rate(self.n_rows / self.training))
        return ", ".join(parts)

    def sum_up(self, signals: _Signals) -> None:
        """What came of it."""
        if self.estimator is None:  # a signal before the first rows
            if signals.came == signal.SIGINT:
                raise KeyboardInterrupt("no rows came, so no model was written")
            self.screen.warn("ended by SIGTERM; no rows came, so no model was written")
            return
        assert self.task is not None
        estimator, path = self.estimator, self.order.model
        schema, metrics = estimator.schema_, self._metrics()
        n_features, n_factors = estimator._features.n_features, estimator._machine.n_factors
        stopped = "ended"
        if signals.came is not None:
            stopped = "interrupted" if signals.came == signal.SIGINT else "terminated"
        rate = self.n_rows / self.training if self.training else 0.0
        left = {} if self.folder is None else self.folder.arrivals.left
        facts = [(name, a_value(value)) for name, value in metrics.items()]
        facts.append(("rows", a_count(self.n_rows)))
        if self.folder is not None:
            facts.append(("files", a_count(self.folder.files)))
        facts += [
            ("time", f"{a_time(self.training)} of learning"),
            ("speed", a_rate(rate)),
            ("model", f"{path}, {a_size(path.stat().st_size)}: {n_features:,} features,"
                      f" {n_factors} factors"),
        ]  # fmt: skip
        if not self.screen.quiet:
            self.screen.result(facts)
        self.screen.object(
            {
                "model": str(path),
                "model_bytes": path.stat().st_size,
                "task": self.task.kind,
                "task_reason": self.task.reason,
                "target": self.wanted.target,
                "classes": None if self.classes is None else self.classes.tolist(),
                "n_rows": self.n_rows,
                "n_rows_before": self.n_before,
                "n_files": None if self.folder is None else self.folder.files,
                "n_left_out": self.n_bad,
                "left": {str(name): reason for name, reason in left.items()},
                "n_features": n_features,
                "n_factors": n_factors,
                "fields": None if schema is None else fields_of(schema),
                "metrics": metrics,
                "half_life": self.how.half_life,
                "snapshots": self.n_snapshots,
                "stopped": stopped,
                "seconds": self.training,
                "rows_per_second": rate,
            }
        )
        for name, reason in left.items():
            self.screen.warn(f"not learned yet: {name} ({reason})")
        if self.n_bad:
            self.screen.warn(f"{plural(self.n_bad, 'batch')} could not be read and were left out")
        if signals.came is not None:
            self.screen.warn(f"{stopped}: {path} holds all rows up to here")
