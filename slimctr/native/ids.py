"""Signature and checked numpy wrapper of the kernel that takes encoded ids (`ids.c`)."""

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.native.library import address, library

_LARGEST = np.uint64(np.iinfo(np.int64).max)


class IdLimits:
    """How many rows the table of each column has, and which row its missing value reads, (C,) each."""

    def __init__(self, rows: NDArray[np.int64], missing_rows: NDArray[np.integer[Any]]) -> None:
        if rows.shape != missing_rows.shape or rows.ndim != 1:
            raise ValueError(
                f"limits and missing rows are vectors of one length, not {rows.shape} and "
                f"{missing_rows.shape}"
            )
        self._arrays = np.array(rows, np.int64), np.array(missing_rows, np.int32)
        self.columns = len(rows)
        self.addresses = tuple(address(array) for array in self._arrays)


@cache
def _kernel() -> Any:
    kernel: Any = library().slimctr_known_rows
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    kernel.argtypes = [pointer, count, count, *(pointer,) * 5]
    kernel.restype = None
    return kernel


def known_rows(
    ids: NDArray[np.integer[Any]], limits: IdLimits
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the rows (B, C) of ids (B, C) and the counts (2, C) of missing and of unlisted ones.

    -1 is missing, any other id outside its table becomes row 0, which is the unlisted one. Raises ValueError for ids
    of another number of columns.
    """
    if ids.ndim != 2 or ids.shape[1] != limits.columns:
        raise ValueError(f"the kernel needs ids (rows, {limits.columns}), not {ids.shape}")
    if ids.dtype == np.uint64:
        ids = np.minimum(ids, _LARGEST)
    ids = np.ascontiguousarray(ids, "<i8")
    rows = np.empty(ids.shape, np.int32)
    counts = np.zeros((2, limits.columns), np.int64)
    if ids.size:
        place = address(counts)
        _kernel()(
            *(address(ids), len(ids), limits.columns, *limits.addresses),
            *(address(rows), place, place + 8 * limits.columns),
        )
    return rows, counts
