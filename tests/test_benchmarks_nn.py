"""The benchmark of the PyTorch modules: options, ratios, agreement. No peer is needed."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'crossfm[torch]'")

from benchmarks import networks, nn, quality  # noqa: E402
from benchmarks.harness import Disagreement, Entry, Runs  # noqa: E402
from benchmarks.workers import Part  # noqa: E402
from benchmarks.workers.ours_nn import OursNN  # noqa: E402
from benchmarks.workers.pytorch_nn import LAYOUTS, PlainPyTorch, tower  # noqa: E402
from benchmarks.workers.steps import Start, held  # noqa: E402
from crossfm.data.rows import Rows  # noqa: E402
from crossfm.nn.build import networks as network_names  # noqa: E402

SMALL = ["--max-values", "50", "--threads", "1"]


def runs(label, seconds, *, first=0.7, last=0.6):
    answers = [{"seconds": s, "first_loss": first, "last_loss": last} for s in seconds]
    entry = Entry(label, label, {"n_epochs": 1})
    return Runs(entry, "1", 100, list(seconds), [0.5] * len(seconds), answers=answers)


def contest_of(**seconds):
    names = {"fm": nn.FM, "torchfm": nn.TORCHFM, "deepfm": nn.DEEPFM, "deepctr": nn.DEEPCTR,
             "tower": nn.TOWER, "whole_tower": nn.TOWER_INPUT, "plain": f"{nn.PLAIN}, apart, x",
             "plain2": f"{nn.PLAIN}, joined, x"}  # fmt: skip
    return {names[key]: runs(names[key], values) for key, values in seconds.items()}


def values_of(figures):
    return {figure.name: (pytest.approx(figure.value), figure.holds) for figure in figures}


def test_ratios_are_taken_within_rounds_and_the_fastest_plain_variant_counts():
    found = contest_of(fm=[1, 2, 4], torchfm=[16, 20, 80], plain=[9, 12, 24], plain2=[5, 12, 20])
    assert values_of(nn.figures(found)) == {
        "fm_over_torchfm": (16.0, True),  # of 16, 10, 20
        "fm_over_plain_pytorch": (5.0, True),  # of 9, 6, 6 and of 5, 6, 5
    }


def test_missed_bars_are_missed():
    found = contest_of(fm=[1.0], torchfm=[14.9], plain=[100.0], plain2=[4.9])
    assert [figure.holds for figure in nn.figures(found)] == [False, False]
    assert [figure.bar for figure in nn.figures(found)] == [15.0, 5.0]


@pytest.mark.parametrize(
    ("deepctr", "tower", "times"),
    [
        (3.0, 0.5, 1.0),  # three times faster than the peer, two towers
        (1.5, 0.8, 1.0),  # 1.25 towers
        (2.4, 0.5, 0.8),  # neither
        (6.0, 0.5, 2.0),
    ],
)
def test_deepfm_has_to_pass_one_of_two_bars(deepctr, tower, times):
    found = contest_of(deepfm=[1.0], deepctr=[deepctr], tower=[tower], whole_tower=[tower])
    assert values_of(nn.figures(found)) == {"deepfm_times_either_bar": (times, times >= 1)}
    assert nn.ratios(found)["deepfm_in_towers"] == pytest.approx(1 / tower)


def test_without_rivals_there_are_no_bars():
    assert nn.figures(contest_of(fm=[1.0], deepfm=[1.0])) == []


def test_losses_have_to_begin_alike_and_to_fall():
    found = contest_of(fm=[1.0], torchfm=[2.0], deepfm=[1.0], tower=[1.0])
    found[nn.DEEPFM].answers[0]["first_loss"] = 0.9  # another model, another loss
    nn.check_losses(found)
    for loss in (0.7001, float("nan")):
        found[nn.TORCHFM].answers[0]["first_loss"] = loss
        with pytest.raises(Disagreement, match=r"torchfm.*another model"):
            nn.check_losses(found)
    found[nn.TORCHFM].answers[0]["first_loss"] = 0.7000001
    for loss in (0.8, float("nan")):
        found[nn.TOWER].answers[-1]["last_loss"] = loss
        with pytest.raises(Disagreement, match=r"tower alone.*does not learn"):
            nn.check_losses(found)


def test_memory_is_judged_above_what_was_there():
    found = {
        "memory_sparse_gradient": {"before": 500_000_000, "peak": 700_000_000},
        "memory_fused_optimizer": {"before": 500_000_000, "peak": 700_100_000},
        "plain": {"before": 0, "peak": 2_000_000_000},
    }
    assert values_of(nn.memory_figures(found)) == {
        "memory_sparse_gradient": (200.0, True),
        "memory_fused_optimizer": (200.1, False),
    }


def test_memory_of_a_block_is_its_peak():
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux lets a process reset its peak")
    with held() as found:
        block = np.ones(30_000_000, np.uint8)
        del block
    assert 29_000_000 < found["peak"] - found["before"] < 60_000_000


def test_options_are_read():
    arguments = nn.parser_of(["speed"]).parse_args(["speed", "--threads", "1", "--check"])
    assert (arguments.batch, arguments.threads, arguments.check) == (4096, 1, True)
    arguments = nn.parser_of(["memory"]).parse_args(["memory"])
    assert (arguments.rows, arguments.factors, arguments.check) == (65_536, 64, False)
    assert arguments.threads == nn.cores()


def test_an_unknown_model_is_named(capsys):
    assert nn.main(["speed", "--models", "fm,fn"]) == 1
    assert "--models 'fm,fn', expected some of fm,deepfm" in capsys.readouterr().err


def test_every_entry_has_the_common_options_and_bars_meet_their_labels():
    common = {"n_epochs": 1, "n_factors": 16}
    entries = nn.entries_of(nn.MODELS, [3, 4], common)
    labels = [entry.label for entry in entries]
    assert len(set(labels)) == len(labels)
    assert {nn.FM, nn.TORCHFM, nn.DEEPFM, nn.DEEPCTR, nn.TOWER, nn.TOWER_INPUT} < set(labels)
    assert all(entry.options.items() >= common.items() for entry in entries)
    found = {label: runs(label, [1.0]) for label in labels}
    assert len(nn.figures(found)) == 3
    assert {nn.kind_of(label) for label in labels} == {"fm", "deepfm", "tower"}


def part_of(ids, targets, n_features):
    offsets = np.arange(len(ids) + 1, dtype=np.int64) * ids.shape[1]
    return Part(ids.ravel().astype(np.int32), offsets, None, targets, n_features)


def fm_loss(start, ids, y, extra=None):
    """Mean log loss of the plain double sum over pairs, in float64, `extra` added to a score."""
    w, V = start.weights.astype(np.float64), start.factors.astype(np.float64)
    losses = []
    extra = np.zeros(len(ids)) if extra is None else extra
    for row, target, more in zip(ids, y, extra, strict=True):
        pairs = [(i, j) for a, i in enumerate(row) for j in row[a + 1 :]]
        z = more + w[row].sum() + sum(float(V[i] @ V[j]) for i, j in pairs)
        losses.append(np.logaddexp(0, z) - target * z)
    return float(np.mean(losses))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_of_plain_pytorch_is_the_fm(layout):
    rng = np.random.default_rng(0)
    ids, y = rng.integers(0, 12, (20, 5)), rng.integers(0, 2, 20).astype(np.float32)
    start = Start.draw(12, 3, [15, 4, 1])
    entrant = PlainPyTorch()
    entrant.train_part = part_of(ids, y, 12)
    model = entrant.build(start, n_factors=3, layout=layout, optimizer="adagrad")
    got = float(model.loss(torch.from_numpy(ids), torch.from_numpy(y)).detach())
    assert got == pytest.approx(fm_loss(start, ids, y), rel=1e-6)  # float32, 5 terms


def test_a_start_survives_its_folder(tmp_path):
    start = Start.draw(7, 3, [6, 4, 1], seed=5)
    start.save(tmp_path / "s")
    back = Start.load(tmp_path / "s")
    np.testing.assert_array_equal(back.factors, start.factors)
    assert [(W.shape, b.shape) for W, b in back.tower] == [((4, 6), (4,)), ((1, 4), (1,))]
    h = np.ones((1, 6), np.float32)
    (W, b), (W2, _) = start.tower
    expected = W2 @ np.maximum(W @ h[0] + b, 0)
    got = tower(back, [6, 4, 1])(torch.from_numpy(h)).detach().numpy()[0]
    np.testing.assert_allclose(got, expected, rtol=1e-6)  # float32, 6 terms; no last bias


def test_our_own_fm_and_deepfm_compute_the_definition():
    rng = np.random.default_rng(1)
    ids = np.stack([rng.integers(0, 4, 20), rng.integers(4, 9, 20), rng.integers(9, 12, 20)], 1)
    y = rng.integers(0, 2, 20).astype(np.float32)
    start = Start.draw(12, 3, [9, 4, 1])
    entrant = OursNN()
    entrant.train_part = part_of(ids, y, 12)
    pair = torch.from_numpy(ids), torch.from_numpy(y)
    for fused in (True, False):
        model = entrant.build(start, n_factors=3, network="fm", fused=fused)
        assert float(model.loss(*pair).detach()) == pytest.approx(fm_loss(start, ids, y), rel=1e-6)
    model = entrant.build(start, n_factors=3, network="deepfm", field_sizes=[4, 5, 3],
                          sizes=[9, 4, 1])  # fmt: skip
    (W, b), (W2, _) = start.tower
    hidden = np.maximum(start.factors[ids].reshape(20, 9).astype(np.float64) @ W.T + b, 0)
    expected = fm_loss(start, ids, y, extra=(hidden @ W2.T)[:, 0])
    assert float(model.loss(*pair).detach()) == pytest.approx(expected, rel=1e-6)  # float32


def test_our_own_side_runs(tmp_path, capsys):
    small = ["--steps", "2", "--batch", "64", "--rounds", "2", "--test-rows", "16"]
    given = ["speed", "--alone", *small, *SMALL, "--results", str(tmp_path)]
    assert nn.main(given) == 0
    saved = json.loads((tmp_path / "nn-speed.json").read_text())
    runs = saved["runs"]
    assert set(runs) == {nn.FM, f"{nn.FM}, AdaGrad", f"{nn.FM}, optimizer after it", nn.DEEPFM}
    assert all(len(run["seconds"]) == 2 and min(run["seconds"]) > 0 for run in runs.values())
    assert "ms/step" in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resets a process's peak")
def test_memory_is_measured_and_checked(tmp_path, capsys):
    given = ["memory", "--alone", "--rows", "512", "--factors", "4", *SMALL, "--check"]
    assert nn.main([*given, "--results", str(tmp_path)]) == 0
    found = last_line(capsys.readouterr().out)["figures"]
    assert set(found) == {"memory_sparse_gradient", "memory_fused_optimizer"}
    assert all(0 <= one["value"] < 20 and one["holds"] for one in found.values())


def network_runs(**values):
    return [
        {"network": name, "seed": seed, "auc": auc, "log_loss": 0.2, "best_epoch": 3, "seconds": 1}
        for name, aucs in values.items()
        for seed, auc in enumerate(aucs)
    ]


def test_a_network_is_judged_by_the_mean_of_its_seeds():
    found = networks.figures(
        network_runs(nfm=[0.978, 0.981, 0.981], deepfm=[0.983, 0.980, 0.981], afm=[0.97, 0.96])
    )
    assert values_of(found) == {
        "frappe_auc_nfm": (0.98, True),
        "frappe_auc_deepfm": (2.944 / 3, False),
        "frappe_auc_afm": (0.965, False),
    }
    assert [figure.bar for figure in found] == [0.979, 0.982, 0.97]


def test_every_network_has_a_setting_and_unknown_names_are_refused():
    assert set(networks.SETTINGS) == set(network_names())
    assert networks.chosen("all") == list(networks.SETTINGS)
    assert networks.chosen("deepfm, fm") == ["fm", "deepfm"]
    assert set(networks.BARS) < set(networks.SETTINGS)
    for given in ("deepfn", ","):
        with pytest.raises(networks.UnknownNetworks, match="expected some of fm, hofm"):
            networks.chosen(given)


@pytest.mark.parametrize("name", network_names())
def test_a_network_trains_in_its_setting(name):
    network, training = networks.settings_of(name)
    # Small layers, of a size that FinalMLP's five heads divide.
    network |= {key: (10,) for key in ("hidden", "second_hidden", "cin") if key in network}
    training |= {"n_epochs": 2, "batch_size": 100}
    found = networks.train(name, small_frappe(), 0, network, training)
    assert found["epochs"] == 2
    assert 0.0 <= found["auc"] <= 1.0
    assert found["log_loss"] < 2.0


def small_frappe():
    """Three fields of five values, in the form of `crossfm.datasets.Frappe`."""
    rng = np.random.default_rng(0)

    def rows(n):
        ids = (rng.integers(0, 5, (n, 3)) + np.array([0, 5, 10])).astype(np.int32)
        targets = (ids[:, 0] < 2).astype(np.float32)
        return Rows(ids, targets=targets, fields=ids.ravel() // 5)

    return SimpleNamespace(
        n_features=15, field_of=np.repeat(np.arange(3), 5).astype(np.int32), rebuilt=True,
        train=rows(300), validation=rows(100), test=rows(100),
    )  # fmt: skip


def test_networks_belong_to_frappe(capsys):
    with pytest.raises(SystemExit):
        quality.main(["movielens-100k", "--networks"])
    assert "--networks goes with frappe" in capsys.readouterr().err


def last_line(text):
    return json.loads(text.strip().splitlines()[-1])
