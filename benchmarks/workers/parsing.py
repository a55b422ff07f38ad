"""Parsing alone, in the peers' environment: scikit-learn's reader, and xLearn's conversion.

    python -m benchmarks.workers.parsing sklearn FILE N_FEATURES     one JSON line with seconds
    python -m benchmarks.workers.parsing xlearn FILE N_FEATURES

xLearn converts a text file to its binary form when it first trains on it; its own clock times
that, and the training that follows is none of it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

CLOCK = re.compile(r"Time cost for reading problem:\s*([\d.]+)")


def scikit_learn(path: Path, n_features: int) -> dict[str, Any]:
    """Seconds of `load_svmlight_file`, and what it read."""
    import sklearn
    from sklearn.datasets import load_svmlight_file

    started = time.perf_counter()
    X, y = load_svmlight_file(str(path), n_features=n_features, dtype="float32", zero_based=True)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds, "version": f"scikit-learn {sklearn.__version__}", "rows": len(y),
        "nnz": int(X.nnz), "ids": int(X.indices.sum()),
        "values": float(X.data.sum(dtype="float64")),
    }  # fmt: skip


def xlearn(path: Path, n_features: int) -> dict[str, Any]:
    """Seconds that xLearn says it took to read and convert; the file's binary form is new."""
    from benchmarks.workers.xlearn_fm import COLOUR, XLearn

    binary = Path(f"{path}.bin")
    binary.unlink(missing_ok=True)
    entrant = XLearn()
    entrant.scratch = path.parent
    entrant.train_text = path
    entrant.model = path.parent / "xlearn.model"
    entrant.train(n_epochs=1, n_factors=1, learning_rate=0.01)
    shown = entrant.said.read_text(encoding="utf-8", errors="replace")
    found = CLOCK.search(COLOUR.sub("", shown))
    if found is None or not binary.exists():
        raise RuntimeError(f"xLearn converted nothing:\n{shown[-2000:]}")
    size = binary.stat().st_size
    binary.unlink()
    return {"seconds": float(found[1]), "version": entrant.version(), "bytes": size}


if __name__ == "__main__":
    found = {"sklearn": scikit_learn, "xlearn": xlearn}[sys.argv[1]](
        Path(sys.argv[2]), int(sys.argv[3])
    )
    print(json.dumps(found), flush=True)
