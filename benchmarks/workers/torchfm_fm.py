"""torchfm: FM in PyTorch, batches, dense gradients of the whole table at each step."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torchfm.model.fm import FactorizationMachineModel

from benchmarks.workers import Entrant


class TorchFM(Entrant):
    """Rows of equal length only; ids are one space, so the model gets one field of offset 0."""

    def version(self) -> str:
        from importlib.metadata import version

        return f"torchfm {version('torchfm')}, torch {torch.__version__}"

    def prepare(self) -> None:
        n = len(self.train_part)
        self.ids = torch.from_numpy(np.array(self.train_part.ids).reshape(n, -1).astype(np.int64))
        self.y = torch.from_numpy(np.array(self.train_part.targets))
        n = len(self.test_part)
        self.test = torch.from_numpy(np.array(self.test_part.ids).reshape(n, -1).astype(np.int64))

    def train(self, *, n_epochs: int, n_factors: int, learning_rate: float = 1e-3,
              batch: int = 4096, n_jobs: int = 1, seed: int = 0) -> dict[str, Any]:  # fmt: skip
        torch.set_num_threads(n_jobs)
        torch.manual_seed(seed)
        # Its field dimensions only make offsets and the size of one shared table.
        self.model = FactorizationMachineModel([self.train_part.n_features], n_factors)
        for part in (self.model.embedding, self.model.linear):
            part.offsets = np.zeros(1, dtype=np.int64)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=learning_rate)
        loss = torch.nn.BCELoss()
        started = time.perf_counter()
        for _ in range(n_epochs):
            for part in torch.randperm(len(self.y)).split(batch):
                optimizer.zero_grad()
                loss(self.model(self.ids[part]), self.y[part]).backward()
                optimizer.step()
        return {"seconds": time.perf_counter() - started}

    def score(self) -> np.ndarray:
        with torch.no_grad():
            found = [self.model(part) for part in self.test.split(8192)]
        return torch.logit(torch.cat(found), eps=1e-7).numpy()


def entrant() -> Entrant:
    return TorchFM()
