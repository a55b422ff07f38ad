"""Fits by whole sweeps: chains side by side, their draws kept, validation, interrupts."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import numpy as np
from scipy.special import log_ndtr

from crossfm.data.rows import Rows
from crossfm.data.threads import thread_count
from crossfm.errors import DataError
from crossfm.estimators._draws import (
    Draws,
    MeanScore,
    folded,
    scores_of,
    side_by_side,
    taken_apart,
    unfolded,
)
from crossfm.estimators._fitting import Task
from crossfm.estimators._options import check_between, check_count
from crossfm.estimators._sampling import check_sweeps, group_of
from crossfm.fitting import Epoch, History, Interrupts
from crossfm.model import FactorModel
from crossfm.solvers.sweeps import Block, Chain, RunningMean, SweepOptions, sizes_of
from crossfm.solvers.sweeps.latents import log_probability

__all__ = ["sweep"]

INIT_SCALE = {"mcmc": 0.1, "als": 0.1, "vb": 0.5}  # where vectors start small, vb leaves them at 0
INIT_SCALE_ORDINAL = 0.2  # of draws, whose cutpoints and vectors grow together
L2 = 10.0  # of least squares; in units of rows


def sweep(estimator: Any, task: Task, before: Draws | None) -> tuple[Draws, History]:
    """Fit by sweeps; go on from `before` where there are draws.

    Raises:
        DataError: options or rows that such a solver cannot take.
        DivergedError: parameters left the finite numbers.
        KeyboardInterrupt: before the end of the first sweep.
    """
    run = _Run(estimator, task, before)
    with Interrupts() as interrupts:
        run.go(interrupts)
    return run.machine(), run.history


class _Run:
    """Chains under way."""

    def __init__(self, estimator: Any, task: Task, before: Draws | None) -> None:
        self.task, self.before = task, before
        self.sampling = check_sweeps(estimator)
        rows = task.rows if task.only is None else task.rows.take(task.only)
        rows, blocks = taken_apart(task.features, rows)
        self.method, self.interactions = estimator.solver, estimator.interactions
        n_chains = self.sampling.n_chains if before is None else before.n_chains
        is_mcmc = self.method == "mcmc"
        self.burn_in = self.sampling.left_out(task.n_epochs) if is_mcmc and before is None else 0
        self.every = self.sampling.every(task.n_epochs - self.burn_in) if is_mcmc else 1
        kept = -(-(task.n_epochs - self.burn_in) // self.every) if is_mcmc else 1
        n_factors, n_features = (
            check_count("n_factors", estimator.n_factors),
            task.features.n_features,
        )
        self.mean: RunningMean | None = None
        if is_mcmc and self.sampling.keep == "mean":
            if task.targets.likelihood != "normal":
                raise DataError(
                    "keep='mean' goes with numbers as targets: the probability of the mean score"
                    " is not the mean of the draws' probabilities; keep 'all' draws, or a number"
                )
            rank, kept = self.sampling.rank(n_factors), 1
            _check_size(n_features, 2 * rank, n_chains)
            self.mean = RunningMean(n_features, rank, sizes_of(rows, blocks, n_features))
        _check_size(n_features, n_factors, kept * n_chains)
        self.chains = self._start(estimator, rows, blocks, n_factors, n_chains)
        self.rows = rows
        self.kept: list[list[tuple[FactorModel, float, Any]]] = [[] for _ in self.chains]
        self.told: list[list[dict[str, Any]]] = [[] for _ in self.chains]
        self.spread: FactorModel | None = None
        self.history, self.best, self.noise = History(), math.nan, 0.0
        self.seen = None if task.watch is None else MeanScore(task.targets, len(task.watch.rows))

    def _start(
        self, estimator: Any, rows: Rows, blocks: list[Block], n_factors: int, n_chains: int
    ) -> list[Chain]:
        features, targets, before = self.task.features, self.task.targets, self.before
        scale = estimator.init_scale
        # A matrix has a field a column, in which nothing is pooled: "all" is the same and goes
        # without a pass for each column.
        by_field = self.interactions == "across_fields" and features.kind != "matrix"
        field_of = None if features.schema is None else features.schema.field_of_
        if by_field and field_of is None and rows.fields is None:
            raise DataError(
                "interactions='across_fields' needs the field of each feature, and these ids have"
                " none: give a frame, libffm text, or Rows(..., fields=...)"
            )
        if self.interactions not in ("all", "across_fields"):
            raise DataError(
                f"interactions is {self.interactions!r}, expected 'all' or 'across_fields'"
            )
        seeds = np.random.SeedSequence(self.task.seed).generate_state(n_chains).tolist()
        penalties = {
            name: L2 if getattr(estimator, name, None) is None
            else check_between(name, getattr(estimator, name), -1e-300)
            for name in ("l2_linear", "l2_factors")
        }  # fmt: skip
        chains = []
        for number, seed in enumerate(seeds):
            chain = Chain(
                rows, features.n_features, field_of,
                SweepOptions(
                    self.method, targets.likelihood, n_factors,
                    "across_fields" if by_field else "all",
                    init_scale(self.method, targets.likelihood) if scale is None
                    else check_between("init_scale", scale, -1e-300),
                    priors=self.sampling.priors, n_levels=targets.n_outputs,
                    cutpoint_moves=self.sampling.cutpoint_moves,
                    n_jobs=thread_count(1 if estimator.n_jobs is None else estimator.n_jobs),
                    seed=seed, **penalties,
                ),
                group_of(self.sampling.groups, features),
                blocks,
                sweeper=self.sampling.sweeper(),
            )  # fmt: skip
            if before is not None:
                _resume(chain, before, number)
            chains.append(chain)
        return chains

    def go(self, interrupts: Interrupts) -> None:
        """Sweeps, until there is a reason to stop."""
        task, history = self.task, self.history
        for number in range(1, task.n_epochs + 1):
            started = time.perf_counter()
            for chain, told in zip(self.chains, self.told, strict=True):
                chain.step()
                told.append(_state(chain))
            seconds = time.perf_counter() - started
            loss = float(np.mean([_loss(chain) for chain in self.chains]))
            metrics = self._look(number)
            rate = len(self.chains) * len(self.rows) / max(seconds, 1e-9)
            history.epochs.append(Epoch(number, loss, metrics, seconds, rate))
            improved = self._improves(metrics)
            if improved or not self._stops:
                history.best_epoch = number
            interrupted = enough = False
            try:
                enough = task.progress is not None and task.progress(
                    "epoch", {"epoch": number, "of": task.n_epochs, "loss": loss, **metrics,
                              "rows_per_second": rate},
                ) is True  # fmt: skip
            except KeyboardInterrupt:
                interrupted = True
            interrupted = interrupted or interrupts.asked
            if interrupted:
                history.stopped = "interrupted"
            early = self._stops and not improved and (
                number - history.best_epoch >= self._patience
            )  # fmt: skip
            last = interrupted or early or enough or number == task.n_epochs
            self._keep(number, improved, last=last)
            if interrupted:
                return
            if early or enough:
                history.stopped = "early" if early else "callback"
                return

    @property
    def _patience(self) -> int:
        return 0 if self.task.watch is None else self.task.watch.patience

    @property
    def _stops(self) -> bool:
        return self._patience > 0

    def _improves(self, metrics: Any) -> bool:
        watch = self.task.watch
        if watch is None or not self._stops:
            return False
        value = metrics[watch.monitor]
        if self.history.best_epoch and not watch.improves(value, self.best):
            return False
        self.best = value
        return True

    def _look(self, number: int) -> Any:
        """Metrics of the mean over what was drawn since the burn-in; before it, of the draw."""
        watch, targets = self.task.watch, self.task.targets
        if watch is None:
            return {}
        if self.method != "mcmc" or number <= self.burn_in + 1:
            self.seen = MeanScore(targets, len(watch.rows))
        assert self.seen is not None
        for chain in self.chains:
            p = chain.parameters()
            field_of = self.task.features.field_of(self.interactions == "across_fields")
            draw = FactorModel(chain.bias, p[0], p[1:].T, self.interactions, field_of)
            inner = None if chain.cutpoints is None else chain.cutpoints.inner
            (scores,) = scores_of(self.task.features, [draw], watch.rows, chain.options.n_jobs)
            self.seen.add(scores, inner)
        return watch.evaluate(self.seen.value())

    def _keep(self, number: int, improved: bool, last: bool) -> None:
        """Keep this sweep's parameters, or add them to the mean, if they are to be kept."""
        if self.method == "mcmc":
            left = self.task.n_epochs - number
            wanted = number > self.burn_in and left % self.every == 0
            if last and not wanted:
                n_kept = len(self.kept[0]) if self.mean is None else self.mean.count
                wanted = number > self.burn_in or not n_kept
        else:
            wanted = improved if self._stops else last
        if not wanted:
            return
        features, targets = self.task.features, self.task.targets
        for chain, kept in zip(self.chains, self.kept, strict=True):
            if self.mean is not None:
                self.mean.add(chain.bias, chain.parameters())
                self.noise += 1 / chain.noise
                continue
            if self.method != "mcmc":
                kept.clear()
            model = folded(chain.bias, chain.parameters(), features, targets, self.interactions)
            inner = None if chain.cutpoints is None else chain.cutpoints.inner.copy()
            kept.append((model, chain.noise, inner))
            spread = chain.parameter_variances()
            if spread is not None:
                self.spread = FactorModel(
                    chain.bias_var, spread[0], spread[1:].T, self.interactions,
                    model.field_of, schema=model.schema, task=targets.task,
                )  # fmt: skip

    def machine(self) -> Draws:
        """What is left."""
        before, n_chains, features = self.before, len(self.chains), self.task.features
        kept = [one for of_chain in self.kept for one in of_chain]
        traces = {
            name: np.array([[one[name] for one in told] for told in self.told], np.float64)
            for name in self.told[0][0]
        }
        if before is not None:
            traces = {
                name: np.concatenate([before.traces[name], new], axis=1)
                for name, new in traces.items()
            }
            if self.method == "mcmc":
                inner = before.cutpoints
                cutpoints = [None] * len(before.draws) if inner is None else list(inner)
                old = list(zip(before.draws, before.noises, cutpoints, strict=True))
                kept = side_by_side(old, n_chains, kept)
        if self.mean is not None:
            mean = folded(*self.mean.value(), features, self.task.targets, self.interactions)
            kept = [(mean, self.mean.count / self.noise, None)]
        is_ordinal = kept[0][2] is not None
        return Draws(
            features, self.task.targets, self.method,
            tuple(model for model, _, _ in kept), np.array([noise for _, noise, _ in kept]),
            traces, np.array([inner for _, _, inner in kept]) if is_ordinal else None, self.spread,
            is_mean=self.mean is not None,
        )  # fmt: skip


