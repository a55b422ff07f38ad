"""fuse_optimizer: tables that take their step within the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from crossfm.errors import DataError
from crossfm.nn.embedding import table_parameters
from crossfm.nn.optim.rules import fresh_state, kind_options, rates

__all__ = ["FusedOptimizer", "fuse_optimizer", "fused_optimizer", "split_parameters", "unfuse"]


Groups = tuple[dict[str, Any], dict[str, Any]]


@final
class ModuleStep:
    """The optimizer of one module's tables: what the fused backward pass asks (`RowOptimizer`).

    It belongs to the module, so that a deep copy of a model has an optimizer, with its state.

    Args:
        module: with a method ``tables()``.
        kind: of optimizer.
        groups: options of vectors and of linear weights, shared by the modules of a model.
    """

    def __init__(self, module: nn.Module, kind: str, groups: Groups) -> None:
        self.module, self.kind, self.groups = module, kind, groups
        self.step = 0
        self.states: dict[int, dict[str, Tensor]] = {}  # by the table's place in tables()

    def begin_step(self) -> None:
        """One more step."""
        self.step += 1

    def hyper_of(self, table: Tensor) -> dict[str, float]:
        """The rates of a table: linear weights ``[n]`` have their own l1 and l2."""
        return rates(self._group(table), self.step)

    def state_of(self, table: Tensor) -> dict[str, Tensor]:
        """The state of a table, made at its first use; it follows the table's device and type."""
        place = self._place(table)
        state = self.states.get(place)
        if state is None:
            state = self.states[place] = fresh_state(self.kind, table, self._group(table))
        for name, part in state.items():
            wide = torch.float64 if table.dtype == torch.float64 else torch.float32
            if part.device != table.device or part.dtype != wide:
                state[name] = part.to(table.device, wide)
        return state

    def _group(self, table: Tensor) -> dict[str, Any]:
        return self.groups[table.dim() == 1]

    def _place(self, table: Tensor) -> int:
        for place, own in enumerate(_tables(self.module)):
            if own is table:
                return place
        raise DataError(
            f"a table {list(table.shape)} is not of this {type(self.module).__name__}; a fused"
            " optimizer steps a module's own parameters, not those of functional_call"
        )


