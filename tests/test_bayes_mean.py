"""Sampling(keep="mean"): the machine of the draws' mean score in the room of a few draws."""

import numpy as np
import pytest

import crossfm as cf
from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.solvers.sweeps import Block, RunningMean, sizes_of

rng = np.random.default_rng(0)
N = 1500
LOG = {
    "user": rng.integers(0, 40, N), "film": rng.integers(0, 25, N),
    "age": rng.normal(40, 10, N), "tags": [list(rng.choice(6, 2, replace=False)) for _ in range(N)],
}  # fmt: skip
TASTE, KIND = rng.normal(size=(40, 2)), rng.normal(size=(25, 2))
Y = (TASTE[LOG["user"]] * KIND[LOG["film"]]).sum(1) + LOG["age"] / 20 + 0.3 * rng.normal(size=N)
SCHEMA = cf.Schema(
    [cf.Categorical("user"), cf.Categorical("film"), cf.Numeric("age"), cf.Bag("tags")]
)


def fitted(keep, mean_factors=None, n_epochs=40, n_chains=1, **options):
    sampling = cf.Sampling(keep=keep, mean_factors=mean_factors, n_chains=n_chains)
    options = {"n_factors": 3, "schema": SCHEMA, "random_state": 0, **options}
    model = cf.FMRegressor(solver="mcmc", n_epochs=n_epochs, sampling=sampling, **options)
    return model.fit(LOG, Y)


# --- the mean -------------------------------------------------------------------------------------


def dense(bias, parameters):
    return bias, parameters[0].astype(float), parameters[1:].T.astype(float) @ parameters[1:]


def test_nothing_is_lost_while_there_is_room():
    rng = np.random.default_rng(1)
    draws = [(rng.normal(), rng.normal(size=(4, 9)).astype(np.float32)) for _ in range(4)]
    mean = RunningMean(9, 12, rng.uniform(0, 9, 9))
    for draw in draws:
        mean.add(*draw)
    found, parts = dense(*mean.value()), [dense(*draw) for draw in draws]
    for one, expected in zip(found, zip(*parts, strict=True), strict=True):
        np.testing.assert_allclose(one, np.mean(expected, axis=0), rtol=1e-5, atol=1e-6)


def test_what_weighs_most_is_kept():
    """Draws around two directions that all share, of which the rest of each is noise."""
    rng = np.random.default_rng(2)
    shared = rng.normal(size=(2, 50))
    sizes = rng.integers(1, 100, 50).astype(float)
    mean, total = RunningMean(50, 4, sizes), np.zeros((50, 50))
    for _ in range(100):
        turn = np.linalg.qr(rng.normal(size=(2, 2)))[0]  # no draw need have the sign of another
        v = turn @ shared + 0.1 * rng.normal(size=(2, 50))
        mean.add(0.0, np.r_[np.zeros((1, 50)), v].astype(np.float32))
        total += v.T @ v
    _, parameters = mean.value()
    assert parameters.shape == (5, 50)
    expected = total / 100
    np.testing.assert_allclose(
        parameters[1:].T @ parameters[1:] - np.diag(np.diag(expected)),
        expected - np.diag(np.diag(expected)), atol=0.2,
    )  # fmt: skip
    # As good as the best matrix of that rank, weighted, up to a little that was dropped early.
    w = np.sqrt(sizes)
    best = np.linalg.eigvalsh(w[:, None] * expected * w)
    lost = np.linalg.norm(w[:, None] * (expected - parameters[1:].T @ parameters[1:]) * w)
    assert lost < 1.05 * np.linalg.norm(best[:-4])


def test_a_feature_counts_with_its_values_in_all_rows():
    rows = Rows([0, 1, 1, 2], np.float32([1, 2, 3, 0.5]), [0, 2, 3, 4])
    table = Rows([3, 4, 4], np.float32([1, 2, 1]), [0, 2, 3])
    block = Block(table, np.array([1, 0, 1], np.int32))
    assert sizes_of(rows, [block], 6).tolist() == [1.0, 13.0, 0.25, 1.0, 6.0, 0.0]


# --- in estimators --------------------------------------------------------------------------------


