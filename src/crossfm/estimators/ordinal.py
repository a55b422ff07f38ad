"""OrdinalFMRegressor: ratings as ordered levels."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

from crossfm.data.schema import Schema
from crossfm.estimators._base import FMBase
from crossfm.estimators._levels import LevelTargets
from crossfm.estimators._options import check_levels, check_scores
from crossfm.estimators._sampling import Sampling

__all__ = ["OrdinalFMRegressor"]


@final
class OrdinalFMRegressor(RegressorMixin, FMBase):
    r"""Factorization machine for ratings: ordered levels, by Gibbs sampling of an ordered probit.

    ``P(y <= j) = Phi(c_j - sum_i w_i x_i - sum_{i<j} <v_i, v_j> x_i x_j)``: nothing is said of how
    far apart the levels are on the scale of the score; the cutpoints ``c_j`` between them are drawn
    with the rest. What is predicted is the mean over the levels' probabilities, and these are
    averaged over the draws.

    Args:
        n_factors: length k of each feature's vector ``v_i``; 0 gives a linear model.
        n_epochs: sweeps.
        interactions: "all" pairs of features, or "across_fields".
        init_scale: deviation of the random factors at the start; None: 0.2.
        sampling: burn-in, chains, draws to keep, priors, groups; see `Sampling`.
        schema: what the columns of a frame are; None: inferred, and shown if `verbose`.
        eval_metric: as in `FMRegressor`, of the expected rating.
        scale_values: as in `FMRegressor`.
        warm_start: `fit` goes on with the chains of the last fit; its levels stay.
        n_jobs: threads; -1: all cores. Results do not depend on it.
        random_state: int, `numpy.random.RandomState` or None.
        verbose: 1: on a terminal, show an inferred schema and a line a sweep; 2: everywhere.

    Attributes:
        levels_: the different targets seen, sorted, ``[n_levels]``.
        draws_: each draw as a `FactorModel`, whose score is on the latent scale.
        traces_: hyperparameters and "cutpoints", sweep by sweep.
        model_: the mean of the draws, with ``n_draws n_factors`` factors.
        history_: a dict a sweep: "loss" is minus the mean log probability of the targets.
        schema_: the fitted schema, for columns with names, else None.
        n_iter_: sweeps run; other attributes are those of `FMRegressor`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> log = {"user": rng.integers(0, 9, 400), "film": rng.integers(0, 9, 400)}
        >>> stars = 1 + (log["user"] + log["film"]) // 4
        >>> model = OrdinalFMRegressor(2, n_epochs=50, random_state=0).fit(log, stars)
        >>> model.levels_
        array([1., 2., 3., 4., 5.])
        >>> model.predict_proba({"user": [0, 8], "film": [0, 8]}).argmax(axis=1)
        array([0, 4])

    Source: Albert and Chib 1993, Bayesian Analysis of Binary and Polychotomous Response Data;
    Freudenthaler, Schmidt-Thieme and Rendle 2011, Bayesian Factorization Machines.
    """

    solver: ClassVar[str] = "mcmc"
    early_stopping: ClassVar[bool] = False
    patience: ClassVar[int] = 0
    validation_fraction: ClassVar[float] = 0.1
    checkpoint: ClassVar[None] = None
    deterministic: ClassVar[bool] = True

    def __init__(
        self,
        n_factors: int = 16,
        *,
        n_epochs: int = 200,
        interactions: str = "all",
        init_scale: float | None = None,
        sampling: Sampling | None = None,
        schema: Schema | None = None,
        eval_metric: Any = None,
        scale_values: bool | str = "auto",
        warm_start: bool = False,
        n_jobs: int | None = 1,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_factors = n_factors
        self.n_epochs = n_epochs
        self.interactions = interactions
        self.init_scale = init_scale
        self.sampling = sampling
        self.schema = schema
        self.eval_metric = eval_metric
        self.scale_values = scale_values
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _learns_on_validation(self) -> bool:
        return False

    def _loss(self) -> tuple[str, float]:
        return LevelTargets.loss, 0.0

    def _learn_targets(
        self, y: Any, weight: NDArray[Any] | None, classes: Any = None
    ) -> LevelTargets:
        return LevelTargets.learn(y)

    def _adopt(self, machine: Any, *told: Any, **more: Any) -> None:
        super()._adopt(machine, *told, **more)
        self.levels_ = self._targets.levels

    def predict(self, X: Any) -> NDArray[np.float32]:
        """The expected rating ``[n]``.

        Args:
            X: as in `fit`. Categories not seen in training count as their field's unknown one.
        """
        scores = self._scores(X)
        return check_scores(self._targets.shown(scores, "value"))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probability of each of `levels_`, ``[n, n_levels]``."""
        scores = self._scores(X)
        found: NDArray[np.float64] = self._targets.probabilities(scores)
        return found

    def predict_quantiles(self, X: Any, levels: ArrayLike = (0.05, 0.5, 0.95)) -> NDArray[Any]:
        """The lowest rating that at least such a share stays at or below, ``[n, len(levels)]``.

        Args:
            X: as in `fit`.
            levels: the shares, above 0 and below 1.

        Raises:
            DataError: a level that is none.
        """
        wanted = check_levels(levels)
        below = self.predict_proba(X).cumsum(axis=1)[:, None, :]
        at = (below < wanted[None, :, None] * below[:, :, -1:]).sum(axis=2)
        return np.asarray(self.levels_[at])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # on numbers that are no levels
        return tags

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Coefficient of determination R² of the expected rating.

        Args:
            X: as in `fit`.
            y: targets, the name of their column, or None where X carries them.
            sample_weight: ``[n]``, the name of a column, or None.
        """
        scores, y, weight = self._judged(X, y, sample_weight)
        return float(r2_score(y, self._targets.shown(scores, "value"), sample_weight=weight))
