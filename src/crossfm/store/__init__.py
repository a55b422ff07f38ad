"""Models on disk: crossfm's own file, and libFM's text.

>>> import os, tempfile
>>> from crossfm.model import FactorModel
>>> path = os.path.join(tempfile.mkdtemp(), "model.crossfm")
>>> save_model(FactorModel(0.5, [1.0, 2.0], [[0.1], [0.2]]), path)
>>> load_model(path).model.weights
array([1., 2.], dtype=float32)
"""

from crossfm.store.crossfm_file import (
    StoredModel,
    load_model,
    read_header,
    save_model,
)
from crossfm.store.delta import DeltaInfo, apply_delta, read_delta, save_delta
from crossfm.store.libfm import load_libfm, save_libfm
from crossfm.store.network_file import holds_network, read_checksum
from crossfm.store.snapshots import Snapshots, delta_paths, load_latest

__all__ = [
    "DeltaInfo",
    "Snapshots",
    "StoredModel",
    "apply_delta",
    "delta_paths",
    "holds_network",
    "load_latest",
    "load_libfm",
    "load_model",
    "read_checksum",
    "read_delta",
    "read_header",
    "save_delta",
    "save_libfm",
    "save_model",
]
