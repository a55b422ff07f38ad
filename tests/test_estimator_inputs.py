"""Every form of input to the estimators: equal data, equal models."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from backends import BACKENDS
from made_up import ratings

from crossfm import Categorical, FMClassifier, FMRegressor, Numeric, Rows, Schema
from crossfm.data.text import write_libffm, write_libsvm
from crossfm.errors import DataError, SchemaError

OPTIONS = {"n_factors": 4, "n_epochs": 3, "random_state": 0}


def same(first, second):
    """Equal to the bit."""
    assert first.n_features_in_ == second.n_features_in_
    assert first.intercept_ == second.intercept_
    np.testing.assert_array_equal(first.coef_, second.coef_)
    np.testing.assert_array_equal(first.factors_, second.factors_)


# --- frames -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_frames_of_every_library(backend):
    frame, y = ratings(200)
    columns = {name: column.tolist() for name, column in frame.items()}
    of = BACKENDS[backend](columns)
    plain = FMRegressor(**OPTIONS).fit(frame, y)
    same(FMRegressor(**OPTIONS).fit(of, y.tolist()), plain)
    np.testing.assert_array_equal(plain.predict(of), plain.predict(frame))
    assert plain.feature_names_in_.tolist() == ["user", "film"]


@pytest.mark.parametrize(
    "series", [pd.Series, pl.Series, pa.array, lambda x: pa.chunked_array([x])]
)
def test_targets_of_every_library(series):
    frame, y = ratings(100)
    same(FMRegressor(**OPTIONS).fit(frame, series(y)), FMRegressor(**OPTIONS).fit(frame, y))
    label = np.where(y > 3, "good", "bad").tolist()
    found = FMClassifier(**OPTIONS).fit(frame, series(label))
    same(found, FMClassifier(**OPTIONS).fit(frame, np.array(label)))


def test_records():
    frame, y = ratings(50)
    records = [{"user": int(u), "film": int(f)} for u, f in zip(*frame.values(), strict=True)]
    fm = FMRegressor(**OPTIONS).fit(records, y)
    same(fm, FMRegressor(**OPTIONS).fit(frame, y))
    assert fm.predict({"user": 3, "film": 4}).shape == (1,)


def test_a_target_by_name_is_no_feature():
    frame, y = ratings(200)
    whole = pd.DataFrame({**frame, "rating": y, "weight": 1.0 + (y > 3)})
    by_name = FMRegressor(**OPTIONS).fit(whole, "rating", sample_weight="weight")
    assert by_name.schema_.field_names == ["user", "film"]
    given = FMRegressor(**OPTIONS).fit(frame, y, sample_weight=whole["weight"])
    same(by_name, given)
    assert by_name.score(whole, "rating") == given.score(frame, y)
    by_eval = FMRegressor(**OPTIONS).fit(whole, "rating", eval_set=(whole, "rating"))
    assert by_eval.schema_.field_names == ["user", "film", "weight"]
    assert by_eval.history_[0]["rmse"] > 0


@pytest.mark.parametrize("y", [lambda df: df["clicked"], lambda df: df["clicked"].to_numpy(),
                               lambda df: df["clicked"].tolist()])  # fmt: skip
@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame])
def test_the_target_never_leaks_into_an_inferred_schema(library, y):
    frame, rating = ratings(200)
    df = library({**frame, "clicked": (rating > 3).astype(int)})
    target = y(df) if library is not pl.DataFrame else y(df.to_pandas())
    fm = FMClassifier(**OPTIONS).fit(df, target)
    assert fm.schema_.field_names == ["user", "film"]
    (guess,) = [g for g in fm.schema_.guesses if g.name == "clicked"]
    assert guess.kind == "left out"
    fm.predict({name: frame[name] for name in ("user", "film")})  # the target is not asked for


def test_a_schema_that_holds_the_target_is_refused():
    frame, y = ratings(50)
    df = pd.DataFrame({**frame, "rating": y})
    schema = Schema([Categorical("user"), Numeric("rating")])
    with pytest.raises(SchemaError, match="'rating' is also a field"):
        FMRegressor(schema=schema).fit(df, "rating")
    with pytest.raises(SchemaError, match="'rating' is also a field"):
        FMRegressor(schema=schema).fit(df, df["rating"])
    FMRegressor(schema=schema, **OPTIONS).fit(
        df, 2 * df["rating"] + df["user"]
    )  # of that name only


def test_a_given_schema_is_used_and_left_as_it_is():
    frame, y = ratings(100)
    schema = Schema([Categorical("film")])
    fm = FMRegressor(schema=schema, **OPTIONS).fit(frame, y)
    assert fm.schema_.field_names == ["film"]
    assert not schema.is_fitted
    fitted = Schema([Categorical("film")]).fit({"film": np.arange(500)})
    fm = FMRegressor(schema=fitted, **OPTIONS).fit(frame, y)
    assert fm.schema_.n_features_ == 501
    fm.partial_fit({"film": [1000]}, [3.0])
    assert fitted.n_features_ == 501


def test_columns_in_another_order_and_others_beside_them():
    frame, y = ratings(100)
    fm = FMRegressor(**OPTIONS).fit(frame, y)
    turned = pd.DataFrame({"x": "?", "film": frame["film"], "user": frame["user"]})
    np.testing.assert_array_equal(fm.predict(turned), fm.predict(frame))


def test_unknown_and_missing_values_are_predicted_for():
    frame, y = ratings(100)
    fm = FMRegressor(**OPTIONS).fit(frame, y)
    found = fm.predict({"user": [10**6, None], "film": [3, 3]})
    assert np.isfinite(found).all()
    assert found[0] == found[1]
    assert fm.schema_.unseen_["user"] == (1, 1)


def test_arrays_where_columns_had_names():
    X = np.random.default_rng(0).standard_normal((50, 3))
    fm = FMRegressor(**OPTIONS).fit(pd.DataFrame(X, columns=list("abc")), 2 * X[:, 0])
    with pytest.warns(UserWarning, match="was fitted with feature names"):
        found = fm.predict(X)
    np.testing.assert_array_equal(found, fm.predict(pd.DataFrame(X, columns=list("abc"))))
    with pytest.raises(DataError, match="X has 2 features, but FMRegressor is expecting 3"):
        fm.predict(X[:, :2])
    with pytest.raises(SchemaError, match="fitted on columns with names"):
        fm.predict(Rows(np.zeros((1, 3), int)))


def test_names_where_columns_had_none():
    X = np.random.default_rng(0).standard_normal((50, 3))
    fm = FMRegressor(**OPTIONS).fit(X, X[:, 0])
    with pytest.warns(UserWarning, match="fitted without feature names"):
        found = fm.predict(pd.DataFrame(X, columns=list("abc")))
    np.testing.assert_array_equal(found, fm.predict(X))
    same(FMRegressor(**OPTIONS).fit(pd.DataFrame(X), X[:, 0]), fm)  # columns 0, 1, 2: no names
    with pytest.raises(SchemaError, match="no columns by name"):
        fm.fit(X, "a")
    with pytest.raises(SchemaError, match="leave it out"):
        FMRegressor(schema=Schema([Categorical("a")])).fit(X, X[:, 0])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"usr": [1, 2], "film": [1, 2]}, "Did you mean 'usr'"),
        ({"user": [1, 2]}, "no column 'film'"),
        (pd.DataFrame([[1, 2, 3]], columns=["user", "film", "film"]), "stand more than once"),
        ({"user": [1, 2], "film": [1]}, "differ in length"),
        ({"user": [[1], [2]], "film": [1, 2]}, "user"),
    ],
)
def test_frames_that_do_not_fit(frame, message):
    train, y = ratings(50)
    fm = FMRegressor(**OPTIONS).fit(train, y)
    with pytest.raises(SchemaError, match=message):
        fm.predict(frame)


def test_empty_input():
    frame, y = ratings(50)
    with pytest.raises(DataError, match="no rows"):
        FMRegressor().fit({"user": [], "film": []}, [])
    fm = FMRegressor(**OPTIONS).fit(frame, y)
    assert fm.predict(pd.DataFrame(frame).iloc[:0]).shape == (0,)
    with pytest.raises(DataError, match="empty"):
        FMRegressor().fit(iter([]))


# --- matrices -----------------------------------------------------------------------------------


def sparse_numbers(n=300, seed=0):
    """Columns that are often and seldom zero, one-hot, shifted, empty and constant."""
    rng = np.random.default_rng(seed)
    X = np.column_stack(
        [
            rng.normal(50, 3, n),
            rng.normal(0, 100, n) * (rng.random(n) < 0.7),
            rng.poisson(20, n) * (rng.random(n) < 0.1),
            rng.random(n) < 0.2,
            rng.random(n) < 0.8,
            np.zeros(n),
            np.full(n, 7.0),
            0.1 * rng.random(n) * (rng.random(n) < 0.3),
        ]
    )
    return X, X[:, 0] + 0.1 * X[:, 1] * X[:, 3] + X[:, 2]


SPARSE = [sp.csr_array, sp.csr_matrix, sp.csc_array, sp.coo_array, sp.lil_matrix]


@pytest.mark.parametrize("form", SPARSE)
def test_sparse_is_dense(form):
    X, y = sparse_numbers()
    dense, sparse = FMRegressor(**OPTIONS).fit(X, y), FMRegressor(**OPTIONS).fit(form(X), y)
    same(dense, sparse)
    np.testing.assert_array_equal(dense.predict(X), dense.predict(form(X)))
    for fm, form_of in ((dense, form), (sparse, np.asarray)):
        fm.partial_fit(form_of(X[:50]), y[:50])
    same(dense, sparse)
    valid = (X[:100], y[:100])
    first = FMRegressor(**OPTIONS).fit(X, y, eval_set=valid)
    second = FMRegressor(**OPTIONS).fit(form(X), y, eval_set=(form(valid[0]), valid[1]))
    assert first.history_[-1]["rmse"] == second.history_[-1]["rmse"]
    same(first, second)


def test_stored_zeros_and_entries_in_parts():
    X, y = sparse_numbers()
    plain = sp.csr_array(X)
    zeros = plain.copy()
    zeros.data = np.where(np.arange(zeros.nnz) % 3 == 0, 0.0, zeros.data)
    same(FMRegressor(**OPTIONS).fit(zeros, y), FMRegressor(**OPTIONS).fit(zeros.toarray(), y))
    coo = plain.tocoo()
    halves = sp.coo_array(
        (np.tile(coo.data / 2, 2), (np.tile(coo.row, 2), np.tile(coo.col, 2))), X.shape
    )
    same(FMRegressor(**OPTIONS).fit(halves, y), FMRegressor(**OPTIONS).fit(plain, y))
    unsorted = plain.copy()
    for row in range(X.shape[0]):
        part = slice(*unsorted.indptr[row : row + 2])
        unsorted.indices[part] = unsorted.indices[part][::-1].copy()
        unsorted.data[part] = unsorted.data[part][::-1].copy()
    unsorted.has_sorted_indices = False
    unsorted.has_canonical_format = False
    before = unsorted.indices.copy()
    same(FMRegressor(**OPTIONS).fit(unsorted, y), FMRegressor(**OPTIONS).fit(plain, y))
    np.testing.assert_array_equal(unsorted.indices, before)  # the caller's matrix


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, bool])
def test_matrices_of_any_type(dtype):
    X = np.random.default_rng(0).integers(0, 2, (60, 4)).astype(dtype)
    y = X[:, 0].astype(float)
    same(FMRegressor(**OPTIONS).fit(X, y), FMRegressor(**OPTIONS).fit(X.astype(float), y))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.nan, "contains NaN: row 4, column 1"),
        (np.inf, "contains infinity .*: row 4, column 1 is inf"),
        (1e300, r"too large for dtype\('float32'\): row 4, column 1 is 1e\+300"),
    ],
)
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
def test_matrices_with_other_than_numbers(change, message, form):
    X = np.ones((9, 3))
    X[4, 1] = change
    with pytest.raises(DataError, match=message):
        FMRegressor().fit(form(X), np.arange(9.0))
    fm = FMRegressor(**OPTIONS).fit(np.eye(3), [1.0, 2.0, 3.0])
    with pytest.raises(DataError, match=message):
        fm.predict(form(X))


def test_shapes_of_matrices():
    with pytest.raises(DataError, match="Expected 2D array, got 1D array"):
        FMRegressor().fit([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(DataError, match="0 sample"):
        FMRegressor().fit(np.ones((0, 2)), [])
    fm = FMRegressor(**OPTIONS).fit(np.eye(3), [1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="X has 4 features, but FMRegressor is expecting 3"):
        fm.predict(sp.csr_array(np.eye(4)))


# --- Rows and text ------------------------------------------------------------------------------


def some_rows(n=120, fields=False, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, n)
    ids = np.concatenate([rng.choice(20, m, replace=False) for m in lengths])
    return Rows(
        ids,
        rng.integers(1, 9, len(ids)).astype(np.float32) / 4,
        np.concatenate([[0], np.cumsum(lengths)]),
        fields=(ids % 4).astype(np.int32) if fields else None,
        targets=rng.integers(0, 2, n).astype(np.float32),
    )


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
def test_text_is_rows(tmp_path, interactions):
    rows = some_rows(fields=interactions == "across_fields")
    options = OPTIONS | {"interactions": interactions}
    write = write_libffm if interactions == "across_fields" else write_libsvm
    path = tmp_path / ("log.ffm" if interactions == "across_fields" else "log.libsvm")
    write(path, rows)
    by_rows, by_path = FMClassifier(**options).fit(rows), FMClassifier(**options).fit(path)
    same(by_rows, by_path)
    assert by_path.classes_.tolist() == [0, 1]
    np.testing.assert_array_equal(by_path.predict(str(path)), by_rows.predict(rows))
    assert by_path.score(path) == by_rows.score(rows, rows.targets)
    halves = [tmp_path / ("a" + path.suffix), tmp_path / ("b" + path.suffix)]
    for part, half in zip((rows[:50], rows[50:]), halves, strict=True):
        write(half, part)
    same(FMClassifier(**options).fit(halves), by_rows)


def test_rows_with_weights_and_targets_of_their_own():
    rows = some_rows()
    weight = np.random.default_rng(1).random(len(rows)).astype(np.float32)
    same(
        FMClassifier(**OPTIONS).fit(rows.replace(weights=weight)),
        FMClassifier(**OPTIONS).fit(rows, rows.targets, sample_weight=weight),
    )
    same(
        FMRegressor(**OPTIONS).fit(rows, eval_set=rows),
        FMRegressor(**OPTIONS).fit(rows, eval_set=(rows, rows.targets)),
    )
    with pytest.raises(DataError, match="requires y"):
        FMClassifier().fit(rows.replace(targets=None))


def test_ids_beyond_the_model_add_nothing_and_are_told():
    rows = some_rows()
    fm = FMRegressor(**OPTIONS).fit(rows)
    beyond = Rows(  # 20 is the first that is not known
        np.array([3, 99, 20]), np.ones(3, np.float32), np.array([0, 2, 2, 3]), targets=np.zeros(3)
    )
    with pytest.warns(UserWarning, match="2 of 3 features have ids beyond the 20"):
        found = fm.predict(beyond)
    alone = fm.predict(Rows(np.array([3]), offsets=np.array([0, 1, 1, 1])))
    np.testing.assert_array_equal(found, alone)
    assert found[1] == found[2] == np.float32(fm.intercept_)


def test_rows_that_are_broken():
    with pytest.raises(DataError, match="row 1"):
        FMRegressor().fit(Rows(np.array([[0], [-1]])), [1.0, 2.0])
    with pytest.raises(DataError, match="field"):
        FMRegressor(interactions="across_fields").fit(some_rows())


# --- files and batches --------------------------------------------------------------------------


def write_frame(frame, path):
    table = pa.table(frame)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pa.csv.write_csv(table, path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_files_are_frames(tmp_path, suffix):
    import pyarrow.csv  # noqa: F401 - pa.csv

    frame, y = ratings(300)
    whole = {**frame, "rating": y}
    path = tmp_path / f"ratings{suffix}"
    write_frame(whole, path)
    plain = FMRegressor(**OPTIONS).fit(frame, y)
    same(FMRegressor(**OPTIONS).fit(path, "rating"), plain)
    halves = [tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"]
    for part, half in zip((slice(0, 100), slice(100, 300)), halves, strict=True):
        write_frame({name: column[part] for name, column in whole.items()}, half)
    by_parts = FMRegressor(**OPTIONS).fit(halves, "rating")
    same(by_parts, plain)
    np.testing.assert_array_equal(by_parts.predict(halves), plain.predict(frame))
    assert by_parts.score(path, "rating") == pytest.approx(plain.score(frame, y), rel=1e-9)
    with pytest.raises(DataError, match="Did you mean"):
        FMRegressor().fit(tmp_path / f"rating{suffix}", "rating")
    with pytest.raises(SchemaError, match="Did you mean 'rating'"):
        FMRegressor().fit(path, "ratnig")


def test_codes_that_look_like_numbers_stay_codes(tmp_path):
    """A column of strings is read as strings from every later file."""
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("zip,y\n01234,1\nx,2\n01234,1\n")
    second.write_text("zip,y\n01234,1\n05678,5\n")
    fm = FMRegressor(**OPTIONS).fit(first, "y")
    same_zip = fm.predict({"zip": ["01234"]})
    assert fm.predict(second)[0] == same_zip[0]
    grown = FMRegressor(**OPTIONS).partial_fit([first, second], "y")
    assert grown.schema_.feature_names() == ["zip=<unknown>", "zip=01234", "zip=x", "zip=05678"]


def test_batches_of_frames():
    frame, y = ratings(300)
    schema = Schema([Categorical("user"), Categorical("film")]).fit(frame)

    def batches():
        for low in range(0, 300, 70):
            part = slice(low, low + 70)
            yield {name: column[part] for name, column in frame.items()}, y[part]

    same(
        FMRegressor(schema=schema, **OPTIONS).fit(batches()),
        FMRegressor(schema=schema, **OPTIONS).fit(frame, y),
    )
    inferred = FMRegressor(**OPTIONS).fit(batches())  # ids in order of appearance
    assert inferred.schema_.n_features_ == schema.n_features_
    np.testing.assert_array_equal(
        inferred.predict(part for part, _ in batches()), inferred.predict(frame)
    )
    assert inferred.score(batches()) == pytest.approx(inferred.score(frame, y), rel=1e-9)
    named = ({**part, "rating": target} for part, target in batches())
    assert FMRegressor(**OPTIONS).fit(named, "rating").schema_.field_names == ["user", "film"]
    with pytest.raises(DataError, match="comes with them"):
        FMRegressor().fit(batches(), y)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
def test_batches_of_matrices(form):
    X, y = sparse_numbers()
    batches = ((form(X[low : low + 70]), y[low : low + 70], np.ones(len(y[low : low + 70])))
               for low in range(0, 300, 70))  # fmt: skip
    same(FMRegressor(**OPTIONS).fit(batches), FMRegressor(**OPTIONS).fit(X, y))
    with pytest.raises(DataError, match="columns"):
        FMRegressor().fit(iter([(form(X), y), (form(X[:, :3]), y)]))


def test_batches_of_rows():
    rows = some_rows()
    same(FMRegressor(**OPTIONS).fit(rows.batches(50)), FMRegressor(**OPTIONS).fit(rows))
