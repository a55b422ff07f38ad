"""Chain: parameters, hyperparameters and residuals of one run, and its iterations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.data.rows import Rows
from crossfm.errors import DataError, DivergedError
from crossfm.solvers.sweeps.design import Block, Design
from crossfm.solvers.sweeps.latents import Cutpoints, Latents
from crossfm.solvers.sweeps.options import SweepOptions

__all__ = ["Chain"]

METHODS = {"mcmc": 0, "als": 1, "vb": 2}
WORTH_THREADS = 1 << 18  # rows whose residuals are summed up on several threads
REFRESH = 32  # iterations between two residuals made from nothing but the parameters


class Chain:
    r"""A run of Gibbs sampling, alternating least squares or variational Bayes.

    An iteration draws (or computes) in turn: the latent targets of probit models and their
    cutpoints, the precision of the noise, the hyperparameters of every group and factor, the
    bias, and then each weight and each factor from its conditional, with
    ``h_ri = d y_r / d theta_i`` and the residuals ``e``::

        theta_i ~ N((lambda mu + alpha sum_r h_ri (e_r + theta_i h_ri)) / p, 1 / p),
        p = lambda + alpha sum_r h_ri^2

    Args:
        rows: with targets (for ordinal ones the number of the level) and weights or none.
        n_features: number of ids.
        field_of: int32 ``[n_features]`` or None, see `Design`.
        options: see `SweepOptions`.
        group_of: int32 ``[n_features]``, which features share hyperparameters; None: all.
        blocks: relation blocks.
        sweeper: see `Design`.

    Attributes:
        bias: ``w0``.
        noise: precision ``alpha`` of a row of weight 1.
        mean, precision: hyperparameters, float64 ``[1 + k, n_groups]``, the weights' first.
        iteration: how many were done.
        loss: mean squared residual after the last one.
        residual, weights: of the rows, in the design's order; weights may be None.
        latents, cutpoints: of likelihoods that have them, else None.

    Raises:
        DataError: rows that no such solver can take.
        DivergedError: parameters left the finite numbers.

    Source: Rendle 2012, Factorization Machines with libFM, algorithms 2 and 3; Albert and Chib
    1993 for the latent targets; Saha, Misra and Ravindran 2017, Scalable Variational Bayesian
    Factorization Machine, for the variational updates.
    """

    def __init__(
        self,
        rows: Rows,
        n_features: int,
        field_of: NDArray[np.int32] | None,
        options: SweepOptions,
        group_of: NDArray[np.int32] | None = None,
        blocks: Sequence[Block] = (),
        sweeper: Callable[..., Any] = _native.Sweeper,
    ) -> None:
        if not len(rows):
            raise DataError("there are no rows to fit to; give at least one")
        assert rows.targets is not None
        self.options = o = options
        group_of = np.zeros(n_features, np.int32) if group_of is None else group_of
        self.n_groups = int(group_of.max()) + 1 if n_features else 1
        self.design = Design(
            rows, n_features, field_of, across_fields=o.interactions == "across_fields",
            group_of=group_of, n_groups=self.n_groups, blocks=blocks, weights=rows.weights,
            variational=o.method == "vb", sweeper=sweeper,
        )  # fmt: skip
        self._groups = _Groups(group_of[self.design.feature_at], self.n_groups)
        self.targets = self.design.arrange(rows.targets)
        weights = rows.weights
        self.weights = None if weights is None else self.design.arrange(weights)
        self._total = float(len(rows)) if weights is None else float(weights.sum(dtype=np.float64))
        self._is_fresh = False
        self.iteration, self.bias, self.bias_var, self.noise = 0, 0.0, 0.0, 1.0
        shape = 1 + o.n_factors, n_features
        self._parameters = np.zeros(shape, np.float32)
        start = np.random.Generator(np.random.Philox(key=o.seed)).standard_normal(shape, np.float32)
        self._parameters[1:] = o.init_scale * start[1:, self.design.feature_at]
        self._variances = np.full(shape, o.init_scale**2, np.float32) if o.method == "vb" else None
        self.mean = np.zeros((shape[0], self.n_groups))
        self.precision = np.ones((shape[0], self.n_groups))
        if o.method == "als":
            self.precision[0], self.precision[1:] = o.l2_linear, o.l2_factors
        self.residual = np.empty(len(rows), np.float32)
        self.latents = self.cutpoints = None
        if o.likelihood == "ordinal":
            self.cutpoints = Cutpoints(self.targets, o.n_levels, self.weights, o.cutpoint_moves)
        if o.likelihood != "normal":
            self.latents = Latents(self.targets, self.cutpoints, o)
        self._refresh()

    # --- one iteration ------------------------------------------------------------------------

    @np.errstate(over="ignore", invalid="ignore")  # refused at the end
    def step(self) -> None:
        """One iteration.

        Raises:
            DivergedError: something left the finite numbers; the parameters are then no use.
        """
        o = self.options
        rng = np.random.Generator(
            np.random.Philox(key=o.seed, counter=[0, 0, 0, self.iteration + 1])
        )
        if self.iteration % REFRESH == 0 and not self._is_fresh:
            self._refresh()
        self._is_fresh = False
        if self.latents is not None:
            if self.cutpoints is not None:
                self.cutpoints.draw(rng, self.latents.value - self.residual, self.iteration)
            self.latents.draw(self.residual, self.iteration, o)
        else:
            self._draw_noise(rng)
        if o.method != "als":
            self._draw_hyperparameters(rng)
        self._draw_bias(rng)
        self.design.sweeper.sweep(
            residual=self.residual, weights=self._parameters[0], factors=self._parameters[1:],
            weights_var=None if self._variances is None else self._variances[0],
            factors_var=None if self._variances is None else self._variances[1:],
            mean=self.mean, precision=self.precision, noise=self.noise,
            method=METHODS[o.method], seed=o.seed, iteration=self.iteration, with_weights=True,
            threads=o.n_jobs,
        )  # fmt: skip
        self.iteration += 1
        self.loss = self._squares() / self._total
        if not np.isfinite(self.loss):
            raise DivergedError(
                f"iteration {self.iteration}: the parameters left the finite numbers; scale the"
                " targets and numeric columns to about 1, or take fewer factors or a smaller"
                " init_scale"
            )

    def _refresh(self) -> None:
        targets = self.targets if self.latents is None else self.latents.value
        self.design.sweeper.residuals(
            targets=targets, bias=self.bias, residual=self.residual,
            weights=self._parameters[0], factors=self._parameters[1:], threads=self.options.n_jobs,
        )  # fmt: skip
        self.loss, self._is_fresh = self._squares() / self._total, True

    def _squares(self) -> float:
        return self._moments()[1]

    def _moments(self) -> tuple[float, float]:
        """Weighted sums of the residuals and of their squares."""
        threads = self.options.n_jobs if len(self.residual) >= WORTH_THREADS else 1
        total, squares = self.design.sweeper.moments(residual=self.residual, threads=threads)
        return float(total), float(squares)

    def _draw_noise(self, rng: np.random.Generator) -> None:
        o, priors = self.options, self.options.priors
        if o.method == "als":
            return
        squares = self._squares()
        if o.method == "vb":
            spread = self.variances()
            squares += float(spread.sum() if self.weights is None else spread @ self.weights)
        shape, rate = (priors.shape + len(self.targets)) / 2, (priors.rate + squares) / 2
        self.noise = rng.gamma(shape) / rate if o.method == "mcmc" else shape / rate

    def _draw_hyperparameters(self, rng: np.random.Generator) -> None:
        o, priors = self.options, self.options.priors
        count = self._groups.counts
        values = self._parameters.astype(np.float64)
        sums = self._groups.sums(values)
        if o.method == "vb":
            assert self._variances is not None
            squares = self._groups.sums(np.square(values) + self._variances)
            strength = count + priors.strength
            self.mean = (sums + priors.strength * priors.mean) / strength
            rest = squares + priors.strength * priors.mean**2 - strength * np.square(self.mean)
            self.precision = (priors.shape + count) / (priors.rate + np.maximum(rest, 0.0))
            return
        # Squares of values less their means, summed up by groups, without a pass over the means.
        around = self._groups.sums(np.square(values)) - self.mean * (2 * sums - count * self.mean)
        around = np.maximum(around, 0.0) + priors.strength * np.square(self.mean - priors.mean)
        draws = rng.gamma(np.broadcast_to((priors.shape + count + 1) / 2, around.shape))
        self.precision = draws / ((priors.rate + around) / 2)
        strength = count + priors.strength
        self.mean = (sums + priors.strength * priors.mean) / strength
        self.mean += rng.standard_normal(around.shape) / np.sqrt(strength * self.precision)

    def _draw_bias(self, rng: np.random.Generator) -> None:
        o = self.options
        if o.likelihood == "ordinal":
            return  # the cutpoints say it
        total = self._moments()[0]
        precision = self.noise * self._total + (0.0 if o.method == "als" else o.priors.bias)
        bias = self.noise * (total + self.bias * self._total) / precision
        if o.method == "mcmc":
            bias += rng.standard_normal() / np.sqrt(precision)
        if o.method == "vb":
            self.bias_var = 1.0 / precision
        self.residual -= np.float32(bias - self.bias)
        self.bias = bias

    # --- going on -----------------------------------------------------------------------------

    def resume(
        self,
        parameters: NDArray[np.float32],
        bias: float,
        noise: float,
        mean: NDArray[np.float64],
        precision: NDArray[np.float64],
        *,
        iteration: int,
        cutpoints: NDArray[np.float64] | None = None,
        variances: NDArray[np.float32] | None = None,
    ) -> None:
        """Go on from where another chain was, on these rows.

        Args:
            parameters: by id ``[1 + k, m]``; ids from m on, new since, stay as they start.
            bias: see the attributes, as of the next four.
            noise: of the last iteration.
            mean: of the last iteration.
            precision: of the last iteration.
            iteration: how many were done.
            cutpoints: ``[n_levels - 1]`` of an ordinal chain.
            variances: by id, of variational Bayes.
        """
        known = np.flatnonzero(self.design.feature_at < parameters.shape[1])
        ids = self.design.feature_at[known]
        self._parameters[:, known] = parameters[:, ids]
        if self._variances is not None and variances is not None:
            self._variances[:, known] = variances[:, ids]
        self.bias, self.noise, self.iteration = bias, noise, iteration
        self.mean, self.precision = mean.copy(), precision.copy()
        if self.cutpoints is not None and cutpoints is not None:
            self.cutpoints.inner = cutpoints.copy()
        self._refresh()

    # --- what there is ------------------------------------------------------------------------

    def parameters(self) -> NDArray[np.float32]:
        """Weights and factors ``[1 + k, n_features]`` by id, the weights first."""
        return np.ascontiguousarray(self._parameters[:, self.design.place])

    def parameter_variances(self) -> NDArray[np.float32] | None:
        """The same of their variances, under variational Bayes."""
        if self._variances is None:
            return None
        return np.ascontiguousarray(self._variances[:, self.design.place])

    def variances(self) -> NDArray[np.float64]:
        """Variance of each row's score under variational Bayes, in the design's order."""
        assert self._variances is not None
        out = np.empty(len(self.targets), np.float32)
        self.design.sweeper.variances(
            out=out, weights=self._parameters[0], factors=self._parameters[1:],
            weights_var=self._variances[0], factors_var=self._variances[1:],
            threads=self.options.n_jobs,
        )  # fmt: skip
        return out.astype(np.float64) + self.bias_var


class _Groups:
    """Sums over the features of each group."""

    def __init__(self, group_of: NDArray[np.int32], n_groups: int) -> None:
        self.of = group_of
        self.counts = np.bincount(group_of, minlength=n_groups).astype(np.float64)
        rises = np.r_[True, np.diff(group_of) != 0] if len(group_of) else np.zeros(0, bool)
        starts = np.flatnonzero(rises)
        # Groups that stand together are summed as slices.
        self._starts = starts if len(starts) == len(np.unique(group_of)) else None
        self._names = group_of[starts]

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """``[m, n_groups]`` of values ``[m, n_features]``."""
        out = np.zeros((len(values), len(self.counts)))
        if self._starts is None:
            for row, of in zip(values, out, strict=True):
                of += np.bincount(self.of, row, len(self.counts))
        elif len(self._starts):
            out[:, self._names] = np.add.reduceat(values, self._starts, axis=1)
        return out
