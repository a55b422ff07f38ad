"""Ranker: pre-ranking. A query's part of the score once, then the candidates' alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.data import inputs
from crossfm.data.fields import Bag
from crossfm.data.records import RecordSchema
from crossfm.data.rows import Rows, side_by_side
from crossfm.errors import DataError, SchemaError, did_you_mean
from crossfm.retrieval.places import Places
from crossfm.retrieval.retriever import Retriever
from crossfm.retrieval.topk import TopK, products
from crossfm.retrieval.vectors import Vectors, model_of

__all__ = ["Query", "Ranker"]


class Ranker:
    """Scores of some candidates for one query, as the model gives them.

    Candidates come by id, whose vectors are kept from `items`, or as raw features sent along.
    Without fields that belong to both sides a score is one dot product; with `cross_fields`
    (how often this user has seen this item) each candidate is scored in full. `mode` says which.

    Args:
        model: a `FactorModel` with a schema, or a fitted estimator that has one.
        query_fields: the model's fields that describe the query.
        item_fields: those that describe a candidate.
        cross_fields: those that need both, whose columns come with the candidates.
        items: a catalogue to take candidates from by id: a frame, dict or path, a row an item; or
            a `Retriever`, whose items are taken as they are now.
        id: the column of `items` with the ids; None: the first of `item_fields`.

    Attributes:
        mode: "vectors", or "full" where there are cross fields.

    Raises:
        SchemaError: no such field or column, fields on two sides or on none.
        DataError: an id that is there twice.

    Example:
        >>> import crossfm as cf
        >>> log = {"user": [1, 1, 2, 2], "film": ["a", "b", "b", "c"]}
        >>> model = cf.FMRegressor(4, random_state=0).fit(log, [5.0, 1.0, 2.0, 4.0])
        >>> films = {"film": ["a", "b", "c"]}
        >>> ranker = Ranker(model, query_fields="user", item_fields="film", items=films)
        >>> query = ranker.query({"user": 2})
        >>> query.rank(["c", "a"]).ids.shape
        (1, 2)
        >>> pairs = {"user": [2, 2], "film": ["c", "a"]}
        >>> bool(np.allclose(query.scores(["c", "a"]), model.predict(pairs)))
        True
    """

    def __init__(
        self,
        model: Any,
        *,
        query_fields: str | Sequence[str],
        item_fields: str | Sequence[str],
        cross_fields: str | Sequence[str] = (),
        items: Any = None,
        id: str | None = None,
    ) -> None:
        self.model = model_of(model)
        schema: Any = self.model.schema
        if schema is None:
            raise SchemaError("the model has no schema to read columns by; fit it on named columns")
        sides = [_listed(one) for one in (query_fields, item_fields, cross_fields)]
        self._query_fields, self._item_fields, self._cross_fields = sides
        self.sides = Vectors(self.model, sides[0], [*sides[1], *sides[2]])  # checks the names
        self.mode = "full" if sides[2] else "vectors"
        self._schema = schema
        self._records = schema if isinstance(schema, RecordSchema) else schema.records()
        self._places: Places | None = None
        self._rows: Rows | None = None
        self._vectors = np.empty((0, self.sides.dimension), np.float32)
        self.id = sides[1][0] if id is None else id
        if items is not None:
            self._keep(items)

    def _keep(self, items: Any) -> None:
        if isinstance(items, Retriever):
            if items.sides.item_fields != self.sides.item_fields or self.mode == "full":
                raise SchemaError("the retriever's items have other fields than the ranker's")
            self.id = items.id
            self._places = Places(items.ids, self.id)
            self._vectors = items.vectors()
            return
        plain = isinstance(self._schema, RecordSchema)
        if not plain:
            items = inputs.as_table(items, None, self._schema.column_types, dictionaries=False)
        names = list(items) if plain else items.column_names
        if self.id not in names:
            raise SchemaError(
                f"items have no column {self.id!r}.{did_you_mean(self.id, names)} They have {names}"
            )
        self._places = Places(_column(items, self.id), self.id)
        if self.mode == "full":
            self._rows = self._schema.transform(items, fields=self._item_fields)
        else:
            self._vectors = self.sides.item_vectors(items)

    def rows(self, frame: Any, fields: list[str]) -> Rows:
        """The features of some fields; records of plain values take the short way."""
        encoding = self._records if isinstance(frame, list | tuple) else self._schema
        return encoding.transform(frame, fields=fields)

    def places(self, ids: Any) -> NDArray[np.int64]:
        """The place of each id among the ranker's items.

        Raises:
            DataError: there are no items; an id that none has.
        """
        if self._places is None:
            raise DataError(
                "the ranker has no items to find ids among: give it items=..., or frames"
            )
        return self._places.of(ids)

    def query(self, query: Any) -> Query:
        """A query made ready: its part of the score is computed here, once.

        Args:
            query: one row: a dict of column: value, or a frame of one row.

        Raises:
            DataError, SchemaError: not one row, or a column that is missing.
        """
        if isinstance(query, Mapping) and self._is_record(query):
            rows = self._records.transform([query], fields=self._query_fields)
        else:
            rows = self._schema.transform(query, fields=self._query_fields)
        if len(rows) != 1:
            raise DataError(f"a query is one row, got {len(rows)}")
        return Query(self, rows)

    def _is_record(self, query: Mapping[str, Any]) -> bool:
        """Whether a dict is one row, not columns: a bag's value is a list itself."""
        for field in self._records.fields:
            value = query.get(field.name)
            if isinstance(value, list | tuple | np.ndarray):
                if not isinstance(field, Bag) or field.sep is not None:
                    return False
                return not (len(value) and isinstance(value[0], list | tuple | np.ndarray))
        return True

    def scores(self, query: Any, candidates: Any, cross: Any = None) -> NDArray[np.float32]:
        """The score of each candidate ``[n]``; see `Query.scores`."""
        return self.query(query).scores(candidates, cross)

    def rank(self, query: Any, candidates: Any, k: int | None = None, cross: Any = None) -> TopK:
        """The k best candidates; see `Query.rank`."""
        return self.query(query).rank(candidates, k, cross)


