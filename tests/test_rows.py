"""Rows: slices, picks and joins against plain lists; broken contents refused by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfm.data.rows import Rows, RowStats
from crossfm.errors import DataError

HIGHEST = 30


@dataclass(frozen=True)
class Plain:
    """The same rows as lists: of each row its (id, value, field) triples, target and weight."""

    features: list[list[tuple[int, float, int]]]
    targets: list[float]
    weights: list[float]


@st.composite
def drawn(draw: st.DrawFn, even: bool | None = None) -> tuple[Rows, Plain]:
    even = draw(st.booleans()) if even is None else even
    length = draw(st.integers(0, 4))
    lengths = draw(
        st.lists(st.just(length) if even else st.integers(0, 4), min_size=int(even), max_size=6)
    )
    feature = st.tuples(
        st.integers(0, HIGHEST), st.integers(-8, 8).map(lambda v: v / 4), st.integers(0, 3)
    )
    features = [draw(st.lists(feature, min_size=m, max_size=m)) for m in lengths]
    n = len(lengths)
    plain = Plain(features, [float(r) for r in range(n)], [r / 2 for r in range(n)])
    flat = [f for row in features for f in row]
    rows = Rows(
        np.array([f[0] for f in flat], draw(st.sampled_from([np.int32, np.int64]))),
        np.array([f[1] for f in flat], np.float32),
        None if even else np.cumsum([0, *lengths]),
        np.array([f[2] for f in flat], np.int32),
        np.array(plain.targets),
        np.array(plain.weights),
        n,
    )
    return rows, plain


def listed(rows: Rows) -> Plain:
    """Rows as lists, read by their documented layout."""
    n, offsets = len(rows), rows.offsets
    at = offsets.tolist() if offsets is not None else [r * rows.row_length for r in range(n + 1)]
    arrays = (rows.ids, rows.values, rows.fields)
    triples = list(zip(*(a.tolist() for a in arrays if a is not None), strict=True))
    features = [triples[at[r] : at[r + 1]] for r in range(n)]
    assert rows.targets is not None
    assert rows.weights is not None
    return Plain(features, rows.targets.tolist(), rows.weights.tolist())


def picked(plain: Plain, index: list[int]) -> Plain:
    return Plain(*([part[i] for i in index] for part in vars(plain).values()))


@given(drawn(), st.data())
def test_slices_and_picks_are_those_of_lists(pair: tuple[Rows, Plain], data: st.DataObject) -> None:
    rows, plain = pair
    n = len(rows)
    assert listed(rows) == plain
    assert rows.row_lengths().tolist() == [len(row) for row in plain.features]
    low, high = data.draw(st.integers(-n - 1, n + 1)), data.draw(st.integers(-n - 1, n + 1))
    everything = list(range(n))
    assert listed(rows[low:high]) == picked(plain, everything[low:high])
    if n:
        index = data.draw(st.lists(st.integers(0, n - 1), max_size=8))
        assert listed(rows.take(np.array(index, np.int64))) == picked(plain, index)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    assert listed(rows.take(mask)) == picked(plain, [i for i in everything if mask[i]])


@given(drawn(), st.integers(1, 7))
def test_batches_join_to_the_whole(pair: tuple[Rows, Plain], size: int) -> None:
    rows, plain = pair
    parts = list(rows.batches(size))
    assert [len(part) for part in parts] == [
        min(size, len(rows) - start) for start in range(0, len(rows), size)
    ]
    if parts:
        assert listed(Rows.concatenate(parts)) == plain


@given(drawn(), drawn())
def test_joined_rows_stand_one_below_the_other(
    first: tuple[Rows, Plain], second: tuple[Rows, Plain]
) -> None:
    joined = listed(Rows.concatenate([first[0], second[0]]))
    for name, part in vars(joined).items():
        assert part == getattr(first[1], name) + getattr(second[1], name)


@given(drawn())
def test_what_validation_finds(pair: tuple[Rows, Plain]) -> None:
    rows, plain = pair
    flat = [f for row in plain.features for f in row]

    def split_field(row: list[tuple[int, float, int]]) -> bool:
        runs = [f for i, (_, _, f) in enumerate(row) if i == 0 or row[i - 1][2] != f]
        return len(runs) > len(set(runs))

    assert rows.validate() == RowStats(
        max_id=max((f[0] for f in flat), default=-1),
        longest_row=max(map(len, plain.features), default=0),
        has_repeats=any(len({f[0] for f in row}) < len(row) for row in plain.features),
        grouped=not any(map(split_field, plain.features)),
        max_field=max((f[2] for f in flat), default=-1),
    )


def test_a_slice_is_a_view() -> None:
    rows = Rows(np.arange(12).reshape(4, 3), values=np.ones((4, 3), np.float32))
    part = rows[1:3]
    assert np.shares_memory(part.ids, rows.ids)
    assert part.values is not None
    assert rows.values is not None
    assert np.shares_memory(part.values, rows.values)


def test_other_targets_keep_what_validation_found_and_another_shape_does_not() -> None:
    rows = Rows(np.arange(12), n_rows=6)
    assert rows.validate().longest_row == 2
    assert rows.replace(targets=np.ones(6)).validate() is rows.validate()
    assert rows.replace(n_rows=2).validate().longest_row == 6
    assert rows.replace(ids=np.zeros(12, int)).validate().has_repeats


def test_a_matrix_there_and_back() -> None:
    rows = Rows(np.array([2, 0, 2]), np.array([1.0, 2.0, 3.0]), np.array([0, 2, 2, 3]))
    matrix = rows.to_csr(4)
    np.testing.assert_array_equal(matrix.toarray(), [[2, 0, 1, 0], [0, 0, 0, 0], [0, 0, 3, 0]])
    again = Rows.from_csr(matrix, targets=[1, 2, 3])
    np.testing.assert_array_equal(again.to_csr(4).toarray(), matrix.toarray())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"ids": [[0.5, 1]]}, "ids must be integers, got float64"),
        ({"ids": [[[0]]]}, "3 dimensions"),
        ({"ids": [0, 1]}, "need offsets, or n_rows"),
        ({"ids": [0, 1, 2], "n_rows": 2}, "3 ids do not divide into 2 rows"),
        ({"ids": [[0, 1]], "offsets": [0, 2]}, "two dimensions come without offsets"),
        ({"ids": [0, 1], "offsets": [0, 1]}, "offsets run from 0 to 1, expected 0 to 2"),
        ({"ids": [0, 1], "offsets": [1, 2]}, "offsets run from 1 to 2, expected 0 to 2"),
        ({"ids": [0], "offsets": []}, "expected \\[n_rows \\+ 1\\]"),
        ({"ids": [[0, 1]], "values": [1.0]}, "values have shape \\(1,\\)"),
        ({"ids": [[0, 1]], "fields": [[0]]}, "fields have shape"),
        ({"ids": [[0, 1]], "targets": [1.0, 2.0]}, "targets have shape \\(2,\\), expected \\[1\\]"),
        ({"ids": [[0, 1]], "weights": [[1.0]]}, "weights have shape"),
        ({"ids": np.array([[2**63]], np.uint64)}, "beyond 2\\^63 - 1"),
    ],
)
def test_shapes_that_do_not_fit(made: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Rows(**{name: v if name == "n_rows" else np.asarray(v) for name, v in made.items()})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"ids": [[0, 1], [2, -3]]}, "row 1: feature id -3 is negative"),
        ({"ids": [[0, 1], [2, 9]]}, "row 1: feature id 9 is out of range, the model has 5"),
        ({"ids": [[0]], "values": [[np.nan]]}, "row 0: the value of feature 0 is NaN"),
        (
            {"ids": [[0], [4]], "values": [[1], [np.inf]]},
            "row 1: the value of feature 4 is infinite",
        ),
        ({"ids": [[0, 1]], "fields": [[0, -1]]}, "row 0: field -1 is negative"),
        ({"ids": [[0]], "targets": [np.nan]}, "row 0: target is nan"),
        (
            {"ids": [[0], [1]], "weights": [1, -1]},
            "row 1: weight is -1.0, .* not negative",
        ),
        ({"ids": [0, 1, 2], "offsets": [0, 2, 1, 3]}, "row 1: offsets go from 2 to 1"),
        ({"ids": [0, 1, 2], "offsets": [0, 7, 3]}, "row 0: offsets go from 0 to 7"),
    ],
)
def test_broken_contents_are_named_by_row(made: dict[str, Any], message: str) -> None:
    rows = Rows(**{name: np.asarray(v) for name, v in made.items()})
    with pytest.raises(DataError, match=message):
        rows.validate(5)


def test_parts_that_do_not_join() -> None:
    bare, told = Rows(np.array([[0]])), Rows(np.array([[0]]), targets=np.array([1.0]))
    with pytest.raises(DataError, match="some of the parts have targets"):
        Rows.concatenate([bare, told])
    with pytest.raises(DataError, match="no rows to concatenate"):
        Rows.concatenate([])
    valued = Rows(np.array([[1]]), np.array([[2.0]]))
    values = Rows.concatenate([bare, valued]).values
    assert values is not None
    assert values.tolist() == [1.0, 2.0]
