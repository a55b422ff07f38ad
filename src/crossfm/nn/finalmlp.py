"""FinalMLP: two dense towers on gated fields, fused by a bilinear form."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.nn.batch import Batch
from crossfm.nn.network import Network, check_sizes
from crossfm.nn.pairs import keep_numbers
from crossfm.nn.towers import MLP

__all__ = ["BilinearFusion", "FeatureGate", "FinalMLP"]


@final
class FeatureGate(nn.Module):
    r"""``2 sigmoid(MLP(c)) * h``: what of the fields' vectors goes on, by a context c.

    The context are the vectors of some fields, or, without any, k learned numbers.

    Args:
        n_fields: F.
        n_factors: k.
        fields: numbers of the context's fields.
        hidden: sizes of the hidden layers.
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input: ``[batch, n_fields, k]``;
        - output: ``[batch, n_fields * k]``.

    Raises:
        DataError: fields that are not there.

    Example:
        >>> FeatureGate(3, 4, fields=[0])(torch.zeros(5, 3, 4)).shape
        torch.Size([5, 12])

    Source: Mao et al. 2023, section "Stream-Specific Feature Selection".
    """

    fields: Tensor

    def __init__(
        self,
        n_fields: int,
        n_factors: int,
        fields: Sequence[int] = (),
        hidden: Sequence[int] = (64,),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if any(not 0 <= field < n_fields for field in fields):
            raise DataError(
                f"gate_fields holds {list(fields)}, expected numbers from 0 to {n_fields - 1}"
            )
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        keep_numbers(self, "fields", partial(_integers, list(fields)), device)
        self.context = None if fields else nn.Parameter(torch.randn(n_factors, **place) * 0.01)
        self.mlp = MLP(
            max(1, len(fields)) * n_factors, hidden, n_fields * n_factors, **place
        )  # fmt: skip

    def forward(self, p: Tensor) -> Tensor:
        """``[batch, n_fields, k]`` to ``[batch, n_fields * k]``."""
        if self.context is None:
            context = p.index_select(1, self.fields).flatten(1)
        else:
            context = self.context[None]
        out: Tensor = 2 * torch.sigmoid(self.mlp(context)) * p.flatten(1)
        return out


@final
class BilinearFusion(nn.Module):
    r"""``<a, h> + <b, g> + sum_j h_j^T W_j g_j``, ``h_j`` and ``g_j`` the j-th of n equal parts.

    Args:
        n_left: size of h, a multiple of `n_heads`.
        n_right: size of g, a multiple of `n_heads`.
        n_heads: number of parts.
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input: h ``[batch, n_left]`` and g ``[batch, n_right]``;
        - output: ``[batch]``.

    Raises:
        DataError: sizes that `n_heads` does not divide.

    Example:
        >>> BilinearFusion(6, 4, n_heads=2)(torch.zeros(5, 6), torch.zeros(5, 4)).shape
        torch.Size([5])

    Source: Mao et al. 2023, section "Stream-Level Interaction Aggregation".
    """

    def __init__(
        self,
        n_left: int,
        n_right: int,
        n_heads: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(n_heads=n_heads)
        if n_left % n_heads or n_right % n_heads:
            raise DataError(
                f"n_heads is {n_heads}, which does not divide the last layers of {n_left} and"
                f" {n_right}"
            )
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.left = nn.Linear(n_left, 1, bias=False, **place)
        self.right = nn.Linear(n_right, 1, bias=False, **place)
        i, j = n_left // n_heads, n_right // n_heads
        bound = (6 / (i + j)) ** 0.5  # Glorot's, for each part
        self.W = nn.Parameter(
            nn.init.uniform_(torch.empty(n_heads, i, j, **place), -bound, bound)
        )  # fmt: skip

    def forward(self, h: Tensor, g: Tensor) -> Tensor:
        """``[batch]``."""
        heads, i, j = self.W.shape
        h_parts = h.reshape(-1, heads, i)  # [batch, heads, size]
        g_parts = g.reshape(-1, heads, j)
        crossed = torch.einsum("bhi,hij,bhj->b", h_parts, self.W, g_parts)
        out: Tensor = (self.left(h) + self.right(g)).squeeze(1) + crossed
        return out


@final
class FinalMLP(Network):
    r"""Two dense towers, each on its own choice of the fields' vectors, fused.

    ``y = w0 + fusion(MLP_1(gate_1(p_1, ..., p_F)), MLP_2(gate_2(p_1, ..., p_F)))``, ``p_f`` the
    pooled vectors of the fields; see `FeatureGate` and `BilinearFusion`.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields F; None: as many as `field_of` names.
        hidden: sizes of the first tower's layers.
        second_hidden: sizes of the second tower's layers; None: as the first.
        n_heads: parts of the fusion; divides the last size of both towers.
        gates: whether the towers' inputs are gated.
        gate_fields: fields by which the two gates decide (the user's, the item's); none: learned.
        gate_hidden: sizes of the gates' hidden layers.
        dropout: in the towers.
        batch_norm: in the towers.
        activation: in the towers; see `crossfm.nn.MLP`.
        options: ``init_scale``, ``sparse_grad``, ``device``, ``dtype``; see
            `crossfm.nn.network.Network`.

    Shapes:
        - input: `Batch`, `crossfm.Rows`, or int32 or int64 ids ``[batch, m]``;
        - output: logits ``[batch]``.

    Raises:
        DataError: arguments that do not fit together.

    Example:
        >>> network = FinalMLP(6, 4, field_of=[0, 0, 0, 1, 1, 1], hidden=(8,), n_heads=2)
        >>> network(torch.tensor([[0, 3], [2, 5]])).shape
        torch.Size([2])

    Source: Mao et al. 2023, FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction.
    """

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        *,
        hidden: Sequence[int] = (400, 400, 400),
        second_hidden: Sequence[int] | None = None,
        n_heads: int = 1,
        gates: bool = True,
        gate_fields: tuple[Sequence[int], Sequence[int]] = ((), ()),
        gate_hidden: Sequence[int] = (64,),
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
        **options: Any,
    ) -> None:
        if len(gate_fields) != 2:
            raise DataError(f"gate_fields holds {len(gate_fields)} lists of fields, expected 2")
        super().__init__(n_features, n_factors, field_of, n_fields, linear=False, **options)
        place = self.placement
        self.gates = nn.ModuleList(
            FeatureGate(self.n_fields, n_factors, fields, gate_hidden, **place)
            if gates
            else nn.Flatten(1)
            for fields in gate_fields
        )
        towers = [
            MLP(
                self.n_fields * n_factors, sizes, 0, dropout=dropout, batch_norm=batch_norm,
                activation=activation, **place,
            )
            for sizes in (hidden, hidden if second_hidden is None else second_hidden)
        ]  # fmt: skip
        self.towers = nn.ModuleList(towers)
        self.fusion = BilinearFusion(towers[0].n_out, towers[1].n_out, n_heads, **place)

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        p = self.embedding(x)  # [batch, fields, k]
        h, g = (tower(gate(p)) for tower, gate in zip(self.towers, self.gates, strict=True))
        logits: Tensor = self.bias + self.fusion(h, g)
        return logits


def _integers(numbers: list[int], device: torch.device | str | None = None) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=device)
