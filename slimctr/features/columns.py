"""Turns one column of raw values into keys, text or integers, and refuses every value that is not one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.errors import BadValue, MissingField
from slimctr.features.numeric import bucket_numbers
from slimctr.features.schema import Field

MAX_INTEGER = 2**53 - 1
"""Largest integer that JSON readers agree on; larger ones are sent as strings."""

_INTEGERS = frozenset({int, np.int32, np.int64})
_NUMBERS = _INTEGERS | {float, np.float32, np.float64, type(None)}


@dataclass(frozen=True, slots=True, eq=False)
class TextColumn:
    """Cells of one column as UTF-8 in one buffer, like an Arrow string array; an empty cell is missing.

    Cell i is `data[offsets[i]:offsets[i + 1]]`: `data` uint8, `offsets` int64 (n+1,). For a multi-valued
    field instance i holds the cells `bag_offsets[i]` to `bag_offsets[i + 1] - 1`, int64 (B+1,).
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    bag_offsets: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, cells: "Sequence[bytes | str] | TextColumn") -> "TextColumn":
        """Return the column of these cells, one after another."""
        if isinstance(cells, TextColumn):
            return cells
        encoded = [cell if isinstance(cell, bytes) else cell.encode() for cell in cells]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def starts(self) -> NDArray[np.int64]:
        """First byte of each cell."""
        return self.offsets[:-1]

    @property
    def ends(self) -> NDArray[np.int64]:
        """Byte behind each cell."""
        return self.offsets[1:]

    def key(self, cell: int) -> bytes:
        """Bytes of one cell."""
        return self.data[self.offsets[cell] : self.offsets[cell + 1]].tobytes()


Column = Sequence[Any] | NDArray[Any] | TextColumn
"""One value per instance: a list (of lists for a multi-valued field), an array, or text cells."""


def split_bags(field: Field, column: Column) -> tuple[Column, NDArray[np.int64]]:
    """Return the cells of a multi-valued column and int64 (B+1,) offsets; an empty bag gets a missing cell.

    Raises BadValue for an instance that is not a list.
    """
    if isinstance(column, TextColumn):
        return _split_text_bags(field, column)
    cells: list[Any] = []
    offsets = [0]
    for row, bag in enumerate(column):
        if bag is None or (isinstance(bag, list | tuple) and not bag):
            cells.append(None)
        elif isinstance(bag, list | tuple):
            cells.extend(bag)
        else:
            raise BadValue(field.name, f"a multi-valued field takes a list, not {_kind(bag)}", row, bag)
        offsets.append(len(cells))
    return cells, np.array(offsets, np.int64)


def key_texts(field: Field, cells: Sequence[Any], bag_offsets: NDArray[np.int64] | None = None) -> list[str]:
    """Return the key of each cell of a categorical field: strings, integers in decimal, None as "".

    Raises BadValue for anything else and MissingField when a required field has no value; `bag_offsets` turns
    the position of a cell into its row.
    """
    texts = list(cells)
    if not set(map(type, cells)) <= {str}:
        for position, cell in enumerate(cells):
            if cell is None:
                texts[position] = ""
            elif type(cell) in _INTEGERS and -MAX_INTEGER <= cell <= MAX_INTEGER:
                texts[position] = str(cell)
            elif not isinstance(cell, str):
                raise BadValue(field.name, _not_a_category(cell), row_of(position, bag_offsets), cell)
    if field.required and "" in texts:
        raise missing_field(field, row_of(texts.index(""), bag_offsets))
    return texts


def key_integers(field: Field, values: NDArray[Any]) -> NDArray[np.int64]:
    """Return an integer array as the int64 keys of a categorical field. Raises BadValue beyond ±(2^53-1)."""
    outside = (values > MAX_INTEGER) | (values < -MAX_INTEGER)
    if outside.any():
        row = int(np.argmax(outside))
        raise BadValue(field.name, _not_a_category(int(values[row])), row, int(values[row]))
    return np.ascontiguousarray(values, np.int64)


