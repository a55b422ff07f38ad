"""Fitting on files larger than memory: from paths to a task whose rows are read block by block."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier

from crossfm import _native
from crossfm.data import inputs
from crossfm.data.cache import CachedRows, Totals
from crossfm.data.memory import memory_limit
from crossfm.data.rows import Rows
from crossfm.data.schema import Schema
from crossfm.data.streams import expanded_size, stream_rows
from crossfm.data.tally import TargetTally
from crossfm.errors import DataError
from crossfm.estimators._features import Features, no_target
from crossfm.estimators._options import check_one_of
from crossfm.estimators._scaling import Scaling
from crossfm.estimators._targets import ClassTargets, Targets
from crossfm.estimators._watching import check_fraction

__all__ = ["StreamedRows", "features_of", "hold_out", "open_stream", "wants_stream"]

SHARE = 0.25  # of memory that rows may take before a fit streams
SAMPLED = 16  # blocks in which medians are looked for
MOST_HELD = 1_000_000  # rows held out for validation, which stay in memory


def wants_stream(estimator: Any, X: Any, y: Any, weight: Any, goes_on: bool) -> bool:
    """Whether a fit reads its rows block by block: asked to, or files too large for memory.

    Raises:
        DataError: it is asked to, and X, y or sample_weight cannot be had that way.
    """
    stream = getattr(estimator, "stream", False)
    check_one_of("stream", stream, ("auto", True, False))
    if stream is False or stream == 0:
        return False
    found = None
    if inputs.kind_of(X) != "path":
        found = f"X is a {type(X).__name__}: write it to files, and give their paths"
    elif any(given is not None and not isinstance(given, str) for given in (y, weight)):
        found = "y or sample_weight is an array: name their columns in the files"
    elif goes_on:
        found = "warm_start goes on from a model whose ids are known: take partial_fit"
    if stream == "auto":
        return found is None and expanded_size(X) > SHARE * memory_limit()
    if found is not None:
        raise DataError(f"stream=True reads files block by block, but {found}")
    return True


class StreamedRows:
    """Blocks of a cache as training sees them: targets as codes, weights of mean 1, values scaled.

    Args:
        cached: the cache, with targets.
        targets: how targets are read.
        of_class: the weight of each class, or None.
        schema: that made the ids, or None.

    Attributes:
        cached, targets, of_class, schema: as given.
        blocks: those of the cache that are meant; all, at first.
        weight: sum of the rows' weights.
        scaling: of values, or None.
    """

    def __init__(
        self,
        cached: CachedRows,
        targets: Targets,
        of_class: NDArray[np.float64] | None,
        schema: Schema | None,
    ) -> None:
        tally = cached.targets
        assert tally is not None
        self.cached, self.targets, self.of_class, self.schema = cached, targets, of_class, schema
        self.blocks = list(range(len(cached)))
        self.scaling: Scaling | None = None
        self._squares: float | None = None  # of scaled values
        self._left_out = np.zeros(cached.n_features, np.uint32)
        self._label_codes: NDArray[np.float32] | None = None
        if isinstance(targets, ClassTargets):
            self._label_codes = targets.encode(label_array(cached))
        total = tally.weight
        if of_class is not None:
            assert self._label_codes is not None
            total = float(np.array(tally.weights) @ of_class[self._label_codes.astype(np.intp)])
        self._is_weighted = of_class is not None or tally.weight != tally.rows
        self._mean_weight = total / tally.rows
        self.weight = float(tally.rows)

    @property
    def totals(self) -> list[Totals]:
        """Of each block."""
        return [self.cached.totals[i] for i in self.blocks]

    @property
    def highest_field(self) -> int:
        """The largest field that rows carry; -1: they carry none."""
        return max((one.max_field for one in self.cached.stats), default=-1)

    @property
    def total(self) -> Totals:
        """Of all blocks; squares are those of scaled values."""
        found = Totals()
        for one in self.totals:
            found = found.plus(one)
        return found if self._squares is None else found._replace(squares=self._squares)

    def counts(self) -> NDArray[np.uint32]:
        """Rows that each feature is in."""
        return self.cached.counts() - self._left_out

    def start(self) -> NDArray[np.float64]:
        """Where the biases start."""
        tally, codes = self.cached.targets, self._label_codes
        assert tally is not None
        if codes is None:
            return self.targets.start(self.targets.encode(np.array([tally.mean])), None)
        weight = np.array(tally.weights)
        if self.of_class is not None:
            weight = weight * self.of_class[codes.astype(np.intp)]
        return self.targets.start(codes, weight)

    def learn_scaling(self, n_features: int) -> None:
        """Learn the scaling of values, where there are any, in one pass."""
        if self.cached.has_values:
            raw = (self._raw(i) for i in range(len(self.blocks)))
            self.scaling, self._squares = Scaling.learn_blocks(raw, n_features)

    def without(self, held: Sequence[int], rows: Rows) -> StreamedRows:
        """The blocks but those held out, whose rows are given."""
        kept = copy.copy(self)
        kept.blocks = [block for at, block in enumerate(self.blocks) if at not in {*held}]
        kept._left_out = self._left_out.copy()
        kept.weight -= len(rows) if rows.weights is None else rows.weights.sum(dtype=np.float64)
        _native.count_ids(rows.ids, kept._left_out)
        return kept

    def block(self, block: int) -> Rows:
        """The rows of one block; views of the cache where nothing has to be changed."""
        rows = self._raw(block)
        return rows if self.scaling is None else self.scaling.apply(rows)

    def _raw(self, block: int) -> Rows:
        """The same with values as they came."""
        at = self.blocks[block]
        rows = self.cached.block(at)
        codes = self._codes(self.cached.raw_targets(at))
        weights = rows.weights
        if self._is_weighted:
            w = np.ones(len(rows)) if weights is None else weights.astype(np.float64)
            if self.of_class is not None:
                w *= self.of_class[codes.astype(np.intp)]
            weights = (w / self._mean_weight).astype(np.float32)
        return rows.replace(targets=codes, weights=weights)

    def _codes(self, y: NDArray[Any]) -> NDArray[np.float32]:
        tally = self.cached.targets
        if self._label_codes is None or tally is None:
            return self.targets.encode(y)
        if tally.kind == "string":  # positions in the order of their coming
            return self._label_codes[y.astype(np.intp)]
        assert isinstance(self.targets, ClassTargets)
        classes = self.targets.classes.astype(np.float64)
        if y.dtype == np.float32 and np.array_equal(classes, np.arange(len(classes))):
            return y
        return np.searchsorted(classes, y).astype(np.float32)


def open_stream(estimator: Any, X: Any, y: Any, weight: Any, told: Any) -> StreamedRows:
    """The rows of files, from a cache that is made where there is none yet.

    Raises:
        DataError, SchemaError: as `stream_rows`; no targets.
    """
    cached, schema = stream_rows(
        X, schema=estimator.schema, targets=y, weights=weight, cache_dir=estimator.cache_dir,
        progress=told,
    )  # fmt: skip
    if cached.targets is None:
        raise no_target(type(estimator).__name__)
    targets = _learn_targets(estimator, cached, cached.targets)
    of_class = None
    if getattr(estimator, "class_weight", None) is not None:
        sums = np.array(cached.targets.weights)
        codes = targets.encode(label_array(cached))
        weighted = targets.weigh(codes, sums)
        of_class = np.zeros(len(sums))
        of_class[codes.astype(np.intp)] = weighted / sums
        if not of_class.all():
            raise DataError(
                "a class_weight of 0 leaves rows out, which stream=True reads all the same; take"
                " them out of the files"
            )
    return StreamedRows(cached, targets, of_class, schema)


def _learn_targets(estimator: Any, cached: CachedRows, tally: TargetTally) -> Targets:
    """How targets are read; medians and quantiles are those of a sample of the blocks."""
    labels = label_array(cached)
    if is_classifier(estimator) or tally.kind == "string":
        if labels is None:
            raise DataError(
                f"the {tally.rows:,} targets are too many different numbers to be classes; take a"
                " regressor"
            )
        return estimator._learn_targets(labels, None)
    some = np.unique(np.linspace(0, len(cached) - 1, SAMPLED).astype(int)).tolist()
    y = np.concatenate([cached.raw_targets(i) for i in some])
    weights = [w for i in some if (w := cached.block(i).weights) is not None]
    weight = np.concatenate(weights) if len(weights) == len(some) else None
    return estimator._learn_targets(y, weight).of_all(tally.mean, tally.std)


def label_array(cached: CachedRows) -> NDArray[Any] | None:
    """The distinct targets as an array of their kind; None where they are too many to be labels."""
    assert cached.targets is not None
    labels = cached.targets.label_array()
    # Labels as they stand in text are whole numbers, not floats.
    is_text = cached.schema() is None
    if is_text and labels is not None and labels.dtype.kind == "f":
        return labels.astype(np.int64) if (labels == np.floor(labels)).all() else labels
    return labels


def features_of(rows: StreamedRows, owner: str, scale: bool) -> Features:
    """How X is read; learns the scaling of values that a schema has not scaled."""
    if rows.schema is not None:
        return Features("columns", owner, rows.schema)
    features = Features("ids", owner, n_features=max(1, rows.cached.n_features))
    if scale:
        rows.learn_scaling(features.n_features)
        features.scaling = rows.scaling
    return features


def hold_out(rows: StreamedRows, fraction: Any, seed: int) -> tuple[StreamedRows, Rows]:
    """The blocks to train on, and the rows of others, drawn at random, at most 1,000,000.

    Raises:
        DataError: a fraction out of range; a single block.
    """
    check_fraction(fraction)
    n = len(rows.blocks)
    if n < 2:
        raise DataError(
            f"all {rows.total.rows} rows are in one block, of which no other can be held out; give"
            " eval_set=(X, y), or early_stopping=False"
        )
    most = MOST_HELD * n // max(1, rows.total.rows)
    count = max(1, min(round(fraction * n), most, n - 1))
    held = np.sort(np.random.default_rng([seed, 1]).permutation(n)[:count]).tolist()
    valid = Rows.concatenate([rows.block(i) for i in held])
    return rows.without(held, valid), valid
