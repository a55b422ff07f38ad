"""Plots: what the figures hold, and what they refuse."""

import sys

import numpy as np
import pytest
from scipy.stats import norm

from crossfm.data.rows import Rows
from crossfm.errors import DataError, MissingExtraError
from crossfm.explain import FieldStrengths, explain_row
from crossfm.explain.plots import (
    factor_map,
    field_heatmap,
    interval_calibration,
    learning_curves,
    probability_calibration,
    trace_plot,
    waterfall,
)
from crossfm.explain.plots.style import chance
from crossfm.model import FactorModel

pytest.importorskip("matplotlib")
LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


def predicted(n=4000, wide=1.0, seed=0):
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=n)
    return mean + rng.normal(size=n), mean[:, None] + wide * norm.ppf(LEVELS)


def line(axes, label):
    (found,) = [one for one in axes.get_lines() if one.get_label() == label]
    return found.get_xydata()


@pytest.mark.parametrize(("wide", "expected"), [(1.0, (0.9, 0.5)), (0.5, (0.589, 0.264))])
def test_intervals(wide, expected):
    figure = interval_calibration(*predicted(wide=wide), LEVELS, title="which model")
    left, right = figure.axes
    found = line(left, "observed")
    np.testing.assert_allclose(found[:, 0], [0.9, 0.5])
    np.testing.assert_allclose(found[:, 1], expected, atol=0.03)
    (steps,) = [one for one in right.patches if hasattr(one, "get_data")]
    values, edges, _ = steps.get_data()
    np.testing.assert_allclose(edges, [0, *LEVELS, 1])
    assert (values * np.diff(edges)).sum() == pytest.approx(1)
    if wide == 1.0:
        np.testing.assert_allclose(values, 1, atol=0.25)
    else:  # too narrow: the ends hold too many
        assert values[0] > 3 < values[-1]
    assert figure.get_suptitle() == "which model"


def test_levels_without_a_partner_have_no_interval():
    y, quantiles = predicted()
    left, _ = interval_calibration(y, quantiles[:, :3], LEVELS[:3]).axes
    assert len(line(left, "observed")) == 0


def test_probabilities():
    rng = np.random.default_rng(0)
    p = rng.beta(2, 5, 5000)
    left, right = probability_calibration(rng.random(5000) < p, p, n_bins=8).axes
    found = line(left, "observed")
    assert len(found) == 8
    np.testing.assert_allclose(found[:, 0], found[:, 1], atol=0.06)
    assert found[:, 0].mean() == pytest.approx(p.mean(), abs=0.01)
    rows = sum(bar.get_height() for bar in right.patches)
    assert rows == pytest.approx(5000)
    left, _ = probability_calibration([1, 0, 1], [0.5, 0.5, 0.5]).axes  # one bin is left
    np.testing.assert_allclose(line(left, "observed"), [[0.5, 2 / 3]])


def test_traces():
    rng = np.random.default_rng(0)
    traces = {"noise": rng.normal(size=(3, 50)), "bias": rng.normal(size=(1, 50))}
    figure = trace_plot(traces, burn_in=10)
    assert [len(axes.get_lines()) for axes in figure.axes] == [3, 1]
    assert figure.axes[0].get_title().startswith("noise: R-hat 1.0")
    np.testing.assert_array_equal(figure.axes[0].get_lines()[2].get_ydata(), traces["noise"][2])
    assert [text.get_text() for text in figure.axes[0].texts] == ["shaded: burn-in"]
    assert not trace_plot({"bias": traces["bias"]}).axes[0].texts


def test_the_band_of_chance():
    low, high = chance([0.0, 0.5, 1.0], 100)
    np.testing.assert_allclose([low, high], [[0, 0.4, 1], [0, 0.6, 1]])


def test_figures_are_written_without_pyplot(tmp_path):
    interval_calibration(*predicted(50), LEVELS).savefig(tmp_path / "a.png")
    trace_plot({"a": np.ones((2, 9))}).savefig(tmp_path / "b.svg")
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert "</svg>" in (tmp_path / "b.svg").read_text()


def a_model(n=30, k=3):
    rng = np.random.default_rng(0)
    return FactorModel(0.5, rng.normal(size=n), rng.normal(size=(n, k)))


def test_a_waterfall_ends_at_the_score():
    found = explain_row(a_model(), Rows(np.arange(6)[None]))
    (axes,) = waterfall(found, limit=4, title="why").axes
    bars = axes.patches
    assert len(bars) == 1 + 4 + 1 + 1
    at = 0.0
    for bar in bars[:-1]:
        assert bar.get_x() == pytest.approx(at)
        at += bar.get_width()
    assert at == pytest.approx(found.score)
    assert bars[-1].get_width() == pytest.approx(found.score)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "bias"
    assert labels[-2:] == ["17 smaller terms", "score"]
    few = explain_row(a_model(), Rows([[3]]))
    assert len(waterfall(few).axes[0].patches) == 3


