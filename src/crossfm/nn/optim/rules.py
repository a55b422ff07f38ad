"""What the row-wise optimizers have in common: their options, states and rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from crossfm.errors import DataError, did_you_mean
from crossfm.nn.ops.arguments import Step
from crossfm.nn.ops.operator import kernels_for

__all__ = ["KINDS", "check_options", "fresh_state", "kind_options", "rates", "update"]

# Every kind's options and their defaults.
KINDS: dict[str, dict[str, Any]] = {
    "rowwise_adagrad": {"lr": 0.05, "l2": 0.0, "eps": 1e-10, "initial_accumulator": 0.0},
    "adagrad": {"lr": 0.05, "l2": 0.0, "eps": 1e-10, "initial_accumulator": 0.0},
    "adam": {"lr": 0.001, "l2": 0.0, "betas": (0.9, 0.999), "eps": 1e-8},
    "ftrl": {"lr": 0.1, "l1": 0.0, "l2": 0.0, "beta": 1.0, "initial_accumulator": 0.0},
}


def kind_options(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a kind: what is given, defaults elsewhere.

    Raises:
        DataError: an unknown kind, an option that the kind does not have, a number out of range.

    Example:
        >>> kind_options("ftrl", {"lr": 0.2})
        {'lr': 0.2, 'l1': 0.0, 'l2': 0.0, 'beta': 1.0, 'initial_accumulator': 0.0}
    """
    if kind not in KINDS:
        raise DataError(
            f"no optimizer {kind!r}; there are {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}"
        )
    options = dict(KINDS[kind])
    for name, value in given.items():
        if name not in options:
            raise DataError(
                f"{kind} has no option {name!r}; it has {', '.join(options)}."
                f"{did_you_mean(name, options)}"
            )
        options[name] = value
    check_options(options)
    return options


def check_options(options: Mapping[str, Any]) -> None:
    """Look at the numbers, or raise a DataError that names the first wrong one."""
    for name in ("lr", "l1", "l2", "eps", "beta", "initial_accumulator"):
        if name in options and not _is_number(options[name]):
            raise DataError(f"{name} is {options[name]!r}, expected a finite number of 0 or more")
    if "betas" in options:
        betas = options["betas"]
        two = isinstance(betas, Sequence) and len(betas) == 2
        if not two or not all(_is_number(beta) and beta < 1 for beta in betas):
            raise DataError(f"betas are {betas!r}, expected two numbers from 0 on and below 1")
    if "beta" in options and not float(options["lr"]) > 0:
        raise DataError(f"lr is {options['lr']!r}, ftrl divides by it: expected more than 0")


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor) and value.numel() == 1:  # as PyTorch's optimizers take them
        value = value.item()
    return isinstance(value, Real) and 0 <= float(value) < math.inf


def rates(options: Mapping[str, Any], step: int) -> dict[str, float]:
    """The numbers that a `crossfm.nn.ops.arguments.Step` has."""
    beta1, beta2 = options.get("betas", (0.0, 0.0))
    return {
        "lr": float(options["lr"]),
        "l2": float(options["l2"]),
        "eps": float(options.get("eps", 0.0)),
        "beta1": float(beta1),
        "beta2": float(beta2),
        "step": step,
        "l1": float(options.get("l1", 0.0)),
        "beta": float(options.get("beta", 0.0)),
    }


def fresh_state(kind: str, table: Tensor, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of a table that has not been stepped yet, float32 (float64 for float64 tables).

    FTRL computes a table from its state; z starts where the table does, so that initial vectors
    are not lost.
    """
    dtype = torch.float64 if table.dtype == torch.float64 else torch.float32
    p = table.detach()
    start = float(options.get("initial_accumulator", 0.0))
    if kind == "rowwise_adagrad":
        return {"a": p.new_full(p.shape[:1], start, dtype=dtype)}
    if kind == "adagrad":
        return {"a": p.new_full(p.shape, start, dtype=dtype)}
    if kind == "adam":
        return {name: p.new_zeros(p.shape, dtype=dtype) for name in ("m", "v")}
    p = p.to(dtype)
    curvature = (options["beta"] + start**0.5) / options["lr"] + options["l2"]
    return {
        "z": -curvature * p - options["l1"] * torch.sign(p),
        "n": p.new_full(p.shape, start),
    }


def update(rows: Tensor, grad: Tensor, table: Tensor, step: Step) -> None:
    """`update_rows` by the kernels of the table's device; tables of any number of dimensions."""
    if table.dim() > 2:
        grad = grad.reshape(len(rows), -1)
        step = step._replace(state={name: _flat(part) for name, part in step.state.items()})
        table = _flat(table.detach())
    kernels_for(table).update_rows(rows, grad, table, step)


def _flat(part: Tensor) -> Tensor:
    return part if part.dim() == 1 else part.view(part.shape[0], -1)
