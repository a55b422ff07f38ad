"""Small problems and solvers that the solver tests share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crossfm.data.rows import Rows
from crossfm.solvers import FTRL, SGD, AdaGrad, Adam, RowwiseAdaGrad


def make_rows(rng, n=60, n_features=23, *, values=True, bags=True, classes=2, weights=False):
    n_fields = 5
    field_of = np.sort(rng.integers(0, n_fields, n_features)).astype(np.int32)
    field_of[:n_fields] = np.arange(n_fields)
    field_of = np.sort(field_of)
    ids, lengths = [], []
    for r in range(n):
        row = []
        for field in range(n_fields):
            mine = np.flatnonzero(field_of == field)
            count = rng.integers(0, min(3, len(mine)) + 1) if bags else 1
            row.extend(np.sort(rng.choice(mine, count, replace=False)))
        if r == 7 and bags:
            row = []  # an empty row
        ids.extend(row)
        lengths.append(len(row))
    targets = rng.integers(0, classes, n) if classes else rng.normal(size=n)
    rows = Rows(
        np.array(ids, np.int64 if bags else np.int32),
        rng.uniform(-0.7, 0.7, len(ids)) if values else None,
        np.concatenate([[0], np.cumsum(lengths)]) if bags else None,
        targets=targets,
        weights=rng.uniform(0, 2, n) if weights else None,
        n_rows=n,
    )
    return rows, field_of


SOLVER_CASES = [
    SGD(learning_rate=0.02, l2_linear=0.01, l2_factors=0.02),
    AdaGrad(learning_rate=0.1, l2_linear=0.01, l2_factors=0.02, initial_accumulator=0.1),
    FTRL(learning_rate=0.2, l2_linear=0.1, l2_factors=0.2, l1_linear=0.3, l1_factors=0.01),
    Adam(learning_rate=0.01, l2_linear=0.01, l2_factors=0.02, beta2=0.99, epsilon=1e-4),
    RowwiseAdaGrad(learning_rate=0.1, l2_linear=0.01, l2_factors=0.02, initial_accumulator=0.1),
]
by_solver = pytest.mark.parametrize("base", SOLVER_CASES, ids=lambda o: o.optimizer)


def behind(base):
    """How far the loss of several threads may be behind that of one.

    Threads take turns at random. Where the system keeps one from running for long, its last steps
    come from a point long left; under Adam, whose steps do not shrink, that was seen to cost up to
    0.03 on a machine with three times as many threads at work as cores.
    """
    return 0.05 if isinstance(base, Adam) else 0.015


def trains(base, model):
    """Whether a solver trains a model, by its name."""
    return not isinstance(base, RowwiseAdaGrad) or model in ("fm", "ffm")


def by_solver_and(names, models):
    """Solvers with all models that they train; a model is a tuple of values of the names."""
    cases = [(base, *model) for base in SOLVER_CASES for model in models if trains(base, model[0])]
    ids = ["-".join([base.optimizer, *map(str, model)]) for base, *model in cases]
    return pytest.mark.parametrize(("base", *names), cases, ids=ids)


def with_(options, **changes):
    return replace(options, init_scale=0.3, **changes)


def clicks(n=4000, seed=0):
    """A planted problem: 6 fields of 30 values, some of them hot."""
    rng = np.random.default_rng(seed)
    ids = np.minimum(rng.zipf(1.5, (n, 6)) - 1, 29) + 30 * np.arange(6)
    w, V = rng.normal(size=180), rng.normal(size=(180, 3)) * 0.7
    z = w[ids].sum(1) + 0.5 * (V[ids].sum(1) ** 2 - (V[ids] ** 2).sum(1)).sum(1)
    y = rng.uniform(size=n) < 1 / (1 + np.exp(-z))
    return Rows(ids.astype(np.int32), targets=y.astype(np.float32))
