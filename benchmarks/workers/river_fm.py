"""river: online FM in Python, one row (a dict) at a time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from river import facto, optim

from benchmarks.workers import Entrant, Part


class River(Entrant):
    """facto.FMClassifier with AdaGrad."""

    def version(self) -> str:
        import river

        return f"river {river.__version__}"

    def prepare(self) -> None:
        self.rows, self.test = self._dicts(self.train_part), self._dicts(self.test_part)
        self.y = [bool(target > 0) for target in self.train_part.targets]

    def train(self, *, n_epochs: int, n_factors: int, learning_rate: float = 0.05,
              init: float = 0.01, seed: int = 0) -> dict[str, Any]:  # fmt: skip
        self.model = facto.FMClassifier(
            n_factors=n_factors, weight_optimizer=optim.AdaGrad(learning_rate),
            latent_optimizer=optim.AdaGrad(learning_rate),
            latent_initializer=optim.initializers.Normal(sigma=init, seed=seed), seed=seed,
        )  # fmt: skip
        started = time.perf_counter()
        for _ in range(n_epochs):
            for x, y in zip(self.rows, self.y, strict=True):
                self.model.learn_one(x, y)
        return {"seconds": time.perf_counter() - started}

    def score(self) -> np.ndarray:
        p = np.array([self.model.predict_proba_one(x)[True] for x in self.test])
        p = np.clip(p, 1e-7, 1 - 1e-7)
        return np.log(p) - np.log1p(-p)

    @staticmethod
    def _dicts(part: Part) -> list[dict[str, float]]:
        names = [f"{i}" for i in range(part.n_features)]
        rows = []
        for low, high in zip(part.offsets[:-1], part.offsets[1:], strict=True):
            values = np.ones(high - low) if part.values is None else part.values[low:high]
            ids = part.ids[low:high]
            rows.append({names[i]: float(x) for i, x in zip(ids, values, strict=True)})
        return rows


def entrant() -> Entrant:
    return River()
