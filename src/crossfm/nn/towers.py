"""MLP: the dense tower of the deep networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, final

import torch
from torch import Tensor, nn

from crossfm.errors import DataError, did_you_mean

__all__ = ["ACTIVATIONS", "MLP", "dropout_layer"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),  # of a fresh tensor that nobody else holds
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}


@final
class MLP(nn.Module):
    """A stack of ``dropout(activation(norm(W h + b)))``, and a last linear layer.

    Args:
        n_in: size of the input.
        hidden: sizes of the hidden layers; none: a linear layer.
        n_out: size of the output; 0: the last hidden layer is the output.
        dropout: chance of a hidden number to be dropped in training.
        activation: "relu", "gelu", "silu", "tanh" or "identity".
        batch_norm: whether to normalise before each activation.
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input: ``[..., n_in]`` (``[batch, n_in]`` with `batch_norm`);
        - output: ``[..., n_out]``; `n_out` the attribute is the true size.

    Raises:
        DataError: sizes below 1, a dropout outside 0 to 1, an unknown activation.

    Example:
        >>> MLP(8, (16, 4), n_out=1)(torch.zeros(3, 8)).shape
        torch.Size([3, 1])
        >>> MLP(8, (16, 4), n_out=0).n_out
        4
    """

    def __init__(
        self,
        n_in: int,
        hidden: Sequence[int] = (400, 400, 400),
        n_out: int = 1,
        *,
        dropout: float = 0.0,
        activation: str = "relu",
        batch_norm: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not _is_list(hidden):
            raise DataError(
                f"hidden is {hidden!r}, expected the size of each hidden layer, such as (400, 400)"
            )
        hidden = tuple(hidden)
        if not all(map(_is_size, (n_in, *hidden, n_out or 1))):
            raise DataError(
                f"layers of {n_in!r}, {list(hidden)} and {n_out!r}: sizes are integers of 1 or more"
            )
        check_share("dropout", dropout)
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise DataError(
                f"activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}."
                f"{did_you_mean(str(activation), ACTIVATIONS)}"
            )
        layers: list[nn.Module] = []
        size = n_in
        for width in hidden:
            layers.append(nn.Linear(size, width, device=device, dtype=dtype))
            if batch_norm:
                layers.append(nn.BatchNorm1d(width, device=device, dtype=dtype))
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(nn.Dropout(dropout))
            size = width
        if n_out:
            layers.append(nn.Linear(size, n_out, device=device, dtype=dtype))
        self.layers = nn.Sequential(*layers)
        self.n_in, self.n_out = n_in, n_out or size

    def forward(self, h: Tensor) -> Tensor:
        """``[..., n_in]`` to ``[..., n_out]``."""
        out: Tensor = self.layers(h)
        return out


def dropout_layer(dropout: float, name: str = "dropout") -> nn.Module:
    """A layer that drops numbers in training, or one that does nothing.

    >>> dropout_layer(0.5), dropout_layer(0)
    (Dropout(p=0.5, inplace=False), Identity())
    """
    check_share(name, dropout)
    return nn.Dropout(dropout) if dropout else nn.Identity()


def check_share(name: str, share: float) -> None:
    """DataError where a dropout is not 0 or more and less than 1."""
    if not _is_share(share):
        raise DataError(f"{name} is {share!r}, expected 0 or more and less than 1")


def _is_list(hidden: Any) -> bool:
    return isinstance(hidden, Iterable) and not isinstance(hidden, str)


def _is_size(size: Any) -> bool:
    return not isinstance(size, bool) and isinstance(size, Integral) and int(size) >= 1


def _is_share(share: Any) -> bool:
    return isinstance(share, Real) and 0 <= float(share) < 1
