"""What the machines' estimators share: training, parameters shown, explanations, files."""

from __future__ import annotations

import operator
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from crossfm.data import inputs
from crossfm.data.relations import RelationBlock
from crossfm.data.rows import Rows
from crossfm.errors import DataError, DivergedError, did_you_mean
from crossfm.estimators._arviz import as_arviz
from crossfm.estimators._defaults import (
    default_init_scale,
    default_l2_factors,
    default_learning_rate,
)
from crossfm.estimators._draws import Draws
from crossfm.estimators._features import Features, batches_of, file_batches
from crossfm.estimators._fitting import EstimatorBase, Task, checked, without_weightless
from crossfm.estimators._folders import is_folder, learn_folder
from crossfm.estimators._machine import Machine
from crossfm.estimators._options import (
    check_blocks,
    check_checkpoint,
    check_count,
    is_adaptive,
    of_fields,
)
from crossfm.estimators._sampling import SWEEPS, Sampling, check_sweeps
from crossfm.estimators._saving import save_estimator
from crossfm.estimators._streaming import StreamedRows
from crossfm.estimators._sweeping import sweep
from crossfm.estimators._watching import Lines
from crossfm.explain import Contributions, explain_row
from crossfm.factors import Precision
from crossfm.fitting import History, fingerprint
from crossfm.model import FactorModel
from crossfm.solvers import Checkpoint, SolverOptions, solver_options
from crossfm.solvers import fit as train
from crossfm.solvers.options import PENALTIES, SOLVERS, Model
from crossfm.solvers.sweeps import diagnose

__all__ = ["FMBase", "goes_row_by_row"]


