"""Relation blocks in estimators: as the table left-joined to X, at the cost of its own rows."""

import numpy as np
import pandas as pd
import pytest

import crossfm as cf
from crossfm.data.relations import Relations
from crossfm.errors import DataError, ModelFileError, SchemaError

SOLVERS = ["mcmc", "als", "vb"]


def problem(seed=0, n=2000):
    """A log of (user, film); a table of users with an age, a job and what they have seen; films."""
    rng = np.random.default_rng(seed)
    users = pd.DataFrame(
        {
            "user": [f"u{i}" for i in range(40)],
            "age": rng.normal(40, 10, 40),
            "job": rng.choice(["baker", "clerk", "diver"], 40),
            "seen": [list(rng.choice(25, rng.integers(1, 6), replace=False)) for _ in range(40)],
        }
    )
    films = pd.DataFrame(
        {"film": np.arange(25), "year": rng.integers(1950, 2000, 25).astype(float)}
    )
    log = pd.DataFrame(
        {"user": users["user"].to_numpy()[rng.integers(0, 40, n)], "film": rng.integers(0, 25, n)}
    )
    whole = log.join(users.set_index("user"), on="user").join(films.set_index("film"), on="film")
    y = (whole["age"] - 40) / 10 * np.where(whole["year"] > 1975, 1, -1) + rng.normal(size=n) / 2
    return log, y.to_numpy(), users, films, whole


def blocks_of(users, films):
    return [cf.RelationBlock(users, key="user"), cf.RelationBlock(films, key="film")]


def fitted(solver="als", make=cf.FMRegressor, **more):
    log, y, users, films, _whole = problem()
    options = {"solver": solver, "n_factors": 3, "n_epochs": 8, "random_state": 1, **more}
    model = make(**options).fit(log, y, blocks=blocks_of(users, films))
    return model, options


# --- blocks are the joined table ------------------------------------------------------------------


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_fit_with_blocks_is_the_fit_of_the_joined_table(solver, interactions):
    log, y, _, _, whole = problem()
    model, options = fitted(solver, interactions=interactions)
    flat = cf.FMRegressor(schema=model.schema_, **options).fit(whole, y)
    assert flat.schema_ == model.schema_
    # Sums in another order; what that comes to grows with the sweeps.
    np.testing.assert_allclose(model.predict(log), flat.predict(whole), atol=1e-3)
    np.testing.assert_allclose(model.traces_["noise"], flat.traces_["noise"], rtol=1e-3)
    assert model.score(log, y) > 0.7  # the age alone explains nothing


def test_probabilities_and_ratings_too():
    log, y, users, films, whole = problem()
    options = {"n_factors": 3, "n_epochs": 8, "random_state": 1}
    for make, target in (
        (lambda **more: cf.FMClassifier(solver="mcmc", **more), y > 0),
        (cf.OrdinalFMRegressor, np.clip(np.round(y), -2, 2)),
    ):
        model = make(**options).fit(log, target, blocks=blocks_of(users, films))
        flat = make(schema=model.schema_, **options).fit(whole, target)
        np.testing.assert_allclose(model.predict_proba(log), flat.predict_proba(whole), atol=1e-3)


