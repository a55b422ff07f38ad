"""libsvm and libffm text: against a slow parser in exact arithmetic, and against scikit-learn."""

from __future__ import annotations

import gzip
import io
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.datasets import dump_svmlight_file, load_svmlight_file
from text_oracle import NUMBER, SPACES, as_lists, nearest_float32, oracle, same

from crossfm.data import text
from crossfm.data.rows import Rows
from crossfm.data.text import (
    iter_libffm,
    iter_libsvm,
    read_libffm,
    read_libsvm,
    write_libsvm,
)
from crossfm.errors import DataError


@pytest.fixture
def write(tmp_path):
    def to(content, name="t.libsvm"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to


GOOD = (
    "# made by hand\n"
    "+1 3:0.5 7:1\r\n"
    "\n"
    "  -1\t2:1e-3  2:.5   # twice the same id\n"
    "0.25\n"
    "1e1 0:-2.5E+2 9:1.#tight\n"
    "   \r\n"
    "2 1:1"
)


def test_what_the_format_allows(write):
    rows = read_libsvm(write(GOOD))
    assert as_lists(rows) == [
        (1.0, [(None, 3, 0.5), (None, 7, 1.0)]),
        (-1.0, [(None, 2, float(np.float32(1e-3))), (None, 2, 0.5)]),
        (0.25, []),
        (10.0, [(None, 0, -250.0), (None, 9, 1.0)]),
        (2.0, [(None, 1, 1.0)]),
    ]
    assert rows.ids.dtype == np.int32
    assert rows.offsets.dtype == np.int64
    assert rows.targets.dtype == np.float32


def test_equal_rows_of_ones_come_without_offsets_and_values(write):
    rows = read_libsvm(write("1 1:1 2:1\n0 3:1.0 4:1e0\n"))
    assert rows.offsets is None
    assert rows.values is None
    assert rows.row_length == 2


def test_empty_files(write):
    for content in ("", "\n\n", "# nothing\n"):
        rows = read_libsvm(write(content))
        assert len(rows) == rows.nnz == 0
        assert list(iter_libsvm(write(content))) == []


def test_labels_alone(write):
    rows = read_libsvm(write("1\n0\n1"))
    assert rows.targets.tolist() == [1.0, 0.0, 1.0]
    assert rows.nnz == 0


def test_large_ids(write):
    rows = read_libsvm(write("1 2147483647:1\n"))
    assert rows.ids.dtype == np.int32
    rows = read_libsvm(
        write("1 5:1 2147483648:2\n1 9223372036854775807:1 0000000000000000000003:1")
    )
    assert rows.ids.dtype == np.int64
    assert rows.ids.tolist() == [5, 2**31, 2**63 - 1, 3]


def test_fields(write):
    rows = read_libffm(write("1 0:3:0.5 2147483647:7:1\n-1 1:4294967296:1\n"))
    assert as_lists(rows) == [
        (1.0, [(0, 3, 0.5), (2147483647, 7, 1.0)]),
        (-1.0, [(1, 2**32, 1.0)]),
    ]
    assert rows.fields.dtype == np.int32


def test_gzipped(write):
    rows = read_libsvm(write(gzip.compress(GOOD.encode()), "t.libsvm.gz"))
    same(rows, read_libsvm(write(GOOD)))
    same(Rows.concatenate(list(iter_libsvm(write(gzip.compress(GOOD.encode()), "u.gz"), 2))), rows)


def test_ids_from_one(write):
    one, two = write("1 1:1 3:1\n", "one"), write("1 0:1 3:1\n", "two")
    assert read_libsvm(one).ids.tolist() == [1, 3]
    assert read_libsvm(one, zero_based=False).ids.tolist() == [0, 2]
    assert read_libsvm(one, zero_based="auto").ids.tolist() == [0, 2]
    assert read_libsvm(two, zero_based="auto").ids.tolist() == [0, 3]
    assert next(iter_libsvm(one, zero_based=False)).ids.tolist() == [0, 2]
    with pytest.raises(
        DataError, match="line 1, column 3: found '0:1', expected ids that begin at 1"
    ):
        read_libsvm(two, zero_based=False)
    with pytest.raises(ValueError, match="zero_based"):
        read_libsvm(one, zero_based="yes")
    with pytest.raises(ValueError, match="read in batches"):
        next(iter_libsvm(one, zero_based="auto"))


def test_number_of_features(write):
    path = write("1 1:1 3:1\n1 0:1\n1 4:1\n")
    assert read_libsvm(path, n_features=5).ids.max() == 4
    with pytest.raises(
        DataError, match=r"line 3, column 3: found '4:1', expected an id of at most 3"
    ):
        read_libsvm(path, n_features=4)
    with pytest.raises(DataError, match="line 3"):
        list(iter_libsvm(path, n_features=4))
    with pytest.raises(DataError, match="at most 4"):
        read_libsvm(write("1 5:1"), zero_based=False, n_features=4)
    with pytest.raises(ValueError, match="n_features"):
        read_libsvm(path, n_features=-1)


def test_queries(write):
    rows, qids = read_libsvm(write("1 qid:7 1:1\n0 qid:7\n2 qid:8 2:1\n"), return_qids=True)
    assert qids.tolist() == [7, 7, 8]
    assert rows.ids.tolist() == [1, 2]
    assert read_libsvm(write("1 1:1"), return_qids=True)[1] is None
    with pytest.raises(DataError, match="line 2, column 3: found '1:1', expected qid:n"):
        read_libsvm(write("1 qid:1 1:1\n1 1:1"))
    with pytest.raises(DataError, match="line 2, column 3: found 'qid:1', expected no qid"):
        read_libsvm(write("1 1:1\n1 qid:1 1:1"))
    with pytest.raises(DataError, match="line 1, column 3: found 'qid:x'"):
        read_libsvm(write("1 qid:x 1:1"))


@pytest.mark.parametrize(
    ("content", "column", "found", "expected"),
    [
        ("1 abc", 3, "abc", "id:value"),
        ("1 1:1 2", 7, "2", "id:value"),
        ("1 1:1 2:", 7, "2:", "id:value"),
        ("1 1:1 :2", 7, ":2", "id:value"),
        ("1 1:1 -2:1", 7, "-2:1", "id:value"),
        ("1 1:1:1", 3, "1:1:1", "id:value"),
        ("1 1 :1", 3, "1", "id:value"),
        ("1 1:0x10", 3, "1:0x10", "id:value"),
        ("1 1:1,5", 3, "1:1,5", "id:value"),
        ("1 1:1e", 3, "1:1e", "id:value"),
        ("1 1:.", 3, "1:.", "id:value"),
        ("1 1:--1", 3, "1:--1", "id:value"),
        ("1 1:nan", 3, "1:nan", "finite"),
        ("1 1:-inf", 3, "1:-inf", "finite"),
        ("1 1:1e39", 3, "1:1e39", "range of float32"),
        ("1 9223372036854775808:1", 3, "9223372036854775808:1", "9223372036854775807"),
        ("1 99999999999999999999999:1", 3, "99999999999999999999999:1", "9223372036854775807"),
        ("abc 1:1", 1, "abc", "a number as the label"),
        (" 1:1", 2, "1:1", "label"),
        ("1,2 1:1", 1, "1,2", "label"),
        ("nan 1:1", 1, "nan", "label"),
        ("1e99 1:1", 1, "1e99", "range of float32"),
        ("+ 1:1", 1, "+", "label"),
        ("1 1:1\x00", 3, "1:1\\x00", "id:value"),
        ("1 é:1", 3, "é:1", "id:value"),
    ],
)
def test_malformed_lines(write, content, column, found, expected):
    path = write("0 1:1\n# skipped\n" + content + "\n1 1:1\n")
    for read in (read_libsvm, lambda path: list(iter_libsvm(path))):
        with pytest.raises(DataError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(
            f"{path}, line 3, column {column}: found {found!r}".replace("\\\\", "\\")
        )
        assert expected in message.split("expected", 1)[1]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1 1:1", "field:id:value"),
        ("1 1:2:3:4", "field:id:value"),
        ("1 x:2:3", "field:id:value"),
        ("1 2147483648:2:3", "a field of at most 2147483647"),
        ("1 99999999999999999999:2:3", "a field of at most 2147483647"),
    ],
)
def test_malformed_fields(write, content, expected):
    with pytest.raises(DataError, match=f"line 1, column 3: .*expected {expected}"):
        read_libffm(write(content))


