"""xLearn, FM and FFM: reads text, trains, writes a model file; its own clock times each epoch.

Its normalisation is off: on, it divides a score's interactions by the norm to the fourth. With
no validation file an epoch's time holds the training pass and the shuffle of row pointers, and
neither reading nor evaluation.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import xlearn

from benchmarks.workers import Entrant, Part
from benchmarks.workers.output import captured

EPOCH = re.compile(r"\[\s*\d+%\s*\]\s+(\d+)\s+([\d.eE+-]+|nan|-nan|inf)\s+([\d.]+)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class XLearn(Entrant):
    """Task binary (logistic) or reg (squared), in memory."""

    def version(self) -> str:
        return "xLearn 0.40a1"

    @property
    def said(self) -> Path:
        """Where what it last printed lies."""
        return self.scratch / "xlearn-output.txt"

    def prepare(self) -> None:
        self.train_text = self.scratch / "xlearn-train.txt"
        self.test_text = self.scratch / "xlearn-test.txt"
        self.model = self.scratch / "xlearn.model"
        write_text(self.train_part, self.train_text)
        write_text(self.test_part, self.test_text)

    def train(self, *, n_epochs: int, n_factors: int, learning_rate: float, l2: float = 0.0,
              init: float = 0.1, n_jobs: int = 1, loss: str = "logistic",
              optimizer: str = "adagrad", model: str = "fm") -> dict[str, Any]:  # fmt: skip
        self.machine = xlearn.create_ffm() if model == "ffm" else xlearn.create_fm()
        self.machine.setTrain(str(self.train_text))
        self.machine.disableNorm()
        self.machine.disableEarlyStop()
        parameters = {
            "task": "binary" if loss == "logistic" else "reg", "opt": optimizer,
            "lr": learning_rate, "lambda": l2, "k": n_factors, "init": init,
            "epoch": n_epochs, "nthread": n_jobs, "metric": "none",
            "log": str(self.scratch / "xlearn-log"),
        }  # fmt: skip
        shown = captured(lambda: self.machine.fit(parameters, str(self.model)), self.said)
        epochs = [float(found[3]) for found in EPOCH.finditer(COLOUR.sub("", shown))]
        if len(epochs) != n_epochs:
            raise RuntimeError(
                f"{len(epochs)} epoch times in what xLearn printed:\n{shown[-2000:]}"
            )
        return {"seconds": sum(epochs), "epochs": epochs}

    def score(self) -> np.ndarray:
        out = self.scratch / "xlearn-scores.txt"
        self.machine.setTest(str(self.test_text))
        captured(lambda: self.machine.predict(str(self.model), str(out)), self.said)
        return np.loadtxt(out)


def write_text(part: Part, path: Path) -> None:
    """Rows as libsvm text, as libffm text where ids have fields; values with seven digits."""
    fields = [b" "] * part.n_features
    if part.field_of is not None:
        fields = [b" %d:" % field for field in part.field_of]
    if part.values is None:
        tokens = np.array([b"%s%d:1" % (f, i) for i, f in enumerate(fields)], dtype=object)
    with path.open("wb", buffering=1 << 20) as sink:
        for row in range(len(part)):
            low, high = int(part.offsets[row]), int(part.offsets[row + 1])
            ids = part.ids[low:high]
            if part.values is None:
                text = b"".join(tokens[ids])
            else:
                pairs = zip(ids, part.values[low:high], strict=True)
                text = b"".join(b"%s%d:%.7g" % (fields[i], i, x) for i, x in pairs)
            sink.write(b"%.7g%s\n" % (part.targets[row], text))


def entrant() -> Entrant:
    return XLearn()
