"""What goes over the wire: requests and answers as types, which make the OpenAPI page too."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

__all__ = [
    "About",
    "Explained",
    "ExplainRequest",
    "Failure",
    "PredictRequest",
    "Predicted",
    "RankRequest",
    "Ranked",
    "RecommendRequest",
    "Recommended",
    "Values",
]

Record = dict[str, JsonValue]
Id = str | int | float | bool


class Request(BaseModel):
    """A body; keys that it does not know are refused, so that a slip is not silently ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PredictRequest(Request):
    """Rows to predict for."""

    rows: list[Record] = Field(description="Records with a value for each column; null: missing.")


class RankRequest(Request):
    """Candidates to order for one query."""

    query: Record = Field(description="Values of the query's columns.")
    candidates: list[Id] | list[Record] = Field(
        description="Ids of the server's items; or records. A record that has an item's id gets the"
        " columns it lacks from the item; its other columns may belong to query and item together."
    )
    k: int | None = Field(None, ge=1, description="How many, best first; null: all.")


class RecommendRequest(Request):
    """The best items of the catalogue for one query."""

    query: Record = Field(description="Values of the query's columns.")
    k: int = Field(10, ge=1)
    exclude: list[Id] = Field([], description="Ids that are left out; unknown ones are no error.")
    only: list[Id] | None = Field(None, description="Ids to choose from; null: all items.")
    filter: dict[str, JsonValue] = Field(
        {},
        description='By columns of the items: a value, a list of values, or {"min": x, "max": y}.'
        " Columns of lists match where an element does.",
    )
    columns: list[str] = Field([], description="Columns of the items to send along.")


class ExplainRequest(Request):
    """A score to take apart: of a row, or of a query and an item of the catalogue."""

    row: Record | None = None
    query: Record | None = None
    item: Id | None = None
    top: int = Field(20, ge=1, le=1000, description="Largest terms; the others are in `rest`.")


class Predicted(BaseModel):
    """Numbers, or labels with the probability of each class."""

    predictions: list[Id]
    probabilities: list[list[float]] | None = None
    classes: list[Id] | None = None
    model: str


class Ranked(BaseModel):
    """Best first. `mode`: "vectors", or "full" where each candidate was scored on its own."""

    ids: list[Any]
    scores: list[float]
    mode: str
    model: str


class Recommended(BaseModel):
    """Best first; as many as there are."""

    ids: list[Any]
    scores: list[float]
    columns: dict[str, list[Any]]
    model: str


class Term(BaseModel):
    """What one feature adds."""

    feature: str
    field: str
    value: float


class Pair(BaseModel):
    """What two features add together."""

    features: list[str]
    fields: list[str]
    value: float


class ByField(BaseModel):
    """The same terms summed by field and by pair of fields."""

    fields: list[str]
    linear: list[float]
    pairs: list[tuple[str, str, float]]


class Explained(BaseModel):
    """bias + all linear + all pairs + rest = score."""

    score: float
    prediction: Id
    bias: float
    linear: list[Term]
    pairs: list[Pair]
    rest: float
    by_field: ByField
    model: str


class FieldInfo(BaseModel):
    """A field of the model: "categorical", "numeric" or "bag", of the "query" or the "item"."""

    name: str
    kind: str
    columns: list[str]
    sep: str | None = Field(description="Of a bag that is one text: what stands between values.")
    side: str | None
    n_values: int | None


class ItemsInfo(BaseModel):
    """The catalogue."""

    n_items: int
    id: str
    columns: list[str]


class About(BaseModel):
    """The model that answers."""

    version: str
    loaded_at: str
    kind: str
    task: str
    estimator: str | None
    classes: list[Id] | None
    n_features: int
    n_factors: int
    fields: list[FieldInfo]
    items: ItemsInfo | None
    limits: dict[str, float]
    refused: str | None = Field(description="Why the last new file was not taken.")


class Values(BaseModel):
    """Known values of a field, the most frequent first."""

    field: str
    values: list[Any]


class Problem(BaseModel):
    """What is wrong, and with what."""

    type: str
    message: str


class Failure(BaseModel):
    """The body of every answer that is not 2xx."""

    error: Problem
