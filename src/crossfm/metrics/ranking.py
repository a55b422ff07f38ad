"""Quality of an order: AUC, and per-group AUC, NDCG, recall and reciprocal rank.

Rows with equal scores have no order among themselves. Every metric here then is the mean
over all orders of the tied rows, so that a constant score earns what chance earns, and
the order of the input never matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm.errors import DataError
from crossfm.metrics._checks import Floats, binary, group_numbers, pair

__all__ = ["GroupedScore", "auc", "grouped_auc", "mrr", "ndcg_at_k", "recall_at_k"]

Ints = NDArray[np.intp]


class GroupedScore(float):
    """A mean over groups: a float that also knows how many groups it covers.

    Attributes:
        n_groups: groups that count.
        n_skipped: groups for which the metric has no value (one class only, or nothing
            relevant).

    Example:
        >>> score = GroupedScore(0.75, n_groups=9, n_skipped=1)
        >>> score, score.n_skipped
        (0.75, 1)
    """

    n_groups: int
    n_skipped: int

    def __new__(cls, value: float, n_groups: int, n_skipped: int) -> GroupedScore:
        """A float of `value` that carries the two counts."""
        self = super().__new__(cls, value)
        self.n_groups = n_groups
        self.n_skipped = n_skipped
        return self

    def __getnewargs__(self) -> tuple[float, int, int]:  # type: ignore[override]
        return float(self), self.n_groups, self.n_skipped


@dataclass(frozen=True, eq=False)
class _Runs:
    """Rows by group and falling score, cut into runs of equal group and equal score."""

    order: Ints  # [n] rows in this order
    start: Ints  # [m] first place of each run in `order`
    length: Ints  # [m]
    group: Ints  # [m] group of each run
    before: Ints  # [m] rows of the same group ahead of the run
    n_groups: int

    def total(self, by_row: Floats) -> Floats:
        """Sum over each run ``[m]`` of something a row ``[n]``."""
        sums: Floats = np.add.reduceat(by_row[self.order], self.start)
        return sums

    def by_group(self, by_run: Floats) -> Floats:
        """Sum over each group ``[G]`` of something a run ``[m]``."""
        return np.bincount(self.group, by_run, self.n_groups).astype(np.float64, copy=False)

    def ahead(self, by_run: Floats) -> Floats:
        """Sum over the runs of the same group ahead of each run ``[m]``."""
        before = np.cumsum(by_run) - by_run
        first = np.flatnonzero(self.before == 0)
        return before - before[first][self.group]


def _runs(score: Floats, group: Ints, n_groups: int) -> _Runs:
    order = np.lexsort((-score, group))
    score, group = score[order], group[order]
    new_group = np.r_[True, group[1:] != group[:-1]]
    start = np.flatnonzero(new_group | np.r_[True, score[1:] != score[:-1]])
    length = np.diff(np.r_[start, len(score)])
    first = np.flatnonzero(new_group)  # [G]: every group has a row
    group = group[start]
    return _Runs(order, start, length, group, start - first[group], n_groups)


def _wins(runs: _Runs, positive: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """Weight of the pairs in right order, of the positives, of the negatives, a group ``[G]``."""
    pos, neg = runs.total(weight * positive), runs.total(weight * (1 - positive))
    n_pos, n_neg = runs.by_group(pos), runs.by_group(neg)
    behind = n_neg[runs.group] - runs.ahead(neg) - neg / 2  # tied pairs count a half
    return runs.by_group(pos * behind), n_pos, n_neg


def auc(y_true: ArrayLike, y_score: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    r"""Area under the ROC curve: the chance that a positive row scores above a negative one.

    ``sum_{p, q} c_p c_q ([s_p > s_q] + [s_p = s_q] / 2) / (sum_p c_p sum_q c_q)`` over
    positives p and negatives q; 1 is perfect, 0.5 chance. Exact, in O(n log n).

    Args:
        y_true: ``[n]`` labels 0 and 1 (or -1 and 1), both present.
        y_score: ``[n]`` scores, logits or probabilities: only their order counts.
        sample_weight: ``c`` ``[n]``, 0 or more; None: ones.

    Raises:
        DataError: lengths that differ, no rows, NaN, other labels, a single class.

    Example:
        >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        0.75

    Source: Hanley and McNeil 1982; ties as in Mann and Whitney 1947.
    """
    truth, score, weight = pair(y_true, y_score, sample_weight, "y_score")
    positive = binary(truth)
    wins, n_pos, n_neg = _wins(_runs(score, np.zeros(len(score), np.intp), 1), positive, weight)
    if n_pos[0] == 0 or n_neg[0] == 0:
        found = 1 if n_pos[0] else 0
        raise DataError(f"y_true holds one class only ({found}); AUC compares two")
    return float(wins[0] / (n_pos[0] * n_neg[0]))


def grouped_auc(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    groups: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> GroupedScore:
    r"""AUC within each group (user, session), averaged by impressions.

    ``sum_g c_g AUC_g / sum_g c_g`` with ``c_g`` the rows of the group (or the sum of their
    weights). It asks whether each user's own list is in order; a model that only knows who
    clicks much earns 0.5. Groups of one class have no AUC: they are left out, and counted.

    Args:
        y_true: ``[n]`` labels 0 and 1 (or -1 and 1).
        y_score: ``[n]`` scores: only their order within a group counts.
        groups: ``[n]`` keys, numbers or strings, in any order.
        sample_weight: ``[n]``, 0 or more; None: ones.

    Returns:
        A float with ``n_groups`` and ``n_skipped``.

    Raises:
        DataError: lengths that differ, no rows, NaN, other labels, no group of two classes.

    Example:
        >>> score = grouped_auc([0, 1, 0, 1, 1], [0.1, 0.2, 0.9, 0.8, 0.5], groups=list("aabbc"))
        >>> score, score.n_groups, score.n_skipped
        (0.5, 2, 1)

    Source: Zhu et al. 2017, Optimized Cost per Click in Taobao Display Advertising, section 5.
    """
    truth, score, weight = pair(y_true, y_score, sample_weight, "y_score")
    group, n_groups = group_numbers(groups, len(truth))
    wins, n_pos, n_neg = _wins(_runs(score, group, n_groups), binary(truth), weight)
    valid = (n_pos > 0) & (n_neg > 0)
    if not valid.any():
        raise DataError(
            f"none of the {n_groups} groups holds both classes; grouped AUC has no value"
        )
    values = wins[valid] / (n_pos[valid] * n_neg[valid])
    return _mean(values, (n_pos + n_neg)[valid], n_groups)


def _mean(values: Floats, weight: Floats, n_groups: int) -> GroupedScore:
    return GroupedScore(
        float(np.average(values, weights=weight)), len(values), n_groups - len(values)
    )


def _cut(k: int | None, n: int) -> int:
    if k is None:
        return n
    if isinstance(k, bool) or int(k) != k or k < 1:
        raise DataError(f"k is {k!r}, expected a whole number of at least 1, or None for all")
    return min(int(k), n)


def _group_weight(group: Ints, weight: Floats, n_groups: int) -> Floats:
    """Mean weight of each group's rows: without weights every group counts the same."""
    return np.bincount(group, weight, n_groups) / np.bincount(group, minlength=n_groups)


