"""Served: one loaded model with its catalogue, and the answers that it gives."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm.data import inputs
from crossfm.data.fields import Bag
from crossfm.data.records import RecordSchema
from crossfm.data.rows import Rows
from crossfm.errors import DataError, ModelFileError, SchemaError, did_you_mean
from crossfm.explain import explain_row
from crossfm.retrieval import Ranker, Retriever, TopK
from crossfm.runtime import Runtime
from crossfm.serving.filters import mask_of
from crossfm.serving.settings import Settings

__all__ = ["Served", "Wanted", "plain"]

FILTERS_KEPT = 64
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One recommendation that is asked for, checked and encoded."""

    rows: Rows  # of the query
    k: int
    exclude: Sequence[Any]
    only: Sequence[Any] | None
    filter: str  # which one; "": none
    mask: NDArray[np.bool_] | None  # what it lets in


@dataclass(eq=False)
class Served:
    """A loaded model.

    Attributes:
        version: names the content of its file.
        estimator: as `crossfm.load` gives it.
        small: the same for records; None where it takes more than a machine and its link.
        query_fields, item_fields: of the model, where there is a catalogue.
        shop: the catalogue to recommend from.
        ranker: of its items, by id.
    """

    version: str
    loaded_at: datetime.datetime
    estimator: Any
    small: Runtime | None
    query_fields: list[str] = field(default_factory=list)
    item_fields: list[str] = field(default_factory=list)
    shop: Retriever | None = None
    ranker: Ranker | None = None
    _masks: OrderedDict[str, NDArray[np.bool_]] = field(default_factory=OrderedDict)

    @staticmethod
    def load(settings: Settings) -> Served:
        """Read the files.

        Raises:
            ModelFileError, DataError, SchemaError: what is wrong with them.
        """
        from crossfm.estimators import load
        from crossfm.store import holds_network, read_checksum, read_header

        path = settings.model
        version = read_checksum(path)[:12]
        estimator = load(path)
        if estimator.schema_ is None:
            raise DataError(
                f"{path} was fitted on numbers without names of columns, which requests would need;"
                " fit it on a table"
            )
        header = None if holds_network(path) else read_header(path)
        if read_checksum(path)[:12] != version:
            raise ModelFileError(f"{path} was replaced while it was read; read it again")
        small = None
        with contextlib.suppress(ModelFileError, AttributeError):  # the estimator itself answers
            if header is not None:
                small = Runtime.of(
                    estimator.models_, header.metadata, estimator.schema_.records(),
                    has_more="attached" in header.tensors, name=str(path),
                )  # fmt: skip
        now = datetime.datetime.now(datetime.UTC)
        served = Served(version, now, estimator, small)
        if settings.items is not None:
            served._take_items(settings)
        return served

    def _take_items(self, settings: Settings) -> None:
        assert settings.items is not None
        if self.small is None or self.small.records is None or len(self.small.models) != 1:
            raise DataError(
                "items can be recommended by one machine of pairs on named columns; this model is"
                " none (several classes, draws, ordered levels, or no columns)"
            )
        table = inputs.as_table(settings.items, None, self.estimator.schema_.column_types)
        names = self.small.records.field_names
        if settings.item_fields is None:
            there = set(table.column_names)
            fields = self.small.records.fields
            item = [one.name for one in fields if _columns_of(one) <= there]
        else:
            item = list(settings.item_fields)
        query = [name for name in names if name not in item]
        if not item or not query:
            raise SchemaError(
                f"{settings.items} has the columns of {'no' if not item else 'all'} fields"
                f" ({', '.join(names)}), so that nothing is left to the "
                f"{'item' if not item else 'query'}; name the item's: item_fields, or --item-fields"
            )
        self.item_fields, self.query_fields = item, query
        self.shop = Retriever(
            self.small.model, table, query_fields=query, item_fields=item, id=settings.id,
            n_jobs=settings.n_jobs,
        )  # fmt: skip
        self.ranker = Ranker(
            self.small.model, query_fields=query, item_fields=item, items=self.shop
        )

    @property
    def item_columns(self) -> set[str]:
        """The columns of the item's fields."""
        return self._columns_of(self.item_fields)

    @property
    def query_columns(self) -> set[str]:
        """The columns of the query's fields."""
        return self._columns_of(self.query_fields)

    def _columns_of(self, names: Sequence[str]) -> set[str]:
        if self.small is None or self.small.records is None:
            return set()
        fields = self.small.records.fields
        return set().union(*(_columns_of(one) for one in fields if one.name in names))

    # --- answers ----------------------------------------------------------------------------

    def predict(self, records: Sequence[Record]) -> tuple[list[Any], list[list[float]] | None]:
        """Predictions of rows, and the probabilities of their classes."""
        if not records:
            return [], None
        known = self.small is not None and self.small.records is not None
        source: Any = self.small if known else self.estimator
        rows: Any = records
        if known:
            assert self.small is not None
            assert self.small.records is not None
            rows = self.small.records.transform(list(records))
        predictions = source.predict(rows).tolist()
        proba = None
        if not known:
            proba = getattr(source, "predict_proba", None)
        elif source.link in ("logistic", "softmax"):
            proba = source.predict_proba
        return predictions, None if proba is None else proba(rows).tolist()

    def wanted(self, asked: Any) -> Wanted:
        """A request for a recommendation, checked and encoded; see `recommend`."""
        if self.shop is None:
            raise DataError("the server has no items to recommend; start it with --items")
        if asked.columns:
            assert self.shop.catalogue.table is not None
            for name in asked.columns:
                names = self.shop.catalogue.table.column_names
                if name not in names:
                    hint = did_you_mean(name, names)
                    raise SchemaError(f"columns: no column {name!r}.{hint} They are {names}")
        rows = self._records().transform([asked.query], fields=self.query_fields)
        name, mask = self._mask(asked.filter)
        return Wanted(rows, asked.k, asked.exclude, asked.only, name, mask)

    def recommend(self, many: Sequence[Wanted]) -> list[TopK]:
        """The best items of several queries, which share a pass over the items where they can."""
        assert self.shop is not None
        found: dict[int, TopK] = {}
        groups: dict[tuple[str, bool], list[int]] = {}
        for at, one in enumerate(many):
            groups.setdefault((one.filter, one.only is None), []).append(at)
        for (_, every), places in groups.items():
            own = [many[at] for at in places]
            rows = Rows.concatenate([one.rows for one in own])
            top = self.shop.recommend(
                rows,
                max(one.k for one in own),
                exclude=[one.exclude for one in own] if any(o.exclude for o in own) else None,
                only=None if every else [one.only for one in own],
                filter=own[0].mask,
            )
            for row, (at, one) in enumerate(zip(places, own, strict=True)):
                there = np.isfinite(top.scores[row, : one.k])
                ids = top.ids[row, : one.k][there]
                found[at] = TopK(ids, self.shown(top.scores[row, : one.k][there]))
        return [found[at] for at in range(len(many))]

    def columns(self, ids: NDArray[Any], names: Sequence[str]) -> dict[str, list[Any]]:
        """Columns of items, in the order of their ids."""
        assert self.shop is not None
        assert self.ranker is not None
        if not names:
            return {}
        table = self.shop.catalogue.table
        assert table is not None
        some = table.select(list(dict.fromkeys(names))).take(self.ranker.places(ids))
        return {name: [plain(v) for v in some.column(name).to_pylist()] for name in names}

    def as_named(self, ids: Sequence[Any]) -> Any:
        """Ids as the catalogue has them, where they are written in another type: "7" for 7.

        Raises:
            DataError: no item has an id.
        """
        assert self.shop is not None
        assert self.ranker is not None
        try:
            self.ranker.places(ids)
        except DataError:
            return self.shop.catalogue.names[self.shop.catalogue.find(ids)]
        return ids

    def rank(self, query: Record, candidates: Sequence[Any], k: int | None) -> tuple[TopK, str]:
        """Candidates in order, and how they were scored."""
        if candidates and isinstance(candidates[0], Mapping):
            return self._rank_records(query, candidates, k), "full"
        if self.ranker is None:
            raise DataError(
                "the server has no items to find ids among; send candidates as records, or start it"
                " with --items"
            )
        top = self.ranker.query(query).rank(self.as_named(list(candidates)), k)
        return TopK(top.ids[0], self.shown(top.scores[0])), "vectors"

    def _rank_records(self, query: Record, given: Sequence[Record], k: int | None) -> TopK:
        """Each candidate scored in full, with what it lacks taken from the item of its id."""
        records = [dict(one) for one in given]
        name = None
        if self.shop is not None and self.ranker is not None:
            name = self.shop.id
            lacking = [
                one for one in records
                if name in one and not self.item_columns <= one.keys() and _is_id(one[name])
            ]  # fmt: skip
            if lacking:
                places = self.ranker.places(self.as_named([one[name] for one in lacking]))
                assert self.shop.catalogue.table is not None
                known = self.shop.catalogue.table.select(sorted(self.item_columns))
                for one, item in zip(lacking, known.take(places).to_pylist(), strict=True):
                    one.update({c: value for c, value in item.items() if c not in one})
        scores = self._scores([{**query, **one} for one in records])
        order = np.argsort(-scores, kind="stable")[:k]
        ids = [
            records[at].get(name, at) if name is not None else at for at in order.tolist()
        ]  # fmt: skip
        return TopK(np.array(ids, object), scores[order])

    def explain(self, asked: Any) -> dict[str, Any]:
        """The terms of one score."""
        record = self._record(asked)
        estimator = self.estimator
        if not hasattr(estimator, "models_") or estimator.schema_ is None:
            raise DataError("this model has no terms that could be listed")
        rows = self._encoded([record])
        (prediction,), probabilities = self.predict([record])
        chosen = 0
        if probabilities is not None and len(estimator.models_) > 1:
            chosen = int(np.argmax(probabilities[0]))
        parts = explain_row(estimator.models_[chosen], rows, estimator.schema_)
        terms = [term for term in parts.terms() if term.names]
        shown, rest = terms[: asked.top], terms[asked.top :]
        by_field = parts.by_field()
        names = list(dict.fromkeys(parts.fields))
        alone = {part.names[0]: part.value for part in by_field if len(part.names) == 1}
        return {
            "score": parts.score,
            "prediction": plain(prediction),
            "bias": parts.bias,
            "linear": [
                {"feature": t.names[0], "field": t.fields[0], "value": t.value}
                for t in shown if len(t.names) == 1
            ],
            "pairs": [
                {"features": list(t.names), "fields": list(t.fields), "value": t.value}
                for t in shown if len(t.names) == 2
            ],
            "rest": float(np.sum([t.value for t in rest])) if rest else 0.0,
            "by_field": {
                "fields": names,
                "linear": [alone.get(name, 0.0) for name in names],
                "pairs": [(*part.names, part.value) for part in by_field if len(part.names) == 2],
            },
        }  # fmt: skip

    def values(self, name: str, prefix: str, limit: int) -> list[Any]:
        """Known values of a field that begin with a text, the most frequent first."""
        schema = self.estimator.schema_
        if schema is None:
            raise SchemaError("the model has no columns by name")
        return [plain(value) for value in schema.categories(name, prefix, limit)]

    def shown(self, scores: NDArray[np.float32]) -> NDArray[Any]:
        """Scores as predictions: ratings, expected counts, probabilities of the second class."""
        return scores if self.small is None else self.small.shown(scores)

    # --- inside -----------------------------------------------------------------------------

    def _records(self) -> RecordSchema:
        assert self.small is not None
        assert self.small.records is not None
        return self.small.records

    def _encoded(self, records: list[Record]) -> Rows:
        if self.small is not None and self.small.records is not None:
            return self.small.records.transform(records)
        features = self.estimator._features
        (rows,) = features.stream(records)
        encoded: Rows = features.flat(rows)
        return encoded

    def _scores(self, records: list[Record]) -> NDArray[Any]:
        """Predictions to order by: numbers, or probabilities of the second class."""
        if not records:
            return np.empty(0, np.float32)
        if self.small is not None and self.small.records is not None:
            if len(self.small.models) > 1:
                raise DataError("several classes have no one order; rank by a model of two")
            return self.small.shown(self.small.scores(records))
        if hasattr(self.estimator, "predict_proba") and hasattr(self.estimator, "classes_"):
            if len(self.estimator.classes_) != 2:
                raise DataError("several classes have no one order; rank by a model of two")
            both: NDArray[Any] = self.estimator.predict_proba(records)[:, 1]
            return both
        predictions: NDArray[Any] = self.estimator.predict(records)
        return predictions

    def _record(self, asked: Any) -> dict[str, Any]:
        """The row that is to be explained."""
        if asked.row is not None and asked.query is None and asked.item is None:
            return dict(asked.row)
        if asked.row is not None or asked.query is None or asked.item is None:
            raise DataError("give row alone, or query and item")
        if self.shop is None or self.ranker is None:
            raise DataError("the server has no items; send the whole row")
        assert self.shop.catalogue.table is not None
        places = self.ranker.places(self.as_named([asked.item]))
        table = self.shop.catalogue.table.select(sorted(self.item_columns))
        return {**asked.query, **table.take(places).to_pylist()[0]}

    def _mask(self, filter: Mapping[str, Any]) -> tuple[str, NDArray[np.bool_] | None]:
        """A filter's name and what it lets in, which is kept for the next request."""
        if not filter:
            return "", None
        assert self.shop is not None
        assert self.shop.catalogue.table is not None
        name = json.dumps(filter, sort_keys=True)
        mask = self._masks.get(name)
        if mask is None:
            mask = mask_of(self.shop.catalogue.table, filter)
            self._masks[name] = mask
            while len(self._masks) > FILTERS_KEPT:
                self._masks.popitem(last=False)
        return name, mask


def _columns_of(one: Any) -> set[str]:
    more = {one.weights} if isinstance(one, Bag) and one.weights else set()
    return {one.name} | more


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int | float)


def plain(value: Any) -> Any:
    """As JSON can hold it: dates as texts."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str | int | float | bool | list | None) else str(value)
