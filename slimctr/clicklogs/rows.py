"""Turns raw text columns into clean record batches: checks label, text and numbers, refuses single rows."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.errors import LogFormatError
from slimctr.features import FeatureSchema, Field

LABEL_COLUMN = "label"
VALUE_SEPARATOR = "|"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_NUMBER = re.compile(NUMBER)

_LABELS = {"true": 1, "false": 0, Decimal(1): 1, Decimal(0): 0, Decimal(-1): 0}
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class RawBatch:
    """Consecutive rows of a file as read: binary, string or list<string> columns (B,), null means missing.

    `line_of_row` maps a row of the batch to its line in `path`.
    """

    path: Path
    columns: dict[str, pa.Array]
    rows: int
    line_of_row: Callable[[int], int]


class RowChecker:
    """Collects the rows of one batch that cannot be used, each with the first reason found."""

    def __init__(self, rows: int):
        self.bad = np.zeros(rows, dtype=bool)
        self._reasons: dict[int, str] = {}

    def refuse(self, mask: np.ndarray, reason: Callable[[int], str]) -> None:
        """Refuse the rows where `mask` (B,) holds; `reason` is asked once per newly refused row."""
        for row in np.flatnonzero(mask & ~self.bad):
            self._reasons[int(row)] = reason(int(row))
        self.bad |= mask

    def skip(self, mask: np.ndarray) -> None:
        """Drop the rows where `mask` (B,) holds without counting them."""
        self.bad |= mask

    def report(self, raw: RawBatch, errors: ParseErrors) -> None:
        """Hand every refused row to `errors`, in row order."""
        for row in sorted(self._reasons):
            errors.add(raw.path, raw.line_of_row(row), self._reasons[row])


def clean_batch(
    raw: RawBatch, label: str, schema: FeatureSchema, errors: ParseErrors, check: RowChecker | None = None
) -> pa.RecordBatch:
    """Return `label` int8 and one string or list<string> column per field; leave out and count what does not fit.

    Column `label` must hold true, false or a number equal to 0, 1 or -1 (no click), a numeric field a finite number, a
    required field a value.
    A text column of a multi-valued field is split at `|`. A row without any value (a blank line) is skipped.
    `check` may hold rows that the caller refused already.
    """
    check = check or RowChecker(raw.rows)
    check.skip(_blank(raw.columns))
    label_text = _text(raw.columns[label], label, check)
    codes = _label_codes(label_text)
    check.refuse(_mask(pc.is_null(codes)), lambda row: _label_problem(label_text[row].as_py()))
    cleaned = [_clean_column(raw.columns[field.name], field, check) for field in schema.fields]
    check.report(raw, errors)
    batch = pa.RecordBatch.from_arrays([codes, *cleaned], names=[LABEL_COLUMN, *schema.names])
    return batch.filter(pa.array(~check.bad)) if check.bad.any() else batch


def _label_codes(text: pa.Array) -> pa.Array:
    """Return clicks as int8 (n,), null where the text is no label."""
    encoded = pc.dictionary_encode(text)
    codes = [_label_code(value) for value in encoded.dictionary.to_pylist()]
    return pa.array(codes, pa.int8()).take(encoded.indices)


def _label_code(text: str) -> int | None:
    if not _NUMBER.fullmatch(text):
        return _LABELS.get(text.lower())
    try:
        return _LABELS.get(Decimal(text))
    except InvalidOperation:  # an exponent of more digits than a decimal has
        return None


def _label_problem(value: str | None) -> str:
    if value is None:
        return "the label is missing"
    return f"label {value[:_SHOWN_CHARACTERS]!r} is neither 0 nor 1 (nor -1, true or false)"


def _blank(columns: dict[str, pa.Array]) -> np.ndarray:
    masks = (_mask(pc.is_null(column)) for column in columns.values())
    blank = next(masks).copy()
    while blank.any() and (mask := next(masks, None)) is not None:
        blank &= mask
    return blank


def _clean_column(values: pa.Array, field: Field, check: RowChecker) -> pa.Array:
    if pa.types.is_list(values.type):
        if not field.multivalued:
            raise LogFormatError(
                f"field '{field.name}' holds lists: declare it multivalued in the schema file"
            )
        if field.required:
            empty = pc.equal(pc.fill_null(pc.list_value_length(values), 0), 0)
            check.refuse(_mask(empty), lambda row: f"required field '{field.name}' has no value")
        return values
    text = _text(values, field.name, check)
    text = pc.if_else(pc.equal(text, ""), None, text)
    if field.required:
        check.refuse(_mask(pc.is_null(text)), lambda row: f"required field '{field.name}' has no value")
    if field.kind == "numeric":
        _check_numbers(text, field.name, check)
    if field.multivalued:
        return pc.split_pattern(text, VALUE_SEPARATOR)
    return text


def _text(values: pa.Array, name: str, check: RowChecker) -> pa.Array:
    """Cast to UTF-8 text; rows with other bytes are refused and read as missing."""
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        bad = np.array([not _is_utf8(value.as_py()) for value in values], dtype=bool)
        check.refuse(
            bad,
            lambda row: (
                f"column '{name}' is not UTF-8 text: {values[row].as_py()[:_SHOWN_CHARACTERS]!r}. "
                "Write the log in UTF-8"
            ),
        )
        return pc.if_else(pa.array(bad), None, values).cast(pa.string())


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def parse_numbers(text: pa.Array) -> pa.Array:
    """Return a string array (n,) as float64; NaN where the text is no number, null where it is null."""
    try:
        return text.cast(pa.float64())
    except pa.ArrowInvalid:
        plain = pc.replace_substring_regex(text, r"^\+", "")
        return pc.if_else(pc.match_substring_regex(text, NUMBER), plain, "nan").cast(pa.float64())


def _check_numbers(text: pa.Array, name: str, check: RowChecker) -> None:
    check.refuse(
        _mask(pc.invert(pc.is_finite(parse_numbers(text)))),
        lambda row: (
            f"numeric field '{name}' holds {text[row].as_py()[:_SHOWN_CHARACTERS]!r}, not a finite number"
        ),
    )


def _mask(condition: pa.Array) -> np.ndarray:
    return pc.fill_null(condition, False).to_numpy(zero_copy_only=False)
