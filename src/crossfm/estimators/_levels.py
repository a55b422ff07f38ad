"""Targets that are ordered levels: ratings."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crossfm.errors import DataError
from crossfm.estimators._targets import numbers_of
from crossfm.losses import softmax

__all__ = ["LevelTargets"]

MOST_LEVELS = 256


class LevelTargets:
    """Ratings: the place of each among the levels, for the solver.

    A score is a vector: the logarithms of the levels' probabilities.

    Attributes:
        levels: the numbers that occur, sorted, float64 ``[n_levels]``.
    """

    loss = "ordinal"
    likelihood = "ordinal"
    task: Literal["regression", "classification"] = "regression"
    metric = "rmse"
    mean, std, loss_scale, loss_parameter = 0.0, 1.0, 1.0, 0.0

    def __init__(self, levels: NDArray[np.float64]) -> None:
        self.levels = levels

    @staticmethod
    def learn(y: Any) -> LevelTargets:
        """The levels that occur.

        Raises:
            DataError: fewer than two, or so many that they are no levels.
        """
        levels = np.unique(numbers_of(y))
        if len(levels) < 2:
            raise DataError(
                f"all targets are {levels[0]:g} (n_samples = {len(numbers_of(y))}), and ordered"
                " levels need at least two different ones"
            )
        if len(levels) > MOST_LEVELS:
            raise DataError(
                f"y holds {len(levels)} different numbers, and ordered levels may be {MOST_LEVELS};"
                " round them, or take FMRegressor, which predicts numbers"
            )
        return LevelTargets(levels)

    @property
    def n_outputs(self) -> int:
        """The number of levels."""
        return len(self.levels)

    def encode(self, y: Any) -> NDArray[np.float32]:
        """The place of each number among the levels.

        Raises:
            DataError: one that is no level.
        """
        numbers = numbers_of(y)
        place = np.searchsorted(self.levels, numbers).clip(0, len(self.levels) - 1)
        unknown = self.levels[place] != numbers
        if unknown.any():
            row = int(np.argmax(unknown))
            shown = ", ".join(f"{level:g}" for level in self.levels[:10])
            raise DataError(f"row {row}: target {numbers[row]:g} is none of the levels {shown}")
        return place.astype(np.float32)

    def weigh(self, codes: NDArray[np.float32], weight: Any) -> Any:
        """The weights as they are."""
        return weight

    def probabilities(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """Probability of each level, ``[n, n_levels]``."""
        return softmax(scores.reshape(-1, len(self.levels)))

    def shown(self, scores: NDArray[Any], needs: str) -> NDArray[Any]:
        """The expected level ``[n]``."""
        return np.asarray((self.probabilities(scores) @ self.levels).astype(np.float32))

    def truth(self, codes: NDArray[np.float32], needs: str) -> NDArray[Any]:
        """The levels themselves."""
        return self.levels[codes.astype(np.intp)]

    def strata(self, codes: NDArray[np.float32]) -> None:
        """None."""

    def state(self) -> dict[str, Any]:
        """For JSON."""
        return {"levels": self.levels.tolist()}

    @staticmethod
    def from_state(state: dict[str, Any]) -> LevelTargets:
        """What `state` described. Raises ValueError where that is no row of levels."""
        levels = np.array(state["levels"], np.float64)
        if levels.ndim != 1 or len(levels) < 2 or not np.isfinite(levels).all():
            raise ValueError("levels that are none")
        if (np.diff(levels) <= 0).any():
            raise ValueError("levels that do not rise")
        return LevelTargets(levels)