def test_a_heat_map_has_its_numbers():
    numbers = np.arange(9.0).reshape(3, 3) + np.arange(9.0).reshape(3, 3).T
    found = FieldStrengths(("a", "b", "c"), -numbers, numbers, 2 * numbers, 10)
    axes = field_heatmap(found, title="fields").axes[0]
    assert [text.get_text() for text in axes.texts] == [
        f"{2 * numbers[f, g]:.2f}" for f in range(3) for g in range(f + 1)
    ]
    shown = axes.images[0].get_array()
    assert np.ma.filled(shown, np.nan)[0, 2] != np.ma.filled(shown, np.nan)[2, 0]
    assert field_heatmap(found, what="mean").axes[0].images[0].get_clim() == (-16.0, 16.0)


def test_a_map_of_factors():
    model = a_model()
    ids = np.arange(4, 24)
    axes = factor_map(model, ids, groups=["x", "y"] * 10, n_labels=5).axes[0]
    places = np.concatenate([one.get_offsets() for one in axes.collections])
    V = model.factors[ids].astype(float)
    centred = V - V.mean(0)
    _, sizes, axes_of = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes_of[:2].T
    order = np.r_[0:20:2, 1:20:2]
    np.testing.assert_allclose(np.abs(places), np.abs(expected[order]), atol=1e-6)
    assert 1 <= len(axes.texts) <= 5
    assert f"{(sizes[0] ** 2 / (sizes**2).sum()):.0%}" in axes.get_xlabel()
    one = FactorModel(0.0, [0, 0], [[1.0], [2.0]])
    assert len(factor_map(one, [0, 1]).axes[0].texts) >= 1


def test_learning_curves():
    history = [{"epoch": e, "loss": 1 / e, "seconds": 1.0, "log_loss": 2 / e, "auc": e / 9}
               for e in range(1, 6)]  # fmt: skip
    axes = learning_curves(history, best_epoch=4).axes
    assert [one.get_title() for one in axes] == ["training loss", "log loss", "auc"]
    np.testing.assert_allclose(axes[2].get_lines()[0].get_ydata(), np.arange(1, 6) / 9)
    assert [text.get_text() for text in axes[1].texts] == ["kept"]


@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (lambda: waterfall(explain_row(a_model(), Rows([[1]])), limit=0), "limit is 0"),
        (lambda: field_heatmap(FieldStrengths((), *np.zeros((3, 0, 0)), 1), what="sum"), "what is"),
        (lambda: factor_map(a_model(), [3]), "two features or more"),
        (lambda: factor_map(a_model(), [3, 4], labels=["a"]), "labels has 1 texts for 2"),
        (lambda: learning_curves([]), "no epochs"),
    ],
)
def test_more_refusals(draw, match):
    with pytest.raises(DataError, match=match):
        draw()


@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (
            lambda y, q: interval_calibration(y[:5], q, LEVELS),
            r"shape \[60, 5\], expected \[5, 5\]",
        ),
        (lambda y, q: interval_calibration(y, q, LEVELS[::-1]), "levels are .* that rise"),
        (lambda y, q: interval_calibration(y, q[:, :1], LEVELS[:1]), "two or more"),
        (lambda y, q: interval_calibration(y * np.nan, q, LEVELS), r"y\[0\] is nan"),
        (lambda y, q: interval_calibration(y, q * np.inf, LEVELS), "not finite"),
        (lambda y, q: interval_calibration([], q, LEVELS), r"y has shape \[0\]"),
        (lambda y, q: interval_calibration(["a"], q, LEVELS), "y holds what is no number"),
        (lambda y, q: probability_calibration(y > 0, y), "probabilities run from"),
        (lambda y, q: probability_calibration(y, np.full(60, 0.5)), "other numbers than 0 and 1"),
        (lambda y, q: probability_calibration(y > 0, [0.5]), r"y has shape \[60\], expected \[1\]"),
        (lambda y, q: probability_calibration(y > 0, np.full(60, 0.5), n_bins=0), "n_bins is 0"),
        (lambda y, q: trace_plot({}), "no traces"),
        (lambda y, q: trace_plot({"a": y}), r"'a' has shape \[60\]"),
        (lambda y, q: trace_plot({"a": q.T}, burn_in=60), "more than 60 sweeps"),
    ],
)
def test_refusals(draw, match):
    with pytest.raises(DataError, match=match):
        draw(*predicted(60))


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'crossfm\[plot\]'"):
        trace_plot({"a": np.ones((2, 9))})