@pytest.mark.parametrize("solver", ["mcmc", "vb"])
def test_deviations_and_quantiles(solver):
    log, y, _, _, whole = problem()
    model, options = fitted(solver)
    flat = cf.FMRegressor(schema=model.schema_, **options).fit(whole, y)
    for found, expected in zip(
        model.predict(log, return_std=True), flat.predict(whole, return_std=True), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(
        model.predict_interval(log[:50]), flat.predict_interval(whole[:50]), atol=1e-3
    )


def test_the_model_reads_the_joined_table():
    log, _, _, _, whole = problem()
    model, _ = fitted("mcmc")
    scores = model.model_.score(model.schema_.transform(whole))
    np.testing.assert_allclose(scores, model.predict(log), atol=1e-5)
    row = model.explain(log[:1])
    assert row.score == pytest.approx(float(model.predict(log[:1])[0]), abs=1e-4)
    assert {"age", "job", "seen", "year"} <= set(row.fields)


def test_a_key_of_another_name():
    log, y, users, films, _whole = problem()
    renamed = users.rename(columns={"user": "id"})
    options = {"solver": "als", "n_factors": 3, "n_epochs": 8, "random_state": 1}
    model = cf.FMRegressor(**options)
    model.fit(log, y, blocks=[cf.RelationBlock(renamed, key="id", on="user"),
                              cf.RelationBlock(films, key="film")])  # fmt: skip
    other, _ = fitted()
    np.testing.assert_array_equal(model.predict(log), other.predict(log))


def test_a_key_that_is_no_field():
    log, y, users, _, _ = problem()
    schema = cf.Schema([cf.Categorical("film")])
    model = cf.FMRegressor(solver="als", n_factors=2, n_epochs=5, schema=schema, random_state=0)
    model.fit(log, y, blocks=cf.RelationBlock(users, key="user"))
    assert model.schema_.field_names == ["film", "age", "job", "seen"]
    assert model.feature_names_in_.tolist() == ["film", "user"]
    assert model.n_features_in_ == 2
    assert np.unique(model.predict(log[log["film"] == 3])).size > 10


# --- keys that the table lacks, new tables --------------------------------------------------------


def test_an_unknown_key_is_a_row_without_a_partner():
    model, _ = fitted("als")
    _, _, _users, _, whole = problem()
    found = model.predict({"user": ["u3", "nobody", None], "film": [4, 4, 4]})
    nothing = whole[:1].assign(user="nobody", age=np.nan, job=None, film=4)
    nothing["seen"] = pd.Series([None], index=nothing.index, dtype=object)
    nothing["year"] = float(whole.loc[whole["film"] == 4, "year"].iloc[0])
    expected = model.model_.score(model.schema_.transform(nothing))
    np.testing.assert_allclose(found[1:], [expected[0], expected[0]], atol=1e-5)
    assert found[0] != pytest.approx(found[1])


def test_units_are_added_and_replaced():
    model, _ = fitted("mcmc")
    _, _, users, _, _ = problem()
    rows = {"user": ["u3", "new", "u5"], "film": [4, 4, 4]}
    before = model.predict(rows)
    fresh = pd.concat([users[users["user"] == "u7"].assign(user=name) for name in ("new", "u5")])
    assert model.update_blocks(cf.RelationBlock(fresh, key="user")) is model
    after = model.predict(rows)
    assert after[0] == before[0]
    assert (after[1:] != before[1:]).all()
    joined = users[users["user"] == "u7"].assign(user="new", film=4)
    joined["year"] = problem()[3]["year"].to_numpy()[4]
    flat = model.model_.score(model.schema_.transform(joined))
    assert after[1] == pytest.approx(float(flat[0]), abs=1e-4)


def test_going_on_with_more_units():
    log, y, users, films, whole = problem()
    first = log["user"].isin(users["user"][:30]).to_numpy()
    options = {"solver": "als", "n_factors": 3, "n_epochs": 6, "random_state": 1}
    model = cf.FMRegressor(warm_start=True, **options)
    model.fit(log[first], y[first], blocks=blocks_of(users[:30], films))
    grown = users.copy()
    grown.loc[35, "job"] = "tailor"
    n = model.schema_.n_features_
    model.fit(log, y, blocks=cf.RelationBlock(grown, key="user"))
    assert "job=tailor" in model.schema_.feature_names(np.arange(n, model.schema_.n_features_))
    assert model.score(log, y) > 0.7
    joined = whole.copy()
    joined.loc[joined["user"] == "u35", "job"] = "tailor"
    flat = model.model_.score(model.schema_.transform(joined))
    np.testing.assert_allclose(flat, model.predict(log), atol=1e-5)


# --- forms of input, files ------------------------------------------------------------------------


def test_files_batches_and_parts(tmp_path):
    log, _y, _, _, _ = problem()
    model, _ = fitted("mcmc")
    expected = model.predict(log)
    log.to_csv(tmp_path / "log.csv", index=False)
    log.to_parquet(tmp_path / "log.parquet")
    for form in (tmp_path / "log.csv", tmp_path / "log.parquet", iter([log[:700], log[700:]])):
        np.testing.assert_allclose(model.predict(form), expected, atol=1e-6)
    np.testing.assert_allclose(
        np.concatenate([model.predict(log[i : i + 1]) for i in range(5)]), expected[:5], atol=1e-6
    )
    assert model.predict(log[:0]).shape == (0,)


def test_blocks_from_files_and_rows_in_batches(tmp_path):
    log, y, users, films, _ = problem()
    films.to_csv(tmp_path / "films.csv", index=False)
    users.to_parquet(tmp_path / "users.parquet")
    model = cf.FMRegressor(solver="als", n_factors=3, n_epochs=8, random_state=1)
    model.fit(
        [(log[:1200], y[:1200]), (log[1200:], y[1200:])],
        blocks=blocks_of(tmp_path / "users.parquet", tmp_path / "films.csv"),
    )
    assert model.score(log, y) > 0.7


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_file_keeps_the_blocks(solver, tmp_path):
    log, y, users, films, _ = problem()
    model, _options = fitted(solver)
    model.save(tmp_path / "model.crossfm")
    loaded = cf.load(tmp_path / "model.crossfm")
    np.testing.assert_array_equal(loaded.predict(log), model.predict(log))
    assert loaded.feature_names_in_.tolist() == ["user", "film"]
    new = {"user": ["u3", "nobody"], "film": [4, 4]}
    np.testing.assert_array_equal(loaded.predict(new), model.predict(new))
    again = loaded.fit(log, y, blocks=blocks_of(users, films))  # fields are those of X alone
    np.testing.assert_array_equal(again.predict(log), model.predict(log))


def test_a_broken_file(tmp_path, monkeypatch):
    model, _ = fitted("als")
    broken = model._features.relations.to_bytes()
    for data in (b"nothing", broken[:-7], broken.replace(b"0.keys", b"0.kexs")):
        monkeypatch.setattr(Relations, "to_bytes", lambda self, data=data: data)
        model.save(tmp_path / "model.crossfm")
        with pytest.raises(ModelFileError, match="broken description"):
            cf.load(tmp_path / "model.crossfm")


def test_validation_and_weights():
    log, y, users, films, whole = problem()
    options = {"solver": "als", "n_factors": 3, "n_epochs": 8, "random_state": 1}
    weight = np.where(np.arange(len(y)) % 5 == 0, 0.0, 1.0 + np.arange(len(y)) % 3)
    model = cf.FMRegressor(**options).fit(
        log, y, sample_weight=weight, eval_set=(log[:300], y[:300]), blocks=blocks_of(users, films)
    )
    flat = cf.FMRegressor(schema=model.schema_, **options).fit(
        whole, y, sample_weight=weight, eval_set=(whole[:300], y[:300])
    )
    np.testing.assert_allclose(
        [epoch["rmse"] for epoch in model.history_], [epoch["rmse"] for epoch in flat.history_],
        rtol=1e-3,
    )  # fmt: skip
    np.testing.assert_allclose(model.predict(log), flat.predict(whole), atol=1e-3)


@pytest.mark.parametrize("n_jobs", [2, 4])
def test_threads_make_no_difference(n_jobs):
    log = problem()[0]
    one, two = (fitted("mcmc", n_jobs=n)[0] for n in (1, n_jobs))
    np.testing.assert_array_equal(one.predict(log), two.predict(log))


# --- what does not go -----------------------------------------------------------------------------


def refuse(match, error=SchemaError, blocks=None, make=None, X=None):
    log, y, users, films, _ = problem(n=200)
    model = make or cf.FMRegressor(solver="mcmc", n_epochs=3)
    with pytest.raises(error, match=match):
        model.fit(
            log if X is None else X, y, blocks=blocks_of(users, films) if blocks is None else blocks
        )


def test_refusals():
    log, _, users, _films, _ = problem(n=200)
    block = cf.RelationBlock
    refuse("join their columns to X", DataError, make=cf.FMRegressor())
    refuse("no column 'usr'; did you mean|no column 'usr'. Did you mean 'user'",
           blocks=block(users, key="usr"))  # fmt: skip
    refuse("X, in which relation blocks are looked up, has no column 'user'", X=log[["film"]])
    refuse("the field 'age' is in X and in", X=log.assign(age=np.arange(200) % 7))
    twice = pd.concat([users, users[:1]])
    refuse("user=u0 is 2 times", DataError, blocks=block(twice, key="user"))
    nobody = users.assign(user=[None, *users["user"][1:]])
    refuse("row 0 of the relation block of 'user' has no key", DataError,
           blocks=block(nobody, key="user"))  # fmt: skip
    refuse("two tables of one key", DataError, blocks=[block(users, key="user")] * 2)
    refuse("expected RelationBlock", DataError, blocks=users)
    refuse("holds a DataFrame", DataError, blocks=[users])
    refuse("a column of X, and ndarray has none", X=np.ones((200, 2)))
    refuse("the field 'age' is in the relation block of 'user' and in",
           blocks=[block(users, key="user"), block(users, key="user", on="film")])  # fmt: skip
    refuse("no rows", DataError, blocks=block(users[:0], key="user"))
    for key in ("", 3):
        with pytest.raises(SchemaError, match="expected a column's name"):
            block(users, key=key)
    with pytest.raises(SchemaError, match="expected a Schema"):
        block(users, key="user", schema=[cf.Numeric("age")])


def test_refusals_once_fitted():
    model, _ = fitted("als")
    _, _, users, _, _ = problem()
    with pytest.raises(SchemaError, match="no relation block of the key 'id'"):
        model.update_blocks(cf.RelationBlock(users.rename(columns={"user": "id"}), key="id"))
    with pytest.raises(SchemaError, match="no column 'age'"):
        model.update_blocks(cf.RelationBlock(users.drop(columns="age"), key="user"))
    with pytest.raises(SchemaError, match="no column 'film'"):
        model.predict({"user": ["u1"]})
    plain = cf.FMRegressor().fit({"a": [1, 2, 1, 2]}, [1.0, 4.0, 2.0, 2.0])
    with pytest.raises(SchemaError, match="there are none"):
        plain.update_blocks(cf.RelationBlock(users, key="user"))
