"""What tells the rows of one fit from those of another."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from crossfm.data.rows import Rows

__all__ = ["fingerprint"]


def fingerprint(rows: Rows, only: Any = None) -> dict[str, Any]:
    """What tells these training rows from others: sizes and checksums of their arrays.

    >>> sorted(fingerprint(Rows(np.array([[0, 1]]))))
    ['checksum', 'n_features', 'n_rows']
    """
    checksum = 0
    for part in (rows.ids, rows.values, rows.offsets, rows.fields, rows.targets, rows.weights,
                 only):  # fmt: skip
        data = b"" if part is None else np.ascontiguousarray(part).view(np.uint8).data
        checksum = zlib.crc32(data, zlib.crc32(b"|", checksum))
    n_rows = len(rows) if only is None else len(only)
    return {"n_rows": n_rows, "n_features": rows.validate().max_id + 1, "checksum": checksum}
