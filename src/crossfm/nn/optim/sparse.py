"""Optimizers that touch only the rows of a table that have a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from crossfm.nn.ops.arguments import Step
from crossfm.nn.optim.rules import check_options, fresh_state, kind_options, rates, update

__all__ = ["FTRL", "AdaGrad", "LazyAdam", "RowOptimizerBase", "RowwiseAdaGrad"]


class RowOptimizerBase(Optimizer):
    """Base of the optimizers of rows: the step and the states; a subclass names its kind.

    Gradients are sparse by row (coalesced or not), or dense: of a dense gradient the rows count
    that are not all zero. Other rows, and their state, are neither read nor written.
    """

    kind: ClassVar[str]

    def __init__(self, params: Iterable[Any], **options: Any) -> None:
        super().__init__(params, kind_options(self.kind, options))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """One more group of tables, with options of its own."""
        check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the rows that have a gradient.

        Args:
            closure: computes the loss anew, and its gradients; None: they are there.

        Returns:
            What `closure` returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._step(table, table.grad, group)
        return loss

    def _step(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table]
        if not state:
            state["step"] = 0
            state.update(fresh_state(self.kind, _rows_of(table), group))
        state["step"] += 1
        rows, grad = _touched(gradient)
        if len(rows):
            tensors = {name: part for name, part in state.items() if isinstance(part, Tensor)}
            step = Step(self.kind, tensors, rates(group, state["step"]))
            update(rows, grad, _rows_of(table.detach()), step)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of an optimizer of the same tables, in the type that it has."""
        super().load_state_dict(state_dict)  # casts states to the type of the tables
        saved = state_dict["state"]
        order = [index for group in state_dict["param_groups"] for index in group["params"]]
        tables = [table for group in self.param_groups for table in group["params"]]
        for index, table in zip(order, tables, strict=True):
            for name, part in saved.get(index, {}).items():
                if isinstance(part, Tensor):
                    self.state[table][name] = part.to(table.device, copy=True)


