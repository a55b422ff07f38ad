"""Deltas: the full file bit for bit, a chain in its order only, nothing half applied."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import crossfm as cf
from crossfm.errors import DataError, ModelFileError
from crossfm.model import FactorModel
from crossfm.store import (
    Snapshots,
    apply_delta,
    delta_paths,
    load_latest,
    load_model,
    read_delta,
    save_delta,
    save_model,
)
from crossfm.store.patch import difference, patched


def made(n=40, k=3, seed=0, **more):
    rng = np.random.default_rng(seed)
    return FactorModel(
        float(rng.normal()), rng.normal(size=n).astype(np.float32),
        rng.normal(size=(n, k)).astype(np.float32), **more,
    )  # fmt: skip


def moved(model, rows, n=None):
    """The model with other numbers in some rows, and with more rows."""
    n = n or model.n_features
    weights, factors = np.zeros(n, np.float32), np.zeros((n, model.n_factors), np.float32)
    weights[: model.n_features], factors[: model.n_features] = model.weights, model.factors
    weights[rows] += 1
    factors[rows[:1]] -= 0.5
    field_of = None if model.field_of is None else np.resize(model.field_of, n)
    return replace(model, bias=model.bias + 1, weights=weights, factors=factors, field_of=field_of)


def same(one, other):
    assert one.checksum == other.checksum
    assert one.metadata == other.metadata
    assert one.header == other.header
    for a, b in zip(one.models, other.models, strict=True):
        for name in ("weights", "factors"):
            assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
        assert (a.bias, a.metadata) == (b.bias, b.metadata)
        assert (a.field_of is None) == (b.field_of is None)
        assert a.field_of is None or a.field_of.tobytes() == b.field_of.tobytes()
        assert (a.schema is None) == (b.schema is None)
        assert a.schema is None or a.schema.to_json() == b.schema.to_json()


@pytest.fixture
def chain(tmp_path):
    """A full file and two deltas after it; and the full file that they amount to."""
    model = made(field_of=np.arange(40, dtype=np.int32) % 3, metadata={"loss": "squared"})
    save_model(model, tmp_path / "full", metadata={"seen": [1]})
    base = load_model(tmp_path / "full")
    later = moved(model, np.array([3, 17]))
    first = save_delta(later, base, tmp_path / "1.delta", metadata={"seen": [1, 2]})
    last = moved(later, np.array([5]), 50)
    save_delta(last, first, tmp_path / "2.delta", metadata={"seen": [1, 2, 3], "more": "yes"})
    save_model(last, tmp_path / "expected", metadata={"seen": [1, 2, 3], "more": "yes"})
    return tmp_path


# --- right --------------------------------------------------------------------------------------


def test_a_chain_is_the_full_file_bit_for_bit(chain):
    stored = load_model(chain / "full")
    for number in (1, 2):
        before = stored
        stored = apply_delta(stored, chain / f"{number}.delta")
        assert stored.sequence == number
        assert before.sequence == number - 1
    same(stored, load_model(chain / "expected"))
    save_model(stored.models, chain / "again", metadata=stored.metadata)
    assert (chain / "again").read_bytes() == (chain / "expected").read_bytes()
    assert read_delta(chain / "1.delta").n_rows == 2
    assert read_delta(chain / "2.delta").n_rows == 1 + 10


def test_the_delta_holds_changed_rows_only(tmp_path):
    model = made(20_000, 16)
    save_model(model, tmp_path / "full")
    save_delta(moved(model, np.array([7])), load_model(tmp_path / "full"), tmp_path / "d")
    assert (tmp_path / "d").stat().st_size < 2_000 < (tmp_path / "full").stat().st_size


def test_minus_zero_is_another_number(tmp_path):
    model = made()
    zero, minus = (replace(model, weights=np.where(np.arange(40) == 4, z, model.weights))
                   for z in (0.0, -0.0))  # fmt: skip
    save_model(zero, tmp_path / "full")
    base = load_model(tmp_path / "full")
    save_delta(minus, base, tmp_path / "d")
    assert np.signbit(apply_delta(base, tmp_path / "d").model.weights[4])


def test_nothing_changed(tmp_path):
    save_model(made(), tmp_path / "full")
    base = load_model(tmp_path / "full")
    save_delta(made(), base, tmp_path / "d")
    assert read_delta(tmp_path / "d").n_rows == 0
    same(apply_delta(base, tmp_path / "d"), base)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_rounded_factors(tmp_path, precision):
    model = made()
    save_model(model, tmp_path / "full", precision=precision)
    base = load_model(tmp_path / "full")
    later = moved(model, np.array([1, 2]))
    told = save_delta(later, base, tmp_path / "d")
    assert read_delta(tmp_path / "d").n_rows == 2
    save_model(later, tmp_path / "expected", precision=precision)
    for found in (told, apply_delta(base, tmp_path / "d")):
        same(found, load_model(tmp_path / "expected"))


def test_a_base_that_was_rounded_back(tmp_path):
    save_model(made(), tmp_path / "full", precision="int8")
    base = load_model(tmp_path / "full", precision="float32")
    with pytest.raises(DataError, match="loaded as float32, its file holds int8"):
        save_delta(made(), base, tmp_path / "d")


def test_several_models(tmp_path):
    models = [made(seed=seed) for seed in range(3)]
    save_model(models, tmp_path / "full")
    base = load_model(tmp_path / "full")
    later = [models[0], moved(models[1], np.array([4])), moved(models[2], np.array([4, 6]))]
    save_delta(later, base, tmp_path / "d")
    assert read_delta(tmp_path / "d").n_rows == 2
    save_model(later, tmp_path / "expected")
    same(apply_delta(base, tmp_path / "d"), load_model(tmp_path / "expected"))


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("kind", ["ffm", "fwfm"])
def test_parameters_for_fields(tmp_path, kind, precision):
    def model(n, seed):
        numbers = np.random.default_rng(seed)
        factors = np.random.default_rng(0).normal(size=(60, 4, 3) if kind == "ffm" else (60, 3))
        factors[5:9] += numbers.normal(size=factors[5:9].shape)
        weights = numbers.normal(size=(4, 4))
        weights = weights + weights.T - 2 * np.diag(np.diag(weights))
        return FactorModel(
            0.5, np.ones(n), factors[:n].astype(np.float32), "across_fields",
            np.arange(n, dtype=np.int32) % 4, field_weights=weights if kind == "fwfm" else None,
        )  # fmt: skip

    save_model(model(50, 1), tmp_path / "full", precision=precision)
    base = load_model(tmp_path / "full")
    save_delta(model(60, 2), base, tmp_path / "d")
    assert read_delta(tmp_path / "d").n_rows == 4 + 10
    save_model(model(60, 2), tmp_path / "expected", precision=precision)
    found, expected = apply_delta(base, tmp_path / "d"), load_model(tmp_path / "expected")
    same(found, expected)
    assert (kind == "ffm") == (found.model.field_weights is None)
    if kind == "fwfm":
        assert found.model.field_weights.tobytes() == expected.model.field_weights.tobytes()


def test_vocabularies_grow_and_the_estimator_comes_back(tmp_path):
    fm = cf.FMRegressor(n_factors=4, random_state=0)
    log = {"user": [f"u{i % 300}" for i in range(900)], "film": [i % 7 for i in range(900)]}
    fm.partial_fit(log, np.arange(900.0))
    path = tmp_path / "m.crossfm"
    fm.save(path)
    base = load_model(path)
    for day in range(3):
        more = {"user": ["u1", f"new {day}"], "film": [1, 90 + day]}
        fm.partial_fit(more, [1.0, 2.0])
        metadata = fm_metadata(fm, tmp_path)
        delta = tmp_path / f"{day}.delta"
        following = save_delta(fm.models_, base, delta, metadata=metadata)
        assert delta.stat().st_size < path.stat().st_size / 2
        fm.save(tmp_path / "expected")
        same(apply_delta(base, delta), load_model(tmp_path / "expected"))
        base = following
        fm.partial_fit(more, [1.0, 2.0])  # learning on leaves the base as it is
        same(base, load_model(tmp_path / "expected"))


def fm_metadata(fm, folder):
    fm.save(folder / "any")
    return load_model(folder / "any").metadata


# --- refused ------------------------------------------------------------------------------------


def test_a_wrong_base(chain):
    base = load_model(chain / "full")
    with pytest.raises(ModelFileError, match=r"2\.delta is delta 2 .* after 0 deltas. Apply"):
        apply_delta(base, chain / "2.delta")
    first = apply_delta(base, chain / "1.delta")
    with pytest.raises(ModelFileError, match=r"is delta 1 of a chain .* after 1 deltas"):
        apply_delta(first, chain / "1.delta")
    save_model(made(seed=9), chain / "other")
    with pytest.raises(ModelFileError, match="in order, each once"):
        apply_delta(load_model(chain / "other"), chain / "1.delta")


def test_deltas_and_models_are_told_apart(chain):
    with pytest.raises(ModelFileError, match="holds a delta, the rows that changed"):
        load_model(chain / "1.delta")
    with pytest.raises(ModelFileError, match="holds no delta"):
        apply_delta(load_model(chain / "full"), chain / "full")
    with pytest.raises(ModelFileError, match="Check the path"):
        read_delta(chain / "absent")


def test_every_altered_byte_is_found(chain):
    base, data = load_model(chain / "full"), (chain / "1.delta").read_bytes()
    expected = apply_delta(base, chain / "1.delta")
    for at in range(0, len(data), 7):
        altered = bytearray(data)
        altered[at] ^= 1
        (chain / "altered").write_bytes(altered)
        try:
            found = apply_delta(base, chain / "altered")
        except ModelFileError:
            continue
        same(found, expected)  # a blank of the padding
    for length in (0, 7, 100, len(data) - 1):
        (chain / "cut").write_bytes(data[:length])
        with pytest.raises(ModelFileError):
            apply_delta(base, chain / "cut")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 2}, "version 2, this crossfm reads versions up to 1"),
        ({"rows": 3}, "tensor rows is"),
        ({"rows": -1}, "tensor rows is"),
        ({"header": {"keys": {"task": {"new": "classification"}}}}, "fails the checksum"),
        ({"header": {"keys": 3}}, "do not fit the base"),
        ({"header": 3}, "was altered|none of a delta"),
        ({"sequence": None}, "none of a delta"),
        ({"base": None}, "of a chain and follows"),
    ],
)
def test_headers_that_were_made_up(chain, change, told):
    write_again(chain / "1.delta", chain / "made-up", change)
    with pytest.raises(ModelFileError, match=told):
        apply_delta(load_model(chain / "full"), chain / "made-up")


@pytest.mark.parametrize("rows", [[-1, 3], [3, 40], [17, 3], [3, 3]])
def test_rows_that_are_none(chain, rows):
    write_again(chain / "1.delta", chain / "made-up", {}, np.array(rows, "<i8"))
    with pytest.raises(ModelFileError, match="was altered: rows that are not"):
        apply_delta(load_model(chain / "full"), chain / "made-up")


def write_again(path, to, change, rows=None):
    """A delta with another text, under a good checksum."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + length])
    text = json.dumps(json.loads(entries["__metadata__"]["crossfm_delta"]) | change)
    entries["__metadata__"] = {
        "crossfm_delta": text, "crossfm_delta_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip
    body = data[8 + length :]
    if rows is not None:
        low, high = entries["rows"]["data_offsets"]
        body = body[:low] + rows.tobytes() + body[high:]
    header = json.dumps(entries).encode()
    to.write_bytes(struct.pack("<Q", len(header)) + header + body)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (made(k=4), "n_factors is 4, of the base it is 3"),
        (made(n=39), "has 39 features, the base 40"),
        (made(task="classification"), "task is 'classification'"),
        (made(field_of=np.zeros(40, np.int32)), "of other fields"),
        ([made(), made()], "n_models is 2"),
    ],
)
def test_models_of_another_kind(tmp_path, other, told):
    save_model(made(), tmp_path / "full")
    with pytest.raises(DataError, match=told):
        save_delta(other, load_model(tmp_path / "full"), tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    save_model(made(), tmp_path / "full")
    base = load_model(tmp_path / "full")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelFileError, match="No space left"):
        save_delta(moved(made(), np.array([1])), base, tmp_path / "d")
    assert [entry.name for entry in tmp_path.iterdir()] == ["full"]


