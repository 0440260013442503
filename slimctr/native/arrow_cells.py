"""Signature and checked numpy wrapper of the kernel that reads keys out of Arrow columns (`arrow.c`)."""

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.native.keys import KeyTable
from slimctr.native.library import address, library

NUMBERS = (
    "field",
    "type",
    "index_type",
    "required",
    "first",
    "cells",
    "entries",
    "out_start",
    "out_stride",
    "row",
)
PLACES = ("nulls", "indices", "entry_nulls", "offsets", "data")
CELLS = np.dtype([(name, np.int64) for name in NUMBERS] + [(name, np.int64, 2) for name in PLACES])
"""Cells of one column; the kernel ignores `row`, a place is first byte and bytes."""

BAD_RUN, OUTSIDE, BAD_INDEX, BAD_OFFSETS, NOT_UTF8, TOO_LARGE, NO_VALUE, TOO_MUCH = range(1, 9)

_OK = -1


class Refusal(ctypes.Structure):
    """Why a record was refused, and at which cell of its column (-1: the record itself)."""

    _fields_ = (("reason", ctypes.c_int64), ("cell", ctypes.c_int64))


@cache
def _encode() -> Any:
    encode: Any = library().slimctr_encode_arrow
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    encode.argtypes = [
        *(pointer, ctypes.c_char_p, count, pointer, count, pointer, count, pointer, pointer, count, pointer)
    ]
    encode.restype = ctypes.c_int64
    return encode


def encode_cells(
    table: KeyTable,
    data: bytes,
    cells: NDArray[np.void],
    out: NDArray[np.int32],
    counts: NDArray[np.int64],
    max_text_bytes: int,
) -> tuple[int, Refusal] | None:
    """Write the row of every cell to `out` and add to `counts` (2, F): missing, unlisted.

    Returns the number of the first record of `cells` that is refused, and why; None when all was read.
    """
    if cells.dtype != CELLS or out.dtype != np.int32 or counts.dtype != np.int64:
        raise TypeError(
            f"the kernel needs CELLS, int32 and int64, not {cells.dtype}, {out.dtype}, {counts.dtype}"
        )
    if (
        not all(array.flags.c_contiguous for array in (cells, out, counts))
        or out.ndim != 1
        or len(counts) != 2
    ):
        raise ValueError("the kernel needs contiguous arrays, rows (n,) and counts (2, F)")
    if counts.shape[1] != table.fields:
        raise ValueError(f"the kernel needs counts of {table.fields} fields, not {counts.shape[1]}")
    why = Refusal()
    missing = address(counts)
    status = _encode()(
        *(table.address, data, len(data), address(cells), len(cells), address(out), len(out)),
        *(missing, missing + 8 * table.fields, max_text_bytes, ctypes.addressof(why)),
    )
    return None if status == _OK else (status, why)
