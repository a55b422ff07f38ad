"""Features: how an estimator reads X, learned at the first fit and kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossfm.data import inputs
from crossfm.data.relations import RelationBlock, Relations
from crossfm.data.rows import Rows, side_by_side
from crossfm.data.schema import Schema
from crossfm.errors import DataError, SchemaError
from crossfm.estimators._learning import learn_schema, named, read_table
from crossfm.estimators._matrix import brief, check_matrix, join_matrices, matrix_rows
from crossfm.estimators._scaling import Scaling

__all__ = ["Data", "Features", "batches_of", "file_batches", "no_target"]

Kind = Literal["columns", "matrix", "ids"]


class Data(NamedTuple):
    """Rows without targets, and what came with them."""

    rows: Rows
    y: Any
    weight: Any


class Features:
    """How X becomes Rows: by a schema ("columns"), column by column ("matrix"), as it is ("ids").

    Attributes:
        kind: one of the three.
        schema: of named columns, else None.
        n_features: number of ids.
        names: the columns that are read, object array; None for matrices and ids.
        scaling: of the values of matrices and ids, or None.
        relations: relation blocks. Rows that are read then end in one id for each of them, beyond
            those of features, which names the row's unit: see `own_rows` and `flat`.
        owner: the estimator's class, for messages.
    """

    def __init__(
        self, kind: Kind, owner: str, schema: Schema | None = None, n_features: int = 0
    ) -> None:
        self.kind = kind
        self.owner = owner
        self.schema = schema
        self.n_features = n_features if schema is None else schema.n_features_
        self.scaling: Scaling | None = None
        self.relations = Relations()

    def copy(self) -> Features:
        """An independent copy; the schema's vocabulary too."""
        schema = None if self.schema is None else self.schema.copy()
        copied = Features(self.kind, self.owner, schema, self.n_features)
        copied.scaling, copied.relations = self.scaling, self.relations
        return copied

    @property
    def columns(self) -> list[str]:
        """The columns of X that are read; none of matrices and ids."""
        if self.schema is None:
            return []
        own = self.schema.columns_of(self._own_fields)
        return list(dict.fromkeys([*own, *self.relations.columns]))

    @property
    def names(self) -> NDArray[np.object_] | None:
        """The same as an array; None of matrices and ids."""
        return None if self.schema is None else np.array(self.columns, dtype=object)

    @property
    def n_inputs(self) -> int:
        """Columns read, or ids."""
        return self.n_features if self.schema is None else len(self.columns)

    @property
    def column_types(self) -> dict[str, Any]:
        """Arrow types to read the columns of text files with."""
        assert self.schema is not None
        return self.relations.column_types | self.schema.column_types

    def field_of(self, by_field: bool) -> NDArray[np.int32] | None:
        """The field of each id, where the schema or a model that goes by field has one.

        A matrix has a field a column.
        """
        if self.schema is not None:
            return self.schema.field_of_
        if self.kind == "matrix" and by_field:
            return np.arange(self.n_features, dtype=np.int32)
        return None

    def n_fields(self, highest: int) -> int:
        """The number of fields, as far as the first rows tell: `highest` is that of theirs, or -1.

        Raises:
            DataError: neither columns nor the rows say.
        """
        if self.schema is not None:
            return len(self.schema.field_names)
        if self.kind == "matrix":
            return self.n_features
        if highest < 0:
            raise DataError(
                f"{self.owner} needs the field of each feature, and these ids have none: give a"
                " frame, a matrix, libffm text, or Rows(..., fields=...)"
            )
        return highest + 1

    # --- learning ---------------------------------------------------------------------------

    @staticmethod
    def learn(
        X: Any,
        y: Any,
        weight: Any,
        *,
        schema: Schema | None,
        owner: str,
        verbose: int = 0,
        blocks: Sequence[RelationBlock] = (),
    ) -> tuple[Features, Data, Any]:
        """Features for these data, the data read by them, and the matrix if X is one.

        The scaling comes afterwards, from `learn_scaling`, when weights are known.
        """
        kind = _kind(X)
        if kind == "matrix" and schema is not None and inputs.kind_of(X) == "frame":
            kind = "columns"
        if kind == "batches":
            return _learn_batches(
                X, y, weight, schema=schema, owner=owner, verbose=verbose, blocks=blocks
            )
        if kind != "columns" and blocks:
            raise SchemaError(
                f"relation blocks are looked up by a column of X, and {type(X).__name__} has none"
                " with a name; give a DataFrame"
            )
        if kind != "columns" and schema is not None:
            raise SchemaError(
                f"schema= describes columns with names, {type(X).__name__} has none; leave it out,"
                " or give a DataFrame"
            )
        if kind == "columns":
            learned, table = learn_schema(X, y, weight, schema, [one.column for one in blocks])
            relations = Relations()
            if blocks:
                learned, relations = Relations.learn(learned, blocks)
            if verbose and schema is None:
                print(learned.describe())
            features = Features("columns", owner, learned)
            features.relations = relations
            return features, features._read_table(table, y, weight), None
        if kind == "matrix":
            _expect_no_names(X, y, weight)
            if y is None:
                raise no_target(owner)
            X = check_matrix(X, None, owner)
            features = Features("matrix", owner, n_features=X.shape[1])
            return features, Data(matrix_rows(X), y, weight), X
        data = _read_ids(X, y, weight, owner)
        n_features = max(1, data.rows.validate().max_id + 1)
        return Features("ids", owner, n_features=n_features), data, None

    def learn_scaling(
        self, data: Data, weight: NDArray[np.float64] | None, matrix: Any, *, centre: bool = True
    ) -> Rows:
        """Learn the scaling of these rows' values; the rows as training sees them.

        `centre`: whether columns of matrices may be shifted too.
        """
        rows = data.rows
        if self.kind == "columns":
            return rows
        weighted = rows if weight is None else rows.replace(weights=weight)
        self.scaling = Scaling.learn(
            weighted, self.n_features, centre=centre and self.kind == "matrix"
        )
        return self.scaled(rows, matrix)

    def extend(self, X: Any, y: Any, weight: Any) -> Data:
        """Read more training data: new values and ids get room; rows are as training sees them."""
        kind = _kind(X)
        if kind == "batches":
            parts = [self.extend(*part) for part in batches_of(X, y, weight)]
            return _stack(parts)
        if self.kind == "columns" and kind == "columns":
            assert self.schema is not None
            table = self._table(X, y, weight)
            self.schema.partial_fit(table, fields=self._own_fields)
            self.n_features = self.schema.n_features_
            return self._read_table(table, y, weight)
        if self.kind == "ids" and kind == "ids":
            data = _read_ids(X, y, weight, self.owner)
            highest = data.rows.validate().max_id
            if highest >= self.n_features:
                self.n_features = highest + 1
                if self.scaling is not None:
                    self.scaling = self.scaling.grown(self.n_features)
            return data._replace(rows=self.scaled(data.rows))
        return self.read(X, y, weight)

    # --- reading ----------------------------------------------------------------------------

    def read(self, X: Any, y: Any = None, weight: Any = None, *, scaled: bool = True) -> Data:
        """Rows of X with targets and weights, where given; nothing is learned.

        Args:
            X: any form of input.
            y: array or the name of a column; None: what X carries.
            weight: the same.
            scaled: values as training sees them, else as they are.
        """
        kind = _kind(X)
        if kind == "batches":
            return _stack([self.read(*p, scaled=scaled) for p in batches_of(X, y, weight)])
        if self.kind == "columns":
            return self._read_table(self._as_columns(X, kind, y, weight), y, weight)
        if self.kind == "matrix":
            _expect_no_names(X, y, weight)
            if kind == "ids":
                data = _read_ids(X, y, weight, self.owner, need_y=False)
                X, y, weight = data.rows.to_csr(self._width(data.rows)), data.y, data.weight
            X = check_matrix(self._as_matrix(X, kind), self.n_features, self.owner)
            rows = matrix_rows(X)
            return Data(self.scaled(rows, X) if scaled else rows, y, weight)
        if kind == "matrix":
            _expect_no_names(X, y, weight)
            rows = matrix_rows(check_matrix(X, None, self.owner))
            data = Data(rows, y, weight)
        elif kind == "columns":
            raise SchemaError(
                f"this {self.owner} was fitted on ids without names; it cannot read columns"
            )
        else:
            data = _read_ids(X, y, weight, self.owner, need_y=False)
        rows = drop_unknown(data.rows, self.n_features)
        return data._replace(rows=self.scaled(rows) if scaled else rows)

    def stream(self, X: Any) -> Iterator[Rows]:
        """Rows of X as they are, for scoring; files in batches."""
        kind = _kind(X)
        if kind == "batches":
            for part, _, _ in batches_of(X, None, None):
                yield from self.stream(part)
        elif self.relations and inputs.kind_of(X) == "path" and kind == "columns":
            from crossfm.data import tables

            for path in inputs.paths_of(X):
                for table in tables.iter_tables(
                    path, columns=self.columns, types=self.column_types, dictionaries=True
                ):
                    yield self._read_table(table, None, None).rows
        elif inputs.kind_of(X) == "path" and kind == self.kind:
            for rows in inputs.iter_rows(X, self.schema):
                yield drop_unknown(rows, self.n_features)
        else:
            yield self.read(X, scaled=False).rows

    # --- relation blocks --------------------------------------------------------------------

    @property
    def _own_fields(self) -> list[str] | None:
        """The fields that X has; None: all."""
        if not self.relations:
            return None
        assert self.schema is not None
        return self.relations.others(self.schema.field_names)

    def own_rows(self, rows: Rows) -> tuple[Rows, list[tuple[Rows, NDArray[np.int32]]]]:
        """Rows as `read` gives them without their units; of each relation its units, and which."""
        return self.relations.part(rows, self.n_features) if self.relations else (rows, [])

    def flat(self, rows: Rows) -> Rows:
        """Rows as `read` gives them, with the features of their units in the place of these."""
        own, tables = self.own_rows(rows)
        return side_by_side([own, *(units.take(of) for units, of in tables)]) if tables else own

    def update(self, blocks: Sequence[RelationBlock], *, learn: bool = False) -> None:
        """Take over units of blocks; `learn`: their new values too, as new features.

        Raises:
            SchemaError: a block of another key than those of the fit.
        """
        if blocks:
            assert self.schema is not None
            self.relations = self.relations.updated(blocks, self.schema, learn=learn)
            self.n_features = self.schema.n_features_

    # --- inside -----------------------------------------------------------------------------

    def scaled(self, rows: Rows, matrix: Any = None) -> Rows:
        """Rows whose values are as they came, as training sees them; `matrix`: of these rows."""
        if self.scaling is None:
            return rows
        if matrix is not None and len(self.scaling.centred):
            rows = matrix_rows(matrix, self.scaling.centred)
        return self.scaling.apply(rows)

    def _read_table(self, table: Any, y: Any, weight: Any) -> Data:
        assert self.schema is not None
        y = inputs.take_column(table, y) if isinstance(y, str) else y
        weight = inputs.take_column(table, weight) if isinstance(weight, str) else weight
        rows = self.schema.transform(table, fields=self._own_fields)
        if self.relations:
            rows = self.relations.link(rows, table, self.n_features)
        return Data(rows, y, weight)

    def _table(self, X: Any, y: Any, weight: Any) -> Any:
        return read_table(X, [*self.columns, *named(y, weight)], self.column_types)

    def _as_columns(self, X: Any, kind: str, y: Any, weight: Any) -> Any:
        columns = self.columns
        if kind == "columns":
            return self._table(X, y, weight)
        if kind == "ids":
            raise SchemaError(
                f"this {self.owner} was fitted on columns with names, {type(X).__name__} has none;"
                " give a DataFrame with the columns " + ", ".join(map(repr, columns[:12]))
            )
        from sklearn.utils import check_array

        try:
            X = check_array(X, dtype=None, ensure_all_finite=False, estimator=self.owner)
        except (TypeError, ValueError) as error:
            raise DataError(brief(error)) from error
        if X.shape[1] != len(columns):
            raise DataError(
                f"X has {X.shape[1]} features, but {self.owner} is expecting {len(columns)}"
                " features as input"
            )
        warnings.warn(
            f"X does not have valid feature names, but {self.owner} was fitted with feature names",
            UserWarning,
            stacklevel=4,
        )
        return read_table({name: X[:, j] for j, name in enumerate(columns)}, columns)

    def _as_matrix(self, X: Any, kind: str) -> Any:
        if kind != "columns":
            return X
        table = inputs.as_table(X)
        warnings.warn(
            f"X has feature names, but {self.owner} was fitted without feature names",
            UserWarning,
            stacklevel=4,
        )
        return np.column_stack([table.column(name).to_numpy() for name in table.column_names])

    def _width(self, rows: Rows) -> int:
        return max(self.n_features, rows.validate().max_id + 1)


