"""Parquet and CSV as Arrow tables, whole or in pieces."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from crossfm.data.coded import as_dictionary
from crossfm.data.files import existing_file, is_packed
from crossfm.data.threads import on_threads, threads_for
from crossfm.errors import DataError, SchemaError, did_you_mean

__all__ = ["iter_tables", "parse_csv", "read_table", "table_format"]

PathLike = str | os.PathLike[str]
SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PARQUET = (".parquet", ".pq", ".parq")
PARQUET_MAGIC = b"PAR1"
CSV_BLOCK_BYTES = 4 << 20
_UNNAMED = (
    f"its name does not say what it is; expected one of {', '.join((*PARQUET, *SEPARATORS))}, the"
    " latter also with .gz or .zst"
)
# What stands for a missing value in a CSV file, in text columns too.
MISSING = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"]


def read_table(
    path: PathLike,
    columns: Sequence[str] | None = None,
    *,
    types: Mapping[str, Any] | None = None,
    dictionaries: bool = False,
) -> pa.Table:
    r"""Read a Parquet, CSV or TSV file as an Arrow table.

    The form follows from the name: ``.parquet`` ``.pq`` ``.parq``, or ``.csv`` ``.tsv``
    ``.tab``, these also with ``.gz`` or ``.zst``; a Parquet file is known under any name. CSV
    files have a header; types are inferred from all rows; an empty cell, NA, N/A, NaN, nan, NULL,
    null and None are missing values.

    Args:
        path: the file.
        columns: names of the columns to read, in this order; None: all.
        types: Arrow types of columns of a CSV file that inference should leave alone, e.g.
            ``{"zip": pa.string()}``.
        dictionaries: columns of strings become dictionary columns, which a schema encodes in
            a fraction of the time.

    Raises:
        DataError: absent, a folder, empty, damaged, two columns of one name, a line of another
            length, text that is not UTF-8. The message has the file and, where there is one,
            the line.
        SchemaError: a column that the file does not have.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "ratings.csv"
        >>> _ = path.write_text("user,rating\nann,5\nbob,\n")
        >>> read_table(path).to_pydict()
        {'user': ['ann', 'bob'], 'rating': [5, None]}
    """
    found = existing_file(path)
    with _explained(found):
        if _is_parquet(found):
            with _open_parquet(found, dictionaries) as file:
                _check_names(found, file.schema_arrow.names, columns)
                table = _in_order(file.read(columns=_listed(columns)), columns)
            return _with_dictionaries(table) if dictionaries else table
        try:
            table = _read_csv(found, types, use_threads=True)
        except pa.ArrowInvalid:  # only one thread knows the line
            table = _read_csv(found, types, use_threads=False)
        _check_names(found, table.column_names, columns)
        table = _in_order(_check_text(found, table), columns)
        return _with_dictionaries(table) if dictionaries else table


def iter_tables(
    path: PathLike,
    batch_rows: int = 65_536,
    columns: Sequence[str] | None = None,
    *,
    types: Mapping[str, Any] | None = None,
    dictionaries: bool = False,
) -> Generator[pa.Table, None, None]:
    """Read a Parquet, CSV or TSV file in tables of `batch_rows`, in bounded memory.

    All but the last table have `batch_rows` rows. Types of a CSV file are inferred from its
    first megabytes; give `types` where later rows disagree.

    Args:
        path: the file; see `read_table`.
        batch_rows: rows of each table.
        columns: names of the columns to read, in this order; None: all.
        types: Arrow types of columns of a CSV file.
        dictionaries: columns of strings that a Parquet file keeps as dictionaries come so.

    Raises:
        DataError: as `read_table`, when the table in question is asked for.
        SchemaError: a column that the file does not have.
    """
    if batch_rows < 1:
        raise DataError(f"batch_rows must be at least 1, got {batch_rows}")
    waiting: list[pa.Table] = []
    n_waiting = 0
    for piece in _pieces(existing_file(path), batch_rows, columns, types, dictionaries):
        waiting.append(piece)
        n_waiting += piece.num_rows
        if n_waiting >= batch_rows:
            table = pa.concat_tables(waiting)
            at = 0
            for at in range(0, n_waiting - batch_rows + 1, batch_rows):
                yield table.slice(at, batch_rows)
            waiting = [table.slice(at + batch_rows)]
            n_waiting = waiting[0].num_rows
    if n_waiting:
        yield pa.concat_tables(waiting)


def parse_csv(
    text: bytes,
    name: str,
    separator: str = ",",
    *,
    types: Mapping[str, Any] | None = None,
) -> pa.Table:
    r"""CSV text with its header as a table.

    Args:
        text: whole lines.
        name: what messages call it.
        separator: of the columns.
        types: Arrow types of columns that are known.

    Raises:
        DataError: a line of another length, a value of another type, text that is not UTF-8.

    Example:
        >>> parse_csv(b"user,stars\nann,5\n", "stdin").to_pydict()
        {'user': ['ann'], 'stars': [5]}
    """
    path = Path(name)
    with _explained(path):
        read, parse, convert = _csv_options(path, types)
        parse.delimiter = separator
        table = pyarrow.csv.read_csv(pa.BufferReader(text), read, parse, convert)
        return _check_text(path, table)


def _pieces(
    path: Path,
    batch_rows: int,
    columns: Sequence[str] | None,
    types: Mapping[str, Any] | None,
    dictionaries: bool,
) -> Generator[pa.Table, None, None]:
    with _explained(path):
        if _is_parquet(path):
            with _open_parquet(path, dictionaries) as file:
                _check_names(path, file.schema_arrow.names, columns)
                for batch in file.iter_batches(batch_rows, columns=_listed(columns)):
                    yield _in_order(pa.Table.from_batches([batch]), columns)
            return
        with pa.input_stream(str(path), compression="detect") as stream:
            reader = pyarrow.csv.open_csv(stream, *_csv_options(path, types))
            _check_names(path, reader.schema.names, columns)
            for batch in reader:
                table = _check_text(path, pa.Table.from_batches([batch]))
                yield _in_order(table, columns)


def _open_parquet(path: Path, dictionaries: bool) -> pyarrow.parquet.ParquetFile:
    file = pyarrow.parquet.ParquetFile(path)
    if not dictionaries:
        return file
    with file:
        metadata, names = file.metadata, file.schema_arrow.names
        packed = [f.name for f in file.schema_arrow if _is_string(f.type)]
        packed = [name for name in packed if names.count(name) == 1]
        packed = [name for name in packed if _is_packed_column(metadata, name)]
    return pyarrow.parquet.ParquetFile(path, read_dictionary=packed, metadata=metadata)


def _is_packed_column(metadata: Any, name: str) -> bool:
    """Whether the file seems to hold codes of a dictionary throughout.

    Writers give a dictionary up where it grows beyond about a megabyte; codes take less than 3
    bytes. Making a dictionary of the others is faster done on all of their values at once.
    """
    names = [metadata.schema.column(j).path for j in range(metadata.num_columns)]
    if name not in names:
        return False
    at = names.index(name)
    groups = [metadata.row_group(g).column(at) for g in range(metadata.num_row_groups)]
    size = sum(group.total_uncompressed_size for group in groups)
    return bool(size <= 3 * metadata.num_rows + (len(groups) << 20))


def _with_dictionaries(table: pa.Table) -> pa.Table:
    """The table with its columns of strings as dictionary columns."""
    plain = [j for j, field in enumerate(table.schema) if _is_string(field.type)]
    threads = threads_for(table.num_rows)
    made = on_threads(lambda j: as_dictionary(table.column(j)), plain, threads)
    for j, column in zip(plain, made, strict=True):
        table = table.set_column(j, table.field(j).with_type(column.type), column)
    return table


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_parquet(path: Path) -> bool:
    if path.suffix in PARQUET:
        return True
    if _separator(path) is not None:
        return False
    with open(path, "rb") as file:
        if file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC:
            return True
    raise DataError(f"{path}: {_UNNAMED}")


def table_format(path: PathLike) -> str | None:
    """By the file's name: the separator of a CSV or TSV file, None for Parquet.

    Raises:
        DataError: the name says neither.

    Example:
        >>> table_format("log.parquet"), table_format("log.csv.gz")
        (None, ',')
    """
    found = Path(path)
    separator = _separator(found)
    if separator is None and found.suffix not in PARQUET:
        raise DataError(f"{path}: {_UNNAMED}")
    return separator


def _separator(path: Path) -> str | None:
    name = path.with_suffix("") if is_packed(path) else path
    return SEPARATORS.get(name.suffix.lower())


def _read_csv(path: Path, types: Mapping[str, Any] | None, use_threads: bool) -> pa.Table:
    with pa.input_stream(str(path), compression="detect") as stream:
        return pyarrow.csv.read_csv(stream, *_csv_options(path, types, use_threads))


def _csv_options(
    path: Path, types: Mapping[str, Any] | None, use_threads: bool = False
) -> tuple[Any, Any, Any]:
    return (
        pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=use_threads),
        pyarrow.csv.ParseOptions(delimiter=_separator(path), newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            column_types=dict(types or {}),
            null_values=MISSING,
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    )


def _check_names(path: Path, names: Sequence[str], columns: Sequence[str] | None) -> None:
    if len(names) == 1 and not _is_parquet(path):
        for sign, spelled in ((";", "';'"), ("\t", "tabs"), (",", "','"), ("|", "'|'")):
            if sign in names[0]:
                kind = "tabs" if _separator(path) == "\t" else "commas"
                raise DataError(
                    f"{path}, line 1: the columns are separated by {spelled}, expected {kind}, as"
                    " its name says; .csv has commas, .tsv has tabs, and any frame that another"
                    " reader makes is taken too"
                )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: {Counter(names)[twice[0]]} columns are named {twice[0]!r}")
    for name in columns or ():
        if name not in names:
            shown = ", ".join(repr(n) for n in names[:12])
            more = f" and {len(names) - 12} more" if len(names) > 12 else ""
            raise SchemaError(
                f"{path} has no column {name!r}.{did_you_mean(name, names)} The columns are"
                f" {shown}{more}"
            )


def _listed(columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)


def _in_order(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    return table if columns is None else table.select(list(columns))


def _check_text(path: Path, table: pa.Table) -> pa.Table:
    """Refuse columns that inference took for bytes because they are not UTF-8."""
    for field in table.schema:
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            raise DataError(f"{path}: column {field.name!r} holds text that is not UTF-8")
    return table


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors of Arrow as errors that name the file, and the line in words of our own."""
    try:
        yield
    except (DataError, SchemaError):
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}{_reason(path, str(error))}") from error


def _reason(path: Path, message: str) -> str:
    """What follows the file's name in an error."""
    message = message.split("\n", 1)[0].removeprefix("CSV parse error: ").removesuffix(".")
    ragged = re.match(r"(?:Row #(\d+): )?Expected (\d+) columns, got (\d+)(.*)", message, re.S)
    if ragged:
        row, expected, found, text = ragged.groups()
        place = f", line {row}" if row else ""
        return f"{place}: found {found} columns{text[:80]}, expected {expected} as in the header"
    typed = re.match(
        r"In CSV column #\d+: (?:Row #(\d+): )?(?:CSV )?conversion error to (\w+): (.*)", message
    )
    if typed:
        row, kind, what = typed.groups()
        place = f", line {row}" if row else ""
        return (
            f"{place}: {what}, expected {kind} as in the rows before; name the column's type in"
            " `types`, or read the file whole"
        )
    if "Empty CSV file" in message:
        return " is empty, expected a header and rows"
    return f" cannot be read: {message}"