def test_long_tokens_are_cut_in_messages(write):
    with pytest.raises(DataError) as caught:
        read_libsvm(write("1 " + "x" * 10_000))
    assert len(str(caught.value)) < 300


def test_files_that_cannot_be_read(tmp_path, write):
    write("1 1:1", "train.libsvm")
    with pytest.raises(DataError, match=r"no such file\. Did you mean 'train\.libsvm'"):
        read_libsvm(tmp_path / "train.libsv")
    with pytest.raises(DataError, match="is a folder"):
        read_libsvm(tmp_path)
    packed = gzip.compress(b"1 1:1\n" * 1000)
    for damaged in (packed[:-10], b"1 1:1\n", packed[:50] + b"\xff" * 10 + packed[60:]):
        with pytest.raises(DataError, match="not a whole gzip file"):
            read_libsvm(write(damaged, "t.gz"))


# Numbers


@pytest.mark.parametrize(
    "number",
    [
        "0", "0e999999999999999999999", "1", "16777217", "16777219", "16777216.9999999999",
        "3.4028234663852886e38", "3.40282356779733661637539395458142568447e38",
        "3.40282356779733661637539395458142568448e38", "340282356779733661637539395458142568447.9",
        "1.17549435e-38", "1.1754943157898259e-38", "1e-45", "7.006492321624085e-46",
        "7.006492321624086e-46", "7.0064923216240853546186479164495806564013097093825788e-46",
        "1e-46", "1e-400", "1e-99999999999999999999", "1.401298464324817e-45", "4.2e-45",
        "0." + "0" * 60 + "1e61", "1" + "0" * 80 + "e-80", "1" * 400 + "e-399",
        # half way between two float32, and just off it, far behind the point
        "1.00000005960464477539062500", "1.00000005960464477539062501",
        "1.000000059604644775390625" + "0" * 500 + "1", "1.0000001788139343261718750",
        "1.00000005960464477539062499999999999999999999",
        "9007199254740993", "9007199254740992e22", "0.000000000000000000000123456789",
    ],
)  # fmt: skip
def test_numbers_are_rounded_correctly(write, number):
    for sign in ("", "-", "+"):
        want = nearest_float32(sign + number)
        path = write(f"1 0:2 1:{sign}{number}")
        if want is None:
            with pytest.raises(DataError, match="range of float32"):
                read_libsvm(path)
            continue
        got = read_libsvm(path).values[1]
        assert (float(got), bool(np.signbit(got))) == (want, (sign + number)[0] == "-")


