"""Turns the columns of a Parquet batch into text: a value has the key that a request with the same value has."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slimctr.clicklogs.rows import RowChecker
from slimctr.errors import LogFormatError
from slimctr.features.columns import MAX_INTEGER

_WHOLE = r"^-?[0-9]+(\.0+)?$"
_MOMENTS = (pa.types.is_timestamp, pa.types.is_time, pa.types.is_duration, pa.types.is_interval)
_TEXTS = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary),
    *(pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
)


def is_list(kind: pa.DataType) -> bool:
    """Tell whether a column holds lists of any kind."""
    return isinstance(
        kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType | pa.ListViewType | pa.LargeListViewType
    )


def check_type(path: Path, column: str, kind: pa.DataType, *, is_numeric: bool) -> None:
    """Raise LogFormatError for a column whose type no field takes, with what to do."""
    if pa.types.is_dictionary(kind):
        return check_type(path, column, kind.value_type, is_numeric=is_numeric)
    if is_list(kind) and not is_list(kind.value_type):
        return check_type(path, column, kind.value_type, is_numeric=False)
    if any(is_moment(kind) for is_moment in _MOMENTS):
        raise LogFormatError(
            f"{path}: column '{column}' is {kind}: a moment hardly ever comes back, so it is no category. "
            "Write what repeats (the hour, the weekday) to a column of its own"
        )
    if pa.types.is_boolean(kind) and is_numeric:
        raise LogFormatError(
            f"{path}: column '{column}' is {kind}, but its field is numeric: declare it categorical"
        )
    known = (*_TEXTS, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    if not any(is_kind(kind) for is_kind in (*known, pa.types.is_date, pa.types.is_null)):
        raise LogFormatError(
            f"{path}: column '{column}' is {kind}; a value is text, a number, a boolean, a date, or a list of these. "
            "Cast the column, or leave it out with a schema file (--schema)"
        )
    return None


def as_text(column: str, values: pa.Array, check: RowChecker, *, is_number: bool) -> pa.Array:
    """Return a string or list<string> array (B,): whole numbers in decimal digits, dates as 2024-01-31, NaN null.

    With `is_number` (a numeric field, the label) any number is written; else a row is refused whose number has a
    fraction, or is a float beyond ±(2^53-1), which stands for many integers.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        return as_text(column, values.dictionary_decode(), check, is_number=is_number)
    if not is_list(kind):
        text, bad = _scalars(values, is_number)
        if bad is not None:
            check.refuse(bad, lambda row: _fraction_problem(column, values[row].as_py()))
        return text
    lists = values.cast(pa.large_list(kind.value_type))
    items = lists.flatten()
    if pa.types.is_dictionary(items.type):
        items = items.dictionary_decode()
    text, bad = _scalars(items, is_number=False)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    if bad is not None:
        rows = np.repeat(np.arange(len(lists)), lengths)[bad]
        first = dict(zip(rows[::-1].tolist(), np.flatnonzero(bad)[::-1].tolist(), strict=True))
        mask = np.zeros(len(lists), bool)
        mask[rows] = True
        check.refuse(mask, lambda row: _fraction_problem(column, items[first[row]].as_py()))
    offsets = pa.array(np.concatenate([[0], lengths.cumsum()]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, text.cast(pa.string()), mask=pc.is_null(lists))


def _scalars(values: pa.Array, is_number: bool) -> tuple[pa.Array, np.ndarray | None]:
    """Return the text of values that are no lists, and a mask (n,) of those that are no category."""
    kind = values.type
    if pa.types.is_fixed_size_binary(kind):
        return values.cast(pa.binary()), None
    if pa.types.is_floating(kind):
        # As requests do: a float32 is the float64 of the same value, not that of its shortest text.
        numbers = values.cast(pa.float64())
        numbers = pc.if_else(pc.is_nan(numbers), None, numbers)
        if is_number:
            return numbers.cast(pa.string()), None
        whole = pc.and_(
            pc.equal(pc.trunc(numbers), numbers), pc.less_equal(pc.abs(numbers), float(MAX_INTEGER))
        )
        whole = pc.fill_null(whole, True)
        integers = pc.if_else(whole, numbers, None).cast(pa.int64())
        return integers.cast(pa.string()), _where_not(whole)
    if pa.types.is_decimal(kind) and not is_number:
        text = values.cast(pa.string())
        whole = pc.fill_null(pc.match_substring_regex(text, _WHOLE), True)
        return pc.replace_substring_regex(text, r"\.0+$", ""), _where_not(whole)
    if any(is_text(kind) for is_text in _TEXTS):
        return values, None
    return values.cast(pa.string()), None


def _where_not(condition: pa.Array) -> np.ndarray | None:
    return None if pc.all(condition).as_py() else ~condition.to_numpy(zero_copy_only=False)


def _fraction_problem(column: str, value: object) -> str:
    return (
        f"categorical field '{column}' holds the number {value}: a category is a whole number within ±(2^53-1), "
        "or text; declare the field numeric, or write it as text"
    )
