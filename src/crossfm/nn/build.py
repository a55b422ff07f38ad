"""Networks by name, for those who choose by name."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from torch import nn

from crossfm.errors import DataError, did_you_mean
from crossfm.nn.network import Network, sizes_of

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["build", "network_class", "networks"]

# name: (module of crossfm.nn, class). A module is imported when its network is asked for.
NETWORKS = {
    "fm": ("fm", "FactorizationMachine"),
    "hofm": ("hofm", "HigherOrderFM"),
    "ffm": ("ffm", "FieldAwareFM"),
    "fwfm": ("fwfm", "FwFM"),
    "fmfm": ("fmfm", "FmFM"),
    "afm": ("afm", "AttentionalFM"),
    "nfm": ("nfm", "NeuralFM"),
    "deepfm": ("deepfm", "DeepFM"),
    "wide_deep": ("wide_deep", "WideDeep"),
    "fnn": ("fnn", "FNN"),
    "pnn": ("pnn", "PNN"),
    "dcn": ("dcn", "DCNv2"),
    "xdeepfm": ("xdeepfm", "XDeepFM"),
    "autoint": ("autoint", "AutoInt"),
    "afn": ("afn", "AFN"),
    "fibinet": ("fibinet", "FiBiNET"),
    "finalmlp": ("finalmlp", "FinalMLP"),
}
FROM_SCHEMA = ("n_features", "field_of", "n_fields")


def networks() -> list[str]:
    """The names that `build` takes: shallow networks first.

    >>> networks()[:3], "finalmlp" in networks()
    (['fm', 'hofm', 'ffm'], True)
    """
    return list(NETWORKS)


def network_class(name: str) -> type[nn.Module]:
    """The class of a network.

    Args:
        name: one of `networks`, or the name of the class, in any case: "dcn" or "DCNv2".

    Raises:
        DataError: an unknown name.

    Example:
        >>> network_class("dcn").__name__
        'DCNv2'
    """
    by_name = {found.lower(): short for short, (_, found) in NETWORKS.items()} | {
        short: short for short in NETWORKS
    }
    if not isinstance(name, str) or name.lower() not in by_name:
        raise DataError(
            f"no network {name!r}; there are {', '.join(NETWORKS)}."
            f"{did_you_mean(str(name).lower(), NETWORKS)}"
        )
    module, found = NETWORKS[by_name[name.lower()]]
    of: type[nn.Module] = getattr(importlib.import_module(f"crossfm.nn.{module}"), found)
    return of


def build(name: str, schema: Schema, *, n_factors: int = 16, **options: Any) -> nn.Module:
    """A network for the rows of a fitted schema, chosen by name.

    Args:
        name: one of `networks`.
        schema: fitted; says how many features there are and which field each belongs to.
        n_factors: length k of each feature's vector.
        options: of the network's class.

    Returns:
        An untrained network: rows of the schema in, logits ``[batch]`` out.

    Raises:
        DataError: an unknown name or option, something else than a schema.
        SchemaError: a schema that is not fitted.

    Example:
        >>> import pandas as pd
        >>> from crossfm import Categorical, Schema
        >>> frame = pd.DataFrame({"user": ["ann", "bob"], "item": ["pen", "ink"]})
        >>> schema = Schema([Categorical("user"), Categorical("item")]).fit(frame)
        >>> network = build("deepfm", schema, n_factors=4, hidden=(8,))
        >>> network(schema.transform(frame)).shape
        torch.Size([2])
    """
    of = network_class(name)
    known = [option for option in _options(of) if option not in FROM_SCHEMA]
    for option in options:
        if option in FROM_SCHEMA:
            raise DataError(f"{option} comes from the schema; leave it out")
        if option not in known:
            raise DataError(
                f"{of.__name__} has no option {option!r}; there are {', '.join(known)}."
                f"{did_you_mean(option, known)}"
            )
    n_features, field_of, n_fields = sizes_of(schema)
    if "n_fields" in _options(of):
        options["n_fields"] = n_fields
    return of(n_features, n_factors, field_of=field_of, **options)


def _options(of: type[nn.Module]) -> list[str]:
    """The arguments of a class's constructor, those that it hands on to its base included."""
    found: dict[str, None] = {}
    for part in of.__mro__:
        constructor = vars(part).get("__init__")
        if constructor is None:
            continue
        arguments = inspect.signature(constructor).parameters.values()
        found.update(
            (argument.name, None)
            for argument in arguments
            if argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY)
            and (part is not Network or argument.name != "linear")  # each network knows by itself
        )
        if not any(argument.kind is argument.VAR_KEYWORD for argument in arguments):
            break
    return [name for name in found if name not in ("self", "n_factors")]
