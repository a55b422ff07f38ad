"""What ``crossfm predict`` does: score batches, name the columns, write them."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from crossfm.cli.errors import usage_error
from crossfm.cli.format import a_rate, a_size, a_time, plural
from crossfm.cli.output import Screen
from crossfm.cli.predict import What
from crossfm.cli.scoring import Batch, Beside, Scorer
from crossfm.cli.training import check_writable
from crossfm.data.files import packing, replacing
from crossfm.errors import DataError, SchemaError

__all__ = ["ENDINGS", "sink", "write_predictions", "writer"]

ENDINGS = (".parquet", ".pq", ".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")


def write_predictions(
    model: Path,
    data: Sequence[Path],
    out: str,
    what: What,
    keep: Sequence[str],
    batch_rows: int,
    screen: Screen,
    std: bool = False,
    coverage: float | None = None,
) -> None:
    """Score all rows of the files and write them to `out`, whole or not at all.

    Args:
        model: the model's file.
        data: files.
        out: a file, or "-".
        what: which numbers.
        keep: columns to copy.
        batch_rows: rows at a time.
        screen: who is spoken to.
        std: add the deviation.
        coverage: add intervals of it.

    Raises:
        ModelFileError: the model does not load.
        SchemaError, DataError: as `Scorer.batches`; the output cannot be written.
    """
    if out != "-":
        if not out.endswith(ENDINGS):
            usage_error(f"--out {out}: its name must end in one of {', '.join(ENDINGS)}, or be -")
        check_writable(Path(out), keep=[model, *data])
    scorer = Scorer.load(model)
    if what is What.PROBABILITIES and not (scorer.is_classifier or scorer.is_ordinal):
        usage_error("--proba is for classes; this model predicts numbers")
    if what is What.PROBABILITIES and not scorer.knows_probabilities:
        usage_error("--proba: a model of loss 'hinge' knows no probabilities; --raw has its scores")
    for option, asked in (("--std", std), ("--interval", coverage is not None)):
        if asked:
            _expect_sure(scorer, option)
    beside = Beside(std, coverage, levels=scorer.is_ordinal and what is What.PROBABILITIES)
    if keep and scorer.estimator.schema_ is None:
        usage_error(f"{model} was fitted on text without names of columns, so there is no --keep")
    started = time.perf_counter()
    with sink(out) as file, writer(out, file) as write, screen.busy("scoring") as say:
        for batch in scorer.batches(data, keep, batch_rows, beside):
            write(_table(scorer, batch, what, keep))
            say(f"{plural(scorer.n_rows, 'row')} scored")
    seconds = time.perf_counter() - started
    for line in scorer.unseen_words():
        screen.note(line, "yellow")
    size = None if out == "-" else Path(out).stat().st_size
    if size is not None:
        screen.note(
            f"{out}: {plural(scorer.n_rows, 'row')}, {a_size(size)}, in {a_time(seconds)}"
            f" ({a_rate(scorer.n_rows / max(seconds, 1e-9))})"
        )
    screen.object(
        {
            "model": str(model),
            "out": out,
            "out_bytes": size,
            "n_rows": scorer.n_rows,
            "seconds": seconds,
            "unseen": scorer.unseen(),
        }
    )


def _expect_sure(scorer: Scorer, option: str) -> None:
    """Refuse to say how sure a model is that does not know it."""
    if scorer.knows_how_sure:
        return
    if scorer.is_ordinal:
        usage_error(f"{option} is for numbers; of ordered levels --proba has the probabilities")
    if scorer.is_classifier:
        usage_error(f"{option} is for numbers; how sure a class is tells its probability")
    if scorer.is_mean:
        usage_error(f"{option} needs draws, and --keep mean has kept none; fit with another --keep")
    solver = getattr(scorer.estimator, "solver", None)
    usage_error(
        f"{option}: a model{f' of solver {solver}' if solver else ''} does not know how sure it is;"
        " fit with --solver mcmc or vb"
    )


def _table(scorer: Scorer, batch: Batch, what: What, keep: Sequence[str]) -> pa.Table:
    """The columns of the output for one batch."""
    columns: dict[str, Any] = {}
    if batch.table is not None:
        columns = {name: batch.table.column(name) for name in keep}
    for name, values in {**_numbers(scorer, batch.scores, what), **batch.more}.items():
        if name in columns:
            raise SchemaError(f"--keep {name}: the output has a column of that name already")
        columns[name] = pa.array(values)
    return pa.table(columns)


def _numbers(scorer: Scorer, scores: Any, what: What) -> dict[str, Any]:
    if not scorer.is_classifier:
        levels = scorer.is_ordinal and what is What.PROBABILITIES  # which come of their own
        return {} if levels else {"prediction": scores}
    classes = [str(label) for label in scorer.estimator.classes_.tolist()]
    columns = {"prediction": scorer.labels(scores)} if what is What.USUAL else {}
    if what is What.RAW or not scorer.knows_probabilities:
        word, numbers = "score", scores
    else:
        word, numbers = "probability", scorer.probabilities(scores).astype(np.float32)
    if numbers.ndim == 1:
        return {**columns, word: numbers}
    return columns | {f"{word}_{name}": numbers[:, c] for c, name in enumerate(classes)}


# --- files --------------------------------------------------------------------------------------


@contextlib.contextmanager
def sink(out: str) -> Iterator[IO[bytes]]:
    """Where the bytes go: standard output, or a file that appears whole."""
    if out == "-":
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DataError(
                f"cannot write to standard output: {error.strerror or error}; what was written"
                " so far is not whole"
            ) from error
        return
    with replacing(out) as whole, packing(whole, out) as file:
        yield file


@contextlib.contextmanager
def writer(out: str, file: IO[bytes]) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends a table; all have the columns and types of the first."""
    schema: pa.Schema | None = None
    parquet: Any = None
    separator = "\t" if ".tsv" in Path(out).suffixes else ","
    try:

        def write(table: pa.Table) -> None:
            nonlocal schema, parquet
            first = schema is None
            schema = table.schema if schema is None else schema
            try:
                table = table.cast(schema)
            except pa.ArrowException as error:
                raise DataError(
                    f"the files' columns are not of the same types: {error}; keep fewer columns"
                ) from error
            if out.endswith((".parquet", ".pq")):
                if parquet is None:
                    parquet = pa.parquet.ParquetWriter(file, schema)
                parquet.write_table(table)
                return
            if first:
                file.write(_header(table.column_names, separator))
            options = pa.csv.WriteOptions(
                include_header=False, delimiter=separator, quoting_style="needed"
            )
            buffer = pa.BufferOutputStream()
            try:
                pa.csv.write_csv(table, buffer, options)
            except pa.ArrowException as error:
                raise DataError(
                    f"CSV cannot hold these columns: {error}; keep fewer, or write .parquet"
                ) from error
            file.write(buffer.getvalue())

        yield write
    finally:
        if parquet is not None:
            parquet.close()


def _header(names: Sequence[str], separator: str) -> bytes:
    """The first line of a CSV file; names in quotes where they need them."""
    line = io.StringIO()
    csv.writer(line, delimiter=separator, lineterminator="\n").writerow(names)
    return line.getvalue().encode()
