"""Signatures and checked numpy wrappers of the key kernels; `keys.h` is normative for hash and probe."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from slimctr.native.json_table import JsonTable
from slimctr.native.library import address, library

MISSING = int(np.iinfo(np.int64).min)
"""The integer that stands for a missing value."""

RUN = np.dtype(
    [(name, np.int64) for name in ("field", "keys", "out_start", "out_stride", "missing", "unlisted")]
)
"""Consecutive keys of one field: key j writes `out[out_start + j * out_stride]`; the last two are results."""


_OK, _BAD_RUN = -1, -2
_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)


class _KeyTable(ctypes.Structure):
    _fields_ = (
        ("fields", ctypes.c_int64),
        ("seeds", ctypes.c_void_p),
        ("hash_rows", ctypes.c_void_p),
        ("buckets", ctypes.c_void_p),
        ("directory", ctypes.c_void_p),
        ("entries", ctypes.c_void_p),
    )


@cache
def _kernels() -> ctypes.CDLL:
    kernels = library()
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    text: list[Any] = [pointer, count, pointer, pointer, count]
    runs: list[Any] = [pointer, count, pointer, count]
    kernels.slimctr_hash_text.argtypes = [*text, ctypes.c_uint64, pointer]
    kernels.slimctr_encode_text.argtypes = [pointer, *text, *runs]
    kernels.slimctr_encode_integers.argtypes = [pointer, pointer, count, *runs]
    kernels.slimctr_encode_spans.argtypes = [
        *(pointer, ctypes.c_char_p, count, pointer, count, count, count, count, pointer, count),
        *(pointer, count, count, pointer, pointer),
    ]
    for name in ("hash_text", "encode_text", "encode_integers", "encode_spans"):
        getattr(kernels, f"slimctr_{name}").restype = ctypes.c_int64
    return kernels


class KeyTable:
    """The arrays of a vocabulary, checked once and kept alive while kernels read them.

    `seeds` uint64 (F,), `hash_rows` int64 (F,) (0 = listed field), `buckets` int64 (F+1,) from 0,
    `directory` uint32 (buckets+1,), `entries` uint32 (n, 2).
    The caller vouches for the contents: `buckets` and `directory` never decrease and `directory` ends at n.
    """

    def __init__(
        self,
        seeds: NDArray[np.uint64],
        hash_rows: NDArray[np.int64],
        buckets: NDArray[np.int64],
        directory: NDArray[np.uint32],
        entries: NDArray[np.uint32],
    ) -> None:
        self.fields = fields = len(seeds)
        arrays: tuple[NDArray[Any], ...] = (seeds, hash_rows, buckets, directory, entries)
        dtypes: tuple[DTypeLike, ...] = (np.uint64, np.int64, np.int64, np.uint32, np.uint32)
        lengths = (fields, fields, fields + 1, int(buckets[-1]) + 1, int(directory[-1]))
        self._struct = _KeyTable(fields, *map(_address, arrays, dtypes, lengths))
        self._arrays = arrays
        self.address = ctypes.addressof(self._struct)


def hash_text(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], seed: int = 0
) -> NDArray[np.uint64]:
    """Hash keys `data[starts[i]:ends[i]]` to uint64 (n,). Raises ValueError when a key leaves `data`."""
    keys = len(starts)
    hashes = np.empty(keys, np.uint64)
    status = _kernels().slimctr_hash_text(*_text(data, starts, ends), seed, _address(hashes, np.uint64, keys))
    _refuse(status)
    return hashes


def encode_text(
    table: KeyTable,
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    runs: NDArray[np.void],
    out: NDArray[np.int32],
) -> None:
    """Write the row of every text key to `out` and the counts to `runs`.

    Raises ValueError when a key leaves `data` or a run leaves the keys, the fields or `out`.
    """
    _refuse(_kernels().slimctr_encode_text(table.address, *_text(data, starts, ends), *_places(runs, out)))


def encode_integers(
    table: KeyTable, values: NDArray[np.int64], runs: NDArray[np.void], out: NDArray[np.int32]
) -> None:
    """Write the row of every integer key (MISSING = the empty key) to `out` and the counts to `runs`.

    Raises ValueError when a run leaves the values, the fields or `out`.
    """
    place = _address(values, np.int64, len(values))
    _refuse(_kernels().slimctr_encode_integers(table.address, place, len(values), *_places(runs, out)))


class SpanColumns:
    """Which columns of a JSON table hold text keys of which field, and where their rows go."""

    def __init__(self, columns: Sequence[tuple[int, int, int]]) -> None:
        """Take (field, column of the table, column of the ids) of each."""
        self._array = np.array(columns, np.int64).reshape(-1, 3)
        self.address, self.count = self._array.ctypes.data, len(columns)


def encode_spans(
    table: KeyTable, keys: JsonTable, columns: SpanColumns, ids: NDArray[np.int32], counts: NDArray[np.int64]
) -> None:
    """Write the row of every key of `columns` to `ids` (B, S), and its counts to `counts` (2, F): missing, unlisted.

    Raises ValueError when a span leaves the text or a column leaves the spans, the fields or the ids.
    """
    rows, singles = ids.shape
    fields = counts.shape[1]
    place = _address(counts, _INT64, 2)
    _refuse(
        _kernels().slimctr_encode_spans(
            *(table.address, keys.text, len(keys.text), _address(keys.spans, _INT32, len(keys.spans))),
            *(len(keys.spans), keys.column_stride, keys.row_stride, rows, columns.address, columns.count),
            *(_address(ids, _INT32, rows), singles, ids.size, place, place + 8 * fields),
        )
    )


def _text(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[int, int, int, int, int]:
    keys = len(starts)
    return (
        _address(data, np.uint8, len(data)),
        len(data),
        _address(starts, np.int64, keys),
        _address(ends, np.int64, keys),
        keys,
    )


def _places(runs: NDArray[np.void], out: NDArray[np.int32]) -> tuple[int, int, int, int]:
    if not (runs.flags.writeable and out.flags.writeable):
        raise TypeError("the kernel writes to runs and rows: both must be writable")
    return _address(runs, RUN, len(runs)), len(runs), _address(out, np.int32, len(out)), len(out)


def _address(array: NDArray[Any], dtype: DTypeLike, length: int) -> int:
    """Address of the first element; raises TypeError or ValueError unless it is what the kernel reads."""
    if (array.dtype is not dtype and array.dtype != dtype) or not array.flags.c_contiguous:
        raise TypeError(
            f"the kernel needs contiguous {np.dtype(dtype)}, not {array.dtype} with strides {array.strides}"
        )
    if len(array) != length:
        raise ValueError(f"the kernel needs {length} elements, not {len(array)}")
    return address(array)


def _refuse(status: int) -> None:
    if status == _BAD_RUN:
        raise ValueError(
            "the runs do not fit: they must cover every key, name known fields and stay inside the rows"
        )
    if status != _OK:
        raise ValueError(
            f"key {status} lies outside its text buffer: offsets must not decrease or pass the end"
        )
