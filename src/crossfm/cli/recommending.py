"""What ``crossfm recommend`` does: read the query, search the catalogue, show or write the best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from crossfm.cli.errors import usage_error
from crossfm.cli.format import plural
from crossfm.cli.output import Screen
from crossfm.cli.training import check_writable
from crossfm.cli.writing import ENDINGS, sink, writer
from crossfm.data import inputs
from crossfm.data.fields import Bag, Numeric
from crossfm.errors import DataError, did_you_mean
from crossfm.serving.served import Served
from crossfm.serving.settings import Settings

__all__ = ["recommend_many", "recommend_one"]

AT_ONCE = 10_000  # queries
MOST_COLUMNS = 4  # of the items, beside the id
OPTIONS = (
    "--items",
    "--queries",
    "--exclude",
    "--only",
    "--item-fields",
    "--id",
    "--out",
    "--json",
)


def recommend_one(
    settings: Settings,
    words: Sequence[str],
    k: int,
    exclude: list[str],
    only: list[str] | None,
    screen: Screen,
) -> None:
    """The best items for a query of the command line.

    Raises:
        ModelFileError, DataError, SchemaError: as `Served.load`; a number that is none.
    """
    served = Served.load(settings)
    assert served.shop is not None
    query = _query(served, words)
    top = served.shop.recommend([query], k, exclude=exclude, only=only)
    there = np.isfinite(top.scores[0])
    ids, scores = top.ids[0][there], served.shown(top.scores[0][there])
    table = served.shop.catalogue.table
    assert table is not None
    names = [name for name in table.column_names if name != served.shop.id]
    columns = served.columns(ids, names) if len(ids) else {name: [] for name in names}
    screen.object(
        {
            "model": str(settings.model),
            "query": query,
            "items": [
                {"rank": rank + 1, served.shop.id: id, "score": float(score),
                 **{name: columns[name][rank] for name in names}}
                for rank, (id, score) in enumerate(zip(ids.tolist(), scores, strict=True))
            ],
        }
    )  # fmt: skip
    missing = [name for name, value in query.items() if value is None]
    if missing:
        screen.note(f"not given, so unknown: {', '.join(missing)}")
    for line in _strangers(served, query, [*exclude, *(only or ())]):
        screen.warn(line)
    shown = names[:MOST_COLUMNS]
    screen.result_table(
        ("", "score", served.shop.id, *shown),
        [
            (rank + 1, f"{score:.4f}", id, *(_cell(columns[name][rank]) for name in shown))
            for rank, (id, score) in enumerate(zip(ids.tolist(), scores, strict=True))
        ],
        right=("", "score"),
        footer="" if len(ids) == k else f"{plural(len(ids), 'item')} in all",
    )


def recommend_many(
    settings: Settings,
    queries: Path,
    k: int,
    exclude: list[str],
    only: list[str] | None,
    out: str,
    screen: Screen,
) -> None:
    """The best items for each query of a file, a row an item, whole or not at all.

    Raises:
        ModelFileError, DataError, SchemaError: as `Served.load`; the output cannot be written.
    """
    if out != "-":
        if not out.endswith(ENDINGS):
            usage_error(f"--out {out}: its name must end in one of {', '.join(ENDINGS)}, or be -")
        assert settings.items is not None
        check_writable(Path(out), keep=[settings.model, settings.items, queries])
    served = Served.load(settings)
    shop = served.shop
    assert shop is not None
    table = inputs.as_table(queries, None, served.estimator.schema_.column_types)
    if not table.num_rows:
        raise DataError(f"{queries} has no rows")
    own = [name for name in table.column_names if name in served.query_columns]
    names = (*own, "rank", shop.id, "score")
    if len(set(names)) < len(names):
        raise DataError(f"the output would have two columns of one name: {', '.join(names)}")
    with sink(out) as file, writer(out, file) as write, screen.busy("searching") as say:
        for low in range(0, table.num_rows, AT_ONCE):
            part = table.slice(low, AT_ONCE)
            top = shop.recommend(part, k, exclude=exclude, only=only)
            row, rank = np.nonzero(np.isfinite(top.scores))
            columns = {name: part.column(name).take(row) for name in own}
            columns["rank"] = pa.array(rank + 1)
            columns[shop.id] = pa.array(top.ids[row, rank].tolist())
            columns["score"] = pa.array(served.shown(top.scores[row, rank]))
            write(pa.table(columns))
            say(f"{plural(min(low + AT_ONCE, table.num_rows), 'query')} answered")
    if out != "-":
        screen.note(f"{out}: the best {k} items for {table.num_rows:,} queries")
    screen.object({"model": str(settings.model), "out": out, "n_queries": table.num_rows, "k": k})


def _query(served: Served, words: Sequence[str]) -> dict[str, Any]:
    """The query that options by the names of fields make; None where there is none."""
    assert served.small is not None
    assert served.small.records is not None
    fields = {one.name: one for one in served.small.records.fields}
    given = _options(words)
    query: dict[str, Any] = dict.fromkeys(sorted(served.query_columns))
    for name, text in given.items():
        if name in served.item_columns and name not in query:
            usage_error(f"--{name} describes the items, which --items has")
        if name not in query:
            known = [f"--{one}" for one in query] + list(OPTIONS)
            usage_error(
                f"no option --{name}.{did_you_mean(f'--{name}', known)} The query's fields are"
                f" {', '.join(query)}"
            )
        one = fields.get(name)
        if one is None or (
            isinstance(one, Bag) and one.sep is None
        ):  # weights, or values, of a bag
            query[name] = [part.strip() for part in text.split(",") if part.strip()]
        elif isinstance(one, Numeric):
            try:
                query[name] = float(text)
            except ValueError as error:
                raise DataError(f"--{name} is {text!r}, expected a number") from error
        else:
            query[name] = text
    for one in fields.values():  # bags without weights told: all alike
        if isinstance(one, Bag) and one.weights in query and query[one.weights] is None:
            values = query[one.name]
            query[one.weights] = None if values is None else [1.0] * len(values)
    return query


def _strangers(served: Served, query: dict[str, Any], ids: list[str]) -> list[str]:
    """What the model has not seen, and what no item is called."""
    assert served.small is not None
    assert served.small.records is not None
    assert served.shop is not None
    lines = []
    schema = served.estimator.schema_
    for name in served.query_fields:
        if query[name] is None:
            continue
        unknown = schema.block(name)[0]
        if unknown in served.small.records.transform([query], fields=[name]).ids:
            lines.append(f"the model does not know {name} {_cell(query[name])}")
    nobody = [id for id in ids if not len(served.shop.catalogue.places([id]))]
    if nobody:
        lines.append(f"no item has the {served.shop.id} {', '.join(nobody[:10])}")
    return lines


def _options(words: Sequence[str]) -> dict[str, str]:
    """``--name value`` and ``--name=value``."""
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--") or len(name) < 3:
            usage_error(f"{word!r} is no option; a query is given as --FIELD VALUE")
        if not equals:
            if not rest:
                usage_error(f"{name} needs a value")
            value = rest.pop(0)
        if name[2:] in found:
            usage_error(f"{name} is given twice")
        found[name[2:]] = value
    return found


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
