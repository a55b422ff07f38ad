"""Retriever: the best items of a catalogue for each query, by the score of the machine itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crossfm.data import inputs
from crossfm.data.encoding import encoding_for
from crossfm.data.fields import Categorical
from crossfm.data.files import replacing
from crossfm.data.schema import Schema
from crossfm.errors import DataError, ModelFileError, SchemaError, did_you_mean
from crossfm.model import FactorModel
from crossfm.retrieval.ranker import model_of
from crossfm.retrieval.topk import ItemIndex, Storage, TopK
from crossfm.retrieval.vectors import Vectors

__all__ = ["Retriever"]

FORMAT = "crossfm-items"
FEW = 50  # of so many items one is allowed: then these are scored alone


class Retriever:
    """Exact top-k of a catalogue.

    What is returned are the items of the highest scores that the machine gives, the item's bias and
    what crosses within it included, not those of some other measure. One query takes one pass over
    the items' vectors, ``4 n d`` bytes.

    Args:
        model: a `FactorModel` with a schema, or a fitted estimator that has one (`model_`).
        items: the catalogue: a DataFrame, dict of columns or path, a row an item.
        query_fields: the model's fields that describe the query.
        item_fields: those that describe the item; together all fields of the model.
        id: the column of `items` with what names an item; None: the first of `item_fields`.
        storage: see `ItemIndex`.
        n_jobs: threads of a search; -1: all cores.

    Attributes:
        ids: what names each item, in their order.
        n_items: how many there are.
        dimension: d, of the vectors.

    Raises:
        SchemaError: no such column or field, or no schema.
        DataError: an item that is there twice, or has no id.

    Example:
        >>> import crossfm as cf
        >>> log = {"user": [1, 1, 2, 2], "film": ["a", "b", "b", "c"], "year": [90, 1, 1, 10]}
        >>> model = cf.FMRegressor(4, random_state=0).fit(log, [5.0, 1.0, 2.0, 4.0])
        >>> films = {"film": ["a", "b", "c"], "year": [90, 1, 10]}
        >>> films = Retriever(model, films, query_fields="user", item_fields=["film", "year"])
        >>> found = films.recommend({"user": [1, 2]}, k=2, exclude=["a"])
        >>> found.ids.shape
        (2, 2)
        >>> films.put({"film": ["d"], "year": [24]}).n_items
        4
    """

    def __init__(
        self,
        model: Any,
        items: Any,
        *,
        query_fields: str | Sequence[str],
        item_fields: str | Sequence[str],
        id: str | None = None,
        storage: Storage = "float32",
        n_jobs: int = 1,
    ) -> None:
        self.sides = Vectors(model_of(model), query_fields, item_fields)
        schema = self.sides.model.schema
        if schema is None:
            raise SchemaError("the model has no schema to read items by; fit it on named columns")
        first = [item_fields] if isinstance(item_fields, str) else list(item_fields)
        self.id, self.n_jobs = first[0] if id is None else id, n_jobs
        self._index = ItemIndex(self.sides.dimension, storage)
        self._keys = Schema([Categorical(self.id)])
        self._table: pa.Table | None = None
        self._live = np.zeros(0, bool)
        self._place = np.zeros(1, np.int64)  # of each id that the keys know
        self.put(items)

    # --- the catalogue ----------------------------------------------------------------------

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.sides.dimension

    @property
    def n_items(self) -> int:
        """Items that can be found."""
        return int(self._live.sum())

    @property
    def ids(self) -> NDArray[Any]:
        """What names each item."""
        return self._names()[self._live]

    @property
    def nbytes(self) -> int:
        """Memory of the vectors."""
        return self._index.nbytes

    def put(self, items: Any) -> Retriever:
        """Add items, or put them in the place of those of the same id.

        Raises:
            SchemaError, DataError: as the constructor; nothing is changed then.
        """
        table = inputs.as_table(items, None, self._types(), dictionaries=False)
        if self.id not in table.column_names:
            names = table.column_names
            raise SchemaError(
                f"items have no column {self.id!r}.{did_you_mean(self.id, names)} They have {names}"
            )
        if not table.num_rows:
            if self._table is None:
                raise DataError("there are no items")
            return self
        keys = self._keys.copy()
        own = table.select([self.id])
        keys = keys.partial_fit(own) if keys.is_fitted else keys.fit(own)
        units = keys.transform(own).ids.astype(np.int64)
        if units.min() == 0:
            raise DataError(f"row {int(np.argmin(units))} of the items has no {self.id!r}")
        counts = np.bincount(units)
        if counts.max() > 1:
            unit = int(np.argmax(counts > 1))
            raise DataError(f"{keys.feature_name(unit)} is {counts[unit]} times among the items")
        vectors = self.sides.item_vectors(table)
        place = np.full(keys.n_features_, -1)
        place[: len(self._place)] = self._place
        place[0] = -1
        new = place[units] < 0
        place[units[new]] = len(self._index) + np.arange(int(new.sum()))
        at = place[units]
        self._index.put(at, vectors)
        live = np.zeros(len(self._index), bool)
        live[: len(self._live)] = self._live
        live[at] = True
        self._table = _merged(self._table, table, at, len(live))
        self._keys, self._place, self._live = keys, place, live
        return self

    def remove(self, ids: Any) -> Retriever:
        """Take items out.

        Raises:
            DataError: an id that no item has.
        """
        self._live[self._places(ids, strict=True)] = False
        return self

    # --- searching --------------------------------------------------------------------------

    def recommend(
        self,
        queries: Any,
        k: int = 10,
        *,
        exclude: Any = None,
        only: Any = None,
        filter: Any = None,
    ) -> TopK:
        """The k items of the highest scores for each query.

        Args:
            queries: rows with the columns of the query's fields.
            k: how many; where fewer are allowed, the rest is None at -inf.
            exclude: ids that are left out for all queries; or a list of such lists, one a query.
                Ids that no item has are no error.
            only: ids that are let in, in the same forms.
            filter: which items are let in, by their columns: an expression of Arrow such as
                ``pyarrow.compute.field("year") >= 2000``, or a bool array in the order of `ids`.

        Raises:
            DataError, SchemaError: k below 1, lists of another number than the queries, columns
                that are not there.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise DataError(f"k is {k!r}, expected a number from 1")
        vectors, constants = self.sides.query_vectors(queries)
        allowed = self._allowed(filter)
        left_out, let_in = (self._lists(name, given, len(vectors))
                            for name, given in (("exclude", exclude), ("only", only)))  # fmt: skip
        if isinstance(left_out, np.ndarray):
            allowed = allowed.copy()
            allowed[left_out] = False
            left_out = None
        if isinstance(let_in, np.ndarray):
            mask = np.zeros(len(allowed), bool)
            mask[let_in] = True
            allowed, let_in = allowed & mask, None
        if let_in is None:
            places, scores = self._search(vectors, int(k), allowed, left_out)
        else:
            places, scores = self._search_each(vectors, int(k), allowed, left_out, let_in)
        names = self._names()
        ids = names[np.maximum(places, 0)] if len(names) else np.empty(places.shape, object)
        if (places < 0).any():
            ids = ids.astype(object)
            ids[places < 0] = None
        shown = np.where(places < 0, -np.inf, scores + constants[:, None])
        return TopK(ids, shown.astype(np.float32))

    def _search(
        self,
        vectors: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_],
        left_out: list[NDArray[np.int64]] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """With `left_out` for each query, which are dropped from a longer list of the best."""
        longest = max((len(one) for one in left_out), default=0) if left_out else 0
        wanted = min(k + longest, max(len(self._index), 1))
        few = np.flatnonzero(allowed)
        if len(few) * FEW < len(allowed):
            exact = vectors @ self._index.vectors(few).T
            order = np.argsort(-exact, axis=1, kind="stable")[:, :wanted]
            places, scores = few[order], np.take_along_axis(exact, order, 1)
        else:
            mask = None if allowed.all() else allowed
            places, scores = self._index.top(vectors, wanted, mask, self.n_jobs)
        if left_out:
            for row, out in enumerate(left_out):
                scores[row, np.isin(places[row], out)] = -np.inf
            order = np.argsort(-scores, axis=1, kind="stable")
            scores = np.take_along_axis(scores, order, 1)
            places = np.where(np.isneginf(scores), -1, np.take_along_axis(places, order, 1))
        return _padded(places, k, -1), _padded(scores, k, -np.inf)

    def _search_each(
        self,
        vectors: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_],
        left_out: list[NDArray[np.int64]] | None,
        let_in: list[NDArray[np.int64]],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """With candidates for each query, which are scored alone."""
        places = np.full((len(vectors), k), -1)
        scores = np.full((len(vectors), k), -np.inf, np.float32)
        for row, (vector, candidates) in enumerate(zip(vectors, let_in, strict=True)):
            own = candidates[allowed[candidates]]
            if left_out:
                own = own[~np.isin(own, left_out[row])]
            exact = self._index.vectors(own) @ vector
            order = np.lexsort((own, -exact))[:k]
            places[row, : len(order)], scores[row, : len(order)] = own[order], exact[order]
        return places, scores

    # --- inside -----------------------------------------------------------------------------

    def _types(self) -> dict[str, pa.DataType]:
        schema = self.sides.model.schema
        assert schema is not None
        return encoding_for(Categorical(self.id)).column_types | schema.column_types

    def _names(self) -> NDArray[Any]:
        assert self._table is not None
        column = self._table.column(self.id)
        return column.to_numpy() if not pa.types.is_dictionary(column.type) else np.array(
            column.to_pylist(), object
        )  # fmt: skip

    def _places(self, ids: Any, *, strict: bool = False) -> NDArray[np.int64]:
        """The places of items by id; those of unknown ones are left out, or refused."""
        if isinstance(ids, str | bytes) or not hasattr(ids, "__len__"):
            ids = [ids]
        if not len(ids):
            return np.zeros(0, np.int64)
        units = self._keys.transform({self.id: ids}).ids
        places = self._place[units]
        known = places >= 0
        known[known] &= self._live[places[known]]
        if strict and not known.all():
            raise DataError(f"no item has the {self.id} {np.asarray(ids, object)[~known][0]!r}")
        return np.unique(places[known])

    def _lists(
        self, name: str, given: Any, n: int
    ) -> NDArray[np.int64] | list[NDArray[np.int64]] | None:
        """Places for all queries, or for each; None: nothing is said."""
        if given is None:
            return None
        each = not isinstance(given, str | bytes) and hasattr(given, "__len__") and any(
            not isinstance(one, str | bytes) and hasattr(one, "__len__") for one in given
        )  # fmt: skip
        if not each:
            return self._places(given)
        if len(given) != n:
            raise DataError(f"{name} holds {len(given)} lists for {n} queries; give one for each")
        return [self._places([] if one is None else one) for one in given]

    def _allowed(self, filter: Any) -> NDArray[np.bool_]:
        if filter is None:
            return self._live
        assert self._table is not None
        if isinstance(filter, pc.Expression):
            numbered = self._table.append_column(
                "__place__", pa.array(np.arange(self._table.num_rows))
            )
            try:
                found = numbered.filter(filter).column("__place__").to_numpy()
            except (pa.ArrowException, KeyError, ValueError) as error:
                raise SchemaError(
                    f"the filter cannot be applied to the items: {error}; their columns are"
                    f" {self._table.column_names}"
                ) from error
            mask = np.zeros(len(self._live), bool)
            mask[found] = True
            return mask & self._live
        given = np.asarray(filter)
        if given.dtype != bool or given.shape != (self.n_items,):
            raise DataError(
                f"filter has shape {list(given.shape)} and type {given.dtype}, expected an"
                f" expression of Arrow, or bool [{self.n_items}]"
            )
        mask = np.zeros(len(self._live), bool)
        mask[np.flatnonzero(self._live)[given]] = True
        return mask

    # --- files ------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the catalogue and its vectors to a file, whole or not at all; `load` reads it.

        The model is not in it: it has a file of its own, which the catalogue is tied to.

        Raises:
            ModelFileError: the system refused to write; the old file is unchanged.
        """
        from safetensors.numpy import save

        assert self._table is not None
        live = np.flatnonzero(self._live)
        sink = pa.BufferOutputStream()
        table = self._table.take(live)
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        model = self.sides.model
        about = {
            "format": FORMAT, "version": 1, "id": self.id, "storage": self._index.storage,
            "query_fields": self.sides.query_fields, "item_fields": self.sides.item_fields,
            "model": _fingerprint(model),
        }  # fmt: skip
        arrays: dict[str, NDArray[Any]] = {
            "vectors": self._index.vectors(live),
            "items": np.frombuffer(sink.getvalue(), np.uint8),
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for array in arrays.values():
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        strings = {"crossfm_items": json.dumps(about), "sha256": digest.hexdigest()}
        with replacing(path, ModelFileError) as file:
            file.write(save(arrays, strings))

    @staticmethod
    def load(path: str | os.PathLike[str], model: Any, *, n_jobs: int = 1) -> Retriever:
        """Read what `save` wrote, for the model that it was made with.

        Raises:
            ModelFileError: no such file; damaged, or made with another model.
        """
        from safetensors import SafetensorError, safe_open

        name, model = os.fspath(path), model_of(model)
        try:
            with safe_open(name, "np") as file:
                strings = file.metadata() or {}
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            about = json.loads(strings["crossfm_items"])
            digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
            for key in ("vectors", "items"):
                digest.update(np.ascontiguousarray(arrays[key]).view(np.uint8).data)
            if digest.hexdigest() != strings["sha256"] or about["format"] != FORMAT:
                raise ValueError("it fails its checksum")
            if about["version"] != 1:
                raise ValueError(f"it is of version {about['version']}, this crossfm reads 1")
            table = pa.ipc.open_stream(pa.py_buffer(arrays["items"])).read_all()
        except (
            OSError,
            SafetensorError,
            KeyError,
            TypeError,
            ValueError,
            pa.ArrowException,
        ) as error:
            raise ModelFileError(f"{name} is no whole file of items: {error}") from error
        if about["model"] != _fingerprint(model):
            raise ModelFileError(
                f"{name} was made with another model; load that one, or make a new Retriever of"
                " the items"
            )
        made = Retriever.__new__(Retriever)
        made.sides = Vectors(model, about["query_fields"], about["item_fields"])
        made.id, made.n_jobs = about["id"], n_jobs
        made._index = ItemIndex(made.sides.dimension, about["storage"])
        own = table.select([made.id])
        made._keys = Schema([Categorical(made.id)]).fit(own)
        n = table.num_rows
        made._place = np.full(made._keys.n_features_, -1)
        made._place[made._keys.transform(own).ids] = np.arange(n)
        made._table, made._live = table, np.ones(n, bool)
        made._index.put(np.arange(n), arrays["vectors"])
        return made


def _fingerprint(model: FactorModel) -> str:
    """Of the parameters."""
    digest = hashlib.sha256(np.float64(model.bias).tobytes())
    for array in (model.weights, model.factors, model.field_weights):
        if array is not None:
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def _merged(old: pa.Table | None, new: pa.Table, at: NDArray[np.int64], n: int) -> pa.Table:
    """The table with rows added and replaced; columns that one of them lacks are null there."""
    if old is None:
        return new.take(np.argsort(at)).combine_chunks()
    origin = np.arange(n)
    origin[at] = old.num_rows + np.arange(len(at))
    try:
        both = pa.concat_tables([old, new], promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"columns of the items are of other types than before: {error}") from error
    return both.take(origin).combine_chunks()


def _padded(found: NDArray[Any], k: int, value: float) -> NDArray[Any]:
    if found.shape[1] >= k:
        return found[:, :k]
    out = np.full((len(found), k), value, found.dtype)
    out[:, : found.shape[1]] = found
    return out
