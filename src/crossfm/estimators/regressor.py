"""FMRegressor: numbers predicted by a factorization machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from numpy.typing import NDArray
from sklearn.utils.metaestimators import available_if

from crossfm.data.schema import Schema
from crossfm.estimators._base import FMBase, goes_row_by_row
from crossfm.estimators._options import check_between, check_one_of
from crossfm.estimators._predicting import PredictsNumbers
from crossfm.estimators._sampling import Sampling
from crossfm.estimators._targets import NumberLoss, NumberTargets
from crossfm.estimators._uncertain import PredictsIntervals

__all__ = ["FMRegressor"]


class FMRegressor(PredictsIntervals, PredictsNumbers, FMBase):
    r"""Factorization machine for numbers: ratings, prices, times.

    ``y = w0 + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j`` over the features of a row, fitted to
    squared errors, or to another loss: ``log y`` is that sum under "poisson". It learns on
    standardised targets and gives out parameters on their own scale.

    Args:
        n_factors: length k of each feature's vector ``v_i``; 0 gives a linear model.
        loss: "squared" (predicts means), "huber" (the same, less moved by outliers), "poisson"
            (means of counts, 0 or more) or "quantile".
        epsilon: with "huber", residuals count in proportion from so many deviations of the
            targets on, and not squared. (The deviation is a robust one: 1.4826 times the median
            distance to the median.)
        quantile: with "quantile", the level of the quantile to predict; 0.5: the median.
        solver: "adagrad" (robust, the default), "rowwise_adagrad" (one step size for all
            factors of a feature: half the memory, and field-aware models train faster; FM and
            FFM), "sgd", "ftrl" (L1 penalties, exact zeros), or "adam", which go row by row; or
            "mcmc" (Gibbs sampling: no step size, no penalties, and predictions that know how
            sure they are), "vb" (variational Bayes) or "als" (coordinate
            descent), which sweep over all rows together, for squared errors.
        learning_rate: step size, a number or a dict of field: number (see `l2_linear`); None: 1.5
            over the mean features of a row (the sum of its squared values), at most 0.1 (for "sgd"
            0.1 over them, at most 0.01; for "adam" 0.02 and 0.002).
        n_epochs: passes over the rows at most; sweeps of "mcmc" (200 are better), "vb" and "als".
        l2_linear: penalty of the weights; a number, None: 0, a dict of field: number, in which "*"
            stands for all other fields (without it they have what None gives), or "adaptive": one a
            field, learned on the validation rows while the fit runs ("adagrad" and "sgd"; it starts
            at what None gives, and takes twice as long).
        l2_factors: the same for the factors; None: 0.1, less where features are in more
            than 1,000 rows on average ("sgd" and "adam": half of it; "ftrl",
            which counts it once for all rows: 10; so do "als", for both l2_linear and this).
        l2_scaling: with what power of the rows that a feature is in its penalty grows, over all of
            them: 1 pays alike at each, 0 as much for a rare feature as for a frequent one, 0.5 is
            between. The penalties of all features together stay what they are. None: 1 ("ftrl": 0).
        min_count_factors: a feature has no vector, its weight alone, until it has been seen so
            often in training rows (DiFacto). Counted over all calls of `partial_fit`; a saved model
            does not hold the counts.
        precision: what training keeps factors and their state in, "adagrad" only. "bfloat16"
            halves their memory, rounding at random so that small steps are not lost; the model
            that comes of it holds float32.
        l1_linear: L1 penalty of the weights, "ftrl" only.
        l1_factors: the same for the factors.
        interactions: "all" pairs of features, or "across_fields": features of one field are
            summed first and only different fields meet.
        init_scale: deviation of the random factors at the start; None: 0.01, less in proportion to
            the root of the features of a row where these are more than 100 ("mcmc" and "als": 0.1,
            "vb": 0.5).
        sampling: a `Sampling`, options that "mcmc", "vb" and "als" alone have; None: its defaults.
        schema: what the columns of a frame are; None: inferred, and shown if `verbose`. One that
            is not fitted is fitted to X; one that is stays as it is. Yours is never changed.
        early_stopping: stop when the validation metric no longer improves, and keep the best
            epoch. "auto": with an `eval_set`; without one from 10,000 rows on (from 1,000 where
            there is a feature for every ten rows or fewer), of which `validation_fraction` is
            then held out; True or False. "mcmc", "vb" and "als" do not stop with "auto", and "mcmc"
            never does; an `eval_set` is reported.
        patience: epochs without an improvement before the fit stops.
        validation_fraction: share of the rows held out where there is no `eval_set`.
        eval_metric: a name of `crossfm.metrics.METRICS`, a `Metric`, ``f(y_true, y_pred)`` (greater
            is better), or a list of these, the first of which decides; None: "rmse" ("mae",
            "poisson_deviance" and "pinball@q" with the other losses).
        scale_values: "auto": columns of numbers in matrices are scaled for training, and the
            scale is folded into the parameters, which stay those of the raw values; False: not.
            (The fields of a frame are scaled by its schema.)
        warm_start: `fit` goes on from the last fit's parameters; its scales stay. With "mcmc" each
            chain goes on, without a burn-in, and the draws so far stay too.
        shuffle: visit rows in random order.
        n_jobs: threads; -1: all cores. With more than one the last bits vary (Hogwild), but not
            with "mcmc", "vb" and "als".
        deterministic: with several threads, the same bits for a `random_state`.
        stream: read files block by block, from a cache on disk: True, False, or "auto": where their
            rows would take more than a quarter of the memory. Blocks are visited in random order,
            and rows in random order within groups of about a million; blocks are held out, not
            rows, and no more than a million rows.
        cache_dir: the folder of that cache; None: ``.crossfm-cache`` beside the first file.
        checkpoint: a file from which a fit that was interrupted or killed goes on, to the same
            bits with one thread or `deterministic`; written each minute, removed when the fit is
            complete. One of other data or options is refused. Needs an integer `random_state`.
        random_state: int, `numpy.random.RandomState` or None.
        verbose: 1: on a terminal, show an inferred schema and a line an epoch; 2: everywhere.

    Attributes:
        intercept_: ``w0``.
        coef_: ``w`` ``[n_features]``.
        factors_: ``V`` ``[n_features, n_factors]``.
        model_: all three as a frozen `FactorModel`; `models_`: the same in a tuple. After "mcmc"
            it is the mean of the draws, with ``n_draws n_factors`` factors.
        draws_: after "mcmc" each draw as a `FactorModel`.
        traces_: after "mcmc", "vb" and "als" a dict of hyperparameters, sweep by sweep.
        diagnostics_: after "mcmc" how well each of these is known: R-hat and effective sample size.
        schema_: the fitted schema, for columns with names, else None.
        penalties_: after a fit with "adaptive" penalties, what these have become.
        history_: a dict an epoch: "epoch", "loss" (its mean while training, for "squared" half the
            mean squared error), validation metrics, "seconds", "rows_per_second".
        n_iter_: epochs run.
        best_epoch_: the epoch whose parameters were kept.
        n_features_in_: columns (or ids) that were read.
        feature_names_in_: names of these columns, where they have names.
        files_: the files of folders that were learned.

    Example:
        >>> log = {"user": ["ann", "ann", "bob", "bob"], "film": ["x", "y", "x", "y"]}
        >>> model = FMRegressor(random_state=0, n_epochs=200).fit(log, [1.0, 2.0, 3.0, 4.0])
        >>> model.predict({"user": ["ann", "bob"], "film": ["y", "y"]}).round(1)
        array([2., 4.], dtype=float32)

    Source: Rendle 2010, Factorization Machines; Li et al. 2016, DiFacto (`min_count_factors`);
    Rendle et al. 2022, Revisiting the Performance of iALS (`l2_scaling`); Rendle 2012, Learning
    Recommender Systems with Adaptive Regularization ("adaptive").
    """

    def __init__(
        self,
        n_factors: int = 16,
        *,
        loss: str = "squared",
        epsilon: float = 1.35,
        quantile: float = 0.5,
        solver: str = "adagrad",
        learning_rate: float | Mapping[str, float] | Sequence[float] | None = None,
        n_epochs: int = 50,
        l2_linear: float | str | Mapping[str, float] | Sequence[float] | None = None,
        l2_factors: float | str | Mapping[str, float] | Sequence[float] | None = None,
        l2_scaling: float | None = None,
        min_count_factors: int = 1,
        precision: str = "float32",
        l1_linear: float = 0.0,
        l1_factors: float = 0.0,
        interactions: str = "all",
        init_scale: float | None = None,
        sampling: Sampling | None = None,
        schema: Schema | None = None,
        early_stopping: bool | str = "auto",
        patience: int = 3,
        validation_fraction: float = 0.1,
        eval_metric: Any = None,
        scale_values: bool | str = "auto",
        warm_start: bool = False,
        shuffle: bool = True,
        n_jobs: int | None = 1,
        deterministic: bool = False,
        stream: bool | str = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_factors = n_factors
        self.loss = loss
        self.epsilon = epsilon
        self.quantile = quantile
        self.solver = solver
        self.learning_rate = learning_rate
        self.n_epochs = n_epochs
        self.l2_linear = l2_linear
        self.l2_factors = l2_factors
        self.l2_scaling = l2_scaling
        self.min_count_factors = min_count_factors
        self.precision = precision
        self.l1_linear = l1_linear
        self.l1_factors = l1_factors
        self.interactions = interactions
        self.init_scale = init_scale
        self.sampling = sampling
        self.schema = schema
        self.early_stopping = early_stopping
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.eval_metric = eval_metric
        self.scale_values = scale_values
        self.warm_start = warm_start
        self.shuffle = shuffle
        self.n_jobs = n_jobs
        self.deterministic = deterministic
        self.stream = stream
        self.cache_dir = cache_dir
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose

    def _check(self) -> int:
        check_one_of("loss", self.loss, get_args(NumberLoss))
        check_between("epsilon", self.epsilon, 0.0)
        check_between("quantile", self.quantile, 0.0, 1.0)
        return super()._check()

    def _loss(self) -> tuple[str, float]:
        of = {"huber": self.epsilon, "quantile": self.quantile}
        return self.loss, float(of.get(self.loss, 0.0))

    def _learn_targets(
        self, y: Any, weight: NDArray[Any] | None, classes: Any = None
    ) -> NumberTargets:
        loss, parameter = self._loss()
        return NumberTargets.learn(y, weight, cast(NumberLoss, loss), parameter)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.loss == "poisson"
        return tags

    @available_if(goes_row_by_row)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any = None, *, sample_weight: Any = None) -> FMRegressor:
        """Learn from more data in one pass; the first call starts a model.

        New categories and ids get parameters of their own. The scale of targets and values is
        that of the first data seen. The work is in proportion to the batch, not to the model.

        Args:
            X: as in `fit`. The batches of an iterable are learned one after the other, and so are
                files, piece by piece: they may be larger than memory. A folder may grow: files of
                it that were learned before (`files_`, kept by `save`) are left out, and so are
                those that are not written to their end, with a warning.
            y: as in `fit`.
            sample_weight: as in `fit`, but taken as it is.

        Returns:
            self.

        Example:
            >>> model = FMRegressor(random_state=0)
            >>> for day in range(3):
            ...     _ = model.partial_fit({"user": ["ann", f"new {day}"]}, [1.0, 2.0])
            >>> model.coef_.shape  # four users and the unknown one
            (5,)
        """
        return self._partial_fit(X, y, sample_weight)
