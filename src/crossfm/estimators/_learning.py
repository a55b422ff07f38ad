"""Learning a schema: from an estimator's own, or from the columns of X that are not its target."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossfm.data import inputs
from crossfm.data.infer import Guess
from crossfm.data.relations import expect_column
from crossfm.data.schema import Schema
from crossfm.errors import SchemaError

__all__ = ["learn_schema", "named", "read_table"]


def learn_schema(
    X: Any, y: Any, weight: Any, schema: Schema | None, keys: list[str]
) -> tuple[Schema, Any]:
    """A fitted schema of the estimator's own, and the table that it was fitted to."""
    names = [*named(y, weight), *keys]
    if schema is not None:
        if not isinstance(schema, Schema):
            raise SchemaError(
                f"schema is a {type(schema).__name__}, expected a Schema: Schema([...]) of fields,"
                " or Schema.infer(frame)"
            )
        table = read_table(X, [*schema.columns, *names], schema.column_types)
        for name in schema.columns:
            if name in named(y, weight) or same_column(y, table, name, named=True):
                raise SchemaError(
                    f"the target or weight {name!r} is also a field of the schema, which would"
                    " tell the model the answer; leave it out of the schema"
                )
        schema = schema.copy()
        return (schema if schema.is_fitted else schema.fit(table)), table
    table = read_table(X, None)
    for name in keys:
        expect_column(table, name, "X, in which relation blocks are looked up,")
    exclude = named(y, weight)
    for name in table.column_names:
        if name not in exclude and any(same_column(one, table, name) for one in (y, weight)):
            exclude.append(name)
    learned = Schema.infer(table, exclude)
    learned.guesses = [
        *learned.guesses,
        *(Guess(name, "left out", "the target, or the weight of rows") for name in exclude),
    ]
    return learned.fit(table), table


def same_column(y: Any, table: Any, name: str, named: bool = False) -> bool:
    """Whether y is this very column: a Series of its name, or equal in every row."""
    if y is None or isinstance(y, str):
        return False
    is_named = str(getattr(y, "name", None)) == name
    if is_named and not named:
        return True
    if named and not is_named:
        return False
    try:
        given = np.asarray(y)
        if given.shape != (table.num_rows,) or given.dtype.kind not in "OUSfiub":
            return False
        column = table.column(name)
        if column.null_count or table.num_rows < 2:
            return False
        values = column.to_numpy()
        if (given.dtype.kind in "fiub") != (values.dtype.kind in "fiub"):
            return False
        return bool((values == given).all()) and not bool((given == given[0]).all())
    except (TypeError, ValueError, NotImplementedError):
        return False


def read_table(X: Any, columns: list[str] | None, types: Any = None) -> Any:
    unique = None if columns is None else list(dict.fromkeys(columns))
    return inputs.as_table(X, unique, types, dictionaries=True)


def named(*given: Any) -> list[str]:
    return [name for name in given if isinstance(name, str)]
