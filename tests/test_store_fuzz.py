"""The model file under random damage: it loads equal, or is refused with a typed error."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_store import assert_same, make_model, put, refuses_or_equals, rewrite

from crossfm.errors import ModelFileError
from crossfm.store import load_model, save_model

MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "copy"]),
        st.integers(0, 10**6),
        st.integers(0, 10**6),
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)


def mutate(raw: bytes, mutations) -> bytes:
    out = bytearray(raw)
    for kind, a, b, new in mutations:
        at, other = a % (len(out) + 1), b % (len(out) + 1)
        if kind == "set":
            out[at : at + len(new)] = new
        elif kind == "insert":
            out[at:at] = new
        elif kind == "delete":
            del out[at : at + len(new)]
        else:
            out[at : at + len(new)] = out[other : other + len(new)]
    return bytes(out)


@pytest.mark.fuzz
@given(MUTATIONS)
def test_mutated_files_load_equal_or_are_refused(tmp_path_factory, mutations):
    folder = tmp_path_factory.getbasetemp()
    path, model = folder / "fuzzed.crossfm", make_model(4, 3)
    source = folder / "source.crossfm"
    if not source.exists():
        save_model(model, source)
    refuses_or_equals(path, mutate(source.read_bytes(), mutations), model)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.mark.fuzz
@given(data=st.data(), value=JSON_VALUES)
def test_signed_headers_of_any_content_load_equal_or_are_refused(tmp_path_factory, data, value):
    """The checksum is no defence against someone who can compute it: the checks behind it are."""
    path, model = tmp_path_factory.getbasetemp() / "signed.crossfm", make_model(4, 3)
    save_model(model, path)
    about = json.loads(json.dumps(read_header_json(path)))
    top = data.draw(st.sampled_from(sorted(about)))
    where = [top]
    if top == "tensors" and data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(about["tensors"])))
        where += [name, data.draw(st.sampled_from(["dtype", "shape", "sha256"]))]
    rewrite(path, put(*where, value))
    try:
        stored = load_model(path)
    except ModelFileError:
        return
    if top not in ("metadata", "model_metadata", "interactions", "task"):
        assert_same(stored.model, model)


def read_header_json(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["crossfm"])
