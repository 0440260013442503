"""Reads an Arrow IPC stream into places of its bytes; looks at no value.

Read are text (32 and 64-bit offsets), integers, floating point, null, dictionaries of these and lists of these. Not
read, and refused: other types, compressed buffers, dictionary deltas, big-endian streams, files.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slimctr.errors import ArrowError, BadValue
from slimctr.features.flatbuffer import BROKEN, INT16, INT32, INT64, UINT8, UINT32, Table
from slimctr.native.arrow_places import LONG, OUTSIDE, UNEQUAL, UNLISTED, BatchCheck, batch_places

MAX_COLUMNS = 1024
MAX_BATCHES = 1024
MAX_MESSAGES = 16384
MAX_LENGTH = 2**48
MAX_SCHEMA_BYTES = 2**18
READ_TYPES = "text, integers, floating point, null, dictionaries of these and lists of these"

_PREFIX = struct.Struct("<Ii")
_CONTINUATION = 0xFFFFFFFF
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_VERSIONS = (3, 4)  # V4 and V5, alike for the types that are read
_NULL, _INT, _FLOAT, _UTF8, _LARGE_UTF8 = 1, 2, 3, 5, 20
_LIST_BYTES = {12: 4, 21: 8}
_TYPES_BY_NUMBER = (
    "none null integer floating_point binary string bool decimal date time timestamp interval list struct union "
    "fixed_size_binary fixed_size_list map duration large_binary large_string large_list run_end_encoded binary_view "
    "string_view list_view large_list_view"
)
_TYPE_NAMES = _TYPES_BY_NUMBER.split()
_FLOATS = (("halffloat", "<f2"), ("float", "<f4"), ("double", "<f8"))


class Values(NamedTuple):
    """What the cells of a column, or the entries of its dictionary, are.

    `code` is the type number of the kernel (`arrow.c`): 32 and 64 for text by the width of its offsets, the bytes of
    an integer, negative when unsigned, else 0. `dtype` is that of numbers, "" else.
    """

    name: str
    code: int
    dtype: str
    buffers: int


class ArrowColumn(NamedTuple):
    """A column: `node` and `buffer` are its first ones in a batch.

    `list_bytes`: width of the offsets of a list, 0 when it is none. `index_type`: type number of the indices into the
    dictionary.
    """

    name: str
    values: Values
    list_bytes: int
    dictionary: int | None
    index_type: int
    node: int
    buffer: int

    @property
    def type_name(self) -> str:
        """The type as messages show it."""
        name = self.values.name if self.dictionary is None else f"dictionary<{self.values.name}>"
        return f"list<{name}>" if self.list_bytes else name


@dataclass(frozen=True, slots=True, eq=False)
class ArrowSchema:
    """The columns of a stream, and what a batch of them must have."""

    columns: Mapping[str, ArrowColumn]
    check: BatchCheck


class ArrowArray(NamedTuple):
    """Nodes (n, 2) of length and missing cells; `places` (m + 1, 2) of first byte and bytes, the last of which is 0."""

    length: int
    nodes: NDArray[np.int64]
    places: NDArray[np.int64]


class ArrowBatch(NamedTuple):
    """A record batch and the dictionaries that were in force when it came."""

    array: ArrowArray
    dictionaries: Mapping[int, ArrowArray]


@dataclass(frozen=True, slots=True, eq=False)
class ArrowStream:
    """The batches in `data`; `metadata` is that of the schema."""

    data: bytes
    schema: ArrowSchema
    metadata: Mapping[str, str]
    batches: tuple[ArrowBatch, ...]
    rows: int


def read_arrow(data: bytes) -> ArrowStream:
    """Return the stream in `data`. Raises ArrowError; BadValue for a column of a type that is not read."""
    try:
        return _read(data)
    except BROKEN as error:
        raise ArrowError(f"the Arrow stream is broken: {error}") from None


def _read(data: bytes) -> ArrowStream:
    at = 0
    schema: ArrowSchema | None = None
    metadata: dict[str, str] = {}
    dictionaries: dict[int, ArrowArray] = {}
    batches: list[ArrowBatch] = []
    messages = 0
    while (message := _message(data, at)) is not None:
        messages += 1
        if messages > MAX_MESSAGES or len(batches) > MAX_BATCHES or len(dictionaries) > MAX_COLUMNS:
            raise ArrowError(
                f"the Arrow stream has more than {MAX_BATCHES} record batches, {MAX_COLUMNS} dictionaries or "
                f"{MAX_MESSAGES} messages: send larger batches"
            )
        kind, header, body_at, body_bytes = message
        at = body_at + body_bytes
        if (kind == _SCHEMA) != (schema is None):
            raise ArrowError("an Arrow stream starts with its schema, and has one only")
        if kind == _SCHEMA:
            schema, metadata = _schema(header)
        elif kind == _DICTIONARY and schema is not None:
            if header.scalar(2, UINT8):
                raise ArrowError("dictionary deltas are not read: send whole dictionaries")
            dictionaries[header.scalar(0, INT64)] = _array(header.child(1), body_at, body_bytes)
        elif kind == _BATCH and schema is not None:
            array = _array(header, body_at, body_bytes)
            _check_batch(schema, array)
            if array.length:
                batches.append(ArrowBatch(array, dict(dictionaries)))
        else:
            raise ArrowError(f"an Arrow message of kind {kind} is not read")
    if schema is None:
        raise ArrowError("the Arrow stream has no schema")
    return ArrowStream(data, schema, metadata, tuple(batches), sum(batch.array.length for batch in batches))


def _message(data: bytes, at: int) -> tuple[int, Table, int, int] | None:
    """Return kind and header of the message at a byte, and where its body lies; None for the end of the stream."""
    if at + _PREFIX.size > len(data):
        raise ArrowError("the Arrow stream is truncated: it has no end marker")
    marker, length = _PREFIX.unpack_from(data, at)
    if marker != _CONTINUATION:
        raise ArrowError(f"byte {at} starts no message of an Arrow stream (files are not read)")
    at += _PREFIX.size
    if length == 0:
        if at != len(data):
            raise ArrowError(f"{len(data) - at} bytes lie behind the end of the Arrow stream")
        return None
    if length < 0 or at + length > len(data):
        raise ArrowError("the Arrow stream is truncated: a message passes its end")
    metadata = data[at : at + length]
    message = Table(metadata, UINT32.unpack_from(metadata)[0])
    if message.scalar(0, INT16) not in _VERSIONS:
        raise ArrowError("the Arrow stream has a version that is not read; write metadata version 5")
    body_bytes = message.scalar(3, INT64)
    if body_bytes < 0 or body_bytes > len(data) - at - length:
        raise ArrowError("the Arrow stream is truncated: the body of a message passes its end")
    return message.scalar(1, UINT8), message.child(2), at + length, body_bytes


def _schema(header: Table) -> tuple[ArrowSchema, dict[str, str]]:
    if len(header.data) > MAX_SCHEMA_BYTES:
        raise ArrowError(f"the Arrow schema is above {MAX_SCHEMA_BYTES} bytes")
    # Values of the metadata change from request to request; without them equal schemas are equal bytes.
    blank = bytearray(header.data)
    metadata: dict[str, str] = {}
    for entry in header.children(2, MAX_COLUMNS):
        start, length = entry.vector(1, 1)
        metadata[entry.text(0)] = entry.text(1)
        blank[start : start + length] = bytes(length)
    return _columns(bytes(blank), header.at), metadata


@lru_cache(maxsize=32)
def _columns(metadata: bytes, position: int) -> ArrowSchema:
    header = Table(metadata, position)
    if header.scalar(0, INT16) != 0:
        raise ArrowError("big-endian Arrow streams are not read")
    columns: dict[str, ArrowColumn] = {}
    outer, nullable = [], []
    node = buffer = 0
    for field in header.children(1, MAX_COLUMNS):
        column = _column(field, node, buffer)
        if column.name in columns:
            raise ArrowError(f"the Arrow stream has two columns '{column.name}'")
        columns[column.name] = column
        outer.append(node)
        if column.list_bytes:
            nullable.append((node, buffer))
            node, buffer = node + 1, buffer + 2
        buffers = column.values.buffers if column.dictionary is None else 2
        if buffers:
            nullable.append((node, buffer))
        node, buffer = node + 1, buffer + buffers
    return ArrowSchema(columns, BatchCheck(outer, nullable, node, buffer))


def _column(field: Table, node: int, buffer: int) -> ArrowColumn:
    name = field.text(0)
    kind = field.scalar(2, UINT8)
    list_bytes = _LIST_BYTES.get(kind, 0)
    cells = field
    if list_bytes:
        if field.place(4):
            raise BadValue(name, f"a column of type dictionary<list> is not read: {READ_TYPES} are")
        [cells] = field.children(5, 1)
    values = _values(cells)
    if values is None:
        shown = _TYPE_NAMES[min(cells.scalar(2, UINT8), len(_TYPE_NAMES) - 1)]
        shown = f"list<{shown}>" if list_bytes else shown
        raise BadValue(name, f"a column of type {shown} is not read: {READ_TYPES} are")
    dictionary, index = None, 0
    if cells.place(4):
        encoding = cells.child(4)
        dictionary = encoding.scalar(0, INT64)
        index = _integer(encoding.child(1)).code if encoding.place(1) else 4
    return ArrowColumn(name, values, list_bytes, dictionary, index, node, buffer)


def _values(field: Table) -> Values | None:
    kind = field.scalar(2, UINT8)
    if kind == _NULL:
        return Values("null", 0, "", 0)
    if kind == _INT:
        return _integer(field.child(3))
    if kind == _FLOAT:
        name, dtype = _FLOATS[field.child(3).scalar(0, INT16)]
        return Values(name, 0, dtype, 2)
    if kind in (_UTF8, _LARGE_UTF8):
        return Values("string", 32, "", 3) if kind == _UTF8 else Values("large_string", 64, "", 3)
    return None


def _integer(kind: Table) -> Values:
    bits, signed = kind.scalar(0, INT32), kind.scalar(1, UINT8)
    if bits not in (8, 16, 32, 64):
        raise ValueError(f"integers of {bits} bits")
    width = bits // 8
    letter = "i" if signed else "u"
    return Values(f"{'' if signed else 'u'}int{bits}", width if signed else -width, f"<{letter}{width}", 2)


def _array(header: Table, body_at: int, body_bytes: int) -> ArrowArray:
    """Return a record batch whose places lie in the body. Raises ArrowError."""
    if header.place(3):
        raise ArrowError(
            "compressed Arrow buffers are not read: compress the body (Content-Encoding: gzip) instead"
        )
    length = header.scalar(0, INT64)
    body = body_at, body_bytes
    fault, nodes, places = batch_places(
        header.data, header.vector(1, 16), header.vector(2, 16), body, MAX_LENGTH
    )
    if length < 0 or fault == LONG:
        raise ArrowError("the Arrow stream is broken: a length is negative or without measure")
    if fault == OUTSIDE:
        raise ArrowError("the Arrow stream is broken: a buffer passes the end of its message")
    return ArrowArray(length, nodes, places)


def _check_batch(schema: ArrowSchema, array: ArrowArray) -> None:
    check = schema.check
    if len(array.nodes) != check.nodes or len(array.places) != check.buffers + 1:
        raise ArrowError("the Arrow stream is broken: a record batch does not have the columns of the schema")
    fault = check.fault(array.nodes, array.places, array.length)
    if fault == UNEQUAL:
        raise ArrowError("the Arrow stream is broken: columns of a record batch differ in length")
    if fault == UNLISTED:
        raise ArrowError("the Arrow stream is broken: missing cells are announced and not listed")
