"""Finds the values of a JSON table in its text; `json.c` says which tables it reads."""

import ctypes
import json
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.native.library import address, library

_OK = -1
_MAX_COLUMNS = 1024
_MAX_NAME_BYTES = 32768
_NULL = b"null"


class _Found(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("member_start", "member_end", "by_rows", "rows", "columns"),
            *("name_bytes", "other_columns"),
        )
    )


class _Scratch(threading.local):
    """What one scan writes besides the spans; each thread has its own."""

    def __init__(self) -> None:
        self.found = _Found()
        self.names = ctypes.create_string_buffer(_MAX_NAME_BYTES)
        self.other = ctypes.create_string_buffer(_MAX_COLUMNS)
        self.places = tuple(map(ctypes.addressof, (self.found, self.names, self.other)))


_scratch = _Scratch()


@cache
def _scan() -> Any:
    scan: Any = library().slimctr_scan_json
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    scan.argtypes = [ctypes.c_char_p, count, pointer, pointer, pointer, pointer, count]
    scan.restype = ctypes.c_int64
    return scan


@dataclass(slots=True, eq=False)
class JsonTable:
    """The columns of a JSON table of `rows` rows.

    Value of row r, column c: bytes `spans[c * column_stride + r * row_stride]` (start, end) of `text`, a string
    without its quotes; null and absent are (0, 0). `names` has a quote behind each name. `other` are the columns that
    hold more than strings, integers and null. `member` are the bytes of the table itself in the text.
    """

    text: bytes
    names: bytes
    rows: int
    spans: NDArray[np.int32]
    column_stride: int
    row_stride: int
    other: frozenset[int]
    member: tuple[int, int]

    def fields(self) -> list[str]:
        """Return the names of the columns."""
        return self.names.decode().split('"')[:-1]

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
    # A value has a byte and a comma, in rows a name as well: there is room for values that are absent from their rows.
    capacity = len(text) // 2 + 1
    spans = np.empty((capacity, 2), np.int32)
    scratch = _scratch
    if _scan()(text, len(text), *scratch.places, address(spans), capacity) != _OK:
        return None
    found = scratch.found
    columns, rows = found.columns, found.rows
    return JsonTable(
        text=text,
        names=ctypes.string_at(scratch.names, found.name_bytes),
        rows=rows,
        spans=spans[: rows * columns],
        column_stride=1 if found.by_rows else rows,
        row_stride=columns if found.by_rows else 1,
        other=_others(ctypes.string_at(scratch.other, columns)) if found.other_columns else frozenset(),
        member=(found.member_start, found.member_end),
    )


def _others(flags: bytes) -> frozenset[int]:
    return frozenset(column for column, flag in enumerate(flags) if flag)
