"""modern-fm: a Rust core in float64 under a scikit-learn estimator.

Only the calls into Rust are timed, in training and in scoring: what its Python side does before
(checks, copies to CSR and float64) counts as reading.
"""

from __future__ import annotations

import time
from typing import Any

import modern_fm
import modern_fm._backend as backend
import numpy as np

from benchmarks.workers import Entrant


class Timed:
    """The extension module, with the time spent in its training and scoring functions."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not name.startswith(("fm_fit", "fm_predict")):
            return found

        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return found(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


class ModernFM(Entrant):
    """FMClassifier or FMRegressor."""

    def version(self) -> str:
        from importlib.metadata import version

        return f"modern-fm {version('modern-fm')}"

    def prepare(self) -> None:
        self.X, self.y = self.train_part.csr(), np.array(self.train_part.targets)
        self.X_test = self.test_part.csr()
        self.clock = Timed(backend._rust)
        backend._rust = self.clock

    def train(self, *, n_epochs: int, n_factors: int, learning_rate: float, l2: float = 0.0,
              init: float = 0.01, n_jobs: int = 1, batch: int = 1, optimizer: str = "adagrad",
              loss: str = "logistic", seed: int = 0) -> dict[str, Any]:  # fmt: skip
        kind = modern_fm.FMClassifier if loss == "logistic" else modern_fm.FMRegressor
        self.model = kind(
            n_factors=n_factors, optimizer=optimizer, learning_rate=learning_rate,
            max_iter=n_epochs, batch_size=batch, l2_linear=0.0, l2_factors=l2, init_scale=init,
            n_jobs=n_jobs, random_state=seed,
        )  # fmt: skip
        self.clock.seconds = 0.0
        started = time.perf_counter()
        self.model.fit(self.X, self.y)
        whole = time.perf_counter() - started
        return {"seconds": self.clock.seconds, "whole": whole}

    def score(self) -> np.ndarray:
        self.clock.seconds = 0.0
        started = time.perf_counter()
        if isinstance(self.model, modern_fm.FMClassifier):
            scores = self.model.decision_function(self.X_test)
        else:
            scores = self.model.predict(self.X_test)
        self.scoring_whole = time.perf_counter() - started
        self.scoring_seconds = self.clock.seconds
        return scores


def entrant() -> Entrant:
    return ModernFM()
