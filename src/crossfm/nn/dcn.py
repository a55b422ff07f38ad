"""Deep & Cross v2: layers that multiply the input into what they were given, and a dense tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.errors import DataError, did_you_mean
from crossfm.nn.batch import Batch
from crossfm.nn.network import Network, check_sizes
from crossfm.nn.towers import MLP

__all__ = ["CrossLayer", "CrossMixture", "DCNv2"]

STRUCTURES = ("parallel", "stacked")


@final
class CrossLayer(nn.Module):
    r"""``x0 * (W x + b) + x``: one more degree of products with the input x0.

    With a rank r the matrix is ``W = U V^T``, U and V of r columns.

    Args:
        n_in: size of x0 and x.
        rank: r; None: a full matrix.
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input: x0 and x, ``[batch, n_in]``;
        - output: ``[batch, n_in]``.

    Example:
        >>> CrossLayer(6, rank=2)(torch.ones(3, 6), torch.zeros(3, 6)).shape
        torch.Size([3, 6])

    Source: Wang et al. 2021, eq. 1 and 2.
    """

    def __init__(
        self,
        n_in: int,
        rank: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.linear: nn.Module
        if rank is None:
            self.linear = nn.Linear(n_in, n_in, device=device, dtype=dtype)
        else:
            self.linear = nn.Sequential(
                nn.Linear(n_in, rank, bias=False, device=device, dtype=dtype),
                nn.Linear(rank, n_in, device=device, dtype=dtype),
            )

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """``[batch, n_in]``."""
        out: Tensor = x0 * self.linear(x) + x
        return out


@final
class CrossMixture(nn.Module):
    r"""``sum_e G_e(x) E_e(x) + x``: experts of low rank, weighed by what they are given.

    ``E_e(x) = x0 * (U_e tanh(C_e tanh(V_e^T x)) + b)`` and ``G = softmax(A x)``. All experts are
    computed at once.

    Args:
        n_in: size of x0 and x.
        rank: columns r of U and V.
        n_experts: number of experts.
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input: x0 and x, ``[batch, n_in]``;
        - output: ``[batch, n_in]``.

    Example:
        >>> CrossMixture(6, rank=2, n_experts=3)(torch.ones(3, 6), torch.zeros(3, 6)).shape
        torch.Size([3, 6])

    Source: Wang et al. 2021, eq. 3 and 4, with softmax gates.
    """

    def __init__(
        self,
        n_in: int,
        rank: int,
        n_experts: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()

        def matrices(rows: int, columns: int) -> nn.Parameter:
            drawn = torch.empty(n_experts, rows, columns, device=device, dtype=dtype)
            nn.init.uniform_(drawn, -(columns**-0.5), columns**-0.5)
            return nn.Parameter(drawn)

        self.V = matrices(rank, n_in)  # V^T of the formula
        self.C = matrices(rank, rank)
        self.U = matrices(n_in, rank)
        self.b = nn.Parameter(torch.zeros(n_in, device=device, dtype=dtype))
        self.gate = nn.Linear(n_in, n_experts, bias=False, device=device, dtype=dtype)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """``[batch, n_in]``."""
        h = torch.tanh(torch.einsum("bn,ern->ber", x, self.V))
        h = torch.tanh(torch.einsum("ber,esr->bes", h, self.C))  # [batch, experts, rank]
        h = h * self.gate(x).softmax(-1)[:, :, None]  # the gates add up to 1: b needs none
        out: Tensor = x0 * (torch.einsum("ber,enr->bn", h, self.U) + self.b) + x
        return out


@final
class DCNv2(Network):
    r"""Layers that cross the fields' vectors to a higher degree each, and a dense tower.

    ``x_0 = [p_1, ..., p_F]``, ``x_{l+1} = x_0 * (W_l x_l + b_l) + x_l``, then

    - "parallel": ``y = w0 + <a, [x_L, MLP(x_0)]>``;
    - "stacked": ``y = w0 + <a, MLP(x_L)>``.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields F; None: as many as `field_of` names.
        n_layers: number L of cross layers.
        structure: "parallel" or "stacked".
        rank: of the matrices W (eq. 2 of the paper); None: full matrices, ``(F k)^2`` numbers each.
        n_experts: from 2 on each layer is a mixture of experts of that rank (eq. 4).
        hidden: sizes of the tower's layers; None: no tower, ``y = w0 + <a, x_L>``.
        dropout: in the tower.
        batch_norm: in the tower.
        activation: in the tower; see `crossfm.nn.MLP`.
        options: ``init_scale``, ``sparse_grad``, ``device``, ``dtype``; see
            `crossfm.nn.network.Network`.

    Shapes:
        - input: `Batch`, `crossfm.Rows`, or int32 or int64 ids ``[batch, m]``;
        - output: logits ``[batch]``.

    Raises:
        DataError: arguments that do not fit together, an unknown structure.

    Example:
        >>> network = DCNv2(6, 4, field_of=[0, 0, 0, 1, 1, 1], rank=2, n_experts=4, hidden=(8,))
        >>> network(torch.tensor([[0, 3], [2, 5]])).shape
        torch.Size([2])

    Source: Wang et al. 2021, DCN V2: Improved Deep & Cross Network and Practical Lessons for
    Web-scale Learning to Rank Systems, eq. 1 to 4.
    """

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        *,
        n_layers: int = 3,
        structure: Literal["parallel", "stacked"] = "parallel",
        rank: int | None = None,
        n_experts: int = 1,
        hidden: Sequence[int] | None = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
        **options: Any,
    ) -> None:
        if structure not in STRUCTURES:
            raise DataError(
                f"structure is {structure!r}, expected one of {', '.join(STRUCTURES)}."
                f"{did_you_mean(str(structure), STRUCTURES)}"
            )
        check_sizes(n_layers=n_layers, rank=1 if rank is None else rank, n_experts=n_experts)
        if n_experts > 1 and rank is None:
            raise DataError(f"n_experts is {n_experts}, and experts need a rank=...")
        super().__init__(n_features, n_factors, field_of, n_fields, linear=False, **options)
        n_in, place = self.n_fields * n_factors, self.placement
        self.cross = nn.ModuleList(
            CrossMixture(n_in, rank, n_experts, **place)
            if rank is not None and n_experts > 1
            else CrossLayer(n_in, rank, **place)
            for _ in range(n_layers)
        )
        self.structure = structure
        self.tower = None
        n_out = n_in
        if hidden is not None:
            self.tower = MLP(
                n_in, hidden, 0, dropout=dropout, batch_norm=batch_norm, activation=activation,
                **place,
            )  # fmt: skip
            n_out = self.tower.n_out + (n_in if structure == "parallel" else 0)
        self.output = nn.Linear(n_out, 1, bias=False, **place)

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        x0 = self.embedding(x).flatten(1)  # [batch, fields * k]
        h = x0
        for layer in self.cross:
            h = layer(x0, h)
        if self.tower is not None:
            h = self.tower(h) if self.structure == "stacked" else torch.cat([h, self.tower(x0)], 1)
        return self.bias + self.output(h).squeeze(1)