# --- snapshots ----------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_snapshots_are_read_back(tmp_path):
    path, model = tmp_path / "m", made(4000)
    snapshots = Snapshots(path, deltas=True)
    whole = 0
    for step in range(12):
        model = moved(model, np.arange(300) + step)
        snapshots.write(model, {"step": step})
        assert snapshots.written.exists()
        whole += snapshots.written == path
        stored = load_latest(path)
        assert stored.metadata == {"step": step}
        assert stored.model.factors.tobytes() == model.factors.tobytes()
        assert all(".m." not in name for name in names(tmp_path))
    assert 1 < whole < 6  # now and then the deltas have become too many
    assert len(delta_paths(path, load_model(path).checksum)) == len(names(tmp_path)) - 1
    snapshots.write(model, {"step": "last"}, whole=True)
    assert names(tmp_path) == ["m"]
    assert load_latest(path).metadata == {"step": "last"}


def test_without_deltas(tmp_path):
    snapshots = Snapshots(tmp_path / "m", precision="float16")
    for step in range(3):
        snapshots.write(made(seed=step))
        assert names(tmp_path) == ["m"]
    assert load_latest(tmp_path / "m").header.precision == "float16"


def test_deltas_of_an_earlier_file_are_left_alone(tmp_path):
    path, model = tmp_path / "m", made(4000)
    snapshots = Snapshots(path, deltas=True)
    snapshots.write(model)
    snapshots.write(moved(model, np.array([1])))
    assert len(names(tmp_path)) == 2
    (tmp_path / "m.of-mine.delta").touch()
    other = made(4000, seed=7)
    save_model(other, path)
    assert load_latest(path).model.factors.tobytes() == other.factors.tobytes()
    Snapshots(path).write(other)  # which removes them
    assert names(tmp_path) == ["m", "m.of-mine.delta"]


