"""Draws in model files: a model each, and beside them as JSON what else the chains have left."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm.errors import DataError
from crossfm.estimators._draws import Draws
from crossfm.estimators._features import Features
from crossfm.estimators._levels import LevelTargets
from crossfm.estimators._sampling import SWEEPS, Sampling
from crossfm.estimators._targets import Targets
from crossfm.model import FactorModel
from crossfm.solvers.sweeps import Priors

__all__ = ["restored_draws", "restored_sampling", "sampling_state", "state_of", "stored_models"]


def stored_models(machine: Draws) -> tuple[FactorModel, ...]:
    """The draws, and after them the variances, where there are any."""
    return machine.draws if machine.spread is None else (*machine.draws, machine.spread)


def state_of(machine: Draws) -> dict[str, Any]:
    """All but the models, for JSON."""
    return {
        "method": machine.method,
        "noises": _packed(machine.noises),
        "cutpoints": None if machine.cutpoints is None else _packed(machine.cutpoints),
        "traces": {name: _packed(trace) for name, trace in machine.traces.items()},
        "has_spread": machine.spread is not None,
        "is_mean": machine.is_mean,
    }


def restored_draws(
    state: Mapping[str, Any],
    models: Sequence[FactorModel],
    features: Features,
    targets: Targets | LevelTargets,
) -> Draws:
    """What `state_of` described. Raises ValueError or KeyError where it is broken."""
    spread = models[-1] if state["has_spread"] else None
    draws = tuple(models if spread is None else models[:-1])
    noises = _unpacked(state["noises"])
    cutpoints = None if state["cutpoints"] is None else _unpacked(state["cutpoints"])
    traces = {str(name): _unpacked(trace) for name, trace in state["traces"].items()}
    n = len(draws)
    if state["method"] not in SWEEPS or not n or noises.shape != (n,) or (noises <= 0).any():
        raise ValueError("draws and their noise do not fit together")
    if (cutpoints is None) == (targets.likelihood == "ordinal"):
        raise ValueError("cutpoints do not fit the targets")
    if cutpoints is not None and (
        cutpoints.shape != (n, targets.n_outputs - 1) or (np.diff(cutpoints) <= 0).any()
    ):
        raise ValueError("cutpoints that do not rise")
    names = {"bias", "noise", "linear_mean", "linear_precision", "factor_mean", "factor_precision"}
    shapes = {trace.shape[:2] for trace in traces.values()}
    is_mean = bool(state["is_mean"])
    if not names <= set(traces) or len(shapes) != 1:
        raise ValueError("traces of other names or lengths")
    if n != 1 if is_mean else n % next(iter(shapes))[0]:
        raise ValueError("traces do not fit the draws")
    return Draws(
        features, targets, state["method"], draws, noises, traces, cutpoints, spread, is_mean
    )


def sampling_state(sampling: Sampling | None) -> dict[str, Any] | None:
    """For JSON; None where there is none, or JSON could not hold it."""
    if sampling is None:
        return None
    state = asdict(sampling)
    del state["device"]  # of a machine, not of the model
    if isinstance(sampling.groups, Mapping):
        pairs = list(sampling.groups.items())
        if not all(isinstance(part, str | int) for pair in pairs for part in pair):
            return None
        state["groups"] = {"pairs": [list(pair) for pair in pairs]}
    elif not isinstance(sampling.groups, str):
        state["groups"] = np.asarray(sampling.groups).tolist()
    return state


def restored_sampling(state: Mapping[str, Any] | None) -> Sampling | None:
    """What `sampling_state` described."""
    if state is None:
        return None
    groups = state["groups"]
    if isinstance(groups, Mapping):
        groups = dict(groups["pairs"])
    try:
        priors = Priors(**state["priors"])
    except DataError as error:
        raise ValueError(str(error)) from error
    return Sampling(
        state["burn_in"], state["n_chains"], state["keep"], priors, groups,
        mean_factors=state["mean_factors"], cutpoint_moves=state["cutpoint_moves"],
    )  # fmt: skip


def _packed(array: NDArray[np.float64]) -> dict[str, Any]:
    """Float64 to the bit."""
    data = np.ascontiguousarray(array, "<f8").tobytes()
    return {"shape": list(array.shape), "float64": base64.b64encode(data).decode()}


def _unpacked(state: Mapping[str, Any]) -> NDArray[np.float64]:
    shape = tuple(int(length) for length in state["shape"])
    data = base64.b64decode(state["float64"], validate=True)
    if min(shape, default=0) < 0 or len(data) != 8 * int(np.prod(shape, dtype=object)):
        raise ValueError("an array of another size than it says")
    array = np.frombuffer(data, "<f8").astype(np.float64).reshape(shape)
    if not np.isfinite(array).all():
        raise ValueError("numbers that are not finite")
    return array
