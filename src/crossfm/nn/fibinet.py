"""FiBiNET: fields weighed by how much they matter, then crossed through matrices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.errors import DataError, did_you_mean
from crossfm.nn.batch import Batch
from crossfm.nn.network import Network, check_sizes
from crossfm.nn.pairs import field_pairs, keep_numbers
from crossfm.nn.towers import MLP

__all__ = ["SENET", "BilinearInteraction", "FiBiNET"]

BILINEAR = ("all", "each", "interaction")


@final
class SENET(nn.Module):
    r"""Weights of the fields, from their means: ``a_f p_f``, ``a = relu(B relu(A z))``.

    ``z_f`` is the mean of the k numbers of ``p_f``; A brings F means down to ``F // reduction``.

    Args:
        n_fields: F.
        reduction: by how much A shortens.
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input, output: ``[batch, n_fields, k]``.

    Raises:
        DataError: a reduction below 1.

    Example:
        >>> SENET(6, reduction=3)(torch.zeros(5, 6, 4)).shape
        torch.Size([5, 6, 4])

    Source: Huang, Zhang and Zhang 2019, section 3.3.
    """

    def __init__(
        self,
        n_fields: int,
        reduction: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(reduction=reduction)
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        short = max(1, n_fields // reduction)
        self.shorten = nn.Linear(n_fields, short, bias=False, **place)
        self.weigh = nn.Linear(short, n_fields, bias=False, **place)

    def forward(self, p: Tensor) -> Tensor:
        """``[batch, n_fields, k]``."""
        a = torch.relu(self.weigh(torch.relu(self.shorten(p.mean(2)))))  # [batch, fields]
        return a[:, :, None] * p


@final
class BilinearInteraction(nn.Module):
    r"""``(W p_f) * p_g`` of all pairs of fields f < g.

    W is one matrix ("all"), one for each f ("each"), or one for each pair ("interaction").

    Args:
        n_fields: F, 2 or more.
        n_factors: k.
        kind: "all", "each" or "interaction".
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input: ``[batch, n_fields, k]``;
        - output: ``[batch, F (F - 1) / 2, k]``, pairs by rising f, then g.

    Raises:
        DataError: fewer than two fields, an unknown kind.

    Example:
        >>> BilinearInteraction(3, 4, "each")(torch.zeros(5, 3, 4)).shape
        torch.Size([5, 3, 4])

    Source: Huang, Zhang and Zhang 2019, section 3.4.
    """

    pairs: Tensor

    def __init__(
        self,
        n_fields: int,
        n_factors: int,
        kind: Literal["all", "each", "interaction"] = "interaction",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kind not in BILINEAR:
            raise DataError(
                f"bilinear is {kind!r}, expected one of {', '.join(BILINEAR)}."
                f"{did_you_mean(str(kind), BILINEAR)}"
            )
        if n_fields < 2:
            raise DataError(f"a bilinear interaction of {n_fields} field: it takes 2 or more")
        self.kind = kind
        keep_numbers(self, "pairs", partial(field_pairs, n_fields), device)
        self.n_pairs = self.pairs.shape[1]
        count = {"all": 1, "each": n_fields - 1, "interaction": self.n_pairs}[kind]
        W = torch.empty(count, n_factors, n_factors, device=device, dtype=dtype)
        bound = (3 / n_factors) ** 0.5  # Glorot's, for each matrix
        self.W = nn.Parameter(nn.init.uniform_(W, -bound, bound))

    def forward(self, p: Tensor) -> Tensor:
        """``[batch, n_fields, k]`` to ``[batch, pairs, k]``."""
        f, g = self.pairs
        right = p.index_select(1, g)  # [batch, pairs, k]
        if self.kind == "interaction":
            left = torch.einsum("bpk,plk->bpl", p.index_select(1, f), self.W)
        else:  # a field is multiplied once, whatever the number of its pairs
            W = self.W.expand(p.shape[1] - 1, -1, -1)
            left = torch.einsum("bfk,flk->bfl", p[:, :-1], W).index_select(1, f)
        return left * right


@final
class FiBiNET(Network):
    r"""A linear model, and a dense tower on bilinear products of plain and of weighed fields.

    ``y = w0 + sum_i w_i x_i + MLP([B(p_1, ..., p_F), B(SENET(p_1, ..., p_F))])``, ``p_f`` the
    pooled vectors of the fields, B `BilinearInteraction`, the same matrices for both.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields F, 2 or more; None: as many as `field_of` names.
        bilinear: "all", "each" or "interaction"; see `BilinearInteraction`.
        reduction: of `SENET`.
        hidden: sizes of the tower's layers.
        dropout: in the tower.
        batch_norm: in the tower.
        activation: in the tower; see `crossfm.nn.MLP`.
        options: ``init_scale``, ``sparse_grad``, ``device``, ``dtype``; see
            `crossfm.nn.network.Network`.

    Shapes:
        - input: `Batch`, `crossfm.Rows`, or int32 or int64 ids ``[batch, m]``;
        - output: logits ``[batch]``.

    Raises:
        DataError: arguments that do not fit together.

    Example:
        >>> network = FiBiNET(6, 4, field_of=[0, 0, 0, 1, 1, 1], bilinear="all", hidden=(8,))
        >>> network(torch.tensor([[0, 3], [2, 5]])).shape
        torch.Size([2])

    Source: Huang, Zhang and Zhang 2019, FiBiNET: Combining Feature Importance and Bilinear Feature
    Interaction for Click-Through Rate Prediction, sections 3.3 to 3.6.
    """

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        *,
        bilinear: Literal["all", "each", "interaction"] = "interaction",
        reduction: int = 3,
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
        **options: Any,
    ) -> None:
        super().__init__(n_features, n_factors, field_of, n_fields, **options)
        self.senet = SENET(self.n_fields, reduction, **self.placement)
        self.bilinear = BilinearInteraction(self.n_fields, n_factors, bilinear, **self.placement)
        self.tower = MLP(
            2 * self.bilinear.n_pairs * n_factors, hidden, dropout=dropout, batch_norm=batch_norm,
            activation=activation, **self.placement,
        )  # fmt: skip

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        linear, _, p = self.embedding.cross(x, pooled=True)
        assert p is not None
        h = torch.cat([self.bilinear(p), self.bilinear(self.senet(p))], 1)  # [batch, 2 pairs, k]
        return self.bias + linear + self.tower(h.flatten(1)).squeeze(1)
