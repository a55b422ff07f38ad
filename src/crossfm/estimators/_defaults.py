"""What a solver is given where the user left it open, in proportion to the data."""

from __future__ import annotations

import numpy as np

from crossfm.data.cache import Totals
from crossfm.data.rows import Rows

__all__ = ["default_init_scale", "default_l2_factors", "default_learning_rate"]

# Penalty of the factors. A squared error on standardised targets has curvature 1, a log loss
# p (1 - p), about a fifth of it or less; so has the penalty that suits it. AdaGrad, SGD and Adam
# pay it at each touch, FTRL once for all rows.
L2_FACTORS = {
    "adagrad": {"squared": 0.1, "logistic": 0.02},
    "rowwise_adagrad": {"squared": 0.1, "logistic": 0.02},
    "sgd": {"squared": 0.05, "logistic": 0.01},
    "adam": {"squared": 0.05, "logistic": 0.01},
    "ftrl": {"squared": 10.0, "logistic": 1.0},
}
LIKE_SQUARED = ("squared", "huber", "poisson")  # counts have a mean of 1 for the solver
OFTEN = 1000  # rows a feature is in, on average, from which the penalty falls: they speak for it

# Step size for a row of one feature, and the most it may be.
RATES = {
    "adagrad": (1.5, 0.1),
    "rowwise_adagrad": (1.5, 0.1),
    "ftrl": (1.5, 0.1),
    "sgd": (0.1, 0.01),
    "adam": (0.02, 0.002),
}

# Deviation of the random factors, and the size of a row up to which it stays.
INIT_SCALE, INIT_SIZE = 0.01, 100.0


def default_l2_factors(
    solver: str, loss: str, rows: Rows | Totals, n_features: int
) -> float | None:
    """The penalty of the factors; less a touch where each feature is in many rows.

    Example:
        >>> rows = Rows(np.zeros((20_000, 4), int))  # 20,000 rows a feature
        >>> default_l2_factors("adagrad", "squared", rows, n_features=4)
        0.005
    """
    if solver not in L2_FACTORS:
        return None  # refused elsewhere, by name
    penalty = L2_FACTORS[solver]["squared" if loss in LIKE_SQUARED else "logistic"]
    touches = rows.nnz / max(n_features, 1)
    if solver == "ftrl" or touches <= OFTEN:
        return penalty
    return float(f"{penalty * OFTEN / touches:.3g}")


def default_learning_rate(solver: str, rows: Rows | Totals) -> float:
    """A step size that falls with the size of the rows.

    All features of a row step at once, and together move its score by about the step size times
    the row's sum of squared values, which for categories is the number of features.

    Example:
        >>> default_learning_rate("adagrad", Rows(np.zeros((2, 39), int)))
        0.0385
    """
    whole, most = RATES.get(solver, RATES["adagrad"])
    return float(f"{min(whole / _size(rows), most):.3g}")


def default_init_scale(rows: Rows | Totals) -> float:
    """A deviation of the random factors at which they do not drown the targets.

    What random factors add to a score grows with the size of the row: ``scale^2 size sqrt(k / 2)``.
    Above a size of 100 it is held.

    Example:
        >>> default_init_scale(Rows(np.zeros((2, 39), int)))
        0.01
        >>> default_init_scale(Rows(np.zeros((2, 10_000), int)))
        0.001
    """
    return float(f"{INIT_SCALE * min(1.0, INIT_SIZE / _size(rows)) ** 0.5:.3g}")


def _size(rows: Rows | Totals) -> float:
    """Sum of squared values of a row, on average, at least 1."""
    if isinstance(rows, Totals):
        return max(rows.squares / max(rows.rows, 1), 1.0)
    size = float(rows.nnz)
    if rows.values is not None:
        size = float(np.square(rows.values, dtype=np.float64).sum())
    return max(size / max(len(rows), 1), 1.0)
