"""myFM: Bayesian FM by Gibbs sampling; an epoch is one sweep."""

from __future__ import annotations

import time
from typing import Any

import myfm
import numpy as np
from scipy.special import logit

from benchmarks.workers import Entrant


class MyFM(Entrant):
    """MyFMClassifier (probit) or MyFMRegressor; averages over the later sweeps."""

    def version(self) -> str:
        from importlib.metadata import version

        return f"myFM {version('myfm')}"

    def prepare(self) -> None:
        self.X, self.y = self.train_part.csr(np.int32), np.array(self.train_part.targets)
        self.X_test = self.test_part.csr(np.int32)

    def train(self, *, n_epochs: int, n_factors: int, n_kept: int | None = None,
              loss: str = "logistic", seed: int = 0,
              grouped: bool = False) -> dict[str, Any]:  # fmt: skip
        self.logistic = loss == "logistic"
        kind = myfm.MyFMClassifier if self.logistic else myfm.MyFMRegressor
        self.model = kind(rank=n_factors, random_seed=seed)
        y = self.y > 0 if self.logistic else self.y.astype(np.float64)
        groups = np.bincount(self.train_part.field_of).tolist() if grouped else None
        started = time.perf_counter()
        self.model.fit(self.X, y, n_iter=n_epochs, n_kept_samples=n_kept or max(1, n_epochs // 2),
                       group_shapes=groups)  # fmt: skip
        return {"seconds": time.perf_counter() - started}

    def score(self) -> np.ndarray:
        if self.logistic:
            return logit(np.clip(self.model.predict_proba(self.X_test), 1e-7, 1 - 1e-7))
        return self.model.predict(self.X_test)


def entrant() -> Entrant:
    return MyFM()
