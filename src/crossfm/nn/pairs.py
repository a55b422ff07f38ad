"""The pairs of fields, as numbers to gather by: no network loops over them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from crossfm.errors import DataError

__all__ = ["check_fields_meet", "field_pairs", "keep_numbers", "pair_matrix", "pair_places"]


def field_pairs(n_fields: int, device: torch.device | str | None = None) -> Tensor:
    """All pairs f < g of fields: int64 ``[2, pairs]``, by rising f, then g.

    >>> field_pairs(3).tolist()
    [[0, 0, 1], [1, 2, 2]]
    """
    return torch.triu_indices(n_fields, n_fields, 1, device=device)


def pair_places(n_fields: int, device: torch.device | str | None = None) -> Tensor:
    """The number of the pair (f, g) at ``f * n_fields + g``; where f >= g, the number of pairs.

    >>> pair_places(3).view(3, 3).tolist()
    [[3, 0, 1], [3, 3, 2], [3, 3, 3]]
    """
    f, g = field_pairs(n_fields, device)
    places = torch.full((n_fields * n_fields,), len(f), device=device)
    places[f * n_fields + g] = torch.arange(len(f), device=device)
    return places


def pair_matrix(parameters: Tensor, places: Tensor) -> Tensor:
    """Parameters of pairs, ``[pairs, ...]``, above the diagonal of a matrix ``[F, F, ...]``.

    Multiplying by it takes O(F k) memory a row, where the pairs side by side take O(F^2 k).

    >>> pair_matrix(torch.tensor([1.0, 2.0, 3.0]), pair_places(3)).tolist()
    [[0.0, 1.0, 2.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]]
    """
    n_fields = round(places.numel() ** 0.5)
    rest = parameters.shape[1:]
    padded = torch.cat([parameters, parameters.new_zeros(1, *rest)])
    return padded.index_select(0, places).view(n_fields, n_fields, *rest)


def keep_numbers(
    module: nn.Module, name: str, make: Callable[..., Tensor], device: torch.device | str | None
) -> None:
    """A buffer that follows from sizes alone: not in ``state_dict()``, made anew after loading.

    Else it would hold what memory held before, in a module that is made on the device "meta" and
    filled from a file.

    Args:
        module: gets the buffer.
        name: of the buffer.
        make: makes it, given ``device=``; to be pickled with the module.
        device: where it goes first.

    Example:
        >>> module = nn.Module()
        >>> keep_numbers(module, "pairs", partial(field_pairs, 3), "meta")
        >>> _ = module.to_empty(device="cpu").load_state_dict({})
        >>> module.pairs.tolist()
        [[0, 0, 1], [1, 2, 2]]
    """
    module.register_buffer(name, make(device=device), persistent=False)
    module.register_load_state_dict_post_hook(partial(_make_anew, name, make))  # type: ignore[no-untyped-call]


def _make_anew(name: str, make: Callable[..., Tensor], module: nn.Module, _: object) -> None:
    place = getattr(module, name).device
    setattr(module, name, make(device="cpu" if place.type == "meta" else place))


def check_fields_meet(network: str, options: dict[str, Any]) -> None:
    """DataError where a network that has parameters for pairs of fields is to cross features.

    >>> check_fields_meet("FwFM", {"interactions": "across_fields"})
    """
    found = options.get("interactions", "across_fields")
    if found != "across_fields":
        raise DataError(
            f"interactions is {found!r}, and {network} crosses the pooled vectors of its fields:"
            " leave it at 'across_fields'"
        )
