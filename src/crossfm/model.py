"""FactorModel: the parameters of a factorization machine, frozen.

Solvers return it; estimators, explanation, retrieval, the model file and the torch modules
read it. It knows how to score, and nothing of how it was trained.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm import _native
from crossfm.by_field import (
    check_field_weights,
    expect_fields,
    group_fields,
    rows_by_field,
    spread_weights,
)
from crossfm.data.rows import Rows
from crossfm.errors import DataError, did_you_mean
from crossfm.factors import (
    STORAGES,
    Held,
    PackedFactors,
    Precision,
    check_precision,
    empty_factors,
    held,
    padded_width,
)

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["KINDS", "FactorModel", "empty_factors", "padded_width"]

INTERACTIONS = ("all", "across_fields")
TASKS = ("regression", "classification")
KINDS = {"fm": 0, "ffm": 1, "fwfm": 2, "fmfm": 3, "hofm": 4}  # as the kernels number them
MOST_ORDER = 8

Kind = Literal["fm", "ffm", "fwfm", "fmfm", "hofm"]

ROWS_A_THREAD = 2048  # below it, waking a thread costs more than the rows it takes over


@dataclass(frozen=True, eq=False, repr=False)
class FactorModel:
    r"""A factorization machine: bias, linear weights, factors, and what they stand for.

    With ``interactions="all"``, over the features of a row (an id that occurs twice counts
    as two features)::

        y = w0 + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j

    With ``interactions="across_fields"``, features of one field are pooled and only different
    fields meet::

        p_f = sum_{i in f} v_i x_i
        y   = w0 + sum_i w_i x_i + sum_{f<g} <p_f, p_g>

    Factors of three dimensions make it field-aware: a feature has a vector for each field that it
    meets, and the crossed term is ``sum_{i<j} <v_{i,f(j)}, v_{j,f(i)}> x_i x_j``; features of one
    field meet with "all" only. Field weights make it field-weighted: the crossed term is
    ``sum_{f<g} r_fg <p_f, p_g>``, or with a matrix in the place of each weight field-matrixed:
    ``sum_{f<g} <p_f M_fg, p_g>``. An order above 2 makes it higher-order: a feature has a vector
    for each order, and sets of that many features cross, ``sum_{t=2}^{order} sum_{i_1<...<i_t}
    <v^t_{i_1}, ..., v^t_{i_t}> x_{i_1} ... x_{i_t}``, pooled fields in their place with
    "across_fields".

    Args:
        bias: ``w0``.
        weights: ``w``, float32 ``[n_features]``.
        factors: ``V``, float32 ``[n_features, n_factors]``, or ``[n_features, n_fields,
            n_factors]`` with ``v_{i,g}`` at ``[i, g]``, or with an order ``[n_features, order - 1,
            n_factors]`` with ``v^t_i`` at ``[i, t - 2]``. Stored with the numbers of a feature
            padded by zeros to a multiple of 4 and 64-byte aligned; the attribute is the view
            without padding. An array from `empty_factors` is taken over without a copy. Of a model
            from `quantize` the attribute is computed at each access; `vectors` has those of a few
            ids.
        interactions: "all" or "across_fields".
        field_of: int32 ``[n_features]``, the field of each feature id; None: unknown.
            "across_fields", and models with parameters for fields, need it for rows that carry no
            ``fields`` of their own.
        schema: the encoding that made the ids, or None.
        task: "regression" or "classification" (the score is then a logit).
        metadata: anything JSON can hold.
        field_weights: ``r``, float32 ``[n_fields, n_fields]``, symmetric, zero on the diagonal;
            or ``M``, ``[n_fields, n_fields, n_factors, n_factors]``, ``M_gf`` the transpose of
            ``M_fg``; None: all fields meet alike. Goes with "across_fields" and factors of two
            dimensions.
        order: the largest sets of features that cross; 2: pairs.

    Arrays are copied and read-only.

    Raises:
        DataError: shapes that do not fit together, numbers that are not finite, unknown words.

    Example:
        >>> model = FactorModel(0.5, [0.0, 1.0, 2.0], [[1.0], [2.0], [3.0]])
        >>> model
        FactorModel(n_features=3, n_factors=1, interactions='all', task='regression')
        >>> model.score(Rows(np.array([[0, 1], [1, 2]])))  # 0.5 + 0 + 1 + 1 * 2, ...
        array([3.5, 9.5], dtype=float32)

    Source: Rendle 2010, Factorization Machines, eq. 1; Juan et al. 2016, Field-aware Factorization
    Machines for CTR Prediction; Pan et al. 2018, Field-weighted Factorization Machines; Sun et
    al. 2021, Field-matrixed Factorization Machines; Blondel et al. 2016, Higher-Order
    Factorization Machines.
    """

    bias: float
    weights: NDArray[np.float32]
    factors: NDArray[np.float32]
    interactions: Literal["all", "across_fields"] = "all"
    field_of: NDArray[np.int32] | None = None
    schema: Schema | None = None
    task: Literal["regression", "classification"] = "regression"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    field_weights: NDArray[np.float32] | None = None
    order: int = 2

    def __post_init__(self) -> None:
        put = object.__setattr__  # the dataclass is frozen
        for name, known in (("interactions", INTERACTIONS), ("task", TASKS)):
            word = getattr(self, name)
            if word not in known:
                raise DataError(
                    f"{name} is {word!r}, expected one of {', '.join(map(repr, known))}."
                    + did_you_mean(word, known)
                )
        put(self, "bias", _number("bias", self.bias))
        weights = _floats("weights", self.weights, 1)
        factors: Any = self.factors
        if not isinstance(factors, PackedFactors):
            factors = _floats("factors", factors, 3 if np.ndim(factors) == 3 else 2)
        n, shape = len(weights), factors.shape
        if shape[0] != n:
            raise DataError(
                f"weights has {n} features, factors has {shape[0]}; expected the same number"
            )
        memory = held(weights, factors)
        put(self, "_memory", memory)
        put(self, "weights", memory.linear[:, 0])
        if memory.packed is None:
            put(self, "factors", memory.table[:, : factors[0].size].reshape(shape))
        else:
            object.__delattr__(self, "factors")  # from here on __getattr__ makes it
        if self.field_of is not None:
            put(self, "field_of", _fields(self.field_of, n))
        _check_order(self.order, shape)
        if len(shape) == 3 and shape[1] == 0:
            raise DataError("factors have vectors for 0 fields, expected at least one field")
        if self.field_weights is not None:
            if len(shape) == 3 or self.interactions != "across_fields":
                raise DataError(
                    f"field_weights weigh the pooled vectors of fields: they go with"
                    f" interactions='across_fields' and factors [n_features, n_factors], not with"
                    f" {self.interactions!r} and factors of {len(shape)} dimensions"
                )
            put(self, "field_weights", check_field_weights(self.field_weights, shape[-1]))
        if self.n_fields is not None and self.field_of is not None:
            expect_fields(int(self.field_of.max()), self.n_fields)
        if not isinstance(self.metadata, Mapping):
            raise DataError(f"metadata is {self.metadata!r}, expected a dict")
        put(self, "metadata", dict(self.metadata))

    def __repr__(self) -> str:
        kind = "" if self.kind == "fm" else f"kind={self.kind!r}, "
        kind += "" if self.n_fields is None else f"n_fields={self.n_fields}, "
        kind += "" if self.order == 2 else f"order={self.order}, "
        rounded = "" if self.precision == "float32" else f", precision={self.precision!r}"
        return (
            f"FactorModel({kind}n_features={self.n_features}, n_factors={self.n_factors},"
            f" interactions={self.interactions!r}, task={self.task!r}{rounded})"
        )

    def __reduce__(self) -> tuple[type[FactorModel], tuple[Any, ...]]:
        packed = self._held.packed
        return FactorModel, tuple(
            packed if f.name == "factors" and packed is not None else getattr(self, f.name)
            for f in fields(self)
        )

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            memory = self.__dict__.get("_memory")
            if name != "factors" or memory is None:
                raise AttributeError(f"FactorModel has no attribute {name!r}")
            factors = memory.packed.unpack()
            factors.flags.writeable = False
            return factors

    @property
    def _held(self) -> Held:
        memory: Held = self.__dict__["_memory"]
        return memory

    @property
    def n_features(self) -> int:
        """Number of feature ids."""
        return len(self.weights)

    @property
    def n_factors(self) -> int:
        """Length of each feature's vector, ``k``."""
        return self._held.shape[-1]

    @property
    def kind(self) -> Kind:
        """Which model it is.

        "fm", "ffm" (field-aware), "fwfm" (field-weighted), "fmfm" (field-matrixed) or "hofm"
        (higher-order).
        """
        if self.order > 2:
            return "hofm"
        if len(self._held.shape) == 3:
            return "ffm"
        if self.field_weights is None:
            return "fm"
        return "fwfm" if self.field_weights.ndim == 2 else "fmfm"

    @property
    def n_vectors(self) -> int | None:
        """Vectors of a feature, where it has several: one a field ("ffm") or order ("hofm")."""
        return self._held.shape[1] if len(self._held.shape) == 3 else None

    @property
    def n_fields(self) -> int | None:
        """Number of fields that the parameters are made for; None for "fm" and "hofm"."""
        if self.kind == "ffm":
            return self._held.shape[1]
        return None if self.field_weights is None else len(self.field_weights)

    @property
    def precision(self) -> Precision:
        """How the factors are held: "float32", "float16" or "int8"."""
        packed = self._held.packed
        return "float32" if packed is None else packed.precision

    @property
    def packed(self) -> PackedFactors | None:
        """The factors as a model from `quantize` holds them; None for float32."""
        return self._held.packed

    def vectors(self, ids: Any) -> NDArray[np.float32]:
        """The factors of these features as float32, ``factors[ids]``, whatever the precision.

        >>> FactorModel(0.5, [0.0, 1.0], [[1.0, 2.0], [3.0, 4.0]]).vectors([1]).tolist()
        [[3.0, 4.0]]
        """
        ids, packed = np.asarray(ids), self._held.packed
        return self.factors[ids] if packed is None else packed.unpack(ids)

    def quantize(self, precision: Precision) -> FactorModel:
        """The same model with its factors in less space, for serving.

        "float16" takes half the space of float32, at a relative error of up to 0.0005 a number;
        "int8" a quarter and a scale a feature (20 bytes in place of 64 at 16 factors), at an error
        of up to a 254th of the feature's largest number. Bias, weights and field weights stay
        float32, and scores are computed in float32. "float32" takes a rounded model back to
        float32; what was rounded off stays lost.

        Args:
            precision: "float32", "float16" or "int8".

        Returns:
            a model of that precision; the same one where it is of it already.

        Raises:
            DataError: another word; a factor beyond 65504 for "float16".

        Example:
            >>> model = FactorModel(0.5, [0.0, 1.0], [[0.3, 0.1], [0.2, -0.4]])
            >>> small = model.quantize("int8")
            >>> small.precision
            'int8'
            >>> rows = Rows(np.array([[0, 1]]))
            >>> bool(abs(small.score(rows) - model.score(rows))[0] < 0.001)
            True
        """
        if check_precision(precision) == self.precision:
            return self
        factors: Any = self.factors
        if precision != "float32":
            factors = PackedFactors.pack(factors, precision)
        return replace(self, factors=factors)

    def score(self, rows: Rows, n_jobs: int | None = None) -> NDArray[np.float32]:
        """Raw scores of rows: predictions, or logits in classification.

        Args:
            rows: n rows; ids below ``n_features``.
            n_jobs: threads; None: as many as cores and rows warrant, -1: all cores. The result
                is the same to the bit for any number.

        Returns:
            float32 ``[n]``.

        Raises:
            DataError: an id beyond the model, broken rows, "across_fields" without fields.

        Example:
            >>> model = FactorModel(1.0, [0.5, 0.0], [[1.0], [2.0]])
            >>> rows = Rows(np.array([0, 0, 1]), offsets=np.array([0, 1, 1, 3]))
            >>> model.score(rows)  # the row in the middle is empty
            array([1.5, 1. , 3.5], dtype=float32)
        """
        if not isinstance(rows, Rows):
            raise DataError(
                f"score takes Rows, got {type(rows).__name__}; schema.transform(frame),"
                " Rows.from_csr(matrix) or the readers of crossfm.data make them"
            )
        threads = _threads(n_jobs, len(rows))
        across = self.interactions == "across_fields"
        by_field = across or self.n_fields is not None
        stats = rows.validate(self.n_features)
        field_of = self.field_of
        if self.n_fields is not None:
            rows, field_of = rows_by_field(rows, field_of, self.n_fields)
        elif across:
            rows = group_fields(rows, field_of)
        out = np.empty(len(rows), np.float32)
        if len(rows) == 0:
            return out
        memory = self._held
        batch = _native.Batch(
            ids=rows.ids,
            values=rows.values,
            offsets=rows.offsets,
            fields=rows.fields if by_field else None,
            field_of=field_of if by_field and rows.fields is None else None,
            targets=None,
            weights=None,
            n_rows=len(rows),
            longest_row=stats.longest_row,
            has_repeats=stats.has_repeats,
        )
        _native.score(
            batch=batch,
            factors=memory.table.reshape(-1),
            factors_at=memory.at,
            stride=memory.table.shape[1],
            linear=memory.linear.reshape(-1),
            linear_at=0,
            linear_stride=memory.linear.shape[1],
            bias=self.bias,
            k=memory.width,
            across_fields=across,
            n_features=self.n_features,
            out=out,
            threads=threads,
            model=KINDS[self.kind],
            n_fields=self.n_fields or 0,
            length=self.n_factors,
            order=self.order,
            field_weights=None
            if self.field_weights is None
            else spread_weights(self.field_weights, memory.width),
            storage=STORAGES[self.precision],
        )
        return out


