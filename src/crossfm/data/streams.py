"""Files larger than memory as a cache of encoded rows: one pass learns, one encodes and writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from crossfm.data.cache import CachedRows, cached_rows, describe_files, digest, write_rows
from crossfm.data.inputs import are_tables, file_format, paths_of, take_column
from crossfm.data.rows import Rows
from crossfm.data.threads import ahead
from crossfm.errors import DataError, SchemaError

if TYPE_CHECKING:
    import pyarrow as pa

    from crossfm.data.schema import Schema

__all__ = ["BLOCK_ROWS", "expanded_size", "stream_rows"]

BLOCK_ROWS = 65_536
INFER_ROWS = 262_144  # of the first file, for a schema that is not given
FOLDER = ".crossfm-cache"
# Bytes of encoded rows that a byte of a file may become.
EXPANSION = {"parquet": 4, "csv": 2, "libsvm": 1, "libffm": 2}
PACKED = 4  # and of text in gzip

Heard = Callable[[str, Mapping[str, float]], None]


def expanded_size(X: Any) -> int:
    """About how many bytes the rows of files take in memory."""
    total = 0
    for path in paths_of(X):
        packed = PACKED if path.suffix == ".gz" else 1
        total += path.stat().st_size * EXPANSION[file_format(path)] * packed
    return total


def stream_rows(
    X: Any,
    *,
    schema: Schema | None = None,
    targets: str | None = None,
    weights: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    block_rows: int = BLOCK_ROWS,
    progress: Heard | None = None,
) -> tuple[CachedRows, Schema | None]:
    """The rows of files, encoded in blocks on disk; memory does not grow with their number.

    Tables go through a schema. Where it is not fitted, a first pass over the files learns it
    (`Schema.fit_batches`); where none is given, it is inferred from the first 262,144 rows. A
    second pass encodes and writes the cache, which is taken as it is by the next call, as long
    as files (sizes and times), schema, columns and versions are the same.

    Args:
        X: a path, or a list of paths: Parquet, CSV, libsvm or libffm.
        schema: of tables; None: inferred. It is not changed.
        targets: the column of targets; text formats carry theirs.
        weights: the column of the rows' weights, or None.
        cache_dir: the folder of the cache; None: ``.crossfm-cache`` beside the first file, or
            where that cannot be written to, a folder for temporary files.
        block_rows: rows of a block.
        progress: called as ``progress("read", {"rows": ..., "pass": 1, "of": 2})``.

    Returns:
        the cache, and the fitted schema of tables.

    Raises:
        DataError, SchemaError: as the readers and `Schema.transform`; no rows at all; a folder
            that cannot be written to.
    """
    paths = paths_of(X)
    tables = are_tables(paths)
    if not tables:
        for name in (targets, weights):
            if name is not None:
                raise SchemaError(f"{paths[0]} has no columns by name, so no {name!r}; give none")
        if schema is not None:
            raise SchemaError(f"a schema reads columns by name, {paths[0]} has none; leave it out")
    places = [str(path.resolve()) for path in paths]
    described = None if schema is None else digest(schema.to_json())
    name = digest([places, described, targets, weights, block_rows])
    of = {
        "crossfm": version("crossfm"),
        "files": describe_files(paths),
        "schema": described or "inferred",
        "targets": targets,
        "weights": weights,
        "block_rows": block_rows,
    }
    reader = _Reader(paths, targets, weights, block_rows, progress)

    def write(path: Path) -> None:
        if tables:
            learned = reader.learn(schema)
            text = learned.to_json().encode()
            write_rows(path, reader.encode(learned), of, schema=lambda: text,
                       n_features=learned.n_features_)  # fmt: skip
        else:
            write_rows(path, reader.text(), of)

    cached = cached_rows(
        f"{paths[0].name.split('.')[0][:40]}-{name}", of, write,
        beside=paths[0].parent / FOLDER, folder=cache_dir,
    )  # fmt: skip
    if not cached.n_rows:
        raise DataError(f"{paths[0]} has no rows to train on")
    if not tables:
        return cached, None
    from crossfm.data.schema import Schema

    text = cached.schema()
    assert text is not None
    return cached, Schema.from_json(text)


class _Reader:
    """The passes over the files."""

    def __init__(
        self,
        paths: Sequence[Path],
        targets: str | None,
        weights: str | None,
        block_rows: int,
        progress: Heard | None,
    ) -> None:
        self.paths = paths
        self.targets, self.weights = targets, weights
        self.names = [name for name in (targets, weights) if name is not None]
        self.block_rows = block_rows
        self.progress = progress
        self.types: dict[str, Any] = {}

    def learn(self, schema: Schema | None) -> Schema:
        """A fitted schema: the one given, or learned from all rows."""
        from crossfm.data.learning import needs_pass
        from crossfm.data.schema import Schema

        if schema is not None:
            for name in self.names:
                if name in schema.columns:
                    raise SchemaError(
                        f"the target or weight {name!r} is also a field of the schema, which would"
                        " tell the model the answer; leave it out of the schema"
                    )
            schema = schema.copy()
        else:
            first = self._first()
            schema = Schema.infer(first, self.names)
        if schema.is_fitted:
            return schema
        if needs_pass(schema.fields):
            return schema.fit_batches(self._tables(schema.columns, 1, 2))
        return schema.fit(next(self._tables(schema.columns, 1, 1)))

    def encode(self, schema: Schema) -> Iterator[tuple[Rows, NDArray[Any] | None]]:
        """The files' rows as features, with their targets as they are."""
        self.types = dict(schema.column_types)
        columns = list(dict.fromkeys([*schema.columns, *self.names]))
        n_rows = 0
        for table in self._tables(columns, 2, 2):
            try:
                rows = schema.transform(table, weights=self.weights)
            except DataError as error:
                error.add_note(f"Row 0 is row {n_rows:,} of {self.paths[0]} and what follows it.")
                raise
            n_rows += len(rows)
            yield rows, None if self.targets is None else take_column(table, self.targets)

    def text(self) -> Iterator[Rows]:
        """The rows of libsvm and libffm files."""
        from crossfm.data import text

        n_rows = 0
        for path in self.paths:
            read = text.iter_libffm if file_format(path) == "libffm" else text.iter_libsvm
            for rows in read(path, self.block_rows):
                n_rows += len(rows)
                self._tell(n_rows, 1, 1)
                yield rows

    def _first(self) -> pa.Table:
        """The first rows, and with them the columns that are strings."""
        import pyarrow as pa

        from crossfm.data import tables

        first = next(iter(tables.iter_tables(self.paths[0], INFER_ROWS)), None)
        if first is None:
            raise DataError(f"{self.paths[0]} has no rows to infer a schema from")
        self.types = {field.name: pa.string() for field in first.schema
                      if pa.types.is_string(field.type)}  # fmt: skip
        return first

    def _tables(self, columns: Sequence[str], number: int, of: int) -> Iterator[pa.Table]:
        from crossfm.data import tables

        types = {name: kind for name, kind in self.types.items() if name in columns}
        n_rows = 0
        for path in self.paths:
            read = tables.iter_tables(
                path, self.block_rows, columns, types=types, dictionaries=True
            )
            for table in ahead(read):
                n_rows += table.num_rows
                self._tell(n_rows, number, of)
                yield table

    def _tell(self, n_rows: int, number: int, of: int) -> None:
        if self.progress is not None:
            self.progress("read", {"rows": n_rows, "pass": number, "of": of})
