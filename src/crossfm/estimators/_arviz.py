"""Traces as ArviZ reads them: a tree of xarray datasets with named chains, sweeps and groups."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from crossfm.errors import require
from crossfm.estimators._draws import Draws
from crossfm.estimators._sampling import Sampling, group_names

__all__ = ["as_arviz"]

DIMS = {
    "linear_mean": ["group"],
    "linear_precision": ["group"],
    "factor_mean": ["group", "factor"],
    "factor_precision": ["group", "factor"],
    "cutpoints": ["cutpoint"],
}


def as_arviz(machine: Draws, sampling: Sampling) -> Any:
    """See `FMBase.to_arviz`."""
    base = require("arviz_base", "arviz")
    traces = machine.traces
    first = sampling.burnt(traces["noise"].shape[1])
    groups = {"posterior": {name: trace[:, first:] for name, trace in traces.items()}}
    if first:
        groups["warmup_posterior"] = {name: trace[:, :first] for name, trace in traces.items()}
    n_groups = traces["linear_mean"].shape[2]
    names = group_names(sampling.groups, machine.features)
    about = {"inference_library": "crossfm", "inference_library_version": version("crossfm")}
    return base.from_dict(
        groups,
        save_warmup=True,
        coords={"group": names if len(names) == n_groups else list(map(str, range(n_groups)))},
        dims={name: dims for name, dims in DIMS.items() if name in traces},
        attrs=dict.fromkeys(groups, about),
    )
