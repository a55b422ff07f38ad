"""Entrants: each trains in a process of its own interpreter and answers over a pipe.

Requests and answers are one JSON object a line. Arrays never cross the pipe: they lie as
``.npy`` files in folders that both sides see, and are mapped, not copied.

    {"do": "load", "train": folder, "test": folder, "scratch": folder}  -> {"version": text}
    {"do": "train", "options": {...}, "scores": path}
                   -> {"seconds": s, "scoring_seconds": s, "scoring_whole": s, ...}
    {"do": "memory"}                                  -> {"peak": bytes, "baseline": bytes}
    {"do": "ask", ...}                                -> whatever a `Service` answers
    {"do": "stop"}

`seconds` is the training alone: neither reading nor scoring the test rows is in it.
`scoring_seconds`, of those entrants that measure it, is the scoring of the test part alone, from
rows in memory that are checked and in the library's own form to scores, and `scoring_whole` all
that the user waits for. What fails
answers ``{"error": text}``.

This module needs only NumPy, and the entrants only what they measure: they run in the peers'
environment, where crossfm is not.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Part:
    """One part of a data set, as it lies in a folder.

    Attributes:
        ids: int32 ``[nnz]``; ``[n, m]`` ravelled where every row has m.
        offsets: int64 ``[n + 1]``.
        values: float32 ``[nnz]``, or None where all are 1.
        targets: float32 ``[n]``.
        n_features: ids are below it.
        field_of: int32 ``[n_features]``, the field of each id, for models that ask; else None.
    """

    ids: np.ndarray
    offsets: np.ndarray
    values: np.ndarray | None
    targets: np.ndarray
    n_features: int
    field_of: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def csr(self, index: Any = np.int64) -> Any:
        """As a scipy CSR matrix of float64 with indices of type `index`."""
        from scipy import sparse

        values = np.ones(len(self.ids)) if self.values is None else self.values
        parts = (np.asarray(values, np.float64), np.asarray(self.ids), np.asarray(self.offsets))
        X = sparse.csr_matrix(parts, shape=(len(self), self.n_features))
        X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
        return X

    def head(self, n_rows: int) -> Part:
        """The first rows."""
        n = min(n_rows, len(self))
        end = int(self.offsets[n])
        values = None if self.values is None else self.values[:end]
        return Part(
            self.ids[:end], self.offsets[: n + 1], values, self.targets[:n], self.n_features,
            self.field_of,
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write as .npy files."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("ids", "offsets", "values", "targets", "field_of"):
            array = getattr(self, name)
            if array is not None:
                np.save(folder / f"{name}.npy", array)
        (folder / "part.json").write_text(json.dumps({"n_features": self.n_features}))

    @classmethod
    def load(cls, folder: Path, *, mapped: bool = True) -> Part:
        """Read what `save` wrote; mapped: pages come from the file when touched."""

        def array(name: str) -> Any:
            path = folder / f"{name}.npy"
            if not path.exists():
                return None
            return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)

        n_features = json.loads((folder / "part.json").read_text())["n_features"]
        arrays = (array(name) for name in ("ids", "offsets", "values", "targets"))
        return cls(*arrays, n_features, array("field_of"))


class Entrant(ABC):
    """One library in one setting.

    `load` puts the data into the library's own form; `train` trains from scratch, times only
    that, and keeps the model; `score` gives raw scores of the test part.
    """

    mapped = True
    # Of the last `score`, where it is measured.
    scoring_seconds: float | None = None
    scoring_whole: float | None = None

    def __init__(self) -> None:
        self.train_part: Part
        self.test_part: Part
        self.scratch: Path

    @abstractmethod
    def version(self) -> str:
        """Name and version of the library."""

    @abstractmethod
    def prepare(self) -> None:
        """Put the two parts into the library's form; not timed."""

    @abstractmethod
    def train(self, **options: Any) -> dict[str, Any]:
        """Train; ``seconds`` and anything else worth reporting."""

    @abstractmethod
    def score(self) -> np.ndarray:
        """Raw scores of the test rows ``[n]``: log odds under logistic loss."""


class Service(ABC):
    """A library that does something else than train, such as search."""

    @abstractmethod
    def version(self) -> str:
        """Name and version of the library."""

    @abstractmethod
    def answer(self, **request: Any) -> dict[str, Any]:
        """Do what is asked."""


def peak_memory() -> int:
    """Bytes that this process held in memory at most, shared pages and the interpreter too."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def serve(entrant: Entrant | Service) -> None:
    """Answer requests until told to stop, or until the other side is gone."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    baseline = peak_memory()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "stop":
                break
            answer = _answer(entrant, request, baseline)
        except Exception as error:  # whatever a library raises is an answer too
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


def _answer(entrant: Entrant | Service, request: dict[str, Any], baseline: int) -> dict[str, Any]:
    if isinstance(entrant, Service):
        wanted = {name: value for name, value in request.items() if name != "do"}
        return {"version": entrant.version(), **entrant.answer(**wanted)}
    if request["do"] == "load":
        entrant.train_part = Part.load(Path(request["train"]), mapped=entrant.mapped)
        entrant.test_part = Part.load(Path(request["test"]), mapped=entrant.mapped)
        entrant.scratch = Path(request["scratch"])
        entrant.prepare()
        return {"version": entrant.version()}
    if request["do"] == "train":
        answer = entrant.train(**request["options"])
        if request.get("scores"):
            np.save(request["scores"], np.asarray(entrant.score(), np.float64))
            if entrant.scoring_seconds is not None:
                answer["scoring_seconds"] = entrant.scoring_seconds
                answer["scoring_whole"] = entrant.scoring_whole
        return answer
    if request["do"] == "memory":
        return {"peak": peak_memory(), "baseline": baseline}
    raise ValueError(f"unknown request {request['do']!r}")