def _relevant_groups(amount: Floats, weight: Floats, what: str) -> NDArray[np.bool_]:
    valid = (amount > 0) & (weight > 0)
    if not valid.any():
        raise DataError(f"no group holds a relevant row (y_true > 0); {what} has no value")
    return valid


def ndcg_at_k(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    k: int | None = 10,
    gain: Literal["linear", "exponential"] = "linear",
    sample_weight: ArrayLike | None = None,
) -> GroupedScore:
    r"""Normalised discounted cumulative gain of the best k of each group, averaged over groups.

    ``DCG = sum_{rank <= k} gain(y) / log2(1 + rank)``, divided by the DCG of the best
    possible order. 1 is perfect.

    Args:
        y_true: ``[n]`` relevance, 0 or more, graded (stars) or 0 and 1.
        y_score: ``[n]`` scores.
        groups: ``[n]`` keys of the lists (user, query); None: one list.
        k: length of the list that is looked at; None: all of it.
        gain: "linear" ``y`` or "exponential" ``2^y - 1``.
        sample_weight: ``[n]``, 0 or more; a group counts with the mean of its rows'
            weights. None: every group counts the same.

    Returns:
        A float with ``n_groups`` and ``n_skipped`` (groups with no relevance above zero).

    Raises:
        DataError: lengths that differ, no rows, NaN, negative relevance, nothing relevant.

    Example:
        >>> round(ndcg_at_k([3, 2, 0], [0.1, 0.9, 0.5], k=2), 6)
        0.469279

    Source: Jarvelin and Kekalainen 2002; ties: McSherry and Najork 2008.
    """
    truth, score, weight = pair(y_true, y_score, sample_weight, "y_score")
    if (truth < 0).any():
        row = int(np.argmax(truth < 0))
        raise DataError(f"y_true row {row} is {truth[row]:g}, expected a relevance of 0 or more")
    if gain == "exponential":
        with np.errstate(over="ignore"):
            truth = np.exp2(truth) - 1
        if not np.isfinite(truth).all():
            raise DataError("a relevance above 1023 overflows 2^y; use gain='linear'")
    elif gain != "linear":
        raise DataError(f"gain is {gain!r}, expected 'linear' or 'exponential'")
    group, n_groups = group_numbers(groups, len(truth))
    cut = _cut(k, len(truth))
    discount = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(cut) + 2))]  # [cut + 1]

    def dcg(by: Floats) -> Floats:
        runs = _runs(by, group, n_groups)
        first, last = np.minimum(runs.before, cut), np.minimum(runs.before + runs.length, cut)
        shared = (discount[last] - discount[first]) / runs.length
        return runs.by_group(runs.total(truth) * shared)

    found, best = dcg(score), dcg(truth)
    group_weight = _group_weight(group, weight, n_groups)
    valid = _relevant_groups(best, group_weight, "NDCG")
    return _mean(found[valid] / best[valid], group_weight[valid], n_groups)


