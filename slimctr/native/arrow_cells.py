"""Signatures and checked numpy wrappers of the kernels that read keys out of Arrow columns (`arrow.c`)."""

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
    "views_start",
    "views",
)
PLACES = ("nulls", "indices", "entry_nulls", "offsets", "data")
CELLS = np.dtype([(name, np.int64) for name in NUMBERS] + [(name, np.int64, 2) for name in PLACES])
"""Cells of one column; the kernel ignores `row`, a place is first byte and bytes.

Kernels get records as rows of int64: numpy takes four times as long to say where an array of this type lies.
"""
WIDTH = CELLS.itemsize // 8

BAD_RUN, OUTSIDE, BAD_INDEX, BAD_OFFSETS, NOT_UTF8, TOO_LARGE, NO_VALUE, TOO_MUCH, FRACTION = range(1, 10)

_OK = -1


class Refusal(ctypes.Structure):
    """Why a record was refused, and at which cell of its column (-1: the record itself)."""

    _fields_ = (("reason", ctypes.c_int64), ("cell", ctypes.c_int64))


@cache
def _kernels() -> tuple[Any, Any]:
    kernels = library()
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    encode, cells = kernels.slimctr_encode_arrow, kernels.slimctr_arrow_cells
    encode.argtypes = [
        *(pointer, ctypes.c_char_p, count, pointer, count, pointer, count),
        *(pointer, count, pointer, pointer, count, pointer),
    ]
    cells.argtypes = [pointer, pointer, count, pointer, count, count, count, count, pointer]
    encode.restype = cells.restype = count
    return encode, cells


class CellPlan:
    """Records of single-valued fields as every batch of a schema has them.

    `cells` (n,) are CELLS without what a batch decides; `buffers` (n, 4) say which of its places hold nulls, indices,
    offsets and data, less than 0 is none.
    """

    def __init__(self, cells: NDArray[np.void], buffers: NDArray[np.int64]) -> None:
        if cells.dtype != CELLS or cells.ndim != 1 or buffers.dtype != np.int64:
            raise TypeError(f"a plan needs CELLS and int64, not {cells.dtype} and {buffers.dtype}")
        if buffers.shape != (len(cells), 4):
            raise ValueError(f"{len(cells)} records have no buffers {buffers.shape}")
        self._cells, self._buffers = np.ascontiguousarray(cells), np.ascontiguousarray(buffers)
        self._arguments = address(self._cells), address(self._buffers), len(cells)

    def records(self, places: NDArray[np.int64], cells: int, out_start: int, row: int) -> NDArray[np.int64]:
        """Return the records (n, WIDTH) of a batch: places (m, 2) of its buffers, so many cells of each from a row on.

        `out_start` is added to the first id of each.
        """
        if (
            places.dtype != np.int64
            or places.ndim != 2
            or places.shape[1] != 2
            or not places.flags.c_contiguous
        ):
            raise ValueError("places are contiguous pairs of int64")
        count = self._arguments[2]
        out = np.empty((count, WIDTH), np.int64)
        status = _kernels()[1](
            *self._arguments, address(places), len(places), cells, out_start, row, address(out)
        )
        if status != _OK:
            raise ValueError(f"record {status} reads a buffer that is not among {len(places)}")
        return out


def encode_cells(
    table: KeyTable,
    data: bytes,
    views: NDArray[np.int64],
    cells: NDArray[np.int64],
    out: NDArray[np.int32],
    counts: NDArray[np.int64],
    max_text_bytes: int,
) -> tuple[int, Refusal] | None:
    """Write the row of every cell of records (n, WIDTH) to `out` and add to `counts` (2, F): missing, unlisted.

    `views` (m, 2) are the places of the buffers that hold the texts of views.

    Returns the number of the first record of `cells` that is refused, and why; None when all was read.
    """
    if views.dtype != np.int64 or views.shape != (len(views), 2) or not views.flags.c_contiguous:
        raise ValueError("the buffers of views are contiguous pairs of int64")
    if cells.dtype != np.int64 or out.dtype != np.int32 or counts.dtype != np.int64:
        raise TypeError(
            f"the kernel needs int64, int32 and int64, not {cells.dtype}, {out.dtype}, {counts.dtype}"
        )
    if not (cells.flags.c_contiguous and out.flags.c_contiguous and counts.flags.c_contiguous):
        raise ValueError("the kernel needs contiguous arrays")
    if cells.shape != (len(cells), WIDTH) or out.ndim != 1 or counts.shape != (2, table.fields):
        raise ValueError(
            f"the kernel needs records (n, {WIDTH}), rows (n,) and counts (2, {table.fields}), "
            f"not {cells.shape}, {out.shape} and {counts.shape}"
        )
    why = Refusal()
    missing = address(counts)
    status = _kernels()[0](
        *(table.address, data, len(data), address(views), len(views)),
        *(address(cells), len(cells), address(out), len(out)),
        *(missing, missing + 8 * table.fields, max_text_bytes, ctypes.addressof(why)),
    )
    return None if status == _OK else (status, why)
