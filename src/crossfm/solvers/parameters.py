"""Parameters in training: tables with the optimizer's state, and models put in and taken out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.by_field import fields_apart, spread_weights, weights_of
from crossfm.errors import DataError
from crossfm.factors import expect_exact
from crossfm.model import KINDS, FactorModel, empty_factors
from crossfm.solvers.bfloat16 import from_bfloat16, to_bfloat16
from crossfm.solvers.counts import FeatureCounts
from crossfm.solvers.options import (
    FTRL,
    PENALTIES,
    AdaGrad,
    Adam,
    Loss,
    RowwiseAdaGrad,
    SolverOptions,
)

__all__ = ["Parameters", "padded_factors"]

# as the core numbers them
_LOSSES = {name: number for number, name in enumerate(get_args(Loss))}
_OPTIMIZERS = {"sgd": 0, "adagrad": 1, "ftrl": 2, "adam": 3, "rowwise_adagrad": 4}

RESTORED = 1 << 14  # features put back at a time


class Parameters:
    """Parameters of the models in training, feature-major, each beside its optimizer state.

    One feature's factors and their optimizer state lie side by side (``[v | state]``, 128 bytes
    at 16 factors with AdaGrad), its linear weight and state in an array of their own.

    Args:
        options: `AdaGrad`, `RowwiseAdaGrad`, `SGD`, `FTRL` or `Adam`.
        n_features: ids are below it; `grow` adds more.
        field_of: int32 ``[n_features]``, the field of each id, or None.

    Attributes:
        options: as given.
        n_features: ids are below it.
        field_of: as given, grown.
        padded: numbers that the kernels hold of a feature, an output.

    Example:
        >>> held = Parameters(AdaGrad(n_factors=3), 2)
        >>> held.set_bias(np.array([0.5]))
        >>> held.models()[0]
        FactorModel(n_features=2, n_factors=3, interactions='all', task='regression')
    """

    def __init__(
        self,
        options: SolverOptions,
        n_features: int,
        field_of: NDArray[np.int32] | None = None,
    ) -> None:
        self.options = options
        self.n_features = 0
        self.padded = padded_factors(options)
        self.field_of: NDArray[np.int32] | None = None
        self._rows_trained = self._rows_adapted = 0
        self._seen = np.zeros(0, bool)
        self._factors = _native.allocate(0)
        self._linear = _native.allocate(0)
        self._bias = np.zeros((options.n_outputs, 1 + options.linear_states), np.float32)
        self._l2, self._rates = _of_fields(options)
        self._counts = FeatureCounts(options) if FeatureCounts.wanted(options) else None
        self._field_weights = self._first_field_weights()
        self.set_bias(np.zeros(options.n_outputs))
        self.grow(n_features, field_of)

    @property
    def bias(self) -> NDArray[np.float32]:
        """Bias of each output, ``[n_outputs]``; a copy."""
        return self._bias[:, 0].copy()

    def set_bias(self, bias: NDArray[np.floating]) -> None:
        """Start the biases here, e.g. at the log odds of the base rate."""
        self._bias[:] = 0.0
        self._bias[:, 0] = bias
        if isinstance(self.options, AdaGrad | RowwiseAdaGrad):
            self._bias[:, 1] = self.options.initial_accumulator
        elif isinstance(self.options, FTRL):
            self._bias[:, 1] = -self._bias[:, 0] * self.options.beta / self.options.learning_rate

    @property
    def field_weights(self) -> NDArray[np.float32] | None:
        """Weights of each two fields, ``[n_outputs, n_fields, n_fields]``; a view.

        Of a field-matrixed model they are ``[n_outputs, n_fields, n_fields, k, k]``.
        """
        if self._field_weights is None:
            return None
        o = self.options
        matrix = (o.n_factors, o.n_factors) if o.model == "fmfm" else ()
        return weights_of(self._field_weights[:, 0], o.n_fields, matrix)

    def _first_field_weights(self) -> NDArray[np.float32] | None:
        """All 1, or the identity, with a fresh state: [outputs, 1 + states, rows, apart]."""
        o = self.options
        if o.model not in ("fwfm", "fmfm"):
            return None
        start = 1.0 - np.eye(o.n_fields, dtype=np.float32)
        if o.model == "fmfm":
            start = start[:, :, None, None] * np.eye(o.n_factors, dtype=np.float32)
        spread = spread_weights(start, self.padded)
        rows = o.n_fields * (self.padded if o.model == "fmfm" else 1)
        shape = (o.n_outputs, 1 + o.states, rows, fields_apart(rows))
        table: NDArray[np.float32] = _native.allocate(int(np.prod(shape))).reshape(shape)
        table[:, 0] = spread.reshape(shape[2:])
        self._start_field_weights(table)
        return table

    def _start_field_weights(self, table: NDArray[np.float32]) -> None:
        table[:, 1:] = 0.0
        if isinstance(self.options, AdaGrad):
            table[:, 1] = self.options.initial_accumulator
        elif isinstance(self.options, FTRL):
            table[:, 1] = -table[:, 0] * self.options.beta / self.options.learning_rate

    def grow(self, n_features: int, field_of: NDArray[np.int32] | None = None) -> None:
        """Make room for ids below `n_features`; what is there stays."""
        if n_features < self.n_features:
            raise ValueError(f"a table of {self.n_features} features cannot shrink to {n_features}")
        if field_of is not None:
            if len(field_of) != n_features:
                raise DataError(f"field_of has {len(field_of)} entries, expected {n_features}")
            self.field_of = np.ascontiguousarray(field_of, dtype=np.int32)
        elif self.field_of is not None and len(self.field_of) < n_features:
            raise DataError(f"the fields of features {len(self.field_of)} and up are not given")
        wide, narrow = self._widths()
        if n_features * wide > self._factors.size or n_features > len(self._seen):
            # Room to spare once a table grows, so that many small growths cost one copy each
            # time it doubles; none at the start, where the size is known.
            room = n_features if self.n_features == 0 else max(n_features, 3 * self.n_features // 2)
            self._factors = _grown(self._factors, room * wide)
            self._linear = _grown(self._linear, room * narrow)
            seen = np.zeros(room, bool)
            seen[: len(self._seen)] = self._seen
            self._seen = seen
            if self._counts is not None:
                self._counts.grow(room)
        self.n_features = n_features

    def load(self, models: Sequence[FactorModel]) -> None:
        """Start from trained models, one an output, with a fresh optimizer state.

        Raises:
            DataError: a model of less than float32 precision.
        """
        if len(models) != self.options.n_outputs:
            raise ValueError(f"{len(models)} models, {self.options.n_outputs} outputs")
        table, linear = self._views()
        for c, model in enumerate(models):
            expect_exact(model.precision)
            o = self.options
            if (model.kind, model.n_factors, model.order) != (o.model, o.n_factors, o.order):
                raise ValueError(
                    f"the model is {model.kind!r} with {model.n_factors} factors, the trainer"
                    f" {o.model!r} with {o.n_factors}"
                )
            self._put(c, model)
            if self._field_weights is not None:
                self._start_field_weights(self._field_weights)
        self.set_bias(np.array([model.bias for model in models]))
        known = np.flatnonzero(linear[:, :, 0].any(axis=1) | table[:, :, 0].any(axis=(1, 2)))
        if self._counts is not None:  # how often features were seen, no model says
            self._counts.know(np.flatnonzero(table[:, :, 0].any(axis=(1, 2))))
        self._start(known, draw=False)

    def _put(self, c: int, model: FactorModel) -> None:
        """The parameters of output `c`, but its bias."""
        table, linear = self._views()
        n, o = model.n_features, self.options
        factors = model.factors.reshape(n, o.numbers)
        table[:n, c, 0, : o.numbers] = to_bfloat16(factors) if o.bfloat16 else factors
        linear[:n, c, 0] = model.weights
        if self.field_weights is not None:
            self.field_weights[c] = model.field_weights

    def models(self, **described: Any) -> list[FactorModel]:
        """The parameters as one `FactorModel` an output: copies, finite or a `DataError`."""
        models = []
        for c in range(self.options.n_outputs):
            bias, weights, numbers = self.parameters(c)
            factors = self.empty_factors(self.n_features)
            factors.reshape(numbers.shape)[...] = numbers
            models.append(
                FactorModel(
                    bias=bias,
                    weights=weights,
                    factors=factors,
                    interactions=self.options.interactions,
                    field_of=self.field_of,
                    field_weights=self.field_weights_of(c),
                    order=self.options.order,
                    **described,
                )
            )
        return models

    def parameters(
        self, output: int, ids: NDArray[Any] | slice = slice(None)
    ) -> tuple[float, NDArray[np.float32], NDArray[np.float32]]:
        """Bias, weights ``[len(ids)]`` and factors ``[len(ids), k]`` of one output.

        The vectors of a field-aware model stand side by side, ``[len(ids), n_fields k]``. A slice
        of ids gives views, which the next pass changes; of bfloat16 factors, floats of their own.
        """
        table, linear = self._views()
        factors = table[:, output, 0, : self.options.numbers][ids]
        if self.options.bfloat16:
            factors = from_bfloat16(factors)
        return float(self._bias[output, 0]), linear[:, output, 0][ids], factors

    def field_weights_of(self, output: int) -> NDArray[np.float32] | None:
        """Weights of each two fields of one output; None where the model has none.

        The two halves of matrices step alike, up to rounding; the upper one counts.
        """
        if self.field_weights is None:
            return None
        weights = self.field_weights[output]
        if weights.ndim == 2:
            return weights
        f, g = np.indices(weights.shape[:2])
        return np.where((f < g)[:, :, None, None], weights, weights.transpose(1, 0, 3, 2))

    def empty_factors(self, n_features: int) -> NDArray[np.float32]:
        """Zero factors of so many features, in the layout and shape of a `FactorModel`."""
        o = self.options
        return empty_factors(n_features, o.n_factors, o.n_vectors)

    def restore(self, models: Sequence[FactorModel]) -> None:
        """Put parameters of an earlier moment back. Accumulated gradients stay.

        FTRL finds a parameter anew from its ``z`` at each step, so ``z`` goes back with it. Adam's
        mean gradient belongs to where it was taken, and starts from zero.
        """
        table, linear = self._views()
        for c, model in enumerate(models):
            self._put(c, model)
            self._bias[c, 0] = model.bias
        if isinstance(self.options, Adam):
            for state in (table[:, :, 1], linear[:, :, 1], self._bias[:, 1]):
                state[...] = 0.0
            if self._field_weights is not None:
                self._field_weights[:, 1] = 0.0
        if isinstance(self.options, FTRL):
            o, (l2_linear, l2_factors) = self.options, self._levelled()
            field = self.field_of if len(l2_linear) > 1 and self.field_of is not None else None
            for low in range(0, self.n_features, RESTORED):
                part = slice(low, min(low + RESTORED, self.n_features))
                of = np.zeros(1, np.int32) if field is None else field[part]
                size = 1.0 if self._counts is None else np.abs(self._counts.scales[part])
                rate = o.learning_rate * self._rates[of]
                _settle(linear[part], o.l1_linear, l2_linear[of] * size, rate, o.beta)
                _settle(table[part], o.l1_factors, l2_factors[of] * size, rate, o.beta)
            free = np.zeros(1), np.full(1, o.learning_rate)
            _settle(self._bias[None], 0.0, *free, o.beta)
            if self._field_weights is not None:
                _settle(self._field_weights[None], 0.0, *free, o.beta)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """All that training changes: arrays, which are views, and numbers for `go_on`."""
        wide, narrow = self._widths()
        arrays: dict[str, NDArray[Any]] = {
            "factors": self._factors[: self.n_features * wide],
            "linear": self._linear[: self.n_features * narrow],
            "bias": self._bias,
            "seen": self._seen[: self.n_features],
        }
        if self._field_weights is not None:
            arrays["field_weights"] = self._field_weights
        numbers: dict[str, Any] = {"rows_trained": self._rows_trained}
        if self.options.adaptive:
            arrays |= {"l2_linear": self._l2[0], "l2_factors": self._l2[1]}
            numbers["rows_adapted"] = self._rows_adapted
        if self._counts is not None:
            counted, sums = self._counts.state()
            arrays |= {name: array[: self.n_features] for name, array in counted.items()}
            numbers |= sums
        return arrays, numbers

    def go_on(self, numbers: Mapping[str, Any]) -> None:
        """Take up the numbers of a `state` whose arrays have been put back."""
        self._rows_trained = int(numbers["rows_trained"])
        self._rows_adapted = int(numbers.get("rows_adapted", 0))
        if self._counts is not None:
            self._counts.go_on(numbers)

    @property
    def penalties(self) -> dict[str, NDArray[np.float32]]:
        """l2_linear and l2_factors, ``[1]`` or one a field, as far as they have adapted; copies."""
        return {name: array.copy() for name, array in zip(PENALTIES, self._l2, strict=True)}

    @property
    def threads(self) -> int:
        """Threads that a pass uses."""
        if self.options.n_jobs > 0:
            return self.options.n_jobs
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1

    # --- inside ---------------------------------------------------------------------------

    def _widths(self) -> tuple[int, int]:
        """Floats that a feature takes in the factors and in the linear array."""
        o = self.options
        wide = o.n_outputs * (1 + o.states) * self.padded
        return wide // (2 if o.bfloat16 else 1), o.n_outputs * (1 + o.linear_states)

    def _views(self) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """factors [n, outputs, 1 + states, padded] and linear [n, outputs, 1 + linear_states].

        Of bfloat16 factors, their bits.
        """
        o, shape = self.options, (self.n_features, self.options.n_outputs)
        wide, narrow = self._widths()
        factors: NDArray[Any] = self._factors[: self.n_features * wide]
        if self.options.bfloat16:
            factors = factors.view(np.uint16)
        linear = self._linear[: self.n_features * narrow]
        return (
            factors.reshape(*shape, 1 + o.states, self.padded),
            linear.reshape(*shape, 1 + o.linear_states),
        )

    def _table(self) -> Any:
        return _native.Table(
            factors=self._factors,
            linear=self._linear,
            bias=self._bias.reshape(-1),
            n_features=self.n_features,
            padded=self.padded,
            outputs=self.options.n_outputs,
            optimizer=_OPTIMIZERS[self.options.optimizer],
            model=KINDS[self.options.model],
            n_fields=self.options.n_fields,
            length=self.options.n_factors,
            order=self.options.order,
            field_weights=None if self._field_weights is None else self._field_weights.reshape(-1),
            scales=None if self._counts is None else self._counts.scales,
            bfloat16=self.options.bfloat16,
        )

    def _levelled(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Penalties of fields, before the counts of their features scale them."""
        level = np.float32(1.0 if self._counts is None else self._counts.level)
        return self._l2[0] * level, self._l2[1] * level

    def _steps(self) -> Any:
        o, (l2_linear, l2_factors) = self.options, self._levelled()
        return _native.Steps(
            loss=_LOSSES[o.loss],
            loss_parameter=o.loss_parameter,
            across_fields=o.interactions == "across_fields",
            learning_rate=o.learning_rate,
            beta=o.beta if isinstance(o, FTRL) else o.beta1 if isinstance(o, Adam) else 1.0,
            beta2=o.beta2 if isinstance(o, Adam) else 0.0,
            epsilon=o.epsilon if isinstance(o, Adam) else 0.0,
            l1_linear=o.l1_linear if isinstance(o, FTRL) else 0.0,
            l1_factors=o.l1_factors if isinstance(o, FTRL) else 0.0,
            l2_linear=l2_linear,
            l2_factors=l2_factors,
            rates=self._rates,
            scaled=self._counts is not None and self._counts.scaling,
            seed=o.seed & 0xFFFFFFFF,
        )

    def _meet(self, ids: NDArray[np.int64], seen: NDArray[Any]) -> None:
        """Start features that are new, and the factors of those that have been seen enough."""
        new = ~self._seen[ids]
        if self._counts is None:
            self._start(ids[new])
            return
        frequent = np.isin(ids, self._counts.add(ids, seen), assume_unique=True)
        self._start(ids[new & frequent])
        self._start(ids[new & ~frequent], draw=False)
        self._start(ids[~new & frequent], weights=False)

    def _start(self, ids: NDArray[np.int64], *, draw: bool = True, weights: bool = True) -> None:
        self._seen[ids] = True
        o = self.options
        _native.start_features(
            table=self._table(),
            ids=ids,
            n_factors=o.numbers,
            scale=o.init_scale if draw else -1.0,
            seed=o.seed,
            accumulator=o.initial_accumulator if isinstance(o, AdaGrad | RowwiseAdaGrad) else 0.0,
            steps=self._steps(),
            field_of=self.field_of if len(self._l2[0]) > 1 else None,
            weights=weights,
            threads=self.threads,
        )


