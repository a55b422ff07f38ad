"""The benchmark for GPUs: what of it runs without one, at a small size."""

from __future__ import annotations

import json
import math

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from benchmarks import nn_gpu  # noqa: E402
from benchmarks.harness import Disagreement  # noqa: E402


def test_fields_share_the_features_and_ids_stay_in_their_field() -> None:
    sizes = nn_gpu.field_sizes(20_000)
    assert sum(sizes) == 20_000
    ids = nn_gpu.click_ids(500, sizes, torch.Generator().manual_seed(0))
    first = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    assert bool((ids >= first).all())
    assert bool((ids < first + torch.tensor(sizes)).all())
    counts = torch.bincount(ids[:, -1].long() - first[-1])
    assert counts[0] > 3 * counts[5:].max()  # the sixth has a fifth of it


def test_entries_agree_and_are_timed() -> None:
    sizes = nn_gpu.field_sizes(2_000)
    tables = nn_gpu.Tables(2_000, "cpu")
    found = nn_gpu.measure(64, tables, sizes, n_steps=2, n_rounds=2)
    assert found["failed"] == {}
    assert set(found["seconds"]) == {nn_gpu.MODULE, nn_gpu.KERNELS, "PyTorch, Adagrad",
                                     "PyTorch, SparseAdam"}  # fmt: skip
    assert all(len(times) == 2 for times in found["seconds"].values())
    assert found["forward"]["bytes_asked"] == 64 * (39 * (4 + 68) + 72)
    assert found["forward"]["bytes_least"] < found["forward"]["bytes_asked"]
    (figure,) = nn_gpu.figures([found])
    assert math.isclose(figure.value, 64 / (sum(found["seconds"][nn_gpu.MODULE]) / 2))
    nn_gpu.show([found], 1e9, "a CPU", 2_000)


def test_a_wrong_kernel_is_noticed() -> None:
    losses = {nn_gpu.KERNELS: (0.7, 0.6), nn_gpu.MODULE: (0.7, 0.6)}
    nn_gpu.check_losses(losses)
    with pytest.raises(Disagreement, match="begins with a loss"):
        nn_gpu.check_losses({**losses, "other": (0.71, 0.6)})
    with pytest.raises(Disagreement, match="does not learn"):
        nn_gpu.check_losses({**losses, "other": (0.7, 0.7)})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.nn import main

    assert main(["gpu", "--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == nn_gpu.NOTE
    assert json.loads(lines[-1]) == {"figures": {}}
