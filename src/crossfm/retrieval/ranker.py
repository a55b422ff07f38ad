"""Ranker: pre-ranking. A query's part of the score once, then the candidates' alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.data import inputs
from crossfm.data.relations import side_by_side
from crossfm.data.rows import Rows
from crossfm.errors import DataError, SchemaError, did_you_mean
from crossfm.model import FactorModel
from crossfm.retrieval.places import Places
from crossfm.retrieval.topk import TopK
from crossfm.retrieval.vectors import Vectors

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
        items: a catalogue to take candidates from by id: a frame, dict or path, a row an item.
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
        schema = self.model.schema
        if schema is None:
            raise SchemaError("the model has no schema to read columns by; fit it on named columns")
        sides = [_listed(one) for one in (query_fields, item_fields, cross_fields)]
        self._query_fields, self._item_fields, self._cross_fields = sides
        self.sides = Vectors(self.model, sides[0], [*sides[1], *sides[2]])  # checks the names
        self.mode = "full" if sides[2] else "vectors"
        self._schema = schema
        self._places: Places | None = None
        self._rows: Rows | None = None
        self._vectors = np.empty((0, self.sides.dimension), np.float32)
        self.id = sides[1][0] if id is None else id
        if items is not None:
            self._keep(items)

    def _keep(self, items: Any) -> None:
        table = inputs.as_table(items, None, self._schema.column_types, dictionaries=False)
        if self.id not in table.column_names:
            names = table.column_names
            raise SchemaError(
                f"items have no column {self.id!r}.{did_you_mean(self.id, names)} They have {names}"
            )
        self._places = Places(table.column(self.id).to_numpy(), self.id)
        if self.mode == "full":
            self._rows = self._schema.transform(table, fields=self._item_fields)
        else:
            self._vectors = self.sides.item_vectors(table)

    def query(self, query: Any) -> Query:
        """A query made ready: its part of the score is computed here, once.

        Args:
            query: one row: a dict of column: value, or a frame of one row.

        Raises:
            DataError, SchemaError: not one row, or a column that is missing.
        """
        frame = query
        if isinstance(query, Mapping):
            frame = {
                name: [value] if _is_one(value, name, self._schema) else value
                for name, value in query.items()
            }
        rows = self._schema.transform(frame, fields=self._query_fields)
        if len(rows) != 1:
            raise DataError(f"a query is one row, got {len(rows)}")
        return Query(self, rows)

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
        if by_id and ranker._places is None:
            raise DataError(
                "the ranker has no items to find ids among: give it items=..., or frames"
            )
        if ranker.mode == "vectors":
            if by_id:
                assert ranker._places is not None
                places = ranker._places.of(candidates)
                out = np.empty(len(places), np.float32)
                _native.dot_rows(ranker._vectors, places, self._vector, self._constant, out)
                return out
            return ranker.sides.item_vectors(candidates) @ self._vector + self._constant
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
            table = inputs.as_table(candidates)
            ids = order
            if self._ranker.id in table.column_names:
                ids = table.column(self._ranker.id).to_numpy()[order]
        return TopK(ids[None], scores[order][None])

    def _in_full(self, candidates: Any, cross: Any, by_id: bool) -> NDArray[np.float32]:
        """Each candidate scored with the query, where there are fields of both."""
        ranker = self._ranker
        schema = ranker._schema
        if by_id:
            assert ranker._places is not None
            assert ranker._rows is not None
            items = ranker._rows.take(ranker._places.of(candidates))
            if cross is None:
                raise DataError(
                    "the columns " + ", ".join(map(repr, ranker._cross_fields)) + " belong to both"
                    " the query and the item: give them with cross=, a row a candidate"
                )
        else:
            items = schema.transform(candidates, fields=ranker._item_fields)
            cross = candidates if cross is None else cross
        both = schema.transform(cross, fields=ranker._cross_fields)
        if len(both) != len(items):
            raise DataError(f"cross has {len(both)} rows for {len(items)} candidates")
        query = self._rows.take(np.zeros(len(items), np.int64))
        return ranker.model.score(side_by_side([query, items, both]))


def model_of(given: Any) -> FactorModel:
    """The machine of an estimator, or itself.

    Raises:
        DataError: something else.
    """
    model = given if isinstance(given, FactorModel) else getattr(given, "model_", None)
    if not isinstance(model, FactorModel):
        raise DataError(
            f"expected a FactorModel or a fitted estimator that has one, got {type(given).__name__}"
        )
    return model


def _listed(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _are_ids(candidates: Any) -> bool:
    """Whether candidates are ids: a list or vector, and no list of records."""
    if isinstance(candidates, np.ndarray):
        return candidates.ndim == 1
    if isinstance(candidates, list | tuple):
        return not (candidates and isinstance(candidates[0], Mapping))
    return False


def _is_one(value: Any, name: str, schema: Any) -> bool:
    """Whether a dict's value is that of one row: a bag's is a list itself."""
    from crossfm.data.fields import Bag

    of_bag = any(
        isinstance(field, Bag) and field.sep is None and name in (field.name, field.weights)
        for field in schema.fields
    )
    is_list = isinstance(value, list | tuple | np.ndarray)
    if of_bag:
        return not (is_list and len(value) and isinstance(value[0], list | tuple | np.ndarray))
    return not is_list