def _settle(
    part: NDArray[np.float32], l1: float, l2: NDArray[Any], rate: NDArray[Any], beta: float
) -> None:
    """Choose ``z`` so that ``v`` solves it: ``part`` is ``[n, outputs, (v, z, n), ...]``."""
    part = part.reshape(*part.shape[:3], -1)
    v, z, n = part[:, :, 0], part[:, :, 1], part[:, :, 2]
    curvature = (beta + np.sqrt(n)) / np.reshape(rate, (-1, 1, 1)) + np.reshape(l2, (-1, 1, 1))
    z[...] = np.where(v == 0, np.clip(z, -l1, l1), -v * curvature - np.sign(v) * l1)


def padded_factors(options: SolverOptions) -> int:
    """Factors of a feature as the kernels hold them: 4, 8, or a multiple of 8.

    The vectors of a field-aware model are stepped as one, 16 numbers at a time.
    """
    if options.model == "ffm":
        return -(-options.numbers // 16) * 16
    return 4 if options.numbers <= 4 else -(-options.numbers // 8) * 8


def _grown(array: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    larger: NDArray[np.float32] = _native.allocate(size)
    larger[: array.size] = array
    return larger


def _of_fields(
    options: SolverOptions,
) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]:
    """Penalties, and step sizes as shares of the learning rate: as long each, [1] or one a field.

    Raises:
        DataError: their lengths differ.
    """
    rates = np.asarray(options.field_learning_rates or [options.learning_rate], np.float64)
    given = {
        "l2_linear": np.atleast_1d(np.asarray(options.l2_linear, np.float32)),
        "l2_factors": np.atleast_1d(np.asarray(options.l2_factors, np.float32)),
        "field_learning_rates": (rates / options.learning_rate).astype(np.float32),
    }
    length = max(map(len, given.values()))
    if {len(array) for array in given.values()} - {1, length}:
        found = ", ".join(f"{name} {len(array)}" for name, array in given.items())
        raise DataError(f"expected one number, or one a field, found as many entries: {found}")
    linear, factors, relative = (
        np.array(np.broadcast_to(array, length)) for array in given.values()
    )
    return (linear, factors), relative