DIGITS = st.text("0123456789", max_size=30)
DECIMALS = st.builds(
    lambda sign, whole, fraction, exponent: f"{sign}{whole}{fraction}{exponent}",
    st.sampled_from(["", "-", "+"]),
    DIGITS,
    st.just("") | DIGITS.map(lambda digits: f".{digits}"),
    st.just("") | st.integers(-60, 60).map(lambda e: f"e{e}"),
).filter(lambda number: NUMBER.fullmatch(number))


def _exact(number: Fraction) -> str:
    """All digits of a fraction whose denominator is a power of two."""
    places = max(number.denominator.bit_length() - 1, 0)
    return f"{number.numerator * 5**places}e-{places}"


MIDPOINTS = st.integers(0, 0x7F7FFFFE).map(
    lambda bits: _exact(
        (
            Fraction(float(np.uint32(bits).view(np.float32)))
            + Fraction(float(np.uint32(bits + 1).view(np.float32)))
        )
        / 2
    )
)


@given(st.lists(DECIMALS | MIDPOINTS | MIDPOINTS.map(lambda m: m.replace("e", "00001e", 1))))
def test_drawn_numbers_are_rounded_correctly(tmp_path_factory, numbers):
    numbers = [number for number in numbers if nearest_float32(number) is not None]
    path = tmp_path_factory.mktemp("numbers") / "t"
    path.write_text("1 0:2 " + " ".join(f"1:{number}" for number in numbers))
    got = read_libsvm(path).values[1:]
    want = np.array([nearest_float32(number) for number in numbers], np.float32)
    assert (got.view(np.uint32) == want.view(np.uint32)).all()


