"""xLearn, FM and FFM: reads text, trains, writes a model file; its own clock times each epoch.

Its normalisation is off: on, it divides a score's interactions by the norm to the fourth. With
no validation file an epoch's time holds the training pass and the shuffle of row pointers, and
neither reading nor evaluation.

It scores a file into a file: load the model, read the rows (from the binary form that it made of
the text the first time), score, write. What counts as scoring is from the line that says that
prediction starts, when model and rows are in memory, to the line with the test loss; with that
loss and the writing of one number a row it cannot be cut finer. It takes no number of threads for
prediction, so it is held to one core.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xlearn

from benchmarks.workers import Entrant, Part
from benchmarks.workers.output import captured, clocked

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
        started = time.perf_counter()
        with one_core():
            lines = clocked(lambda: self.machine.predict(str(self.model), str(out)))
        self.scoring_whole = time.perf_counter() - started
        self.scoring_seconds = between(lines, "Start to predict", "The test loss is")
        return np.loadtxt(out)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Hold this process to one core, where the system can."""
    pin = getattr(os, "sched_setaffinity", None)
    cores = os.sched_getaffinity(0) if pin else set()
    if pin:
        pin(0, {min(cores)})
    try:
        yield
    finally:
        if pin:
            pin(0, cores)


def between(lines: list[tuple[float, str]], first: str, last: str) -> float:
    """Seconds from the line that says `first` to the one that says `last`."""
    found = [next((at for at, line in lines if text in line), None) for text in (first, last)]
    if found[0] is None or found[1] is None:
        said = "".join(line for _, line in lines)[-2000:]
        raise RuntimeError(f"no lines {first!r} and {last!r} in what xLearn printed:\n{said}")
    return found[1] - found[0]


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
