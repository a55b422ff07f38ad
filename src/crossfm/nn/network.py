"""Network: what all networks share: an embedding, a bias, one kind of input, logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.nn.batch import Batch
from crossfm.nn.embedding import FieldEmbedding, whole_number

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["Network", "check_sizes", "sizes_of"]


class Network(nn.Module, ABC):
    """Base of the networks: tables in ``embedding``, a ``bias``; a subclass adds ``forward``.

    Args:
        n_features: number of feature ids.
        n_factors: length k of each feature's vector.
        field_of: ``[n_features]``, the field of each id.
        n_fields: number of fields; None: as many as `field_of` names.
        linear: whether features have linear weights.
        interactions: "all" or "across_fields", for networks with a crossed term.
        init_scale: standard deviation of the initial vectors.
        sparse_grad: as in `crossfm.nn.FieldEmbedding`.
        device: of the parameters.
        dtype: of the parameters; None: PyTorch's default.

    Raises:
        DataError: arguments that do not fit together.
    """

    def __init__(
        self,
        n_features: int,
        n_factors: int,
        field_of: ArrayLike | Tensor | None = None,
        n_fields: int | None = None,
        *,
        linear: bool = True,
        interactions: Literal["all", "across_fields"] = "across_fields",
        init_scale: float = 0.01,
        sparse_grad: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if field_of is None and n_fields is None:
            raise DataError(
                f"{type(self).__name__} needs to know its fields: field_of=..., or n_fields=... for"
                " rows that carry fields"
            )
        self.embedding = FieldEmbedding(
            n_features, n_factors, field_of, n_fields, linear=linear, interactions=interactions,
            init_scale=init_scale, sparse_grad=sparse_grad, device=device, dtype=dtype,
        )  # fmt: skip
        self.bias = nn.Parameter(torch.zeros((), device=device, dtype=dtype))

    @property
    def n_features(self) -> int:
        """Number of feature ids."""
        return self.embedding.n_features

    @property
    def n_factors(self) -> int:
        """Length of each feature's vector."""
        return self.embedding.n_factors

    @property
    def n_fields(self) -> int:
        """Number of fields."""
        return self.embedding.n_fields

    @property
    def placement(self) -> dict[str, Any]:
        """``device`` and ``dtype`` of the parameters, for layers that join them."""
        return {"device": self.bias.device, "dtype": self.bias.dtype}

    @classmethod
    def from_schema(cls, schema: Schema, n_factors: int = 16, **options: Any) -> Self:
        """A network for the rows of a fitted schema.

        Args:
            schema: fitted; its ``n_features_`` and ``field_of_`` are taken.
            n_factors: length k of each feature's vector.
            options: of the constructor.

        Raises:
            SchemaError: a schema that is not fitted.
            DataError: something else than a schema.
        """
        n_features, field_of, n_fields = sizes_of(schema)
        return cls(n_features, n_factors, field_of, n_fields, **options)

    @abstractmethod
    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch]``."""


def check_sizes(**sizes: int) -> None:
    """DataError for a size that is not an integer of 1 or more, by its name.

    >>> check_sizes(n_layers=2)
    """
    for name, size in sizes.items():
        whole_number(name, size)


def sizes_of(schema: Schema) -> tuple[int, NDArray[np.int32], int]:
    """``(n_features, field_of, n_fields)`` of a fitted schema."""
    n_features = getattr(schema, "n_features_", None)  # says itself when it is not fitted
    if n_features is None:
        raise DataError(f"schema is {type(schema).__name__}, expected a fitted crossfm.Schema")
    return n_features, schema.field_of_, len(schema.field_names)
