"""Checkpoints: all that a training needs to go on as if it had never stopped."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from crossfm.data.files import replacing
from crossfm.errors import DataError, ModelFileError

__all__ = ["load_checkpoint", "save_checkpoint"]

KIND, VERSION = "crossfm checkpoint", 1


def save_checkpoint(
    path: str | os.PathLike[str], state: dict[str, Any], of: dict[str, Any]
) -> None:
    """Write a state, whole or not at all: temporary file, fsync, rename.

    Args:
        path: the file to make or replace.
        state: tensors, numbers, texts, and dicts and lists of these.
        of: what the training is of; see `crossfm.fitting.fingerprint`.

    Raises:
        ModelFileError: the system refused to write; the old file is unchanged.
    """
    with replacing(path, ModelFileError) as file:
        torch.save({"kind": KIND, "version": VERSION, "of": of, "state": state}, file)


def load_checkpoint(path: str | os.PathLike[str], of: dict[str, Any]) -> dict[str, Any] | None:
    """Read a state; None where there is no such file. Nothing in it is executed.

    Raises:
        ModelFileError: the file is damaged, no checkpoint, or of a newer version.
        DataError: it is of another training than `of`; the message names what differs.
    """
    found = Path(path)
    if not found.exists():
        return None
    remedy = "Delete it to start anew, or give another path."
    try:
        with zipfile.ZipFile(found) as packed:  # each part has a checksum
            damaged = packed.testzip()
        if damaged is not None:
            raise ModelFileError(f"{found} was altered: {damaged} fails its checksum. {remedy}")
        read = torch.load(found, map_location="cpu", weights_only=True)
    except ModelFileError:
        raise
    except Exception as error:  # zipfile, torch and its unpickler raise many kinds
        reason = str(error).split("\n")[0]
        raise ModelFileError(f"{found} is no whole checkpoint: {reason}. {remedy}") from error
    if not isinstance(read, dict) or read.get("kind") != KIND:
        raise ModelFileError(f"{found} is no checkpoint of crossfm. {remedy}")
    if read["version"] > VERSION:
        raise ModelFileError(
            f"{found} has version {read['version']}, this crossfm reads versions up to {VERSION}."
            " Update it: pip install --upgrade crossfm"
        )
    before = read["of"]
    differing = sorted(name for name in {*before, *of} if before.get(name, None) != of.get(name))
    if differing:
        told = ", ".join(
            f"{name} ({before.get(name)!r} then, {of.get(name)!r} now)" for name in differing[:4]
        )
        raise DataError(f"{found} is the checkpoint of another training: {told}. {remedy}")
    state: dict[str, Any] = read["state"]
    return state
