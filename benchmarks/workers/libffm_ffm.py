"""libffm through pylibffm: reads its own binary file, and prints the time of each epoch.

Rows are scaled to length one, as is its default: its factors start positive, and without it the
score of a row of 39 features starts near 40, from which one epoch does not come back. The model has
no bias and no linear weights. Its clock runs over the training passes, with what they read
from the binary file, which the system keeps in memory.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pylibffm
from numpy.lib.stride_tricks import as_strided

from benchmarks.workers import Entrant
from benchmarks.workers.output import captured

EPOCH = re.compile(r"^\s*(\d+)\s+([\d.eE+-]+|-?nan|inf)\s+([\d.]+)\s*$", re.MULTILINE)


class LibFFM(Entrant):
    """Logistic loss and AdaGrad, all that it has."""

    def version(self) -> str:
        return "libffm (pylibffm 0.4.1)"

    def prepare(self) -> None:
        assert self.train_part.field_of is not None
        self.fields = np.asarray(self.train_part.field_of, np.int32)
        X = self.train_part.csr(np.int32)
        self.binary, _ = pylibffm.make_bin(
            str(self.scratch), X, np.asarray(self.train_part.targets), self.fields
        )

    def train(self, *, n_epochs: int, n_factors: int, learning_rate: float, l2: float = 0.0,
              n_jobs: int = 1, model: str = "ffm") -> dict[str, Any]:  # fmt: skip
        assert (n_jobs, model) == (1, "ffm")
        options = {
            "eta": learning_rate, "lambda": l2, "nr_iters": n_epochs, "k": n_factors,
            "normalization": True, "auto_stop": False,
        }  # fmt: skip

        def train() -> None:
            self.model = pylibffm.train_with_bin(self.binary, options)

        shown = captured(train, self.scratch / "libffm-output.txt")
        found = [float(line[3]) for line in EPOCH.finditer(shown)]  # since the start
        if len(found) != n_epochs:
            raise RuntimeError(f"{len(found)} epoch times in what libffm printed:\n{shown[-2000:]}")
        return {"seconds": found[-1], "epochs": np.diff(found, prepend=0.0).tolist()}

    def score(self) -> np.ndarray:
        """The definition in NumPy, on libffm's own numbers.

        The wrapper was built for NumPy 1 and hands out arrays with strides of 0 under NumPy 2; what
        they point to is whole: blocks of four numbers, each followed by its sums of squares.
        """
        n, fields, k = self.train_part.n_features, int(self.fields.max()) + 1, self.model.k
        size = n * fields * -(-k // 4) * 8
        W = as_strided(self.model.W, (size,), (4,)).reshape(n, fields, -1, 2, 4)
        ids = np.asarray(self.test_part.ids).reshape(len(self.test_part), fields)
        found = []
        for low in range(0, len(ids), 1000):
            P = W[ids[low : low + 1000], :, :, 0].reshape(-1, fields, fields, W.shape[2] * 4)
            own = np.einsum("bffe,bffe->b", P, P)
            found.append(0.5 / fields * (np.einsum("bfge,bgfe->b", P, P) - own))
        return np.concatenate(found)


def entrant() -> Entrant:
    return LibFFM()