@pytest.mark.parametrize("interactions", ["all", "across_fields"])
def test_predictions_are_those_of_all_draws(interactions):
    whole = fitted("all", interactions=interactions)
    mean = fitted("mean", mean_factors=36 * 3, interactions=interactions)
    np.testing.assert_allclose(mean.predict(LOG), whole.predict(LOG), atol=2e-5)
    less = fitted("mean", interactions=interactions)  # 48 of 108 factors
    assert less.model_.n_factors == 48
    gap = np.sqrt(np.mean((less.predict(LOG) - whole.predict(LOG)) ** 2))
    noise = np.sqrt(np.mean((whole.predict(LOG) - Y) ** 2))
    assert gap < 0.05 * noise
    np.testing.assert_array_equal(less.traces_["noise"], whole.traces_["noise"])
    assert less.diagnostics_.keys() == whole.diagnostics_.keys()


def test_several_chains_and_matrices():
    whole, mean = (fitted(keep, 200, 20, n_chains=2) for keep in ("all", "mean"))
    np.testing.assert_allclose(mean.predict(LOG), whole.predict(LOG), atol=2e-5)
    X = np.column_stack([LOG["age"], LOG["age"] ** 2, rng.normal(size=N)])  # shifted and scaled
    two = [
        cf.FMRegressor(solver="mcmc", n_factors=2, n_epochs=20, random_state=0,
                       sampling=cf.Sampling(keep=keep)).fit(X, Y)
        for keep in ("all", "mean")
    ]  # fmt: skip
    np.testing.assert_allclose(two[0].predict(X), two[1].predict(X), atol=1e-4)


def test_no_factors():
    whole, mean = (fitted(keep, n_factors=0) for keep in ("all", "mean"))
    np.testing.assert_allclose(mean.predict(LOG), whole.predict(LOG), atol=1e-5)


def test_a_file_keeps_it(tmp_path):
    model = fitted("mean")
    model.save(tmp_path / "mean.crossfm")
    loaded = cf.load(tmp_path / "mean.crossfm")
    np.testing.assert_array_equal(loaded.predict(LOG), model.predict(LOG))
    assert loaded.sampling == cf.Sampling(keep="mean")
    with pytest.raises(DataError, match="keep='mean' has kept none"):
        loaded.predict(LOG, return_std=True)
    fitted("all").save(tmp_path / "all.crossfm")
    sizes = [(tmp_path / f"{name}.crossfm").stat().st_size for name in ("mean", "all")]
    assert sizes[0] < sizes[1]


def test_an_interrupt_keeps_the_mean_so_far():
    model = cf.FMRegressor(solver="mcmc", n_epochs=50, random_state=0, schema=SCHEMA,
                           sampling=cf.Sampling(keep="mean"))  # fmt: skip
    model.fit(LOG, Y, progress=lambda event, told: told["epoch"] == 2)  # in the burn-in
    assert model.n_iter_ == 2
    assert np.isfinite(model.predict(LOG)).all()


def test_what_a_mean_cannot_say():
    model = fitted("mean", n_epochs=5)
    for ask in (
        lambda: model.predict(LOG, return_std=True),
        lambda: model.predict_interval(LOG),
        lambda: model.predict_quantiles(LOG, (0.5,)),
    ):
        with pytest.raises(DataError, match="keep='mean' has kept none; keep 'all', or a number"):
            ask()
    with pytest.raises(AttributeError, match="has kept no draws; model_ is their mean"):
        _ = model.draws_
    with pytest.raises(DataError, match="has kept no draw to go on from"):
        model.set_params(warm_start=True).fit(LOG, Y)


@pytest.mark.parametrize(
    ("make", "more", "match"),
    [
        (cf.FMClassifier, {"solver": "mcmc"}, "the mean of the draws' probabilities"),
        (cf.OrdinalFMRegressor, {}, "the mean of the draws' probabilities"),
        (cf.FMRegressor, {"solver": "als"}, "draws nothing that had one"),
    ],
)
def test_where_there_is_no_such_mean(make, more, match):
    model = make(n_epochs=3, sampling=cf.Sampling(keep="mean"), **more)
    with pytest.raises(DataError, match=match):
        model.fit(LOG, np.clip(np.round(Y), 0, 1))


@pytest.mark.parametrize("keep", ["means", 0, -1, 2.5, None])
def test_other_words(keep):
    with pytest.raises(DataError, match="keep"):
        fitted(keep, n_epochs=3)
    with pytest.raises(DataError, match="mean_factors"):
        fitted("mean", mean_factors=0, n_epochs=3)
