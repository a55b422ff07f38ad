"""Draws: a machine as the draws of its parameters, and what these say of rows together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from crossfm.data.rows import Rows
from crossfm.data.threads import thread_count
from crossfm.errors import DataError
from crossfm.estimators._features import Features
from crossfm.estimators._levels import LevelTargets
from crossfm.estimators._machine import widened
from crossfm.estimators._targets import Targets
from crossfm.factors import expect_exact
from crossfm.model import FactorModel
from crossfm.solvers.sweeps import Block, Layout, Posterior

__all__ = [
    "Draws",
    "MeanScore",
    "expect_uncertain",
    "folded",
    "scores_of",
    "side_by_side",
    "taken_apart",
    "unfolded",
]

BATCH = 1 << 16  # rows looked at in all draws at a time
MOST_STEPS, CLOSE = 60, 1e-9  # of the search for a quantile; of the deviation, where it ends


@dataclass
class Draws:
    """What chains have left, on the scale of the data: draws, or one solution.

    Attributes:
        features: how X is read.
        targets: how y is read.
        method: "mcmc", "als" or "vb".
        draws: parameters, a `FactorModel` each, those of a chain together.
        noises: precision of the noise on the scale of the solver, float64 ``[n_draws]``.
        traces: numbers of each sweep by name, float64 ``[n_chains, n_sweeps, ...]``.
        cutpoints: of ordinal targets, float64 ``[n_draws, n_levels - 1]``.
        spread: variances of the parameters, on the solver's scale, under variational Bayes; the
            bias is that of the bias.
        is_mean: whether the one model is the mean of draws that were not kept.
    """

    features: Features
    targets: Targets | LevelTargets
    method: str
    draws: tuple[FactorModel, ...]
    noises: NDArray[np.float64]
    traces: dict[str, NDArray[np.float64]]
    cutpoints: NDArray[np.float64] | None = None
    spread: FactorModel | None = None
    is_mean: bool = False

    penalties = None
    n_fields = None

    @property
    def n_factors(self) -> int:
        """Length of each feature's vector in a draw."""
        return self.draws[0].n_factors

    @property
    def n_chains(self) -> int:
        """Chains that were run."""
        return len(self.traces["bias"])

    @property
    def is_uncertain(self) -> bool:
        """Whether there is more than one solution."""
        return self.method != "als" and not self.is_mean

    def models(self) -> tuple[FactorModel, ...]:
        """The mean of the draws' scores as one machine.

        Its factors are those of all draws side by side, over the root of their number: so is
        ``<v_i, v_j>`` the mean of the draws'.
        """
        if len(self.draws) == 1:
            return self.draws
        factors = [draw.factors for draw in self.draws]
        root = np.float32(np.sqrt(len(self.draws)))
        return (
            replace(
                self.draws[0],
                bias=float(np.mean([draw.bias for draw in self.draws])),
                weights=np.mean([draw.weights for draw in self.draws], axis=0, dtype=np.float64),
                factors=np.concatenate(factors, axis=1) / root,
            ),
        )

    def expect_exact(self) -> None:
        """Refuse to go on from rounded draws, or from none."""
        if self.is_mean:
            raise DataError(
                "keep='mean' has kept no draw to go on from; fit anew (with warm_start=False), or"
                " keep draws"
            )
        for draw in self.draws:
            expect_exact(draw.precision)

    def score(self, rows: Rows, n_jobs: int | None = None) -> NDArray[np.float32]:
        """The mean score ``[n]``.

        Of classes the log odds of the mean probability, of levels the logarithms of their mean
        probabilities ``[n, n_levels]``.
        """
        mean = MeanScore(self.targets, len(rows))
        for number, scores in enumerate(self.each(rows, n_jobs)):
            mean.add(scores, None if self.cutpoints is None else self.cutpoints[number])
        return mean.value()

    def each(self, rows: Rows, n_jobs: int | None = None) -> Iterator[NDArray[np.float32]]:
        """Scores ``[n]`` of each draw."""
        self.widen()
        yield from scores_of(self.features, self.draws, rows, n_jobs)

    # --- what numbers may be --------------------------------------------------------------------

    def moments(
        self, rows: Rows, n_jobs: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of what is predicted, noise included, each ``[n]``."""
        noise = float(np.mean(self.targets.std**2 / self.noises))
        total, squares = np.zeros((2, len(rows)))
        centre: NDArray[np.float64] | None = None
        for scores in self.each(rows, n_jobs):
            centre = scores.astype(np.float64) if centre is None else centre
            gap = scores - centre  # squares of small numbers keep their digits
            total += gap
            squares += gap * gap
        assert centre is not None
        mean = total / len(self.draws)
        variance = np.maximum(squares / len(self.draws) - mean**2, 0.0)
        if self.spread is not None:
            variance = self._variances(rows, n_jobs)
        return centre + mean, np.sqrt(variance + noise)

    def quantiles(
        self, rows: Rows, levels: NDArray[np.float64], n_jobs: int | None = None
    ) -> NDArray[np.float64]:
        """Quantiles of what is predicted, noise included, ``[n, n_levels]``.

        What is predicted is normal for each draw; the quantiles are those of the mixture.
        """
        from scipy.special import ndtri

        parts = []
        for low in range(0, len(rows), BATCH):
            part = rows[low : low + BATCH]
            if self.spread is not None:
                mean, deviation = self.moments(part, n_jobs)
                parts.append(mean[:, None] + deviation[:, None] * ndtri(levels))
                continue
            scores = np.stack(list(self.each(part, n_jobs)))  # [n_draws, n]
            parts.append(_mixture(scores, self.targets.std / np.sqrt(self.noises), levels))
        return np.concatenate(parts) if parts else np.empty((0, len(levels)))

    def _variances(self, rows: Rows, n_jobs: int | None) -> NDArray[np.float64]:
        """Variance of each row's score under variational Bayes."""
        assert self.spread is not None
        self.widen()
        model, scaling = self.draws[0], self.features.scaling
        rows, blocks = taken_apart(self.features, rows)
        if scaling is not None:
            shifts = len(scaling.centred) > 0
            rows = self.features.scaled(
                rows, rows.to_csr(self.features.n_features) if shifts else None
            )
        bias, parameters = unfolded(model, self.features, self.targets)
        spread = np.concatenate([self.spread.weights[None], self.spread.factors.T])
        return self.targets.std**2 * Posterior(
            np.array([bias]), parameters[None], self.noises,
            interactions=model.interactions, field_of=model.field_of,
            variances=np.ascontiguousarray(spread), bias_variance=self.spread.bias,
        ).score_variances(rows, blocks, thread_count(n_jobs or 1))  # fmt: skip

    def widen(self) -> None:
        """Make room for features that X has brought: they add nothing to the draws so far."""
        n = self.features.n_features
        if n > self.draws[0].n_features:
            self.draws = tuple(widened(draw, n, self.features) for draw in self.draws)
            if self.spread is not None:
                self.spread = widened(self.spread, n, self.features)


def taken_apart(features: Features, rows: Rows) -> tuple[Rows, list[Block]]:
    """Rows as a solver takes them: those of X, and the relation blocks."""
    own, tables = features.own_rows(rows)
    return own, [Block(*table) for table in tables]


def scores_of(
    features: Features, draws: Iterable[FactorModel], rows: Rows, n_jobs: int | None
) -> Iterator[NDArray[np.float32]]:
    """Scores ``[n]`` of each draw; what blocks add to a score is computed once a unit."""
    own, blocks = taken_apart(features, rows)
    layout: Layout | None = None
    for draw in draws:
        if not blocks or not len(own):
            yield draw.score(own, n_jobs)
            continue
        if layout is None:
            layout = Layout(
                own, blocks, n_features=draw.n_features, field_of=draw.field_of,
                interactions=draw.interactions,
            )  # fmt: skip
        found = np.concatenate([draw.weights[None, layout.ids], draw.factors[layout.ids].T])
        yield layout.scores(draw.bias, found, thread_count(n_jobs or 1))


class MeanScore:
    """The mean of draws' predictions, as the score that stands for it.

    Args:
        targets: what scores are of.
        n: rows.
    """

    def __init__(self, targets: Any, n: int) -> None:
        self._likelihood, self._count = targets.likelihood, 0
        shape = {"normal": (n,), "probit": (2, n)}.get(self._likelihood)
        self._sum = np.zeros(shape or (targets.n_outputs, n))

    def add(self, scores: NDArray[np.float32], cutpoints: NDArray[np.float64] | None) -> None:
        """One draw more: scores ``[n]``."""
        self._count += 1
        if self._likelihood == "normal":
            self._sum += scores
            return
        z = scores.astype(np.float64)
        if self._likelihood == "probit":
            self._sum[0] += ndtr(-z)
            self._sum[1] += ndtr(z)
            return
        assert cutpoints is not None
        low = np.r_[-np.inf, cutpoints][:, None] - z
        high = np.r_[cutpoints, np.inf][:, None] - z  # [n_levels, n]
        turned = low > 0  # in the tail probabilities keep their digits
        self._sum += ndtr(np.where(turned, -low, high)) - ndtr(np.where(turned, -high, low))

    def value(self) -> NDArray[np.float32]:
        """See `Draws.score`."""
        mean = self._sum / max(self._count, 1)
        if self._likelihood == "normal":
            return mean.astype(np.float32)
        logs = np.log(np.maximum(mean, 1e-300))
        if self._likelihood == "probit":
            return np.asarray((logs[1] - logs[0]).astype(np.float32))
        return np.ascontiguousarray(logs.T, np.float32)


def folded(
    bias: float,
    parameters: NDArray[np.float32],
    features: Features,
    targets: Targets | LevelTargets,
    interactions: Any,
) -> FactorModel:
    """A solver's parameters ``[1 + k, n_features]`` as a model on the scale of the data."""
    w, v = parameters[0].astype(np.float64), parameters[1:].T.astype(np.float64)
    scaling, std = features.scaling, targets.std
    if scaling is not None:
        bias, w, v = scaling.fold(bias, w, v, slice(None), (w[scaling.centred], v[scaling.centred]))
    return FactorModel(
        targets.mean + std * bias, (std * w).astype(np.float32),
        (v * std**0.5).astype(np.float32), interactions=interactions,
        field_of=features.field_of(interactions == "across_fields"), schema=features.schema,
        task=targets.task, metadata={"likelihood": targets.likelihood},
    )  # fmt: skip


def unfolded(
    model: FactorModel, features: Features, targets: Targets | LevelTargets
) -> tuple[float, NDArray[np.float32]]:
    """The inverse of `folded`: the bias, and parameters ``[1 + k, n_features]``."""
    bias = (model.bias - targets.mean) / targets.std
    w = model.weights.astype(np.float64) / targets.std
    v = model.factors.astype(np.float64) / targets.std**0.5
    if features.scaling is not None:
        bias, w, v = features.scaling.unfold(bias, w, v)
    return bias, np.concatenate([w[None], v.T]).astype(np.float32)


def _mixture(
    means: NDArray[np.float32], deviations: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Quantiles ``[n, n_levels]`` of equal mixtures of normals, means ``[n_draws, n]``."""
    from scipy.special import ndtri

    scale = deviations[:, None]
    centre = means.mean(axis=0, dtype=np.float64)
    spread = np.sqrt(means.var(axis=0, dtype=np.float64) + np.square(deviations).mean())
    found = np.empty((means.shape[1], len(levels)))
    for at, level in enumerate(levels):
        ends = means + scale * ndtri(level)  # a mixture's quantile lies between its parts'
        low, high = ends.min(axis=0), ends.max(axis=0)
        x = np.clip(centre + spread * ndtri(level), low, high)
        for _ in range(MOST_STEPS):  # Newton's, and halves of the interval where these lead out
            z = (x - means) / scale
            excess = ndtr(z).mean(axis=0) - level
            low, high = np.where(excess < 0, x, low), np.where(excess < 0, high, x)
            density = (np.exp(-z * z / 2) / scale).mean(axis=0) / np.sqrt(2 * np.pi)
            new = x - excess / np.maximum(density, 1e-300)
            new = np.where((low <= new) & (new <= high), new, (low + high) / 2)
            moved = np.abs(new - x)
            x = new
            if (moved <= CLOSE * spread).all():
                break
        found[:, at] = x
    return found


def expect_uncertain(machine: Any, owner: str, what: str) -> Draws:
    """The draws, where there are any.

    Raises:
        DataError: the fit has left one solution without a word on how sure it is.
    """
    if isinstance(machine, Draws) and machine.is_uncertain:
        return machine
    if isinstance(machine, Draws) and machine.is_mean:
        raise DataError(
            f"{what} needs draws, and keep='mean' has kept none; keep 'all', or a number of them"
        )
    raise DataError(
        f"{what} needs a fit that knows how sure it is: {owner}(solver='mcmc') or solver='vb'"
    )


def side_by_side(parts: Sequence[Any], n_chains: int, more: Sequence[Any]) -> list[Any]:
    """What each chain has, with what it has since."""
    per, new = len(parts) // n_chains, len(more) // n_chains
    return [
        one
        for chain in range(n_chains)
        for one in (*parts[chain * per : (chain + 1) * per], *more[chain * new : (chain + 1) * new])
    ]
