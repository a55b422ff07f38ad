"""Sweeps against a slow reference: every coordinate of ALS and variational Bayes, one at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.solvers.sweeps import Block, Chain, SweepOptions

# --- a reference in float64, from the formula alone -----------------------------------------------


def dense(rows: Rows, n_features: int) -> np.ndarray:
    x = np.zeros((len(rows), n_features))
    row = np.repeat(np.arange(len(rows)), rows.row_lengths())
    np.add.at(x, (row, rows.ids), 1.0 if rows.values is None else rows.values)
    return x


def meeting(field_of: np.ndarray, across: bool) -> np.ndarray:
    """Which features meet: ``[n, n]``, 1 where i and j interact."""
    if across:
        return (field_of[:, None] != field_of[None, :]).astype(float)
    return 1.0 - np.eye(len(field_of))


class Reference:
    """``y = w0 + X w + 1/2 sum_f sum_ij x_i x_j v_if v_jf M_ij``, means and variances."""

    def __init__(self, x, y, weights, meets, parameters, bias, variances=None):
        self.x, self.y, self.omega, self.meets = x, y, weights, meets
        self.w, self.v = parameters[0].astype(float), parameters[1:].astype(float)
        self.bias = bias
        if variances is not None:
            self.w_var, self.v_var = variances[0].astype(float), variances[1:].astype(float)

    def score(self):
        xv = self.x[None] * self.v[:, None]  # [k, n, features]
        crossed = 0.5 * np.einsum("fri,ij,frj->r", xv, self.meets, xv)
        return self.bias + self.x @ self.w + crossed

    def slope(self, f, i):
        """d score / d theta: of the weight (f = -1) or a factor."""
        if f < 0:
            return self.x[:, i]
        return self.x[:, i] * ((self.x * self.v[f]) @ self.meets[i])

    def update(self, f, i, mean, precision, noise):
        values = self.w if f < 0 else self.v[f]
        h = self.slope(f, i)
        e = self.y - self.score()
        p = precision + noise * (self.omega * h * h).sum()
        values[i] = (precision * mean + noise * (self.omega * h * (e + values[i] * h)).sum()) / p

    def expected_update(self, f, i, mean, precision, noise):
        """The same with expectations over all other parameters, exact by two-point quadrature."""
        if f < 0:
            self.update(f, i, mean, precision, noise)
            self.w_var[i] = 1 / (precision + noise * (self.omega * self.x[:, i] ** 2).sum())
            return
        hh = np.zeros(len(self.x))
        hg = np.zeros(len(self.x))
        kept, own = self.v[f].copy(), self.v[f, i]
        for r in range(len(self.x)):
            others = [j for j in np.flatnonzero(self.x[r]) if j != i]
            one = Reference(self.x[r : r + 1], self.y[r : r + 1], None, self.meets,
                            np.vstack([self.w, self.v]), self.bias)  # fmt: skip
            for signs in itertools.product([-1.0, 1.0], repeat=len(others)):
                one.v[f] = kept
                one.v[f, others] += np.array(signs) * np.sqrt(self.v_var[f, others])
                one.v[f, i] = 0.0
                h = one.slope(f, i)[0]
                share = 0.5 ** len(others)
                hh[r] += share * h * h
                hg[r] += share * h * (self.y[r] - one.score()[0])
        self.v[f] = kept
        p = precision + noise * (self.omega * hh).sum()
        self.v[f, i] = (precision * mean + noise * (self.omega * hg).sum()) / p
        self.v_var[f, i] = 1 / p
        assert np.isfinite(own)


# --- problems with every kind of member -----------------------------------------------------------

FIELD_OF = np.repeat([0, 1, 2, 3], [4, 5, 6, 2]).astype(np.int32)  # 17 features


def problem(seed=0, n=30, weighted=True, kinds="field values bag"):
    """A one-hot field, one with values and gaps, a bag with repeated contents, a number."""
    rng = np.random.default_rng(seed)
    ids, values, offsets = [], [], [0]
    bags = [rng.choice(6, size=size, replace=False) + 9 for size in (1, 2, 3, 2)]
    for _ in range(n):
        row = [(int(rng.integers(4)), 1.0)]
        if "values" in kinds and rng.random() < 0.8:
            row.append((4 + int(rng.integers(5)), float(rng.normal())))
        if "bag" in kinds:
            row += [(int(i), 1.0) for i in bags[rng.integers(len(bags))]]
        if "number" in kinds:
            row.append((15, float(rng.normal())))
        ids += [i for i, _ in row]
        values += [x for _, x in row]
        offsets.append(len(ids))
    weights = rng.uniform(0.5, 2.0, n).astype(np.float32) if weighted else None
    return Rows(np.array(ids, np.int32), np.array(values, np.float32), np.array(offsets),
                targets=rng.normal(size=n).astype(np.float32), weights=weights)  # fmt: skip


def reference_of(chain: Chain, rows: Rows, across: bool) -> Reference:
    x = dense(rows, chain.design.n_features)
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights.astype(float)
    return Reference(x, rows.targets.astype(float), weights,
                     meeting(FIELD_OF, across), chain.parameters(), chain.bias,
                     chain.parameter_variances())  # fmt: skip


def step_reference(reference, chain, order, vb=False):
    """The chain's sweep, coordinate by coordinate, with the hyperparameters that it used."""
    for f in range(-1, chain.options.n_factors):
        for i in order:
            g = chain.design_group[i]
            numbers = chain.mean[f + 1, g], chain.precision[f + 1, g], chain.noise
            (reference.expected_update if vb else reference.update)(f, i, *numbers)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("method", ["als", "vb"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_sweep_is_every_coordinate_in_turn(across, weighted, method, threads):
    rows = problem(1, weighted=weighted, kinds="field values bag number")
    mode = "across_fields" if across else "all"
    o = SweepOptions(method, n_factors=2, interactions=mode, init_scale=0.5, l2_linear=0.3,
                     l2_factors=0.7, n_jobs=threads, seed=4)  # fmt: skip
    chain = Chain(rows, 17, FIELD_OF, o, group_of=FIELD_OF)
    chain.design_group = FIELD_OF
    for _ in range(3):
        reference = reference_of(chain, rows, across)
        chain.step()
        reference.bias = chain.bias
        step_reference(reference, chain, chain.design.feature_at, method == "vb")
        found = chain.parameters()
        np.testing.assert_allclose(found[0], reference.w, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(found[1:], reference.v, rtol=2e-4, atol=2e-5)
        residual = reference.y - reference.score()
        np.testing.assert_allclose(chain.residual, residual[chain.design.order], atol=2e-5)
        if method == "vb":
            spread = chain.parameter_variances()
            np.testing.assert_allclose(spread[0], reference.w_var, rtol=1e-4)
            np.testing.assert_allclose(spread[1:], reference.v_var, rtol=1e-4)


@pytest.mark.parametrize("method", ["als", "vb"])
def test_what_belongs_to_a_user_has_runs_of_rows(method):
    """Rows of a user come together, and what is the same in all of them is swept run by run."""
    rng = np.random.default_rng(7)
    n = 96
    user, item = rng.permutation(np.repeat(np.arange(6), 16)), rng.integers(0, 3, n)
    side, number = np.array([0, 1, 0, 0, 1, 1])[user], rng.normal(size=6)[user]
    field_of = np.repeat([0, 1, 2, 3], [6, 3, 2, 1]).astype(np.int32)
    ids = np.stack([user, 6 + item, 9 + side, np.full(n, 11)], axis=1).astype(np.int32)
    values = np.stack([np.ones(n), np.ones(n), np.ones(n), number], axis=1).astype(np.float32)
    rows = Rows(ids, values.ravel(), targets=rng.normal(size=n).astype(np.float32))
    o = SweepOptions(method, n_factors=2, init_scale=0.5, n_jobs=2, seed=3)
    chain = Chain(rows, 12, field_of, o, field_of)
    chain.design_group = field_of
    for _ in range(2):
        reference = Reference(dense(rows, 12), rows.targets.astype(float), np.ones(n),
                              meeting(field_of, False), chain.parameters(), chain.bias,
                              chain.parameter_variances())  # fmt: skip
        chain.step()
        reference.bias = chain.bias
        step_reference(reference, chain, chain.design.feature_at, method == "vb")
        found = chain.parameters()
        np.testing.assert_allclose(found[0], reference.w, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(found[1:], reference.v, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("across", [False, True])
def test_variances_of_scores(across):
    """Against the exact moments of every row, by two-point quadrature over its parameters."""
    rows = problem(2, n=8)
    o = SweepOptions("vb", n_factors=1, interactions="across_fields" if across else "all", seed=1,
                     init_scale=0.6)  # fmt: skip
    chain = Chain(rows, 17, FIELD_OF, o)
    chain.step()
    reference = reference_of(chain, rows, across)
    found = chain.variances()
    for at, r in enumerate(chain.design.order):
        there = np.flatnonzero(reference.x[r])
        crossed = []
        for signs in itertools.product([-1.0, 1.0], repeat=len(there)):
            v = reference.v[0].copy()
            v[there] += np.array(signs) * np.sqrt(reference.v_var[0, there])
            xv = reference.x[r] * v
            crossed.append(0.5 * xv @ reference.meets @ xv)
        expected = np.var(crossed) + reference.x[r] ** 2 @ reference.w_var + chain.bias_var
        assert found[at] == pytest.approx(expected, rel=1e-4)


def test_als_without_factors_is_ridge_regression():
    rows = problem(3, n=60)
    chain = Chain(rows, 17, FIELD_OF, SweepOptions("als", n_factors=0, l2_linear=0.5))
    for _ in range(3000):
        chain.step()
    x = np.hstack([np.ones((60, 1)), dense(rows, 17)])
    omega = rows.weights.astype(float)
    ridge = np.diag(np.r_[0.0, np.full(17, 0.5)])
    solution = np.linalg.solve(x.T @ (omega[:, None] * x) + ridge, x.T @ (omega * rows.targets))
    np.testing.assert_allclose(np.r_[chain.bias, chain.parameters()[0]], solution, atol=2e-5)


# --- blocks ---------------------------------------------------------------------------------------


def blocked(seed=0, n=200):
    """Rows with a user and an item; the user's own features as a block; and all of it flat."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 4, n), rng.integers(4, 9, n)
    histories = [rng.choice(6, size=s, replace=False) + 9 for s in (3, 1, 2, 4)]
    ages = rng.normal(size=4)
    about = Rows(
        np.concatenate([np.r_[h, 15] for h in histories]).astype(np.int32),
        np.concatenate([np.r_[np.full(len(h), 1 / np.sqrt(len(h))), a]
                        for h, a in zip(histories, ages, strict=True)]).astype(np.float32),
        np.r_[0, np.cumsum([len(h) + 1 for h in histories])],
    )  # fmt: skip
    y = rng.normal(size=n).astype(np.float32)
    main = Rows(np.stack([user, item], 1).astype(np.int32), targets=y)
    flat = [np.r_[u, i, about[u : u + 1].ids] for u, i in zip(user, item, strict=True)]
    x = [np.r_[1, 1, about[u : u + 1].values] for u in user]
    rows = Rows(np.concatenate(flat).astype(np.int32), np.concatenate(x).astype(np.float32),
                np.r_[0, np.cumsum([len(f) for f in flat])], targets=y)  # fmt: skip
    return main, Block(about, user.astype(np.int32)), rows


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("method", ["mcmc", "als", "vb"])
def test_a_block_is_its_features_in_every_row(method, across):
    main, block, flat = blocked()
    o = SweepOptions(method, n_factors=3, interactions="across_fields" if across else "all",
                     seed=5, init_scale=0.3)  # fmt: skip
    by_block = Chain(main, 17, FIELD_OF, o, FIELD_OF, [block])
    by_row = Chain(flat, 17, FIELD_OF, o, FIELD_OF)
    assert by_block.loss == pytest.approx(by_row.loss, rel=1e-5)
    for _ in range(3):
        by_block.step()
        by_row.step()
    # Same order of features, same random numbers: the same chain up to rounding.
    np.testing.assert_array_equal(by_block.design.feature_at, by_row.design.feature_at)
    np.testing.assert_allclose(by_block.parameters(), by_row.parameters(), rtol=5e-3, atol=5e-4)


@pytest.mark.parametrize("n_units", [4, 40])
def test_units_that_no_row_has_are_left_out(n_units):
    table = Rows(np.arange(n_units)[:, None])
    block = Block(table, np.array([3, 1, 1, 3, 2], np.int32)).used()
    assert block.rows.ids.tolist() == [1, 2, 3]
    assert block.unit_of.tolist() == [2, 0, 0, 2, 1]
    assert block.used() is block or len(block.rows) > len(block.unit_of)


def test_features_of_a_block_are_its_own():
    main, block, flat = blocked()
    with pytest.raises(DataError, match="two of the rows and relation blocks"):
        Chain(flat, 17, FIELD_OF, SweepOptions(n_factors=1), FIELD_OF, [block])
    assert len(main)


# --- the chain ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mcmc", "als", "vb"])
def test_any_number_of_threads_gives_the_same_chain(method):
    rng = np.random.default_rng(0)
    n = 40_000  # several chunks of rows
    ids = np.stack([rng.integers(0, 500, n), rng.integers(500, 600, n)], 1).astype(np.int32)
    bag = rng.integers(600, 650, (n, 2)).astype(np.int32)
    bag[:, 1] = np.where(bag[:, 0] == bag[:, 1], 649 - (bag[:, 1] == 649), bag[:, 1])
    rows = Rows(np.hstack([ids, bag]), targets=rng.normal(size=n).astype(np.float32))
    field_of = np.repeat([0, 1, 2], [500, 100, 50]).astype(np.int32)
    found = []
    for threads in (1, 2, 4):
        o = SweepOptions(method, n_factors=3, interactions="across_fields", n_jobs=threads, seed=1)
        chain = Chain(rows, 650, field_of, o, field_of)
        for _ in range(4):
            chain.step()
        found.append((chain.parameters(), chain.bias, chain.noise))
    for parameters, bias, noise in found[1:]:
        np.testing.assert_array_equal(parameters, found[0][0])
        assert (bias, noise) == found[0][1:]


def test_a_feature_twice_in_a_row_cannot_be_taken_apart():
    rows = Rows(np.array([[0, 0, 1]]), targets=[1.0])
    with pytest.raises(DataError, match="holds the same feature twice"):
        Chain(rows, 2, None, SweepOptions(n_factors=1))
    Chain(
        rows, 2, np.array([0, 1], np.int32), SweepOptions(n_factors=1, interactions="across_fields")
    ).step()


def test_residuals_stay_true():
    """After many iterations the running residuals are those of the parameters."""
    rows = problem(5, n=100)
    chain = Chain(rows, 17, FIELD_OF, SweepOptions(n_factors=2, seed=2), FIELD_OF)
    for _ in range(31):
        chain.step()
    running = chain.residual.copy()
    chain._refresh()
    np.testing.assert_allclose(running, chain.residual, atol=1e-4)


# --- the sampler against a slow one ---------------------------------------------------------------


def dense_gibbs(rows, across, precision, mean, noise, n_iterations, seed):
    """Gibbs sampling by the formula, hyperparameters fixed: means and mean squares of scores."""
    rng = np.random.default_rng(seed)
    x, k = dense(rows, 17), 2
    parameters = np.zeros((1 + k, 17))
    parameters[1:] = rng.normal(size=(k, 17)) * 0.3
    at = Reference(x, rows.targets.astype(float), np.ones(len(rows)), meeting(FIELD_OF, across),
                   parameters, 0.0)  # fmt: skip
    found = []
    for _ in range(n_iterations):
        for f in range(-1, k):
            for i in range(17):
                values = at.w if f < 0 else at.v[f]
                h = at.slope(f, i)
                p = precision + noise * h @ h
                center = (precision * mean + noise * h @ (at.y - at.score() + values[i] * h)) / p
                values[i] = center + rng.normal() / np.sqrt(p)
        found.append(at.score())
    return np.array(found)


@pytest.mark.parametrize("across", [False, True])
def test_draws_have_the_moments_of_a_slow_sampler(across, monkeypatch):
    rows = problem(6, n=25, weighted=False)
    mode = "across_fields" if across else "all"
    chain = Chain(
        rows, 17, FIELD_OF, SweepOptions(n_factors=2, interactions=mode, seed=8), FIELD_OF
    )
    for name in ("_draw_noise", "_draw_hyperparameters", "_draw_bias"):
        monkeypatch.setattr(chain, name, lambda rng: None)
    chain.precision[:], chain.mean[:], chain.noise = 3.0, 0.2, 4.0
    slow = dense_gibbs(rows, across, 3.0, 0.2, 4.0, 1500, 0)[100:]
    fast = []
    for _ in range(20_000):
        chain.step()
        fast.append(chain.residual.copy())
    fast = (chain.targets - np.array(fast[100:]))[:, np.argsort(chain.design.order)]
    # Within the error of the slow one's mean, with an autocorrelation of about ten iterations.
    error = slow.std(0) / np.sqrt(len(slow) / 10)
    assert (np.abs(slow.mean(0) - fast.mean(0)) < 4 * error).all()
    np.testing.assert_allclose(fast.std(0), slow.std(0), rtol=0.2)
