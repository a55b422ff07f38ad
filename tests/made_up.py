"""Small made-up tables with effects that are known to be there."""

from __future__ import annotations

import numpy as np


def ratings(n=600, seed=0):
    """Users and films with effects of their own and one in common."""
    rng = np.random.default_rng(seed)
    user, film = rng.integers(0, 30, n), rng.integers(0, 20, n)
    taste, kind = rng.standard_normal(30), rng.standard_normal(20)
    y = 3 + taste[user] + kind[film] + taste[user] * kind[film] + 0.1 * rng.standard_normal(n)
    return {"user": user, "film": film}, y


def numbers(n=300, seed=0):
    """Raw columns of very different scales, some with zeros, with an interaction."""
    rng = np.random.default_rng(seed)
    X = np.column_stack(
        [
            rng.normal(2000, 10, n),
            rng.normal(0, 1e-3, n),
            rng.lognormal(8, 1, n) * (rng.random(n) < 0.3),
            rng.integers(0, 2, n),
            rng.normal(-40, 2, n),
        ]
    )
    Z = (X - X.mean(0)) / X.std(0)
    return X, 1e3 + 50 * (Z[:, 0] - Z[:, 1] + 0.8 * Z[:, 0] * Z[:, 1] + 0.5 * Z[:, 2] + Z[:, 3])


def noisy(n, seed=0):
    rng = np.random.default_rng(seed)
    frame = {"user": rng.integers(0, n // 4, n), "item": rng.integers(0, n // 4, n)}
    return frame, (rng.random(n) < 0.5).astype(int)
