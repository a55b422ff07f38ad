"""Metrics: how well values, probabilities and orders are predicted. NumPy only.

All have the form ``metric(y_true, y_pred, *, sample_weight=None)``; those over lists also
take ``groups``. `METRICS` holds them by name, `get_metric` looks them up.
"""

from crossfm.metrics.full_ranking import FullRanking
from crossfm.metrics.margin import hinge_loss
from crossfm.metrics.probability import (
    ReliabilityCurve,
    ece,
    log_loss,
    normalized_entropy,
    reliability_curve,
)
from crossfm.metrics.ranking import (
    GroupedScore,
    auc,
    grouped_auc,
    mrr,
    ndcg_at_k,
    recall_at_k,
)
from crossfm.metrics.registry import METRICS, Metric, get_metric
from crossfm.metrics.regression import mae, pinball_loss, poisson_deviance, rmse
from crossfm.metrics.running import RunningMetrics

__all__ = [
    "METRICS",
    "FullRanking",
    "GroupedScore",
    "Metric",
    "ReliabilityCurve",
    "RunningMetrics",
    "auc",
    "ece",
    "get_metric",
    "grouped_auc",
    "hinge_loss",
    "log_loss",
    "mae",
    "mrr",
    "ndcg_at_k",
    "normalized_entropy",
    "recall_at_k",
    "reliability_curve",
    "pinball_loss",
    "poisson_deviance",
    "rmse",
]
