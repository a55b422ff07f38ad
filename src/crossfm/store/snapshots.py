"""One model saved again and again, for a server to pick up: whole, or as a chain of deltas."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossfm.errors import ModelFileError
from crossfm.factors import Precision
from crossfm.model import FactorModel
from crossfm.store.crossfm_file import StoredModel, load_model, save_model
from crossfm.store.delta import apply_delta, save_delta

__all__ = ["Snapshots", "delta_paths", "load_latest"]

NAMED, TRIES = 16, 5  # letters of a checksum in a file's name; readings that a writer may overtake


def delta_paths(path: str | os.PathLike[str], checksum: str) -> list[Path]:
    """The deltas beside a model file that follow this content of it, in order, without a gap."""
    found: list[Path] = []
    while (delta := _delta_path(path, checksum, len(found) + 1)).exists():
        found.append(delta)
    return found


def load_latest(path: str | os.PathLike[str], *, precision: Precision | None = None) -> StoredModel:
    """A model file with all of its deltas applied, those that `Snapshots` wrote beside it.

    Deltas of an earlier content of the file are left alone. It is read once more where the
    writer replaces files meanwhile. Precision as for `load_model`.

    Raises:
        ModelFileError: as `load_model` and `apply_delta`.
    """
    for left in reversed(range(TRIES)):
        stored = load_model(path)
        try:
            for delta in delta_paths(path, stored.checksum):
                stored = apply_delta(stored, delta)
        except ModelFileError:
            if left and not delta.exists():
                continue
            raise
        if precision is None:
            return stored
        models = tuple(model.quantize(precision) for model in stored.models)
        return replace(stored, models=models)
    raise AssertionError


class Snapshots:
    """Writes a model to one path again and again; each time a reader finds a whole one.

    Args:
        path: the model file.
        precision: how factors are stored.
        deltas: write changed rows only, to files beside the model file, which is written anew
            when the deltas together have become half as large; then they are removed.

    Attributes:
        written: the last file written, or None.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "m.crossfm"
        >>> snapshots = Snapshots(path, deltas=True)
        >>> for bias in (0.5, 1.5):
        ...     snapshots.write(FactorModel(bias, [1.0] * 2000, [[0.1]] * 2000))
        >>> load_model(path).model.bias, load_latest(path).model.bias
        (0.5, 1.5)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        precision: Precision = "float32",
        deltas: bool = False,
    ) -> None:
        self.path = Path(path)
        self.precision: Precision = precision
        self.deltas = deltas
        self.written: Path | None = None
        self._base: StoredModel | None = None
        self._root = ""  # checksum of the full file
        self._bytes = 0  # of the deltas since

    def write(
        self,
        models: FactorModel | Sequence[FactorModel],
        metadata: Mapping[str, Any] | None = None,
        *,
        whole: bool = False,
    ) -> None:
        """Save the models as they are now.

        Args:
            models: as for `save_model`.
            metadata: as for `save_model`.
            whole: write the model file, and remove the deltas.

        Raises:
            ModelFileError: the system refused; what was written before is unchanged.
        """
        base = self._base
        if whole or base is None or 2 * self._bytes > self.path.stat().st_size:
            self._write_whole(models, metadata)
            return
        path = _delta_path(self.path, self._root, base.sequence + 1)
        self._base = save_delta(models, base, path, metadata=metadata)
        self._bytes += path.stat().st_size
        self.written = path

    def _write_whole(
        self, models: FactorModel | Sequence[FactorModel], metadata: Mapping[str, Any] | None
    ) -> None:
        save_model(models, self.path, precision=self.precision, metadata=metadata)
        self.written = self.path
        self._bytes = 0
        if self.deltas:
            self._base = load_model(self.path)
            self._root = self._base.checksum
        start, end = f"{self.path.name}.", ".delta"
        for found in self.path.parent.glob("*.delta"):
            middle = found.name.removeprefix(start).removesuffix(end)
            checksum, _, number = middle.partition(".")
            of_ours = found.name.startswith(start) and len(checksum) == NAMED and number.isdigit()
            if of_ours and not (self._root and checksum == self._root[:NAMED]):
                with contextlib.suppress(OSError):  # a reader may hold it
                    found.unlink()


def _delta_path(path: str | os.PathLike[str], checksum: str, sequence: int) -> Path:
    return Path(f"{os.fspath(path)}.{checksum[:NAMED]}.{sequence:06d}.delta")
