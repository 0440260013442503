"""Python values of several fields end to end, so that one pass checks and converts all of them."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.errors import BadValue
from slimctr.features.columns import (
    CATEGORY,
    MAX_INTEGER,
    TOO_LARGE,
    TextColumn,
    json_name,
    missing_field,
    row_of,
)
from slimctr.features.schema import Field
from slimctr.native.json_pieces import extend, release

Spans = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]
"""Bytes, the first byte of each key, the byte behind each key."""

_INTEGERS = frozenset({int, np.int32, np.int64})
_FLOATS = frozenset({float, np.float32, np.float64})
_NUMBERS = _INTEGERS | _FLOATS | {type(None)}
_BOOLEANS = frozenset({bool, np.bool_})
_SEPARATOR = "\0"
STEP_CELLS = 2**16
"""Cells that are converted at a time: other threads of a service get their turn in between."""


class Cells:
    """Cells in the order they were added; with `bag_offsets` they belong to a multi-valued field."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._starts: list[int] = []
        self._sources: list[tuple[Field, NDArray[np.int64] | None]] = []

    def add(self, field: Field, values: Sequence[Any], bag_offsets: NDArray[np.int64] | None = None) -> None:
        """Append the cells of a field. Raises MissingField when it is required and one of them is missing."""
        self._starts.append(len(self._values))
        self._sources.append((field, bag_offsets))
        extend(self._values, values)
        if field.required:
            absent = (None,) if field.kind == "numeric" else (None, "")
            for position, value in enumerate(values):
                if value in absent:
                    raise missing_field(field, row_of(position, bag_offsets))

    def texts(self) -> Spans:
        """Return categorical cells as text: strings as they are, whole numbers in decimal, true, false, None empty.

        Raises BadValue for any other value.
        """
        if len(self._values) <= STEP_CELLS:
            return self._texts(0)
        try:
            steps = [self._texts(start) for start in range(0, len(self._values), STEP_CELLS)]
        finally:
            release(self._values)
        shifts = np.cumsum([0, *(len(data) for data, _, _ in steps[:-1])])
        return (
            np.concatenate([data for data, _, _ in steps]),
            np.concatenate([starts + shift for (_, starts, _), shift in zip(steps, shifts, strict=True)]),
            np.concatenate([ends + shift for (_, _, ends), shift in zip(steps, shifts, strict=True)]),
        )

    def numbers(self) -> NDArray[np.float64]:
        """Return numeric cells as float64 (n,), None as NaN. Raises BadValue for all but finite numbers."""
        if len(self._values) <= STEP_CELLS:
            return self._numbers(0)
        try:
            steps = [self._numbers(start) for start in range(0, len(self._values), STEP_CELLS)]
        finally:
            release(self._values)
        return np.concatenate(steps)

    def _texts(self, start: int) -> Spans:
        texts = self._values[start : start + STEP_CELLS]
        kinds = set(map(type, texts))
        if kinds == {int} and min(texts) >= -MAX_INTEGER and max(texts) <= MAX_INTEGER:
            texts = list(map(str, texts))
        elif not kinds <= {str}:
            texts = [self._text(position, value) for position, value in enumerate(texts, start)]
        try:
            return _spans(texts)
        except UnicodeEncodeError:
            position = next(position for position, text in enumerate(texts, start) if not _is_unicode(text))
            raise self._bad(position, "the string holds half a surrogate pair: not valid Unicode") from None

    def _numbers(self, start: int) -> NDArray[np.float64]:
        values = self._values[start : start + STEP_CELLS]
        if set(map(type, values)) <= _NUMBERS:
            try:
                numbers = np.array(values, np.float64)
            except OverflowError:
                numbers = np.full(len(values), np.nan)
            if np.count_nonzero(np.isfinite(numbers)) + values.count(None) == len(values):
                return numbers
        position = next(
            i for i, value in enumerate(values) if value is not None and not _is_finite_number(value)
        )
        detail = f"a numeric field takes a finite number, not {json_name(values[position])}"
        raise self._bad(start + position, detail)

    def _text(self, position: int, value: Any) -> str:
        if isinstance(value, str):
            return value
        if value is None:
            return ""
        kind = type(value)
        if kind in _BOOLEANS:
            return "true" if value else "false"
        if kind in _FLOATS and value.is_integer():
            value = int(value)
        elif kind not in _INTEGERS:
            raise self._bad(position, f"a categorical value is {CATEGORY}, not {json_name(value)}")
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise self._bad(position, TOO_LARGE)
        return str(value)

    def _bad(self, position: int, detail: str) -> BadValue:
        source = bisect_right(self._starts, position) - 1
        field, bag_offsets = self._sources[source]
        row = row_of(position - self._starts[source], bag_offsets)
        return BadValue(field.name, detail, row, self._values[position])


def _spans(texts: list[str]) -> Spans:
    """Encode all texts at once: far faster than one by one, the ends are where the separators are found."""
    data = np.frombuffer(_SEPARATOR.join(texts).encode(), np.uint8)
    separators = np.flatnonzero(data == 0)
    if len(separators) != len(texts) - 1:
        column = TextColumn.of(texts)
        return column.data, column.starts, column.ends
    starts, ends = np.empty((2, len(texts)), np.int64)
    starts[0], ends[-1] = 0, len(data)
    ends[:-1] = separators
    np.add(separators, 1, out=starts[1:])
    return data, starts, ends


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_finite_number(value: Any) -> bool:
    try:
        return type(value) in _NUMBERS and math.isfinite(value)
    except OverflowError:
        return False
