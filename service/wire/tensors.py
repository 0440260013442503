"""INT64 tensors of the Open Inference Protocol: JSON data or raw little-endian bytes to numpy arrays, strictly."""

import math
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import BadTensor

Integers = npt.NDArray[np.int64]

DATATYPE = "INT64"
ITEM_BYTES = 8
MAX_DIMENSIONS = 8
# Beyond this numpy has no such array, even when a dimension is 0.
MAX_ELEMENTS = 2**40
STEP_ITEMS = 2**16
"""Items that are converted at a time."""


def check_shape(name: str, shape: Any) -> tuple[int, ...]:
    """Return the shape as a tuple; raise BadTensor unless it is a list of non-negative integers."""
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(size) is int and 0 <= size < 2**31 for size in shape)
        or math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS
    ):
        raise BadTensor(
            f"input '{name}': shape must be a list of at most {MAX_DIMENSIONS} non-negative integers "
            f"for at most {MAX_ELEMENTS} elements"
        )
    return tuple(shape)


def from_json(name: str, shape: tuple[int, ...], data: Any) -> Integers:
    """Return the tensor in `data`, nested or flat in row-major order; raise BadTensor."""
    if not isinstance(data, list):
        raise BadTensor(f"input '{name}': data must be a list")
    if not _holds_integers(data):
        raise BadTensor(f"input '{name}': data is ragged or holds something else than {DATATYPE}")
    values = _array(data)
    if values is None:
        raise BadTensor(f"input '{name}': data is ragged or holds something else than {DATATYPE}")
    if values.size == 0:
        values = np.empty(0, np.int64)
    if values.dtype != np.int64:
        raise BadTensor(f"input '{name}': data holds something else than {DATATYPE}")
    if values.size != math.prod(shape) or (values.ndim != 1 and values.shape != shape):
        raise BadTensor(
            f"input '{name}': data of shape {list(values.shape)} does not fit shape {list(shape)}"
        )
    return values.reshape(shape)


def from_bytes(name: str, shape: tuple[int, ...], data: memoryview) -> Integers:
    """Return the tensor in `data`; raise BadTensor when its size is not that of the shape."""
    expected = math.prod(shape) * ITEM_BYTES
    if len(data) != expected:
        raise BadTensor(f"input '{name}': {len(data)} bytes where shape {list(shape)} needs {expected}")
    return np.frombuffer(data, "<i8").astype(np.int64, copy=False).reshape(shape)


def _array(data: list[Any]) -> npt.NDArray[Any] | None:
    """Return nested lists as an array, None when they are ragged or too large; a step at a time, for other threads."""
    width = len(data[0]) if data and isinstance(data[0], list) else 1
    step = max(STEP_ITEMS // max(width, 1), 1)
    try:
        if len(data) == 1 and width > STEP_ITEMS:
            inner = _array(data[0])
            return None if inner is None else inner[np.newaxis]
        steps = [np.array(data[start : start + step]) for start in range(0, len(data), step)]
        return np.concatenate(steps) if steps else np.empty(0, np.int64)
    except (ValueError, OverflowError):
        return None


def _holds_integers(data: list[Any]) -> bool:
    """Tell whether only integers lie below the lists; numpy would turn text of all lengths into the longest."""
    for _ in range(MAX_DIMENSIONS):
        kinds: set[type] = set()
        for start in range(0, len(data), STEP_ITEMS):
            kinds.update(map(type, data[start : start + STEP_ITEMS]))
        if kinds != {list}:
            return kinds <= {int}
        data = list(chain.from_iterable(data))
    return False
