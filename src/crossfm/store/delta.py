"""Delta files ``*.delta``: the rows of a model that changed since another file.

A delta is a safetensors container too. Its metadata holds ``crossfm_delta``, a JSON text, and
``crossfm_delta_sha256``, the checksum of that text. The text names the content that the delta
follows (``base``) and the one that it makes (``result``), both by the checksum of a model file's
header, and says what changed in the header and in the schema. The tensors, for r changed rows of
m models:

============= ======================= ==========================================
rows          I64 [r]                 ids that changed or are new, rising
bias          F64 [m]                 all of it
weights       F32 [m, r]              of these rows
factors       as the base, [m, r, ...] of these rows, and so factor_scales of int8
field_of      I32 [n - n of the base] of the new ids; absent where unknown
field_weights F32 [m, F, F]           all of them; absent but in field-weighted models
============= ======================= ==========================================
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from crossfm.data.files import replacing
from crossfm.errors import DataError, ModelFileError
from crossfm.model import FactorModel
from crossfm.store.crossfm_file import (
    DTYPES,
    FactorTable,
    StoredModel,
    Tensors,
    chunks_of,
    laid_out,
    opened,
    read_schema,
    stored_numbers,
    write_container,
)
from crossfm.store.layout import DIGEST_KEY, TEXT_KEY, Header, parse_header, render_header
from crossfm.store.patch import difference, patched

__all__ = ["DeltaInfo", "apply_delta", "read_delta", "save_delta"]

DELTA_VERSION = 1
DELTA_KEY, DELTA_DIGEST_KEY = "crossfm_delta", "crossfm_delta_sha256"
SAME = ("kind", "n_models", "n_factors", "n_fields", "order", "interactions", "task")
STEP = 1 << 16  # rows compared at a time
REMEDY = "Load a whole model file, or fetch the delta again."


class DeltaInfo:
    """What a delta says of itself.

    Attributes:
        base: checksum of the content that it follows.
        result: checksum of the content that it makes.
        sequence: deltas since a full file, 1 for the first.
        n_rows: rows that changed.
    """

    def __init__(self, text: dict[str, Any]) -> None:
        self.base, self.result = str(text["base"]), str(text["result"])
        self.sequence, self.n_rows = int(text["sequence"]), int(text["rows"])
        self.header: dict[str, Any] = text["header"]
        self.schema: dict[str, Any] | None = text["schema"]


def save_delta(
    models: FactorModel | Sequence[FactorModel],
    base: StoredModel,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any] | None = None,
) -> StoredModel:
    """Write what changed since `base`, whole or not at all.

    Work is in proportion to the model (each row is compared), the file to what changed.

    Args:
        models: the models as they are now; ids may have been added at the end.
        base: what was saved or loaded before: `load_model`, `apply_delta` or `save_delta` gave it.
        path: by custom ``name.delta``.
        metadata: as for `save_model`.

    Returns:
        what the delta makes of the base: the base of the next delta.

    Raises:
        DataError: models of another kind or size than the base: save them whole.
        ModelFileError: as `save_model`.

    Example:
        >>> import tempfile
        >>> from crossfm.store import load_model, save_model
        >>> folder = tempfile.mkdtemp()
        >>> full, delta = os.path.join(folder, "m.crossfm"), os.path.join(folder, "1.delta")
        >>> save_model(FactorModel(0.5, [1.0, 2.0], [[0.1], [0.2]]), full)
        >>> base = load_model(full)
        >>> _ = save_delta(FactorModel(0.5, [1.0, 3.0], [[0.1], [0.2]]), base, delta)
        >>> read_delta(delta).n_rows, apply_delta(base, delta).model.weights
        (1, array([1., 3.], dtype=float32))
    """
    parts = [models] if isinstance(models, FactorModel) else list(models)
    _check_base(base)
    header, strings, whole = laid_out(parts, base.header.precision, metadata)
    _check_kin(header, base.header, parts, base.models)
    stored = [part.quantize(base.header.precision) for part in parts]
    n_before, before = base.header.n_features, _by_row(base.models)
    now = _by_row(stored)
    rows = _changed(now, before, n_before, header.n_features)
    m, r = len(parts), len(rows)
    tensors: Tensors = {
        "rows": ("I64", (r,), [rows]),
        "bias": ("F64", (m,), whole["bias"][2]),
    }
    for name, arrays in now.items():
        tensors[name] = (
            header.tensors[name].dtype, (m, r, *header.tensors[name].shape[2:]),
            [array[rows] for array in arrays],
        )  # fmt: skip
    if "field_of" in whole:
        grown = whole["field_of"][2][0][n_before:]
        tensors["field_of"] = ("I32", grown.shape, [grown])
    if "field_weights" in whole:
        tensors["field_weights"] = whole["field_weights"]
    tensors = dict(sorted(tensors.items(), key=lambda one: -np.dtype(DTYPES[one[1][0]]).itemsize))
    schema = stored[0].schema
    text = json.dumps(
        {
            "version": DELTA_VERSION,
            "base": base.checksum,
            "result": strings[DIGEST_KEY],
            "sequence": base.sequence + 1,
            "rows": len(rows),
            "header": _patch(_header_text(base.header), strings[TEXT_KEY], sort_keys=True),
            "schema": None if schema is None else _schema_patch(base, whole),
        },
        allow_nan=False,
    )  # fmt: skip
    about = {DELTA_KEY: text, DELTA_DIGEST_KEY: hashlib.sha256(text.encode()).hexdigest()}
    with replacing(path, ModelFileError) as file:
        write_container(file, about, tensors)
    if schema is not None:  # one that nobody goes on to learn with
        schema = schema.copy()
        stored = [replace(part, schema=schema) for part in stored]
    return StoredModel(
        tuple(stored), header.metadata, header, strings[DIGEST_KEY], base.sequence + 1
    )


def read_delta(path: str | os.PathLike[str]) -> DeltaInfo:
    """What a delta follows and what it makes, without reading its tensors.

    Raises:
        ModelFileError: no such file, or none that holds a delta.
    """
    with opened(path) as file:
        return _info(os.fspath(path), file)


def apply_delta(base: StoredModel, path: str | os.PathLike[str]) -> StoredModel:
    """The content of a full file after the changes of a delta: the same to the last bit.

    Args:
        base: the content that the delta follows; it stays as it is.
        path: the delta.

    Raises:
        ModelFileError: a delta of another base; one that is truncated, altered or newer.
    """
    name = os.fspath(path)
    with opened(path) as file:
        info = _info(name, file)
        _check_base(base)
        if info.base != base.checksum:
            raise ModelFileError(
                f"{name} is delta {info.sequence} of a chain and follows the content"
                f" {info.base[:12]}, the model given is {base.checksum[:12]}, after"
                f" {base.sequence} deltas. Apply the deltas of one full file in order, each once"
            )
        header = _result(name, info, base)
        m, n = header.n_models, header.n_features
        before = base.header.n_features
        grown = header.tensors.get("field_of")
        r = info.n_rows
        of_rows = _by_row(base.models)
        shapes: dict[str, tuple[int, ...]] = {"rows": (r,), "bias": (m,)}
        shapes |= {tensor: (m, r, *header.tensors[tensor].shape[2:]) for tensor in of_rows}
        if "field_weights" in header.tensors:
            shapes["field_weights"] = header.tensors["field_weights"].shape
        if grown is not None:
            shapes["field_of"] = (n - before,)
        found = _tensors(name, file, header, shapes)
    rows = found["rows"]
    if r and not (rows[0] >= 0 and rows[-1] < n and (np.diff(rows) > 0).all()):
        raise _altered(name, "rows that are not those of a model")
    schema = base.models[0].schema
    text = None
    if info.schema is not None and schema is not None:
        text = _patched_text(name, schema.to_json(), info.schema, ascii=False)
    tables = [FactorTable(header) for _ in range(m)]
    into = {"weights": [np.zeros(n, np.float32) for _ in range(m)],
            "factors": [table.numbers for table in tables],
            "factor_scales": [table.scales for table in tables]}  # fmt: skip
    for tensor, arrays in of_rows.items():
        for c, array in enumerate(arrays):
            place = into[tensor][c]
            place[:before] = array
            place[rows] = found[tensor][c].reshape(r, *place.shape[1:])
    field_of = base.models[0].field_of
    if field_of is not None and grown is not None:
        field_of = np.concatenate([field_of, found["field_of"]])
    whole: dict[str, list[NDArray[Any]]] = {
        "bias": [found["bias"]],
        **{tensor: into[tensor] for tensor in of_rows},
        "field_of": [] if field_of is None else [field_of],
        "field_weights": list(found.get("field_weights", ())),
        "schema": [] if text is None else [np.frombuffer(text.encode(), np.uint8)],
    }
    for tensor, told in header.tensors.items():
        digest = hashlib.sha256()
        for chunk in chunks_of(whole[tensor], told.dtype):
            digest.update(chunk)
        if digest.hexdigest() != told.sha256:
            raise _altered(name, f"tensor {tensor} fails its checksum")
    schema = None if text is None else read_schema(name, text.encode(), n)
    try:
        made = tuple(
            replace(part, bias=float(found["bias"][c]), weights=into["weights"][c],
                    factors=tables[c].factors(), field_of=field_of, schema=schema,
                    metadata=header.model_metadata[c],
                    field_weights=whole["field_weights"][c] if whole["field_weights"] else None)
            for c, part in enumerate(base.models)
        )  # fmt: skip
    except DataError as error:
        raise ModelFileError(f"{name} makes no usable model: {error}. {REMEDY}") from error
    return StoredModel(made, header.metadata, header, info.result, info.sequence)


# --- inside -------------------------------------------------------------------------------------


def _check_kin(
    header: Header, base: Header, parts: Sequence[FactorModel], before: Sequence[FactorModel]
) -> None:
    """Refuse models that are not later ones of the base."""
    for name in SAME:
        found, expected = getattr(header, name), getattr(base, name)
        if found != expected:
            raise DataError(
                f"{name} is {found!r}, of the base it is {expected!r}; a delta holds changed rows"
                " only, so save the model whole"
            )
    n = base.n_features
    if header.n_features < n:
        raise DataError(f"the model has {header.n_features} features, the base {n}; save it whole")
    field_of, of_base = parts[0].field_of, before[0].field_of
    if (field_of is None) != (of_base is None) or (
        field_of is not None and not np.array_equal(field_of[:n], of_base)  # type: ignore[arg-type]
    ):
        raise DataError("features are of other fields than in the base; save the model whole")
    if (parts[0].schema is None) != (before[0].schema is None):
        raise DataError("of the model and its base one has a schema; save the model whole")


def _check_base(base: StoredModel) -> None:
    """Refuse a base that was rounded, or rounded back, when it was loaded."""
    found, expected = base.models[0].precision, base.header.precision
    if found != expected:
        raise DataError(
            f"the base was loaded as {found}, its file holds {expected}; load it without precision"
        )


def _by_row(models: Sequence[FactorModel]) -> dict[str, list[NDArray[Any]]]:
    """The numbers that each feature has, as files hold them: by tensor, one array a model."""
    found = {
        "weights": [model.weights for model in models],
        "factors": [stored_numbers(model) for model in models],
    }
    scales = [model.packed.scales for model in models if model.packed is not None]
    if scales and scales[0] is not None:
        found["factor_scales"] = [np.asarray(part) for part in scales]
    return found


def _changed(
    now: Mapping[str, list[NDArray[Any]]],
    before: Mapping[str, list[NDArray[Any]]],
    n_before: int,
    n: int,
) -> NDArray[np.int64]:
    """Ids whose bits are other in some tensor, and those that are new."""
    found = []
    for low in range(0, n_before, STEP):
        part = slice(low, min(low + STEP, n_before))
        differs = np.zeros(part.stop - low, bool)
        for name, arrays in now.items():
            for new, old in zip(arrays, before[name], strict=True):
                other = _bits(new[part]) != _bits(old[part])
                differs |= other.reshape(len(differs), -1).any(axis=1)
        found.append(low + np.flatnonzero(differs))
    found.append(np.arange(n_before, n))
    return np.concatenate(found).astype(np.int64)


def _bits(numbers: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(numbers).view(f"u{numbers.dtype.itemsize}")


def _header_text(header: Header) -> str:
    return render_header(header)[TEXT_KEY]


def _schema_patch(base: StoredModel, whole: Tensors) -> dict[str, Any]:
    schema = base.models[0].schema
    assert schema is not None
    return _patch(schema.to_json(), whole["schema"][2][0].tobytes().decode(), ascii=False)


def _patch(old: str, new: str, *, sort_keys: bool = False, ascii: bool = True) -> dict[str, Any]:
    """What changed between two texts of JSON; all of the new one where the rest would not do."""
    if old == new:
        return {}
    before = json.loads(old)
    patch = difference(before, json.loads(new))
    return patch if _text(patched(before, patch), ascii) == new else {"new": json.loads(new)}


def _text(document: Any, ascii: bool) -> str:
    """As `render_header` (ascii) and `Schema.to_json` write JSON."""
    if ascii:
        return json.dumps(document, sort_keys=True, allow_nan=False)
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _patched_text(name: str, old: str, patch: dict[str, Any], *, ascii: bool) -> str:
    if not patch:
        return old
    try:
        return _text(patched(json.loads(old), patch), ascii)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _altered(name, f"its changes do not fit the base ({error})") from error


def _info(name: str, file: Any) -> DeltaInfo:
    """The checked text of a delta."""
    metadata = file.metadata() or {}
    text, digest = metadata.get(DELTA_KEY), metadata.get(DELTA_DIGEST_KEY)
    if text is None or digest is None:
        raise ModelFileError(
            f"{name} holds no delta; crossfm.store.load_model reads whole model files"
        )
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise _altered(name, "its header fails the checksum")
    try:
        raw = json.loads(text)
        if raw["version"] > DELTA_VERSION:
            raise ModelFileError(
                f"{name} is a delta of version {raw['version']}, this crossfm reads versions up to"
                f" {DELTA_VERSION}. Update it: pip install --upgrade crossfm"
            )
        return DeltaInfo(raw)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{name}: its header is none of a delta: {error}. {REMEDY}") from error


def _result(name: str, info: DeltaInfo, base: StoredModel) -> Header:
    """The header of the content that the delta makes."""
    text = _patched_text(name, _header_text(base.header), info.header, ascii=True)
    header = parse_header(name, {TEXT_KEY: text, DIGEST_KEY: info.result})
    for field in SAME:
        if getattr(header, field) != getattr(base.header, field):
            raise _altered(name, f"it changes {field}")
    if header.n_features < base.header.n_features:
        raise _altered(name, "it takes features away")
    kept = {tensor: info.dtype for tensor, info in base.header.tensors.items()}
    if {tensor: info.dtype for tensor, info in header.tensors.items()} != kept:
        raise _altered(name, "it holds other tensors than its base")
    return header


def _tensors(
    name: str, file: Any, header: Header, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """The tensors of the file, of these names and shapes."""
    types = {"rows": "I64", **{tensor: info.dtype for tensor, info in header.tensors.items()}}
    if set(file.keys()) != set(shapes):
        raise _altered(name, f"it holds the tensors {sorted(file.keys())}")
    for tensor, shape in shapes.items():
        entry = file.get_slice(tensor)
        if entry.get_dtype() != types[tensor] or tuple(entry.get_shape()) != shape:
            raise _altered(name, f"tensor {tensor} is {entry.get_dtype()} {entry.get_shape()}")
    return {tensor: cast(NDArray[Any], file.get_tensor(tensor)) for tensor in shapes}


def _altered(name: str, what: str) -> ModelFileError:
    return ModelFileError(f"{name} was altered: {what}. {REMEDY}")
