"""PNN: products of the fields' vectors beside the vectors themselves, into a dense tower."""

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
from crossfm.nn.network import Network
from crossfm.nn.pairs import field_pairs, keep_numbers
from crossfm.nn.towers import MLP

__all__ = ["PNN", "InnerProducts", "OuterProduct"]

PRODUCTS = ("inner", "outer", "both")


@final
class InnerProducts(nn.Module):
    """``<p_f, p_g>`` of all pairs of fields f < g: ``[batch, fields, k]`` to ``[batch, pairs]``.

    >>> InnerProducts(3)(torch.tensor([[[1.0], [2.0], [3.0]]])).tolist()
    [[2.0, 3.0, 6.0]]
    """

    place: Tensor

    def __init__(self, n_fields: int, device: torch.device | str | None = None) -> None:
        super().__init__()
        keep_numbers(self, "place", partial(_above_diagonal, n_fields), device)
        self.n_out = len(self.place)

    def forward(self, p: Tensor) -> Tensor:
        """``[batch, fields, k]`` to ``[batch, pairs]``."""
        return (p @ p.transpose(1, 2)).flatten(1).index_select(1, self.place)


@final
class OuterProduct(nn.Module):
    """``s s^T`` of the fields' sum ``s``: ``[batch, fields, k]`` to ``[batch, k * k]``.

    >>> OuterProduct(2)(torch.tensor([[[1.0, 0.0], [1.0, 3.0]]])).tolist()
    [[4.0, 6.0, 6.0, 9.0]]
    """

    def __init__(self, n_factors: int) -> None:
        super().__init__()
        self.n_out = n_factors * n_factors

    def forward(self, p: Tensor) -> Tensor:
        """``[batch, fields, k]`` to ``[batch, k * k]``."""
        s = p.sum(1)  # [batch, k]
        return (s[:, :, None] * s[:, None, :]).flatten(1)


@final
class PNN(Network):
    r"""A dense tower on the fields' vectors and on their products.

    ``y = w0 + MLP([p_1, ..., p_F, products])``, ``p_f`` the pooled vectors of the fields, products

    - "inner" (IPNN): ``<p_f, p_g>`` for all f < g;
    - "outer" (OPNN): ``s s^T`` of ``s = sum_f p_f``, the sum of all outer products;
    - "both".

    The first layer of the tower is the paper's ``relu(l_z + l_p + b)``, its two matrices side by
    side. A pair (f, f) and the mirror image of a pair are left out.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields F; None: as many as `field_of` names.
        product: "inner", "outer" or "both".
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
        DataError: arguments that do not fit together, an unknown product.

    Example:
        >>> network = PNN(6, 4, field_of=[0, 0, 0, 1, 1, 1], product="outer", hidden=(8,))
        >>> network(torch.tensor([[0, 3], [2, 5]])).shape
        torch.Size([2])

    Source: Qu et al. 2016, Product-based Neural Networks for User Response Prediction, eq. 1 to 6,
    sections III-B (inner) and III-C (outer, by superposition).
    """

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        *,
        product: Literal["inner", "outer", "both"] = "inner",
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
        **options: Any,
    ) -> None:
        if product not in PRODUCTS:
            raise DataError(
                f"product is {product!r}, expected one of {', '.join(PRODUCTS)}."
                f"{did_you_mean(str(product), PRODUCTS)}"
            )
        super().__init__(n_features, n_factors, field_of, n_fields, linear=False, **options)
        products: list[InnerProducts | OuterProduct] = []
        if product in ("inner", "both"):
            products.append(InnerProducts(self.n_fields, self.bias.device))
        if product in ("outer", "both"):
            products.append(OuterProduct(n_factors))
        self.products = nn.ModuleList(products)
        n_products = sum(part.n_out for part in products)
        self.tower = MLP(
            self.n_fields * n_factors + n_products, hidden, dropout=dropout, batch_norm=batch_norm,
            activation=activation, **self.placement,
        )  # fmt: skip

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        p = self.embedding(x)  # [batch, fields, k]
        parts = [p.flatten(1), *(part(p) for part in self.products)]
        return self.bias + self.tower(torch.cat(parts, 1)).squeeze(1)


def _above_diagonal(n_fields: int, device: torch.device | str | None = None) -> Tensor:
    """Where the pairs f < g stand in a matrix ``[F, F]`` that is laid out flat: ``[pairs]``.

    >>> _above_diagonal(3).tolist()
    [1, 2, 5]
    """
    f, g = field_pairs(n_fields, device)
    return f * n_fields + g
