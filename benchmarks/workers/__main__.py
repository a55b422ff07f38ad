"""``python -m benchmarks.workers NAME``: answer requests for one entrant on standard input."""

from __future__ import annotations

import importlib
import sys

from benchmarks.workers import Entrant, Service, serve

MODULES = {
    "crossfm": "ours",
    "xlearn": "xlearn_fm",
    "modern-fm": "modern",
    "libffm": "libffm_ffm",
    "myfm": "myfm_fm",
    "torchfm": "torchfm_fm",
    "river": "river_fm",
    # Searches, for benchmarks.retrieval.
    "crossfm-search": "ours_search",
    "faiss": "faiss_search",
    # Recommenders, for benchmarks.ranking.
    "implicit": "implicit_mf",
    # Steps of PyTorch modules, for benchmarks.nn.
    "crossfm-nn": "ours_nn",
    "pytorch": "pytorch_nn",
    "torchfm-steps": "torchfm_nn",
    "deepctr-torch": "deepctr_nn",
}

if __name__ == "__main__":
    found = importlib.import_module(f"benchmarks.workers.{MODULES[sys.argv[1]]}")
    entrant: Entrant | Service = found.entrant()
    serve(entrant)