def test_a_reader_that_is_overtaken_reads_again(tmp_path, monkeypatch):
    from crossfm.store import snapshots as module

    path, model = tmp_path / "m", made(4000)
    snapshots = Snapshots(path, deltas=True)
    snapshots.write(model)
    snapshots.write(moved(model, np.array([1])))
    last, before = moved(model, np.array([1, 2])), module.apply_delta

    def overtaken(stored, delta):
        if delta.exists() and not overtaken.done:
            overtaken.done = True
            snapshots.write(last, whole=True)
        return before(stored, delta)

    overtaken.done = False
    monkeypatch.setattr(module, "apply_delta", overtaken)
    assert load_latest(path).model.weights.tobytes() == last.weights.tobytes()


def test_a_damaged_delta_is_not_passed_over(tmp_path):
    path, model = tmp_path / "m", made(4000)
    snapshots = Snapshots(path, deltas=True)
    snapshots.write(model)
    snapshots.write(moved(model, np.array([1])))
    snapshots.written.write_bytes(b"a letter")
    with pytest.raises(ModelFileError):
        load_latest(path)


# --- patches ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "size"),
    [
        ({"a": [1] * 500}, {"a": [1] * 500 + [2]}, 40),
        ({"a": {"b": 1, "c": [0] * 200}}, {"a": {"b": 2, "c": [0] * 200}}, 60),
        ([{"a": 1, "b": "x" * 300}, {"c": 2}], [{"a": 2, "b": "x" * 300}, {"c": 2}], 60),
        ({"a": 1, "b": 2}, {"a": 1}, 60),
        ([1, 2], [2, 1], 30),
        ([1, 2], [1], 30),
        ({"a": None}, {"a": 0}, 40),
        (1, "1", 30),
        ({}, {"a": {}}, 40),
        ([[]], [[], []], 30),
    ],
)
def test_patches(old, new, size):
    patch = difference(old, new)
    assert len(json.dumps(patch)) < size
    before = json.dumps(old)
    assert patched(old, json.loads(json.dumps(patch))) == new
    assert json.dumps(old) == before
    assert patched(old, difference(old, old)) == old
