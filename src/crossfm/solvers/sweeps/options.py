"""What a coordinate-wise solver needs to know."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from crossfm.errors import DataError

__all__ = ["Priors", "SweepOptions"]


@dataclass(frozen=True, slots=True)
class Priors:
    r"""Hyperpriors of Gibbs sampling and variational Bayes.

    With a group g of features and a column f (the weights, or one factor)::

        theta_i  ~ N(mu_gf, 1 / lambda_gf)
        mu_gf    ~ N(mean, 1 / (strength lambda_gf))
        lambda_gf, alpha ~ Gamma(shape / 2, rate / 2)
        w0       ~ N(0, 1 / bias)

    with ``alpha`` the precision of the noise.

    Attributes:
        shape: of the gamma distributions.
        rate: of the gamma distributions.
        strength: of the mean's prior, in units of features.
        mean: of the means.
        bias: precision of the bias.

    Source: Rendle 2012, Factorization Machines with libFM, section 4.4; Freudenthaler,
    Schmidt-Thieme and Rendle 2011, Bayesian Factorization Machines.
    """

    shape: float = 1.0
    rate: float = 1.0
    strength: float = 1.0
    mean: float = 0.0
    bias: float = 1e-2

    def __post_init__(self) -> None:
        for name in ("shape", "rate", "strength", "bias"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise DataError(f"{name} of the priors is {value!r}, expected a number above 0")
        if not (isinstance(self.mean, int | float) and math.isfinite(self.mean)):
            raise DataError(f"mean of the priors is {self.mean!r}, expected a finite number")


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """Options of Gibbs sampling, alternating least squares and variational Bayes.

    Attributes:
        method: "mcmc", "als" or "vb".
        likelihood: "normal", "probit" (targets 0 and 1) or "ordinal" (targets 0 .. n_levels - 1).
        n_factors: length k of each feature's vector.
        interactions: "all" or "across_fields".
        init_scale: standard deviation of the random factors at the start.
        l2_linear: of alternating least squares, which minimises the sum of squared errors and
            ``l2`` times the squares of the parameters.
        l2_factors: the same for the factors.
        priors: of the other two.
        n_levels: of ordinal targets.
        cutpoint_moves: of their limits, "newton" or "walk", see `Cutpoints`.
        n_jobs: threads; results do not depend on it.
        seed: of everything random.
    """

    method: Literal["mcmc", "als", "vb"] = "mcmc"
    likelihood: Literal["normal", "probit", "ordinal"] = "normal"
    n_factors: int = 16
    interactions: Literal["all", "across_fields"] = "all"
    init_scale: float = 0.1
    l2_linear: float = 1.0
    l2_factors: float = 1.0
    priors: Priors = Priors()
    n_levels: int = 2
    cutpoint_moves: Literal["newton", "walk"] = "newton"
    n_jobs: int = 1
    seed: int = 0