@final
class RowwiseAdaGrad(RowOptimizerBase):
    r"""AdaGrad with one accumulator a row: of a table ``[n, k]`` it keeps n numbers.

    ``a_i += mean_k(g_i^2)``, ``p_i -= lr g_i / (sqrt(a_i) + eps)``, ``g = dL/dp + l2 p``, for the
    rows i that have a gradient. For a table ``[n]`` it is `AdaGrad`.

    Args:
        params: tables ``[n]`` or ``[n, k]``, or groups of them.
        lr: step size.
        l2: penalty ``l2/2 |p_i|^2`` of the rows that are touched, when they are.
        eps: keeps the first step finite.
        initial_accumulator: a at the start.

    Raises:
        DataError: a number out of range.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(3, 2))
        >>> table.grad = torch.tensor([[0.0, 0.0], [3.0, 3.0], [0.0, 0.0]]).to_sparse(1)
        >>> RowwiseAdaGrad([table], lr=0.5).step()
        >>> table.tolist()
        [[1.0, 1.0], [0.5, 0.5], [1.0, 1.0]]

    Source: Duchi et al. 2011; by rows: Mudigere et al. 2022, section 4.1.
    """

    kind = "rowwise_adagrad"

    def __init__(
        self, params: Iterable[Any], lr: float = 0.05, l2: float = 0.0, eps: float = 1e-10,
        initial_accumulator: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(params, lr=lr, l2=l2, eps=eps, initial_accumulator=initial_accumulator)


@final
class AdaGrad(RowOptimizerBase):
    r"""AdaGrad on the rows that have a gradient.

    ``a += g^2``, ``p -= lr g / (sqrt(a) + eps)``, ``g = dL/dp + l2 p``, number by number.

    Args:
        params: tables ``[n]`` or ``[n, k]``, or groups of them.
        lr: step size.
        l2: penalty ``l2/2 |p_i|^2`` of the rows that are touched, when they are.
        eps: keeps the first step finite.
        initial_accumulator: a at the start.

    Raises:
        DataError: a number out of range.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(3))
        >>> table.grad = torch.tensor([0.0, 2.0, 0.0])
        >>> AdaGrad([table], lr=0.5).step()
        >>> table.tolist()
        [1.0, 0.5, 1.0]

    Source: Duchi et al. 2011.
    """

    kind = "adagrad"

    def __init__(
        self, params: Iterable[Any], lr: float = 0.05, l2: float = 0.0, eps: float = 1e-10,
        initial_accumulator: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(params, lr=lr, l2=l2, eps=eps, initial_accumulator=initial_accumulator)


@final
class LazyAdam(RowOptimizerBase):
    r"""Adam whose moments stand still where a row has no gradient.

    ``m = b1 m + (1 - b1) g``, ``v = b2 v + (1 - b2) g^2``,
    ``p -= lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)``, ``g = dL/dp + l2 p``, t the number of
    steps that the table has taken. Adam proper moves every row at every step.

    Args:
        params: tables ``[n]`` or ``[n, k]``, or groups of them.
        lr: step size.
        betas: ``(b1, b2)``.
        eps: keeps the division finite.
        l2: penalty ``l2/2 |p_i|^2`` of the rows that are touched, when they are.

    Raises:
        DataError: a number out of range.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(3))
        >>> table.grad = torch.tensor([0.0, 2.0, 0.0])
        >>> LazyAdam([table], lr=0.5, eps=0.0).step()
        >>> table.tolist()
        [1.0, 0.5, 1.0]

    Source: Kingma and Ba 2015, algorithm 1.
    """

    kind = "adam"

    def __init__(
        self, params: Iterable[Any], lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, l2: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(params, lr=lr, betas=betas, eps=eps, l2=l2)


@final
class FTRL(RowOptimizerBase):
    r"""FTRL-proximal: weights that are exactly zero unless they earn their place.

    ``z += g - (sqrt(n + g^2) - sqrt(n)) / lr p``, ``n += g^2``,
    ``p = -shrink(z, l1) / ((beta + sqrt(n)) / lr + l2)``, ``shrink(z, l1) = sign(z) max(|z| - l1,
    0)``. z starts such that p does not move before its first gradient.

    Args:
        params: tables ``[n]`` or ``[n, k]``, or groups of them.
        lr: step size (alpha of the paper), more than 0.
        l1: what z has to exceed.
        l2: added to the curvature.
        beta: keeps the first steps small.
        initial_accumulator: n at the start.

    Raises:
        DataError: a number out of range.

    Example:
        >>> table = torch.nn.Parameter(torch.zeros(3))
        >>> table.grad = torch.tensor([0.5, 3.0, 0.0])
        >>> FTRL([table], lr=1.0, l1=1.0).step()
        >>> table.tolist()
        [-0.0, -0.5, 0.0]

    Source: McMahan et al. 2013, algorithm 1.
    """

    kind = "ftrl"

    def __init__(
        self, params: Iterable[Any], lr: float = 0.1, l1: float = 0.0, l2: float = 0.0,
        beta: float = 1.0, initial_accumulator: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr=lr, l1=l1, l2=l2, beta=beta, initial_accumulator=initial_accumulator
        )


def _rows_of(table: Tensor) -> Tensor:
    """A single number is a table of one row."""
    return table.view(1) if table.dim() == 0 else table


def _touched(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Rows, rising and each once, and their gradients."""
    if grad.is_sparse:
        if grad.sparse_dim() != 1:
            return _touched(grad.to_dense())
        rows = grad._indices()[0]
        if not bool((rows[1:] > rows[:-1]).all()):  # autograd forgets that they rise
            grad = grad.coalesce()
        return grad._indices()[0], grad._values()
    grad = _rows_of(grad)
    rows = (grad if grad.dim() == 1 else grad.flatten(1).any(1)).nonzero().squeeze(1)
    return rows, grad[rows]
