"""Metrics by name, with what each needs and which way is better."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from crossfm.errors import DataError, did_you_mean
from crossfm.metrics.margin import hinge_loss
from crossfm.metrics.probability import ece, log_loss, normalized_entropy
from crossfm.metrics.ranking import auc, grouped_auc, mrr, ndcg_at_k, recall_at_k
from crossfm.metrics.regression import mae, pinball_loss, poisson_deviance, rmse

__all__ = ["METRICS", "Metric", "get_metric"]

Needs = Literal["value", "probability", "score"]


@dataclass(frozen=True)
class Metric:
    """A metric and how to use it.

    Attributes:
        name: what reports and histories call it.
        function: ``f(y_true, y_pred)``, with ``sample_weight=`` and ``groups=`` where it
            takes them.
        greater_is_better: which way early stopping looks.
        needs: what to pass as the prediction: "value" (`predict`), "probability"
            (`predict_proba`), or "score" (any number in the right order).
        takes_groups: whether it looks at rows group by group.
        takes_weights: whether it has a ``sample_weight``.

    Example:
        >>> METRICS["auc"]([0, 1], [0.2, 0.7])
        1.0
        >>> METRICS["auc"].improves(0.8, 0.7)
        True
    """

    name: str
    function: Callable[..., float]
    greater_is_better: bool
    needs: Needs
    takes_groups: bool = False
    takes_weights: bool = True

    def __call__(
        self,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        **options: Any,
    ) -> float:
        """The metric's value; weights and groups go only to a function that takes them."""
        if self.takes_weights and sample_weight is not None:
            options["sample_weight"] = sample_weight
        if self.takes_groups and groups is not None:
            options["groups"] = groups
        elif self.function is grouped_auc:
            raise DataError("grouped_auc needs groups=...: the key of each row's group")
        value = self.function(y_true, y_pred, **options)
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"metric {self.name!r} returned {value!r}, expected a number"
            ) from error
        return value if isinstance(value, float) else number

    def improves(self, new: float, best: float) -> bool:
        """Whether `new` is better than `best`; NaN never is."""
        return bool(new > best if self.greater_is_better else new < best)

    @property
    def worst(self) -> float:
        """The value that any other improves on."""
        return -np.inf if self.greater_is_better else np.inf


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("rmse", rmse, False, "value"),
        Metric("mae", mae, False, "value"),
        Metric("poisson_deviance", poisson_deviance, False, "value"),
        Metric("pinball_loss", pinball_loss, False, "value"),
        Metric("hinge_loss", hinge_loss, False, "score"),
        Metric("log_loss", log_loss, False, "probability"),
        Metric("normalized_entropy", normalized_entropy, False, "probability"),
        Metric("ece", ece, False, "probability"),
        Metric("auc", auc, True, "score"),
        Metric("grouped_auc", grouped_auc, True, "score", takes_groups=True),
        Metric("ndcg_at_k", ndcg_at_k, True, "score", takes_groups=True),
        Metric("recall_at_k", recall_at_k, True, "score", takes_groups=True),
        Metric("mrr", mrr, True, "score", takes_groups=True),
    )
}
"""Every metric by its name."""

_AT_K = {"ndcg": "ndcg_at_k", "recall": "recall_at_k", "mrr": "mrr"}


def get_metric(
    metric: str | Metric | Callable[..., float],
    *,
    greater_is_better: bool | None = None,
    needs: Needs | None = None,
) -> Metric:
    """Look a metric up by name, or wrap a function of one's own.

    Args:
        metric: a name of `METRICS`; "ndcg@5", "recall@20" or "mrr@10" for a list of that
            length; "pinball@0.9" for the `pinball_loss` of that quantile; a `Metric`; or
            ``f(y_true, y_pred)``, which may take ``sample_weight`` and ``groups`` too.
        greater_is_better: for a function; True where left out.
        needs: for a function, what it is given: "value" (where left out), "probability" or
            "score".

    Raises:
        DataError: an unknown name (the nearest one is suggested), or no name and no function.

    Example:
        >>> get_metric("log_loss").needs
        'probability'
        >>> get_metric("recall@1")([1, 0], [0.3, 0.6])
        0.0
        >>> get_metric("logloss")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        crossfm.errors.DataError: no metric 'logloss'. Did you mean 'log_loss'? Known: ...
        >>> def bias(y_true, y_pred):
        ...     return float(np.mean(y_pred) - np.mean(y_true))
        >>> get_metric(bias, greater_is_better=False)([1, 2], [2, 2])
        0.5
    """
    if needs not in (None, "value", "probability", "score"):
        raise DataError(f"needs is {needs!r}, expected 'value', 'probability' or 'score'")
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric in METRICS:
            return METRICS[metric]
        stem, at, length = metric.partition("@")
        if at and stem in _AT_K and length.isascii() and length.isdigit() and int(length) > 0:
            base = METRICS[_AT_K[stem]]
            return replace(base, name=metric, function=partial(base.function, k=int(length)))
        if at and stem == "pinball" and 0 < (level := _number(length)) < 1:
            return replace(
                METRICS["pinball_loss"],
                name=metric,
                function=partial(pinball_loss, quantile=level),
            )
        known = [*METRICS, "pinball@q", "ndcg@k", "recall@k", "mrr@k"]
        raise DataError(
            f"no metric {metric!r}.{did_you_mean(metric, known)} Known: {', '.join(known)}"
        )
    if not callable(metric):
        raise DataError(f"a metric is a name or a function, got {metric!r}")
    if hasattr(metric, "_score_func"):
        raise DataError(
            f"{metric!r} is a scorer, which takes an estimator; give the function"
            " f(y_true, y_pred) itself"
        )
    try:
        parameters = inspect.signature(metric).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        parameters = {}  # type: ignore[assignment]
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return Metric(
        name=getattr(metric, "__name__", type(metric).__name__),
        function=metric,
        greater_is_better=True if greater_is_better is None else greater_is_better,
        needs=needs or "value",
        takes_groups="groups" in parameters or any_name,
        takes_weights="sample_weight" in parameters or any_name,
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
