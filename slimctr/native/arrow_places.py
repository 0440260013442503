"""Signatures and checked wrappers of the kernels that read where the columns of an Arrow batch lie (`arrow.c`)."""

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.native.library import address, library

LONG, OUTSIDE = 1, 2
UNEQUAL, UNLISTED = 1, 2


@cache
def _kernels() -> tuple[Any, Any]:
    kernels = library()
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    kernels.slimctr_arrow_places.argtypes = [ctypes.c_char_p, *(count,) * 7, pointer, pointer]
    kernels.slimctr_arrow_check.argtypes = [pointer, pointer, pointer, count, pointer, count, count]
    for kernel in (kernels.slimctr_arrow_places, kernels.slimctr_arrow_check):
        kernel.restype = ctypes.c_int64
    return kernels.slimctr_arrow_places, kernels.slimctr_arrow_check


class BatchCheck:
    """What a batch of a schema must have: `outer` nodes of one length, `nullable` pairs of a node and its buffer."""

    def __init__(self, outer: list[int], nullable: list[tuple[int, int]], nodes: int, buffers: int) -> None:
        self._outer = np.array(outer, np.int64)
        self._nullable = np.array(nullable, np.int64).reshape(-1, 2)
        used = [*outer, *(node for node, _ in nullable)]
        if any(not 0 <= node < nodes for node in used) or any(not 0 <= b < buffers for _, b in nullable):
            raise ValueError(f"{used} and {nullable} are not within {nodes} nodes and {buffers} buffers")
        self.nodes, self.buffers = nodes, buffers
        self._arguments = address(self._outer), len(outer), address(self._nullable), len(nullable)

    def fault(self, nodes: NDArray[np.int64], places: NDArray[np.int64], length: int) -> int:
        """Return UNEQUAL, UNLISTED or 0, of nodes (`nodes`, 2) and places (`buffers` + 1, 2) of `batch_places`."""
        if nodes.shape != (self.nodes, 2) or places.shape != (self.buffers + 1, 2):
            raise ValueError(
                f"{nodes.shape} and {places.shape} are not {self.nodes} nodes and {self.buffers} buffers"
            )
        return int(_kernels()[1](address(nodes), address(places), *self._arguments, length))


def batch_places(
    metadata: bytes, nodes: tuple[int, int], buffers: tuple[int, int], body: tuple[int, int], max_length: int
) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """Return 0, nodes (n, 2) and places (m + 1, 2); LONG or OUTSIDE instead of 0 where they must not be used.

    `nodes` and `buffers` are first byte and number, 16 bytes each, in the metadata; `body` first byte and bytes.
    """
    for start, count in (nodes, buffers):
        if start < 0 or count < 0 or start + 16 * count > len(metadata):
            raise ValueError(f"{count} pairs from byte {start} pass the end of {len(metadata)} bytes")
    found, places = np.empty((nodes[1], 2), np.int64), np.empty((buffers[1] + 1, 2), np.int64)
    fault = _kernels()[0](metadata, *nodes, *buffers, *body, max_length, address(found), address(places))
    return fault, found, places
