"""Traces as a tree that ArviZ reads."""

import numpy as np
import pytest

import crossfm as cf
from crossfm.errors import MissingExtraError
from crossfm.estimators import _arviz

ROWS = {"user": [1, 2, 3, 1, 2, 3] * 10, "item": [1, 1, 2, 2, 3, 3] * 10, "day": [1, 2] * 30}
Y = np.arange(60) % 5 - 2.0


def fitted(make=cf.FMRegressor, **sampling):
    model = make(solver="mcmc", n_factors=2, n_epochs=20, random_state=0)
    return model.set_params(sampling=cf.Sampling(**sampling)).fit(ROWS, Y)


def make_long(n_chains):
    model = cf.FMRegressor(solver="mcmc", n_factors=2, n_epochs=120, random_state=0)
    return model.set_params(sampling=cf.Sampling(burn_in=20, n_chains=n_chains)).fit(ROWS, Y)


def test_every_trace_with_its_names():
    pytest.importorskip("arviz_base")
    model = fitted(n_chains=3, burn_in=5)
    tree, traces = model.to_arviz(), model.traces_
    for group, sweeps in (("posterior", slice(5, None)), ("warmup_posterior", slice(0, 5))):
        found = tree[group].dataset
        assert set(found.data_vars) == set(traces)
        assert found["noise"].dims == ("chain", "draw")
        assert found["factor_mean"].dims == ("chain", "draw", "group", "factor")
        for name, trace in traces.items():
            np.testing.assert_array_equal(found[name].values, trace[:, sweeps])
        items = found["linear_precision"].sel(group="item").values
        np.testing.assert_array_equal(items, traces["linear_precision"][:, sweeps, 1])
    assert tree["posterior"].attrs["inference_library"] == "crossfm"


@pytest.mark.parametrize("n_chains", [2, 3])
def test_arviz_finds_the_same_diagnostics(n_chains):
    """R-hat is the same figure; of effective sizes ArviZ cuts the sum of lags a little later."""
    pytest.importorskip("arviz_base", reason="the tree needs arviz-base: 'crossfm[arviz]'")
    az = pytest.importorskip("arviz_stats", reason="ArviZ's figures need arviz-stats[xarray]")
    model = make_long(n_chains)
    tree, ours = model.to_arviz(), model.diagnostics_
    r_hat, size = az.rhat(tree), az.ess(tree, method="bulk")
    assert set(az.summary(tree).columns) >= {"mean", "sd", "r_hat", "ess_bulk"}
    for name, figures in ours.items():
        np.testing.assert_allclose(figures["r_hat"], r_hat[name].values, rtol=1e-9)
        np.testing.assert_allclose(figures["effective_sample_size"], size[name].values, rtol=0.15)


def test_groups_of_several_fields_and_of_none():
    pytest.importorskip("arviz_base")
    grouped = fitted(groups={"user": "who", "day": "who"}).to_arviz()
    assert grouped["posterior"]["group"].values.tolist() == ["user+day", "item"]
    assert fitted(groups="one").to_arviz()["posterior"]["group"].values.tolist() == ["0"]
    matrix = cf.FMRegressor(solver="mcmc", n_epochs=5, sampling=cf.Sampling(burn_in=0))
    tree = matrix.fit(np.eye(4), [1.0, 2.0, 3.0, 5.0]).to_arviz()
    assert "warmup_posterior" not in tree.children
    assert tree["posterior"]["noise"].shape == (1, 5)


def test_cutpoints():
    pytest.importorskip("arviz_base")
    model = cf.OrdinalFMRegressor(n_factors=1, n_epochs=10, random_state=0).fit(ROWS, Y)
    assert model.to_arviz()["posterior"]["cutpoints"].dims == ("chain", "draw", "cutpoint")


def test_without_draws_or_without_the_package(monkeypatch):
    als = cf.FMRegressor(solver="als", n_epochs=3).fit(ROWS, Y)
    with pytest.raises(AttributeError, match="to_arviz needs draws"):
        als.to_arviz()
    with pytest.raises(AttributeError, match="before it is fitted"):
        cf.FMRegressor(solver="mcmc").to_arviz()
    monkeypatch.setattr(
        _arviz, "require", lambda module, extra: cf.errors.require("no_such", extra)
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'crossfm\[arviz\]'"):
        fitted().to_arviz()
