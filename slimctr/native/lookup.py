"""Looks up the rows of all tables of an artifact in one C call, reading the mapped codes in place."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from model_store.codecs import (
    CODECS,
    divided_rows,
    index_bytes,
    mask_bytes,
    packed_record_bytes,
    record_bytes,
)
from model_store.pacing import STEPS_PER_PAUSE, pause
from slimctr.native.library import address, library

Int32s = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

Codec = Literal[
    "float32",
    "float16",
    "int8_row",
    "planes",
    "stream",
    "quotient_remainder",
    "masked_float32",
    "masked_float16",
]
_CODECS: dict[Codec, int] = {
    **{"float32": 0, "float16": 1, "int8_row": 2, "planes": 3, "stream": 4},
    **{"quotient_remainder": 5, "masked_float32": 6, "masked_float16": 7},
}
_POOLINGS = {"single": 0, "mean": 1, "sum": 2}
# The kernel counts columns, and the two bytes of each half-precision number, in 32 bits.
_MAX_WIDTH = 2**30


@dataclass(frozen=True)
class RowSegment:
    """Rows `start_row ..` of one bit width; records lie back to back from `byte_base` of the codes."""

    start_row: int
    rows: int
    byte_base: int
    record_bytes: int
    bits: int = 0


@dataclass(frozen=True)
class StoredTable:
    """One table as the kernel reads it.

    `codes` are the bytes of its records, uint8 (n,). `scales` and `minimums`, float32 (1, dim) or (segments, dim),
    are given for a packed table whose scale is per column, of all segments or of each. `source` is a column of the
    ids, or a bag's index when pooled. The codes of a quotient_remainder table are the float32 rows of its
    quotients, then those of its remainders: row r adds or multiplies rows r // divisor and r % divisor. The codes of a
    masked table are its index (`slimctr.native.masked`) and its values; its one segment has records of one mask.
    """

    codec: Codec
    codes: npt.NDArray[np.uint8]
    segments: tuple[RowSegment, ...]
    rows: int
    dim: int
    column: int
    source: int
    pooling: Literal["single", "mean", "sum"] = "single"
    scales: Floats | None = None
    minimums: Floats | None = None
    divisor: int = 0
    multiplies: bool = False


class _Segment(ctypes.Structure):
    _fields_ = (
        ("records", ctypes.c_void_p),
        ("start_row", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("record_bytes", ctypes.c_int64),
        ("bits", ctypes.c_int32),
        ("scale_row", ctypes.c_int32),
    )


class _Table(ctypes.Structure):
    _fields_ = (
        ("segments", ctypes.c_void_p),
        ("end", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("minimums", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("segment_count", ctypes.c_int32),
        ("codec", ctypes.c_int32),
        ("dim", ctypes.c_int32),
        ("column", ctypes.c_int32),
        ("source", ctypes.c_int32),
        ("pooling", ctypes.c_int32),
        ("divisor", ctypes.c_int32),
        ("multiplies", ctypes.c_int32),
    )


class _Bag(ctypes.Structure):
    _fields_ = (("values", ctypes.c_void_p), ("offsets", ctypes.c_void_p), ("count", ctypes.c_int64))


class TableLookup:
    """The tables of one artifact, described once; several threads may call at the same time."""

    def __init__(self, tables: Sequence[StoredTable], width: int) -> None:
        """Check and describe the tables, which fill `width` columns. Raises ValueError for what does not fit."""
        self._width = width
        self._singles = 1 + max((t.source for t in tables if t.pooling == "single"), default=-1)
        self._bags = 1 + max((t.source for t in tables if t.pooling != "single"), default=-1)
        # the descriptors hold bare addresses: these references keep what they point to alive
        self._segments = []
        self._arrays = [(table.codes, table.scales, table.minimums) for table in tables]
        described = []
        for number, table in enumerate(tables):
            if number % STEPS_PER_PAUSE == 0:
                pause()
            _check(table, width)
            self._segments.append(_segments(table))
            described.append(_describe(table, self._segments[-1]))
        self._tables = (_Table * len(tables))(*described)
        self._call: Any = library().slimctr_lookup
        self._call.restype = ctypes.c_int32
        self._call.argtypes = (
            *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64),
            *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64),
        )

    def __call__(self, ids: Int32s, bags: Sequence[tuple[Int32s, Int32s]]) -> Floats:
        """Return the stored matrix, float32 (B, W).

        `ids` is int32 (B, S); each bag is (values (n,), offsets (B+1,)). An id outside its table reads row 0;
        an empty bag reads as zeros. Raises ValueError for arrays of another type or shape and for
        offsets that do not rise from 0 to n.
        """
        batch, singles = ids.shape
        if ids.dtype != np.int32 or singles < self._singles or len(bags) < self._bags:
            raise ValueError(
                f"the tables need int32 ids (B, {self._singles}) and {self._bags} bags; "
                f"got {ids.dtype} {ids.shape} and {len(bags)} bags"
            )
        ids = np.ascontiguousarray(ids)
        kept = [_contiguous_bag(values, offsets, batch) for values, offsets in bags]
        described = (_Bag * len(kept))(*(_Bag(v.ctypes.data, o.ctypes.data, v.size) for v, o in kept))
        out = np.empty((batch, self._width), np.float32)
        malformed = self._call(
            *(self._tables, len(self._tables), address(ids), batch, singles),
            *(described, len(kept), address(out), self._width),
        )
        if malformed:
            raise ValueError(f"the offsets of bag {malformed - 1} do not rise from 0 to its number of values")
        return out


def widen(halves: npt.NDArray[np.float16]) -> Floats:
    """Return `halves` (n,) in float32 through the kernels' own conversion."""
    halves = np.ascontiguousarray(halves)
    out = np.empty(halves.shape, np.float32)
    call: Any = library().slimctr_widen
    call.restype = None
    call.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
    call(halves.ctypes.data, halves.size, out.ctypes.data)
    return out


