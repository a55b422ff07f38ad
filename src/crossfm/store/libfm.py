"""libFM's text model: what its option ``-save_model`` writes and ``-load_model`` reads.

::

    #global bias W0
    3.52835
    #unary interactions Wj
    0.0312
    ...                        one line a feature
    #pairwise interactions Vj,f
    0.011 -0.204 ...           one line a feature, k numbers separated by one space

A part that the model lacks (``-dim 0,1,8`` has no bias) is absent.

Source: libFM 1.4.4, src/fm_core/fm_model.h, fm_model::saveModel and loadModel.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import BinaryIO, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from crossfm.data.files import replacing
from crossfm.errors import DataError, ModelFileError
from crossfm.model import FactorModel, empty_factors

__all__ = ["load_libfm", "save_libfm"]

BIAS = b"#global bias W0"
LINEAR = b"#unary interactions Wj"
PAIRS = b"#pairwise interactions Vj,f"
HEADINGS = (BIAS, LINEAR, PAIRS)
LINES = 1 << 14  # lines converted at a time


def save_libfm(model: FactorModel, path: str | os.PathLike[str]) -> None:
    """Write a model as libFM's text: bias, one weight a line, one vector a line.

    Numbers are written so that they read back to the same float32. The schema, fields and
    metadata have no place in this format and are left out. libFM 1.4.4 itself cannot read a
    text of one factor, not even its own: it finds no space to split a line at.

    Args:
        model: with ``interactions="all"``; libFM knows no other.
        path: written whole or not at all.

    Raises:
        DataError: ``interactions="across_fields"``, or a model that is field-aware or
            field-weighted.
        ModelFileError: the system refused to write.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "model.libfm")
        >>> save_libfm(FactorModel(0.5, [0.1, 0.2], [[1.0, 2.0], [3.0, 4.0]]), path)
        >>> with open(path) as file:
        ...     print(file.read(), end="")
        #global bias W0
        0.5
        #unary interactions Wj
        0.1
        0.2
        #pairwise interactions Vj,f
        1 2
        3 4
    """
    if model.kind != "fm":
        raise DataError(
            f"libFM's text holds one vector a feature and no field weights, so no model of kind"
            f" {model.kind!r}; save_model keeps it"
        )
    if model.interactions != "all":
        raise DataError(
            f"libFM has no interactions {model.interactions!r}, only 'all'; save_model keeps both"
        )
    with replacing(path, ModelFileError) as file:
        file.write(BIAS + b"\n" + repr(float(model.bias)).encode() + b"\n")
        file.write(LINEAR + b"\n")
        _write(file, model.weights[:, None])
        file.write(PAIRS + b"\n")
        _write(file, model.factors)


def _write(file: BinaryIO, table: NDArray[np.float32]) -> None:
    """One line a row, each number by the fewest digits that read back to it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    k = table.shape[1]
    for start in range(0, len(table), LINES):
        block = np.ascontiguousarray(table[start : start + LINES])  # [lines, k]
        words = pa.array(block.reshape(-1)).cast(pa.string())
        ends = pa.array(np.arange(len(block) + 1, dtype=np.int32) * k)
        lines = pc.binary_join(pa.ListArray.from_arrays(ends, words), " ")
        file.write("\n".join(lines.to_pylist()).encode() + b"\n")


