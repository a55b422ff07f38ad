"""Retriever: the best items of a catalogue for each query, by the score of the machine itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from crossfm.data import inputs
from crossfm.data.files import replacing
from crossfm.data.records import RecordSchema
from crossfm.errors import CrossfmError, DataError, ModelFileError, SchemaError, require
from crossfm.model import FactorModel
from crossfm.retrieval.catalogue import Catalogue
from crossfm.retrieval.near import Near, some_queries
from crossfm.retrieval.topk import ItemIndex, Storage, TopK, products
from crossfm.retrieval.vectors import Vectors, model_of

__all__ = ["Retriever"]

FORMAT = "crossfm-items"
QUERIES = 256  # that a recall is measured with
FEW = 50  # of so many items one is allowed: then these are scored alone


class Retriever:
    """Top-k of a catalogue: exact, or on request approximate.

    What is returned are the items of the highest scores that the machine gives, the item's bias and
    what crosses within it included, not those of some other measure. One query takes one pass over
    the items' vectors, ``4 n d`` bytes; after `approximate`, over a part of them.

    Args:
        model: a `FactorModel` with a schema, or a fitted estimator that has one (`model_`).
        items: the catalogue: a DataFrame, dict of columns or path, a row an item.
        query_fields: the model's fields that describe the query.
        item_fields: those that describe the item; together all fields of the model.
        id: the column of `items` with what names an item; None: the first of `item_fields`.
        storage: see `ItemIndex`.
        n_jobs: threads of a search; -1: all cores.
        device: search by PyTorch there, such as "cuda"; None: by the core, on processors.

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
        device: str | None = None,
    ) -> None:
        self.sides = Vectors(model_of(model), query_fields, item_fields)
        schema = self.sides.model.schema
        if schema is None:
            raise SchemaError("the model has no schema to read items by; fit it on named columns")
        first = [item_fields] if isinstance(item_fields, str) else list(item_fields)
        self.n_jobs = n_jobs
        self.catalogue = Catalogue(first[0] if id is None else id)
        self._index = _index(self.sides.dimension, storage, device)
        self._near: Near | None = None
        self.put(items)

    def __repr__(self) -> str:
        near = ""
        if self._near is not None:
            near = f", approximate with recall@{self._near.k} {self.recall:.3f}"
        return f"Retriever({self.n_items:,} items by {self.id!r}, {self.dimension} numbers{near})"

    # --- the catalogue ----------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The column with what names an item."""
        return self.catalogue.id

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.sides.dimension

    @property
    def n_items(self) -> int:
        """Items that can be found."""
        return int(self.catalogue.live.sum())

    @property
    def ids(self) -> NDArray[Any]:
        """What names each item."""
        return self.catalogue.names[self.catalogue.live]

    def vectors(self) -> NDArray[np.float32]:
        """The vector of each item ``[n_items, d]``, in the order of `ids`."""
        return self._index.vectors(np.flatnonzero(self.catalogue.live))

    @property
    def nbytes(self) -> int:
        """Memory of the vectors."""
        near = 0 if self._near is None else self._near.clusters.nbytes
        return self._index.nbytes + near

    @property
    def recall(self) -> float:
        """Share of the exact best that a search finds: as `approximate` measured it, else 1."""
        return 1.0 if self._near is None else self._near.clusters.recall

    def put(self, items: Any) -> Retriever:
        """Add items, or put them in the place of those of the same id.

        Raises:
            SchemaError, DataError: as the constructor; nothing is changed then.
        """
        schema: Any = self.sides.model.schema
        if isinstance(schema, RecordSchema):
            raise DataError("the model was read without Arrow: its items can be searched only")
        table = inputs.as_table(items, None, schema.column_types, dictionaries=False)
        arrival = self.catalogue.plan(table)
        if table.num_rows:
            self._index.put(arrival.places, self.sides.item_vectors(table))
            arrival.commit()
            if self._near is not None:
                self._near.changed(arrival.places, self.catalogue.live)
        return self

    def remove(self, ids: Any) -> Retriever:
        """Take items out.

        Raises:
            DataError: an id that no item has.
        """
        self.catalogue.remove(ids)
        if self._near is not None:
            self._near.removed(self.catalogue.live)
        return self

    def approximate(self, recall: float = 0.95, k: int = 100, queries: Any = None) -> Retriever:
        """Search a part of the items from now on: those of the clusters that a query leads to.

        Clusters are made of the items as they are (k-means, ``8 sqrt(n)`` of them), and as many are
        scanned as find the wanted share of the exact best k. Memory grows by ``4 d + 12`` bytes an
        item. Scores stay exact, and so do searches with `only` or a filter, which look at what is
        let in. Items that come later are found at once; after many, make the clusters anew.

        Args:
            recall: share of the exact best k items that is to be found, on average.
            k: length of the lists that it is measured by.
            queries: to measure it with, such as those to come; None: 256 that are drawn, a known
                value of each field, all values alike. What is asked in practice may do better or
                worse: measure with it.

        Returns:
            itself; `recall` is what was measured, and ``repr`` shows it.

        Raises:
            DataError: a share outside of (0, 1], k below 1, no items.
        """
        if not 0 < recall <= 1:
            raise DataError(f"recall is {recall!r}, expected a share above 0, at most 1")
        _expect_count(k)
        if not self.n_items:
            raise DataError("there are no items to make clusters of")
        if queries is None:
            vectors = some_queries(self.sides, QUERIES, np.random.default_rng(0))
        else:
            vectors, _ = self.sides.query_vectors(queries)
        near = Near(self._index, self.catalogue.live, n_jobs=self.n_jobs)
        near.measure(vectors, k, recall, self.catalogue.live, self.n_jobs)
        self._near = near
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
        exact: bool = False,
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
            exact: look at all items, after `approximate` too.

        Raises:
            DataError, SchemaError: k below 1, lists of another number than the queries, columns
                that are not there.
        """
        _expect_count(k)
        vectors, constants = self.sides.query_vectors(queries)
        near = self._near if filter is None and only is None and not exact else None
        allowed = self.catalogue.allowed(filter)
        left_out, let_in = (self._lists(name, given, len(vectors))
                            for name, given in (("exclude", exclude), ("only", only)))  # fmt: skip
        if isinstance(left_out, np.ndarray) and near is not None:
            left_out = [left_out] * len(vectors)
        if isinstance(left_out, np.ndarray):
            allowed = allowed.copy()
            allowed[left_out] = False
            left_out = None
        if isinstance(let_in, np.ndarray):
            mask = np.zeros(len(allowed), bool)
            mask[let_in] = True
            allowed, let_in = allowed & mask, None
        if let_in is None:
            places, scores = self._search(vectors, int(k), allowed, left_out, near)
        else:
            places, scores = self._search_each(vectors, int(k), allowed, left_out, let_in)
        names = self.catalogue.names
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
        near: Near | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """With `left_out` for each query, which are dropped from a longer list of the best."""
        longest = max((len(one) for one in left_out), default=0) if left_out else 0
        wanted = min(k + longest, max(len(self._index), 1))
        n_allowed = int(np.count_nonzero(allowed))
        if near is not None:
            places, scores = near.top(vectors, wanted, self.n_jobs)
            short = np.isneginf(scores[:, min(wanted, n_allowed) - 1]) & (n_allowed > 0)
            if short.any():  # too few in those clusters
                mask = None if n_allowed == len(allowed) else allowed
                places[short], scores[short] = self._index.top(
                    vectors[short], wanted, mask, self.n_jobs
                )
        elif n_allowed * FEW < len(allowed):
            few = np.flatnonzero(allowed)
            exact = products(vectors, self._index.vectors(few))
            order = np.argsort(-exact, axis=1, kind="stable")[:, :wanted]
            places, scores = few[order], np.take_along_axis(exact, order, 1)
        else:
            mask = None if n_allowed == len(allowed) else allowed
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
            exact = products(vector[None], self._index.vectors(own))[0]
            order = np.lexsort((own, -exact))[:k]
            places[row, : len(order)], scores[row, : len(order)] = own[order], exact[order]
        return places, scores

    # --- inside -----------------------------------------------------------------------------

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
            return self.catalogue.places(given)
        if len(given) != n:
            raise DataError(f"{name} holds {len(given)} lists for {n} queries; give one for each")
        return [self.catalogue.places([] if one is None else one) for one in given]

    # --- files ------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the catalogue and its vectors to a file, whole or not at all; `load` reads it.

        The model is not in it: it has a file of its own, which the catalogue is tied to.

        Raises:
            ModelFileError: the system refused to write; the old file is unchanged.
        """
        from safetensors.numpy import save

        if self.catalogue.table is None:
            raise ModelFileError("these items were read without Arrow, and cannot be saved again")
        state, columns = self.catalogue.state()
        about = {
            "format": FORMAT, "version": 1, "storage": self._index.storage,
            "query_fields": self.sides.query_fields, "item_fields": self.sides.item_fields,
            "model": _fingerprint(self.sides.model), "items": state,
        }  # fmt: skip
        arrays: dict[str, NDArray[Any]] = {
            "vectors": self._index.vectors(np.flatnonzero(self.catalogue.live)),
            "columns": np.frombuffer(columns, np.uint8),
            "clusters": np.zeros(0, np.int32),
        }
        if self._near is not None:
            about["near"], arrays["clusters"] = self._near.state(self.catalogue.live)
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for array in arrays.values():
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        strings = {"crossfm_items": json.dumps(about), "sha256": digest.hexdigest()}
        with replacing(path, ModelFileError) as file:
            file.write(save(arrays, strings))

    @staticmethod
    def load(
        path: str | os.PathLike[str], model: Any, *, n_jobs: int = 1, device: str | None = None
    ) -> Retriever:
        """Read what `save` wrote, for the model that it was made with.

        Args:
            path: the file.
            model: as the constructor takes it.
            n_jobs: threads of a search; -1: all cores.
            device: search by PyTorch there; None: by the core, on processors.

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
            for key in ("vectors", "columns", "clusters"):
                digest.update(np.ascontiguousarray(arrays[key]).view(np.uint8).data)
            if digest.hexdigest() != strings["sha256"] or about["format"] != FORMAT:
                raise ValueError("it fails its checksum")
            if about["version"] != 1:
                raise ValueError(f"it is of version {about['version']}, this crossfm reads 1")
            catalogue = Catalogue.from_state(about["items"], arrays["columns"].tobytes())
        except (
            OSError, SafetensorError, KeyError, TypeError, ValueError, CrossfmError
        ) as error:  # fmt: skip
            raise ModelFileError(f"{name} is no whole file of items: {error}") from error
        if about["model"] != _fingerprint(model):
            raise ModelFileError(
                f"{name} was made with another model; load that one, or make a new Retriever of"
                " the items"
            )
        made = Retriever.__new__(Retriever)
        made.sides = Vectors(model, about["query_fields"], about["item_fields"])
        made.catalogue, made.n_jobs = catalogue, n_jobs
        made._index = _index(made.sides.dimension, about["storage"], device)
        made._index.put(np.arange(len(catalogue)), arrays["vectors"])
        made._near = None
        if about.get("near") is not None:
            made._near = Near(made._index, catalogue.live, arrays["clusters"], n_jobs)
            made._near.restore(about["near"])
        return made


def _fingerprint(model: FactorModel) -> str:
    """Of the parameters."""
    digest = hashlib.sha256(np.float64(model.bias).tobytes())
    for array in (model.weights, model.factors, model.field_weights):
        if array is not None:
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def _index(dimension: int, storage: Storage, device: str | None) -> ItemIndex:
    if device is None:
        return ItemIndex(dimension, storage)
    require("torch", "torch")
    from crossfm.nn.search import TorchIndex

    return cast(ItemIndex, TorchIndex(dimension, device))  # of the same methods


def _expect_count(k: Any) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise DataError(f"k is {k!r}, expected a number from 1")


def _padded(found: NDArray[Any], k: int, value: float) -> NDArray[Any]:
    if found.shape[1] >= k:
        return found[:, :k]
    out = np.full((len(found), k), value, found.dtype)
    out[:, : found.shape[1]] = found
    return out
