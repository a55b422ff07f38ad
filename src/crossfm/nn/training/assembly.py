"""A network made ready for data: built by name, placed, started; its weights as arrays."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossfm.data.rows import Rows
from crossfm.data.schema import Schema
from crossfm.errors import DataError
from crossfm.nn.batch import Batch
from crossfm.nn.build import build

__all__ = ["Layout", "OnePerClass", "arrays_of", "assemble", "choose_device", "put_arrays"]


class Layout(NamedTuple):
    """What a network has to know of its rows; named as in `crossfm.Schema`.

    Attributes:
        n_features_: number of feature ids.
        field_of_: int32 ``[n_features_]``, the field of each id.
        field_names: the fields' names, F of them.
    """

    n_features_: int
    field_of_: NDArray[np.int32]
    field_names: list[str]


@final
class OnePerClass(nn.Module):
    """A network a class, their logits side by side ``[batch, C]``, for a softmax.

    Args:
        networks: of one output each.

    Example:
        >>> from crossfm.nn.deepfm import DeepFM
        >>> networks = [DeepFM(4, 2, field_of=[0, 0, 1, 1], hidden=(3,)) for _ in range(3)]
        >>> OnePerClass(networks)(torch.tensor([[0, 2], [1, 3]])).shape
        torch.Size([2, 3])
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Rows | Tensor | Batch) -> Tensor:
        """Logits ``[batch, C]``."""
        return torch.stack([network(x) for network in self.networks], dim=1)


def choose_device(name: str | torch.device) -> torch.device:
    """The device of a name; "auto": a CUDA GPU where there is one, else the CPU.

    Raises:
        DataError: an unknown name, or a device that this machine does not have.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if isinstance(name, str) and name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise DataError(
            f"device is {name!r}, which cannot be had here: {reason}. Expected 'auto', 'cpu',"
            " 'cuda' or 'cuda:N'"
        ) from error
    if device.type == "meta":
        raise DataError(
            "device is 'meta', where tensors have no numbers to learn. Expected 'auto', 'cpu',"
            " 'cuda' or 'cuda:N'"
        )
    return device


def assemble(
    network: str | nn.Module | Callable[..., nn.Module],
    layout: Layout | Schema,
    *,
    n_factors: int,
    n_outputs: int = 1,
    options: Mapping[str, Any] | None = None,
    start: Sequence[float] = (),
    seed: int = 0,
    device: str | torch.device = "auto",
) -> nn.Module:
    """A network for rows of a layout, ready to be trained.

    Args:
        network: a name of `crossfm.nn.build`; a module, which is copied; or what makes one of
            ``(n_features, n_factors, field_of=..., n_fields=..., **options)``.
        layout: sizes and fields.
        n_factors: length of each feature's vector.
        n_outputs: more than one: a network a class (a module has to have them itself).
        options: of the network.
        start: first value of the bias of each output, where the network has one.
        seed: of the parameters; the program's own random state stays.
        device: where the network goes.

    Raises:
        DataError: an unknown name or option, a device that is not there, something else than a
            module.
    """
    place = choose_device(device)
    given = dict(options or {})
    if "n_factors" in given:
        raise DataError("network_options hold n_factors, which is a parameter of its own")

    def make() -> nn.Module:
        if isinstance(network, str):
            return build(network, cast(Schema, layout), n_factors=n_factors, **given)
        return cast(Callable[..., nn.Module], network)(
            layout.n_features_, n_factors, field_of=layout.field_of_,
            n_fields=len(layout.field_names), **given,
        )  # fmt: skip

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if isinstance(network, nn.Module):
            if given:
                raise DataError(
                    f"network_options are for a network that is still to be made; this"
                    f" {type(network).__name__} has its own already"
                )
            made = copy.deepcopy(network)
            known = getattr(made, "n_features", layout.n_features_)
            if isinstance(known, int) and known < layout.n_features_:
                raise DataError(
                    f"this {type(network).__name__} has {known} features, the data have"
                    f" {layout.n_features_}"
                )
        elif isinstance(network, str) or callable(network):
            parts = [make() for _ in range(n_outputs)]
            made = parts[0] if n_outputs == 1 else OnePerClass(parts)
        else:
            raise DataError(
                f"network is {network!r}, expected a name, a torch.nn.Module, or a function that"
                " makes one"
            )
    if not isinstance(made, nn.Module):
        raise DataError(f"network made a {type(made).__name__}, expected a torch.nn.Module")
    if not isinstance(network, nn.Module):
        heads = list(made.networks) if isinstance(made, OnePerClass) else [made]
        with torch.no_grad():
            for head, value in zip(heads, start, strict=False):
                bias = getattr(head, "bias", None)
                if isinstance(bias, Tensor) and bias.numel() == 1:
                    bias.fill_(float(value))
    return made.to(place)


def arrays_of(network: nn.Module) -> dict[str, NDArray[Any]]:
    """Parameters and buffers by name; half precision as float32."""
    found = {}
    for name, part in network.state_dict().items():
        part = part.detach().cpu()
        wide = part.dtype in (torch.bfloat16, torch.float16)
        found[name] = (part.float() if wide else part).numpy()
    return found


def put_arrays(network: nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put arrays back where `arrays_of` took them.

    Raises:
        ValueError: names or shapes that are not this network's.
    """
    own = network.state_dict()
    if own.keys() != arrays.keys():
        differing = sorted(own.keys() ^ arrays.keys())
        raise ValueError(f"{differing[:4]} are in the file or in the network, but not in both")
    with torch.no_grad():
        for name, part in own.items():
            if tuple(part.shape) != arrays[name].shape:
                raise ValueError(
                    f"{name} is {list(arrays[name].shape)} in the file, {list(part.shape)} in the"
                    " network"
                )
            part.copy_(torch.from_numpy(arrays[name].copy()))