class Query:
    """A query of a `Ranker`, made ready by `Ranker.query`."""

    def __init__(self, ranker: Ranker, rows: Rows) -> None:
        self._ranker, self._rows = ranker, rows
        if ranker.mode == "vectors":
            vectors, constants = ranker.sides.of_queries(rows)
            self._vector, self._constant = vectors[0].copy(), float(constants[0])

    def scores(self, candidates: Any, cross: Any = None) -> NDArray[np.float32]:
        """The score of each candidate, ``[n]``.

        Args:
            candidates: ids of the ranker's items; or a frame or dict of columns with a row each.
            cross: a frame with the columns of the cross fields, a row a candidate, where candidates
                come by id; a frame of candidates has them itself.

        Raises:
            DataError: an id that no item has, or columns of another number of rows.
            SchemaError: a column that is missing.
        """
        ranker = self._ranker
        by_id = _are_ids(candidates)
        if ranker.mode == "vectors":
            if by_id:
                places = ranker.places(candidates)
                out = np.empty(len(places), np.float32)
                _native.dot_rows(ranker._vectors, places, self._vector, self._constant, out)
                return out
            rows = ranker.rows(candidates, ranker._item_fields)
            vectors = ranker.sides.of_items(rows)
            return products(self._vector[None], vectors)[0] + np.float32(self._constant)
        return self._in_full(candidates, cross, by_id)

    def rank(self, candidates: Any, k: int | None = None, cross: Any = None) -> TopK:
        """The k best candidates, best first, equal ones in their order; None: all.

        The ids are those given; places ``0 .. n - 1`` where a frame has no column of that name.
        """
        scores = self.scores(candidates, cross)
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise DataError(f"k is {k!r}, expected a number from 1, or None for all")
        k = len(scores) if k is None else min(k, len(scores))
        if k < len(scores):
            part = np.argpartition(-scores, k - 1)[:k] if k else np.zeros(0, np.int64)
            least = scores[part].min(initial=np.inf)
            part = np.flatnonzero(scores >= least)  # with all that equal the last one
        else:
            part = np.arange(len(scores))
        order = part[np.argsort(-scores[part], kind="stable")][:k]
        if _are_ids(candidates):
            ids = np.asarray(candidates)[order]
        else:
            named = _column(candidates, self._ranker.id)
            ids = order if named is None else named[order]
        return TopK(ids[None], scores[order][None])

    def _in_full(self, candidates: Any, cross: Any, by_id: bool) -> NDArray[np.float32]:
        """Each candidate scored with the query, where there are fields of both."""
        ranker = self._ranker
        if by_id:
            places = ranker.places(candidates)
            assert ranker._rows is not None
            items = ranker._rows.take(places)
            if cross is None:
                raise DataError(
                    "the columns " + ", ".join(map(repr, ranker._cross_fields)) + " belong to both"
                    " the query and the item: give them with cross=, a row a candidate"
                )
        else:
            items = ranker.rows(candidates, ranker._item_fields)
            cross = candidates if cross is None else cross
        both = ranker.rows(cross, ranker._cross_fields)
        if len(both) != len(items):
            raise DataError(f"cross has {len(both)} rows for {len(items)} candidates")
        query = self._rows.take(np.zeros(len(items), np.int64))
        return ranker.model.score(side_by_side([query, items, both]))


def _listed(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _are_ids(candidates: Any) -> bool:
    """Whether candidates are ids: a list or vector, and no list of records."""
    if isinstance(candidates, np.ndarray):
        return candidates.ndim == 1
    if isinstance(candidates, list | tuple):
        return not (candidates and isinstance(candidates[0], Mapping))
    return False


def _column(frame: Any, name: str) -> Any:
    """A column of a frame or of records ``[n]``; None: there is none of the name."""
    if isinstance(frame, list | tuple):
        found = [record.get(name) for record in frame]
        return None if None in found else np.array(found)
    if isinstance(frame, Mapping):
        return np.asarray(frame[name]) if name in frame else None
    table = inputs.as_table(frame)
    return table.column(name).to_numpy() if name in table.column_names else None