def batches_of(X: Iterable[Any], y: Any, weight: Any) -> Iterator[tuple[Any, Any, Any]]:
    """The (X, y, weight) of each batch of an iterable; names of columns hold for all."""
    for name, given in (("y", y), ("sample_weight", weight)):
        if given is not None and not isinstance(given, str):
            raise DataError(
                f"{name} of an iterable of batches comes with them: yield (X, y) or"
                " (X, y, sample_weight), or give the name of a column"
            )
    for batch in X:
        if isinstance(batch, tuple) and 2 <= len(batch) <= 3 and not np.isscalar(batch[0]):
            yield batch[0], batch[1], batch[2] if len(batch) == 3 else weight
        else:
            yield batch, y, weight


def file_batches(X: Any, schema_now: Callable[[], Schema | None]) -> Iterator[Any]:
    """The files of a path or paths in pieces: Arrow tables, or Rows with their targets.

    `schema_now` gives the schema as it is when the next file is opened.
    """
    paths = inputs.paths_of(X)
    if not inputs.are_tables(paths):
        yield from inputs.iter_rows(X)
        return
    from crossfm.data import tables

    for path in paths:
        schema = schema_now()
        types = None if schema is None else schema.column_types
        yield from tables.iter_tables(path, types=types, dictionaries=True)


