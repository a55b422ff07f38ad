"""What kept draws say of rows; convergence of chains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_sweeps import FIELD_OF, blocked, problem

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.model import FactorModel
from crossfm.solvers.sweeps import Chain, Posterior, SweepOptions, effective_sample_size, r_hat


def draws_of(chain, n_draws=4):
    kept = []
    for _ in range(n_draws):
        chain.step()
        kept.append((chain.bias, chain.parameters(), chain.noise))
    return Posterior(
        np.array([bias for bias, _, _ in kept]),
        np.stack([parameters for _, parameters, _ in kept]),
        np.array([noise for _, _, noise in kept]),
        interactions=chain.options.interactions,
        field_of=FIELD_OF,
    )


@pytest.mark.parametrize("mode", ["all", "across_fields"])
def test_scores_are_those_of_a_model_a_draw(mode):
    rows = problem(1, kinds="field values bag number")
    chain = Chain(rows, 17, FIELD_OF, SweepOptions(n_factors=3, interactions=mode), FIELD_OF)
    posterior = draws_of(chain)
    found = posterior.scores(rows, n_jobs=2)
    assert found.shape == (4, len(rows))
    for scores, bias, parameters in zip(found, posterior.biases, posterior.parameters, strict=True):
        model = FactorModel(bias, parameters[0], parameters[1:].T, mode, FIELD_OF)
        np.testing.assert_allclose(scores, model.score(rows), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        posterior.score_variances(rows), found.var(axis=0), rtol=1e-4, atol=1e-7
    )


def test_blocks_are_scored_as_their_features_in_every_row(monkeypatch):
    monkeypatch.setattr("crossfm.solvers.sweeps.posterior.BATCH", 64)  # several parts
    main, block, flat = blocked()
    chain = Chain(main, 17, FIELD_OF, SweepOptions(n_factors=2), FIELD_OF, [block])
    posterior = draws_of(chain)
    by_block, by_row = posterior.scores(main, [block]), posterior.scores(flat)
    np.testing.assert_allclose(by_block, by_row, rtol=1e-4, atol=1e-5)


def test_fields_and_blocks_in_another_order_than_ids():
    turned = np.array([2, 0, 3, 1], np.int32)[FIELD_OF]
    rows = problem(1, kinds="field values bag number")
    main, block, flat = blocked()
    chain = Chain(rows, 17, turned, SweepOptions(n_factors=2), turned)
    posterior = replace(draws_of(chain), field_of=turned)
    for part, blocks, plain in ((rows, (), rows), (main, (block,), flat)):
        found = posterior.scores(part, blocks)
        for scores, bias, p in zip(found, posterior.biases, posterior.parameters, strict=True):
            expected = FactorModel(bias, p[0], p[1:].T).score(plain)
            np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_no_rows_and_rows_without_features():
    chain = Chain(problem(1), 17, FIELD_OF, SweepOptions(n_factors=2), FIELD_OF)
    posterior = draws_of(chain)
    assert posterior.scores(Rows(np.empty((0, 1), np.int32))).shape == (4, 0)
    empty = Rows(np.empty(0, np.int32), offsets=np.zeros(3, np.int64))
    np.testing.assert_allclose(posterior.scores(empty)[:, 1], posterior.biases, rtol=1e-6)
    with pytest.raises(DataError, match="feature id 17"):
        posterior.scores(Rows(np.array([[17]])))


def test_variances_under_variational_bayes_are_the_chains():
    rows = problem(2)
    chain = Chain(rows, 17, FIELD_OF, SweepOptions("vb", n_factors=2, init_scale=0.5), FIELD_OF)
    for _ in range(5):
        chain.step()
    posterior = Posterior(
        np.array([chain.bias]), chain.parameters()[None], np.array([chain.noise]),
        interactions="all", field_of=FIELD_OF, variances=chain.parameter_variances(),
        bias_variance=chain.bias_var,
    )  # fmt: skip
    found = posterior.score_variances(rows)
    np.testing.assert_allclose(found[chain.design.order], chain.variances(), rtol=1e-4)
    with pytest.raises(DataError, match="no chains to join"):
        Posterior.joined([posterior, posterior])


def test_chains_are_joined():
    chain = Chain(problem(1), 17, FIELD_OF, SweepOptions(n_factors=2), FIELD_OF)
    one, two = draws_of(chain, 2), draws_of(chain, 3)
    both = Posterior.joined([one, two])
    assert len(both) == 5
    np.testing.assert_array_equal(both.parameters[2:], two.parameters)
    assert Posterior.joined([one]) is one


# --- convergence ----------------------------------------------------------------------------------


def autoregressive(rho, n_chains=4, n=4000, seed=0):
    rng = np.random.default_rng(seed)
    x = np.zeros((n_chains, n))
    x[:, 0] = rng.normal(size=n_chains)
    for i in range(1, n):
        x[:, i] = rho * x[:, i - 1] + np.sqrt(1 - rho**2) * rng.normal(size=n_chains)
    return x


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_effective_size_of_an_autoregression(rho):
    x = autoregressive(rho)
    expected = x.size * (1 - rho) / (1 + rho)
    assert effective_sample_size(x) == pytest.approx(expected, rel=0.15)
    assert r_hat(x) < 1.01 + 0.02 * (rho > 0.8)


def test_chains_that_disagree_are_found():
    x = autoregressive(0.0)
    assert r_hat(x + np.arange(4)[:, None]) > 1.2  # in the middle
    assert r_hat(x * np.arange(1, 5)[:, None]) > 1.1  # in the spread
    assert effective_sample_size(x + 3 * np.arange(4)[:, None]) < 20
    assert r_hat(np.linspace(0, 1, 100)) > 1.5  # one chain that has not settled


@pytest.mark.parametrize(
    ("n_chains", "n", "rho", "apart", "hat", "size"),
    [  # as arviz-stats 0.8.0 has them, R-hat by rank and the size of the bulk
        (2, 100, 0.0, 0.0, 1.0036607900643038, 221.58823011434924),
        (2, 100, 0.0, 0.5, 1.4617562407954667, 4.2724086294412045),
        (4, 200, 0.5, 0.0, 1.0087297440384868, 224.24079923108613),
        (4, 200, 0.5, 0.5, 1.8856535202001747, 6.03994292576545),
        (3, 101, 0.9, 0.0, 1.2103114249778428, 10.81823249844399),
        (2, 400, -0.4, 0.0, 0.9983549084163403, 1626.6629882375823),
    ],
)
def test_figures_are_those_of_arviz(n_chains, n, rho, apart, hat, size):
    i = np.arange(n_chains * n)  # whole numbers, the same with every version of NumPy
    x = (((i * i * 7919 + i * 104729) % 1000003) / 1000003 - 0.5).reshape(n_chains, n)
    for t in range(1, n):
        x[:, t] += rho * x[:, t - 1]
    x += apart * np.arange(n_chains)[:, None]
    assert r_hat(x) == pytest.approx(hat, rel=1e-9)
    assert effective_sample_size(x) == pytest.approx(size, rel=0.15)  # sums of lags end elsewhere


def test_draws_that_say_nothing():
    assert np.isnan(r_hat(np.ones((2, 50))))
    assert np.isnan(effective_sample_size([1.0, 2.0, 3.0]))
    with pytest.raises(DataError, match="not finite"):
        r_hat([1.0, np.nan, 2.0, 3.0])
    with pytest.raises(DataError, match="expected"):
        effective_sample_size(np.zeros((2, 2, 2)))
