"""Contributions: the score of one row taken apart into the terms that it is the sum of."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossfm.by_field import rows_by_field
from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.model import FactorModel

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["Contributions", "Part", "Term", "explain_row"]


class Term(NamedTuple):
    """One term of the score.

    Attributes:
        names: the feature (linear term), or the two features (pair); none for the bias.
        fields: the field of each.
        value: what it adds to the score.
    """

    names: tuple[str, ...]
    fields: tuple[str, ...]
    value: float


class Part(NamedTuple):
    """The sum of several terms.

    Attributes:
        names: the feature, the field, or the two fields that they share.
        value: their sum.
    """

    names: tuple[str, ...]
    value: float


@dataclass(frozen=True, eq=False)
class Contributions:
    r"""The terms of one row's score, in float64.

    ``score = bias + sum_i w_i x_i + sum_{i<j} x_i x_j <v_i, v_j>``; with ``"across_fields"`` the
    pairs are those of different fields. A field-aware model has ``<v_{i,f(j)}, v_{j,f(i)}>`` in
    their place, a field-weighted one ``r_{f(i),f(j)} <v_i, v_j>``, a field-matrixed one
    ``<v_i M_{f(i),f(j)}, v_j>``. What larger sets add under a higher-order model is shared out
    equally to the pairs in them.

    Attributes:
        bias: ``w0``.
        names: of the row's features, in order.
        fields: of the row's features.
        linear: ``w_i x_i`` ``[m]``.
        pair_of: the two features of each pair, int ``[n_pairs, 2]``.
        pairs: ``x_i x_j <v_i, v_j>`` ``[n_pairs]``.

    Example:
        >>> model = FactorModel(0.5, [0.0, 1.0, 2.0], [[1.0], [2.0], [3.0]])
        >>> found = explain_row(model, Rows(np.array([[1, 2]])))
        >>> found.score
        9.5
        >>> print(found.table())
        what                      adds
        ------------------------------
        feature 1 × feature 2  +6.0000
        feature 2              +2.0000
        feature 1              +1.0000
        bias                   +0.5000
        ------------------------------
        score                  +9.5000
    """

    bias: float
    names: tuple[str, ...]
    fields: tuple[str, ...]
    linear: NDArray[np.float64]
    pair_of: NDArray[np.intp]
    pairs: NDArray[np.float64]

    @property
    def score(self) -> float:
        """The sum of all terms: the model's raw score."""
        return math.fsum([self.bias, *self.linear.tolist(), *self.pairs.tolist()])

    def terms(self) -> Iterator[Term]:
        """All terms, the bias among them, by falling size."""
        m = len(self.linear)
        values = np.concatenate([[self.bias], self.linear, self.pairs])
        for t in np.argsort(-np.abs(values), kind="stable").tolist():
            at = () if t == 0 else (t - 1,) if t <= m else tuple(self.pair_of[t - 1 - m].tolist())
            yield Term(
                tuple(self.names[i] for i in at),
                tuple(self.fields[i] for i in at),
                float(values[t]),
            )

    def by_feature(self) -> list[Part]:
        """What each feature adds: its linear term and half of each of its pairs.

        Together with the bias they sum to the score.
        """
        total = self.linear.copy()
        np.add.at(total, self.pair_of.reshape(-1), np.repeat(self.pairs / 2, 2))
        return _sorted([Part((name,), float(v)) for name, v in zip(self.names, total, strict=True)])

    def by_field(self) -> list[Part]:
        """What each field and each pair of fields adds.

        A field: its features' linear terms, and the pairs inside it. Together with the bias they
        sum to the score.
        """
        parts: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for field, value in zip(self.fields, self.linear.tolist(), strict=True):
            parts[(field,)].append(value)
        order = {field: f for f, field in enumerate(dict.fromkeys(self.fields))}
        for (i, j), value in zip(self.pair_of.tolist(), self.pairs.tolist(), strict=True):
            both = sorted({self.fields[i], self.fields[j]}, key=order.__getitem__)
            parts[tuple(both)].append(value)
        return _sorted([Part(names, math.fsum(values)) for names, values in parts.items()])

    def table(self, limit: int | None = 10, by: str = "term") -> str:
        """The largest contributions as aligned text, ending in the score.

        Args:
            limit: lines to show, the rest in one; None: all.
            by: "term", "feature" or "field".

        Raises:
            DataError: another word for `by`, or a negative limit.
        """
        if limit is not None and limit < 0:
            raise DataError(f"limit is {limit}, expected at least 0, or None for all")
        if by == "term":
            parts = [Part(term.names, term.value) for term in self.terms()]
        elif by in ("feature", "field"):
            found = self.by_feature() if by == "feature" else self.by_field()
            parts = _sorted([Part((), self.bias), *found])
        else:
            raise DataError(f"by is {by!r}, expected 'term', 'feature' or 'field'")
        lines = [(" × ".join(part.names) or "bias", part.value) for part in parts]
        if limit is not None and len(lines) > limit + 1:
            rest = math.fsum(value for _, value in lines[limit:])
            lines = [*lines[:limit], (f"{len(lines) - limit} smaller ones", rest)]
        lines.append(("score", self.score))
        width = max(len("what"), *(len(name) for name, _ in lines))
        shown = [f"{value:+.4f}" for _, value in lines]
        digits = max(len("adds"), *map(len, shown))
        text = [f"{'what':{width}}  {'adds':>{digits}}"]
        text += [
            f"{name:{width}}  {number:>{digits}}"
            for (name, _), number in zip(lines, shown, strict=True)
        ]
        rule = "-" * (width + 2 + digits)
        return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])