def drop_unknown(rows: Rows, n_features: int) -> Rows:
    """Leave out ids that the model does not have: like an id never seen, they add nothing."""
    if rows.validate().max_id < n_features:
        return rows
    known = rows.ids < n_features
    row = np.repeat(np.arange(len(rows)), rows.row_lengths())
    lengths = np.bincount(row[known], minlength=len(rows))
    warnings.warn(
        f"{int((~known).sum())} of {rows.nnz} features have ids beyond the {n_features} of the"
        " fit; they add nothing to a score",
        UserWarning,
        stacklevel=4,
    )
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Rows(
        rows.ids[known],
        None if rows.values is None else rows.values[known],
        offsets,
        None if rows.fields is None else rows.fields[known],
        rows.targets,
        rows.weights,
    )


# --- parts --------------------------------------------------------------------------------------


def _kind(X: Any) -> Literal["columns", "matrix", "ids", "batches"]:
    kind = inputs.kind_of(X)
    if kind == "frame" and _is_unnamed(X):
        return "matrix"
    if kind == "path":
        paths = inputs.paths_of(X)
        return "columns" if inputs.are_tables(paths) else "ids"
    if kind == "batches":
        return "batches"
    return "columns" if kind == "frame" else "ids" if kind == "rows" else "matrix"


