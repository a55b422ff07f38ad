"""Sweeps by PyTorch against those of the core: the same chain, up to rounding."""

from __future__ import annotations

import numpy as np
import pytest

from crossfm import FMClassifier, FMRegressor, OrdinalFMRegressor, Sampling
from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.solvers.sweeps import Block, Chain, SweepOptions

torch = pytest.importorskip("torch")

from crossfm.nn.sweeper import DeviceSweeper  # noqa: E402

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
by_device = pytest.mark.parametrize("device", DEVICES)


def on(device):
    return lambda **design: DeviceSweeper(device, **design)


def problem(seed=0, *, values=False, weights=False, n=400, classes=0):
    """Three fields of 20, 12 and 5 features, the last of which some rows lack."""
    rng = np.random.default_rng(seed)
    sizes, field_of = (20, 12, 5), np.repeat(np.arange(3), (20, 12, 5)).astype(np.int32)
    ids = np.stack([rng.integers(0, s, n) for s in sizes], 1) + np.array([0, 20, 32])
    there = np.ones((n, 3), bool)
    there[:, 2] = rng.random(n) < 0.7
    w, v = rng.normal(size=37), rng.normal(size=(37, 2))
    z = (w[ids] * there).sum(1) + ((v[ids] * there[..., None]).sum(1) ** 2).sum(1) / 4
    targets = z + rng.normal(size=n) * 0.3
    if classes:
        targets = np.digitize(targets, np.quantile(targets, np.arange(1, classes) / classes))
    x = rng.uniform(0.5, 1.5, there.sum()) if values else None
    rows = Rows(
        ids[there], x, np.r_[0, np.cumsum(there.sum(1))], targets=targets.astype(np.float32),
        weights=rng.uniform(0.2, 2, n) if weights else None,
    )  # fmt: skip
    return rows, field_of


@by_device
@pytest.mark.parametrize("method", ["mcmc", "als"])
@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("k", [0, 3])
def test_the_chain_is_that_of_the_core(device, method, values, weights, k):
    rows, field_of = problem(values=values, weights=weights)
    options = SweepOptions(method, n_factors=k, seed=3)
    group_of = field_of % 2
    chains = [
        Chain(rows, 37, field_of, options, group_of, **more)
        for more in ({}, {"sweeper": on(device)})
    ]
    for _ in range(5):
        for chain in chains:
            chain.step()
        core, ours = chains
        np.testing.assert_allclose(ours.parameters(), core.parameters(), 1e-3, 1e-4)
        np.testing.assert_allclose(ours.residual, core.residual, 1e-3, 1e-3)
        assert ours.noise == pytest.approx(core.noise, rel=1e-4)
        np.testing.assert_allclose(ours.mean, core.mean, 1e-3, 1e-4)
    assert np.ptp(core.parameters()) > 0.5
    ours._refresh()
    kept = ours.residual.copy()
    core._refresh()
    np.testing.assert_allclose(kept, core.residual, 1e-3, 1e-3)


@by_device
@pytest.mark.parametrize(("likelihood", "classes"), [("probit", 2), ("ordinal", 4)])
def test_latent_targets(device, likelihood, classes):
    rows, field_of = problem(1, classes=classes)
    options = SweepOptions("mcmc", likelihood, n_factors=2, n_levels=classes, seed=1)
    core, ours = (
        Chain(rows, 37, field_of, options, **more) for more in ({}, {"sweeper": on(device)})
    )
    for _ in range(4):
        core.step()
        ours.step()
    np.testing.assert_allclose(ours.parameters(), core.parameters(), 1e-2, 1e-3)


@by_device
def test_estimators_sweep_on_a_device(device, monkeypatch):
    rng = np.random.default_rng(0)
    log = {"user": rng.integers(0, 12, 300), "film": rng.integers(0, 9, 300)}
    y = 1.0 + (log["user"] + log["film"]) // 5
    calls = []
    before = DeviceSweeper.sweep

    def counted(self, **given):
        calls.append(self.device.type)
        before(self, **given)

    monkeypatch.setattr(DeviceSweeper, "sweep", counted)
    name = f"{device}:0"  # "cpu" itself is the core
    for kind, target in (
        (FMRegressor(2, solver="mcmc"), y),
        (FMRegressor(2, solver="als"), y),
        (FMClassifier(2, solver="mcmc"), y > 3),
        (OrdinalFMRegressor(2), y),
    ):
        kind.set_params(n_epochs=10, random_state=0)
        want = kind.set_params(sampling=Sampling()).fit(log, target).predict(log)
        assert not calls
        got = kind.set_params(sampling=Sampling(device=name)).fit(log, target).predict(log)
        assert calls == [device] * 10
        calls.clear()
        np.testing.assert_allclose(got, want, 0.01, 0.01)


def test_what_no_device_does_is_refused():
    rng = np.random.default_rng(0)
    frame = {"user": rng.integers(0, 5, 50), "tags": [["a", "b"], ["b"]] * 25}
    y = rng.normal(size=50)
    with pytest.raises(DataError, match=r"bags.*relation.*'cpu'"):
        FMRegressor(2, solver="mcmc", sampling=Sampling(device="cpu:0")).fit(frame, y)
    frame.pop("tags")
    with pytest.raises(DataError, match="'vb' runs on the CPU"):
        FMRegressor(2, solver="vb", sampling=Sampling(device="cpu:0")).fit(frame, y)
    for name in ("warp", "cuda:77"):
        with pytest.raises(DataError, match=f"device is '{name}'.*not to be had here"):
            FMRegressor(2, solver="als", sampling=Sampling(device=name)).fit(frame, y)
    rows = Rows(np.zeros((4, 1), np.int32), targets=np.arange(4.0))
    block = Block(Rows(np.ones((2, 1), np.int32)), np.array([0, 1, 0, 1], np.int32))
    with pytest.raises(DataError, match="relation"):
        Chain(rows, 2, None, SweepOptions(), blocks=[block], sweeper=on("cpu"))
