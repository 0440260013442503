"""Signatures and checked numpy wrappers of the kernels that split delimited text (`delimited.c`)."""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.native.library import address, library

CELLS, TEXT_BEHIND_QUOTE, OPEN_QUOTE = 1, 2, 3
MAX_BYTES = 2**31 - 1


class _Progress(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("consumed", "rows", "faults", "lines"))


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Whole records at the start of a text.

    `spans` int32 (n, columns, 2): first byte of a cell and the byte behind it, as its complement where quotes in the
    text are doubled. `lines` int64 (n,): line ends before each row. `faults` int64 (m, 4), records that are no rows:
    line ends before, reason, cells, lines. `consumed` bytes and `passed` line ends belong to all of these.
    `is_too_long`: the record behind them has no line end within the limit.
    """

    spans: NDArray[np.int32]
    lines: NDArray[np.int64]
    faults: NDArray[np.int64]
    consumed: int
    passed: int
    is_too_long: bool


@cache
def _kernels() -> tuple[Any, Any]:
    kernels = library()
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    split, gather = kernels.slimctr_split_records, kernels.slimctr_gather_cells
    split.argtypes = [pointer, *(count,) * 8, *(pointer,) * 4]
    gather.argtypes = [pointer, pointer, count, count, pointer, pointer]
    split.restype = gather.restype = count
    return split, gather


def split_records(
    data: NDArray[np.uint8],
    columns: int,
    *,
    delimiter: str,
    quoted: bool,
    is_final: bool,
    limit: int,
    room: int,
) -> Records:
    """Split up to `room` records of `columns` cells off the start of `data` (n,); `is_final`: no text follows.

    A record that may go on behind `data` is left for the next call. Raises ValueError for data beyond MAX_BYTES.
    """
    if data.dtype != np.uint8 or data.ndim != 1 or not data.flags.c_contiguous or len(data) > MAX_BYTES:
        raise ValueError(f"the kernel needs up to {MAX_BYTES} contiguous bytes")
    if columns < 1 or room < 1 or not delimiter.isascii():
        raise ValueError("the kernel needs a column, room for a record and an ASCII delimiter")
    rows = min(room, len(data) // columns + 1)
    spans = np.empty((rows, columns, 2), np.int32)
    lines = np.empty(rows, np.int64)
    faults = np.empty((min(room, len(data) + 1), 4), np.int64)
    found = _Progress()
    status = _kernels()[0](
        *(address(data), len(data), is_final, ord(delimiter), quoted, columns, limit, rows, len(faults)),
        *(address(spans), address(lines), address(faults), ctypes.addressof(found)),
    )
    return Records(
        spans[: found.rows],
        lines[: found.rows],
        faults[: found.faults],
        found.consumed,
        found.lines,
        status != 0,
    )


def gather_cells(
    data: NDArray[np.uint8], records: Records, column: int
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return the cells of a column of the records of `data` as text (n,) and offsets int32 (rows + 1,)."""
    spans = records.spans[:, column]
    rows = len(spans)
    stop = spans[:, 1]
    room = int((np.where(stop < 0, ~stop, stop) - spans[:, 0]).sum(dtype=np.int64))
    text = np.empty(room, np.uint8)
    offsets = np.zeros(rows + 1, np.int32)
    if rows:
        first = address(records.spans) + 8 * column
        written = _kernels()[1](
            address(data), first, records.spans.shape[1], rows, address(text), address(offsets)
        )
        text = text[:written]
    return text, offsets
