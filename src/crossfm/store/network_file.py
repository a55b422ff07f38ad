"""The file of a trained network: its tensors, and a description in JSON. It executes nothing.

A safetensors container as `crossfm.store.layout` describes it, with ``crossfm_network`` in place of
``crossfm``: the JSON text names each tensor's type, shape and SHA-256, and holds the metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm.data.files import replacing
from crossfm.errors import ModelFileError
from crossfm.store import layout
from crossfm.store.crossfm_file import (
    DTYPES,
    chunks_of,
    opened,
    own_version,
    write_container,
)
from crossfm.store.layout import REMEDY

__all__ = ["holds_network", "load_network", "read_checksum", "save_network"]

VERSION = 1
TEXT_KEY, DIGEST_KEY = "crossfm_network", "crossfm_network_sha256"


def save_network(
    path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]
) -> None:
    """Write arrays and what JSON holds to a file, whole or not at all.

    Raises:
        ModelFileError: the system refused to write, or an array or metadata that the file cannot
            hold. The old file is unchanged then.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "net.crossfm")
        >>> save_network(path, {"bias": np.float32([0.5])}, {"network": "deepfm"})
        >>> load_network(path)
        ({'bias': array([0.5], dtype=float32)}, {'network': 'deepfm'})
    """
    names = {np.dtype(code): name for name, code in DTYPES.items()}
    tensors: dict[str, tuple[str, tuple[int, ...], list[NDArray[Any]]]] = {}
    infos = {}
    # Widest numbers first: every tensor then starts on a multiple of its size.
    for name, array in sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])):
        if array.dtype not in names:
            raise ModelFileError(f"{name} is {array.dtype}, which the file cannot hold")
        flat = np.atleast_1d(array)
        tensors[name] = names[array.dtype], array.shape, [flat]
        digest = hashlib.sha256()
        for chunk in chunks_of([flat], names[array.dtype]):
            digest.update(chunk)
        infos[name] = {
            "dtype": names[array.dtype], "shape": list(array.shape), "sha256": digest.hexdigest(),
        }  # fmt: skip
    described = {
        "format_version": VERSION, "crossfm_version": own_version(), "tensors": infos,
        "metadata": dict(metadata),
    }  # fmt: skip
    try:
        text = json.dumps(described, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"the metadata does not fit into JSON: {error}. Use dicts with string keys, lists,"
            " strings, finite numbers, True, False and None"
        ) from error
    strings = {TEXT_KEY: text, DIGEST_KEY: hashlib.sha256(text.encode()).hexdigest()}
    with replacing(path, ModelFileError) as file:
        write_container(file, strings, tensors)


def holds_network(path: str | os.PathLike[str]) -> bool:
    """Whether a model file holds a network, not factorization machines.

    Raises:
        ModelFileError: no such file, or no safetensors container.
    """
    with opened(path) as file:
        return TEXT_KEY in (file.metadata() or {})


def read_checksum(path: str | os.PathLike[str]) -> str:
    """What names the content of a model file, of machines or of a network.

    It is that of the header, which holds those of all tensors.

    Raises:
        ModelFileError: no such file, or no model.
    """
    with opened(path) as file:
        strings: dict[str, str] = file.metadata() or {}
    for key in (layout.DIGEST_KEY, DIGEST_KEY):
        if key in strings:
            return strings[key]
    raise ModelFileError(f"{os.fspath(path)} holds no model of crossfm. {REMEDY}")


def load_network(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `save_network` wrote; everything is checked before it is given out.

    Raises:
        ModelFileError: no such file; a truncated, altered or foreign one; one of a newer format.
    """
    name = os.fspath(path)
    with opened(path) as file:
        strings = file.metadata() or {}
        text, digest = strings.get(TEXT_KEY), strings.get(DIGEST_KEY)
        if text is None or digest is None:
            raise ModelFileError(f"{name} holds no network of crossfm")
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise ModelFileError(f"{name} was altered: its header fails the checksum. {REMEDY}")
        try:
            described = json.loads(text)
            version, infos = int(described["format_version"]), dict(described["tensors"])
            metadata = dict(described["metadata"])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ModelFileError(f"{name}: its header is broken: {error}. {REMEDY}") from error
        if version > VERSION:
            raise ModelFileError(
                f"{name} has format version {version}; this crossfm reads versions up to {VERSION}."
                " Update it: pip install --upgrade crossfm"
            )
        if set(file.keys()) != set(infos):
            raise ModelFileError(
                f"{name} holds the tensors {sorted(file.keys())}, expected {sorted(infos)}."
                f" {REMEDY}"
            )
        arrays = {}
        for tensor, info in infos.items():
            array = file.get_tensor(tensor)
            if DTYPES.get(info["dtype"]) is None or array.dtype != np.dtype(DTYPES[info["dtype"]]):
                raise ModelFileError(f"{name}: {tensor} is {array.dtype}. {REMEDY}")
            if list(array.shape) != info["shape"]:
                raise ModelFileError(
                    f"{name}: {tensor} is {list(array.shape)}, expected {info['shape']}. {REMEDY}"
                )
            found = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
            if found != info["sha256"]:
                raise ModelFileError(
                    f"{name} was altered: tensor {tensor} fails its checksum. {REMEDY}"
                )
            arrays[tensor] = array
    return arrays, metadata
