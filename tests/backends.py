"""The DataFrame libraries under test: one way in for a dict of columns, run by a fixture.

@pytest.fixture(params=BACKENDS)
def constructor(request): return BACKENDS[request.param]
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa

Columns = dict[str, list[Any]]


def _pandas_objects(columns: Columns) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(v, dtype=object) for name, v in columns.items()})


def _pandas_nullable(columns: Columns) -> pd.DataFrame:
    """Nullable types, so that integers with missing values stay integers; an odd index."""
    frame = _pandas_objects(columns).convert_dtypes()
    frame.index = pd.RangeIndex(100, 100 + len(frame))
    return frame


def _pandas_numpy(columns: Columns) -> pd.DataFrame:
    """What pandas makes of it: integers with missing values become floats."""
    return pd.DataFrame(columns)


def _pandas_arrow(columns: Columns) -> pd.DataFrame:
    return pa.table(columns).to_pandas(types_mapper=pd.ArrowDtype)


def _chunked(columns: Columns) -> pa.Table:
    table = pa.table(columns)
    cut = table.num_rows // 3
    return pa.concat_tables([table.slice(0, cut), table.slice(cut, 0), table.slice(cut)])


def _encoded(columns: Columns) -> pa.Table:
    """Dictionary-encoded columns, of strings with 32-bit offsets, sliced from a longer table."""
    arrays = {}
    for name, values in columns.items():
        array = pa.array([None, *values, None])
        if not pa.types.is_nested(array.type) and not pa.types.is_null(array.type):
            array = array.dictionary_encode()
        arrays[name] = array[1:-1]
    return pa.table(arrays)


BACKENDS: dict[str, Any] = {
    "pandas": _pandas_numpy,
    "pandas object": _pandas_objects,
    "pandas nullable": _pandas_nullable,
    "pandas arrow": _pandas_arrow,
    "polars": pl.DataFrame,
    "polars lazy": pl.LazyFrame,
    "pyarrow": pa.table,
    "pyarrow chunked": _chunked,
    "pyarrow encoded": _encoded,
    "pyarrow batch": lambda columns: pa.RecordBatch.from_pydict(columns),
    "columns": dict,
}