def recall_at_k(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    k: int | None = 10,
    sample_weight: ArrayLike | None = None,
) -> GroupedScore:
    r"""Share of a group's relevant rows that stand among its best k, averaged over groups.

    ``|relevant and rank <= k| / |relevant|``. The divisor is not cut at k: where more than k
    rows are relevant, 1 is out of reach.

    Args:
        y_true: ``[n]``; above 0 is relevant.
        y_score: ``[n]`` scores.
        groups: ``[n]`` keys of the lists (user, query); None: one list.
        k: length of the list that is looked at; None: all of it.
        sample_weight: ``[n]``, 0 or more; a group counts with the mean of its rows'
            weights. None: every group counts the same.

    Returns:
        A float with ``n_groups`` and ``n_skipped`` (groups with nothing relevant).

    Raises:
        DataError: lengths that differ, no rows, NaN, nothing relevant.

    Example:
        >>> recall_at_k([1, 0, 1, 0], [0.9, 0.8, 0.3, 0.1], k=2)
        0.5
        >>> recall_at_k([1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], k=1)  # a tie: by chance
        0.25
    """
    truth, score, weight = pair(y_true, y_score, sample_weight, "y_score")
    group, n_groups = group_numbers(groups, len(truth))
    cut = _cut(k, len(truth))
    runs = _runs(score, group, n_groups)
    relevant = runs.total((truth > 0).astype(np.float64))
    inside = np.clip(cut - runs.before, 0, runs.length) / runs.length  # share of the run in k
    hits, total = runs.by_group(relevant * inside), runs.by_group(relevant)
    group_weight = _group_weight(group, weight, n_groups)
    valid = _relevant_groups(total, group_weight, "recall")
    return _mean(hits[valid] / total[valid], group_weight[valid], n_groups)


def mrr(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    k: int | None = None,
    sample_weight: ArrayLike | None = None,
) -> GroupedScore:
    r"""Mean reciprocal rank of the first relevant row of each group.

    ``1 / rank`` of the best-placed relevant row; 0 where it stands beyond k.

    Args:
        y_true: ``[n]``; above 0 is relevant.
        y_score: ``[n]`` scores.
        groups: ``[n]`` keys of the lists (user, query); None: one list.
        k: length of the list that is looked at; None: all of it.
        sample_weight: ``[n]``, 0 or more; a group counts with the mean of its rows'
            weights. None: every group counts the same.

    Returns:
        A float with ``n_groups`` and ``n_skipped`` (groups with nothing relevant).

    Raises:
        DataError: lengths that differ, no rows, NaN, nothing relevant.

    Example:
        >>> mrr([0, 1, 1, 0, 1], [0.9, 0.8, 0.7, 0.2, 0.1], groups=list("aaabb"))
        0.5

    Source: Voorhees 1999, the TREC-8 question answering track report.
    """
    truth, score, weight = pair(y_true, y_score, sample_weight, "y_score")
    group, n_groups = group_numbers(groups, len(truth))
    cut = _cut(k, len(truth))
    runs = _runs(score, group, n_groups)
    relevant = runs.total((truth > 0).astype(np.float64))
    group_weight = _group_weight(group, weight, n_groups)
    valid = _relevant_groups(runs.by_group(relevant), group_weight, "reciprocal rank")
    best = np.flatnonzero((relevant > 0) & (runs.ahead(relevant) == 0))  # a run a group
    # In a run of t rows, r of them relevant, behind b others, the first relevant one stands
    # at place j with probability C(t - j, r - 1) / C(t, r), j = 1 .. t - r + 1.
    t, r, b = runs.length[best], relevant[best].astype(np.intp), runs.before[best]
    places = t - r + 1
    of = np.repeat(np.arange(len(best)), places)
    j = np.arange(len(of)) - np.repeat(np.cumsum(places) - places, places) + 1
    log_factorial = np.r_[0.0, np.cumsum(np.log(np.arange(1, t.max() + 1)))]

    def log_choose(a: Ints, c: Ints) -> Floats:
        log: Floats = log_factorial[a] - log_factorial[c] - log_factorial[a - c]
        return log

    chance = np.exp(log_choose(t[of] - j, r[of] - 1) - log_choose(t, r)[of])
    rank = b[of] + j
    value = np.bincount(of, np.where(rank <= cut, chance / rank, 0.0), len(best))
    values = np.zeros(n_groups)
    values[runs.group[best]] = value
    return _mean(values[valid], group_weight[valid], n_groups)
