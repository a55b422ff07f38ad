"""Predictions from scores: numbers, or classes with probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.metaestimators import available_if

from crossfm.errors import DataError
from crossfm.estimators._fitting import EstimatorBase
from crossfm.estimators._options import check_scores
from crossfm.estimators._targets import ClassTargets, NumberTargets

__all__ = ["PredictsClasses", "PredictsNumbers"]


class PredictsNumbers(RegressorMixin, EstimatorBase):
    """An estimator whose scores are numbers on the scale of the targets, or their logarithms."""

    def predict(self, X: Any) -> NDArray[np.float32]:
        """Predicted numbers ``[n]``.

        Args:
            X: as in `fit`. Categories not seen in training count as their field's unknown one.
        """
        scores = self._scores(X)
        return check_scores(self._targets.shown(scores, "value"))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Coefficient of determination R², at most 1; 0 for always predicting the mean.

        Args:
            X: as in `fit`.
            y: targets, the name of their column, or None where X carries them.
            sample_weight: ``[n]``, the name of a column, or None.
        """
        scores, y, weight = self._judged(X, y, sample_weight)
        found = check_scores(self._targets.shown(scores, "value"))
        return float(r2_score(y, found, sample_weight=weight))

    def _learn_targets(
        self, y: Any, weight: NDArray[Any] | None, classes: Any = None
    ) -> NumberTargets:
        return NumberTargets.learn(y, weight)


def _knows_probabilities(estimator: Any) -> bool:
    loss = getattr(estimator, "loss", "logistic")
    if loss == "hinge":
        raise AttributeError(
            "there are no probabilities under loss='hinge'; take loss='logistic', or"
            " decision_function"
        )
    return True


class PredictsClasses(ClassifierMixin, EstimatorBase):
    """An estimator whose scores are log odds, or margins, or one of these a class."""

    def decision_function(self, X: Any) -> NDArray[np.float32]:
        """Raw scores: log odds of the second of two classes ``[n]``, or one a class ``[n, C]``.

        Under the hinge loss they are margins: positive for the class, 1 or more where it is sure.
        """
        return self._scores(X)

    @available_if(_knows_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probability of each class, ``[n, C]``."""
        scores = self._scores(X)
        found = self._targets.probabilities(scores)
        return found if found.ndim == 2 else np.stack([1 - found, found], axis=1)

    def predict(self, X: Any) -> NDArray[Any]:
        """The label of the highest score of each row, ``[n]``."""
        scores = self._scores(X)
        return self._targets.labels(scores)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Share of the rows whose label is predicted, between 0 and 1.

        Args:
            X: as in `fit`.
            y: labels, the name of their column, or None where X carries them.
            sample_weight: ``[n]``, the name of a column, or None.
        """
        scores, y, weight = self._judged(X, y, sample_weight)
        labels = self._targets.labels(scores)
        try:
            if _is_text(y) != _is_text(labels):  # which older scikit-learn finds merely unequal
                raise TypeError("strings and numbers are compared")
            return float(accuracy_score(y, labels, sample_weight=weight))
        except (TypeError, ValueError) as error:
            known = ", ".join(repr(c) for c in self.classes_[:10].tolist())
            raise DataError(
                f"y holds {y[:1].tolist()[0]!r}, the classes are {known}; give labels of their kind"
            ) from error

    def _learn_targets(
        self, y: Any, weight: NDArray[Any] | None, classes: Any = None
    ) -> ClassTargets:
        return ClassTargets.learn(y, self.class_weight, classes)

    def _adopt(self, machine: Any, *told: Any, **more: Any) -> None:
        super()._adopt(machine, *told, **more)
        self.classes_ = self._targets.classes


def _is_text(labels: Any) -> bool:
    labels = np.asarray(labels)
    return labels.dtype.kind in "UST" or (labels.size > 0 and isinstance(labels.flat[0], str))
