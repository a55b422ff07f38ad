"""Sampling: the options that only solvers of whole sweeps have; which other options they refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.errors import DataError, did_you_mean, require
from crossfm.estimators._features import Features
from crossfm.estimators._options import check_count, check_one_of, is_adaptive
from crossfm.solvers.sweeps import Priors

__all__ = ["SWEEPS", "Sampling", "check_sweeps", "group_names", "group_of"]

SWEEPS = ("mcmc", "als", "vb")
BURN_IN = 10  # one of so many sweeps
MEAN_FACTORS = 16  # of the mean of draws, for each of theirs


USUAL = Priors()


@dataclass(frozen=True)
class Sampling:
    """Options of `solver="mcmc"` and its kin that other solvers have no use for.

    Attributes:
        burn_in: sweeps of "mcmc" at the start whose draws are not kept; None: a tenth of them.
        n_chains: independent runs of "mcmc", whose draws are pooled.
        keep: the draws that stay in memory and in the model file: "all" after `burn_in`, or a
            number: at most so many of each chain, evenly spaced. Each takes ``4 n_features
            (n_factors + 1)`` bytes, and its time when predicting. "mean": not the draws, but the
            machine of their mean score, for numbers as targets; without deviations and quantiles.
        priors: hyperpriors of "mcmc" and "vb".
        groups: which features share the mean and the precision of their parameters: "fields"
            (each field of a frame for itself; all features where there are no fields), "one" (all),
            a dict of field: name of a group, in which other fields stay for themselves, or the
            number of a group for each id, ``[n_features]``.
        mean_factors: factors of that machine, which keep what weighs most of the draws' pairs;
            None: ``16 n_factors``.
        cutpoint_moves: of ordered levels. "newton": each sweep draws the levels' limits anew around
            their mode, so that chains settle. "walk": small steps, with which limits stay near the
            levels' shares for hundreds of sweeps and predictions are shrunk meanwhile: errors may
            be smaller, chains do not agree, and their spread says less.
        device: where "mcmc" and "als" sweep: "cpu", or a device of PyTorch such as "cuda", to
            which parameters and residuals travel in each sweep; for fields of one feature a row.

    Raises:
        DataError: an option out of range; raised by `fit`.

    Example:
        >>> Sampling(burn_in=100, n_chains=4, keep=50)  # doctest: +ELLIPSIS
        Sampling(burn_in=100, n_chains=4, keep=50, ...)

    Source: Freudenthaler, Schmidt-Thieme and Rendle 2011, Bayesian Factorization Machines.
    """

    burn_in: int | None = None
    n_chains: int = 1
    keep: str | int = "all"
    priors: Priors = USUAL
    groups: str | Mapping[str, Any] | Sequence[int] | NDArray[np.int32] = "fields"
    device: str = "cpu"
    mean_factors: int | None = None
    cutpoint_moves: Literal["newton", "walk"] = "newton"

    def left_out(self, n_epochs: int) -> int:
        """Sweeps whose draws are not kept.

        Raises:
            DataError: none would be.
        """
        if self.burn_in is None:
            return n_epochs // BURN_IN
        if check_count("burn_in", self.burn_in) >= n_epochs:
            raise DataError(
                f"burn_in is {self.burn_in} of {n_epochs} sweeps, so that no draw is kept; take a"
                " smaller one, or a larger n_epochs"
            )
        return self.burn_in

    def burnt(self, n_sweeps: int) -> int:
        """Of so many sweeps that were run, those of the burn-in: all, where it was not over."""
        return n_sweeps // BURN_IN if self.burn_in is None else min(self.burn_in, n_sweeps)

    def sweeper(self) -> Callable[..., Any]:
        """What makes the sweeper of a design."""
        if self.device == "cpu":
            return _native.Sweeper
        require("torch", "torch")
        from crossfm.nn.sweeper import DeviceSweeper

        return partial(DeviceSweeper, self.device)

    def every(self, n_draws: int) -> int:
        """Of so many draws after one another, how far apart those are that are kept."""
        return 1 if self.keep in ("all", "mean") else -(-n_draws // int(self.keep))

    def rank(self, n_factors: int) -> int:
        """Factors of the mean."""
        return MEAN_FACTORS * n_factors if self.mean_factors is None else self.mean_factors


def check_sweeps(estimator: Any) -> Sampling:
    """The estimator's `Sampling`, after a look at what does not go with its solver.

    Raises:
        DataError: an option of other solvers, or one out of range.
    """
    solver, found = estimator.solver, estimator.sampling
    if found is not None and not isinstance(found, Sampling):
        raise DataError(f"sampling is {found!r}, expected crossfm.Sampling(...) or None")
    if estimator._model != "fm":
        raise DataError(
            f"solver={solver!r} fits plain factorization machines, and {type(estimator).__name__}"
            " is none; take FMRegressor or FMClassifier, or another solver"
        )
    usual = "squared" if hasattr(estimator, "epsilon") else "logistic"
    if getattr(estimator, "loss", usual) != usual:
        raise DataError(
            f"loss={estimator.loss!r} does not go with solver={solver!r}, which takes numbers as"
            f" normal and classes as probit; leave it at {usual!r}, or take another solver"
        )
    foreign = {"learning_rate": None, "l2_scaling": None, "min_count_factors": 1,
               "l1_linear": 0.0, "l1_factors": 0.0, "checkpoint": None}  # fmt: skip
    if solver != "als":
        foreign |= {"l2_linear": None, "l2_factors": None}
    for name, default in foreign.items():
        value = getattr(estimator, name, default)
        if value is not default and value != default:
            hint = "; it learns its penalties" if name.startswith("l2_") else ""
            raise DataError(f"{name}={value!r} does not apply to solver={solver!r}{hint}")
    for name in ("l2_linear", "l2_factors"):
        value = getattr(estimator, name, None)
        if is_adaptive(value) or isinstance(value, Mapping | Sequence | np.ndarray):
            raise DataError(f"{name} is {value!r}, and solver={solver!r} takes one number for all")
    if getattr(estimator, "stream", False) is True:
        raise DataError(f"solver={solver!r} needs all rows in memory: leave stream=True out")
    if estimator.early_stopping is True and solver == "mcmc":
        raise DataError(
            "early_stopping=True does not go with solver='mcmc', whose prediction is a mean over"
            " many sweeps; an eval_set is reported after each of them all the same"
        )
    sampling = found or Sampling()
    check_count("n_chains", sampling.n_chains, 1)
    if solver != "mcmc" and sampling.n_chains > 1:
        raise DataError(f"n_chains is {sampling.n_chains}, and solver={solver!r} draws nothing")
    if sampling.keep not in ("all", "mean"):
        check_count("keep (where it is not 'all' or 'mean')", sampling.keep, 1)
    if sampling.keep == "mean" and solver != "mcmc":
        raise DataError(f"keep is 'mean', and solver={solver!r} draws nothing that had one")
    check_one_of("cutpoint_moves", sampling.cutpoint_moves, ("newton", "walk"))
    if sampling.mean_factors is not None:
        check_count("mean_factors", sampling.mean_factors, 1)
    if not isinstance(sampling.priors, Priors):
        raise DataError(f"priors is {sampling.priors!r}, expected crossfm.Priors(...)")
    return sampling


def group_of(groups: Any, features: Features) -> NDArray[np.int32] | None:
    """The group of each id, or None: one for all; see `Sampling`.

    Raises:
        DataError: no such field, or not a group for each id.
    """
    schema = features.schema
    if isinstance(groups, str):
        if groups not in ("fields", "one"):
            raise DataError(
                f"groups is {groups!r}, expected 'fields', 'one', a dict of field: group, or the"
                " number of a group for each id"
            )
        return None if groups == "one" or schema is None else schema.field_of_
    if isinstance(groups, Mapping):
        names = [] if schema is None else schema.field_names
        for name in groups:
            if name not in names:
                hint = did_you_mean(str(name), names) if names else " X has no named columns."
                raise DataError(f"groups names the field {name!r}, which is none.{hint}")
        if schema is None:
            return None
        keys = [(1, groups[name]) if name in groups else (0, name) for name in names]
        order = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return np.array([order[key] for key in keys], np.int32)[schema.field_of_]
    given = np.asarray(groups)
    if given.shape != (features.n_features,) or given.dtype.kind not in "iu" or given.min() < 0:
        raise DataError(
            f"groups has shape {given.shape} and type {given.dtype}, expected the number of a"
            f" group, from 0, for each of {features.n_features} ids"
        )
    return np.unique(given, return_inverse=True)[1].astype(np.int32)


def group_names(groups: Any, features: Features) -> list[str]:
    """The names of the groups that `group_of` numbers: of fields, or those given to several."""
    schema = features.schema
    if schema is None or not isinstance(groups, str | Mapping) or groups == "one":
        numbers = group_of(groups, features)
        return [str(g) for g in range(1 if numbers is None else int(numbers.max()) + 1)]
    given = groups if isinstance(groups, Mapping) else {}
    names = schema.field_names
    keys = {(1, given[name]) if name in given else (0, name): None for name in names}
    return [
        str(name) if kind == 0 else "+".join(each for each in names if given.get(each) == name)
        for kind, name in keys
    ]
