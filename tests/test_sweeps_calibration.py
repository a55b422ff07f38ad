"""The sampler draws from the posterior: ranks of the truth among draws are uniform.

Simulation-based calibration (Talts et al. 2018): parameters from the prior, data from them, a chain
on the data. The rank of a parameter among its draws is then uniform, if the chain samples what it
should; errors in a conditional, a prior or a latent show as a slope or a hump.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from crossfm.data.rows import Rows
from crossfm.solvers.sweeps import Block, Chain, Priors, SweepOptions
from crossfm.solvers.sweeps.latents import Cutpoints, _from_line

PRIORS = Priors(shape=20.0, rate=20.0, strength=2.0, mean=0.2, bias=4.0)
FIELD_OF = np.repeat([0, 1, 2], [3, 4, 4]).astype(np.int32)
GROUPS = FIELD_OF
K, N, DRAWS, THIN, BURN = 2, 60, 49, 60, 300
BINS = 10


def prior_draw(rng):
    """Hyperparameters and parameters from the priors."""
    p = PRIORS
    precision = rng.gamma(p.shape / 2, 2 / p.rate, (1 + K, 3))
    mean = p.mean + rng.normal(size=(1 + K, 3)) / np.sqrt(p.strength * precision)
    theta = mean[:, GROUPS] + rng.normal(size=(1 + K, 11)) / np.sqrt(precision[:, GROUPS])
    bias, noise = rng.normal() / np.sqrt(p.bias), rng.gamma(p.shape / 2, 2 / p.rate)
    return precision, mean, theta, bias, noise


def simulated(rng):
    """A user, an item with gaps and values, and a bag of the user's; the bag as a block too."""
    user = rng.integers(0, 3, N)
    item, x = rng.integers(3, 7, N), rng.uniform(0.5, 1.5, N)
    bags = [[7, 8], [9], [8, 9, 10]]
    ids = [np.r_[u, i, bags[u]] for u, i in zip(user, item, strict=True)]
    values = [np.r_[1.0, v, np.ones(len(bags[u]))] for u, v in zip(user, x, strict=True)]
    flat = Rows(np.concatenate(ids).astype(np.int32), np.concatenate(values).astype(np.float32),
                np.r_[0, np.cumsum([len(i) for i in ids])])  # fmt: skip
    main = Rows(np.stack([user, item], 1).astype(np.int32),
                np.stack([np.ones(N), x], 1).astype(np.float32).ravel())  # fmt: skip
    table = Rows(np.concatenate(bags).astype(np.int32), None, np.r_[0, 2, 3, 6])
    return flat, main, Block(table, user.astype(np.int32))


def scores(flat, theta, bias, across):
    x = np.zeros((len(flat), 11))
    np.add.at(x, (np.repeat(np.arange(len(flat)), flat.row_lengths()), flat.ids), flat.values)
    meets = (FIELD_OF[:, None] != FIELD_OF) if across else ~np.eye(11, dtype=bool)
    xv = x[None] * theta[1:, None]
    return bias + x @ theta[0] + 0.5 * np.einsum("fri,ij,frj->r", xv, meets.astype(float), xv)


def watched(t, precision, mean, score, rest):
    """Numbers of a draw that no sign and no order of the factors turns."""
    w, v = t[0], t[1:]
    return [
        w[0], w[4], w[8], v[:, 0] @ v[:, 4], v[:, 2] @ v[:, 9], np.abs(v).sum(), (v * v).sum(),
        np.log(precision[0, 1]), mean[0, 0], np.square(mean[1:, 1]).sum(),
        np.log(precision[1:]).sum(), score, *rest,
    ]  # fmt: skip


def p_values(likelihood, across, as_block, trials, seed=0, moves="newton"):
    """Of the ranks of `watched` being uniform."""
    rng = np.random.default_rng(seed)
    ranks = []
    for trial in range(trials):
        precision, mean, theta, bias, noise = prior_draw(rng)
        flat, main, block = simulated(rng)
        if likelihood == "ordinal":
            bias, limits = 0.0, _from_line(rng.normal(size=2) * Cutpoints.WIDTH)
        truth = scores(flat, theta, bias, across)
        if likelihood == "normal":
            y, rest = truth + rng.normal(size=N) / np.sqrt(noise), [bias, np.log(noise)]
        elif likelihood == "probit":
            y, rest = truth + rng.normal(size=N) > 0, [bias]
        else:
            y, rest = np.searchsorted(limits, truth + rng.normal(size=N)), list(limits)
        true = watched(theta, precision, mean, truth[0], rest)
        rows = (main if as_block else flat).replace(targets=np.asarray(y, np.float32))
        o = SweepOptions(n_factors=K, likelihood=likelihood, priors=PRIORS, seed=trial, n_levels=3,
                         cutpoint_moves=moves,
                         interactions="across_fields" if across else "all")  # fmt: skip
        chain = Chain(rows, 11, FIELD_OF, o, GROUPS, [block] if as_block else ())
        found = []
        for step in range(BURN + DRAWS * THIN):
            chain.step()
            if step >= BURN and step % THIN == 0:
                t = chain.parameters().astype(float)
                rest = [] if chain.cutpoints is None else list(chain.cutpoints.inner)
                rest = {"normal": [chain.bias, np.log(chain.noise)], "probit": [chain.bias]}.get(
                    likelihood, rest
                )
                score = scores(flat[:1], t, chain.bias, across)[0]
                found.append(watched(t, chain.precision, chain.mean, score, rest))
        ranks.append((np.array(found) < np.array(true)).sum(0))
    counts = [
        np.bincount(rank * BINS // (DRAWS + 1), minlength=BINS) for rank in np.transpose(ranks)
    ]
    return np.array([stats.chisquare(count).pvalue for count in counts])


CASES = [
    ("normal", False, False, "newton"),
    ("normal", True, True, "newton"),
    ("probit", True, False, "newton"),
    ("ordinal", False, True, "newton"),
    ("ordinal", True, False, "walk"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("likelihood", "across", "as_block", "moves"), CASES)
def test_ranks_are_uniform(likelihood, across, as_block, moves, monkeypatch):
    monkeypatch.setattr(Cutpoints, "WIDTH", 0.7)
    found = p_values(likelihood, across, as_block, trials=150, seed=1, moves=moves)
    assert found.min() > 0.01 / len(found), found
    assert np.median(found) > 0.05, found
