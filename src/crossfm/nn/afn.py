"""AFN: products of powers of the fields' vectors, the powers learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.nn.batch import Batch
from crossfm.nn.embedding import FieldEmbedding
from crossfm.nn.network import Network, check_sizes
from crossfm.nn.towers import MLP

__all__ = ["AFN", "LogarithmicLayer"]


@final
class LogarithmicLayer(nn.Module):
    r"""Neurons that multiply powers of the fields' vectors: ``h_j = prod_f |p_f|^(w_jf)``.

    Computed as ``exp(sum_f w_jf ln max(|p_f|, eps))``, factor by factor: negative numbers lose
    their sign, and zeros (a field of which a row has nothing) count as `eps`.

    Args:
        n_fields: F.
        n_neurons: number of products.
        norm: whether logarithms and products are normalised over the batch.
        eps: the smallest number.
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Shapes:
        - input: ``[batch, n_fields, k]``;
        - output: ``[batch, n_neurons, k]``.

    Raises:
        DataError: sizes below 1, an `eps` that is not above 0.

    Example:
        >>> layer = LogarithmicLayer(2, 1, norm=False)
        >>> _ = nn.init.constant_(layer.powers.weight, 2.0)
        >>> layer(torch.tensor([[[3.0], [-2.0]]])).round().tolist()
        [[[36.0]]]

    Source: Cheng, Shen and Huang 2020, section "Logarithmic Transformation Layer".
    """

    def __init__(
        self,
        n_fields: int,
        n_neurons: int,
        norm: bool = True,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_sizes(n_neurons=n_neurons)
        if not eps > 0:
            raise DataError(f"eps is {eps!r}, expected a number above 0")
        self.eps = eps
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.powers = nn.Linear(n_fields, n_neurons, bias=False, **place)
        nn.init.normal_(self.powers.weight, std=0.1)
        self.log_norm = nn.BatchNorm1d(n_fields, **place) if norm else nn.Identity()
        self.product_norm = nn.BatchNorm1d(n_neurons, **place) if norm else nn.Identity()

    def forward(self, p: Tensor) -> Tensor:
        """``[batch, n_fields, k]`` to ``[batch, n_neurons, k]``."""
        logs = self.log_norm(p.abs().clamp(min=self.eps).log())
        products = self.powers(logs.transpose(1, 2)).transpose(1, 2).exp()
        out: Tensor = self.product_norm(products)
        return out


@final
class AFN(Network):
    r"""A dense tower on products of powers of the fields' vectors.

    ``y = w0 + MLP([h_1, ..., h_n])``, ``h_j = prod_f |p_f|^(w_jf)``; see `LogarithmicLayer`. The
    powers are learned, and with them the degree of what is multiplied. With `parallel_hidden`, a
    dense tower on vectors of its own joins (AFN+): ``y = w0 + a y_1 + b y_2``, a and b learned.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id; rows that carry fields do without.
        n_fields: number of fields F; None: as many as `field_of` names.
        n_neurons: number n of products.
        log_norm: whether logarithms and products are normalised over the batch.
        hidden: sizes of the tower's layers.
        parallel_hidden: sizes of the layers of the second tower; None: there is none.
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
        >>> network = AFN(6, 4, field_of=[0, 0, 0, 1, 1, 1], n_neurons=5, hidden=(8,))
        >>> network(torch.tensor([[0, 3], [2, 5]])).shape
        torch.Size([2])

    Source: Cheng, Shen and Huang 2020, Adaptive Factorization Network: Learning Adaptive-Order
    Feature Interactions; AFN+: section "Ensemble AFN with DNN".
    """

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        *,
        n_neurons: int = 400,
        log_norm: bool = True,
        hidden: Sequence[int] = (400, 400, 400),
        parallel_hidden: Sequence[int] | None = None,
        dropout: float = 0.0,
        batch_norm: bool = False,
        activation: str = "relu",
        **options: Any,
    ) -> None:
        super().__init__(n_features, n_factors, field_of, n_fields, linear=False, **options)
        place = self.placement
        tower: dict[str, Any] = {
            "dropout": dropout, "batch_norm": batch_norm, "activation": activation, **place,
        }  # fmt: skip
        self.products = LogarithmicLayer(self.n_fields, n_neurons, log_norm, **place)
        self.tower = MLP(n_neurons * n_factors, hidden, **tower)
        self.parallel_embedding = self.parallel_tower = self.mix = None
        if parallel_hidden is not None:
            self.parallel_embedding = FieldEmbedding(
                n_features, n_factors, field_of, self.n_fields, linear=False,
                init_scale=self.embedding.init_scale, sparse_grad=self.embedding.sparse_grad,
                **place,
            )  # fmt: skip
            self.parallel_tower = MLP(self.n_fields * n_factors, parallel_hidden, **tower)
            self.mix = nn.Parameter(torch.full((2,), 0.5, **place))

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""
        x = self.embedding.batch(x)
        h = self.products(self.embedding(x))  # [batch, neurons, k]
        logits = self.tower(h.flatten(1)).squeeze(1)
        if self.parallel_tower is not None:
            assert self.parallel_embedding is not None
            assert self.mix is not None
            p = self.parallel_embedding(x)  # [batch, fields, k]
            logits = self.mix[0] * logits + self.mix[1] * self.parallel_tower(p.flatten(1)).squeeze(
                1
            )
        return self.bias + logits
