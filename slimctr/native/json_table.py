"""Finds the values of a JSON table in its text; `json.c` says which tables it reads."""

import ctypes
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.native.library import library

_OK = -1
_MAX_COLUMNS = 1024
_NULL = b"null"


class _Table(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("member_start", "member_end", "by_rows", "rows", "columns")
    )


@cache
def _scan() -> Any:
    scan: Any = library().slimctr_scan_json
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    scan.argtypes = [ctypes.c_char_p, count, pointer, pointer, pointer, pointer, count]
    scan.restype = ctypes.c_int64
    return scan


@dataclass(frozen=True, slots=True, eq=False)
class JsonTable:
    """The columns of a JSON table of `rows` rows.

    Value of row r, column c: bytes `spans[c * column_stride + r * row_stride]` (start, end) of `text`, a string
    without its quotes; null and absent are (0, 0). `other` names the columns that hold more than strings, integers
    and null. `member` are the bytes of the table itself in the text.
    """

    text: bytes
    names: tuple[bytes, ...]
    rows: int
    spans: NDArray[np.int32]
    column_stride: int
    row_stride: int
    other: frozenset[int]
    member: tuple[int, int]

    def values(self, column: int) -> list[Any]:
        """Return a column as Python values."""
        start = column * self.column_stride
        picked = self.spans[start : start + self.rows * self.row_stride : self.row_stride].tolist()
        values: list[Any] = json.loads(b"[" + b",".join([self._token(*span) for span in picked]) + b"]")
        return values

    def _token(self, start: int, end: int) -> bytes:
        if end == 0:
            return _NULL
        return self.text[start - 1 : end + 1] if self.text[start - 1] == 0x22 else self.text[start:end]


def scan_json(text: bytes) -> JsonTable | None:
    """Return the table in `text`, or None when only a general reader can tell what that is."""
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return None
    # Every value but the last has a comma behind it; as many again may be absent from their rows.
    capacity = 2 * text.count(b",") + 1
    spans = np.empty((capacity, 2), np.int32)
    names = np.empty((_MAX_COLUMNS, 2), np.int32)
    other = np.empty(_MAX_COLUMNS, np.uint8)
    table = _Table()
    status = _scan()(
        *(text, len(text), ctypes.addressof(table), names.ctypes.data),
        *(other.ctypes.data, spans.ctypes.data, capacity),
    )
    if status != _OK:
        return None
    columns, rows = table.columns, table.rows
    return JsonTable(
        text=text,
        names=tuple([text[start:end] for start, end in names[:columns].tolist()]),
        rows=rows,
        spans=spans[: rows * columns],
        column_stride=1 if table.by_rows else rows,
        row_stride=columns if table.by_rows else 1,
        other=frozenset(np.flatnonzero(other[:columns]).tolist()),
        member=(table.member_start, table.member_end),
    )
