"""What the implementations of the pairwise operator are given and return, bundled by subject.

`crossfm.nn.ops.reference`, `crossfm.nn.ops.cpu` and `crossfm.nn.ops.triton` have the same four
functions::

    forward(inputs, options) -> Outputs
    backward(upstream, inputs, S, options, need_values, sparse) -> Gradients
    backward_update(upstream, inputs, S, options, need_values, steps) -> Tensor
    update_rows(rows, grad, table, step) -> None

S is the forward pass's. `need_values` asks for the gradient of the values, ``[nnz]`` (else ``[0]``,
and so without values); `sparse` for gradients of the rows that occur, instead of the whole tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from torch import Tensor

__all__ = [
    "Gradients", "Hyper", "Inputs", "Options", "Outputs", "State", "Step", "Steps", "Upstream",
]  # fmt: skip

# (linear [batch], crossed [batch] or [batch, k], pooled [batch, n_fields, k] or [0], S [batch, k])
Outputs: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]

# (rows, weights, factors, values): rows int64 [u], rising, and gradients [u] and [u, k] of them; or
# rows [0] and gradients [n] and [n, k]. [0] for weights or values that are not there.
Gradients: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]

# What an optimizer remembers of a table, by name: float32 tensors of the table's shape, float64 for
# a float64 table. "a" (adagrad; [n] for rowwise_adagrad), "m" and "v" (adam), "z" and "n" (ftrl).
State: TypeAlias = Mapping[str, Tensor]

# An optimizer's numbers by name: lr, l2; eps; beta1, beta2, step (adam, from 1); l1, beta (ftrl).
Hyper: TypeAlias = Mapping[str, float]


class Inputs(NamedTuple):
    """The features of a batch, and the tables that they look up.

    Attributes:
        ids: int32 or int64, ``[batch, m]``, or ``[nnz]`` with offsets.
        values: floats of ids' shape; None: all one.
        offsets: int64 ``[batch + 1]``, or None: every row has m features.
        fields: integers of ids' shape, or ``[m]``, the field of each column; None where no field is
            asked for.
        weights: ``[n]``, or None: no linear term.
        factors: ``[n, k]``.
    """

    ids: Tensor
    values: Tensor | None
    offsets: Tensor | None
    fields: Tensor | None
    weights: Tensor | None
    factors: Tensor

    @property
    def n_rows(self) -> int:
        """The batch's number of rows."""
        return self.ids.shape[0] if self.offsets is None else self.offsets.shape[0] - 1


class Options(NamedTuple):
    """What is computed of `Inputs`.

    Attributes:
        n_fields: number of fields, for `across_fields` and `pooled`.
        across_fields: whether fields are pooled before they are crossed.
        reduce_sum: whether the k numbers of the crossed term are added up.
        pooled: whether the forward pass returns the pooled vectors; on the way back their gradient
            says it.
    """

    n_fields: int
    across_fields: bool
    reduce_sum: bool
    pooled: bool = False


class Upstream(NamedTuple):
    """The gradients of `Outputs`, in their shapes; None where one is zero."""

    linear: Tensor | None
    crossed: Tensor | None
    pooled: Tensor | None
    S: Tensor | None


class Step(NamedTuple):
    """How an optimizer moves one table.

    Attributes:
        kind: "sgd", "adagrad", "rowwise_adagrad", "adam" or "ftrl".
        state: written in place.
        hyper: the numbers that the kind needs.
    """

    kind: str
    state: State
    hyper: Hyper


class Steps(NamedTuple):
    """The steps of both tables; None for linear weights that are not there."""

    weights: Step | None
    factors: Step
