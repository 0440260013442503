"""Tensor files: written by the safetensors library, read strictly as arrays over one read-only map."""

import errno
import mmap
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from model_store.errors import IntegrityError, MissingFile
from model_store.pacing import STEPS_PER_PAUSE, pause
from model_store.strict_json import parse_object

Array = npt.NDArray[Any]
_Entry = tuple[np.dtype[Any], tuple[int, ...], int, int]

MAX_HEADER_BYTES = 4 * 1024 * 1024
_LENGTH_BYTES = 8
_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("<u1"),
    "I8": np.dtype("<i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write `tensors` to `path` so that `map_tensors` accepts it: each starts at a multiple of its item size.

    Raises ValueError for a dtype that the format does not have, and for a name it reserves.
    """
    arrays = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES.values():
            raise ValueError(f"tensor '{name}' has dtype {tensor.dtype}; use one of {', '.join(_DTYPES)}")
        if name in ("", "__metadata__"):
            raise ValueError(f"'{name}' is not a tensor name")
        arrays[name] = np.asarray(tensor, order="C")
    save_file(arrays, path)


def map_tensors(path: Path) -> dict[str, Array]:
    """Return the tensors of `path` as read-only arrays over one memory map; nothing is copied.

    The map lives as long as one of the arrays. Raises IntegrityError for a file that is not exactly one
    well-formed tensor file (docs/artifact-format.md), for a link and for anything but a regular file.
    """
    with open_regular(path) as file:
        return map_open_tensors(file, path.name)


def map_open_tensors(file: BufferedReader, name: str) -> dict[str, Array]:
    """Do what `map_tensors` does with a file that is already open; `name` is for messages."""
    size = os.fstat(file.fileno()).st_size
    if size < _LENGTH_BYTES + 2:
        raise IntegrityError(f"{name}: {size} bytes are too few for a tensor file")
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header_bytes = int.from_bytes(view[:_LENGTH_BYTES], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise IntegrityError(f"{name}: a header of {header_bytes} bytes exceeds {MAX_HEADER_BYTES}")
    start = _LENGTH_BYTES + header_bytes
    if start > size:
        raise IntegrityError(f"{name}: truncated, the header ends at byte {start} of {size}")
    if view[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{":
        raise IntegrityError(f"{name}: the header does not start with '{{'")
    try:
        header = parse_object(view[_LENGTH_BYTES:start])
    except ValueError as problem:
        raise IntegrityError(f"{name}: the header {problem}") from None

    extents = []
    tensors = {}
    for number, (tensor_name, entry) in enumerate(header.items()):
        if number % STEPS_PER_PAUSE == 0:
            pause()
        where = f"{name}: tensor '{tensor_name}'"
        dtype, shape, begin, end = _entry(where, tensor_name, entry)
        if begin > end or end > size - start:
            raise IntegrityError(f"{where} ends outside the file")
        if prod(shape) * dtype.itemsize != end - begin:
            raise IntegrityError(f"{where}: shape {list(shape)} does not fill its {end - begin} bytes")
        if (start + begin) % dtype.itemsize:
            raise IntegrityError(f"{where} does not start at a multiple of its item size")
        extents.append((begin, end, tensor_name))
        try:
            tensors[tensor_name] = np.ndarray(shape, dtype, buffer=view, offset=start + begin)
        except (ValueError, OverflowError):  # an empty tensor whose other sizes no array can have
            raise IntegrityError(f"{where}: shape {list(shape)} is too large") from None
    _check_contiguous(name, sorted(extents), size - start)
    return tensors


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; raise IntegrityError for a link or anything else, MissingFile without."""
    try:
        # O_NONBLOCK: opening a pipe must refuse, not wait for a writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        kind = IntegrityError if problem.errno == errno.ELOOP else MissingFile
        raise kind(f"{path.name}: not a readable regular file ({problem.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IntegrityError(f"{path.name}: is not a regular file")
    return os.fdopen(descriptor, "rb")


def _entry(where: str, tensor_name: str, entry: object) -> _Entry:
    if tensor_name in ("", "__metadata__"):
        raise IntegrityError(f"{where}: this name is not allowed")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise IntegrityError(f"{where}: needs exactly dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        raise IntegrityError(f"{where}: dtype {entry['dtype']!r} is not one of {', '.join(_DTYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _is_sizes(shape) or len(shape) > 4:
        raise IntegrityError(f"{where}: the shape must be at most four integers from 0")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise IntegrityError(f"{where}: data_offsets must be two integers from 0")
    return _DTYPES[entry["dtype"]], tuple(shape), offsets[0], offsets[1]


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_contiguous(name: str, extents: list[tuple[int, int, str]], data_bytes: int) -> None:
    position = 0
    for begin, end, tensor_name in extents:
        if begin != position:
            fault = "overlaps the one before it" if begin < position else "leaves a gap before it"
            raise IntegrityError(f"{name}: tensor '{tensor_name}' {fault}")
        position = end
    if position != data_bytes:
        raise IntegrityError(f"{name}: {data_bytes - position} bytes follow the last tensor")
