"""Typed errors: each message names the place, what was found, what was expected, and the remedy."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "CrossfmError",
    "DataError",
    "DatasetError",
    "DivergedError",
    "MissingExtraError",
    "ModelFileError",
    "SchemaError",
    "did_you_mean",
    "require",
]


class CrossfmError(Exception):
    """Base class of every error that crossfm raises on purpose."""


class DataError(CrossfmError, ValueError):
    """Values, shapes or text that no model can be fitted to or scored on."""


class DatasetError(CrossfmError, OSError):
    """A public data set that is neither on this machine nor to be had from its home."""


class SchemaError(CrossfmError, ValueError):
    """Columns that do not fit the schema, or a schema that does not fit itself."""


class ModelFileError(CrossfmError, ValueError):
    """A model file that is truncated, altered, foreign, or of an unknown version."""


class DivergedError(CrossfmError, ArithmeticError):
    """A fit whose loss left the finite numbers. The message says what to change."""


class MissingExtraError(CrossfmError, ImportError):
    """An optional dependency is absent. The message holds the command that installs it."""


def did_you_mean(name: object, candidates: Iterable[object]) -> str:
    """Return a hint that names the closest candidate, or an empty string.

    >>> did_you_mean("usr", ["user", "item"])
    " Did you mean 'user'?"
    >>> did_you_mean("zzz", ["user", "item"])
    ''
    """
    close = difflib.get_close_matches(str(name), [str(c) for c in candidates], n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or raise with the command that installs it.

    >>> require("math", "plot").sqrt(4.0)
    2.0
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is there, something that it imports is not
        raise MissingExtraError(
            f"this needs {module!r}, which is not installed: pip install 'crossfm[{extra}]'"
        ) from error
