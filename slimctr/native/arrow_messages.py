"""Signatures and checked wrappers of the kernels that read the frame of an Arrow stream (`arrow_messages.c`)."""

import ctypes
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slimctr.native.library import address, library

NO_END, NO_MESSAGE, BEHIND_END, PASSES_END, BODY_PASSES_END, VERSION, BROKEN, MANY = range(1, 9)
LONG, OUTSIDE, UNEQUAL, UNLISTED, BAD_CALL = range(1, 6)

_ROOM = 4


class Message(NamedTuple):
    """A message of a stream: first bytes and numbers of what it has.

    All count from the start of the stream but `header_at`, which counts from `metadata_at`. `kind` is 1 for the schema,
    2 for a dictionary, 3 for a batch; `length` and what follows are those of dictionaries and batches, `nodes` and
    `buffers` of 16 bytes each.
    """

    kind: int
    metadata_at: int
    metadata_bytes: int
    header_at: int
    body_at: int
    body_bytes: int
    length: int
    nodes_at: int
    nodes: int
    buffers_at: int
    buffers: int
    is_compressed: int
    dictionary: int
    is_delta: int


@cache
def _kernels() -> tuple[Any, Any]:
    kernels = library()
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    messages, batch = kernels.slimctr_arrow_messages, kernels.slimctr_arrow_batch
    messages.argtypes = [ctypes.c_char_p, count, pointer, count, count, pointer]
    batch.argtypes = [ctypes.c_char_p, *(count,) * 9, pointer, count, pointer, count, pointer, pointer]
    messages.restype = batch.restype = count
    return messages, batch


def find_messages(data: bytes, most: int) -> tuple[int, int, list[Message]]:
    """Return 0, the end, and the messages of a stream; else a fault, the byte of the message that has it, and none."""
    found, room = np.empty((_ROOM, len(Message._fields)), np.int64), _ROOM
    at = ctypes.c_int64()
    while (count := _kernels()[0](data, len(data), address(found), room, most, ctypes.addressof(at))) > room:
        found, room = np.empty((count, len(Message._fields)), np.int64), count
    return max(-count, 0), at.value, [Message._make(numbers) for numbers in found[: max(count, 0)].tolist()]


class BatchLayout:
    """What batches of a schema have: `outer` nodes of one length, `nullable` pairs of a node and its buffer."""

    def __init__(self, outer: list[int], nullable: list[tuple[int, int]], nodes: int, buffers: int) -> None:
        self._outer = np.array(outer, np.int64)
        self._nullable = np.array(nullable, np.int64).reshape(-1, 2)
        used = [*outer, *(node for node, _ in nullable)]
        if any(not 0 <= node < nodes for node in used) or any(not 0 <= b < buffers for _, b in nullable):
            raise ValueError(f"{used} and {nullable} are not within {nodes} nodes and {buffers} buffers")
        self.nodes, self.buffers = nodes, buffers
        self._arguments = address(self._outer), len(outer), address(self._nullable), len(nullable)

    def places(
        self, data: bytes, message: Message, max_length: int
    ) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """Return 0, the nodes (n, 2) and places (m + 1, 2) of a batch of this layout, or a fault instead of 0.

        A node is its length and its missing cells, a place first byte and bytes; the last one is empty. Where there is a
        fault they must not be used.
        """
        if (message.nodes, message.buffers) != (self.nodes, self.buffers):
            raise ValueError(
                f"{message.nodes} nodes and {message.buffers} buffers are not {self.nodes} and {self.buffers}"
            )
        nodes, places = np.empty((self.nodes, 2), np.int64), np.empty((self.buffers + 1, 2), np.int64)
        fault = _kernels()[1](
            data,
            len(data),
            message.nodes_at,
            message.nodes,
            message.buffers_at,
            message.buffers,
            message.body_at,
            message.body_bytes,
            message.length,
            max_length,
            *self._arguments,
            address(nodes),
            address(places),
        )
        if fault == BAD_CALL:
            raise ValueError("the message does not lie in these bytes")
        return fault, nodes, places
