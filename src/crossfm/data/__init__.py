"""From columns to Rows: fields, schema, readers. Each name loads its module on first touch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from crossfm.data.rows import Rows, RowStats

if TYPE_CHECKING:
    from crossfm.data.encoding import Counts
    from crossfm.data.fields import Bag, Categorical, Numeric
    from crossfm.data.infer import Guess
    from crossfm.data.schema import Schema

_HOME = {
    "Bag": "crossfm.data.fields",
    "Categorical": "crossfm.data.fields",
    "Counts": "crossfm.data.encoding",
    "Guess": "crossfm.data.infer",
    "Numeric": "crossfm.data.fields",
    "Schema": "crossfm.data.schema",
}

__all__ = ["Bag", "Categorical", "Counts", "Guess", "Numeric", "RowStats", "Rows", "Schema"]


def __getattr__(name: str) -> Any:
    """Load a public name, or a module of this package, on first touch (PEP 562)."""
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"crossfm.data has no {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