# Against other parsers


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.booleans(),
)
def test_reads_what_scikit_learn_writes(tmp_path_factory, seed, n, zero_based):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 12)) * (rng.random((n, 12)) < 0.4)
    X *= 10.0 ** rng.integers(-30, 30, (n, 12))
    y = rng.standard_normal(n)
    path = tmp_path_factory.mktemp("svm") / "t"
    dump_svmlight_file(X, y, str(path), zero_based=zero_based, comment="made here")
    rows = read_libsvm(path, zero_based=zero_based)
    same_X, same_y = load_svmlight_file(
        str(path), n_features=12, zero_based=zero_based, dtype=np.float64
    )
    assert (rows.ids == same_X.indices).all()
    assert (rows.row_offsets() == same_X.indptr).all()
    values = np.ones(rows.nnz) if rows.values is None else rows.values
    # sklearn reads float64; rounding that to float32 is within half a unit in the last place
    np.testing.assert_allclose(values, same_X.data, rtol=2**-24)
    np.testing.assert_allclose(rows.targets, same_y, rtol=2**-24)


def test_scikit_learn_reads_what_is_written(tmp_path):
    rng = np.random.default_rng(0)
    rows = Rows(
        np.sort(rng.permuted(np.tile(np.arange(20), (50, 1)), axis=1)[:, :6], axis=1),
        values=rng.standard_normal((50, 6)).astype(np.float32),
        targets=rng.standard_normal(50).astype(np.float32),
    )
    write_libsvm(tmp_path / "t", rows, qids=np.arange(50) // 5)
    X, y, qids = load_svmlight_file(
        str(tmp_path / "t"), n_features=20, zero_based=True, dtype=np.float32, query_id=True
    )
    assert (X.indices == rows.ids).all()
    np.testing.assert_allclose(X.data, rows.values, rtol=2**-23)  # read through float64
    np.testing.assert_allclose(y, rows.targets, rtol=2**-23)
    assert qids.tolist() == (np.arange(50) // 5).tolist()


IDS = st.integers(0, 50) | st.integers(0, 2**63 - 1)
TOKENS = st.builds(lambda i, x: f"{i}:{x}", IDS, DECIMALS)
FIELD_TOKENS = st.builds(lambda f, i, x: f"{f}:{i}:{x}", st.integers(0, 2**31 - 1), IDS, DECIMALS)
GAP = st.text(SPACES, min_size=1, max_size=3)


@st.composite
def contents(draw, with_fields=False):
    lines = []
    for _ in range(draw(st.integers(0, 8))):
        tokens = [draw(DECIMALS)]
        tokens += draw(st.lists(FIELD_TOKENS if with_fields else TOKENS, max_size=5))
        line = draw(st.sampled_from(["", " "])) + "".join(t + draw(GAP) for t in tokens)
        line += draw(st.sampled_from(["", "\r", "# 1 1:1", "#"]))
        lines.append(draw(st.sampled_from([line, line, line, "", "# 3:3"])))
    return "\n".join(lines) + draw(st.sampled_from(["", "\n"]))


def _agrees(path, content, with_fields):
    path.write_bytes(content.encode("latin1"))
    want = oracle(content, with_fields)
    read = read_libffm if with_fields else read_libsvm
    if isinstance(want, int):
        with pytest.raises(DataError, match=rf", line {want}, column \d+: found "):
            read(path)
    else:
        assert as_lists(read(path)) == want


@pytest.mark.fuzz
@given(st.booleans().flatmap(lambda f: st.tuples(contents(f), st.just(f))))
def test_agrees_with_the_slow_parser(tmp_path_factory, drawn):
    _agrees(tmp_path_factory.mktemp("svm") / "t", *drawn)


@pytest.mark.fuzz
@given(
    st.booleans().flatmap(lambda f: st.tuples(contents(f), st.just(f))),
    st.lists(
        st.tuples(st.integers(0, 10**6), st.characters(max_codepoint=255)), min_size=1, max_size=5
    ),
)
@example((GOOD, False), [(3, "\n")])
def test_damaged_text_ends_in_a_line_number_or_the_same_rows(tmp_path_factory, drawn, damage):
    content, with_fields = drawn
    characters = list(content)
    for at, character in damage:
        if characters:
            characters[at % len(characters)] = character
    content = "".join(characters)
    if "qid:" not in content:  # the slow parser knows no queries
        _agrees(tmp_path_factory.mktemp("svm") / "t", content, with_fields)


@pytest.mark.fuzz
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_end_in_rows_or_a_data_error(tmp_path_factory, content, with_fields):
    path = tmp_path_factory.mktemp("svm") / "t"
    path.write_bytes(content)
    for read in (read_libsvm, read_libffm):
        try:
            rows = read(path)
        except DataError:
            continue
        assert rows.validate().max_id >= -1


# Batches


@pytest.mark.parametrize("chunk", [1, 7, 50, 10_000])
@pytest.mark.parametrize("batch_rows", [1, 2, 3, 1000])
def test_batches_equal_the_whole(write, monkeypatch, chunk, batch_rows):
    content = GOOD + "\n" + "1 0:1 2:1\n" * 20 + "1 " + "5:2.5 " * 30 + "\n" + GOOD
    path = write(content)
    whole = read_libsvm(path)
    monkeypatch.setattr(text, "CHUNK_BYTES", chunk)
    batches = list(iter_libsvm(path, batch_rows))
    assert [len(b) for b in batches[:-1]] == [batch_rows] * (len(batches) - 1)
    same(Rows.concatenate(batches), whole)


def test_batches_with_fields(write, monkeypatch):
    path = write("1 0:3:0.5 1:7:1\n-1 1:2:1\n" * 30)
    monkeypatch.setattr(text, "CHUNK_BYTES", 64)
    same(Rows.concatenate(list(iter_libffm(path, 7))), read_libffm(path))


def test_batches_know_the_line(write, monkeypatch):
    monkeypatch.setattr(text, "CHUNK_BYTES", 16)
    path = write("1 1:1\n\n" * 100 + "1 x:1\n")
    batches = iter_libsvm(path, 10)
    assert len(next(batches)) == 10
    with pytest.raises(DataError, match="line 201, column 3: found 'x:1'"):
        list(batches)


def test_batch_rows_must_be_positive(write):
    with pytest.raises(ValueError, match="batch_rows"):
        next(iter_libsvm(write(GOOD), 0))


def test_frappe_survives_a_round_trip(real_data, tmp_path):
    path = real_data("frappe") / "frappe.test.libfm"
    rows = read_libsvm(path)
    assert len(rows) == 28_860
    assert rows.row_length == 10
    X, y = load_svmlight_file(io.BytesIO(path.read_bytes()), zero_based=True, n_features=5382)
    assert (rows.ids == X.indices).all()
    assert (rows.targets == y).all()
    write_libsvm(tmp_path / "t", rows)
    assert (tmp_path / "t").read_bytes() == path.read_bytes()