def _check(table: StoredTable, width: int) -> None:
    """Raise ValueError unless every address that the kernel can form lies inside the arrays of `table`."""
    if table.codes.dtype != np.uint8 or table.codes.ndim != 1 or not table.codes.flags.c_contiguous:
        raise ValueError("codes must be contiguous uint8 (n,)")
    if not 1 <= table.rows < 2**31:
        raise ValueError(f"{table.rows} rows; a table has 1 to 2^31 - 1")
    if width > _MAX_WIDTH:
        raise ValueError(f"a matrix {width} columns wide; at most {_MAX_WIDTH} are read")
    if table.column < 0 or table.dim < 1 or table.column + table.dim > width:
        raise ValueError(f"columns {table.column}..{table.column + table.dim} do not lie in 0..{width}")
    if table.source < 0:
        raise ValueError("the source column is negative")
    if (table.codec == "quotient_remainder") != (table.divisor > 0):
        raise ValueError(f"a divisor of {table.divisor} with codec {table.codec}")
    if table.divisor:
        stored = divided_rows(table.rows, table.divisor)
        whole = RowSegment(0, table.rows, 0, record_bytes("quotient_remainder", table.dim))
        if table.segments != (whole,) or table.codes.size != stored * whole.record_bytes:
            raise ValueError(f"quotients and remainders take {stored} rows of {whole.record_bytes} bytes")
        return
    if table.codec in ("masked_float32", "masked_float16"):
        value_bytes = (CODECS[table.codec].value_bits or 0) // 8
        whole = RowSegment(0, table.rows, 0, mask_bytes(table.dim))
        values = table.codes.size - index_bytes(table.rows, table.dim)
        if table.segments != (whole,) or values < 0 or values % value_bytes:
            raise ValueError(f"{values} bytes after the masks; a value takes {value_bytes}")
        return
    next_row = 0
    for segment in table.segments:
        if segment.start_row != next_row or segment.rows < 0:
            raise ValueError(f"the segment of row {segment.start_row} should start at row {next_row}")
        if segment.record_bytes < _least_record_bytes(table, segment.bits):
            raise ValueError(f"records of {segment.record_bytes} bytes are too short for {segment.bits} bits")
        if (
            segment.byte_base < 0
            or segment.byte_base + segment.rows * segment.record_bytes > table.codes.size
        ):
            raise ValueError(f"the segment of row {segment.start_row} ends outside the codes")
        next_row += segment.rows
    if next_row != table.rows:
        raise ValueError(f"the segments hold {next_row} of {table.rows} rows")
    if (table.scales is None) != (table.minimums is None):
        raise ValueError("scales and minimums come together")
    shapes = ((1, table.dim), (len(table.segments), table.dim))
    for floats in (table.scales, table.minimums):
        if floats is not None and (
            floats.dtype != np.float32 or floats.shape not in shapes or not floats.flags.c_contiguous
        ):
            raise ValueError(
                f"scales and minimums must be contiguous float32 {' or '.join(map(str, shapes))}"
            )
    if table.scales is not None and table.minimums is not None and table.scales.shape != table.minimums.shape:
        raise ValueError("scales and minimums differ in shape")


def _least_record_bytes(table: StoredTable, bits: int) -> int:
    if table.codec == "planes" or table.codec == "stream":
        if not 0 <= bits <= 8:
            raise ValueError(f"{bits} bits; codes have 0 to 8")
        return packed_record_bytes(table.codec, bits, table.dim, table.scales is None)
    row_scale = 0 if table.scales is None else CODECS[table.codec].row_scale_bytes
    return record_bytes(table.codec, table.dim) - row_scale


def _segments(table: StoredTable) -> "ctypes.Array[_Segment]":
    base = table.codes.ctypes.data
    each_its_own = table.scales is not None and len(table.scales) > 1
    return (_Segment * len(table.segments))(
        *(
            _Segment(base + s.byte_base, s.start_row, s.rows, s.record_bytes, s.bits, place * each_its_own)
            for place, s in enumerate(table.segments)
        )
    )


def _describe(table: StoredTable, segments: "ctypes.Array[_Segment]") -> _Table:
    return _Table(
        segments=ctypes.addressof(segments),
        end=table.codes.ctypes.data + table.codes.size,
        scales=None if table.scales is None else table.scales.ctypes.data,
        minimums=None if table.minimums is None else table.minimums.ctypes.data,
        rows=table.rows,
        segment_count=len(segments),
        codec=_CODECS[table.codec],
        dim=table.dim,
        column=table.column,
        source=table.source,
        pooling=_POOLINGS[table.pooling],
        divisor=table.divisor,
        multiplies=table.multiplies,
    )


def _contiguous_bag(values: Int32s, offsets: Int32s, batch: int) -> tuple[Int32s, Int32s]:
    if (
        values.dtype != np.int32
        or offsets.dtype != np.int32
        or values.ndim != 1
        or offsets.shape != (batch + 1,)
    ):
        raise ValueError(f"a bag needs int32 values (n,) and int32 offsets ({batch + 1},)")
    return np.ascontiguousarray(values), np.ascontiguousarray(offsets)
