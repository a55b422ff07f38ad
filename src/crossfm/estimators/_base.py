"""What both estimators share: reading X, the training of a machine, its parameters shown."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from crossfm.data import inputs
from crossfm.data.rows import Rows
from crossfm.errors import DataError, DivergedError
from crossfm.estimators._defaults import (
    default_init_scale,
    default_l2_factors,
    default_learning_rate,
)
from crossfm.estimators._features import Data, Features, batches_of, file_batches, no_target
from crossfm.estimators._machine import Machine
from crossfm.estimators._options import (
    check_count,
    check_one_of,
    check_options,
    check_scores,
    penalty_of_fields,
)
from crossfm.estimators._saving import save_estimator
from crossfm.estimators._targets import Targets, as_vector, check_weight
from crossfm.estimators._watching import Lines, expect_a_best, held_out, metrics_of, watch_rows
from crossfm.explain import Contributions, explain_row
from crossfm.model import FactorModel
from crossfm.solvers import History, SolverOptions, solver_options
from crossfm.solvers import fit as train

__all__ = ["FMBase"]

Progress = Callable[[str, Mapping[str, float]], None]

# early_stopping="auto" holds rows out from so many on; from fewer, where features are so many that
# a fit could learn the rows by heart.
MANY_ROWS, SOME_ROWS, ROWS_A_FEATURE = 10_000, 1_000, 10


class FMBase(BaseEstimator):
    """Fitting, validation, parameters and files of `FMRegressor` and `FMClassifier`."""

    _machine: Machine
    _features: Features
    _targets: Any  # Targets; each estimator knows which

    def _learn_targets(self, y: Any, weight: NDArray[Any] | None, classes: Any = None) -> Any:
        raise NotImplementedError

    # --- fitting ----------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        eval_set: Any = None,
        progress: Progress | None = None,
    ) -> Any:
        """Fit to all of X.

        Args:
            X: a DataFrame, dict of columns or records; a scipy sparse or dense matrix; `Rows`; a
                path or paths (Parquet, CSV, libsvm, libffm); or an iterable of batches of these,
                as X or (X, y) or (X, y, sample_weight).
            y: targets ``[n]``, or the name of their column, which then is no feature. None where
                X carries them (`Rows`, libsvm and libffm text, batches).
            sample_weight: ``[n]``, not negative, or the name of a column. Only proportions
                count: the mean is made 1.
            eval_set: validation data ``(X, y)`` or ``(X, y, sample_weight)``, or X alone where it
                carries its targets. Turns on early stopping unless ``early_stopping=False``.
            progress: ``progress(event, told)``, called with "rows" while an epoch runs and with
                "epoch" after it.

        Returns:
            self.

        Raises:
            DataError, SchemaError: what X, y or a parameter cannot be; the message says where.
            DivergedError: the loss left the finite numbers.
            KeyboardInterrupt: Ctrl-C; the estimator is then as of the last full epoch, or as
                before where none is complete.
        """
        seed = check_options(self)
        n_epochs = check_count("n_epochs", self.n_epochs, 1)
        patience = check_count("patience", self.patience)
        check_one_of("early_stopping", self.early_stopping, ("auto", True, False))
        goes_on = self.warm_start and self.__sklearn_is_fitted__()
        if goes_on:
            self._expect_as_many_factors()
            features: Features = self._features.copy()
            data = features.extend(X, y, sample_weight)
            matrix = None
        else:
            features, data, matrix = Features.learn(
                X, y, sample_weight, schema=self.schema, owner=type(self).__name__,
                verbose=Lines.wanted(self.verbose),
            )  # fmt: skip
        y, weight = _checked(data, type(self).__name__)
        targets: Targets = self._targets if goes_on else self._learn_targets(y, weight)
        metrics = metrics_of(self.eval_metric, targets.metric)
        codes = targets.encode(y)
        weight = targets.weigh(codes, weight)
        data, codes, weight, matrix = _without_weightless(data, codes, weight, matrix)
        if weight is not None:
            weight = weight / weight.mean()
        rows = data.rows
        if not goes_on and self.scale_values:
            rows = features.learn_scaling(data, weight, matrix)
        del data, matrix
        rows = rows.replace(targets=codes, weights=weight)

        stops = self.early_stopping is True or (
            self.early_stopping == "auto"
            and (eval_set is not None or _worth_holding_out(len(rows), features.n_features))
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

        if goes_on:
            machine = self._machine.handed_on(features)
            trainer = machine.ready_to_train(self._options(machine, rows, seed))
        else:
            machine = Machine(None, None, features, targets)
            trainer = machine.start(self._options(machine, rows, seed))
            trainer.set_bias(targets.start(codes, weight))
        machine.touched()
        tell = _on_scale(progress or (Lines() if Lines.wanted(self.verbose) else None), targets)
        history, _ = train(
            trainer, rows, n_epochs=n_epochs, watch=watch, progress=tell, only=only, models=False
        )
        if stops and watch is not None:
            expect_a_best(history, watch.monitor)
        self._adopt(machine, history)
        if history.stopped == "interrupted":
            raise KeyboardInterrupt
        return self

    def _partial_fit(self, X: Any, y: Any, weight: Any, classes: Any = None) -> Any:
        """One pass over X, which goes on from where the machine is."""
        if inputs.kind_of(X) == "batches":
            for part in batches_of(X, y, weight):
                self._partial_fit(*part, classes=classes)
            return self
        if inputs.kind_of(X) == "path":
            for piece in file_batches(X, lambda: getattr(self, "schema_", self.schema)):
                self._partial_fit(piece, y, weight, classes)
            return self
        seed = check_options(self)
        first = not self.__sklearn_is_fitted__()
        matrix = None
        if first:
            features, data, matrix = Features.learn(
                X, y, weight, schema=self.schema, owner=type(self).__name__,
                verbose=Lines.wanted(self.verbose),
            )  # fmt: skip
        else:
            self._expect_as_many_factors()
            features = self._features
            data = features.extend(X, y, weight)
        y, weight = _checked(data, type(self).__name__)
        targets = self._learn_targets(y, weight, classes) if first else self._targets
        codes = targets.encode(y)
        weight = targets.weigh(codes, weight)
        data, codes, weight, matrix = _without_weightless(data, codes, weight, matrix)
        rows = features.learn_scaling(data, weight, matrix) if (
            first and self.scale_values
        ) else data.rows  # fmt: skip
        rows = rows.replace(targets=codes, weights=weight)
        if first:
            machine = Machine(None, None, features, targets)
            trainer = machine.start(self._options(machine, rows, seed))
            trainer.set_bias(targets.start(codes, weight))
        else:
            machine = self._machine
            trainer = machine.ready_to_train(self._options(machine, rows, seed))
        before = machine.known()
        machine.touched()
        try:
            history, _ = train(trainer, rows, n_epochs=1, models=False)
        except DivergedError as error:
            if not first and not machine.fall_back(before):
                del self._machine
                error.add_note(
                    "What was learned before is lost with it: load the last file that was saved."
                )
            raise
        self._adopt(machine, history, n_iter=1 if first else self.n_iter_ + 1)
        if history.stopped == "interrupted":
            raise KeyboardInterrupt
        return self

    def _expect_as_many_factors(self) -> None:
        if self.n_factors != self._machine.n_factors:
            raise DataError(
                f"n_factors is {self.n_factors!r}, the model to go on from has"
                f" {self._machine.n_factors}; keep that number, or fit anew (with warm_start=False)"
            )

    def _restore(
        self, machine: Machine, history: list[dict[str, Any]], n_iter: int, best_epoch: int
    ) -> None:
        """Be what a file describes."""
        self._adopt(machine, History())
        self.history_, self.n_iter_, self.best_epoch_ = history, n_iter, best_epoch

    def _adopt(self, machine: Machine, history: History, n_iter: int | None = None) -> None:
        """Take over what was learned."""
        features, std = machine.features, machine.targets.std
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
                "loss": epoch.loss * std**2,
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

    def _options(self, machine: Machine, rows: Rows, seed: int) -> SolverOptions:
        """The solver's options; what is left open follows the data, those first seen."""
        targets, features = machine.targets, machine.features

        names = None if features.schema is None else features.schema.field_names
        l2_linear, l2_factors = (
            penalty_of_fields(option, getattr(self, option), names)
            for option in ("l2_linear", "l2_factors")
        )
        rate, init_scale = self.learning_rate, self.init_scale
        before = machine.trainer.options if machine.trainer else None
        if before is not None and before.optimizer == self.solver:
            rate = before.learning_rate if rate is None else rate
            init_scale = before.init_scale if init_scale is None else init_scale
            l2_factors = before.l2_factors if l2_factors is None else l2_factors
        if rate is None:
            rate = default_learning_rate(self.solver, rows)
        if init_scale is None:
            init_scale = default_init_scale(rows)
        if l2_factors is None:
            l2_factors = default_l2_factors(self.solver, targets.loss, rows, features.n_features)
        return solver_options(
            self.solver,
            n_factors=check_count("n_factors", self.n_factors),
            loss=targets.loss,
            n_outputs=targets.n_outputs,
            interactions=self.interactions,
            learning_rate=rate,
            l2_linear=l2_linear,
            l2_factors=l2_factors,
            l1_linear=self.l1_linear or None,
            l1_factors=self.l1_factors or None,
            init_scale=init_scale,
            shuffle=bool(self.shuffle),
            n_jobs=1 if self.n_jobs is None else operator.index(self.n_jobs),
            deterministic=bool(self.deterministic),
            seed=seed,
        )

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
        y, weight = _checked(data, type(self).__name__)
        return data.rows, targets.encode(y), weight

    # --- what was learned -------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_machine")

    @property
    def models_(self) -> tuple[FactorModel, ...]:
        """The trained machines as frozen `FactorModel`s: one, or one a class of several."""
        return self._fitted("models_").models()

    @property
    def model_(self) -> FactorModel:
        """The trained machine as a frozen `FactorModel`."""
        models = self._fitted("model_").models()
        if len(models) > 1:
            raise AttributeError(f"there are {len(models)} models, one for each class; use models_")
        return models[0]

    @property
    def intercept_(self) -> Any:
        """``w0``: a number, or ``[n_classes]`` for more than two classes."""
        found = [model.bias for model in self._fitted("intercept_").models()]
        return found[0] if len(found) == 1 else np.array(found)

    @property
    def coef_(self) -> NDArray[np.float32]:
        """``w`` ``[n_features]``, or ``[n_classes, n_features]`` for more than two classes."""
        found = [model.weights for model in self._fitted("coef_").models()]
        return found[0] if len(found) == 1 else np.stack(found)

    @property
    def factors_(self) -> NDArray[np.float32]:
        """``V`` ``[n_features, n_factors]``, or ``[n_classes, n_features, n_factors]``."""
        found = [model.factors for model in self._fitted("factors_").models()]
        return found[0] if len(found) == 1 else np.stack(found)

    def _fitted(self, name: str) -> Machine:
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"{type(self).__name__} has no {name!r} before it is fitted")
        return self._machine

    def _scores(self, X: Any) -> NDArray[np.float32]:
        """Raw scores of X, ``[n]`` or ``[n, n_classes]``."""
        check_is_fitted(self)
        parts = [self._machine.score(rows, self.n_jobs) for rows in self._features.stream(X)]
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
        y, weight = _checked(data, type(self).__name__)
        return check_scores(self._machine.score(data.rows, self.n_jobs)), y, weight

    def explain(self, X: Any, *, of: Any = None) -> Contributions:
        """Take the score of one row apart into terms that sum to it.

        Args:
            X: one row in any form of input, such as a dict of column: value.
            of: the class whose score is meant, where there are more than two.

        Raises:
            DataError: not one row, or no such class.
        """
        check_is_fitted(self)
        parts = list(self._features.stream(X))
        if len(parts) != 1 or len(parts[0]) != 1:
            raise DataError(f"explain takes one row, got {sum(map(len, parts))}")
        models = self._machine.models()
        if len(models) == 1:
            return explain_row(models[0], parts[0])
        classes = self._targets.classes.tolist()
        if of not in classes:
            raise DataError(f"explain needs of=..., one of the classes {classes[:10]}, got {of!r}")
        return explain_row(models[classes.index(of)], parts[0])

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        precision: str = "float32",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the estimator to a file, whole or not at all; `load` reads it.

        Args:
            path: by custom ``name.crossfm``.
            precision: how factors are stored; "float16" halves the file at a relative error of up
                to 0.0005 a number.
            metadata: anything JSON can hold, kept in the file's metadata as "about".

        Raises:
            ModelFileError: the system refused to write; the old file is unchanged.
        """
        check_is_fitted(self)
        save_estimator(self, path, precision, metadata)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        tags.non_deterministic = self.n_jobs not in (None, 1) and not self.deterministic
        return tags


def _is_vector(y: Any) -> bool:
    return len(getattr(y, "shape", ())) == 1


def _worth_holding_out(n_rows: int, n_features: int) -> bool:
    enough = SOME_ROWS if n_rows < ROWS_A_FEATURE * n_features else MANY_ROWS
    return n_rows > enough


def _on_scale(progress: Progress | None, targets: Targets) -> Progress | None:
    """The callback, told the loss on the targets' own scale."""
    if progress is None or targets.std == 1.0:
        return progress

    def tell(event: str, told: Mapping[str, float]) -> None:
        if "loss" in told:
            told = {**told, "loss": told["loss"] * targets.std**2}
        progress(event, told)

    return tell


def _checked(data: Data, owner: str) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
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


def _without_weightless(
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
