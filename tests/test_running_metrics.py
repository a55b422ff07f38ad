"""Running metrics against plain sums over all rows seen, each faded by its age."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from crossfm.metrics import RunningMetrics


def faded(n, half_life):
    return [2.0 ** (-(n - 1 - i) / half_life) for i in range(n)]


def batches(n, rng):
    edges = [0, *sorted(rng.integers(0, n, 7).tolist()), n]  # empty ones too
    return list(itertools.pairwise(edges))


@pytest.mark.parametrize("half_life", [1.0, 37.0, 1e9])
@pytest.mark.parametrize("weighted", [False, True])
def test_numbers(half_life, weighted):
    rng = np.random.default_rng(0)
    y, p = rng.normal(size=200), rng.normal(size=200)
    weight = rng.uniform(0.5, 2, 200) if weighted else None
    running = RunningMetrics(0, half_life)
    assert running.values() == {}
    for low, high in batches(200, rng):
        running.add(y[low:high], p[low:high], None if weight is None else weight[low:high])
    c = [f * (1 if weight is None else w) for f, w in
         zip(faded(200, half_life), weight if weighted else y, strict=True)]  # fmt: skip
    errors = [abs(a - b) for a, b in zip(y, p, strict=True)]
    mean = math.fsum(w * e for w, e in zip(c, errors, strict=True)) / math.fsum(c)
    square = math.fsum(w * e * e for w, e in zip(c, errors, strict=True)) / math.fsum(c)
    found = running.values()
    assert found == pytest.approx({"rmse": square**0.5, "mae": mean}, rel=1e-9)
    assert running.n_rows == 200


@pytest.mark.parametrize("half_life", [50.0, 1e9])
def test_two_classes(half_life):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 300)
    p1 = 1 / (1 + np.exp(-(rng.normal(size=300) * 2 + y)))
    running = RunningMetrics(2, half_life)
    for low, high in batches(300, rng):
        running.add(y[low:high], np.stack([1 - p1, p1], 1)[low:high])
    c = faded(300, half_life)
    loss = -sum(w * math.log(p if t else 1 - p) for w, t, p in zip(c, y, p1, strict=True))
    above = pairs = 0.0
    for w, t, p in zip(c, y, p1, strict=True):
        for v, s, q in zip(c, y, p1, strict=True):
            if t == 1 and s == 0:
                pairs += w * v
                above += w * v * (1.0 if p > q else 0.5 if p == q else 0.0)
    found = running.values()
    assert found["log_loss"] == pytest.approx(loss / sum(c), rel=1e-9)
    assert found["auc"] == pytest.approx(above / pairs, abs=2e-3)  # bins of 0.008 log odds


def test_more_classes_and_certain_answers():
    running = RunningMetrics(3, 10.0)
    running.add(np.array([0, 2]), np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    found = running.values()
    assert found["accuracy"] == pytest.approx(0.5**0.1 / (1 + 0.5**0.1))
    assert np.isfinite(found["log_loss"])
    two = RunningMetrics(2)
    two.add(np.array([1, 1]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert "auc" not in two.values()  # of one class only
    two.add(np.array([0]), np.array([[0.5, 0.5]]))
    assert two.values()["auc"] == pytest.approx(0.5, abs=1e-3)