def numbers(field: Field, column: Column, log: bool) -> NDArray[np.float64]:
    """Return the values of a numeric field, float64 (n,), NaN where missing.

    Lists hold finite numbers or None, arrays finite numbers. With `log`, text cells are parsed (empty or
    NaN is missing) and NaN in an array is missing. Raises BadValue for anything else and MissingField when
    a required field has no value.
    """
    if isinstance(column, TextColumn):
        if not log:
            raise BadValue(field.name, "a numeric field takes numbers, not text")
        result = _parse_numbers(field, column)
    elif isinstance(column, np.ndarray):
        result = _array_numbers(field, column, log)
    else:
        result = _list_numbers(field, column)
    if field.required and np.isnan(result).any():
        raise missing_field(field, int(np.argmax(np.isnan(result))))
    return result


def bucket_log_column(field: Field, column: Column) -> NDArray[np.int64]:
    """Return the bucket of each cell of a numeric field of a click log, int64 (n,); MISSING for no value.

    The key of a bucket is its decimal text, that of MISSING is empty: what counting for a vocabulary needs.
    Raises BadValue, MissingField.
    """
    if field.bucketing is None:
        raise ValueError(f"field '{field.name}' is not numeric")
    return bucket_numbers(numbers(field, column, log=True), field.bucketing)


def row_of(cell: int, bag_offsets: NDArray[np.int64] | None) -> int:
    """Row of a cell: itself, or the bag that holds it."""
    return cell if bag_offsets is None else int(np.searchsorted(bag_offsets, cell, side="right")) - 1


def missing_field(field: Field, row: int | None) -> MissingField:
    """Return the error of a required field without a value."""
    return MissingField(field.name, "the field is required and has no value", row)


def _split_text_bags(field: Field, column: TextColumn) -> tuple[TextColumn, NDArray[np.int64]]:
    bags = column.bag_offsets
    if bags is None:
        raise BadValue(field.name, "a multi-valued field needs bag_offsets beside its text cells")
    if len(bags) == 0 or bags[0] != 0 or bags[-1] != len(column) or (np.diff(bags) < 0).any():
        raise BadValue(field.name, f"bag_offsets must rise from 0 to {len(column)}, the number of cells")
    empty = np.diff(bags) == 0
    if not empty.any():
        return column, bags
    offsets = np.insert(column.offsets, bags[:-1][empty], column.offsets[bags[:-1][empty]])
    shift = np.concatenate([[0], np.cumsum(empty)])
    return TextColumn(column.data, offsets), bags + shift


def _list_numbers(field: Field, cells: Sequence[Any]) -> NDArray[np.float64]:
    if set(map(type, cells)) <= _NUMBERS:
        try:
            values = np.array(cells, np.float64)
        except OverflowError:
            values = np.full(len(cells), np.nan)
        if np.count_nonzero(np.isfinite(values)) + list(cells).count(None) == len(cells):
            return values
    row = next(row for row, cell in enumerate(cells) if cell is not None and not _is_finite_number(cell))
    raise BadValue(
        field.name, f"a numeric field takes a finite number, not {_kind(cells[row])}", row, cells[row]
    )


def _array_numbers(field: Field, column: NDArray[Any], log: bool) -> NDArray[np.float64]:
    if column.dtype.kind not in "iuf":
        raise BadValue(field.name, f"a numeric field takes numbers, not an array of {column.dtype}")
    values = column.astype(np.float64)
    bad = np.isinf(values) if log else ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        raise BadValue(field.name, "a numeric field takes a finite number", row, float(values[row]))
    return values


def _parse_numbers(field: Field, column: TextColumn) -> NDArray[np.float64]:
    values = np.full(len(column), np.nan)
    for row in np.flatnonzero(column.ends > column.starts):
        cell = column.key(int(row))
        try:
            values[row] = float(cell)
        except ValueError:
            values[row] = np.inf
        if np.isinf(values[row]):
            raise BadValue(field.name, f"{cell!r} is not a finite number", int(row), cell)
    return values


def _is_finite_number(value: Any) -> bool:
    try:
        return type(value) in _NUMBERS and math.isfinite(value)
    except OverflowError:
        return False


def _not_a_category(value: Any) -> str:
    if type(value) in _INTEGERS:
        return "an integer beyond ±(2^53-1) is sent as a string"
    return f"a categorical value is a string or an integer, not {_kind(value)}"


def _kind(value: Any) -> str:
    """The type of a value in the words of JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN or an infinity"
    names = {
        bool: "a boolean",
        float: "a fraction",
        int: "a number too large",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)
