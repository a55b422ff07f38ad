"""libFM's text model: the format as libFM 1.4.4 writes it, and every malformed line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfm.data.rows import Rows
from crossfm.errors import DataError, ModelFileError
from crossfm.model import FactorModel
from crossfm.store import load_libfm, save_libfm

# Written by libFM 1.4.4 in its own number format (six digits).
TEXT = """#global bias W0
3.52835
#unary interactions Wj
0.0312
-1e-05
0
#pairwise interactions Vj,f
0.011 -0.204
1.5e-07 2
-3 0.25
"""


def test_reads_what_libfm_writes(tmp_path):
    path = tmp_path / "model"
    path.write_text(TEXT)
    model = load_libfm(path, task="classification")
    assert model.bias == 3.52835
    assert model.task == "classification"
    np.testing.assert_array_equal(model.weights, np.float32([0.0312, -1e-05, 0]))
    np.testing.assert_array_equal(
        model.factors, np.float32([[0.011, -0.204], [1.5e-07, 2], [-3, 0.25]])
    )
    want = 3.52835 + 0.0312 + 0 * 2 + (0.011 * -3 + -0.204 * 0.25) * 2
    got = model.score(Rows(np.array([[0, 2]]), np.array([[1.0, 2.0]])))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_absent_parts_are_zero(tmp_path):
    path = tmp_path / "model"
    start = TEXT.index("#pairwise")
    path.write_text(TEXT[start:])
    model = load_libfm(path)
    assert model.bias == 0
    assert not model.weights.any()
    assert model.factors.shape == (3, 2)
    path.write_text(TEXT[TEXT.index("#unary") :])
    assert load_libfm(path).weights[0] == np.float32(0.0312)


def test_odd_spacing_is_understood(tmp_path):
    path = tmp_path / "model"
    want = (path.write_text(TEXT), load_libfm(path))[1]
    for text in (
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("204\n", "204 \n"),  # some versions end lines with a space
        TEXT + "\n\n",
        TEXT[:-1],
    ):
        path.write_bytes(text.encode())
        got = load_libfm(path)
        np.testing.assert_array_equal(got.factors, want.factors)
        np.testing.assert_array_equal(got.weights, want.weights)


@pytest.mark.parametrize("k", [0, 1, 2, 17])
def test_there_and_back_is_exact(tmp_path, k):
    rng = np.random.default_rng(k)
    scale = 10.0 ** rng.integers(-30, 30, (50, k))
    model = FactorModel(0.1 + 1e-12, rng.normal(size=50), rng.normal(size=(50, k)) * scale)
    save_libfm(model, tmp_path / "model")
    again = load_libfm(tmp_path / "model")
    assert again.bias == model.bias
    np.testing.assert_array_equal(again.weights, model.weights)
    np.testing.assert_array_equal(again.factors, model.factors)


def test_blocks_of_lines(tmp_path, monkeypatch):
    import crossfm.store.libfm as module

    model = FactorModel(0, np.arange(50), np.arange(150).reshape(50, 3))
    save_libfm(model, tmp_path / "one")
    monkeypatch.setattr(module, "LINES", 7)
    save_libfm(model, tmp_path / "many")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()
    np.testing.assert_array_equal(load_libfm(tmp_path / "many").factors, model.factors)
    text = (tmp_path / "one").read_text().replace("144 145 146", "144 145")
    (tmp_path / "one").write_text(text)
    with pytest.raises(ModelFileError, match=r"line 103: '144 145', expected 3 numbers"):
        load_libfm(tmp_path / "one")


def test_across_fields_has_no_place(tmp_path):
    model = FactorModel(0, [0.0], [[1.0]], "across_fields")
    with pytest.raises(DataError, match="libFM has no interactions 'across_fields'"):
        save_libfm(model, tmp_path / "model")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("3.52835", "three", "line 2: 'three', expected 1 number "),
        ("3.52835\n", "", "0 lines below '#global bias W0', expected 1"),
        ("0.0312", "0.03 12", "line 4: '0.03 12', expected 1 number "),
        ("0.0312\n", "", "holds 2 linear weights and 3 vectors"),
        ("1.5e-07 2", "1.5e-07", "line 9: '1.5e-07', expected 2 numbers"),
        ("1.5e-07 2", "1.5e-07 1_0", "line 9: '1.5e-07 1_0', expected 2 numbers"),
        ("1.5e-07 2", "1.5e-07 nan", "line 9: '1.5e-07 nan'"),
        ("1.5e-07 2", "1.5e-07 -inf", "line 9"),
        ("1.5e-07 2", "1.5e-07 1e39", "line 9"),
        ("1.5e-07 2", "", "line 9: '', expected 2 numbers"),
        ("#unary interactions Wj", "#unary", "line 3: '#unary' is unknown"),
        ("#unary interactions Wj", "#global bias W0", "line 3: '#global bias W0' is a second"),
        ("#pairwise", "pairwise", "no '#pairwise interactions Vj,f'"),
        ("#global", "global", "does not start with"),
        (TEXT[TEXT.index("0.011") :], "", "holds no features"),
        (TEXT, "", "does not start with"),
    ],
)
def test_malformed_text_names_the_line(tmp_path, old, new, message):
    path = tmp_path / "model"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(ModelFileError, match=message):
        load_libfm(path)


def test_parts_in_another_order(tmp_path):
    path = tmp_path / "model"
    at = TEXT.index("#pairwise")
    path.write_text(TEXT[at:] + TEXT[:at])
    with pytest.raises(ModelFileError, match="not in libFM's order"):
        load_libfm(path)
    with pytest.raises(ModelFileError, match=r"cannot read .*No such file"):
        load_libfm(tmp_path / "none")


@pytest.mark.fuzz
@given(
    st.lists(
        st.tuples(st.integers(0, len(TEXT)), st.integers(0, 5), st.binary(max_size=6)), max_size=5
    )
)
def test_any_text_loads_or_is_refused(tmp_path_factory, changes):
    raw = bytearray(TEXT.encode())
    for at, cut, new in changes:
        raw[at : at + cut] = new
    path = tmp_path_factory.getbasetemp() / "fuzzed.libfm"
    path.write_bytes(raw)
    try:
        model = load_libfm(path)
    except ModelFileError:
        return
    assert np.isfinite(model.factors).all()
