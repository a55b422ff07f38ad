"""Whatever an estimator is given, as Rows: frames, matrices, files, batches."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm.data.files import PACKED, existing_file, open_bytes
from crossfm.data.rows import Rows
from crossfm.errors import DataError, SchemaError

if TYPE_CHECKING:
    import pyarrow as pa

    from crossfm.data.schema import Schema

__all__ = [
    "are_tables",
    "as_rows",
    "as_table",
    "file_format",
    "iter_rows",
    "kind_of",
    "paths_of",
    "take_column",
]

Kind: TypeAlias = Literal["rows", "frame", "csr", "dense", "path", "batches"]
Format: TypeAlias = Literal["parquet", "csv", "libsvm", "libffm"]

FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".parq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".libsvm": "libsvm",
    ".svm": "libsvm",
    ".svmlight": "libsvm",
    ".libfm": "libsvm",
    ".libffm": "libffm",
    ".ffm": "libffm",
}


def kind_of(X: Any) -> Kind:
    """What `X` is: rows, frame, csr (any scipy sparse), dense, path (or paths), batches.

    Raises:
        DataError: nothing that can be read as rows.

    Example:
        >>> kind_of({"user": [1, 2]}), kind_of([[1.0, 2.0]]), kind_of("log.parquet")
        ('frame', 'dense', 'path')
    """
    if isinstance(X, Rows):
        return "rows"
    if isinstance(X, str | os.PathLike) or _all_are(X, str | os.PathLike):
        return "path"
    if isinstance(X, np.ndarray):
        return "dense"
    if "scipy.sparse" in sys.modules and sys.modules["scipy.sparse"].issparse(X):
        return "csr"
    if isinstance(X, Mapping) or _all_are(X, Mapping):
        return "frame"
    if isinstance(X, list | tuple) and (not X or np.isscalar(X[0]) or _is_vector(X[0])):
        return "dense"
    if not isinstance(X, Iterator | list | tuple):
        from crossfm.data.frames import is_frame

        if is_frame(X):
            return "frame"
        if hasattr(X, "__array__"):
            return "dense"
    if isinstance(X, Iterable) and not isinstance(X, bytes):
        return "batches"
    raise DataError(
        f"cannot read rows from {type(X).__name__}; expected a DataFrame, a dict of columns, a"
        " scipy sparse or dense array, Rows, a path or list of paths, or an iterable of those"
    )


def as_rows(
    X: Any,
    schema: Schema | None = None,
    targets: str | ArrayLike | None = None,
    weights: str | ArrayLike | None = None,
) -> Rows:
    """All of `X` as Rows.

    A frame, and a Parquet or CSV file, go through the fitted `schema`. The columns of a matrix
    are the ids; a dense one keeps its zeros, so that all rows are as long. Text files in libsvm,
    libFM and libffm format carry ids and targets themselves.

    Args:
        X: what `kind_of` knows. An iterable yields such things, or pairs (X, targets), or
            triples (X, targets, weights).
        schema: fitted; needed for columns with names, and for nothing else.
        targets: numbers ``[n]``, or the name of the column or None (what X carries).
        weights: the same, for the weight of each row.

    Raises:
        SchemaError: columns without a schema, a schema without columns; as `Schema.transform`.
        DataError: as `Schema.transform`; a matrix of something else than finite numbers; no
            such file.

    Example:
        >>> rows = as_rows([[1.0, 0.0], [0.5, 2.0]], targets=[1, 0])
        >>> rows.ids.tolist(), rows.values.tolist(), rows.targets.tolist()
        ([0, 1, 0, 1], [1.0, 0.0, 0.5, 2.0], [1.0, 0.0])
    """
    kind = kind_of(X)
    if kind == "frame":
        return _need(schema, X).transform(X, targets, weights)
    if kind == "batches":
        return _stack(iter_rows(X, schema, targets, weights))
    if kind == "path":
        paths = paths_of(X)
        if are_tables(paths):
            schema = _need(schema, paths[0])
            columns = _columns(schema, targets, weights)
            table = as_table(X, columns, schema.column_types, dictionaries=True)
            return schema.transform(table, targets, weights)
        rows = _stack(_read_text(path) for path in paths)
        return _with(rows, paths[0], schema, targets, weights)
    rows = X if kind == "rows" else _from_csr(X) if kind == "csr" else _from_dense(X)
    if kind == "rows":
        schema = None  # they were encoded by one, perhaps this one
    return _with(rows, X, schema, targets, weights)


def iter_rows(
    X: Any,
    schema: Schema | None = None,
    targets: str | ArrayLike | None = None,
    weights: str | ArrayLike | None = None,
    batch_rows: int = 65_536,
) -> Iterator[Rows]:
    """`X` as Rows of at most `batch_rows` rows each; files are read in batches.

    Batches of an iterable come as they are. Arguments and errors otherwise as in `as_rows`.

    Example:
        >>> [len(rows) for rows in iter_rows(np.ones((5, 2)), batch_rows=2)]
        [2, 2, 1]
    """
    kind = kind_of(X)
    if kind == "batches":
        _names_only(targets, weights, "an iterable of batches")
        for batch in X:
            if isinstance(batch, tuple) and 2 <= len(batch) <= 3 and not _is_number(batch[0]):
                yield as_rows(batch[0], schema, *batch[1:])
            else:
                yield as_rows(batch, schema, targets, weights)
        return
    if kind != "path":
        yield from as_rows(X, schema, targets, weights).batches(batch_rows)
        return
    _names_only(targets, weights, "files read in batches")
    paths = paths_of(X)
    if are_tables(paths):
        from crossfm.data import tables

        schema = _need(schema, paths[0])
        for path in paths:
            columns = _columns(schema, targets, weights)
            types = schema.column_types
            for table in tables.iter_tables(
                path, batch_rows, columns, types=types, dictionaries=True
            ):
                yield schema.transform(table, targets, weights)
        return
    from crossfm.data import text

    for path in paths:
        read = text.iter_libffm if file_format(path) == "libffm" else text.iter_libsvm
        for rows in read(path, batch_rows=batch_rows):
            yield _with(rows, path, schema, targets, weights)


def as_table(
    X: Any,
    columns: Sequence[str] | None = None,
    types: Mapping[str, Any] | None = None,
    *,
    dictionaries: bool = False,
) -> pa.Table:
    """A frame, or the Parquet or CSV files of a path or paths, as one Arrow table.

    Args:
        X: of kind frame or path.
        columns: those to take, None: all.
        types: Arrow types of columns of CSV files, where they are known.
        dictionaries: the files' columns of strings become dictionary columns; see `read_table`.

    Raises:
        SchemaError: `X` has no named columns; files whose columns do not agree.
    """
    from crossfm.data.frames import to_arrow

    kind = kind_of(X)
    if kind == "frame":
        return to_arrow(X, columns)
    paths = paths_of(X) if kind == "path" else []
    if not paths or not are_tables(paths):
        raise SchemaError(f"columns with names are needed, {_words(X)} has none")
    from crossfm.data import tables
    from crossfm.data.coded import decoded

    parts = [
        to_arrow(tables.read_table(path, columns, types=types, dictionaries=dictionaries), columns)
        for path in paths
    ]
    if len(parts) == 1:
        return parts[0]
    import pyarrow as pa

    try:
        with contextlib.suppress(pa.ArrowException):
            return pa.concat_tables(parts, promote_options="permissive")
        # Dictionaries do not join with other columns, but their values may.
        return pa.concat_tables(map(decoded, parts), promote_options="permissive")
    except pa.ArrowException as error:
        raise SchemaError(f"the files' columns are not of the same types: {error}") from error


def take_column(X: Any, name: str) -> NDArray[Any]:
    """One column of a frame or of files as an array, such as targets that may be strings.

    Raises:
        SchemaError: there is no such column, or no columns at all.

    Example:
        >>> take_column({"label": ["yes", "no"]}, "label")
        array(['yes', 'no'], dtype=object)
    """
    from crossfm.data.values import one, plain

    return one(plain(as_table(X, [name]).column(name), name)).to_numpy(zero_copy_only=False)


def file_format(path: str | os.PathLike[str]) -> Format:
    """The format of a file: by its ending, else by its first line.

    Example:
        >>> file_format("ratings.csv.gz"), file_format("train.libfm")
        ('csv', 'libsvm')
    """
    suffixes = [s.lower() for s in Path(path).suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    if suffixes and suffixes[-1] in FORMATS:
        return FORMATS[suffixes[-1]]
    with open_bytes(path) as file:
        start = file.read(65_536)
    if start.startswith(b"PAR1"):
        return "parquet"
    lines = [line for line in start.splitlines() if line.strip() and not line.startswith(b"#")]
    words = lines[0].split() if lines else []
    if len(words) > 1:
        colons = {word.count(b":") for word in words[1:] if not word.startswith(b"#")}
        if colons in ({1}, {2}):
            return "libsvm" if colons == {1} else "libffm"
    return "csv"


# --- parts --------------------------------------------------------------------------------------


def _from_dense(X: Any) -> Rows:
    """Each column a feature of its own, zeros kept."""
    try:
        array = np.asarray(X)
        if array.dtype.kind in "OUS":
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"the array is not one of numbers: {error}") from error
    if array.ndim != 2:
        raise DataError(
            f"the array has shape {array.shape}, expected [n_rows, n_features]; reshape your data,"
            " x.reshape(1, -1) where it is one row"
        )
    if array.dtype.kind not in "fiub":
        raise DataError(f"the array is of type {array.dtype}, expected real numbers")
    n, m = array.shape
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = divmod(int(np.argmax(bad)), m)
        raise DataError(
            f"row {row}, column {column}: the value is {array[row, column]}, expected a finite"
            " number; fill in what is missing, or give a DataFrame, where it has an id of its own"
        )
    return Rows(np.tile(np.arange(m, dtype=np.int32), n), values.ravel(), n_rows=n)


def _from_csr(X: Any) -> Rows:
    if X.dtype.kind not in "fiub":
        raise DataError(f"the matrix is of type {X.dtype}, expected real numbers")
    if X.ndim != 2:
        raise DataError(f"the array has shape {X.shape}, expected [n_rows, n_features]")
    X = X.tocsr()
    if not X.has_canonical_format:  # entries of one place add up
        X = X.copy()
        X.sum_duplicates()
    return Rows.from_csr(X)


def _with(
    rows: Rows,
    X: Any,
    schema: Schema | None,
    targets: str | ArrayLike | None,
    weights: str | ArrayLike | None,
) -> Rows:
    """The rows with targets and weights, where given."""
    if schema is not None:
        raise SchemaError(f"a schema reads columns by name, {_words(X)} has none; leave it out")
    changes = {"targets": targets, "weights": weights}
    changes = {name: given for name, given in changes.items() if given is not None}
    for given in changes.values():
        if isinstance(given, str):
            raise SchemaError(f"{_words(X)} has no columns by name, so no {given!r}; give numbers")
    if not changes:
        return rows
    arrays = {name: np.asarray(given) for name, given in changes.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise DataError(f"{name} are of type {array.dtype}, expected numbers")
    return rows.replace(**arrays)


def _need(schema: Schema | None, X: Any) -> Schema:
    if schema is None:
        raise SchemaError(
            f"{_words(X)} has columns, so a schema must say what they are:"
            " Schema.infer(frame) guesses one"
        )
    return schema


def _columns(schema: Schema, *named: str | ArrayLike | None) -> list[str]:
    return list(dict.fromkeys([*schema.columns, *(n for n in named if isinstance(n, str))]))


def paths_of(X: Any) -> list[Path]:
    """The files of a path or paths; a folder stands for the files in it, in order."""
    paths = []
    for path in [Path(X)] if isinstance(X, str | os.PathLike) else [Path(x) for x in X]:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and p.name[0] not in "._")
            if not inside:
                raise DataError(f"the folder {str(path)!r} holds no files")
            paths += inside
        else:
            paths.append(existing_file(path))
    return paths


def are_tables(paths: Sequence[Path]) -> bool:
    """Whether the files are Parquet or CSV, not libsvm or libffm text; all of one kind."""
    formats = {file_format(path) in ("parquet", "csv") for path in paths}
    if len(formats) > 1:
        raise DataError(
            "some of the files are tables (Parquet, CSV), others libsvm or libffm text; give one"
            " kind"
        )
    return formats == {True}


def _read_text(path: Path) -> Rows:
    from crossfm.data import text

    read: Callable[[Path], Rows] = (
        text.read_libffm if file_format(path) == "libffm" else text.read_libsvm
    )
    return read(path)


def _stack(parts: Iterable[Rows]) -> Rows:
    return Rows.concatenate(list(parts))


def _names_only(targets: Any, weights: Any, what: str) -> None:
    for name, given in (("targets", targets), ("weights", weights)):
        if given is not None and not isinstance(given, str):
            raise DataError(
                f"{name} of {what} come with them: yield (X, targets), or name their column"
            )


def _words(X: Any) -> str:
    if isinstance(X, str | os.PathLike):
        return repr(os.fspath(X))
    return f"a {type(X).__name__}"


def _all_are(X: Any, kind: Any) -> bool:
    return isinstance(X, list | tuple) and bool(X) and all(isinstance(x, kind) for x in X)


def _is_number(x: Any) -> bool:
    return bool(np.isscalar(x)) and not isinstance(x, str)


def _is_vector(x: Any) -> bool:
    """A list of numbers, a row of a matrix; not a batch."""
    if isinstance(x, np.ndarray):
        return x.ndim < 2
    return isinstance(x, list | tuple) and (not x or bool(np.isscalar(x[0])))
