"""Categories in one form: the same value meets itself whatever type its column came in.

A column is brought to one of six kinds (`canonical`), and from its kind to another
(`convert`): 1, 1.0, "1" and "1.0" are one category wherever one of the columns is of integers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from crossfm.errors import DataError, SchemaError

__all__ = [
    "ARROW",
    "Values",
    "canonical",
    "common_kind",
    "convert",
    "first_value",
    "is_list",
    "mixed_kinds",
    "numbers",
    "one",
    "plain",
    "strings",
]

ARROW: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "uint": pa.uint64(),  # only where a value is beyond 2^63 - 1
    "float": pa.float64(),
    "string": pa.large_string(),
    "datetime": pa.timestamp("us"),  # UTC
}
WORDS = {
    "bool": "booleans",
    "int": "integers",
    "uint": "integers",
    "float": "numbers",
    "string": "strings",
    "datetime": "dates",
}
INT64_MAX = 2**63 - 1
EXACT_FLOAT = 2**53
INTEGER = r"^\s*[+-]?[0-9]{1,37}(\.0*)?\s*$"
NUMBER = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*$"


class Values(NamedTuple):
    """A column of categories: its kind (None: nothing but missing) and an array of that type."""

    kind: str | None
    array: Any  # pa.Array of ARROW[kind]; missing is null


def one(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column as one array."""
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def plain(column: pa.Array | pa.ChunkedArray, name: str) -> pa.Array | pa.ChunkedArray:
    """The column without dictionaries, run lengths, extension types and string views."""
    for _ in range(4):  # an extension of a dictionary of views ...
        kind = column.type
        if isinstance(kind, pa.BaseExtensionType):
            column = _per_chunk(column, lambda chunk: chunk.storage, kind.storage_type)
        elif isinstance(kind, pa.DictionaryType):
            column = _per_chunk(column, lambda chunk: chunk.dictionary_decode(), kind.value_type)
        elif isinstance(kind, pa.RunEndEncodedType):
            column = pc.run_end_decode(column)
        else:
            break
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if _is_binary(kind):
        try:
            return column.cast(pa.binary()).cast(pa.large_string())
        except pa.ArrowInvalid as error:
            raise SchemaError(
                f"column {name!r} holds bytes that are not UTF-8 text; decode it, or leave it out"
            ) from error
    return column


def canonical(column: pa.Array | pa.ChunkedArray, name: str) -> Values:
    """The column's categories: dictionaries decoded, floats without fractions as integers.

    Raises:
        SchemaError: lists, structs, durations: nothing that could be one category.
        DataError: infinity.
    """
    values = _canonical(plain(column, name), name)
    return values if values.array.null_count < len(values.array) else Values(None, values.array)


def _canonical(column: pa.Array | pa.ChunkedArray, name: str) -> Values:
    kind = column.type
    types = pa.types
    if types.is_null(kind):
        return Values(None, one(column))
    if types.is_boolean(kind):
        return Values("bool", one(column))
    if types.is_integer(kind):
        return _integers(one(column))
    if types.is_floating(kind):
        return _floats(one(column), name)
    if types.is_large_string(kind):
        array = one(column)
        empty = pc.equal(pc.binary_length(array), 0)
        if pc.any(empty).as_py():
            array = pc.if_else(empty, pa.scalar(None, array.type), array)
        return Values("string", array)
    if types.is_date(kind) or types.is_timestamp(kind):
        try:
            return Values("datetime", one(_instants(column)))
        except pa.ArrowInvalid as error:
            raise DataError(f"column {name!r} holds a date out of range: {error}") from error
    if types.is_time(kind):
        return Values("string", one(column.cast(pa.large_string())))
    if types.is_decimal(kind):
        return _decimals(one(column), name)
    if is_list(kind):
        raise SchemaError(
            f"column {name!r} holds lists, expected one value a row; use Bag({name!r})"
        )
    raise SchemaError(
        f"column {name!r} holds {kind}, expected integers, strings, booleans, dates or numbers;"
        f" convert it, or leave it out"
    )


