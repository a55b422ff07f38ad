"""What all estimators share: reading X, targets, validation; each knows how it is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from crossfm.data.arrivals import Arrivals
from crossfm.data.relations import RelationBlock
from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.estimators._features import Data, Features, no_target
from crossfm.estimators._folders import files_to_remember
from crossfm.estimators._options import (
    check_blocks,
    check_count,
    check_one_of,
    check_options,
    check_scores,
)
from crossfm.estimators._streaming import (
    features_of,
    hold_out,
    open_stream,
    wants_stream,
)
from crossfm.estimators._targets import Targets, as_vector, check_weight
from crossfm.estimators._watching import Lines, expect_a_best, held_out, metrics_of, watch_rows
from crossfm.fitting import History, Progress, Watch

__all__ = ["EstimatorBase", "Task", "checked", "without_weightless"]

# early_stopping="auto" holds rows out from so many on; from fewer, where features are so many that
# a fit could learn the rows by heart.
MANY_ROWS, SOME_ROWS, ROWS_A_FEATURE = 10_000, 1_000, 10


@dataclass(frozen=True)
class Task:
    """A fit, made ready: what is left is to train.

    Attributes:
        features: how X is read.
        targets: how y is read.
        rows: with targets as codes, weights of mean 1, and values as training sees them; Rows, or
            blocks of them.
        weight: the weights in float64, or None.
        goes_on: whether to start from what was learned before.
        n_epochs: passes at most.
        watch: validation, or None.
        progress: a callback, or None.
        only: the rows to train on; None: all.
        seed: of everything random.
    """

    features: Features
    targets: Any
    rows: Any
    weight: NDArray[np.float64] | None
    goes_on: bool
    n_epochs: int
    watch: Watch | None
    progress: Progress | None
    only: NDArray[np.int64] | None
    seed: int


class EstimatorBase(BaseEstimator, ABC):
    """`fit` and what reads its results, for machines and networks.

    A subclass trains (`_train`) and scores (`_score_rows`); its machine holds ``features`` and
    ``targets``.
    """

    _centres: ClassVar[bool] = True  # whether columns may be shifted for training

    _machine: Any
    _features: Features
    _targets: Any  # Targets; each estimator knows which
    _learned_files: Arrivals

    @abstractmethod
    def _learn_targets(self, y: Any, weight: NDArray[Any] | None, classes: Any = None) -> Any:
        """How y is read."""

    @abstractmethod
    def _train(self, task: Task) -> tuple[Any, History]:
        """The trained machine, and what happened."""

    @abstractmethod
    def _score_rows(self, rows: Rows) -> NDArray[np.float32]:
        """Raw scores of rows whose values are as they came."""

    def _check(self) -> int:
        """Check the parameters that have nothing to do with data; a seed."""
        return check_options(self)

    def _learns_on_validation(self) -> bool:
        """Whether training needs validation rows."""
        return False

    def _sweeps(self) -> bool:
        """Whether the solver takes all rows together and, if not told otherwise, every epoch."""
        return False

    def _expect_to_go_on(self) -> None:
        """Refuse to go on with parameters that do not fit what was learned."""

    # --- fitting ----------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        eval_set: Any = None,
        progress: Progress | None = None,
        blocks: RelationBlock | Sequence[RelationBlock] | None = None,
    ) -> Any:
        """Fit to all of X.

        Args:
            X: a DataFrame, dict of columns or records; a scipy sparse or dense matrix; `Rows`; a
                path or paths (Parquet, CSV, libsvm, libffm; see `stream` where they are larger
                than memory); or an iterable of batches of these, as X or (X, y) or
                (X, y, sample_weight).
            y: targets ``[n]``, or the name of their column, which then is no feature. None where
                X carries them (`Rows`, libsvm and libffm text, batches).
            sample_weight: ``[n]``, not negative, or the name of a column. Only proportions
                count: the mean is made 1.
            eval_set: validation data ``(X, y)`` or ``(X, y, sample_weight)``, or X alone where it
                carries its targets. Turns on early stopping unless ``early_stopping=False``.
            progress: ``progress(event, told)``, called with "rows" while an epoch runs and with
                "epoch" after it; where it returns True then, the fit ends there.
            blocks: `RelationBlock`s, tables of what belongs to a key in X, for the solvers "mcmc",
                "als" and "vb". The model keeps them: whatever reads X later looks them up again.

        Returns:
            self.

        Raises:
            DataError, SchemaError: what X, y or a parameter cannot be; the message says where.
            DivergedError: the loss left the finite numbers.
            KeyboardInterrupt: Ctrl-C; the estimator is then as of the last full epoch, or as
                before where none is complete.
        """
        seed = self._check()
        n_epochs = check_count("n_epochs", self.n_epochs, 1)
        patience = check_count("patience", self.patience)
        check_one_of("early_stopping", self.early_stopping, ("auto", True, False))
        goes_on = getattr(self, "warm_start", False) and self.__sklearn_is_fitted__()
        blocks = check_blocks(blocks)
        if blocks and not self._sweeps():
            raise DataError(
                "relation blocks go with solver='mcmc', 'als' and 'vb'; for other solvers join"
                " their columns to X"
            )
        files = files_to_remember(X, self._files if goes_on else None)
        if not self._sweeps() and wants_stream(self, X, y, sample_weight, goes_on):
            task = self._stream_task(X, y, sample_weight, eval_set, progress, seed)
            return self._finish(*self._train(task), task.watch, files())
        if goes_on:
            self._expect_to_go_on()
            features: Features = self._features.copy()
            features.update(blocks, learn=True)
            data = features.extend(X, y, sample_weight)
            matrix = None
        else:
            features, data, matrix = Features.learn(
                X, y, sample_weight, schema=self.schema, owner=type(self).__name__,
                verbose=Lines.wanted(self.verbose), blocks=blocks,
            )  # fmt: skip
        y, weight = checked(data, type(self).__name__)
        targets: Targets = self._targets if goes_on else self._learn_targets(y, weight)
        metrics = metrics_of(self.eval_metric, targets.metric)
        codes = targets.encode(y)
        weight = targets.weigh(codes, weight)
        data, codes, weight, matrix = without_weightless(data, codes, weight, matrix)
        if weight is not None:
            weight = weight / weight.mean()
        rows = data.rows
        if not goes_on and self.scale_values:
            rows = features.learn_scaling(data, weight, matrix, centre=self._centres)
        del data, matrix
        rows = rows.replace(targets=codes, weights=weight)

        stops = self.early_stopping is True or (
            self.early_stopping == "auto"
            and not self._sweeps()
            and (
                eval_set is not None
                or self._learns_on_validation()
                or _worth_holding_out(len(rows), features.n_features)
            )
        )
        only = watch = None
        if eval_set is not None:
            valid = self._read_eval(features, targets, eval_set)
            watch = watch_rows(*valid, targets, metrics, max(1, patience) if stops else 0)
        elif stops:
            only, held = held_out(len(rows), self.validation_fraction, targets.strata(codes), seed)
            held_weight = None if weight is None else weight[held]
            watch = watch_rows(
                rows.take(held), codes[held], held_weight, targets, metrics, max(1, patience)
            )

        told = progress or (Lines() if Lines.wanted(self.verbose) else None)
        machine, history = self._train(
            Task(
                features=features,
                targets=targets,
                rows=rows,
                weight=weight,
                goes_on=goes_on,
                n_epochs=n_epochs,
                watch=watch,
                progress=_on_scale(told, targets),
                only=only,
                seed=seed,
            )
        )
        return self._finish(machine, history, watch, files())

    def _stream_task(
        self, X: Any, y: Any, weight: Any, eval_set: Any, progress: Progress | None, seed: int
    ) -> Task:
        """The task of files that are read block by block."""
        told = progress or (Lines() if Lines.wanted(self.verbose) else None)
        rows = open_stream(self, X, y, weight, told)
        features = features_of(rows, type(self).__name__, bool(self.scale_values))
        if self.schema is None and features.schema is not None and Lines.wanted(self.verbose):
            print(features.schema.describe())
        targets, n_rows = rows.targets, rows.total.rows
        metrics = metrics_of(self.eval_metric, targets.metric)
        patience = max(1, self.patience)
        stops = self.early_stopping is True or (
            self.early_stopping == "auto"
            and (
                eval_set is not None
                or self._learns_on_validation()
                or (len(rows.blocks) > 1 and _worth_holding_out(n_rows, features.n_features))
            )
        )
        watch = None
        if eval_set is not None:
            valid = self._read_eval(features, targets, eval_set)
            watch = watch_rows(*valid, targets, metrics, patience if stops else 0)
        elif stops:
            rows, held = hold_out(rows, self.validation_fraction, seed)
            assert held.targets is not None
            watch = watch_rows(held, held.targets, held.weights, targets, metrics, patience)
        return Task(
            features=features, targets=targets, rows=rows, weight=None, goes_on=False,
            n_epochs=self.n_epochs, watch=watch, progress=_on_scale(told, targets), only=None,
            seed=seed,
        )  # fmt: skip

    def _finish(self, machine: Any, history: History, watch: Watch | None, files: Arrivals) -> Any:
        """Take over what was learned, or say why not."""
        if watch is not None and watch.patience > 0:
            expect_a_best(history, watch.monitor)
        self._adopt(machine, history)
        self._learned_files = files
        if history.stopped == "interrupted":
            raise KeyboardInterrupt
        return self

    def _restore(
        self, machine: Any, history: list[dict[str, Any]], n_iter: int, best_epoch: int
    ) -> None:
        """Be what a file describes."""
        self._adopt(machine, History())
        self.history_, self.n_iter_, self.best_epoch_ = history, n_iter, best_epoch

    def _adopt(self, machine: Any, history: History, n_iter: int | None = None) -> None:
        """Take over what was learned."""
        features, scale = machine.features, machine.targets.loss_scale
        self._machine, self._features, self._targets = machine, features, machine.targets
        self.n_features_in_ = features.n_inputs
        if features.names is not None:
            self.feature_names_in_ = features.names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self.schema_ = features.schema
        epochs = [
            {
                "epoch": epoch.number,
                "loss": epoch.loss * scale,
                **epoch.metrics,
                "seconds": epoch.seconds,
                "rows_per_second": epoch.rows_per_second,
            }
            for epoch in history.epochs
        ]
        if n_iter is None:
            self.history_ = epochs
            self.n_iter_ = len(epochs)
            self.best_epoch_ = history.best_epoch
        else:
            for epoch in epochs:
                epoch["epoch"] = n_iter
            self.history_ = [*(self.history_ if n_iter > 1 else []), *epochs]
            self.n_iter_ = self.best_epoch_ = n_iter

    def _read_eval(
        self, features: Features, targets: Targets, eval_set: Any
    ) -> tuple[Rows, NDArray[np.float32], NDArray[np.float64] | None]:
        given = eval_set if isinstance(eval_set, tuple) else (eval_set, None)
        if isinstance(eval_set, list) and len(eval_set) == 2 and _is_vector(eval_set[1]):
            given = tuple(eval_set)
        if len(given) not in (2, 3):
            raise DataError(
                f"eval_set has {len(given)} parts, expected (X, y) or (X, y, sample_weight)"
            )
        data = features.read(*given)
        if not len(data.rows):
            raise DataError("eval_set has no rows to validate on; leave it out, or give some")
        if data.y is None:
            raise DataError("eval_set carries no targets: give eval_set=(X, y)")
        y, weight = checked(data, type(self).__name__)
        return data.rows, targets.encode(y), weight

    @property
    def _files(self) -> Arrivals:
        """The files of folders that were learned."""
        if not hasattr(self, "_learned_files"):
            self._learned_files = Arrivals()
        return self._learned_files

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_machine")

    def _scores(self, X: Any) -> NDArray[np.float32]:
        """Raw scores of X, ``[n]`` or ``[n, n_classes]``."""
        check_is_fitted(self)
        parts = [self._score_rows(rows) for rows in self._features.stream(X)]
        if not parts:
            return np.empty(0, np.float32)
        return check_scores(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def _judged(
        self, X: Any, y: Any, sample_weight: Any
    ) -> tuple[NDArray[np.float32], Any, NDArray[np.float64] | None]:
        """Scores, targets and weights of data to be judged on."""
        check_is_fitted(self)
        data = self._features.read(X, y, sample_weight, scaled=False)
        if not len(data.rows):
            raise DataError("X has no rows, so there is nothing to judge; give at least one")
        y, weight = checked(data, type(self).__name__)
        return check_scores(self._score_rows(data.rows)), y, weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        return tags


def _is_vector(y: Any) -> bool:
    return len(getattr(y, "shape", ())) == 1


def _worth_holding_out(n_rows: int, n_features: int) -> bool:
    enough = SOME_ROWS if n_rows < ROWS_A_FEATURE * n_features else MANY_ROWS
    return n_rows > enough


def _on_scale(progress: Progress | None, targets: Targets) -> Progress | None:
    """The callback, told the loss on the targets' own scale."""
    if progress is None or targets.loss_scale == 1.0:
        return progress

    def tell(event: str, told: Mapping[str, float]) -> bool | None:
        if "loss" in told:
            told = {**told, "loss": told["loss"] * targets.loss_scale}
        return progress(event, told)

    return tell


def checked(data: Data, owner: str) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
    """Targets and weights as vectors, as many as there are rows."""
    if data.y is None:
        raise no_target(owner)
    y = as_vector(data.y)
    if len(y) != len(data.rows):
        raise DataError(
            f"Found input variables with inconsistent numbers of samples: X has {len(data.rows)}"
            f" rows, y has {len(y)}"
        )
    return y, check_weight(data.weight, len(data.rows))


def without_weightless(
    data: Data, codes: NDArray[np.float32], weight: NDArray[Any] | None, matrix: Any
) -> tuple[Data, NDArray[np.float32], NDArray[Any] | None, Any]:
    """Leave out rows of weight zero: they are as good as not there, penalties included."""
    if weight is None or weight.all():
        return data, codes, weight, matrix
    kept = np.flatnonzero(weight)
    if not len(kept):
        raise DataError("no row has a weight: those that sample_weight leaves, class_weight takes")
    matrix = None if matrix is None else matrix[kept]
    return data._replace(rows=data.rows.take(kept)), codes[kept], weight[kept], matrix