class FMBase(EstimatorBase):
    """Training, parameters and files of `FMRegressor`, `FMClassifier` and their kin."""

    _model: ClassVar[Model] = "fm"
    order: int  # of a higher-order model

    sampling: Sampling | None = None

    _machine: Machine | Draws

    def _train(self, task: Task) -> tuple[Machine | Draws, History]:
        if self._sweeps():
            before = self._machine if task.goes_on else None
            assert not isinstance(before, Machine)  # as `_expect_to_go_on` has seen
            return sweep(self, task, before)
        features, targets, rows = task.features, task.targets, task.rows
        if self._learns_on_validation() and task.watch is None:
            raise DataError(
                "adaptive penalties are learned on validation rows, and there are none: give"
                " eval_set=(X, y), or leave early_stopping at 'auto', which holds some out"
            )
        if task.goes_on:
            assert isinstance(self._machine, Machine)
            machine = self._machine.handed_on(features)
            trainer = machine.ready_to_train(self._options(machine, rows, task.seed))
        elif isinstance(rows, StreamedRows):
            machine = Machine(None, None, features, targets)
            trainer = machine.start(self._options(machine, rows, task.seed))
            trainer.set_bias(rows.start())
        else:
            machine = Machine(None, None, features, targets)
            trainer = machine.start(self._options(machine, rows, task.seed))
            trainer.set_bias(targets.start(rows.targets, task.weight))
        machine.touched()
        history, _ = train(
            trainer, rows, n_epochs=task.n_epochs, watch=task.watch, progress=task.progress,
            only=task.only, models=False, checkpoint=self._checkpoint(task),
        )  # fmt: skip
        if trainer.options.adaptive:
            machine.penalties = trainer.penalties
        return machine, history

    def _sweeps(self) -> bool:
        return self.solver in SWEEPS

    def _check(self) -> int:
        solvers = (*SOLVERS, *SWEEPS)
        if self.solver not in solvers:
            raise DataError(
                f"solver is {self.solver!r}, expected one of {', '.join(map(repr, solvers))}."
                + did_you_mean(str(self.solver), solvers)
            )
        if self._sweeps():
            check_sweeps(self)
        elif self.sampling is not None:
            raise DataError(
                f"sampling is for the solvers {', '.join(map(repr, SWEEPS))}, and solver is"
                f" {self.solver!r}; leave it out"
            )
        check_checkpoint(self.checkpoint, self.random_state)
        return super()._check()

    def _checkpoint(self, task: Task) -> Checkpoint | None:
        """Where the fit keeps its state, and what it is of."""
        if self.checkpoint is None:
            return None
        rows, watch = task.rows, task.watch
        of: dict[str, Any] = {"targets": task.targets.state()}
        if isinstance(rows, StreamedRows):
            of |= {**rows.cached.of, "blocks": len(rows.blocks)}
        else:
            of |= fingerprint(rows, task.only)
        if watch is not None:
            of |= {"eval_metric": watch.monitor, "patience": watch.patience}
            of |= {"validation rows": fingerprint(watch.rows)["checksum"]}
        return Checkpoint(self.checkpoint, of)

    def _learns_on_validation(self) -> bool:
        return is_adaptive(self.l2_linear) or is_adaptive(self.l2_factors)

    def _score_rows(self, rows: Rows) -> NDArray[np.float32]:
        return self._machine.score(rows, self.n_jobs)

    def _partial_fit(self, X: Any, y: Any, weight: Any, classes: Any = None) -> Any:
        """One pass over X, which goes on from where the machine is."""
        if inputs.kind_of(X) == "batches":
            for part in batches_of(X, y, weight):
                self._partial_fit(*part, classes=classes)
            return self
        if is_folder(X):
            return learn_folder(self, X, y, weight, classes)
        if inputs.kind_of(X) == "path":
            for piece in file_batches(X, lambda: getattr(self, "schema_", self.schema)):
                self._partial_fit(piece, y, weight, classes)
            return self
        seed = self._check()
        first = not self.__sklearn_is_fitted__()
        matrix = None
        if first:
            features, data, matrix = Features.learn(
                X, y, weight, schema=self.schema, owner=type(self).__name__,
                verbose=Lines.wanted(self.verbose),
            )  # fmt: skip
        else:
            self._expect_to_go_on()
            features = self._features
            data = features.extend(X, y, weight)
        y, weight = checked(data, type(self).__name__)
        targets = self._learn_targets(y, weight, classes) if first else self._targets
        codes = targets.encode(y)
        weight = targets.weigh(codes, weight)
        data, codes, weight, matrix = without_weightless(data, codes, weight, matrix)
        rows = features.learn_scaling(data, weight, matrix, centre=self._centres) if (
            first and self.scale_values
        ) else data.rows  # fmt: skip
        rows = rows.replace(targets=codes, weights=weight)
        if first:
            machine = Machine(None, None, features, targets)
            trainer = machine.start(self._options(machine, rows, seed))
            trainer.set_bias(targets.start(codes, weight))
        else:
            machine = self._row_machine
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

    @property
    def _row_machine(self) -> Machine:
        assert isinstance(self._machine, Machine)
        return self._machine

    def _expect_to_go_on(self) -> None:
        self._machine.expect_exact()
        found_method = self._machine.method if isinstance(self._machine, Draws) else None
        if found_method != (self.solver if self._sweeps() else None):
            raise DataError(
                f"solver is {self.solver!r}, and the model to go on from was fitted by"
                f" {found_method or 'one that goes row by row'!r}; keep its solver, or fit anew"
                " (with warm_start=False)"
            )
        if self.n_factors != self._machine.n_factors:
            raise DataError(
                f"n_factors is {self.n_factors!r}, the model to go on from has"
                f" {self._machine.n_factors}; keep that number, or fit anew (with warm_start=False)"
            )
        wanted, found = self._loss(), self._targets
        kinds = {found.loss, "logistic"} if found.loss == "softmax" else {found.loss}
        if wanted[0] not in kinds or wanted[1] != found.loss_parameter:
            raise DataError(
                f"loss is {wanted[0]!r} ({wanted[1]:g}), the model to go on from was fitted to"
                f" {found.loss!r} ({found.loss_parameter:g}); keep that loss, or fit anew (with"
                " warm_start=False)"
            )

    @abstractmethod
    def _loss(self) -> tuple[str, float]:
        """The loss asked for, and its parameter (0 where it has none)."""

    def _options(self, machine: Machine, rows: Rows | StreamedRows, seed: int) -> SolverOptions:
        """The solver's options; what is left open follows the data, those first seen."""
        targets, features = machine.targets, machine.features

        names = None if features.schema is None else features.schema.field_names
        usual = machine.usual(self.solver, lambda: self._usual(machine, rows))
        rate, rates = of_fields("learning_rate", self.learning_rate, names, usual["learning_rate"])
        l2_linear, l2_factors = (
            each or one
            for one, each in (
                of_fields("l2_linear", self.l2_linear, names, 0.0),
                of_fields("l2_factors", self.l2_factors, names, usual["l2_factors"]),
            )
        )
        init_scale = usual["init_scale"] if self.init_scale is None else self.init_scale
        adaptive = tuple(name for name in PENALTIES if is_adaptive(getattr(self, name)))
        n_fields = 0
        if self._model not in ("fm", "hofm"):
            highest = rows.validate().max_field if isinstance(rows, Rows) else rows.highest_field
            n_fields = machine.n_fields or features.n_fields(highest)
        n_penalties = len(names or ()) or n_fields
        if "l2_linear" in adaptive and n_penalties:
            l2_linear = (l2_linear,) * n_penalties
        if "l2_factors" in adaptive and n_penalties:
            l2_factors = (l2_factors,) * n_penalties
        return solver_options(
            self.solver,
            model=self._model,
            n_fields=n_fields or None,
            order=check_count("order", self.order, 3) if self._model == "hofm" else 2,
            n_factors=check_count("n_factors", self.n_factors),
            loss=targets.loss,
            loss_parameter=targets.loss_parameter,
            n_outputs=targets.n_outputs,
            interactions=self.interactions,
            learning_rate=rate,
            field_learning_rates=rates,
            adaptive=adaptive or None,
            l2_scaling=self.l2_scaling,
            precision=None if self.precision == "float32" else self.precision,
            min_count_factors=check_count("min_count_factors", self.min_count_factors, 1),
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

    @property
    def files_(self) -> list[str]:
        """The files of folders that were learned; `partial_fit` leaves them out."""
        self._fitted("files_")
        return self._files.paths

    def _usual(self, machine: Machine, rows: Rows | StreamedRows) -> dict[str, float]:
        """What the data suggest where an option is left open."""
        sized = rows if isinstance(rows, Rows) else rows.total
        l2_factors = default_l2_factors(
            self.solver, machine.targets.loss, sized, machine.features.n_features
        )
        return {
            "learning_rate": default_learning_rate(self.solver, sized),
            "l2_factors": 0.0 if l2_factors is None else l2_factors,
            "init_scale": default_init_scale(sized),
        }

    # --- what was learned -------------------------------------------------------------------

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
        """``V`` ``[n_features, n_factors]``, or ``[n_classes, n_features, n_factors]``.

        A field-aware model has ``[n_features, n_fields, n_factors]`` in their place.
        """
        found = [model.factors for model in self._fitted("factors_").models()]
        return found[0] if len(found) == 1 else np.stack(found)

    @property
    def penalties_(self) -> dict[str, Any]:
        """Penalties at the end of a fit with adaptive ones, "l2_linear" and "l2_factors".

        Each is a dict of field: number where X has named columns, else an array ``[n_fields]``, or
        ``[1]`` where one is for all. A file does not hold them.
        """
        machine = self._fitted("penalties_")
        if machine.penalties is None:
            raise AttributeError("penalties_ is there after a fit in which a penalty is 'adaptive'")
        schema = machine.features.schema
        if schema is None:
            return machine.penalties
        return {
            name: dict(zip(schema.field_names, map(float, array), strict=True))
            for name, array in machine.penalties.items()
        }

    @property
    def draws_(self) -> tuple[FactorModel, ...]:
        """Each draw of "mcmc" as a frozen `FactorModel`, those of a chain together."""
        machine = self._drawn("draws_")
        if machine.is_mean:
            raise AttributeError("keep='mean' has kept no draws; model_ is their mean")
        return machine.draws

    @property
    def traces_(self) -> dict[str, NDArray[np.float64]]:
        """Hyperparameters of each sweep by name, ``[n_chains, n_sweeps, ...]``, the burn-in's too.

        "bias"; "noise", the precision of the noise; "linear_mean" and "linear_precision"
        ``[..., n_groups]``; "factor_mean" and "factor_precision" ``[..., n_groups, n_factors]``;
        "cutpoints" of ordinal targets. All are on the scale of standardised targets.
        """
        return self._drawn("traces_").traces

    @property
    def diagnostics_(self) -> dict[str, dict[str, Any]]:
        """Of each of `traces_` its "r_hat" and "effective_sample_size", after "mcmc".

        Numbers, or arrays where the trace has more than one of them, such as one a group. The
        burn-in is left out: `Sampling.burn_in` sweeps, or a tenth of all where it is None. R-hat
        compares the chains (`Sampling.n_chains`; the halves of one, where there is no other) and is
        1 where they agree, below 1.01 to be trusted; NaN of what does not vary and of fewer than 4
        sweeps.
        """
        machine, sampling = self._sampled("diagnostics_")
        traces = machine.traces
        first = sampling.burnt(traces["noise"].shape[1])
        return {name: diagnose(trace[:, first:]) for name, trace in traces.items()}

    def to_arviz(self) -> Any:
        """`traces_` after "mcmc" as a tree of xarray datasets, which ArviZ plots and summarises.

        The group "posterior" has the sweeps after the burn-in, "warmup_posterior" the burn-in, each
        with the dimensions chain and draw, and those of the hyperparameters: group (named by its
        fields), factor, cutpoint. The extra ``crossfm[arviz]`` has what makes the tree. ArviZ reads
        it from 1.0 on, which needs Python 3.12; an earlier one takes
        ``arviz.InferenceData.from_datatree(tree)``.

        Raises:
            MissingExtraError: arviz-base is not installed.
            AttributeError: the fit was none by "mcmc".

        Source: Kumar, Carroll, Hartikainen and Martin 2019, ArviZ, a unified library for
        exploratory analysis of Bayesian models in Python.
        """
        return as_arviz(*self._sampled("to_arviz"))

    def _sampled(self, name: str) -> tuple[Draws, Sampling]:
        """The draws of "mcmc", and how they were taken."""
        machine = self._drawn(name)
        if machine.method != "mcmc":
            raise AttributeError(f"{name} needs draws, and there are some after 'mcmc' alone")
        return machine, getattr(self, "sampling", None) or Sampling()

    def _drawn(self, name: str) -> Draws:
        machine = self._fitted(name)
        if not isinstance(machine, Draws):
            raise AttributeError(f"{name} is there after a fit by {' or '.join(SWEEPS)}")
        return machine

    def _fitted(self, name: str) -> Machine | Draws:
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"{type(self).__name__} has no {name!r} before it is fitted")
        return self._machine

    def update_blocks(self, blocks: RelationBlock | Sequence[RelationBlock]) -> Any:
        """Add units to the relation blocks of the fit, or put others in their place.

        Rows that are read from now on find them by their keys: new users with their ages, films
        with what has been seen since. Nothing is learned; values that the fit has not seen count
        as unknown.

        Args:
            blocks: with the keys and columns of those that `fit` was given.

        Returns:
            self.

        Raises:
            DataError, SchemaError: no such block was fitted, or a column is missing.
        """
        check_is_fitted(self)
        self._features.update(check_blocks(blocks))
        return self

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
        models, row = self._machine.models(), self._features.flat(parts[0])
        if len(models) == 1:
            return explain_row(models[0], row)
        classes = self._targets.classes.tolist()
        if of not in classes:
            raise DataError(f"explain needs of=..., one of the classes {classes[:10]}, got {of!r}")
        return explain_row(models[classes.index(of)], row)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        precision: Precision | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the estimator to a file, whole or not at all; `load` reads it.

        Args:
            path: by custom ``name.crossfm``.
            precision: how factors are stored: "float32", "float16" for half the space, or "int8"
                for about a third, see `FactorModel.quantize`; None: as the model holds them, which
                after training is float32.
            metadata: anything JSON can hold, kept in the file's metadata as "about".

        Raises:
            ModelFileError: the system refused to write; the old file is unchanged.
        """
        check_is_fitted(self)
        save_estimator(self, path, precision, metadata)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = self.n_jobs not in (None, 1) and not self.deterministic
        return tags


def goes_row_by_row(estimator: Any) -> bool:
    """Whether there is a `partial_fit`; says why not."""
    if estimator.solver in SWEEPS:
        raise AttributeError(
            f"there is no partial_fit with solver={estimator.solver!r}, which sweeps over all rows"
            " together; fit anew, or take a solver that goes row by row, such as 'adagrad'"
        )
    return True
