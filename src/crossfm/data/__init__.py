"""From columns to Rows: fields, schema, readers. Each name loads its module on first touch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from crossfm.data.rows import Rows, RowStats

if TYPE_CHECKING:
    from crossfm.data.cache import CachedRows
    from crossfm.data.encoding import Counts
    from crossfm.data.fields import Bag, Categorical, Numeric
    from crossfm.data.frames import to_arrow
    from crossfm.data.infer import Guess
    from crossfm.data.inputs import as_rows, iter_rows
    from crossfm.data.recent import recent_items
    from crossfm.data.relations import RelationBlock
    from crossfm.data.schema import Schema
    from crossfm.data.streams import stream_rows
    from crossfm.data.tables import iter_tables, read_table
    from crossfm.data.text import (
        iter_libffm,
        iter_libsvm,
        read_libffm,
        read_libsvm,
        write_libffm,
        write_libsvm,
    )
    from crossfm.data.writing import rows_table, table_rows, write_table

_HOME = {
    "Bag": "crossfm.data.fields",
    "CachedRows": "crossfm.data.cache",
    "Categorical": "crossfm.data.fields",
    "Counts": "crossfm.data.encoding",
    "Guess": "crossfm.data.infer",
    "Numeric": "crossfm.data.fields",
    "RelationBlock": "crossfm.data.relations",
    "Schema": "crossfm.data.schema",
    "as_rows": "crossfm.data.inputs",
    "iter_libffm": "crossfm.data.text",
    "iter_libsvm": "crossfm.data.text",
    "iter_rows": "crossfm.data.inputs",
    "iter_tables": "crossfm.data.tables",
    "read_libffm": "crossfm.data.text",
    "read_libsvm": "crossfm.data.text",
    "read_table": "crossfm.data.tables",
    "recent_items": "crossfm.data.recent",
    "rows_table": "crossfm.data.writing",
    "stream_rows": "crossfm.data.streams",
    "table_rows": "crossfm.data.writing",
    "to_arrow": "crossfm.data.frames",
    "write_libffm": "crossfm.data.text",
    "write_libsvm": "crossfm.data.text",
    "write_table": "crossfm.data.writing",
}

__all__ = [
    "Bag",
    "CachedRows",
    "Categorical",
    "Counts",
    "Guess",
    "Numeric",
    "RelationBlock",
    "RowStats",
    "Rows",
    "Schema",
    "as_rows",
    "iter_libffm",
    "iter_libsvm",
    "iter_rows",
    "iter_tables",
    "read_libffm",
    "read_libsvm",
    "read_table",
    "recent_items",
    "rows_table",
    "stream_rows",
    "table_rows",
    "to_arrow",
    "write_libffm",
    "write_libsvm",
    "write_table",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first touch (PEP 562)."""
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    from crossfm.errors import did_you_mean

    raise AttributeError(f"crossfm.data has no {name!r}.{did_you_mean(name, __all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
