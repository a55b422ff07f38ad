"""What a model is, for people who ask: its fields, and examples of requests."""

from __future__ import annotations

from typing import Any

from crossfm.data.fields import Bag, Categorical
from crossfm.errors import SchemaError
from crossfm.serving import wire
from crossfm.serving.served import Served, plain
from crossfm.serving.settings import Settings

__all__ = ["about", "examples"]

REQUESTS = (wire.PredictRequest, wire.RankRequest, wire.RecommendRequest, wire.ExplainRequest)


def about(served: Served, settings: Settings, refused: str | None) -> dict[str, Any]:
    """The body of ``/model``."""
    estimator, schema = served.estimator, served.estimator.schema_
    models = getattr(estimator, "models_", None)
    fields = []
    for one in () if schema is None else schema.fields:
        side = None
        if served.shop is not None:
            side = "item" if one.name in served.item_fields else "query"
        fields.append(
            {
                "name": one.name, "kind": type(one).__name__.lower(),
                "columns": [n for n in (one.name, getattr(one, "weights", None)) if n],
                "sep": one.sep if isinstance(one, Bag) else None,
                "side": side, "n_values": _n_values(schema, one),
            }
        )  # fmt: skip
    items = None
    if served.shop is not None:
        assert served.shop.catalogue.table is not None
        items = {
            "n_items": served.shop.n_items, "id": served.shop.id,
            "columns": served.shop.catalogue.table.column_names,
        }  # fmt: skip
    classes = getattr(estimator, "classes_", None)
    limits = settings.limits
    return {
        "version": served.version,
        "loaded_at": served.loaded_at.isoformat(timespec="seconds"),
        "kind": models[0].kind if models else "network",
        "task": "regression" if classes is None else "classification",
        "estimator": type(estimator).__name__,
        "classes": None if classes is None else [plain(one) for one in classes.tolist()],
        "n_features": models[0].n_features if models else 0,
        "n_factors": models[0].n_factors if models else 0,
        "fields": fields,
        "items": items,
        "limits": {name: getattr(limits, name) for name in limits.__slots__},
        "refused": refused,
    }


def examples(document: dict[str, Any], served: Served) -> dict[str, Any]:
    """An OpenAPI document with the types of bodies, and requests that this model can answer."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for kind in REQUESTS:
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[kind.__name__] = schema
    row = _row(served)
    if row is None:
        return document
    query = {name: value for name, value in row.items() if name in served.query_columns}
    bodies: dict[str, Any] = {"PredictRequest": {"rows": [row]}, "ExplainRequest": {"row": row}}
    if served.shop is not None:
        some = [plain(id) for id in served.shop.ids[:3].tolist()]
        bodies["RankRequest"] = {"query": query, "candidates": some, "k": 2}
        bodies["RecommendRequest"] = {"query": query, "k": 5, "exclude": some[:1]}
        bodies["ExplainRequest"] = {"query": query, "item": some[0]}
    else:
        bodies["RankRequest"] = {"query": {}, "candidates": [row]}
    for name, body in bodies.items():
        schemas[name]["examples"] = [body]
    return document


def _row(served: Served) -> dict[str, Any] | None:
    """A record that the model knows."""
    schema = served.estimator.schema_
    if schema is None:
        return None
    row: dict[str, Any] = {}
    for one in schema.fields:
        try:
            known = [str(v) if not isinstance(v, str | int | float) else v
                     for v in schema.categories(one.name, "", 2)]  # fmt: skip
        except SchemaError:
            known = []
        if isinstance(one, Bag):
            row[one.name] = known if one.sep is None else one.sep.join(map(str, known))
            if one.weights:
                ones = [1.0] * len(known)
                row[one.weights] = ones if one.sep is None else one.sep.join(map(str, ones))
        elif isinstance(one, Categorical):
            row[one.name] = known[0] if known else None
        else:
            row[one.name] = 1.0
    return row


def _n_values(schema: Any, one: Any) -> int | None:
    if not isinstance(one, Bag | Categorical) or one.hash_buckets is not None:
        return None
    return len(schema.block(one.name)) - 1
