"""Field strengths: how much each field, and each pair of fields, moves the scores of many rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfm.by_field import pool_fields
from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.model import FactorModel

__all__ = ["FieldStrengths", "field_strengths"]

BATCH = 4096  # rows whose pooled vectors are held at a time


@dataclass(frozen=True, eq=False)
class FieldStrengths:
    """What fields and pairs of fields add to the scores of rows.

    On the diagonal stands what a field adds by itself, its linear terms and the pairs inside it;
    beside it what two fields add together. The sum of the upper triangle of `mean` and the bias is
    the mean score.

    Attributes:
        fields: names, or numbers where there is no schema.
        mean: symmetric, float64 ``[F, F]``.
        mean_size: mean of the absolute values.
        deviation: standard deviation over the rows: how much scores differ by it.
        n_rows: how many.
    """

    fields: tuple[str, ...]
    mean: NDArray[np.float64]
    mean_size: NDArray[np.float64]
    deviation: NDArray[np.float64]
    n_rows: int

    def strongest(self, k: int = 10) -> list[tuple[tuple[str, ...], float]]:
        """The fields and pairs with the largest deviations."""
        f, g = np.triu_indices(len(self.fields))
        order = np.argsort(-self.deviation[f, g], kind="stable")[:k]
        return [
            (tuple(dict.fromkeys((self.fields[f[t]], self.fields[g[t]]))),
             float(self.deviation[f[t], g[t]]))
            for t in order.tolist()
        ]  # fmt: skip


def field_strengths(model: FactorModel, rows: Rows) -> FieldStrengths:
    """How much each field and each pair of fields moves the scores of these rows.

    Args:
        model: of pairs: "fm", "fwfm", "fmfm" or "ffm", whose fields are known.
        rows: in the model's ids, such as ``model.schema.transform(frame)``.

    Raises:
        DataError: no rows; a higher-order model; fields that are not known.

    Example:
        >>> from crossfm import Categorical, Schema
        >>> schema = Schema([Categorical("user"), Categorical("film")])
        >>> log = {"user": ["ann", "bob"], "film": ["Alien", "Brazil"]}
        >>> rows = schema.fit(log).transform(log)
        >>> model = FactorModel(3.0, [0, 1, -1, 0, 0, 0], [[0], [1], [2], [0], [1], [-1]],
        ...                     schema=schema, field_of=schema.field_of_)
        >>> found = field_strengths(model, rows)
        >>> found.mean.tolist(), found.strongest(1)
        ([[0.0, -0.5], [-0.5, 0.0]], [(('user', 'film'), 1.5)])
    """
    if model.kind == "hofm":
        raise DataError("a higher-order machine crosses sets of fields, not only pairs of them")
    rows.validate(model.n_features)
    if not len(rows):
        raise DataError("there are no rows to look at")
    field = rows.fields
    if field is None:
        if model.field_of is None:
            raise DataError("the field of each feature is not known; give the model field_of")
        field = model.field_of[rows.ids]
    schema = model.schema
    n_fields = int(field.max(initial=-1)) + 1
    if model.field_of is not None:
        n_fields = max(n_fields, int(model.field_of.max(initial=-1)) + 1)
    names = (
        tuple(schema.field_names) if schema is not None and len(schema.fields) == n_fields
        else tuple(map(str, range(n_fields)))
    )  # fmt: skip
    total, size, squares = np.zeros((3, n_fields, n_fields))
    centre: NDArray[np.float64] | None = None
    rows = rows.replace(fields=field)
    for part in rows.batches(BATCH):
        found = _of_rows(model, part, n_fields)
        centre = found[0].copy() if centre is None else centre  # squares of small numbers
        gap = found - centre
        total += gap.sum(axis=0)
        squares += np.square(gap).sum(axis=0)
        size += np.abs(found).sum(axis=0)
    n = len(rows)
    assert centre is not None
    variance = np.maximum(squares / n - np.square(total / n), 0.0)
    return FieldStrengths(names, centre + total / n, size / n, np.sqrt(variance), n)


def _of_rows(model: FactorModel, rows: Rows, n_fields: int) -> NDArray[np.float64]:
    """What each field and pair of fields adds to each row, ``[n, F, F]``."""
    assert rows.fields is not None
    ids, columns = np.unique(rows.ids, return_inverse=True)
    vectors = model.vectors(ids).astype(np.float64)
    pooled = pool_fields(rows, rows.fields, n_fields, columns, vectors)
    if model.kind == "ffm":
        out = np.einsum("nfgk,ngfk->nfg", pooled, pooled)
    elif model.kind == "fmfm":
        out = np.einsum("nfk,fgkl,ngl->nfg", pooled, np.asarray(model.field_weights, float),
                        pooled, optimize=True)  # fmt: skip
    else:
        out = np.einsum("nfk,ngk->nfg", pooled, pooled)
        if model.field_weights is not None:
            out = out * np.asarray(model.field_weights, float)
    # The diagonal: linear terms, and with "all" the pairs inside a field.
    weights = model.weights[ids].astype(np.float64)
    own = pool_fields(rows, rows.fields, n_fields, columns, weights)
    if model.interactions == "all":
        squared = rows if rows.values is None else rows.replace(values=np.square(rows.values))
        places = np.arange(n_fields)
        if model.kind == "ffm":
            norms = np.square(vectors).sum(axis=2)  # [m, F], of the vector for each field
            inner = pool_fields(squared, rows.fields, n_fields, columns, norms)[:, places, places]
        else:
            norms = np.square(vectors).sum(axis=1)
            inner = pool_fields(squared, rows.fields, n_fields, columns, norms)
        own = own + (out[:, places, places] - inner) / 2
    out[:, np.arange(n_fields), np.arange(n_fields)] = own
    return np.asarray(out)
