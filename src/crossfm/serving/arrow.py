"""Bodies in Arrow's stream format, read with care: they come from anyone."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crossfm.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ARROW", "read_stream", "write_stream"]

ARROW = "application/vnd.apache.arrow.stream"


def read_stream(body: bytes, most_rows: int) -> pa.Table:
    """The table of a body.

    Compressed streams are refused: a few bytes of them can stand for any amount of memory.

    Raises:
        DataError: no valid stream, a compressed one, or more rows than allowed.
    """
    import pyarrow as pa

    try:
        source = pa.py_buffer(body)
        for message in pa.ipc.MessageReader.open_stream(source):
            if message.type != "schema" and _is_compressed(message.metadata.to_pybytes()):
                raise DataError("the Arrow stream is compressed; send it as it is")
        table = pa.ipc.open_stream(source).read_all()
        table.validate(full=True)
    except DataError:
        raise
    except (
        pa.ArrowException, struct.error, EOFError, OSError, ValueError, TypeError, KeyError,
        NotImplementedError, OverflowError, MemoryError,
    ) as error:  # fmt: skip
        raise DataError(f"the body is no Arrow stream: {str(error)[:200]}") from error
    if table.num_rows > most_rows:
        raise DataError(f"the table has {table.num_rows} rows, {most_rows} are allowed")
    return table


def write_stream(columns: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """Columns as a stream, with strings that belong to the whole."""
    import pyarrow as pa

    table = pa.table(dict(columns)).replace_schema_metadata(dict(metadata))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message's record batch names a compression (Arrow's Message.fbs, Schema.fbs)."""
    (root,) = struct.unpack_from("<I", metadata, 0)
    kind_at = _slot(metadata, root, 1)
    header = _child(metadata, root, 2)
    kind = metadata[kind_at] if kind_at else 0
    if kind == 2:  # a dictionary batch wraps a record batch
        header = _child(metadata, header, 1)
    elif kind != 3:
        return False
    return bool(_slot(metadata, header, 3))


def _slot(data: bytes, table: int, number: int) -> int:
    """Where a flatbuffer's table has a field; 0: it has not."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    (size,) = struct.unpack_from("<H", data, vtable)
    if 4 + 2 * number >= size:
        return 0
    (offset,) = struct.unpack_from("<H", data, vtable + 4 + 2 * number)
    return table + offset if offset else 0


def _child(data: bytes, table: int, number: int) -> int:
    at = _slot(data, table, number)
    if not at:
        raise struct.error("a message has no header")
    (offset,) = struct.unpack_from("<I", data, at)
    return int(at + offset)