def load_libfm(
    path: str | os.PathLike[str],
    *,
    task: Literal["regression", "classification"] = "regression",
) -> FactorModel:
    r"""Read a libFM text model. A part that is absent becomes zeros.

    Args:
        path: the text.
        task: what the model was trained for; the text does not say. libFM's classification
            models give the probit of a probability under MCMC and ALS, the logit under SGD.

    Raises:
        ModelFileError: no such file, or a line that is not what stands there in libFM's format;
            the message holds its number and text.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "model.libfm")
        >>> with open(path, "w") as file:
        ...     _ = file.write("#pairwise interactions Vj,f\n1 2\n3 x\n")
        >>> load_libfm(path)
        Traceback (most recent call last):
            ...
        crossfm.errors.ModelFileError: ...model.libfm, line 3: '3 x', expected 2 numbers ...
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            lines = file.read().splitlines()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelFileError(f"cannot read {name}: {reason}. Check the path.") from error
    parts = _parts(name, lines)
    start, stop = parts[PAIRS]
    while stop > start + 1 and lines[start].strip() and not lines[stop - 1].strip():
        stop -= 1  # blank lines at the end, where vectors are not blank
    n = stop - start
    if n == 0:
        raise ModelFileError(f"{name} holds no features below {PAIRS.decode()!r}")
    k = len(lines[start].split())
    factors = empty_factors(n, k)
    _read(name, lines, start, stop, factors)
    weights = np.zeros((n, 1), np.float32)
    if LINEAR in parts:
        start, stop = parts[LINEAR]
        if stop - start != n:
            raise ModelFileError(
                f"{name} holds {stop - start} linear weights and {n} vectors; expected the same"
                " number of both"
            )
        _read(name, lines, start, stop, weights)
    bias = np.zeros((1, 1), np.float64)
    if BIAS in parts:
        start, stop = parts[BIAS]
        if stop - start != 1:
            raise ModelFileError(
                f"{name}: {stop - start} lines below {BIAS.decode()!r}, expected 1"
            )
        _read(name, lines, start, stop, bias)
    try:
        return FactorModel(float(bias[0, 0]), weights[:, 0], factors, task=task)
    except DataError as error:
        raise ModelFileError(f"{name} holds no usable model: {error}") from error


def _parts(name: str, lines: list[bytes]) -> dict[bytes, tuple[int, int]]:
    """First and past-last line of each part, by its heading."""
    at = [i for i, line in enumerate(lines) if line.startswith(b"#")]
    if not at or at[0] != 0:
        raise ModelFileError(
            f"{name} does not start with {BIAS.decode()!r} or another heading of libFM's text"
            " model; it is not one"
        )
    found: dict[bytes, tuple[int, int]] = {}
    for i, end in pairwise([*at, len(lines)]):
        heading = lines[i].strip()
        if heading not in HEADINGS or heading in found:
            problem = "a second time" if heading in found else "unknown"
            raise ModelFileError(f"{name}, line {i + 1}: {_show(lines[i])} is {problem}")
        found[heading] = (i + 1, end)
    if PAIRS not in found:
        raise ModelFileError(f"{name} has no {PAIRS.decode()!r}; it was cut short")
    if list(found) != [h for h in HEADINGS if h in found]:
        raise ModelFileError(f"{name}: its parts are not in libFM's order W0, Wj, Vj,f")
    return found


def _read(name: str, lines: list[bytes], start: int, stop: int, out: NDArray[np.floating]) -> None:
    """Convert lines of numbers, a block at a time; `out` is ``[stop - start, k]``."""
    k = out.shape[1]
    for low in range(start, stop, LINES):
        high = min(low + LINES, stop)
        try:
            table = [list(map(float, line.split())) for line in lines[low:high]]
            whole = all(len(numbers) == k for numbers in table)
            # Python reads 1_000 as a number; libFM does not.
            if not whole or any(b"_" in line for line in lines[low:high]):
                raise ValueError
            with np.errstate(over="ignore"):  # becomes infinite, refused below
                block = np.array(table).astype(out.dtype)
            if not np.isfinite(block).all():
                raise ValueError
        except ValueError:
            _blame(name, lines, low, high, k)
        out[low - start : high - start] = block.reshape(high - low, k)


def _blame(name: str, lines: list[bytes], low: int, high: int, k: int) -> NoReturn:
    """Raise for the first line that is not k finite numbers."""
    largest = float(np.finfo(np.float32).max)
    for i in range(low, high):
        words = lines[i].split()
        try:
            good = len(words) == k and all(
                b"_" not in word and abs(float(word)) <= largest for word in words
            )
        except ValueError:
            good = False
        if not good:
            noun = "number" if k == 1 else "numbers"
            raise ModelFileError(
                f"{name}, line {i + 1}: {_show(lines[i])}, expected {k} {noun} separated by spaces"
            ) from None
    raise ModelFileError(f"{name}: lines {low + 1} to {high} hold a number that is none")


def _show(line: bytes) -> str:
    text = line[:60].decode("ascii", "replace")
    return repr(text) + ("..." if len(line) > 60 else "")
