"""Checkpoints: all that a fit needs to go on as if it had never stopped, in one file."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crossfm.data.blockfile import BlockFile, BlockWriter
from crossfm.data.files import remove_leftovers, replacing
from crossfm.errors import DataError, ModelFileError
from crossfm.fitting import Epoch, History
from crossfm.model import FactorModel
from crossfm.solvers.fused import FusedTrainer

__all__ = ["Checkpoint", "Place"]

KIND, VERSION = "fit", 1
SAVE_SECONDS = 60.0  # between two saves, where nothing else is asked for
REMEDY = "Delete it to start anew, or give another path."


@dataclass
class Place:
    """Where a fit is.

    Attributes:
        number: the epoch under way, 1 for the first.
        parts: calls of it that are done.
        rows: rows in them.
        counted: rows whose loss is in `loss`.
        loss: sum of losses so far.
        seconds: spent on it.
        best: best value of the deciding metric so far.
        rng: state of the generator when the epoch began.
    """

    number: int = 1
    parts: int = 0
    rows: int = 0
    counted: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    best: float = math.nan
    rng: Any = None


@dataclass(frozen=True)
class Checkpoint:
    """A file that a fit writes now and then, whole or not at all, and goes on from.

    The parameters are written from where they lie, a slice at a time: saving takes no memory of
    their size.

    Args:
        path: the file.
        of: what the fit is of, of JSON's types; the checkpoint of anything else is refused.
        seconds: between two saves at least.
    """

    path: str | os.PathLike[str]
    of: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = field(default_factory=lambda: SAVE_SECONDS)

    def save(
        self,
        trainer: FusedTrainer,
        place: Place,
        history: History,
        kept: Sequence[FactorModel] | None,
    ) -> None:
        """Write the state.

        Raises:
            ModelFileError: the system refused; the old file is unchanged.
        """
        arrays, numbers = trainer.state()
        about = asdict(place) | {"best": None if math.isnan(place.best) else place.best}
        with replacing(self.path, ModelFileError) as file:
            writer = BlockWriter(file)
            writer.add(arrays)
            for model in kept or ():
                arrays = {"weights": model.weights, "factors": model.factors}
                if model.field_weights is not None:
                    arrays["field_weights"] = model.field_weights
                writer.add(arrays, {"bias": model.bias})
            writer.finish(
                {
                    "kind": KIND,
                    "version": VERSION,
                    "of": self._whole(trainer),
                    "place": about,
                    "history": asdict(history) | {
                        "epochs": [asdict(epoch) | {"metrics": _to_json(epoch.metrics)}
                                   for epoch in history.epochs]
                    },
                    "trainer": numbers,
                }
            )  # fmt: skip

    def load(self, trainer: FusedTrainer) -> tuple[Place, History, list[FactorModel] | None] | None:
        """Put the saved state into the trainer; None where there is no file.

        Raises:
            ModelFileError: the file is damaged, no checkpoint, or of a newer version.
            DataError: it is of another fit; the message names what differs.
        """
        remove_leftovers(self.path)
        if not Path(self.path).exists():
            return None
        file = BlockFile(self.path, error=ModelFileError, remedy=REMEDY)
        about = file.about
        if about.get("kind") != KIND:
            raise ModelFileError(f"{self.path} is no checkpoint of a fit. {REMEDY}")
        if about["version"] > VERSION:
            raise ModelFileError(
                f"{self.path} has version {about['version']}, this crossfm reads versions up to"
                f" {VERSION}. Update it: pip install --upgrade crossfm"
            )
        before, now = about["of"], self._whole(trainer)
        differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if differing:
            told = ", ".join(
                f"{name} ({_short(before.get(name))} then, {_short(now.get(name))} now)"
                for name in differing[:4]
            )
            raise DataError(f"{self.path} is the checkpoint of another fit: {told}. {REMEDY}")
        arrays, _ = trainer.state()
        file.read_into(0, arrays)
        trainer.go_on(about["trainer"])
        kept = [self._model(file, at, trainer) for at in range(1, len(file))]
        best = about["place"]["best"]
        place = Place(**about["place"] | {"best": math.nan if best is None else best})
        told = about["history"]
        epochs = [Epoch(**one | {"metrics": _from_json(one["metrics"])}) for one in told["epochs"]]
        return place, History(epochs, told["best_epoch"]), kept or None

    def remove(self) -> None:
        """Delete the file, where there is one."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _whole(self, trainer: FusedTrainer) -> dict[str, Any]:
        """What the fit is of, the solver's options with it."""
        o = trainer.options
        options = {name: _plain(getattr(o, name)) for name in o.__dataclass_fields__}
        for name in ("n_jobs", "deterministic"):
            options.pop(name)  # they decide how fast it goes, and how exactly it can be repeated
        return {**self.of, "solver": o.optimizer, **options, "n_features": trainer.n_features}

    def _model(self, file: BlockFile, block: int, trainer: FusedTrainer) -> FactorModel:
        found = file.arrays(block)
        factors = trainer.empty_factors(len(found["factors"]))
        factors[...] = found["factors"]
        return FactorModel(
            bias=file.abouts[block]["bias"],
            weights=found["weights"],
            factors=factors,
            interactions=trainer.options.interactions,
            field_of=trainer.field_of,
            field_weights=found.get("field_weights"),
            order=trainer.options.order,
        )


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def _to_json(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(x) if math.isfinite(x) else None for name, x in metrics.items()}


def _from_json(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if x is None else x for name, x in metrics.items()}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
