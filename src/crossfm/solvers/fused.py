"""The fused row-by-row trainer: the native passes over parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.by_field import group_fields, rows_by_field
from crossfm.data.rows import Rows, RowStats
from crossfm.errors import DataError
from crossfm.model import KINDS
from crossfm.solvers import bfloat16
from crossfm.solvers.options import PENALTIES, SGD, Adam
from crossfm.solvers.parameters import Parameters

__all__ = ["FusedTrainer", "Prepared"]

CURVED = ("squared", "huber", "poisson")  # of curvature 1; others have a fifth or less

HOT_FEATURES = 2048  # at most so many features are private to each thread
HOT_SHARE = 1 / 5_000  # a feature is hot from this share of the rows on
# Rows that all threads together train before they see each other's work: a 32nd of those trained
# so far, within bounds. Copies that drift further apart overshoot when they are added up; scores
# that stay frozen for longer do so sooner. An epoch has at least so many blocks.
MERGED, FROZEN, GROWTH, BLOCKS_AN_EPOCH = (128, 8192), (4, 256), 32, 64
ADAPTED = 0.1 / 256  # step of an adaptive penalty, a row
ROWS_A_THREAD = 2048  # below it, a thread costs more than the rows it takes over


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


@final
class FusedTrainer(Parameters):
    """Parameters in training, and the passes that change and read them.

    Args:
        options: `AdaGrad`, `RowwiseAdaGrad`, `SGD`, `FTRL` or `Adam`.
        n_features: ids are below it; `grow` adds more.
        field_of: int32 ``[n_features]``, the field of each id; needed by
            ``interactions="across_fields"`` and by penalties or learning rates per field where
            rows carry no fields of their own.

    A feature gets its random factors when rows that hold it are first prepared for training;
    one that never occurs keeps zeros, and adds nothing to a score. (With ``min_count_factors`` it
    gets them when it has occurred so often.)

    Example:
        >>> from crossfm.solvers import AdaGrad
        >>> rows = Rows(np.array([[0, 2], [1, 2], [0, 3], [1, 3]]), targets=np.array([1, 0, 0, 1]))
        >>> trainer = FusedTrainer(AdaGrad(n_factors=4, loss="logistic", learning_rate=0.3), 4)
        >>> ready = trainer.prepare(rows)
        >>> losses = [trainer.train(ready) / len(rows) for _ in range(200)]
        >>> losses[-1] < 0.1 < losses[0]
        True
        >>> trainer.score(rows) > 0
        array([ True, False, False,  True])
    """

    _pass: tuple[int, int, NDArray[np.int64]] | None = None

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
        by_field = across or len(self._l2[0]) > 1 or self.options.by_field
        if by_field and rows.fields is None and self.field_of is None:
            raise DataError(
                "models, penalties and learning rates that go by field need the field of each id:"
                " take rows made by a schema, or Rows(..., fields=...)"
            )
        field_of = self.field_of
        if self.options.by_field:
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
                raise DataError(
                    f"penalties or learning rates are given for {n_fields} fields, found field"
                    f" {highest}"
                )
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

    def adapt(self, ready: Prepared, n_rows: int) -> None:
        r"""Move the adaptive penalties against their gradient on rows that are not trained on.

        A step of a parameter with the penalty ``l`` of its field takes ``rate l theta`` off, so
        that a loss with gradient ``h`` at ``theta`` changes by ``-rate h theta`` per unit of ``l``
        ("adagrad": with the step size of each number), and
        ``l <- max(0, l + STEP sum_rows sum_i rate_i h_i theta_i)`` over the field's parameters.
        Rows are visited in an order of their own, pass by pass; the work is that of training on
        as many.

        Args:
            ready: validation rows with targets.
            n_rows: rows trained on since the last call; as many are looked at, or all there are.

        Source: Rendle 2012, Learning Recommender Systems with Adaptive Regularization, which
        takes the gradient where one step more would lead, and this where the last one has led.
        """
        n = len(ready)
        looked, at = min(n_rows, n), self._rows_adapted % n
        passed = self._rows_adapted // n
        visited = self._in_pass(passed, n)[at : at + looked]
        if len(visited) < looked:
            visited = np.concatenate(
                [visited, self._in_pass(passed + 1, n)[: looked - len(visited)]]
            )
        self._rows_adapted += looked
        change = self.pulls(ready, visited)
        weights = ready.rows.weights
        weight = looked if weights is None else float(weights[visited].sum(dtype=np.float64))
        for name, old, by in zip(PENALTIES, self._l2, change, strict=True):
            if name in self.options.adaptive and weight > 0:
                old[:] = np.maximum(0.0, old - ADAPTED * n_rows / weight * by)

    def pulls(self, ready: Prepared, order: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """How a unit more of each penalty would change the loss by one step: ``[2, n_fields]``.

        Weights first, then factors; with one penalty for all fields ``[2, 1]``.
        """
        out = np.zeros((2, len(self._l2[0])))
        _native.pulls(
            batch=ready.batch, order=order, table=self._table(), steps=self._steps(),
            out=out.reshape(-1),
        )  # fmt: skip
        return out * (1.0 if self._counts is None else self._counts.level)

    def _in_pass(self, number: int, n: int) -> NDArray[np.int64]:
        """The order of a pass over n validation rows, kept until the next is asked for."""
        if self._pass is None or self._pass[:2] != (number, n):
            rng = np.random.default_rng([self.options.seed, 2, number])
            self._pass = number, n, rng.permutation(n)
        return self._pass[2]

    def score(self, rows: Rows | Prepared) -> NDArray[np.float32]:
        """Raw scores ``[n]``, or ``[n, n_outputs]`` with several outputs, read in place."""
        ready = rows if isinstance(rows, Prepared) else self.prepare(rows, training=False)
        wide, narrow = self._widths()
        per_output = 1 + self.options.linear_states
        out = np.empty((self.options.n_outputs, len(ready)), np.float32)
        for c in range(self.options.n_outputs):
            _native.score(
                batch=ready.batch,
                factors=self._factors,
                factors_at=c * wide // self.options.n_outputs,
                storage=bfloat16.STORAGE if self.options.bfloat16 else 0,
                model=KINDS[self.options.model],
                n_fields=self.options.n_fields,
                length=self.options.n_factors,
                order=self.options.order,
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

    # --- inside ---------------------------------------------------------------------------

    def _blocks(self, ready: Prepared, threads: int) -> tuple[int, int, int]:
        """Least and most rows in a block, and rows trained before for each of them."""
        o = self.options
        least, most = FROZEN if o.deterministic else MERGED
        most = min(most, len(ready) // BLOCKS_AN_EPOCH)
        if isinstance(o, SGD | Adam):  # their steps do not shrink with the rows trained
            largest = o.learning_rate * float(self._rates.max())
            share = 0.5 if o.deterministic else 2.0 if o.loss in CURVED else 8.0
            most = min(most, int(share / (largest * max(ready.size, 1e-6))))
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
            ids, seen = np.unique(
                (rows if only is None else rows.take(only)).ids, return_counts=True
            )
            self._meet(ids.astype(np.int64), seen)
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
        ids = np.flatnonzero(counts)
        self._meet(ids, counts[ids])
        if self.threads == 1 or self.options.deterministic:
            return None
        hot = np.flatnonzero(counts >= max(2, HOT_SHARE * n_rows))
        return hot[np.argsort(counts[hot])[::-1][:HOT_FEATURES]].astype(np.int64)
