"""crossfm's fused solvers, on Rows that are views of the mapped arrays."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.workers import Entrant
from crossfm.data.rows import Rows
from crossfm.solvers import FusedTrainer, fit, solver_options


class Ours(Entrant):
    """`seconds` is the epochs with their shuffles; `whole` is everything from rows to model.

    That adds validation, the start of the parameters and the copy into a FactorModel. Scoring is
    the call on rows that were validated before; with rows never seen before it is `scoring_whole`.
    """

    mapped = False
    draws: Any = None

    def version(self) -> str:
        import crossfm
        from crossfm import _native

        return f"crossfm {crossfm.__version__} ({_native.isa})"

    def prepare(self) -> None:
        self.rows = self._rows(self.train_part)
        self.n_features = self.train_part.n_features

    def train(self, *, n_epochs: int, loss: str = "logistic", solver: str = "adagrad",
              **options: Any) -> dict[str, Any]:  # fmt: skip
        if solver == "mcmc":
            return self._sample(n_epochs, **options)
        started = time.perf_counter()
        field_of = self.train_part.field_of
        if field_of is not None and options.get("model", "fm") != "fm":
            options["n_fields"] = int(field_of.max()) + 1
        chosen = solver_options(solver, loss=loss, **options)
        trainer = FusedTrainer(chosen, self.n_features, field_of)
        history, models = fit(trainer, self.rows, n_epochs=n_epochs)
        whole = time.perf_counter() - started
        self.model = models[0]
        return {"seconds": sum(epoch.seconds for epoch in history.epochs), "whole": whole}

    def _sample(self, n_sweeps: int, **options: Any) -> dict[str, Any]:
        """Draws of a normal machine, a group of hyperparameters a field."""
        from crossfm.solvers.sweeps import Chain, SweepOptions

        started = time.perf_counter()
        field_of = self.train_part.field_of
        mean, scale = self.rows.targets.mean(), self.rows.targets.std()
        rows = self.rows.replace(targets=(self.rows.targets - mean) / scale)
        chain = Chain(rows, self.n_features, field_of, SweepOptions("mcmc", **options), field_of)
        draws = []
        for _ in range(n_sweeps):
            chain.step()
            draws.append((chain.bias, chain.parameters()))
        self.draws = mean, scale, draws
        return {"seconds": time.perf_counter() - started}

    def _mean(self, test: Rows) -> np.ndarray:
        """The mean of the draws' scores."""
        from crossfm.model import FactorModel

        mean, scale, draws = self.draws
        total = np.zeros(len(test))
        for bias, p in draws:
            total += FactorModel(bias, p[0], p[1:].T).score(test)
        return mean + scale * total / len(draws)

    def score(self) -> np.ndarray:
        if self.draws:
            return self._mean(self._rows(self.test_part))
        test = self._rows(self.test_part)
        started = time.perf_counter()
        test.validate(self.n_features)  # kept with the rows: a score finds it done
        checked = time.perf_counter()
        scores = self.model.score(test, n_jobs=1)
        ended = time.perf_counter()
        self.scoring_seconds, self.scoring_whole = ended - checked, ended - started
        return scores

    @staticmethod
    def _rows(part: Any) -> Rows:
        lengths = np.diff(part.offsets)
        same = len(lengths) == 0 or bool((lengths == lengths[0]).all())
        offsets = None if same else part.offsets
        return Rows(part.ids.ravel(), values=part.values, offsets=offsets, targets=part.targets,
                    n_rows=len(part))  # fmt: skip


def entrant() -> Entrant:
    return Ours()
