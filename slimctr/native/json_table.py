"""Finds the values of a JSON table in its text; `json.c` says which tables it reads."""

import ctypes
import json
import threading
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.native.json_pieces import PIECE_BYTES, Path, load_in_pieces
from slimctr.native.library import address, library

_OK = -1
_MAX_COLUMNS = 1024
_MAX_NAME_BYTES = 32768
_NULL = b"null"
_LARGE = 2**18


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

    @property
    def is_large(self) -> bool:
        """Whether its values are so many that they should be made and taken down in pieces."""
        return len(self.text) > _LARGE

    def fields(self) -> list[str]:
        """Return the names of the columns."""
        return self.names.decode().split('"')[:-1]

    def values(self, column: int) -> list[Any] | None:
        """Return a column as Python values; None for lists of lists in a large text, which no field takes.

        They may be millions: who reads them takes care to take them down in pieces.
        """
        start = column * self.column_stride
        picked = self.spans[start : start + self.rows * self.row_stride : self.row_stride].tolist()
        values: list[Any] = []
        tokens: list[bytes] = []
        room = PIECE_BYTES
        for first, end in picked:
            room -= end - first + 1
            if room < 0:  # other threads get their turn between two pieces
                values += _read(tokens)
                tokens, room = [], PIECE_BYTES
            if self.is_large and self.text[first] == 0x5B and _is_nested(self.text, first, end):
                return None
            if end - first > PIECE_BYTES:
                values.append(load_in_pieces(self._token(first, end), _load))
            else:
                tokens.append(self._token(first, end))
        values += _read(tokens)
        return values

    def _token(self, start: int, end: int) -> bytes:
        if end == 0:
            return _NULL
        return self.text[start - 1 : end + 1] if self.text[start - 1] == 0x22 else self.text[start:end]


def _is_nested(text: bytes, first: int, end: int) -> bool:
    return text.find(b"[", first + 1, end) > 0 or text.find(b"{", first + 1, end) > 0


def _load(text: bytes, path: Path, before: int) -> Any:
    return json.loads(text)


def _read(tokens: list[bytes]) -> list[Any]:
    values: list[Any] = json.loads(b"[" + b",".join(tokens) + b"]")
    return values


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