def init_scale(method: str, likelihood: str) -> float:
    """Deviation of the factors at the start, where none is asked for."""
    if method == "mcmc" and likelihood == "ordinal":
        return INIT_SCALE_ORDINAL
    return INIT_SCALE[method]


def _state(chain: Chain) -> dict[str, Any]:
    """What a sweep's trace holds, on the solver's scale."""
    told = {
        "bias": chain.bias, "noise": chain.noise,
        "linear_mean": chain.mean[0].copy(), "linear_precision": chain.precision[0].copy(),
        "factor_mean": chain.mean[1:].T.copy(), "factor_precision": chain.precision[1:].T.copy(),
    }  # fmt: skip
    if chain.cutpoints is not None:
        told["cutpoints"] = chain.cutpoints.inner.copy()
    return told


def _resume(chain: Chain, before: Draws, number: int) -> None:
    """Go on from a chain's last draw."""
    last = (number + 1) * (len(before.draws) // before.n_chains) - 1
    traces = {name: trace[number, -1] for name, trace in before.traces.items()}
    mean, precision = (
        np.concatenate([traces[f"linear_{name}"][None], traces[f"factor_{name}"].T])
        for name in ("mean", "precision")
    )
    if mean.shape != chain.mean.shape:
        raise DataError(
            f"the groups or factors are {chain.mean.shape}, those of the model to go on from"
            f" {mean.shape}; keep them, or fit anew (with warm_start=False)"
        )
    before.widen()
    bias, parameters = unfolded(before.draws[last], before.features, before.targets)
    spread = before.spread
    chain.resume(
        parameters, bias, float(traces["noise"]), mean, precision,
        iteration=before.traces["bias"].shape[1],
        cutpoints=traces.get("cutpoints"),
        variances=None if spread is None
        else np.concatenate([spread.weights[None], spread.factors.T]),
    )  # fmt: skip


def _loss(chain: Chain) -> float:
    """Half the mean squared error, or minus the mean log probability."""
    if chain.latents is None:
        return chain.loss / 2
    scores = chain.latents.value - chain.residual
    levels, weights = chain.latents.levels, chain.weights
    if chain.cutpoints is None:
        logs = log_ndtr(np.where(levels > 0, scores, -scores))
    else:
        logs = log_probability(scores, levels, chain.cutpoints.limits)
    return -float(np.average(logs, weights=weights))


def _check_size(n_features: int, n_factors: int, n_draws: int) -> None:
    """Refuse draws that cannot fit into memory, before the system is asked for it."""
    size = 4 * n_features * (1 + -(-n_factors // 4) * 4) * (n_draws + 2)
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        memory = 2**63
    if size > memory:
        raise DataError(
            f"{n_draws} draws of {n_features} features with {n_factors} factors make"
            f" {size / 2**30:,.0f} GB, more than the memory of this machine"
            f" ({memory / 2**30:,.0f} GB); keep fewer (Sampling(keep=...), or --keep), renumber or"
            " hash the ids, or take fewer factors"
        )