@final
class FusedOptimizer(Optimizer):
    """A handle on the optimizer that is fused into a model's backward pass.

    The steps happen in ``loss.backward()``: `step` and `zero_grad` do nothing, and are there so
    that learning-rate schedules and training loops take it for an optimizer. The state itself is
    the model's (``copy.deepcopy(model)`` has its own; `fused_optimizer` gives its handle).

    Attributes:
        kind: of optimizer.
        lr: the step size; to be set at any time.
        param_groups: the options of the vectors and of the linear weights.

    Example:
        >>> from crossfm.nn import FactorizationMachine
        >>> fm = FactorizationMachine(10, 4)
        >>> fused = fuse_optimizer(fm, "adagrad", lr=0.1)
        >>> schedule = torch.optim.lr_scheduler.StepLR(fused, step_size=1, gamma=0.5)
        >>> fused.step(), schedule.step(), fused.lr
        (None, None, 0.05)
    """

    def __init__(self, parts: dict[str, ModuleStep]) -> None:
        first = next(iter(parts.values()))
        self.kind, self.parts = first.kind, parts
        groups = [group for group in first.groups if group["params"]]
        super().__init__(groups, {})

    @property
    def lr(self) -> float:
        """The step size."""
        return float(self.param_groups[0]["lr"])

    @lr.setter
    def lr(self, lr: float) -> None:
        if not 0 <= lr < float("inf"):
            raise DataError(f"lr is {lr!r}, expected a finite number of 0 or more")
        for group in self.param_groups:
            group["lr"] = lr

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Nothing: the backward pass has stepped. A `closure` is called, with gradients on."""
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: fused tables have no gradients."""

    def state_dict(self) -> dict[str, Any]:
        """Kind, options and states by the names of modules; ``torch.save`` takes it."""
        return {
            "kind": self.kind,
            "groups": [
                {name: value for name, value in group.items() if name != "params"}
                for group in self.param_groups
            ],
            "modules": {
                name: {
                    "step": part.step,
                    "states": {place: dict(state) for place, state in part.states.items()},
                }
                for name, part in self.parts.items()
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where another optimizer of the same kind and of an equal model stood.

        Raises:
            DataError: another kind, other modules, or states of another shape; nothing has changed
                then.
        """
        if missing := {"kind", "modules", "groups"} - state_dict.keys():
            raise DataError(
                f"the state has no {', '.join(sorted(missing))}: expected what state_dict() of a"
                " fused optimizer gave"
            )
        kind, saved = state_dict["kind"], state_dict["modules"]
        if kind != self.kind:
            raise DataError(f"the state is of {kind!r}, this optimizer is {self.kind!r}")
        if saved.keys() != self.parts.keys():
            raise DataError(
                f"the state is of modules {sorted(saved)}, the model has {sorted(self.parts)}"
            )
        if len(state_dict["groups"]) != len(self.param_groups):
            raise DataError(
                f"the state has {len(state_dict['groups'])} groups of tables, the model"
                f" {len(self.param_groups)}"
            )
        states: dict[str, dict[int, dict[str, Tensor]]] = {}
        for name, part in self.parts.items():
            tables = _tables(part.module)
            states[name] = {}
            for place, state in saved[name]["states"].items():
                if not 0 <= place < len(tables):
                    raise DataError(
                        f"{name}: a state of table {place}, the module has {len(tables)} tables"
                    )
                table = tables[place]
                want = {
                    key: like.shape
                    for key, like in fresh_state(
                        kind, table.detach().to("meta"), part.groups[0]
                    ).items()
                }
                found = {key: tensor.shape for key, tensor in state.items()}
                if found != want:
                    raise DataError(
                        f"{name}: a state of {_shapes(found)} for a table {list(table.shape)},"
                        f" expected {_shapes(want)}"
                    )
                states[name][place] = {
                    key: tensor.to(table.device, copy=True) for key, tensor in state.items()
                }
        for name, part in self.parts.items():
            part.step, part.states = int(saved[name]["step"]), states[name]
        for group, options in zip(self.param_groups, state_dict["groups"], strict=True):
            group.update(options)


def fuse_optimizer(
    model: nn.Module,
    kind: str = "rowwise_adagrad",
    *,
    l1_linear: float | None = None,
    l2_linear: float | None = None,
    **options: Any,
) -> FusedOptimizer:
    """Let the tables of a model take their step within the backward pass.

    Each row's gradient is summed and applied in one go; none is ever stored, and only rows of the
    batch are read and written. The other parameters keep an optimizer of their own::

        fused = fuse_optimizer(model, "rowwise_adagrad", lr=0.05)
        _, dense = split_parameters(model)
        adam = torch.optim.AdamW(dense)

    ``loss.backward()`` is then a step: two backward passes before one ``adam.step()`` are two
    steps of the tables, and gradients that were scaled up for float16 arrive scaled. Not for
    ``DistributedDataParallel``, whose replicas would drift apart (the optimizers of
    `crossfm.nn.optim.sparse` step gradients after they are averaged).

    Args:
        model: a network, or any module that holds some.
        kind: "rowwise_adagrad", "adagrad", "adam" (lazy) or "ftrl".
        l1_linear: l1 of the linear weights ("ftrl"); None: as the vectors.
        l2_linear: l2 of the linear weights; None: as the vectors.
        options: of `RowwiseAdaGrad`, `AdaGrad`, `LazyAdam` or `FTRL`: ``lr``, ``l2``, ``eps``,
            ``betas``, ``l1``, ``beta``, ``initial_accumulator``.

    Returns:
        A handle: its ``lr`` can be set, ``state_dict`` saved.

    Raises:
        DataError: an unknown kind or option, a model without tables, or with an optimizer fused
            already.

    Example:
        >>> from crossfm.nn import FactorizationMachine
        >>> fm = FactorizationMachine(3, 2)
        >>> fused = fuse_optimizer(fm, "adagrad", lr=0.5)
        >>> fm(torch.tensor([[0, 2]])).sum().backward()
        >>> fm.embedding.weights.tolist(), fm.embedding.weights.grad
        ([-0.5, 0.0, -0.5], None)
    """
    given = kind_options(kind, options)
    linear = {"l1": l1_linear, "l2": l2_linear}
    linear_options = kind_options(
        kind, {**options, **{name: value for name, value in linear.items() if value is not None}}
    )
    modules = {name: part for name, part in model.named_modules() if _takes_optimizer(part)}
    if not modules:
        raise DataError(f"{type(model).__name__} holds no tables: nothing to fuse")
    owner: dict[int, str] = {}
    for name, part in modules.items():
        if part.optimizer is not None:
            raise DataError(
                f"{name or type(part).__name__} has a fused optimizer already;"
                " crossfm.nn.optim.unfuse(model) takes it off"
            )
        for table in _tables(part):
            if owner.setdefault(id(table), name) != name:
                raise DataError(
                    f"{owner[id(table)]} and {name} share a table: fused, it would have two states"
                    " that know nothing of each other; leave such a model to the optimizers of"
                    " crossfm.nn.optim"
                )
    tables = [table for part in modules.values() for table in _tables(part)]
    groups: Groups = (
        {"params": [table for table in tables if table.dim() > 1], **given},
        {"params": [table for table in tables if table.dim() == 1], **linear_options},
    )
    for part in modules.values():
        part.optimizer = ModuleStep(part, kind, groups)
    for table in tables:
        table.grad = None
    handle = fused_optimizer(model)
    assert handle is not None
    return handle


def fused_optimizer(model: nn.Module) -> FusedOptimizer | None:
    """The handle of the optimizer that is fused into a model, of a copied one too; or None."""
    parts = {
        name: part.optimizer
        for name, part in model.named_modules()
        if _takes_optimizer(part) and isinstance(part.optimizer, ModuleStep)
    }
    return FusedOptimizer(parts) if parts else None


def unfuse(model: nn.Module) -> None:
    """Take a fused optimizer off, and its state with it; tables get gradients again."""
    for part in model.modules():
        if _takes_optimizer(part):
            part.optimizer = None  # type: ignore[assignment]


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that are tables, for an optimizer of rows, and the dense rest.

    Tables of a fused optimizer are in neither list: they are taken care of, and no other optimizer
    may move them.

    Args:
        model: a network, or any module that holds some.

    Returns:
        ``(tables, dense)``.

    Example:
        >>> from crossfm.nn import FactorizationMachine
        >>> fm = FactorizationMachine(10, 4)
        >>> tables, dense = split_parameters(fm)
        >>> len(tables), len(dense)
        (2, 1)
        >>> fused = fuse_optimizer(fm)
        >>> tables, dense = split_parameters(fm)
        >>> len(tables), len(dense)
        (0, 1)
    """
    tables = table_parameters(model)
    fused = {
        id(table)
        for part in model.modules()
        if _takes_optimizer(part) and part.optimizer is not None
        for table in _tables(part)
    }
    every = {id(table) for table in tables}
    dense = [parameter for parameter in model.parameters() if id(parameter) not in every]
    return [table for table in tables if id(table) not in fused], dense


def _takes_optimizer(part: nn.Module) -> bool:
    return callable(getattr(part, "tables", None)) and hasattr(part, "optimizer")


def _tables(part: Any) -> list[nn.Parameter]:
    tables: list[nn.Parameter] = part.tables()
    return tables


def _shapes(shapes: dict[str, torch.Size]) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in shapes.items()}
