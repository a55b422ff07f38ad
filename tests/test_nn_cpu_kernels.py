"""The C++ kernels of the pairwise operator against a float64 double sum over pairs."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crossfm import _native  # noqa: E402
from crossfm.errors import DataError  # noqa: E402
from crossfm.nn.ops import cpu  # noqa: E402

RTOL = 1e-5  # float32 sums of tens of terms, relative to the largest entry of an array
F = 5  # fields
N = 40  # features: few, so that ids repeat within a batch and within a row


class Case(NamedTuple):
    """A batch, its tables, and the gradients of its outputs, in NumPy."""

    ids: np.ndarray
    values: np.ndarray | None
    offsets: np.ndarray | None
    fields: np.ndarray | None
    weights: np.ndarray | None
    factors: np.ndarray
    across: bool
    reduce_sum: bool
    pooled: bool
    gl: np.ndarray | None
    gc: np.ndarray | None
    gp: np.ndarray | None
    gS: np.ndarray | None

    @property
    def n_rows(self) -> int:
        return len(self.ids) if self.offsets is None else len(self.offsets) - 1

    def rows(self) -> list[tuple[list[int], list[float], list[int], list[int]]]:
        """Ids, values, fields and positions of each row."""
        flat = self.ids.reshape(-1)
        m = self.ids.shape[1] if self.ids.ndim == 2 else 0
        if self.offsets is None:
            bounds = [(r * m, (r + 1) * m) for r in range(self.n_rows)]
        else:
            bounds = list(itertools.pairwise(self.offsets.tolist()))
        x = np.ones(flat.size) if self.values is None else self.values.reshape(-1)
        f = np.zeros(flat.size, int)
        if self.fields is not None:
            f = np.broadcast_to(self.fields, self.ids.shape).reshape(-1)
        return [
            (flat[a:b].tolist(), x[a:b].tolist(), f[a:b].tolist(), list(range(a, b)))
            for a, b in bounds
        ]


def make_case(
    k: int,
    *,
    seed: int = 0,
    n_rows: int = 23,
    ragged: bool = True,
    across: bool = False,
    reduce_sum: bool = True,
    pooled: bool = False,
    values: bool = True,
    weights: bool = True,
    id_type: type = np.int64,
    field_type: type = np.int32,
    columns: bool = False,
    n_features: int = N,
    given: str = "lcpS",
) -> Case:
    rng = np.random.default_rng(seed)
    floats = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    offsets = None
    if ragged:
        lengths = rng.integers(0, 9, n_rows)  # some rows are empty, some fields come twice
        lengths[::7] = 0
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        shape: tuple[int, ...] = (int(offsets[-1]),)
    else:
        shape = (n_rows, 7)
    ids = rng.integers(0, n_features, shape).astype(id_type)
    fields = None
    if across or pooled:
        fields = rng.integers(0, F, shape[-1:] if columns else shape).astype(field_type)
    return Case(
        ids,
        floats(*shape) if values else None,
        offsets,
        fields,
        floats(n_features) if weights else None,
        floats(n_features, k),
        across,
        reduce_sum,
        pooled,
        floats(n_rows) if "l" in given else None,
        (floats(n_rows) if reduce_sum else floats(n_rows, k)) if "c" in given else None,
        floats(n_rows, F, k) if pooled and "p" in given else None,
        floats(n_rows, k) if "S" in given else None,
    )


def by_pairs(case: Case) -> dict[str, np.ndarray]:
    """Outputs and gradients by their definitions, pair by pair."""
    V = case.factors.astype(np.float64)
    w = np.zeros(len(V)) if case.weights is None else case.weights.astype(np.float64)
    n, k = case.n_rows, V.shape[1]
    out = {
        "linear": np.zeros(n), "crossed": np.zeros((n, k)), "pooled": np.zeros((n, F, k)),
        "S": np.zeros((n, k)), "gw": np.zeros(len(V)), "gV": np.zeros(V.shape),
        "gx": np.zeros(case.ids.size),
    }  # fmt: skip
    for r, (ids, x, fields, positions) in enumerate(case.rows()):
        gl = 0.0 if case.gl is None else float(case.gl[r])
        gc = np.zeros(k) if case.gc is None else np.broadcast_to(case.gc[r], k).astype(float)
        for t, i in enumerate(ids):
            out["linear"][r] += w[i] * x[t]
            out["S"][r] += x[t] * V[i]
            out["pooled"][r, fields[t]] += x[t] * V[i]
            h = np.zeros(k)  # gradient of x_i v_i
            for s, j in enumerate(ids):
                if s != t and not (case.across and fields[s] == fields[t]):
                    out["crossed"][r] += 0.5 * x[t] * V[i] * x[s] * V[j]
                    h += gc * x[s] * V[j]
            if case.gp is not None:
                h += case.gp[r, fields[t]]
            if case.gS is not None:
                h += case.gS[r]
            out["gw"][i] += gl * x[t]
            out["gV"][i] += x[t] * h
            out["gx"][positions[t]] += gl * w[i] + h @ V[i]
    if case.reduce_sum:
        out["crossed"] = out["crossed"].sum(1)
    return out


def tensor(array: np.ndarray | None) -> Any:
    return None if array is None else torch.from_numpy(np.ascontiguousarray(array))


def inputs(case: Case) -> tuple[Any, ...]:
    return tuple(
        tensor(a)
        for a in (case.ids, case.values, case.offsets, case.fields, case.weights, case.factors)
    )


def grads(case: Case) -> tuple[Any, ...]:
    return tuple(tensor(a) for a in (case.gl, case.gc, case.gp, case.gS))


def forward(case: Case) -> tuple[Any, ...]:
    return cpu.forward(*inputs(case), F, case.across, case.reduce_sum, case.pooled)


def backward(case: Case, sparse: bool = True, need_values: bool = True) -> tuple[Any, ...]:
    S = forward(case)[3]
    return cpu.backward(
        *grads(case), *inputs(case), S, F, case.across, case.reduce_sum, need_values, sparse
    )


def close(got: Any, want: np.ndarray, scale: float | None = None) -> None:
    got = got.numpy() if hasattr(got, "numpy") else got
    assert got.shape == want.shape
    size = scale if scale is not None else np.abs(want).max(initial=0.0)
    np.testing.assert_allclose(got, want, rtol=RTOL, atol=RTOL * max(size, 1e-3))


def check(case: Case) -> None:
    want = by_pairs(case)
    linear, crossed, pooled, S = forward(case)
    close(linear, want["linear"])
    close(crossed, want["crossed"])
    close(S, want["S"])
    if case.pooled:
        close(pooled, want["pooled"])
    else:
        assert pooled.shape == (0,)
    rows, gw, gV, gx = backward(case)
    used = np.unique(case.ids)
    assert rows.tolist() == used.tolist()
    close(gV, want["gV"][used])
    close(gx, want["gx"])
    if case.weights is None:
        assert gw.shape == (0,)
    else:
        close(gw, want["gw"][used])
    rows, gw, gV, gx = backward(case, sparse=False, need_values=False)
    assert rows.shape == gx.shape == (0,)
    close(gV, want["gV"])
    if case.weights is not None:
        close(gw, want["gw"])


@pytest.mark.parametrize("k", [1, 3, 16, 17, 64])
@pytest.mark.parametrize("reduce_sum", [True, False])
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_outputs_and_gradients(k: int, reduce_sum: bool, across: bool, pooled: bool) -> None:
    check(make_case(k, reduce_sum=reduce_sum, across=across, pooled=pooled, seed=k))


@pytest.mark.parametrize("id_type", [np.int32, np.int64])
@pytest.mark.parametrize("field_type", [np.int16, np.int32, np.int64])
@pytest.mark.parametrize("columns", [False, True])
def test_types_and_fields_of_columns(id_type: type, field_type: type, columns: bool) -> None:
    for seed in range(3):
        check(
            make_case(
                16, ragged=False, across=True, pooled=seed == 1, id_type=id_type,
                field_type=field_type, columns=columns, seed=seed,
            )
        )  # fmt: skip


@pytest.mark.parametrize("k", [1, 3, 7, 16, 50])
@pytest.mark.parametrize("given", ["l", "c", "lc", "S", "", "lcS"])
@pytest.mark.parametrize("ragged", [False, True])
def test_without_values_and_with_few_gradients(k: int, given: str, ragged: bool) -> None:
    check(make_case(k, values=False, given=given, ragged=ragged))


def test_columns_of_distinct_fields() -> None:
    case = make_case(16, ragged=False, across=True, columns=True, values=False)
    case = case._replace(ids=case.ids[:, :F].copy(), fields=np.array([3, 0, 4, 1, 2]))
    check(case)
    check(case._replace(weights=None))


def test_many_rows_on_several_threads() -> None:
    check(make_case(3, n_rows=3000, n_features=3_000, across=True, pooled=True))
