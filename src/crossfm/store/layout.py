"""The layout of a ``*.crossfm`` file: what its header says, and what it must say.

A file is a safetensors container, readable by any safetensors library:

- 8 bytes: length of the header, little-endian; then the header, JSON, padded by spaces;
- the header's ``__metadata__`` holds two strings: ``crossfm``, a JSON text described by
  `Header`, and ``crossfm_sha256``, the checksum of that text;
- the tensors, m models (one a class under softmax, else m = 1) of n features and k factors:

  ============= ===================== ===========================================
  factors       [m, n, k]             ``V``: F32, F16 or I8; of field-aware models
                                      [m, n, F, k], of higher-order ones
                                      [m, n, order - 1, k]
  factor_scales F32 [m, n]            by which the I8 factors of a feature are
                                      multiplied; absent for others
  bias          F64 [m]               ``w0``
  weights       F32 [m, n]            ``w``
  field_of      I32 [n]               field of each id; absent where unknown
  field_weights F32 [m, F, F]         of field-weighted models; matrices
                                      [m, F, F, k, k] of field-matrixed ones
  schema        U8 [bytes]            JSON of the schema, UTF-8; absent where none
  attached      U8 [bytes]            what an estimator keeps beside its models, such as relation
                                      blocks; absent where nothing
  ============= ===================== ===========================================

- ``crossfm`` names each tensor's type, shape and SHA-256, so that a changed bit anywhere is
  found before anything is used.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from crossfm.errors import ModelFileError
from crossfm.factors import Precision
from crossfm.model import INTERACTIONS, KINDS, MOST_ORDER, TASKS

__all__ = ["FORMAT_VERSION", "Header", "TensorInfo", "parse_header", "render_header"]

FORMAT_VERSION = 4
"""Raised when a reader of the version before could misread a file. Plain models are written as
version 1, which all readers know; version 2 has those with parameters for fields, version 3
factors as int8, version 4 something attached."""

TEXT_KEY, DIGEST_KEY = "crossfm", "crossfm_sha256"
TYPES = {
    "bias": ("F64",),
    "weights": ("F32",),
    "factors": ("F32", "F16", "I8"),
    "factor_scales": ("F32",),
    "field_of": ("I32",),
    "field_weights": ("F32",),
    "schema": ("U8",),
    "attached": ("U8",),
}
PRECISIONS: dict[str, Precision] = {"F32": "float32", "F16": "float16", "I8": "int8"}
REMEDY = "Use a whole copy of the file, or save the model again."


@dataclass(frozen=True)
class TensorInfo:
    """Type, shape and checksum of a tensor of the file."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Header:
    """All of a model file but its tensors.

    Attributes:
        format_version: of the layout.
        crossfm_version: of the package that wrote it.
        n_models: m, the number of models (classes).
        n_features: n.
        n_factors: k.
        interactions: "all" or "across_fields".
        task: "regression" or "classification".
        tensors: what each tensor must be.
        model_metadata: one dict a model.
        metadata: free-form, about all of them: estimator, parameters, classes.
        kind: "fm", "ffm", "fwfm", "fmfm" or "hofm".
        n_fields: F, the number of fields that there are parameters for; 0: none.
        order: the largest sets of features that cross.
    """

    format_version: int
    crossfm_version: str
    n_models: int
    n_features: int
    n_factors: int
    interactions: str
    task: str
    tensors: dict[str, TensorInfo]
    model_metadata: list[dict[str, Any]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    kind: str = "fm"
    n_fields: int = 0
    order: int = 2

    @property
    def n_vectors(self) -> int | None:
        """Vectors of a feature, where it has several."""
        return {"ffm": self.n_fields, "hofm": self.order - 1}.get(self.kind)

    @property
    def precision(self) -> Precision:
        """How factors are stored: "float32", "float16" or "int8"."""
        return PRECISIONS[self.tensors["factors"].dtype]


def render_header(header: Header) -> dict[str, str]:
    """The header as the container's metadata strings.

    Raises:
        ModelFileError: metadata that JSON cannot hold.
    """
    told = asdict(header)
    if header.kind == "fm":  # as version 1 has it
        del told["kind"], told["n_fields"]
    if header.kind != "hofm":
        del told["order"]
    try:
        text = json.dumps(told, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"the metadata does not fit into JSON: {error}. Use dicts with string keys, lists,"
            " strings, finite numbers, True, False and None"
        ) from error
    return {TEXT_KEY: text, DIGEST_KEY: hashlib.sha256(text.encode()).hexdigest()}


def parse_header(path: str, metadata: dict[str, str] | None) -> Header:
    """The checked header of the container's metadata strings.

    Raises:
        ModelFileError: a foreign, altered or newer file, or a header that contradicts itself.
    """
    metadata = metadata or {}
    text, digest = metadata.get(TEXT_KEY), metadata.get(DIGEST_KEY)
    if "crossfm_network" in metadata:
        raise ModelFileError(
            f"{path} holds a network, not a factorization machine; crossfm.load(path) reads it"
        )
    if "crossfm_delta" in metadata:
        raise ModelFileError(
            f"{path} holds a delta, the rows that changed since another file; load that one, and"
            " crossfm.store.apply_delta(base, path)"
        )
    if text is None or digest is None:
        raise ModelFileError(
            f"{path} is a safetensors file, but not a crossfm model: its metadata has no"
            f" {TEXT_KEY!r} and {DIGEST_KEY!r}"
        )
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise ModelFileError(f"{path} was altered: its header fails the checksum. {REMEDY}")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: its header is no JSON: {error}. {REMEDY}") from error
    check = _Checker(path)
    check(isinstance(raw, dict), "header", "an object", raw)
    version = raw.get("format_version")
    check(_whole(version, 1), "format_version", "a whole number", version)
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has format version {version}, written by crossfm"
            f" {raw.get('crossfm_version', '?')}; this crossfm reads versions up to"
            f" {FORMAT_VERSION}. Update it: pip install --upgrade crossfm"
        )
    for name, low in (("n_models", 1), ("n_features", 1), ("n_factors", 0)):
        check(_whole(raw.get(name), low), name, f"a whole number from {low}", raw.get(name))
    for name, words in (("interactions", INTERACTIONS), ("task", TASKS)):
        check(raw.get(name) in words, name, f"one of {words}", raw.get(name))
    kind, n_fields = raw.get("kind", "fm"), raw.get("n_fields", 0)
    check(kind in KINDS, "kind", f"one of {tuple(KINDS)}", kind)
    least = 0 if kind in ("fm", "hofm") else 1
    check(_whole(n_fields, least), "n_fields", "a whole number", n_fields)
    order = raw.get("order", 2)
    fits = _whole(order, 2) and order <= MOST_ORDER and (order > 2) == (kind == "hofm")
    check(fits, "order", f"a whole number from 3 to {MOST_ORDER} for 'hofm', else 2", order)
    check(isinstance(raw.get("crossfm_version"), str), "crossfm_version", "a text", raw)
    check(isinstance(raw.get("metadata"), dict), "metadata", "an object", raw.get("metadata"))
    m, n, k = raw["n_models"], raw["n_features"], raw["n_factors"]
    per_model = raw.get("model_metadata")
    check(
        isinstance(per_model, list)
        and len(per_model) == m
        and all(isinstance(item, dict) for item in per_model),
        "model_metadata",
        f"{m} objects",
        per_model,
    )
    tensors = raw.get("tensors")
    check(isinstance(tensors, dict), "tensors", "an object", tensors)
    shapes = {"bias": [m], "weights": [m, n], "factors": [m, n, k], "field_of": [n]}
    needed = {"bias", "weights", "factors"}
    if kind in ("ffm", "hofm"):
        shapes["factors"] = [m, n, n_fields if kind == "ffm" else order - 1, k]
    elif kind in ("fwfm", "fmfm"):
        matrix = [k, k] if kind == "fmfm" else []
        shapes["field_weights"] = [m, n_fields, n_fields, *matrix]
        needed.add("field_weights")
    stored = tensors.get("factors")
    if isinstance(stored, dict) and stored.get("dtype") == "I8":
        shapes["factor_scales"] = [m, n]
        needed.add("factor_scales")
    missing = needed - tensors.keys()
    check(not missing, "tensors", f"an entry for {sorted(missing)}", sorted(tensors))
    infos = {}
    for name, info in tensors.items():
        known = TYPES.keys() - ({"field_weights", "factor_scales"} - needed)
        check(name in known, "tensors", f"names among {sorted(known)}", name)
        place = f"tensor {name}"
        check(isinstance(info, dict), place, "an object", info)
        dtype, shape, digest = info.get("dtype"), info.get("shape"), info.get("sha256")
        check(dtype in TYPES[name], f"{place}: type", f"one of {TYPES[name]}", dtype)
        wanted = shapes.get(name)
        if wanted is None:
            fits = isinstance(shape, list) and len(shape) == 1 and _whole(shape[0], 0)
        else:
            fits = shape == wanted and all(_whole(size, 0) for size in shape)
        check(fits, f"{place}: shape", str(wanted or "[bytes]"), shape)
        check(isinstance(digest, str), f"{place}: sha256", "a text", digest)
        infos[name] = TensorInfo(dtype, tuple(shape), digest)
    return Header(
        format_version=version,
        crossfm_version=raw["crossfm_version"],
        n_models=m,
        n_features=n,
        n_factors=k,
        interactions=raw["interactions"],
        task=raw["task"],
        tensors=infos,
        model_metadata=per_model,
        metadata=raw["metadata"],
        kind=kind,
        n_fields=n_fields,
        order=order,
    )


class _Checker:
    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, holds: bool, place: str, expected: str, found: object) -> None:
        if not holds:
            shown = repr(found)
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            raise ModelFileError(f"{self.path}: {place} is {shown}, expected {expected}. {REMEDY}")


def _whole(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**63
