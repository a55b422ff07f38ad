"""The fused row-by-row trainer: parameters and optimizer state, and the native passes over them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.data.rows import Rows, RowStats
from crossfm.errors import DataError
from crossfm.model import (
    KINDS,
    FactorModel,
    empty_factors,
    fields_apart,
    group_fields,
    rows_by_field,
)
from crossfm.solvers.options import FTRL, SGD, AdaGrad, Adam, Loss, SolverOptions

__all__ = ["FusedTrainer", "Prepared", "padded_factors"]

# as the core numbers them
_LOSSES = {name: number for number, name in enumerate(get_args(Loss))}
CURVED = ("squared", "huber", "poisson")  # of curvature 1; others have a fifth or less
_OPTIMIZERS = {"sgd": 0, "adagrad": 1, "ftrl": 2, "adam": 3}

HOT_FEATURES = 2048  # at most so many features are private to each thread
HOT_SHARE = 1 / 5_000  # a feature is hot from this share of the rows on
# Rows that all threads together train before they see each other's work: a 32nd of those trained
# so far, within bounds. Copies that drift further apart overshoot when they are added up; scores
# that stay frozen for longer do so sooner. An epoch has at least so many blocks.
MERGED, FROZEN, GROWTH, BLOCKS_AN_EPOCH = (128, 8192), (4, 256), 32, 64
ROWS_A_THREAD = 2048  # below it, a thread costs more than the rows it takes over
RESTORED = 1 << 14  # features put back at a time


@dataclass(frozen=True)
class Prepared:
    """Rows that have passed the border: validated, grouped by field, ready for the kernels."""

    rows: Rows
    stats: RowStats
    batch: Any
    size: float  # mean sum of squared values of a row
    hot_ids: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.rows)


class FusedTrainer:
    """Parameters in training, feature-major, and the passes that change and read them.

    One feature's factors and their optimizer state lie side by side (``[v | state]``, 128 bytes
    at 16 factors with AdaGrad), its linear weight and state in an array of their own.

    Args:
        options: `AdaGrad`, `SGD`, `FTRL` or `Adam`.
        n_features: ids are below it; `grow` adds more.
        field_of: int32 ``[n_features]``, the field of each id; needed by
            ``interactions="across_fields"`` and by penalties per field where rows carry no
            fields of their own.

    A feature gets its random factors when rows that hold it are first prepared for training;
    one that never occurs keeps zeros, and adds nothing to a score.

    Example:
        >>> rows = Rows(np.array([[0, 2], [1, 2], [0, 3], [1, 3]]), targets=np.array([1, 0, 0, 1]))
        >>> trainer = FusedTrainer(AdaGrad(n_factors=4, loss="logistic", learning_rate=0.3), 4)
        >>> ready = trainer.prepare(rows)
        >>> losses = [trainer.train(ready) / len(rows) for _ in range(200)]
        >>> losses[-1] < 0.1 < losses[0]
        True
        >>> trainer.score(rows) > 0
        array([ True, False, False,  True])
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
        self._rows_trained = 0
        self._seen = np.zeros(0, bool)
        self._factors = _native.allocate(0)
        self._linear = _native.allocate(0)
        self._bias = np.zeros((options.n_outputs, 1 + options.states), np.float32)
        self._l2 = _penalties(options)
        self._field_weights = self._first_field_weights()
        self.set_bias(np.zeros(options.n_outputs))
        self.grow(n_features, field_of)

    # --- parameters -----------------------------------------------------------------------

    @property
    def bias(self) -> NDArray[np.float32]:
        """Bias of each output, ``[n_outputs]``; a copy."""
        return self._bias[:, 0].copy()

    def set_bias(self, bias: NDArray[np.floating]) -> None:
        """Start the biases here, e.g. at the log odds of the base rate."""
        self._bias[:] = 0.0
        self._bias[:, 0] = bias
        if isinstance(self.options, AdaGrad):
            self._bias[:, 1] = self.options.initial_accumulator
        elif isinstance(self.options, FTRL):
            self._bias[:, 1] = -self._bias[:, 0] * self.options.beta / self.options.learning_rate

    @property
    def field_weights(self) -> NDArray[np.float32] | None:
        """Weights of each two fields, ``[n_outputs, n_fields, n_fields]``; a view."""
        if self._field_weights is None:
            return None
        return self._field_weights[:, 0, :, : self.options.n_fields]

    def _first_field_weights(self) -> NDArray[np.float32] | None:
        """All 1, with a fresh optimizer state: [outputs, 1 + states, n_fields, apart]."""
        o = self.options
        if o.model != "fwfm":
            return None
        shape = (o.n_outputs, 1 + o.states, o.n_fields, fields_apart(o.n_fields))
        table: NDArray[np.float32] = _native.allocate(int(np.prod(shape))).reshape(shape)
        table[:, 0, :, : o.n_fields] = 1.0 - np.eye(o.n_fields, dtype=np.float32)
        self._start_field_weights(table)
        return table

    def _start_field_weights(self, table: NDArray[np.float32]) -> None:
        if isinstance(self.options, AdaGrad):
            table[:, 1] = self.options.initial_accumulator
        elif isinstance(self.options, FTRL):
            table[:, 1] = -table[:, 0] * self.options.beta / self.options.learning_rate
            table[:, 2] = 0.0

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
        self.n_features = n_features

    def load(self, models: Sequence[FactorModel]) -> None:
        """Start from trained models, one an output, with a fresh optimizer state."""
        if len(models) != self.options.n_outputs:
            raise ValueError(f"{len(models)} models, {self.options.n_outputs} outputs")
        table, linear = self._views()
        for c, model in enumerate(models):
            o = self.options
            if (model.kind, model.n_factors) != (o.model, o.n_factors):
                raise ValueError(
                    f"the model is {model.kind!r} with {model.n_factors} factors, the trainer"
                    f" {o.model!r} with {o.n_factors}"
                )
            self._put(c, model)
            if self._field_weights is not None:
                self._start_field_weights(self._field_weights)
        self.set_bias(np.array([model.bias for model in models]))
        known = np.flatnonzero(linear[:, :, 0].any(axis=1) | table[:, :, 0].any(axis=(1, 2)))
        self._seen[known] = True
        self._start(known, draw=False)

    def _put(self, c: int, model: FactorModel) -> None:
        """The parameters of output `c`, but its bias."""
        table, linear = self._views()
        n, o = model.n_features, self.options
        table[:n, c, 0, : o.numbers] = model.factors.reshape(n, o.numbers)
        linear[:n, c, 0] = model.weights
        if self._field_weights is not None:
            self._field_weights[c, 0, :, : o.n_fields] = model.field_weights

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
                    **described,
                )
            )
        return models

    def parameters(
        self, output: int, ids: NDArray[Any] | slice = slice(None)
    ) -> tuple[float, NDArray[np.float32], NDArray[np.float32]]:
        """Bias, weights ``[len(ids)]`` and factors ``[len(ids), k]`` of one output.

        The vectors of a field-aware model stand side by side, ``[len(ids), n_fields k]``. A slice
        of ids gives views, which the next pass changes.
        """
        table, linear = self._views()
        factors = table[:, output, 0, : self.options.numbers]
        return float(self._bias[output, 0]), linear[:, output, 0][ids], factors[ids]

    def field_weights_of(self, output: int) -> NDArray[np.float32] | None:
        """Weights of each two fields of one output, a view; None where the model has none."""
        return None if self.field_weights is None else self.field_weights[output]

    def empty_factors(self, n_features: int) -> NDArray[np.float32]:
        """Zero factors of so many features, in the layout and shape of a `FactorModel`."""
        o = self.options
        return empty_factors(n_features, o.n_factors, o.n_fields if o.model == "ffm" else None)

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
        if isinstance(self.options, FTRL):
            o, (l2_linear, l2_factors) = self.options, self._l2
            field = self.field_of if len(l2_linear) > 1 and self.field_of is not None else None
            for low in range(0, self.n_features, RESTORED):
                part = slice(low, low + RESTORED)
                of = np.zeros(1, np.int32) if field is None else field[part]
                _settle(linear[part], o.l1_linear, l2_linear[of], o)
                _settle(table[part], o.l1_factors, l2_factors[of], o)
            _settle(self._bias[None], 0.0, np.zeros(1, np.float32), o)
            if self._field_weights is not None:
                _settle(self._field_weights[None], 0.0, np.zeros(1, np.float32), o)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """All that training changes: arrays, which are views, and numbers for `go_on`."""
        wide, narrow = self._widths()
        arrays: dict[str, NDArray[Any]] = {
            "factors": self._factors[: self.n_features * wide],
            "linear": self._linear[: self.n_features * narrow],
            "bias": self._bias,
            "seen": self._seen[: self.n_features],
        }
        return arrays, {"rows_trained": self._rows_trained}

    def go_on(self, numbers: Mapping[str, Any]) -> None:
        """Take up the numbers of a `state` whose arrays have been put back."""
        self._rows_trained = int(numbers["rows_trained"])

    # --- passes over rows -----------------------------------------------------------------

    def prepare(
        self, rows: Rows, *, training: bool = True, only: NDArray[np.int64] | None = None
    ) -> Prepared:
        """Check rows once; for training, also start the features that are new.

        Args:
            rows: the batch.
            training: False: the rows are only scored.
            only: the rows that will be trained on, None: all. Features of the others alone
                are not started.

        Raises:
            DataError: broken rows, ids beyond the table, targets that the loss cannot take.
        """
        stats = rows.validate(self.n_features)
        if training:
            self.check_targets(rows)
        across = self.options.interactions == "across_fields"
        by_field = across or len(self._l2[0]) > 1 or self.options.model != "fm"
        if by_field and rows.fields is None and self.field_of is None:
            raise DataError(
                "models and penalties that go by field need the field of each id: take rows made by"
                " a schema, or Rows(..., fields=...)"
            )
        field_of = self.field_of
        if self.options.model != "fm":
            ready, of = rows_by_field(rows, field_of, self.options.n_fields)
            by_place = ready.fields is None and of is None
            if len(self._l2[0]) == 1 or not by_place:  # penalties per field ask for the fields
                rows, field_of = ready, of
        elif across:
            rows = group_fields(rows, self.field_of)
        n_fields = len(self._l2[0])
        if n_fields > 1:
            fields = self.field_of if rows.fields is None else rows.fields
            highest = int(fields.max(initial=-1)) if fields is not None else -1
            if highest >= n_fields:
                raise DataError(f"penalties are given for {n_fields} fields, found field {highest}")
        batch = _native.Batch(
            ids=rows.ids,
            values=rows.values,
            offsets=rows.offsets,
            fields=rows.fields if by_field else None,
            field_of=field_of if by_field and rows.fields is None else None,
            targets=rows.targets,
            weights=rows.weights,
            n_rows=len(rows),
            longest_row=stats.longest_row,
            has_repeats=stats.has_repeats,
        )
        hot_ids = self._start_new(rows, only) if training else None
        squares = rows.nnz if rows.values is None else float(rows.values @ rows.values)
        return Prepared(rows, stats, batch, squares / max(len(rows), 1), hot_ids)

    def train(self, ready: Prepared, order: NDArray[np.int64] | None = None) -> float:
        """Train on the rows of `order` (None: all, as they come); the weighted sum of losses."""
        n_rows = len(ready) if order is None else len(order)
        threads = self.threads
        if not self.options.deterministic:
            threads = min(threads, max(1, len(ready) // ROWS_A_THREAD))
        loss: float = _native.train(
            batch=ready.batch,
            order=order,
            table=self._table(),
            steps=self._steps(),
            hot_ids=ready.hot_ids,
            rows_before=self._rows_trained,
            blocks=self._blocks(ready, threads),
            threads=threads,
            deterministic=self.options.deterministic,
        )
        self._rows_trained += n_rows
        return loss

    def score(self, rows: Rows | Prepared) -> NDArray[np.float32]:
        """Raw scores ``[n]``, or ``[n, n_outputs]`` with several outputs, read in place."""
        ready = rows if isinstance(rows, Prepared) else self.prepare(rows, training=False)
        wide, narrow = self._widths()
        per_output = 1 + self.options.states
        out = np.empty((self.options.n_outputs, len(ready)), np.float32)
        for c in range(self.options.n_outputs):
            _native.score(
                batch=ready.batch,
                factors=self._factors,
                factors_at=c * per_output * self.padded,
                model=KINDS[self.options.model],
                n_fields=self.options.n_fields,
                length=self.options.n_factors,
                field_weights=None
                if self._field_weights is None
                else self._field_weights.reshape(-1),
                field_weights_at=0
                if self._field_weights is None
                else c * self._field_weights[0].size,
                stride=wide,
                linear=self._linear,
                linear_at=c * per_output,
                linear_stride=narrow,
                bias=float(self._bias[c, 0]),
                k=self.padded,
                across_fields=self.options.interactions == "across_fields",
                n_features=self.n_features,
                out=out[c],
                threads=self.threads,
            )
        return out[0] if self.options.n_outputs == 1 else np.ascontiguousarray(out.T)

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
        narrow = self.options.n_outputs * (1 + self.options.states)
        return narrow * self.padded, narrow

    def _views(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """factors [n, outputs, 1 + states, padded] and linear [n, outputs, 1 + states]."""
        shape = (self.n_features, self.options.n_outputs, 1 + self.options.states)
        wide, narrow = self._widths()
        factors = self._factors[: self.n_features * wide].reshape(*shape, self.padded)
        return factors, self._linear[: self.n_features * narrow].reshape(shape)

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
            field_weights=None if self._field_weights is None else self._field_weights.reshape(-1),
        )

    def _steps(self) -> Any:
        o = self.options
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
            l2_linear=self._l2[0],
            l2_factors=self._l2[1],
        )

    def _blocks(self, ready: Prepared, threads: int) -> tuple[int, int, int]:
        """Least and most rows in a block, and rows trained before for each of them."""
        o = self.options
        least, most = FROZEN if o.deterministic else MERGED
        most = min(most, len(ready) // BLOCKS_AN_EPOCH)
        if isinstance(o, SGD | Adam):  # their steps do not shrink with the rows trained
            share = 0.5 if o.deterministic else 2.0 if o.loss in CURVED else 8.0
            most = min(most, int(share / (o.learning_rate * max(ready.size, 1e-6))))
        each = 1 if o.deterministic else threads
        most = max(1, most // each)
        return min(max(1, least // each), most), most, GROWTH * each

    def check_targets(self, rows: Rows) -> None:
        """Refuse targets that the loss cannot take.

        Raises:
            DataError: none at all, or one that is no class.
        """
        if rows.targets is None:
            raise DataError("training needs targets")
        if self.options.loss in ("squared", "huber", "quantile") or not len(rows):
            return
        if self.options.loss == "poisson":
            if (low := float(rows.targets.min())) < 0:
                row = int(np.argmin(rows.targets))
                raise DataError(f"row {row}: target is {low:g}, the poisson loss takes 0 or more")
            return
        classes = max(2, self.options.n_outputs)
        bad = (rows.targets < 0) | (rows.targets > classes - 1)
        bad |= rows.targets != np.floor(rows.targets)
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"row {row}: target is {rows.targets[row]:g}, the {self.options.loss} loss takes"
                f" whole numbers from 0 to {classes - 1}"
            )

    def _start_new(self, rows: Rows, only: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        """Start features seen for the first time; with several threads, choose the hot ones."""
        parallel = self.threads > 1 and not self.options.deterministic
        if not parallel and rows.nnz < self.n_features // 4:
            # work in proportion to the batch, not to the table
            ids = np.unique((rows if only is None else rows.take(only)).ids)
            self._start(ids[~self._seen[ids]].astype(np.int64))
            return None
        counts = np.zeros(self.n_features, np.uint32)
        _native.count_ids(rows.ids, counts)
        if only is not None:  # the few left out are counted off: no copy of the many
            left_out = np.ones(len(rows), bool)
            left_out[only] = False
            unused = np.zeros(self.n_features, np.uint32)
            _native.count_ids(rows.take(left_out).ids, unused)
            counts -= unused
        return self.start(counts, len(rows))

    def start(self, counts: NDArray[np.uint32], n_rows: int) -> NDArray[np.int64] | None:
        """Start the features that occur and are new.

        Args:
            counts: rows that each feature is in, ``[n_features]``.
            n_rows: rows that were counted.

        Returns:
            the features that threads hold copies of, or None with one thread.

        Raises:
            DataError: counts of more features than the table has.
        """
        if len(counts) > self.n_features:
            raise DataError(
                f"the rows have {len(counts)} features, the model has {self.n_features}"
            )
        self._start(np.flatnonzero((counts > 0) & ~self._seen[: len(counts)]))
        if self.threads == 1 or self.options.deterministic:
            return None
        hot = np.flatnonzero(counts >= max(2, HOT_SHARE * n_rows))
        return hot[np.argsort(counts[hot])[::-1][:HOT_FEATURES]].astype(np.int64)

    def _start(self, ids: NDArray[np.int64], *, draw: bool = True) -> None:
        self._seen[ids] = True
        o = self.options
        _native.start_features(
            table=self._table(),
            ids=ids,
            n_factors=o.numbers,
            scale=o.init_scale if draw else -1.0,
            seed=o.seed,
            accumulator=o.initial_accumulator if isinstance(o, AdaGrad) else 0.0,
            steps=self._steps(),
            field_of=self.field_of if len(self._l2[0]) > 1 else None,
            threads=self.threads,
        )


def _settle(part: NDArray[np.float32], l1: float, l2: NDArray[np.float32], o: FTRL) -> None:
    """Choose ``z`` so that ``v`` solves it: ``part`` is ``[n, outputs, (v, z, n), ...]``."""
    part = part.reshape(*part.shape[:3], -1)
    v, z, n = part[:, :, 0], part[:, :, 1], part[:, :, 2]
    curvature = (o.beta + np.sqrt(n)) / o.learning_rate + np.reshape(l2, (-1, 1, 1))
    z[...] = np.where(v == 0, np.clip(z, -l1, l1), -v * curvature - np.sign(v) * l1)


def padded_factors(options: SolverOptions) -> int:
    """Factors of a feature as the kernels hold them: 4, 8, or a multiple of 8.

    The vectors of a field-aware model are stepped as one, 16 numbers at a time.
    """
    if options.model == "ffm":
        return -(-options.numbers // 16) * 16
    return 4 if options.n_factors <= 4 else -(-options.n_factors // 8) * 8


def _grown(array: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    larger: NDArray[np.float32] = _native.allocate(size)
    larger[: array.size] = array
    return larger


def _penalties(options: SolverOptions) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """l2_linear and l2_factors as arrays of equal length: [1], or one a field."""
    linear = np.atleast_1d(np.asarray(options.l2_linear, np.float32))
    factors = np.atleast_1d(np.asarray(options.l2_factors, np.float32))
    length = max(len(linear), len(factors))
    if {len(linear), len(factors)} - {1, length}:
        raise ValueError(
            f"l2_linear has {len(linear)} entries and l2_factors {len(factors)}; expected one"
            " number, or one a field"
        )
    return (
        np.ascontiguousarray(np.broadcast_to(linear, length)),
        np.ascontiguousarray(np.broadcast_to(factors, length)),
    )
