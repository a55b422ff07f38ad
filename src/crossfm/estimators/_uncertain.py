"""How sure predicted numbers are: deviations, quantiles and intervals, from the draws of a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from crossfm.estimators._draws import expect_uncertain
from crossfm.estimators._options import check_between, check_levels, check_scores
from crossfm.estimators._predicting import PredictsNumbers

__all__ = ["PredictsIntervals"]


def _knows_how_sure(estimator: Any) -> bool:
    if estimator.solver not in ("mcmc", "vb"):
        raise AttributeError(
            f"solver={estimator.solver!r} does not know how sure a prediction is; take 'mcmc' or"
            " 'vb'"
        )
    return True


class PredictsIntervals(PredictsNumbers):
    """Numbers with their uncertainty, where the solver knows it."""

    n_jobs: int | None

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predicted numbers ``[n]``; after "mcmc" the mean over the draws.

        Args:
            X: as in `fit`. Categories not seen in training count as their field's unknown one.
            return_std: give ``(mean, deviation)``, each ``[n]``: the deviation of what may be
                observed, ``sqrt(variance of the score over the draws + mean variance of the
                noise)``. After "mcmc" and "vb".

        Raises:
            DataError: a deviation is asked for, and the solver knows none.
        """
        if not return_std:
            return super().predict(X)
        check_is_fitted(self)
        draws = expect_uncertain(self._machine, type(self).__name__, "return_std=True")
        parts = [draws.moments(rows, self.n_jobs) for rows in self._features.stream(X)]
        if not parts:
            return np.empty(0, np.float32), np.empty(0, np.float32)
        mean, deviation = (
            np.concatenate(part).astype(np.float32) for part in zip(*parts, strict=True)
        )
        return check_scores(mean), check_scores(deviation)

    @available_if(_knows_how_sure)  # type: ignore[untyped-decorator]
    def predict_quantiles(self, X: Any, levels: ArrayLike = (0.05, 0.5, 0.95)) -> NDArray[Any]:
        """Quantiles of what may be observed, ``[n, n_levels]``; after "mcmc" and "vb".

        A draw says that a number is normal around its score; the quantiles are those of the draws'
        mixture.

        Args:
            X: as in `fit`.
            levels: above 0 and below 1.

        Raises:
            DataError: a level that is none.
        """
        check_is_fitted(self)
        draws = expect_uncertain(self._machine, type(self).__name__, "predict_quantiles")
        wanted = check_levels(levels)
        parts = [draws.quantiles(rows, wanted, self.n_jobs) for rows in self._features.stream(X)]
        found = np.concatenate(parts) if parts else np.empty((0, len(wanted)))
        return check_scores(found.astype(np.float32))

    @available_if(_knows_how_sure)  # type: ignore[untyped-decorator]
    def predict_interval(self, X: Any, coverage: float = 0.9) -> NDArray[Any]:
        """Between which numbers an observation is with a probability, ``[n, 2]``.

        Args:
            X: as in `fit`.
            coverage: the probability; as much is left out below as above.

        Raises:
            DataError: a coverage that is none.
        """
        out = (1.0 - check_between("coverage", coverage, 0.0, 1.0)) / 2
        return np.asarray(self.predict_quantiles(X, (out, 1.0 - out)))
