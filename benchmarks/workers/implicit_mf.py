"""implicit: BPR and ALS of users and items, which score every item of every user."""

from __future__ import annotations

import time
from typing import Any

import implicit
import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from scipy import sparse

from benchmarks.workers import Service

METHODS = {"als": AlternatingLeastSquares, "bpr": BayesianPersonalizedRanking}


class Implicit(Service):
    """Training on pairs of a user and an item, each once.

        {"do": "ask", "pairs": path, "method": "als" | "bpr", "options": {...}, "scores": path}
                                                           -> {"seconds": of training}

    `pairs` is an ``.npz`` of user, item, confidence and shape (users, items); `scores` gets all
    scores.
    """

    def version(self) -> str:
        return f"implicit {implicit.__version__}"

    def answer(self, **request: Any) -> dict[str, Any]:
        """See the class."""
        pairs = np.load(request["pairs"])
        shape = tuple(pairs["shape"])
        confidence = pairs["confidence"].astype(np.float32)
        taken = sparse.csr_matrix((confidence, (pairs["user"], pairs["item"])), shape=shape)
        model = METHODS[request["method"]](num_threads=1, **request["options"])
        started = time.perf_counter()
        model.fit(taken, show_progress=False)
        seconds = time.perf_counter() - started
        np.save(request["scores"], model.user_factors @ model.item_factors.T)
        return {"seconds": seconds}


def entrant() -> Service:
    """For the worker."""
    return Implicit()