def _is_unnamed(X: Any) -> bool:
    """Whether a frame is a matrix of numbers: pandas without names for its columns."""
    if not hasattr(X, "iloc") or not len(X.columns):
        return False
    if not all(isinstance(name, int | np.integer) for name in X.columns):
        return False
    return all(getattr(kind, "kind", "O") in "fiub" for kind in X.dtypes)


def _learn_batches(
    X: Any,
    y: Any,
    weight: Any,
    *,
    schema: Schema | None,
    owner: str,
    verbose: int,
    blocks: Sequence[RelationBlock],
) -> tuple[Features, Data, Any]:
    features: Features | None = None
    parts: list[Data] = []
    matrices: list[Any] = []
    for part in batches_of(X, y, weight):
        if features is None:
            features, data, matrix = Features.learn(
                *part, schema=schema, owner=owner, verbose=verbose, blocks=blocks
            )
        elif features.kind == "matrix":
            matrix = check_matrix(part[0], None, owner)
            data = Data(Rows(np.zeros((0, 1), np.int32)), *part[1:])
        else:
            data, matrix = features.extend(*part), None
        parts.append(data)
        if matrix is not None:
            matrices.append(matrix)
    if features is None:
        raise DataError("no batches to fit on: the iterable is empty")
    if matrices:
        whole = join_matrices(matrices)
        y, weight = _joined([p.y for p in parts]), _joined([p.weight for p in parts])
        return features, Data(matrix_rows(whole), y, weight), whole
    return features, _stack(parts), None


def _stack(parts: list[Data]) -> Data:
    if not parts:
        raise DataError("no batches: the iterable is empty")
    rows = Rows.concatenate([part.rows for part in parts])
    return Data(rows, _joined([p.y for p in parts]), _joined([p.weight for p in parts]))


def _joined(parts: list[Any]) -> Any:
    if all(part is None for part in parts):
        return None
    if any(part is None for part in parts):
        raise DataError("some of the batches have targets or weights, others have none")
    return np.concatenate([np.asarray(part) for part in parts])


def _expect_no_names(X: Any, *given: Any) -> None:
    for name in named(*given):
        raise SchemaError(
            f"{type(X).__name__} has no columns by name, so no {name!r}; give an array"
        )


def _read_ids(X: Any, y: Any, weight: Any, owner: str, *, need_y: bool = True) -> Data:
    """Rows, or libsvm and libffm files, which carry targets themselves."""
    _expect_no_names(X, y, weight)
    is_file = not isinstance(X, Rows)
    rows = inputs.as_rows(X)
    if y is None and rows.targets is not None:
        y = rows.targets
        if is_file and (y == np.floor(y)).all():
            y = y.astype(np.int64)  # labels as they stand in the text
    if y is None and need_y:
        raise no_target(owner)
    weight = rows.weights if weight is None else weight
    return Data(rows.replace(targets=None, weights=None), y, weight)


def no_target(owner: str) -> DataError:
    """The error where there is nothing to fit to."""
    return DataError(
        f"{owner} requires y to be passed, but the target y is None; give an array, or the name of"
        " the column"
    )