def _instants(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Dates and times as microseconds of UTC."""
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        column = column.cast(pa.int64()).cast(pa.timestamp(kind.unit))
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return column.cast(ARROW["datetime"], safe=False)  # a fraction of a microsecond is lost
    return column.cast(ARROW["datetime"])


def _integers(array: pa.Array) -> Values:
    if not pa.types.is_uint64(array.type):
        return Values("int", array.cast(pa.int64()))
    top = pc.max(array).as_py()
    if top is not None and top > INT64_MAX:
        return Values("uint", array)
    return Values("int", array.cast(pa.int64()))


def _floats(array: pa.Array, name: str) -> Values:
    narrow = not pa.types.is_float64(array.type)
    wide = array.cast(pa.float64()) if narrow else array
    x = wide.to_numpy(zero_copy_only=False)
    missing = np.isnan(x)
    infinite = np.isinf(x)
    if infinite.any():
        raise _infinity(name, int(np.argmax(infinite)), x)
    with np.errstate(invalid="ignore"):
        whole = (np.floor(x) == x) & (np.abs(x) < 2.0**63)
    if (whole | missing).all():
        return Values("int", pa.array(np.where(missing, 0, x).astype(np.int64), mask=missing))
    if narrow:  # 0.1 of 32 bits is the 0.1 that it prints as
        wide = array.cast(pa.float32()).cast(pa.string()).cast(pa.float64())
        x = wide.to_numpy(zero_copy_only=False)
    return Values("float", pa.array(x + 0.0, mask=missing))  # -0.0 becomes 0.0


def _decimals(array: pa.Array, name: str) -> Values:
    strings = array.cast(pa.large_string())
    as_int = _string_to_integer(strings, "int")
    if as_int.null_count == array.null_count:
        return Values("int", as_int)
    as_uint = _string_to_integer(strings, "uint")
    if as_uint.null_count == array.null_count:
        return Values("uint", as_uint)
    return _floats(array.cast(pa.float64()), name)


def common_kind(first: str | None, second: str | None, nonnegative: bool = True) -> str | None:
    """The kind that holds the values of both: bool < int < float < string.

    `nonnegative`: the integers of the two have no negative one, so that unsigned ones fit.
    """
    if first is None or second is None or first == second:
        return first or second
    pair = {first, second}
    if pair & {"string", "datetime"}:
        return "string"
    if "uint" in pair:
        return "uint" if nonnegative and "float" not in pair else "string"
    return "float" if "float" in pair else "int"


def mixed_kinds(name: str, found: str, expected: str, example: object) -> SchemaError:
    """The error for dates where the schema knows something else, or the other way round."""
    return SchemaError(
        f"column {name!r} holds {WORDS[found]} such as {str(example)!r}, expected"
        f" {WORDS[expected]} as in the rows the schema was fitted to; convert the column"
    )


def convert(values: Values, kind: str) -> pa.Array:
    """The values as another kind; null where a value has no equal of that kind."""
    source, array = values
    if source == kind:
        return array
    if source is None:
        return pa.nulls(len(array), ARROW[kind])
    if kind == "string":
        return strings(values)
    if source == "string":
        return _from_string(array, kind)
    if "datetime" in (source, kind):
        return pa.nulls(len(array), ARROW[kind])
    if source == "bool":
        return array.cast(pa.int8()).cast(ARROW[kind])
    if kind == "bool":
        zero, one_ = (pa.scalar(number, array.type) for number in (0, 1))  # beyond int64 too
        fits = pc.or_(pc.equal(array, zero), pc.equal(array, one_))
        return _keep(array, fits).cast(pa.float64()).cast(pa.bool_())
    if source == "float":
        x = array.fill_null(0.5).to_numpy(zero_copy_only=False)
        fits = (np.floor(x) == x) & (x < (2.0**63 if kind == "int" else 2.0**64))
        fits &= x >= (-(2.0**63) if kind == "int" else 0.0)
        target = np.int64 if kind == "int" else np.uint64
        return pa.array(np.where(fits, x, 0).astype(target), mask=~fits)
    low, high = {
        "int": (None, INT64_MAX),
        "uint": (0, None),
        "float": (-EXACT_FLOAT if source == "int" else None, EXACT_FLOAT),
    }[kind]
    if low is not None:
        array = _keep(array, pc.greater_equal(array, low))
    if high is not None:
        array = _keep(array, pc.less_equal(array, pa.scalar(high, array.type)))
    return array.cast(ARROW[kind])


def strings(values: Values) -> pa.Array:
    """The text of each value: 42, 1.5, true, 2024-01-31, 2024-01-31 18:30:00."""
    kind, array = values
    if kind is None:
        return pa.nulls(len(array), pa.large_string())
    if kind == "string":
        return array
    if kind == "float":  # 1.0 is "1" beside 1.5 too
        whole = convert(values, "int")
        return pc.coalesce(whole.cast(pa.large_string()), array.cast(pa.large_string()))
    if kind == "datetime":
        text = array.cast(pa.large_string())  # 2024-01-31 18:30:00.000000
        text = pc.replace_substring_regex(text, r"\.0+$", "")
        return pc.replace_substring_regex(text, r" 00:00:00$", "")
    return array.cast(pa.large_string())


def _from_string(array: pa.Array, kind: str) -> pa.Array:
    if kind in ("int", "uint"):
        return _string_to_integer(array, kind)
    if kind == "float":
        return _string_to_float(array)
    if kind == "datetime":
        text = pc.utf8_trim_whitespace(array).cast(pa.string())
        parsed = [
            pc.strptime(text, format=form, unit="us", error_is_null=True)
            for form in ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M")
        ]
        return pc.coalesce(*parsed)
    text = pc.utf8_lower(pc.utf8_trim_whitespace(array))
    true = pc.is_in(text, pa.array(["true", "1", "1.0"], text.type))
    false = pc.is_in(text, pa.array(["false", "0", "0.0"], text.type))
    return _keep(true, pc.or_(true, false))


def _string_to_integer(array: pa.Array, kind: str) -> pa.Array:
    text = _keep(array, pc.match_substring_regex(array, INTEGER))
    text = pc.replace_substring_regex(text, r"^\s*\+?(-?)0*([0-9]+)(\.0*)?\s*$", r"\1\2")
    longest = pc.max(pc.binary_length(text)).as_py() or 0
    if longest <= 18:
        whole = text.cast(pa.int64())
        return whole if kind == "int" else _keep(whole, pc.greater_equal(whole, 0)).cast("uint64")
    wide = text.cast(pa.string()).cast(pa.decimal128(38, 0))
    low, high = (-(2**63), INT64_MAX) if kind == "int" else (0, 2**64 - 1)
    fits = pc.and_(
        pc.greater_equal(wide, pa.scalar(low, wide.type)),
        pc.less_equal(wide, pa.scalar(high, wide.type)),
    )
    return _keep(wide, fits).cast(ARROW[kind])


def _string_to_float(array: pa.Array) -> pa.Array:
    text = _keep(array, pc.match_substring_regex(array, NUMBER))
    parsed = pc.replace_substring_regex(pc.utf8_trim_whitespace(text), r"^\+", "").cast("float64")
    return pc.add(_keep(parsed, pc.is_finite(parsed)), 0.0)  # -0.0 becomes 0.0


def numbers(column: pa.Array | pa.ChunkedArray, name: str) -> NDArray[np.float64]:
    """The column as float64 ``[n]``, NaN where missing. Strings of numbers are read.

    Raises:
        SchemaError: the column is of something else than numbers.
        DataError: infinity.
    """
    column = plain(column, name)
    kind = column.type
    types = pa.types
    if types.is_null(kind):
        return np.full(len(column), np.nan)
    if types.is_large_string(kind):
        array = one(column)
        parsed = _string_to_float(array)
        blank = pc.fill_null(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(array)), 0), True)
        nan = pc.fill_null(pc.is_in(pc.utf8_lower(array), pa.array(["nan"], array.type)), False)
        strange = pc.and_not(pc.is_null(parsed), pc.or_(blank, nan))
        if pc.any(strange).as_py():
            row = pc.index(strange, True).as_py()
            raise SchemaError(
                f"column {name!r} holds strings such as {_short(array[row].as_py())!r} (row {row}),"
                f" expected numbers; declare it Categorical({name!r}), or convert it"
            )
        column = parsed
    elif types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif not (types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)):
        words = "lists" if is_list(kind) else "dates" if types.is_temporal(kind) else str(kind)
        remedy = {
            "lists": f"use Bag({name!r}), or one column for each number",
            "dates": "derive numbers from it, such as the hour, the weekday or an age in days",
        }.get(words, "convert it, or leave it out")
        raise SchemaError(f"column {name!r} holds {words}, expected numbers; {remedy}")
    if types.is_floating(column.type) and not types.is_float64(column.type):
        column = column.cast(pa.float64())
    elif not types.is_float64(column.type):
        column = column.cast(pa.float64(), safe=False)
    x = one(column).to_numpy(zero_copy_only=False)
    infinite = np.isinf(x)
    if infinite.any():
        raise _infinity(name, int(np.argmax(infinite)), x)
    return x


def first_value(array: pa.Array) -> Any:
    """The first value that is not missing, for a message."""
    valid = array.drop_null()
    return _short(str(valid[0].as_py())) if len(valid) else None


def _infinity(name: str, row: int, x: NDArray[Any]) -> DataError:
    return DataError(
        f"column {name!r}, row {row}: the value is {x[row]}, expected a finite number;"
        f" clip it, or make it missing (NaN)"
    )


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _keep(array: pa.Array, mask: pa.Array) -> pa.Array:
    """The array, null where the mask does not hold."""
    return pc.if_else(mask, array, pa.scalar(None, array.type))


def _per_chunk(column: Any, change: Any, kind: pa.DataType) -> Any:
    if isinstance(column, pa.Array):
        return change(column)
    return pa.chunked_array([change(chunk) for chunk in column.chunks], kind)


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether the type is one of Arrow's kinds of lists."""
    return isinstance(
        kind,
        pa.ListType
        | pa.LargeListType
        | pa.FixedSizeListType
        | pa.ListViewType
        | pa.LargeListViewType,
    )
