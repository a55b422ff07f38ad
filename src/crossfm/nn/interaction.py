"""PairwiseInteraction: the crossing of field vectors as a layer."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from crossfm.nn.ops.pairwise import pairwise

__all__ = ["PairwiseInteraction"]


@final
class PairwiseInteraction(nn.Module):
    r"""Sum of the products of all pairs of field vectors; no parameters.

    ``crossed = sum_{f<g} v_f * v_g = 1/2 ((sum_f v_f)^2 - sum_f v_f^2)``, in O(fields k).
    Half-precision input is summed in float32, under autocast too.

    Args:
        reduce_sum: whether to add up the k factors, which gives ``sum_{f<g} <v_f, v_g>``.

    Shapes:
        - input: ``[batch, fields, k]``, as `crossfm.nn.FieldEmbedding` gives them;
        - output: ``[batch]``, or ``[batch, k]`` with ``reduce_sum=False``, of the input's type.

    Raises:
        DataError: an input of another number of dimensions, or no floating point.

    Example:
        >>> import torch
        >>> v = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
        >>> PairwiseInteraction()(v), PairwiseInteraction(reduce_sum=False)(v)
        (tensor([67.]), tensor([[23., 44.]]))

    Source: Rendle 2010, lemma 3.1; the vector: He and Chua 2017, eq. 4.
    """

    def __init__(self, reduce_sum: bool = True) -> None:
        super().__init__()
        self.reduce_sum = reduce_sum

    def extra_repr(self) -> str:
        """Options, for ``print``."""
        return f"reduce_sum={self.reduce_sum}"

    def forward(self, v: Tensor) -> Tensor:
        """``[batch, fields, k]`` to ``[batch]`` or ``[batch, k]``."""
        return pairwise(v, self.reduce_sum)
