"""The model file: bytes back as they went in, and every damaged file refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from crossfm.data.files import replacing
from crossfm.errors import DataError, ModelFileError
from crossfm.model import FactorModel
from crossfm.store import load_model, read_header, save_model


@dataclass
class SmallSchema:
    """Stands in for a schema where only its text matters."""

    n_features_: int
    words: str = "user"

    def to_json(self) -> str:
        return json.dumps({"words": self.words, "n": self.n_features_})

    @staticmethod
    def from_json(text: str) -> SmallSchema:
        raw = json.loads(text)
        return SmallSchema(raw["n"], raw["words"])


@pytest.fixture
def small_schema(monkeypatch):
    import crossfm.data.schema

    monkeypatch.setattr(crossfm.data.schema, "Schema", SmallSchema)


def make_model(n=7, k=3, seed=0, **options):
    rng = np.random.default_rng([seed, n, k])
    options.setdefault("field_of", np.arange(n) % 3)
    return FactorModel(rng.normal(), rng.normal(size=n), rng.normal(size=(n, k)), **options)


def assert_same(got, want, factors=None):
    assert got.bias == want.bias
    np.testing.assert_array_equal(got.weights, want.weights)
    np.testing.assert_array_equal(got.factors, want.factors if factors is None else factors)
    assert (got.field_of is None) == (want.field_of is None)
    if want.field_of is not None:
        np.testing.assert_array_equal(got.field_of, want.field_of)
    assert (got.interactions, got.task) == (want.interactions, want.task)
    assert (got.metadata, got.schema) == (want.metadata, want.schema)


# --- there and back -------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 1, 3, 16, 17])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_model_comes_back(tmp_path, k, precision):
    model = make_model(
        11, k, interactions="across_fields", task="classification", metadata={"epochs": [1, 2]}
    )
    path = tmp_path / "m.crossfm"
    about = {"estimator": "FMClassifier", "classes": ["no", "ja ✓"], "alpha": 0.1, "none": None}
    save_model(model, path, precision=precision, metadata=about)
    stored = load_model(path)
    factors = model.factors.astype(np.float16 if precision == "float16" else np.float32)
    assert_same(stored.model, model, factors.astype(np.float32))
    assert stored.metadata == about
    assert stored.header == read_header(path)
    assert (stored.header.precision, stored.header.n_factors) == (precision, k)
    assert stored.model._held.table.ctypes.data % 64 == 0


def test_models_of_several_classes(tmp_path, small_schema):
    schema = SmallSchema(7, "größe")
    models = [make_model(seed=c, schema=schema, metadata={"class": c}) for c in range(4)]
    path = tmp_path / "m.crossfm"
    save_model(models, path)
    stored = load_model(path)
    for got, want in zip(stored.models, models, strict=True):
        assert_same(got, want)
    with pytest.raises(DataError, match=r"holds 4 models; use \.models"):
        _ = stored.model


def test_a_real_schema_comes_back(tmp_path):
    import pyarrow as pa

    from crossfm.data import schema as schema_module
    from crossfm.data.fields import Categorical, Numeric

    frame = pa.table({"user": ["a", "b", "a", None], "age": [1.0, 2.0, None, 4.0]})
    schema = schema_module.Schema([Categorical("user"), Numeric("age")]).fit(frame)
    model = make_model(schema.n_features_, 2, schema=schema, field_of=schema.field_of_)
    save_model(model, tmp_path / "m.crossfm")
    again = load_model(tmp_path / "m.crossfm").model
    assert again.schema.to_json() == schema.to_json()
    np.testing.assert_array_equal(
        again.score(again.schema.transform(frame)), model.score(schema.transform(frame))
    )


def test_large_tables_are_read_in_pieces(tmp_path, monkeypatch):
    import crossfm.store.crossfm_file as module

    path = tmp_path / "m.crossfm"
    models = [make_model(101, 5, seed=c) for c in range(2)]
    save_model(models, path)
    whole = path.read_bytes()
    monkeypatch.setattr(module, "CHUNK", 32)
    save_model(models, path)
    assert path.read_bytes() == whole
    for got, want in zip(load_model(path).models, models, strict=True):
        assert_same(got, want)


def test_any_safetensors_reader_opens_it(tmp_path):
    from safetensors.numpy import load_file

    models = [make_model(seed=c) for c in range(2)]
    save_model(models, tmp_path / "m.crossfm")
    tensors = load_file(tmp_path / "m.crossfm")
    assert sorted(tensors) == ["bias", "factors", "field_of", "weights"]
    for c, model in enumerate(models):
        assert tensors["bias"][c] == model.bias
        np.testing.assert_array_equal(tensors["weights"][c], model.weights)
        np.testing.assert_array_equal(tensors["factors"][c], model.factors)


def test_the_bytes_are_pinned(tmp_path):
    """A change here breaks files that people have: raise FORMAT_VERSION, keep reading the old."""
    model = FactorModel(0.5, [1.0, 2.0], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], field_of=[0, 1])
    path = tmp_path / "m.crossfm"
    save_model(model, path)
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert length % 8 == 0
    header = json.loads(raw[8 : 8 + length])
    assert list(header) == ["__metadata__", "bias", "weights", "field_of", "factors"]
    offsets = {name: entry["data_offsets"] for name, entry in header.items() if name[0] != "_"}
    assert offsets == {
        "bias": [0, 8],
        "weights": [8, 16],
        "field_of": [16, 24],
        "factors": [24, 48],
    }
    data = struct.pack("<d2f2i6f", 0.5, 1, 2, 0, 1, 1, 2, 3, 4, 5, 6)
    assert raw[8 + length :] == data
    about = json.loads(header["__metadata__"]["crossfm"])
    assert about["format_version"] == 1
    assert about["tensors"]["factors"] == {
        "dtype": "F32",
        "shape": [1, 2, 3],
        "sha256": hashlib.sha256(data[24:]).hexdigest(),
    }
    save_model(model, path)
    assert path.read_bytes() == raw


# --- refused when saving --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("save", "error", "message"),
    [
        (lambda p: save_model([], p), DataError, "takes a FactorModel"),
        (lambda p: save_model(make_model(), p, precision="int4"), DataError, "precision is"),
        (lambda p: save_model([make_model(), make_model(8)], p), DataError, "in n_features"),
        (
            lambda p: save_model([make_model(), make_model(field_of=None)], p),
            DataError,
            "model 1 differs from model 0 in field_of",
        ),
        (
            lambda p: save_model(make_model(schema=SmallSchema(5)), p),
            DataError,
            "schema makes 5 features, the model has 7",
        ),
        (
            lambda p: save_model(FactorModel(0, [0], [[7e4]]), p, precision="float16"),
            ModelFileError,
            "70000 does not fit into float16",
        ),
        (lambda p: save_model(make_model(), p, metadata={"a": {1}}), ModelFileError, "JSON"),
        (lambda p: save_model(make_model(), p, metadata={"a": np.nan}), ModelFileError, "JSON"),
        (lambda p: save_model(make_model(), p, metadata={"a": (1,)}), ModelFileError, "tuples"),
        (lambda p: save_model(make_model(), p / "no" / "m"), ModelFileError, "No such file"),
    ],
)
def test_what_cannot_be_saved(tmp_path, save, error, message):
    target = tmp_path / "m.crossfm"
    with pytest.raises(error, match=message):
        save(target)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_failing_system_call_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "m.crossfm"
    save_model(make_model(), path)
    old = path.read_bytes()

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ModelFileError, match=r"No space left on device\. The file that was there"):
        save_model(make_model(seed=1), path)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["m.crossfm"]


def test_an_interrupt_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def interrupted():
        with replacing(path) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a file")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    """A limit on the size of files stands in for the disk: the write itself fails."""
    script = """
        import resource, signal, sys
        import numpy as np
        from crossfm.errors import ModelFileError
        from crossfm.model import FactorModel
        from crossfm.store import save_model
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        save_model(FactorModel(0, [0.0], [[1.0]]), sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save_model(FactorModel(0, np.zeros(10_000), np.ones((10_000, 8))), sys.argv[1])
        except ModelFileError as error:
            print(error)
    """
    path = tmp_path / "m.crossfm"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large. The file that was there is unchanged." in done.stdout
    assert os.listdir(tmp_path) == ["m.crossfm"]
    assert load_model(path).model.n_features == 1


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="root and Windows write to read-only folders"
)
def test_a_read_only_folder(tmp_path):
    path = tmp_path / "m.crossfm"
    save_model(make_model(), path)
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(ModelFileError, match="Permission denied"):
            save_model(make_model(seed=1), path)
    finally:
        tmp_path.chmod(0o755)
    assert_same(load_model(path).model, make_model())


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ModelFileError, match="is a folder"):
        save_model(make_model(), tmp_path)
    with pytest.raises(ModelFileError, match="cannot read"):
        load_model(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="modes and links as POSIX has them")
def test_links_are_followed_and_modes_kept(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    save_model(make_model(), real)
    mask = os.umask(0o022)
    os.umask(mask)
    assert real.stat().st_mode & 0o777 == 0o666 & ~mask
    real.chmod(0o640)
    link.symlink_to(real)
    save_model(make_model(seed=1), link)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert_same(load_model(real).model, make_model(seed=1))


# --- refused when loading -------------------------------------------------------------------


def rewrite(path: Path, change, tensors=None) -> None:
    """Change the header's JSON and sign it again: what a checksum does not catch."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    about = json.loads(header["__metadata__"]["crossfm"])
    about = change(about) or about
    text = about if isinstance(about, str) else json.dumps(about)
    header["__metadata__"]["crossfm"] = text
    header["__metadata__"]["crossfm_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])


def put(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(about):
        for key in keys:
            about = about[key]
        if value is ...:
            del about[last]
        else:
            about[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("format_version", 5), "format version 5, .* pip install --upgrade crossfm"),
        (put("format_version", "1"), "format_version is '1', expected a whole number"),
        (put("format_version", True), "format_version is True"),
        (put("n_features", 8), "tensor bias|tensor weights: shape|shape is"),
        (put("n_features", -1), "n_features is -1"),
        (put("n_factors", 2**70), "n_factors is"),
        (put("n_models", 0), "n_models is 0"),
        (put("n_models", ...), "n_models is None"),
        (put("interactions", "some"), "interactions is 'some'"),
        (put("task", []), "task is"),
        (put("metadata", 3), "metadata is 3"),
        (put("model_metadata", []), "model_metadata is"),
        (put("model_metadata", [3]), "model_metadata is"),
        (put("tensors", []), "tensors is"),
        (put("tensors", "bias", ...), "expected an entry for"),
        (put("tensors", "field_of", ...), "holds the tensors .*expected"),
        (put("tensors", "code", {}), "tensors is 'code'"),
        (put("tensors", "bias", 3), "tensor bias is 3"),
        (put("tensors", "bias", "dtype", "F32"), "tensor bias: type is 'F32'"),
        (put("tensors", "factors", "dtype", "F16"), "tensor factors is F32"),
        (put("tensors", "bias", "shape", [1.0]), "tensor bias: shape"),
        (put("tensors", "bias", "sha256", 3), "tensor bias: sha256"),
        (put("tensors", "bias", "sha256", "0"), "tensor bias fails its checksum"),
        (put("crossfm_version", None), "crossfm_version"),
        (lambda about: "[" * 100_000, "is no JSON"),
        (lambda about: "{", "is no JSON"),
        (lambda about: "[1]", r"header is \[1\], expected an object"),
    ],
)
def test_a_header_that_lies(tmp_path, change, message):
    path = tmp_path / "m.crossfm"
    save_model(make_model(), path)
    rewrite(path, change)
    with pytest.raises(ModelFileError, match=message):
        load_model(path)


def test_numbers_that_are_not_finite(tmp_path):
    path = tmp_path / "m.crossfm"
    save_model(FactorModel(0.5, [1.0], [[2.0]]), path)
    raw = bytearray(path.read_bytes())
    raw[-4:] = struct.pack("<f", np.nan)
    path.write_bytes(raw)
    digest = hashlib.sha256(raw[-4:]).hexdigest()
    rewrite(path, put("tensors", "factors", "sha256", digest))
    with pytest.raises(ModelFileError, match="factors of feature 0 is not finite"):
        load_model(path)


@pytest.mark.parametrize("text", ["not json", '{"n": 8, "words": ""}', "{}", "[]", "\udcff"])
def test_a_schema_that_does_not_fit(tmp_path, small_schema, text):
    class Odd(SmallSchema):
        def to_json(self):
            return text.encode("utf-8", "surrogateescape").decode("latin-1")

    path = tmp_path / "m.crossfm"
    save_model(make_model(schema=Odd(7)), path)
    if text == "\udcff":  # bytes that are no UTF-8
        raw = path.read_bytes()
        bad = b"\xff\xfe"
        path.write_bytes(raw[: -len(bad)] + bad)
        rewrite(path, put("tensors", "schema", "sha256", hashlib.sha256(bad).hexdigest()))
    with pytest.raises(ModelFileError, match=r"schema (does not load|makes 8 features)"):
        load_model(path)


def test_files_that_are_something_else(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "m.crossfm"
    with pytest.raises(ModelFileError, match=r"cannot read .*No such file"):
        load_model(path)
    for junk in (b"", b"\0" * 8, b"user,item\n1,2\n", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}"):
        path.write_bytes(junk)
        with pytest.raises(ModelFileError, match=r"not a (crossfm )?model"):
            load_model(path)
    save_file({"bias": np.zeros(3)}, path)
    with pytest.raises(ModelFileError, match="not a crossfm model"):
        load_model(path)


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "m.crossfm"
    save_model(make_model(3, 2), path)
    raw = path.read_bytes()
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        with pytest.raises(ModelFileError):
            load_model(path)
    path.write_bytes(raw + b"\0")
    with pytest.raises(ModelFileError):
        load_model(path)


def test_every_flipped_byte_is_harmless_or_refused(tmp_path):
    model = make_model(3, 2, metadata={"note": "x"})
    path = tmp_path / "m.crossfm"
    save_model(model, path)
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for at in range(len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= int(rng.integers(1, 256))
        refused += refuses_or_equals(path, bytes(damaged), model)
    assert refused > 0.9 * len(raw)  # blanks and equivalent JSON are the rest


def refuses_or_equals(path, damaged, model):
    path.write_bytes(damaged)
    try:
        stored = load_model(path)
    except ModelFileError:
        return True
    assert_same(stored.model, model)
    assert stored.metadata == {}
    return False


def test_what_is_attached_comes_back(tmp_path):
    model = FactorModel(0.5, [1.0], [[2.0, 3.0]])
    save_model(model, tmp_path / "plain.crossfm")
    save_model(model, tmp_path / "more.crossfm", attached=b"\x00 anything \xff")
    plain, more = (load_model(tmp_path / f"{name}.crossfm") for name in ("plain", "more"))
    assert (plain.attached, more.attached) == (b"", b"\x00 anything \xff")
    assert (plain.header.format_version, more.header.format_version) == (1, 4)
    data = (tmp_path / "more.crossfm").read_bytes()
    (tmp_path / "bad.crossfm").write_bytes(data.replace(b"anything", b"nothing!"))
    with pytest.raises(ModelFileError, match="tensor attached fails its checksum"):
        load_model(tmp_path / "bad.crossfm")