def _check_order(order: Any, shape: tuple[int, ...]) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or not 2 <= order <= MOST_ORDER:
        raise DataError(f"order is {order!r}, expected an integer from 2 to {MOST_ORDER}")
    if order > 2 and (len(shape) != 3 or shape[1] != order - 1):
        raise DataError(
            f"factors have shape {list(shape)}, expected [n_features, {order - 1}, n_factors]: a"
            f" model of order {order} has a vector for each order from 2 on"
        )


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is {value!r}, expected a number") from error
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise DataError(f"{name} is {number}, expected a finite float32 number")
    return number


def _floats(name: str, array: ArrayLike, ndim: int) -> NDArray[np.float32]:
    """`array` as float32 with `ndim` dimensions, at least one feature, finite."""
    shape = ("[n_features]", "[n_features, n_factors]", "[n_features, n_vectors, n_factors]")[
        ndim - 1
    ]
    try:
        with np.errstate(over="ignore"):  # becomes infinite, refused below
            checked = np.asarray(array, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be numbers of shape {shape}: {error}") from error
    if checked.ndim != ndim:
        raise DataError(f"{name} has shape {checked.shape}, expected {shape}")
    if len(checked) == 0:
        raise DataError(f"{name} holds no features; a model has at least one")
    # The extremes are NaN or infinite where any number is; no mask of the table's size.
    if checked.size and not (np.isfinite(checked.min()) and np.isfinite(checked.max())):
        bad = ~np.isfinite(checked.reshape(len(checked), -1)).all(axis=1)
        raise DataError(f"{name} of feature {int(np.argmax(bad))} is not finite")
    return checked


def _fields(field_of: ArrayLike, n_features: int) -> NDArray[np.int32]:
    of = np.asarray(field_of)
    if of.dtype.kind not in "iu":
        raise DataError(f"field_of holds {of.dtype}, expected integers")
    if of.shape != (n_features,):
        raise DataError(f"field_of has shape {of.shape}, expected [{n_features}]")
    if of.min() < 0 or of.max() > np.iinfo(np.int32).max:
        raise DataError(f"field_of runs from {of.min()} to {of.max()}, expected 0 to 2^31-1")
    of = of.astype(np.int32)
    of.flags.writeable = False
    return of


def _threads(n_jobs: int | None, n_rows: int) -> int:
    if n_jobs is not None and (isinstance(n_jobs, bool) or int(n_jobs) != n_jobs or n_jobs == 0):
        raise DataError(f"n_jobs is {n_jobs!r}, expected 1 or more, -1 for all cores, or None")
    if n_jobs is not None and n_jobs > 0:
        return min(int(n_jobs), max(n_rows, 1))
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no such call
        cores = os.cpu_count() or 1
    if n_jobs is not None:
        return max(1, min(cores + 1 + int(n_jobs), n_rows))
    return max(1, min(cores, n_rows // ROWS_A_THREAD))