def explain_row(model: FactorModel, row: Rows, schema: Schema | None = None) -> Contributions:
    r"""Take the score of one row apart.

    Args:
        model: any; of several classes, the one of the class in question.
        row: one row.
        schema: names the features; None: the model's own, or ids where it has none.

    Returns:
        terms that sum to the score: ``model.score(row)`` is the same in float32.

    Raises:
        DataError: not one row, one of more than 4,000 features, ids beyond the model,
            "across_fields" without fields.

    Example:
        >>> from crossfm import Categorical, Schema
        >>> schema = Schema([Categorical("user"), Categorical("film")])
        >>> schema = schema.fit({"user": ["ann"], "film": ["Alien"]})
        >>> model = FactorModel(3.0, [0, 0.5, 0, 0.25], [[0], [1], [0], [-0.5]], schema=schema)
        >>> row = schema.transform({"user": ["ann"], "film": ["Alien"]})
        >>> explain_row(model, row).by_field()[0]
        Part(names=('user',), value=0.5)
    """
    if not isinstance(row, Rows) or len(row) != 1:
        found = f"{len(row)} rows" if isinstance(row, Rows) else type(row).__name__
        raise DataError(f"explain_row takes Rows of one row, got {found}; rows[i:i + 1] is one")
    row.validate(model.n_features)
    schema = model.schema if schema is None else schema
    ids = row.ids
    x = np.ones(len(ids)) if row.values is None else row.values.astype(np.float64)
    field = row.fields
    if field is None:
        field = model.field_of[ids] if model.field_of is not None else None
    if field is None and schema is not None:
        field = schema.field_of_[ids]
    if len(ids) > MOST_FEATURES:
        n_pairs = len(ids) * (len(ids) - 1) // 2
        raise DataError(
            f"the row has {len(ids):,} features and {n_pairs:,} pairs of them, more than can be"
            f" listed; explain rows of at most {MOST_FEATURES:,} features, for"
            " example with shorter bags"
        )
    i, j = np.triu_indices(len(ids), 1)
    across = model.interactions == "across_fields"
    if model.n_fields is not None or across:
        if field is None:
            raise DataError(
                "a model that goes by field needs the field of each feature, none is known"
            )
        if model.n_fields is not None:
            rows_by_field(row.replace(fields=field), None, model.n_fields)  # checks their range
    if across:
        assert field is not None
        apart = field[i] != field[j]
        i, j = i[apart], j[apart]
    return Contributions(
        bias=float(model.bias),
        names=tuple(_names(ids, x, schema)),
        fields=tuple(_fields(ids, field, schema)),
        linear=x * model.weights[ids].astype(np.float64),
        pair_of=np.stack([i, j], axis=1),
        pairs=_pairs(model, ids, x, field, i, j),
    )


