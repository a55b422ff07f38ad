"""``crossfm fit`` on files larger than memory: what is read of them before the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crossfm.cli.columns import Wanted
from crossfm.cli.examples import column_names
from crossfm.cli.format import a_count, plural
from crossfm.cli.task import Task, choose_task
from crossfm.errors import DataError

if TYPE_CHECKING:
    from crossfm.data.cache import CachedRows
    from crossfm.data.schema import Schema

__all__ = ["Streamed", "are_large", "open_stream"]


class Streamed:
    """Files encoded in blocks on disk, and what is known of them.

    Attributes:
        X: the paths, as the estimator takes them.
        schema: to give to the estimator, which then finds the same cache; None for text.
        fitted: the same, fitted.
        labels: distinct targets ``[n]``, or None where they are too many.
        cached: the blocks.
    """

    def __init__(
        self, X: list[str], schema: Schema | None, fitted: Schema | None, cached: CachedRows
    ) -> None:
        from crossfm.estimators._streaming import label_array

        self.X, self.schema, self.fitted, self.cached = X, schema, fitted, cached
        self.labels = None if cached.targets is None else label_array(cached)

    def __len__(self) -> int:
        return self.cached.n_rows

    def task(self, asked: str, name: str) -> Task:
        """What is to be learned; see `choose_task`.

        Raises:
            DataError: too many different numbers to be classes; else as `choose_task`.
        """
        if self.labels is not None:
            return choose_task(self.labels, asked, name)
        if asked == "classification":
            raise DataError(
                f"{name} holds too many different numbers to be classes; leave --task out, or name"
                " another target"
            )
        return Task("regression", "as told" if asked == "regression" else "very many numbers")

    def check_share(self, share: float) -> None:
        """Refuse to hold out a share of a single block."""
        if share and len(self.cached) < 2:
            raise DataError(
                f"whole blocks of 65,536 rows are held out of a stream, and the"
                f" {plural(len(self), 'row')} are one block; take --valid-data FILE, --valid 0, or"
                " --no-stream"
            )


def are_large(data: Sequence[Path]) -> bool:
    """Whether the rows of files would take more than their share of memory."""
    from crossfm.data.memory import memory_limit
    from crossfm.data.streams import expanded_size
    from crossfm.estimators._streaming import SHARE

    return expanded_size(list(data)) > SHARE * memory_limit()


def open_stream(
    paths: Sequence[Path],
    wanted: Wanted,
    tables: bool,
    cache_dir: Path | None,
    say: Callable[[str], None],
) -> Streamed:
    """Encode files into a cache on disk, or find the one that is there.

    Args:
        paths: the files.
        wanted: the columns, resolved.
        tables: whether they have columns.
        cache_dir: the folder of the cache, None: beside the first file.
        say: told how far the reading is.

    Raises:
        DataError, SchemaError: as `crossfm.data.stream_rows`.
    """
    from crossfm.data.streams import stream_rows

    def heard(event: str, told: Mapping[str, float]) -> None:
        of = f", pass {told['pass']} of {told['of']}" if told["of"] > 1 else ""
        say(f"reading{of}: {a_count(told['rows'])} rows")

    X = [str(path) for path in paths]
    schema = _schema(paths, wanted) if tables else None
    cached, fitted = stream_rows(
        X, schema=schema, targets=wanted.target, weights=wanted.weight, cache_dir=cache_dir,
        progress=heard,
    )  # fmt: skip
    if fitted is not None and schema is not None:
        fitted.guesses = schema.guesses
    return Streamed(X, schema, fitted, cached)


def _schema(paths: Sequence[Path], wanted: Wanted) -> Schema:
    """The schema over the first rows; fitted where text must be read by types that were told."""
    from crossfm.data.inputs import file_format
    from crossfm.data.streams import INFER_ROWS
    from crossfm.data.tables import iter_tables

    columns, types = wanted.columns(column_names(paths[0])), wanted.types()
    first = next(iter(iter_tables(paths[0], INFER_ROWS, columns, types=types)), None)
    if first is None:
        raise DataError(f"{paths[0]} holds no rows")
    schema = wanted.schema(first)
    if types and any(file_format(path) == "csv" for path in paths):
        schema.fit_batches(
            table
            for path in paths
            for table in iter_tables(path, columns=schema.columns, types=types)
        )
    return schema
