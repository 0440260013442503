"""Turns one column of raw values into keys, text or integers, and refuses every value that is not one."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.errors import BadValue, MissingField
from slimctr.features.numeric import bucket_numbers
from slimctr.features.schema import Field
from slimctr.native.json_pieces import extend

MAX_INTEGER = 2**53 - 1
"""Largest integer that JSON readers agree on; larger ones are sent as strings."""

TOO_LARGE = "an integer beyond ±(2^53-1) is sent as a string"
CATEGORY = "a string, a whole number or a boolean"
FRACTION = "a number with a fraction, NaN or an infinity"
_JSON_NAMES = {
    bool: "a boolean",
    float: "a number with a fraction",
    int: "a number too large",
    str: "a string",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True, slots=True, eq=False)
class TextColumn:
    """Cells of one column as UTF-8 in one buffer, like an Arrow string array; an empty cell is missing.

    Cell i is `data[offsets[i]:offsets[i + 1]]`: `data` uint8, `offsets` int64 (n+1,). For a multi-valued
    field instance i holds the cells `bag_offsets[i]` to `bag_offsets[i + 1] - 1`, int64 (B+1,).
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    bag_offsets: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        offsets = [self.offsets] if self.bag_offsets is None else [self.offsets, self.bag_offsets]
        if self.data.dtype != np.uint8 or any(array.dtype != np.int64 for array in offsets):
            raise TypeError("a text column is uint8 data with int64 offsets")
        if self.data.ndim != 1 or any(array.ndim != 1 or len(array) == 0 for array in offsets):
            raise ValueError("data and offsets are vectors; offsets have one element more than cells or bags")

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


_OTHER_FORM = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+|-0|True|TRUE|False|FALSE")


def key_of_text(text: str) -> str:
    """Return the key of a text: what the kernels make of it (`hash_cell` in `native/keys.h`)."""
    found = _OTHER_FORM.fullmatch(text)
    if found is None:
        return text
    whole = found[1] or text.lower()
    return "0" if whole == "-0" else whole


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
            extend(cells, bag)
        else:
            raise BadValue(field.name, f"a multi-valued field takes a list, not {json_name(bag)}", row, bag)
        offsets.append(len(cells))
    return cells, np.array(offsets, np.int64)


def key_integers(field: Field, values: NDArray[Any]) -> NDArray[np.int64]:
    """Return an integer array as the int64 keys of a categorical field. Raises BadValue beyond ±(2^53-1)."""
    outside = (values > MAX_INTEGER) | (values < -MAX_INTEGER)
    if outside.any():
        row = int(np.argmax(outside))
        raise BadValue(field.name, TOO_LARGE, row, int(values[row]))
    return np.ascontiguousarray(values, np.int64)


def key_numbers(field: Field, values: NDArray[Any], log: bool) -> NDArray[np.float64]:
    """Return an array of a numeric field as float64 (n,), NaN where missing.

    NaN is missing in a `log` and refused elsewhere. Raises BadValue for what is not a finite number and
    MissingField when a required field has no value.
    """
    if values.dtype.kind not in "iuf":
        raise BadValue(field.name, f"a numeric field takes numbers, not an array of {values.dtype}")
    result = values.astype(np.float64)
    bad = np.isinf(result) if log else ~np.isfinite(result)
    if bad.any():
        row = int(np.argmax(bad))
        raise BadValue(field.name, "a numeric field takes a finite number", row, float(result[row]))
    if field.required and np.isnan(result).any():
        raise missing_field(field, int(np.argmax(np.isnan(result))))
    return result


def bucket_log_column(field: Field, values: NDArray[Any]) -> NDArray[np.int64]:
    """Return the bucket of each number of a numeric field of a click log, int64 (n,); NaN becomes MISSING.

    The key of a bucket is its decimal text, that of MISSING is empty: what counting for a vocabulary needs.
    Raises BadValue, MissingField.
    """
    if field.bucketing is None:
        raise ValueError(f"field '{field.name}' is not numeric")
    return bucket_numbers(key_numbers(field, values, log=True), field.bucketing)


def row_of(cell: int, bag_offsets: NDArray[np.int64] | None) -> int:
    """Row of a cell: itself, or the bag that holds it."""
    return cell if bag_offsets is None else int(np.searchsorted(bag_offsets, cell, side="right")) - 1


def missing_field(field: Field, row: int | None) -> MissingField:
    """Return the error of a required field without a value."""
    return MissingField(field.name, "the field is required and has no value", row)


def _split_text_bags(field: Field, column: TextColumn) -> tuple[TextColumn, NDArray[np.int64]]:
    bags = column.bag_offsets
    if bags is None:
        raise BadValue(field.name, "the text cells of a multi-valued field need bag_offsets")
    if bags[0] != 0 or bags[-1] != len(column) or (np.diff(bags) < 0).any():
        raise BadValue(field.name, f"bag_offsets must rise from 0 to {len(column)}, the number of cells")
    empty = np.diff(bags) == 0
    if not empty.any():
        return column, bags
    offsets = np.insert(column.offsets, bags[:-1][empty], column.offsets[bags[:-1][empty]])
    shift = np.concatenate([[0], np.cumsum(empty)])
    return TextColumn(column.data, offsets), bags + shift


def json_name(value: Any) -> str:
    """Return what a refused value is, in the words of JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN or an infinity"
    return _JSON_NAMES.get(type(value), type(value).__name__)