PAIRS_AT_A_TIME = 1 << 16
MOST_FEATURES = 4_000  # eight million pairs


def _pairs(
    model: FactorModel,
    ids: NDArray[np.integer],
    x: NDArray[np.float64],
    field: NDArray[np.int32] | None,
    i: NDArray[np.intp],
    j: NDArray[np.intp],
) -> NDArray[np.float64]:
    """What each pair of the row's features adds, in bounded memory."""
    if model.kind == "hofm":
        return _shared_out(model, ids, x, field, i, j)
    out = np.empty(len(i))
    vectors = model.vectors(ids)
    for low in range(0, len(i), PAIRS_AT_A_TIME):
        part = slice(low, low + PAIRS_AT_A_TIME)
        a, b = i[part], j[part]
        if model.kind == "ffm":
            assert field is not None
            v, u = vectors[a, field[b]], vectors[b, field[a]]
        else:
            v, u = vectors[a], vectors[b]
        dots = (v.astype(np.float64) * u).sum(axis=1)
        if model.kind == "fmfm":
            assert field is not None
            assert model.field_weights is not None
            matrices = model.field_weights[field[a], field[b]].astype(np.float64)
            dots = np.einsum("pk,pkl,pl->p", v, matrices, u)
        elif model.field_weights is not None:
            assert field is not None
            dots *= model.field_weights[field[a], field[b]]
        out[part] = x[a] * x[b] * dots
    return out


def _names(ids: NDArray[np.integer], x: NDArray[np.float64], schema: Schema | None) -> list[str]:
    plain = [f"feature {i}" for i in ids] if schema is None else schema.feature_names(ids)
    return [
        name if value == 1 else f"{name} ({value:.4g})"
        for name, value in zip(plain, x.tolist(), strict=True)
    ]


def _fields(
    ids: NDArray[np.integer], field: NDArray[np.int32] | None, schema: Schema | None
) -> list[str]:
    if field is None:
        return [f"feature {i}" for i in ids]
    if schema is None:
        return [f"field {f}" for f in field]
    return [schema.field_names[f] for f in field]


def _sorted(parts: list[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: -abs(part.value))


def _shared_out(
    model: FactorModel,
    ids: NDArray[np.integer],
    x: NDArray[np.float64],
    field: NDArray[np.int32] | None,
    i: NDArray[np.intp],
    j: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Sets of features, each in equal parts to its pairs.

    For order t a pair has ``2 / (t (t - 1)) u_i u_j`` times the sets of t - 2 others, whose sum is
    that of all such sets with i and j divided out.
    """
    out = np.zeros(len(i))
    vectors = model.vectors(ids).astype(np.float64)  # [m, order - 1, k]
    pool = np.arange(len(ids))
    if model.interactions == "across_fields":
        assert field is not None
        pool = np.unique(field, return_inverse=True)[1]
    for t in range(2, model.order + 1):
        u = x[:, None] * vectors[:, t - 2]
        p = np.zeros((int(pool.max(initial=-1)) + 1, u.shape[1]))
        np.add.at(p, pool, u)
        sets = [np.ones(u.shape[1]), *np.zeros((t - 2, u.shape[1]))]
        for one in p:
            for s in range(t - 2, 0, -1):
                sets[s] = sets[s] + one * sets[s - 1]
        share = 2 / (t * (t - 1))
        for low in range(0, len(i), PAIRS_AT_A_TIME):
            part = slice(low, low + PAIRS_AT_A_TIME)
            a, b = i[part], j[part]
            without_a = without_both = np.ones((len(a), u.shape[1]))
            for s in range(1, t - 1):
                without_a = sets[s] - p[pool[a]] * without_a
                without_both = without_a - p[pool[b]] * without_both
            out[part] += share * (u[a] * u[b] * without_both).sum(axis=1)
    return out
