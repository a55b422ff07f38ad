"""How a model's factors lie in memory: padded float32, or packed in less space for serving."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crossfm import _native
from crossfm.errors import DataError, did_you_mean

__all__ = [
    "Held",
    "PackedFactors",
    "Precision",
    "check_precision",
    "empty_factors",
    "expect_exact",
    "held",
    "padded_width",
]

Precision = Literal["float32", "float16", "int8"]

DTYPES: dict[str, type[np.generic]] = {"float16": np.float16, "int8": np.int8}
STORAGES = {"float32": 0, "float16": 1, "int8": 2}  # as the kernels number them
LARGEST = 127  # code of the largest number of a feature; -128 has no opposite
CHUNK = 1 << 22  # numbers converted at a time


def check_precision(precision: Any, name: str = "precision") -> Precision:
    """The word, or DataError.

    >>> check_precision("int8")
    'int8'
    """
    known = get_args(Precision)
    if precision not in known:
        raise DataError(
            f"{name} is {precision!r}, expected one of {', '.join(map(repr, known))}."
            + did_you_mean(str(precision), known)
        )
    word: Precision = precision
    return word


def expect_exact(precision: Precision) -> None:
    """Refuse to train on from rounded factors.

    >>> expect_exact("int8")
    Traceback (most recent call last):
        ...
    crossfm.errors.DataError: the model holds its factors as int8, and training goes on from...
    """
    if precision != "float32":
        raise DataError(
            f"the model holds its factors as {precision}, and training goes on from float32 only:"
            " take the model before it was rounded, or convert it with model.quantize('float32'),"
            " or crossfm.load(path, precision='float32')"
        )


def padded_width(n_factors: int) -> int:
    """Numbers that one feature's vector takes: `n_factors` up to a multiple of 4, at least 4.

    >>> [padded_width(k) for k in (0, 1, 4, 17)]
    [4, 4, 4, 20]
    """
    return max(4, -(-n_factors // 4) * 4)


def empty_factors(
    n_features: int, n_factors: int, n_vectors: int | None = None
) -> NDArray[np.float32]:
    """Zero factors float32 ``[n_features, n_factors]`` in a model's own layout, to be filled.

    With `n_vectors` they are ``[n_features, n_vectors, n_factors]``. `FactorModel` takes such an
    array over without a copy: fill it first, and leave it alone after.

    >>> factors = empty_factors(5, 3)
    >>> factors.shape, factors.strides
    ((5, 3), (16, 4))
    """
    numbers = n_factors * (1 if n_vectors is None else n_vectors)
    width = padded_width(numbers)
    table: NDArray[np.float32] = _native.allocate(n_features * width).reshape(n_features, width)
    factors = table[:, :numbers]
    return factors if n_vectors is None else factors.reshape(n_features, n_vectors, n_factors)


@dataclass(frozen=True, eq=False)
class PackedFactors:
    """Factors as float16, or as int8 with a scale for each feature.

    float16 rounds a number to 11 bits: an error of at most 0.0005 of it. int8 takes the numbers of
    a feature in steps of a 127th of the largest of them::

        s_i = max_f |v_if| / 127,  c_if = round(v_if / s_i),  v_if ~ s_i c_if

    so that an error is at most ``s_i / 2``.

    Args:
        codes: float16 or int8 ``[n_features, width]``, `padded_width` numbers a feature, zeros
            behind the numbers.
        scales: ``s``, float32 ``[n_features]`` for int8, else None.
        shape: of the factors, ``(n_features, n_factors)``, or ``(n_features, n_vectors,
            n_factors)``.

    Raises:
        DataError: numbers that are not finite, scales below zero, shapes that do not fit together.

    Example:
        >>> packed = PackedFactors.pack(np.array([[1.0, -0.5], [0.02, 0.0]], np.float32), "int8")
        >>> packed.codes[:, :2].tolist()
        [[127, -64], [127, 0]]
        >>> packed.unpack([0]).round(3)
        array([[ 1.   , -0.504]], dtype=float32)
    """

    codes: NDArray[Any]
    scales: NDArray[np.float32] | None
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = int(np.prod(self.shape[1:]))
        expected = (self.shape[0], padded_width(numbers))
        if len(self.shape) not in (2, 3) or self.codes.shape != expected:
            raise DataError(f"codes have shape {self.codes.shape}, expected {expected}")
        if self.codes.dtype not in DTYPES.values():
            raise DataError(f"codes are {self.codes.dtype}, expected float16 or int8")
        if (self.scales is None) == (self.precision == "int8"):
            raise DataError("int8 factors need scales, and no others have them")
        for part in _parts(self.codes) if self.precision == "float16" else ():
            if not np.isfinite(self.codes[part]).all():
                raise DataError("factors of a feature are not finite")
        if self.scales is not None:
            if self.scales.shape != self.shape[:1]:
                raise DataError(f"scales have shape {self.scales.shape}, expected {self.shape[:1]}")
            good = np.isfinite(self.scales) & (self.scales >= 0)
            if not good.all():
                raise DataError(
                    f"the scale of feature {int(np.argmin(good))} is"
                    f" {self.scales[np.argmin(good)]}, expected a finite number from 0"
                )

    @staticmethod
    def empty(shape: tuple[int, ...], precision: Precision) -> PackedFactors:
        """All zeros, to be filled."""
        n, width = shape[0], padded_width(int(np.prod(shape[1:])))
        dtype = np.dtype(DTYPES[precision])
        raw = _native.allocate(-(-n * width * dtype.itemsize // 4))
        codes = raw.view(dtype)[: n * width].reshape(n, width)
        return PackedFactors(codes, np.zeros(n, np.float32) if dtype == np.int8 else None, shape)

    @staticmethod
    def pack(factors: NDArray[np.float32], precision: Precision) -> PackedFactors:
        """Round factors ``[n_features, ...]``.

        Raises:
            DataError: a number beyond 65504 for float16.
        """
        packed = PackedFactors.empty(factors.shape, precision)
        numbers = factors[0].size
        for part in _parts(packed.codes):
            v = factors[part].reshape(len(factors[part]), numbers)
            largest = np.abs(v).max(axis=1, initial=0.0)
            if packed.scales is None:
                if largest.max(initial=0.0) > np.finfo(np.float16).max:
                    raise DataError(
                        f"a factor of size {largest.max():.6g} does not fit into float16, whose"
                        " largest number is 65504; take precision='float32' or 'int8'"
                    )
                packed.codes[part, :numbers] = v
            else:
                scale = largest / np.float32(LARGEST)
                packed.scales[part] = scale
                steps = v / np.where(scale > 0, scale, np.inf)[:, None]
                packed.codes[part, :numbers] = np.clip(np.rint(steps), -LARGEST, LARGEST)
        return packed

    @property
    def precision(self) -> Precision:
        """Either "float16" or "int8"."""
        return "float16" if self.codes.dtype == np.float16 else "int8"

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.codes.nbytes + (0 if self.scales is None else self.scales.nbytes)

    @property
    def numbers(self) -> NDArray[Any]:
        """The codes without their padding, ``[n_features, numbers]``."""
        return self.codes[:, : int(np.prod(self.shape[1:]))]

    def unpack(self, ids: Any = slice(None)) -> NDArray[np.float32]:
        """The factors of these features, float32; an array of its own."""
        numbers = int(np.prod(self.shape[1:]))
        v = self.codes[ids][..., :numbers].astype(np.float32)  # [..., numbers]
        if self.scales is not None:
            v *= self.scales[ids][..., None]
        return v.reshape(*v.shape[:-1], *self.shape[1:])


@dataclass(frozen=True, eq=False)
class Held:
    """A model's numbers as its kernels read them.

    Attributes:
        table: float32 ``[n, stride]``: the factors, padded; packed ones as their bytes.
        at: floats of a row of `table` before its factors.
        width: numbers a feature, with padding.
        linear: float32 ``[n, stride]``: the weight first, then the scale of int8 factors. Where
            both and the factors fit into 32 bytes it is `table` itself: a score then reads one
            cache line a feature, not two.
        packed: the factors, unless they are float32.
        shape: of the factors.
    """

    table: NDArray[np.float32]
    at: int
    width: int
    linear: NDArray[np.float32]
    packed: PackedFactors | None
    shape: tuple[int, ...]


TOGETHER = 8  # floats, half a cache line


def held(weights: NDArray[np.float32], factors: NDArray[np.float32] | PackedFactors) -> Held:
    """Weights and factors as `Held`; `factors` from `empty_factors` are not copied."""
    if not isinstance(factors, PackedFactors):
        table, linear = _pad(factors).view(), weights.copy()[:, None]
        table.flags.writeable = linear.flags.writeable = False
        return Held(table, 0, table.shape[1], linear, None, factors.shape)
    n, width = factors.codes.shape
    floats, at = width * factors.codes.itemsize // 4, 1 if factors.scales is None else 2
    if floats + at <= TOGETHER:
        table = linear = _native.allocate(n * TOGETHER).reshape(n, TOGETHER)
    else:
        table, linear = (_native.allocate(n * each).reshape(n, each) for each in (floats, at))
        at = 0
    codes = table[:, at : at + floats].view(factors.codes.dtype)  # [n, width]
    codes[...] = factors.codes
    linear[:, 0] = weights
    if factors.scales is not None:
        linear[:, 1] = factors.scales
    table.flags.writeable = linear.flags.writeable = codes.flags.writeable = False
    scales = None if factors.scales is None else linear[:, 1]
    packed = PackedFactors(codes, scales, factors.shape)
    return Held(table, at, width, linear, packed, factors.shape)


def _pad(factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The array ``[n, width]`` behind `factors` where `empty_factors` made it, else a copy."""
    n, k = len(factors), factors[0].size
    width = padded_width(k)
    base = factors if factors.base is None else factors.base
    ours = (
        isinstance(base, np.ndarray)
        and base.dtype == np.float32
        and base.flags.c_contiguous
        and base.size == n * width
        and base.ctypes.data == factors.ctypes.data
        and base.ctypes.data % 64 == 0
        and factors.strides[0] == 4 * width
        and factors[0].flags.c_contiguous
    )
    if ours:
        padded: NDArray[np.float32] = base.reshape(n, width)
        if not padded[:, k:].any():
            return padded
    padded = _native.allocate(n * width).reshape(n, width)
    padded[:, :k] = factors.reshape(n, k)
    return padded


def _parts(codes: NDArray[Any]) -> Iterator[slice]:
    """Features a few at a time."""
    step = max(1, CHUNK // codes.shape[1])
    for low in range(0, len(codes), step):
        yield slice(low, low + step)
