"""Vectors: a machine as one vector a query and one an item, whose dot product is the score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from crossfm.by_field import pool_fields
from crossfm.data.rows import Rows
from crossfm.errors import DataError, SchemaError, did_you_mean
from crossfm.model import FactorModel

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["Vectors", "model_of"]


class Vectors:
    r"""The two sides of a machine's score.

    With the fields parted into those of the query and those of the item::

        score(query, item) = C_query + <[1; q], [b_item; v]>
        C_query = w0 + the linear and crossed terms within the query
        b_item  = the linear and crossed terms within the item

    exactly, for both kinds of `interactions`; nothing is dropped or normalised. What crosses the
    two sides is a dot product too:

    ============= ============================== =============================== ==================
    kind          q                              v                               d
    ============= ============================== =============================== ==================
    fm            ``sum_i x_i v_i``              ``sum_j x_j v_j``               1 + k
    fwfm          ``sum_f r_fg p_f`` by g        ``p_g`` by g                    1 + items' fields k
    fmfm          ``sum_f p_f M_fg`` by g        ``p_g`` by g                    1 + items' fields k
    ffm           ``p_f``, made for g, by (f, g) ``p_g``, made for f, by (f, g)  1 + pairs k
    ============= ============================== =============================== ==================

    where ``p_f`` is the sum of a field's ``x_i v_i``, f runs over the fields of the query and g
    over those of the item.

    Args:
        model: "fm", "fwfm", "fmfm" or "ffm".
        query_fields: names of the fields that describe the query, or their numbers.
        item_fields: the same of the item; together they are all fields of the model.

    Attributes:
        dimension: d.

    Raises:
        SchemaError: fields that the model does not have, on both sides, or on none.
        DataError: a higher-order model, whose larger sets do not part in two; one without fields.

    Example:
        >>> import crossfm as cf
        >>> log = {"user": [1, 1, 2, 2], "film": ["a", "b", "a", "c"]}
        >>> model = cf.FMRegressor(4, random_state=0).fit(log, [1.0, 2.0, 3.0, 4.0]).model_
        >>> sides = Vectors(model, ["user"], ["film"])
        >>> q, constant = sides.query_vectors({"user": [2]})
        >>> v = sides.item_vectors({"film": ["a", "b", "c"]})
        >>> q.shape, v.shape
        ((1, 5), (3, 5))
        >>> pairs = {"user": [2, 2, 2], "film": ["a", "b", "c"]}
        >>> bool(np.allclose(constant + q @ v.T, model.score(model.schema.transform(pairs))))
        True

    Source: Rendle 2010, Factorization Machines, eq. 1, and its linear form in each side.
    """

    def __init__(
        self,
        model: FactorModel,
        query_fields: str | int | Sequence[str] | Sequence[int],
        item_fields: str | int | Sequence[str] | Sequence[int],
    ) -> None:
        if model.kind == "hofm":
            raise DataError(
                "a higher-order machine crosses sets of three features and more, and its score is"
                " no dot product of a query and an item; take a machine of pairs"
            )
        self.model = model
        self.query_fields = _numbers(model, query_fields, "query_fields")
        self.item_fields = _numbers(model, item_fields, "item_fields")
        _expect_all(model, self.query_fields, self.item_fields)
        k, n_items, n_queries = model.n_factors, len(self.item_fields), len(self.query_fields)
        groups = {"fm": 1, "ffm": n_items * n_queries}.get(model.kind, n_items)
        self.dimension = 1 + groups * k

    def query_vectors(self, frame: Any) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """``[1; q]`` of each row ``[n, d]``, and its constant ``[n]``.

        Args:
            frame: with the columns of the query's fields, others are ignored; or `Rows`.

        Raises:
            SchemaError, DataError: a column is missing, or the rows hold features of an item.
        """
        return self.of_queries(self._rows(frame, self.query_fields))

    def item_vectors(self, frame: Any) -> NDArray[np.float32]:
        """``[b_item; v]`` of each row, ``[n, d]``; arguments and errors as in `query_vectors`."""
        return self.of_items(self._rows(frame, self.item_fields))

    def of_queries(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """The same of rows that hold the features of queries."""
        out = np.ones((len(rows), self.dimension), np.float32)
        constants = self.model.score(rows).astype(np.float64)
        model, n, k = self.model, len(rows), self.model.n_factors
        if model.kind == "fm":
            out[:, 1:] = self._sums(rows)
            return out, constants
        pooled = self._pooled(rows, self.query_fields, self.item_fields)  # [n, F, G or 1, k]
        if model.kind == "ffm":
            out[:, 1:] = pooled.reshape(n, -1)
            return out, constants
        weights = np.asarray(model.field_weights)[np.ix_(self.query_fields, self.item_fields)]
        shape = "nfk,fgkl->ngl" if model.kind == "fmfm" else "nfk,fg->ngk"
        crossed = np.einsum(shape, pooled[:, :, 0], weights, optimize=True)
        out[:, 1:] = crossed.reshape(n, len(self.item_fields) * k)
        return out, constants

    def of_items(self, rows: Rows) -> NDArray[np.float32]:
        """The same of rows that hold the features of items."""
        out = np.empty((len(rows), self.dimension), np.float32)
        out[:, 0] = self.model.score(rows) - np.float64(self.model.bias)
        if self.model.kind == "fm":
            out[:, 1:] = self._sums(rows)
            return out
        pooled = self._pooled(rows, self.item_fields, self.query_fields)  # [n, G, F or 1, k]
        out[:, 1:] = pooled.swapaxes(1, 2).reshape(len(rows), -1)
        return out

    # --- inside -----------------------------------------------------------------------------

    def _rows(self, frame: Any, side: list[int]) -> Rows:
        """The features of one side."""
        model = self.model
        if isinstance(frame, Rows):
            of = frame.fields
            if of is None and model.field_of is not None:
                frame.validate(model.n_features)
                of = model.field_of[frame.ids]
            if of is not None and not np.isin(of, side).all():
                raise DataError(f"the rows hold features of other fields than {side}")
            return frame
        schema = model.schema
        if schema is None:
            raise SchemaError("the model has no schema to read columns by; give Rows with its ids")
        return schema.transform(frame, fields=[schema.field_names[f] for f in side])

    def _sums(self, rows: Rows) -> NDArray[np.float32]:
        """``sum_i x_i v_i`` of each row, ``[n, k]``."""
        ids, columns = np.unique(rows.ids, return_inverse=True)
        return np.asarray(
            _matrix(rows, columns, rows.row_offsets(), len(rows), len(ids))
            @ self.model.vectors(ids)
        )

    def _pooled(self, rows: Rows, side: list[int], other: list[int]) -> NDArray[np.float32]:
        """Sums by field of one side, of vectors for those of the other: ``[n, side, other, k]``.

        Where a feature has one vector for all fields, `other` has the length 1.
        """
        model = self.model
        fields = rows.fields if rows.fields is not None else np.asarray(model.field_of)[rows.ids]
        place = np.zeros(max(side) + 1, np.int64)
        place[side] = np.arange(len(side))
        ids, columns = np.unique(rows.ids, return_inverse=True)
        vectors = model.vectors(ids)
        vectors = vectors[:, other] if model.kind == "ffm" else vectors[:, None]
        return pool_fields(rows, place[fields], len(side), columns, vectors)


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


def _matrix(
    rows: Rows, columns: NDArray[np.int64], offsets: NDArray[np.int64], n: int, width: int
) -> Any:
    values = np.ones(rows.nnz, np.float32) if rows.values is None else rows.values
    return scipy.sparse.csr_array((values, columns, offsets), shape=(n, width))


def _numbers(model: FactorModel, given: Any, name: str) -> list[int]:
    """Fields as numbers, in the model's order."""
    listed = [given] if isinstance(given, str | int | np.integer) else list(given)
    schema: Schema | None = model.schema
    names = [] if schema is None else schema.field_names
    n_fields = len(names)
    if schema is None:
        if model.field_of is None:
            raise DataError("the model does not know the field of each feature; give it field_of")
        n_fields = model.n_fields or int(model.field_of.max(initial=-1)) + 1
    found = []
    for one in listed:
        if isinstance(one, str):
            if one not in names:
                hint = did_you_mean(one, names) if names else " The model has no schema with names."
                raise SchemaError(f"{name}: no field {one!r}.{hint}")
            one = names.index(one)
        if not isinstance(one, int | np.integer) or not 0 <= one < n_fields:
            raise SchemaError(f"{name}: no field {one!r}, the model has {n_fields}")
        found.append(int(one))
    if len(set(found)) < len(found) or not found:
        raise SchemaError(f"{name} is {given!r}, expected one field or several, each once")
    return sorted(found)


def _expect_all(model: FactorModel, query: list[int], item: list[int]) -> None:
    names = None if model.schema is None else model.schema.field_names

    def shown(fields: Sequence[int]) -> str:
        return ", ".join(str(f) if names is None else repr(names[f]) for f in fields)

    both = sorted(set(query) & set(item))
    if both:
        raise SchemaError(f"{shown(both)}: of the query and of the item; a field is of one of them")
    n_fields = len(names) if names is not None else int(np.asarray(model.field_of).max()) + 1
    neither = [f for f in range(n_fields) if f not in query and f not in item]
    if neither:
        raise SchemaError(
            f"{shown(neither)}: neither of the query nor of the item; name every field of the model"
        )
