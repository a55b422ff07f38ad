"""The model file ``*.crossfm``: one file, checked before use, executing nothing."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from crossfm.data.files import replacing
from crossfm.data.records import RecordSchema
from crossfm.errors import CrossfmError, DataError, ModelFileError
from crossfm.factors import PackedFactors, Precision, check_precision, empty_factors
from crossfm.model import FactorModel
from crossfm.store.layout import (
    DIGEST_KEY,
    PRECISIONS,
    REMEDY,
    Header,
    TensorInfo,
    parse_header,
    render_header,
)

__all__ = ["StoredModel", "load_model", "read_header", "save_model"]

FACTOR_TYPES = {precision: dtype for dtype, precision in PRECISIONS.items()}
CHUNK = 1 << 22  # numbers converted or read at a time: 16 MB of float32
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "i1", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class StoredModel:
    """What a model file holds.

    Attributes:
        models: one `FactorModel`, or one a class under softmax.
        metadata: what was saved beside them.
        header: sizes, versions, checksums.
        checksum: of the header, which holds those of all tensors: it names the file's content.
        sequence: deltas that were applied to a full file, 0 for the file itself.
        attached: bytes that were saved beside them; none where there were none.
    """

    models: tuple[FactorModel, ...]
    metadata: dict[str, Any]
    header: Header
    checksum: str = ""
    sequence: int = 0
    attached: bytes = b""

    @property
    def model(self) -> FactorModel:
        """The only model.

        Raises:
            DataError: the file holds one model for each of several classes.
        """
        if len(self.models) != 1:
            raise DataError(f"the file holds {len(self.models)} models; use .models")
        return self.models[0]


def save_model(
    models: FactorModel | Sequence[FactorModel],
    path: str | os.PathLike[str],
    *,
    precision: Precision | None = None,
    metadata: Mapping[str, Any] | None = None,
    attached: bytes = b"",
) -> None:
    """Write a model to a file, whole or not at all.

    The bytes go to a temporary file in the same folder, to the disk, and then take the place
    of the old file in one step. The same model gives the same bytes.

    Args:
        models: a model, or models of equal sizes, one a class; they share interactions, task,
            fields and schema.
        path: by custom ``name.crossfm``.
        precision: how factors are stored: "float32", "float16" or "int8", see
            `FactorModel.quantize`; None: as the models hold them. Weights and bias stay float32.
        metadata: anything JSON can hold, handed back by `load_model`.
        attached: bytes that are kept beside the models, the same.

    Raises:
        ModelFileError: the system refused to write, metadata that JSON cannot hold, or factors
            beyond 65504 in "float16". The old file is unchanged then.
        DataError: no model, or models that differ in more than their numbers.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "small.crossfm")
        >>> save_model(FactorModel(0.5, [1.0], [[2.0, 3.0]]), path, metadata={"trained": "today"})
        >>> stored = load_model(path)
        >>> stored.model, stored.metadata
        (FactorModel(n_features=1, n_factors=2, interactions='all', task='regression'), {'trained': 'today'})
    """  # noqa: E501 - a doctest's output
    _, strings, tensors = laid_out(models, precision, metadata, attached)
    with replacing(path, ModelFileError) as file:
        write_container(file, strings, tensors)


Tensors = dict[str, tuple[str, tuple[int, ...], list[NDArray[Any]]]]


def laid_out(
    models: FactorModel | Sequence[FactorModel],
    precision: Precision | None,
    metadata: Mapping[str, Any] | None,
    attached: bytes = b"",
) -> tuple[Header, dict[str, str], Tensors]:
    """A model file but for its bytes: header, the same as strings, tensors; see `save_model`."""
    parts = [models] if isinstance(models, FactorModel) else list(models)
    if precision is not None:
        check_precision(precision)
    first = _checked_alike(parts)
    if precision is not None:
        try:
            parts = [part.quantize(precision) for part in parts]
        except DataError as error:
            raise ModelFileError(f"the model cannot be saved so: {error}") from error
        first = parts[0]
    m, n, k = len(parts), first.n_features, first.n_factors
    if first.schema is not None and first.schema.n_features_ != n:
        raise DataError(
            f"the schema makes {first.schema.n_features_} features, the model has {n}; save the"
            " schema that the model was fitted with"
        )
    bias = np.array([part.bias for part in parts], DTYPES["F64"])
    # Widest numbers first: every tensor then starts on a multiple of its size.
    tensors: Tensors = {
        "bias": ("F64", (m,), [bias]),
        "weights": ("F32", (m, n), [part.weights for part in parts]),
    }
    if first.field_of is not None:
        tensors["field_of"] = ("I32", (n,), [first.field_of])
    if first.field_weights is not None:
        given = [np.asarray(part.field_weights) for part in parts]
        tensors["field_weights"] = ("F32", (m, *given[0].shape), given)
    factors = [stored_numbers(part) for part in parts]
    shape: tuple[int, ...] = (m, n, k)
    if first.n_vectors is not None:
        shape = m, n, first.n_vectors, k
    if first.precision == "int8":
        scales = [np.asarray(part.packed.scales) for part in parts if part.packed is not None]
        tensors["factor_scales"] = ("F32", (m, n), scales)
    tensors["factors"] = (FACTOR_TYPES[first.precision], shape, factors)
    if first.schema is not None:
        text = np.frombuffer(first.schema.to_json().encode(), np.uint8)
        tensors["schema"] = ("U8", (len(text),), [text])
    if attached:
        tensors["attached"] = ("U8", (len(attached),), [np.frombuffer(attached, np.uint8)])
    infos = {}
    for name, (dtype, shape, arrays) in tensors.items():
        digest = hashlib.sha256()
        for chunk in chunks_of(arrays, dtype):
            digest.update(chunk)
        infos[name] = TensorInfo(dtype, shape, digest.hexdigest())
    header = Header(
        format_version=_version(first, attached),
        crossfm_version=own_version(),
        n_models=m,
        n_features=n,
        n_factors=k,
        interactions=first.interactions,
        task=first.task,
        tensors=infos,
        model_metadata=[dict(part.metadata) for part in parts],
        metadata=dict(metadata or {}),
        kind=first.kind,
        n_fields=first.n_fields or 0,
        order=first.order,
    )
    strings = render_header(header)
    if json.loads(strings["crossfm"])["metadata"] != header.metadata:
        raise ModelFileError(
            "the metadata would not come back as it is: JSON has lists, not tuples, and keys are"
            " strings"
        )
    return header, strings, tensors


def _version(model: FactorModel, attached: bytes) -> int:
    """The first version of the format whose readers understand such a file."""
    if attached:
        return 4
    if model.precision == "int8":
        return 3
    return 1 if model.kind == "fm" else 2


def write_container(
    file: BinaryIO,
    strings: dict[str, str],
    tensors: Tensors,
) -> None:
    """Write a safetensors container: its metadata, and tensors by name as type, shape, parts."""
    entries: dict[str, Any] = {"__metadata__": strings}
    at = 0
    for name, (dtype, shape, _) in tensors.items():
        size = int(np.prod(shape, dtype=object)) * np.dtype(DTYPES[dtype]).itemsize
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)))
    file.write(text)
    for dtype, _, arrays in tensors.values():
        for chunk in chunks_of(arrays, dtype):
            file.write(chunk)


def chunks_of(arrays: list[NDArray[Any]], dtype: str) -> Iterator[memoryview]:
    """The bytes of arrays one after the other, in the file's type, a few rows at a time."""
    for array in arrays:
        width = int(np.prod(array.shape[1:], dtype=np.int64))
        step = max(1, CHUNK // max(1, width))
        for start in range(0, len(array) if width else 0, step):
            part = np.ascontiguousarray(array[start : start + step], dtype=DTYPES[dtype])
            yield part.reshape(-1).view(np.uint8).data


def stored_numbers(model: FactorModel) -> NDArray[Any]:
    """A model's factors as its file has them."""
    return model.factors if model.packed is None else model.packed.numbers


def _checked_alike(parts: list[FactorModel]) -> FactorModel:
    if not parts or not all(isinstance(part, FactorModel) for part in parts):
        raise DataError("save_model takes a FactorModel, or several of them in a list")
    first = parts[0]

    def traits(model: FactorModel) -> dict[str, object]:
        return {
            "kind": model.kind,
            "n_fields": model.n_fields,
            "order": model.order,
            "n_features": model.n_features,
            "n_factors": model.n_factors,
            "interactions": model.interactions,
            "task": model.task,
            "precision": model.precision,
            "field_of": None if model.field_of is None else model.field_of.tobytes(),
            "schema": None if model.schema is None else model.schema.to_json(),
        }

    if len(parts) > 1:
        wanted = traits(first)
        for number, part in enumerate(parts[1:], 1):
            found = traits(part)
            for name, value in wanted.items():
                if found[name] != value:
                    raise DataError(
                        f"model {number} differs from model 0 in {name}; the models of one file"
                        " share all but their numbers"
                    )
    return first


def own_version() -> str:
    """Of crossfm."""
    try:
        return version("crossfm")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"


def read_header(path: str | os.PathLike[str]) -> Header:
    """Sizes, versions and metadata of a model file, without reading its tensors.

    Raises:
        ModelFileError: no such file, or its header is not that of a model.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "small.crossfm")
        >>> save_model(FactorModel(0.5, [1.0], [[2.0, 3.0]]), path, precision="float16")
        >>> header = read_header(path)
        >>> header.n_features, header.n_factors, header.precision
        (1, 2, 'float16')
    """
    with opened(path) as file:
        return _checked_container(os.fspath(path), file)


def load_model(
    path: str | os.PathLike[str], *, precision: Precision | None = None, records: bool = False
) -> StoredModel:
    """Read a model file. Sizes, types and checksums are checked before anything is used.

    Args:
        path: the file.
        precision: how the models hold their factors: "float32", "float16" or "int8"; None: as the
            file does.
        records: give the models the schema as a `RecordSchema`, which needs no Arrow.

    Raises:
        ModelFileError: no such file; a truncated, altered or foreign one; one of a newer
            format. The message says what was found, what was expected and what to do.
        DataError: a precision that is none.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "small.crossfm")
        >>> with open(path, "w") as file:
        ...     _ = file.write("a letter")
        >>> load_model(path)
        Traceback (most recent call last):
            ...
        crossfm.errors.ModelFileError: ...small.crossfm is not a model file, or was cut short...
    """
    name = os.fspath(path)
    if precision is not None:
        check_precision(precision)
    with opened(path) as file:
        header = _checked_container(name, file)
        checksum = file.metadata()[DIGEST_KEY]
        m, n = header.n_models, header.n_features
        bias = np.empty(m, np.float64)
        weights = [np.empty(n, np.float32) for _ in range(m)]
        tables = [FactorTable(header) for _ in range(m)]
        weighted = "field_weights" in header.tensors
        shape = header.tensors["field_weights"].shape[1:] if weighted else ()
        of_fields = [np.empty(shape, np.float32) for _ in range(m if weighted else 0)]
        field_of = np.empty(n, np.int32) if "field_of" in header.tensors else None
        _fill(name, file, header, "bias", [bias])
        _fill(name, file, header, "weights", weights)
        _fill(name, file, header, "factors", [table.numbers for table in tables])
        if header.precision == "int8":
            _fill(name, file, header, "factor_scales", [np.asarray(t.scales) for t in tables])
        if weighted:
            _fill(name, file, header, "field_weights", of_fields)
        if field_of is not None:
            _fill(name, file, header, "field_of", [field_of])
        schema = None
        if "schema" in header.tensors:
            text = np.empty(header.tensors["schema"].shape, np.uint8)
            _fill(name, file, header, "schema", [text])
            schema = read_schema(name, text.tobytes(), n, records)
        attached = np.empty(0, np.uint8)
        if "attached" in header.tensors:
            attached = np.empty(header.tensors["attached"].shape, np.uint8)
            _fill(name, file, header, "attached", [attached])
    try:
        models = tuple(
            FactorModel(
                float(bias[c]),
                weights[c],
                tables[c].factors(),
                header.interactions,  # type: ignore[arg-type] # one of the two, as checked
                field_of,
                schema,
                header.task,  # type: ignore[arg-type]
                header.model_metadata[c],
                of_fields[c] if weighted else None,
                header.order,
            )
            for c in range(m)
        )
        if precision is not None:
            models = tuple(model.quantize(precision) for model in models)
    except DataError as error:
        raise ModelFileError(f"{name} holds no usable model: {error}. {REMEDY}") from error
    return StoredModel(models, header.metadata, header, checksum, attached=attached.tobytes())


class FactorTable:
    """One model's factors, to be filled from a file."""

    def __init__(self, header: Header) -> None:
        n, k, n_vectors = header.n_features, header.n_factors, header.n_vectors
        self._empty: Any
        if header.precision == "float32":
            self._empty = empty_factors(n, k, n_vectors)
            self.numbers, self.scales = self._empty, None
        else:
            shape = (n, k) if n_vectors is None else (n, n_vectors, k)
            self._empty = PackedFactors.empty(shape, header.precision)
            self.numbers, self.scales = self._empty.numbers, self._empty.scales

    def factors(self) -> Any:
        """As a `FactorModel` takes them; packed ones are checked."""
        if isinstance(self._empty, PackedFactors):
            return PackedFactors(self._empty.codes, self._empty.scales, self._empty.shape)
        return self._empty


def opened(path: str | os.PathLike[str]) -> Any:
    """The container, opened by safetensors, which checks its offsets against its size."""
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    try:
        with open(name, "rb"):  # a plain reason where the system refuses
            pass
        return safe_open(name, framework="np")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelFileError(f"cannot read {name}: {reason}. Check the path.") from error
    except (SafetensorError, ValueError) as error:
        raise ModelFileError(
            f"{name} is not a model file, or was cut short: {error}. {REMEDY}"
        ) from error


def _checked_container(name: str, file: Any) -> Header:
    """The header, and the container's own entries held against it."""
    header = parse_header(name, file.metadata())
    found, expected = set(file.keys()), set(header.tensors)
    if found != expected:
        raise ModelFileError(
            f"{name} holds the tensors {sorted(found)}, expected {sorted(expected)}. {REMEDY}"
        )
    for tensor, info in header.tensors.items():
        entry = file.get_slice(tensor)
        if entry.get_dtype() != info.dtype or tuple(entry.get_shape()) != info.shape:
            raise ModelFileError(
                f"{name}: tensor {tensor} is {entry.get_dtype()} {entry.get_shape()}, expected"
                f" {info.dtype} {list(info.shape)}. {REMEDY}"
            )
    return header


def _fill(name: str, file: Any, header: Header, tensor: str, targets: list[NDArray[Any]]) -> None:
    """Read a tensor into arrays of the model's layout, a few rows at a time, and check it."""
    info = header.tensors[tensor]
    entry = file.get_slice(tensor)
    stacked = len(info.shape) > 1  # [m, n, ...]: one target a model
    digest = hashlib.sha256()
    for c, target in enumerate(targets):
        width = int(np.prod(target.shape[1:], dtype=np.int64))
        step = max(1, CHUNK // max(1, width))
        for start in range(0, len(target) if width else 0, step):
            stop = min(start + step, len(target))
            part = entry[c, start:stop] if stacked else entry[start:stop]
            part = np.ascontiguousarray(part).reshape(target[start:stop].shape)
            digest.update(part.reshape(-1).view(np.uint8).data)
            target[start:stop] = part
    if digest.hexdigest() != info.sha256:
        raise ModelFileError(f"{name} was altered: tensor {tensor} fails its checksum. {REMEDY}")


def read_schema(name: str, text: bytes, n_features: int, records: bool = False) -> Any:
    """The schema of a file. Raises ModelFileError where it is broken, or of other features."""
    from_json = RecordSchema.from_json
    if not records:
        from crossfm.data.schema import Schema

        from_json = Schema.from_json  # type: ignore[assignment]
    try:
        schema = from_json(text.decode())
        size = schema.n_features_
    except (CrossfmError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{name}: its schema does not load: {error}. {REMEDY}") from error
    if size != n_features:
        raise ModelFileError(
            f"{name}: the schema makes {size} features, the tensors hold {n_features}. {REMEDY}"
        )
    return schema
