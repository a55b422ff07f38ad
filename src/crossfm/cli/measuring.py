"""Metrics of a model over files: targets and scores collected batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossfm.cli.errors import usage_error
from crossfm.cli.output import Screen
from crossfm.cli.task import target_of
from crossfm.errors import DataError

if TYPE_CHECKING:
    from crossfm.cli.scoring import Batch, Scorer
    from crossfm.metrics import Metric

__all__ = ["Collected", "chosen_metrics", "collect", "measure", "values_of"]

REGRESSION = ("rmse", "mae")
TWO_CLASSES = ("log_loss", "auc", "normalized_entropy", "ece")
CLASSES = ("log_loss",)
MARGINS = ("hinge_loss", "auc")  # of two classes without probabilities
COMPARE_CLASSES = ("auc", "normalized_entropy", "grouped_auc")  # undefined where there is one


def chosen_metrics(names: Sequence[str], group: str | None) -> list[Metric]:
    """The metrics of these names.

    Raises:
        typer.BadParameter: a name that is none, or a metric and `group` that do not fit.
    """
    from crossfm.metrics import get_metric

    found = []
    for name in names:
        try:
            metric = get_metric(name)
        except DataError as error:
            usage_error(f"--metrics: {error}")
        if metric.name == "grouped_auc" and group is None:
            usage_error("--metrics grouped_auc needs --group, the column of the groups")
        found.append(metric)
    if group is not None and not any(metric.takes_groups for metric in found):
        usage_error("--group is given, and no metric goes by it: grouped_auc, ndcg@10, ... do")
    return found


def measure(
    scorer: Scorer,
    data: Sequence[Path],
    target: str | None,
    names: Sequence[str],
    group: str | None,
    weight: str | None,
    screen: Screen,
) -> dict[str, float]:
    """Each metric's value over all rows.

    Args:
        scorer: the model.
        data: files.
        target: the column of the targets; None: text formats, which carry them.
        names: of metrics; empty: those of the task.
        group: the column of groups, or None.
        weight: the column of weights, or None.
        screen: is told what is left out.

    Raises:
        SchemaError, DataError: as `Scorer.batches`; targets that the model does not know.
    """
    return values_of(scorer, collect(scorer, data, target, group, weight), names, screen)


class Collected(NamedTuple):
    """All rows of some files: what they are, and how they were scored."""

    truth: NDArray[Any]
    score: NDArray[np.float32]
    groups: NDArray[Any] | None
    weights: NDArray[np.float64] | None
    group: str | None


def collect(
    scorer: Scorer,
    data: Sequence[Path],
    target: str | None,
    group: str | None = None,
    weight: str | None = None,
) -> Collected:
    """Score the rows of files; arguments as in `measure`."""
    columns = [name for name in (target, group, weight) if name is not None]
    truths, scores, groups, weights = [], [], [], []
    for batch in scorer.batches(data, columns):
        y = _targets(batch, target)
        truths.append(scorer.codes(y, batch.start) if scorer.is_classifier else _numbers(y, target))
        scores.append(batch.scores)
        if group is not None:
            groups.append(_keys(batch, group))
        if weight is not None:
            weights.append(_weights(batch, weight))
    return Collected(
        np.concatenate(truths),
        np.concatenate(scores),
        np.concatenate(groups) if groups else None,
        np.concatenate(weights) if weights else None,
        group,
    )


def values_of(
    scorer: Scorer, rows: Collected, names: Sequence[str], screen: Screen
) -> dict[str, float]:
    """Each metric's value; empty `names`: those of the task."""
    truth, score = rows.truth, rows.score
    wanted = (
        chosen_metrics(names, rows.group) if names else _usual(scorer, truth, rows.group, screen)
    )
    proba = None
    for metric in wanted if scorer.is_classifier else ():
        if metric.needs == "probability" and not scorer.knows_probabilities:
            usage_error(f"--metrics {metric.name}: a model of loss 'hinge' knows no probabilities")
    if scorer.is_classifier and scorer.knows_probabilities:
        proba = scorer.probabilities(score)
    values = {}
    for metric in wanted:
        given: Any = score
        if metric.needs == "probability":
            given = proba
        values[metric.name] = metric(
            truth,
            given,
            sample_weight=rows.weights,
            groups=rows.groups,
        )
    return values


def _usual(scorer: Scorer, truth: NDArray[Any], group: str | None, screen: Screen) -> list[Metric]:
    """The metrics of the task that have a value here."""
    if not scorer.is_classifier:
        named = [*scorer.own_metrics, *REGRESSION, *(["ndcg@10"] if group else [])]
        return chosen_metrics(named, group)
    knows = scorer.knows_probabilities
    if len(scorer.estimator.classes_) > 2:
        return chosen_metrics(CLASSES if knows else MARGINS[:1], None)
    names = [*(TWO_CLASSES if knows else MARGINS), *(["grouped_auc"] if group else [])]
    if len(np.unique(truth)) < 2:
        screen.warn(f"all rows are of one class, so there is no {' and no '.join(COMPARE_CLASSES)}")
        names, group = [name for name in names if name not in COMPARE_CLASSES], None
    return chosen_metrics(names, group)


def _targets(batch: Batch, target: str | None) -> NDArray[Any]:
    if batch.table is None or target is None:
        assert batch.targets is not None
        return batch.targets
    return target_of(batch.table, target, batch.start)


def _numbers(y: NDArray[Any], target: str | None) -> NDArray[np.float64]:
    if y.dtype.kind in "OUS":
        raise DataError(
            f"{target or 'the target'} holds strings such as {y[0]!r}; this model predicts numbers"
        )
    return y.astype(np.float64)


def _keys(batch: Batch, name: str) -> NDArray[Any]:
    """The group of each row; rows without one share a group."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from crossfm.data.values import one, plain

    assert batch.table is not None
    column = one(plain(batch.table.column(name), name))
    try:
        keys = pc.fill_null(column.cast(pa.large_string()), "")
    except pa.ArrowException as error:
        raise DataError(
            f"--group {name}: a group is one value, the column holds {column.type}"
        ) from error
    return keys.to_numpy(zero_copy_only=False)


def _weights(batch: Batch, name: str) -> NDArray[np.float64]:
    from crossfm.data.values import numbers

    assert batch.table is not None
    return numbers(batch.table.column(name), name)
