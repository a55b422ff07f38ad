"""The machine inside an estimator: a trainer, and the models it amounts to, made when needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.estimators._features import Features
from crossfm.estimators._scaling import Scaling
from crossfm.estimators._targets import Targets
from crossfm.factors import expect_exact
from crossfm.model import FactorModel, empty_factors
from crossfm.solvers import FusedTrainer, SolverOptions
from crossfm.solvers.parameters import padded_factors

__all__ = ["Machine", "widened"]

CHUNK = 1 << 16  # features folded at a time


class Machine:
    """Parameters in training or trained, on the user's scale to those who ask.

    A solver works on standardised targets and scaled values. Scores, and the `FactorModel`s
    given out, are on the scale of the data: with target mean ``a`` and deviation ``d``,
    ``w0' = a + d w0``, ``w' = d w``, ``V' = sqrt(d) V``, after `Scaling.fold`.

    A small batch scored between two steps of training touches only its own features; the
    models of the whole table are made at the first need, and kept until it changes.

    Args:
        trainer: in training, or None.
        models: trained models, or None.
        features: how X is read; with the scaling of values.
        targets: the mean and deviation of targets, and the task.
    """

    def __init__(
        self,
        trainer: FusedTrainer | None,
        models: Sequence[FactorModel] | None,
        features: Features,
        targets: Targets,
    ) -> None:
        self.trainer = trainer
        self.features = features
        self.targets = targets
        self._models = None if models is None else tuple(models)
        self._usual: tuple[str, dict[str, float]] | None = None
        self.penalties: dict[str, NDArray[np.float32]] | None = None  # that have adapted

    @property
    def scaling(self) -> Scaling | None:
        """Of values."""
        return self.features.scaling

    def usual(self, solver: str, find: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What a solver takes where an option is left open: that of the first data, found once."""
        if self._usual is None or self._usual[0] != solver:
            self._usual = solver, find()
        return self._usual[1]

    def touched(self) -> None:
        """The trainer has moved on: models are out of date."""
        self._models = None

    def known(self) -> tuple[FactorModel, ...] | None:
        """The models, where they have been made since the last training."""
        return self._models

    def fall_back(self, models: tuple[FactorModel, ...] | None) -> bool:
        """Be these models again, where there are any, after training has gone wrong."""
        self._models = models
        if models is not None:
            self.trainer = None
        return models is not None

    def handed_on(self, features: Features) -> Machine:
        """A machine that trains on from here; this one keeps its models and lets go the trainer."""
        models, trainer = self.models(), self.trainer
        self.trainer = None
        machine = Machine(trainer, models, features, self.targets)
        machine._usual, machine.penalties = self._usual, self.penalties
        return machine

    def models(self) -> tuple[FactorModel, ...]:
        """One `FactorModel` an output, on the scale of the data."""
        self._catch_up()
        if self._models is None:
            trainer = self._need_trainer()
            n = trainer.n_features
            models = []
            for c in range(trainer.options.n_outputs):
                factors = trainer.empty_factors(n)
                numbers = factors.reshape(n, trainer.options.numbers)  # a view
                weights = np.empty(n, np.float32)
                bias = 0.0
                for low in range(0, n, CHUNK):
                    part = slice(low, min(low + CHUNK, n))
                    bias, weights[part], numbers[part] = self._folded(c, part)
                interactions = trainer.options.interactions
                models.append(
                    FactorModel(
                        bias,
                        weights,
                        factors,
                        interactions=interactions,
                        field_of=fields_for(trainer.options, self.features, always=True),
                        field_weights=trainer.field_weights_of(c),
                        order=trainer.options.order,
                        schema=self.features.schema,
                        task=self.targets.task,
                        metadata={"loss": self.targets.loss},
                    )
                )
            self._models = tuple(models)
        return self._models

    def score(self, rows: Rows, n_jobs: int | None = None) -> NDArray[np.float32]:
        """Scores ``[n]``, or ``[n, n_outputs]`` with several outputs."""
        models: Sequence[FactorModel]
        self._catch_up()
        if self._models is None and 4 * rows.nnz < self._need_trainer().n_features:
            models, rows = self._part(rows)
        else:
            models = self.models()
        scores = [model.score(rows, n_jobs) for model in models]
        return scores[0] if len(scores) == 1 else np.stack(scores, axis=1)

    def start(self, options: SolverOptions) -> FusedTrainer:
        """A trainer that knows nothing yet."""
        self.trainer = new_trainer(options, self.features)
        return self.trainer

    @property
    def n_factors(self) -> int:
        """Length of each feature's vector."""
        if self.trainer is not None:
            return self.trainer.options.n_factors
        return self.models()[0].n_factors

    @property
    def n_fields(self) -> int | None:
        """Number of fields that there are parameters for; None: none, or not known yet."""
        if self.trainer is not None:
            return self.trainer.options.n_fields or None
        return None if self._models is None else self._models[0].n_fields

    def ready_to_train(self, options: SolverOptions) -> FusedTrainer:
        """The trainer; one that starts from the models where there is none, or none like this."""
        self._catch_up()
        if self.trainer is None or replace(options, seed=self.trainer.options.seed) != (
            self.trainer.options
        ):
            models = self.models()
            self.expect_exact()
            trainer = new_trainer(options, self.features)
            trainer.load([self._unfolded(model) for model in models])
            self.trainer = trainer
        return self.trainer

    def expect_exact(self) -> None:
        """Refuse to train on from rounded models.

        Raises:
            DataError: what the models are, and how to convert them.
        """
        if self.trainer is None and self._models is not None:
            for model in self._models:
                expect_exact(model.precision)

    # --- inside -----------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Make room for features that X has brought."""
        n = self.features.n_features
        if self.trainer is not None and n > self.trainer.n_features:
            check_size(self.trainer.options, n)
            self.trainer.grow(n, fields_for(self.trainer.options, self.features))
            self._models = None
        elif self._models is not None and n > self._models[0].n_features:
            self._models = tuple(widened(one, n, self.features) for one in self._models)

    def _need_trainer(self) -> FusedTrainer:
        assert self.trainer is not None
        return self.trainer

    def _part(self, rows: Rows) -> tuple[list[FactorModel], Rows]:
        """Models of the features of these rows alone, and the rows by their new ids."""
        trainer = self._need_trainer()
        rows.validate(trainer.n_features)
        ids, places = np.unique(rows.ids, return_inverse=True)
        if not len(ids):
            ids = np.zeros(1, rows.ids.dtype)
        field_of = trainer.field_of
        models = []
        for c in range(trainer.options.n_outputs):
            bias, weights, numbers = self._folded(c, ids)
            factors = trainer.empty_factors(len(ids))
            factors.reshape(numbers.shape)[...] = numbers
            models.append(
                FactorModel(
                    bias,
                    weights,
                    factors,
                    interactions=trainer.options.interactions,
                    field_of=None if field_of is None else field_of[ids],
                    field_weights=trainer.field_weights_of(c),
                    order=trainer.options.order,
                )
            )
        return models, Rows(
            places.astype(np.int32),
            rows.values,
            rows.offsets,
            rows.fields,
            n_rows=len(rows),
        )

    def _folded(
        self, c: int, ids: NDArray[Any] | slice
    ) -> tuple[float, NDArray[np.float32], NDArray[np.float32]]:
        """Bias, weights and factors of output `c` and the features `ids`, on the data's scale."""
        trainer = self._need_trainer()
        bias, weights, factors = trainer.parameters(c, ids)
        if self.scaling is None and self.targets.std == 1.0:
            return bias + self.targets.mean, weights, factors
        w, v = weights.astype(np.float64), factors.astype(np.float64)
        if self.scaling is not None:
            _, w_c, v_c = trainer.parameters(c, self.scaling.centred)
            centred = w_c.astype(np.float64), v_c.astype(np.float64)
            bias, w, v = self.scaling.fold(bias, w, v, ids, centred)
        return (
            self.targets.mean + self.targets.std * bias,
            (self.targets.std * w).astype(np.float32),
            (v * self._root(trainer.options.order, v.shape[1])).astype(np.float32),
        )

    def _root(self, order: int, numbers: int) -> NDArray[np.float64]:
        """What a number of a feature's vectors is multiplied by, on the targets' scale ``d``.

        A product of t of them is to be d times as large: ``d^(1/t)`` for the vectors of order t.
        """
        orders = np.repeat(np.arange(2, order + 1), numbers // (order - 1))
        return self.targets.std ** (1.0 / orders)

    def _unfolded(self, model: FactorModel) -> FactorModel:
        """The inverse, for a whole model."""
        if self.scaling is None and self.targets.std == 1.0 and self.targets.mean == 0.0:
            return model
        bias = (model.bias - self.targets.mean) / self.targets.std
        w = model.weights.astype(np.float64) / self.targets.std
        v = model.factors.reshape(len(w), model.factors[0].size).astype(np.float64)
        v /= self._root(model.order, v.shape[1])
        if self.scaling is not None:
            bias, w, v = self.scaling.unfold(bias, w, v)
        return FactorModel(
            bias,
            w.astype(np.float32),
            v.astype(np.float32).reshape(model.factors.shape),
            interactions=model.interactions,
            field_of=model.field_of,
            field_weights=model.field_weights,
            order=model.order,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Models, without the trainer: an optimizer's state is not kept in a pickle."""
        models = self.models()
        return {**self.__dict__, "trainer": None, "_models": models}


def widened(model: FactorModel, n: int, features: Features) -> FactorModel:
    """A model with room for `n` features, of which those that are new add nothing."""
    factors = empty_factors(n, model.n_factors, model.n_vectors)
    factors[: model.n_features] = model.factors
    weights = np.zeros(n, np.float32)
    weights[: model.n_features] = model.weights
    return replace(
        model,
        weights=weights,
        factors=factors,
        field_of=features.field_of(
            model.interactions == "across_fields" or model.n_fields is not None
        ),
        schema=features.schema,
    )


def new_trainer(options: SolverOptions, features: Features) -> FusedTrainer:
    """A trainer for the features, untrained."""
    check_size(options, features.n_features)
    return FusedTrainer(options, features.n_features, fields_for(options, features))


def fields_for(
    options: SolverOptions, features: Features, *, always: bool = False
) -> NDArray[np.int32] | None:
    """The field of each id, where the solver needs it; `always`: where it is known."""
    by_field = options.interactions == "across_fields" or options.model != "fm"
    each = (options.l2_linear, options.l2_factors, options.field_learning_rates or 0.0)
    by_field = by_field or any(np.ndim(one) > 0 for one in each)
    return features.field_of(by_field) if by_field or always else None


def check_size(options: SolverOptions, n_features: int) -> None:
    """Refuse a table that cannot fit into memory, before the system is asked for it.

    Raises:
        DataError: the size found, and what to do.
    """
    wide = (1 + options.states) * padded_factors(options) * (2 if options.bfloat16 else 4)
    size = n_features * options.n_outputs * (wide + 4 * (1 + options.linear_states))
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        memory = 2**63
    if size > memory:
        raise DataError(
            f"ids up to {n_features - 1} make a table of {size / 2**30:,.0f} GB, more than"
            f" the memory of this machine ({memory / 2**30:,.0f} GB); renumber or hash the ids, or"
            " take fewer factors"
        )
