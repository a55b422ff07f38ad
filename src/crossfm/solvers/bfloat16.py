"""bfloat16: the upper half of a float32, held as its bits in uint16."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["STORAGE", "from_bfloat16", "to_bfloat16"]

STORAGE = 3  # as the core numbers what factors are stored as


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers, exactly.

    >>> from_bfloat16(np.array([0x3F80, 0xC020], np.uint16))
    array([ 1. , -2.5], dtype=float32)
    """
    wide: NDArray[np.float32] = np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)
    return wide


def to_bfloat16(numbers: NDArray[Any]) -> NDArray[np.uint16]:
    """Bits of the nearest numbers, of two as near the even one.

    >>> from_bfloat16(to_bfloat16(np.array([1.001, 1 + 2**-8, 1 + 3 * 2**-8])))
    array([1.      , 1.      , 1.015625], dtype=float32)
    """
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    nearest: NDArray[np.uint16] = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return nearest
