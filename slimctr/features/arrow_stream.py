"""Reads an Arrow IPC stream into places of its bytes; looks at no value.

Read are text (32 and 64-bit offsets, views), bytes that are text, integers, floating point, booleans, null, dictionaries
of these and lists of these. Columns of other types may lie beside them as long as no field needs them. Not read, and
refused: nested types, compressed buffers, dictionary deltas, big-endian streams, files.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slimctr.errors import ArrowError, BadValue
from slimctr.features.flatbuffer import BROKEN, INT16, INT32, INT64, UINT8, Table
from slimctr.native import arrow_messages as frame
from slimctr.native.arrow_messages import BatchLayout, Message, find_messages

MAX_COLUMNS = 1024
MAX_BATCHES = 1024
MAX_MESSAGES = 16384
MAX_LENGTH = 2**48
MAX_SCHEMA_BYTES = 2**18
READ_TYPES = "text, integers, floating point, booleans, null, dictionaries of these and lists of these"

_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_FAULTS = {
    frame.NO_END: "the Arrow stream is truncated: it has no end marker",
    frame.NO_MESSAGE: "byte {at} starts no message of an Arrow stream (files are not read)",
    frame.BEHIND_END: "{left} bytes lie behind the end of the Arrow stream",
    frame.PASSES_END: "the Arrow stream is truncated: a message passes its end",
    frame.BODY_PASSES_END: "the Arrow stream is truncated: the body of a message passes its end",
    frame.VERSION: "the Arrow stream has a version that is not read; write metadata version 5",
    frame.BROKEN: "the Arrow stream is broken: the metadata of the message at byte {at} cannot be read",
    frame.MANY: f"the Arrow stream has more than {MAX_MESSAGES} messages: send larger batches",
}
_BATCH_FAULTS = {
    frame.LONG: "a length is negative or without measure",
    frame.OUTSIDE: "a buffer passes the end of its message",
    frame.UNEQUAL: "columns of a record batch differ in length",
    frame.UNLISTED: "missing cells are announced and not listed",
}
_NULL, _INT, _FLOAT, _BOOL = 1, 2, 3, 6
TEXT_32, TEXT_64, TEXT_VIEWS = 32, 64, 128
NO_PLACES = np.empty((0, 2), np.int64)
# Bytes are text when they are UTF-8, as keys must be.
_TEXT_CODES = {4: TEXT_32, 5: TEXT_32, 19: TEXT_64, 20: TEXT_64, 23: TEXT_VIEWS, 24: TEXT_VIEWS}
# Decimal, date, time, timestamp, interval, fixed_size_binary, duration: one buffer of values each.
_NOT_READ = frozenset({7, 8, 9, 10, 11, 15, 18})
_LIST_BYTES = {12: 4, 21: 8}
_TYPES_BY_NUMBER = (
    "none null integer floating_point binary string bool decimal date time timestamp interval list struct union "
    "fixed_size_binary fixed_size_list map duration large_binary large_string large_list run_end_encoded binary_view "
    "string_view list_view large_list_view"
)
_TYPE_NAMES = _TYPES_BY_NUMBER.split()
_FLOATS = (("halffloat", 0, "<f2"), ("float", 132, "<f4"), ("double", 164, "<f8"))


class Values(NamedTuple):
    """What the cells of a column, or the entries of its dictionary, are.

    `code` is the type number of the kernel (`arrow.c`): 32 and 64 for text by the width of its offsets, the bytes of
    an integer, negative when unsigned, 101 for booleans, 128 for views of text, 132 and 164 for floats, else 0.
    `dtype` is that of numbers, "" else. `buffers` counts those of missing cells and values, not the texts of views.
    """

    name: str
    code: int
    dtype: str
    buffers: int
    is_read: bool = True


class ArrowColumn(NamedTuple):
    """A column: `node` and `buffer` are its first ones in a batch.

    `list_bytes`: width of the offsets of a list, 0 when it is none. `index_type`: type number of the indices into the
    dictionary. `view`: number among the columns of views, outside of dictionaries. Buffers are counted without the
    texts of views, which a batch has besides.
    """

    name: str
    values: Values
    list_bytes: int
    dictionary: int | None
    index_type: int
    node: int
    buffer: int
    view: int

    @property
    def type_name(self) -> str:
        """The type as messages show it."""
        name = self.values.name if self.dictionary is None else f"dictionary<{self.values.name}>"
        return f"list<{name}>" if self.list_bytes else name


@dataclass(frozen=True, slots=True, eq=False)
class ArrowSchema:
    """The columns of a stream, and what a batch of them must have.

    `index` are the columns that a data frame has as labels of its rows. `view_buffers` are the buffers behind which
    the texts of views come, in order.
    """

    columns: Mapping[str, ArrowColumn]
    index: frozenset[str]
    layout: BatchLayout
    outer: tuple[int, ...]
    nullable: tuple[tuple[int, int], ...]
    view_buffers: tuple[int, ...]


class ArrowArray(NamedTuple):
    """Nodes (n, 2) of length and missing cells; `places` (m + 1, 2) of first byte and bytes, the last of which is 0.

    `view_places` (k, 2) are those of the texts of views; column number i has those from `view_starts[i]` to the next.
    """

    length: int
    nodes: NDArray[np.int64]
    places: NDArray[np.int64]
    view_places: NDArray[np.int64] = NO_PLACES
    view_starts: tuple[int, ...] = (0,)


class ArrowBatch(NamedTuple):
    """A record batch and the dictionaries that were in force when it came."""

    array: ArrowArray
    dictionaries: Mapping[int, ArrowArray]


class ArrowStream(NamedTuple):
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
    fault, at, messages = find_messages(data, MAX_MESSAGES)
    if fault:
        raise ArrowError(_FAULTS[fault].format(at=at, left=len(data) - at))
    if not messages:
        raise ArrowError("the Arrow stream has no schema")
    if [number for number, message in enumerate(messages) if message.kind == _SCHEMA] != [0]:
        raise ArrowError("an Arrow stream starts with its schema, and has one only")
    schema, metadata = _schema(data, messages[0])
    dictionaries: dict[int, ArrowArray] = {}
    batches: list[ArrowBatch] = []
    for message in messages[1:]:
        if message.kind == _DICTIONARY:
            if message.is_delta:
                raise ArrowError("dictionary deltas are not read: send whole dictionaries")
            layout = BatchLayout([], [], message.nodes, message.buffers)
            entries = _array(data, message, layout)
            # One column: were it one of views, all behind the second buffer would be their texts.
            views = entries.places[2:-1]
            dictionaries[message.dictionary] = entries._replace(
                view_places=views, view_starts=(0, len(views))
            )
        elif message.kind == _BATCH:
            array = _batch(data, message, schema)
            if array.length:
                batches.append(ArrowBatch(array, dict(dictionaries)))
        else:
            raise ArrowError(f"an Arrow message of kind {message.kind} is not read")
        if len(batches) > MAX_BATCHES or len(dictionaries) > MAX_COLUMNS:
            raise ArrowError(
                f"the Arrow stream has more than {MAX_BATCHES} record batches or {MAX_COLUMNS} dictionaries: "
                "send larger batches"
            )
    return ArrowStream(data, schema, metadata, tuple(batches), sum(batch.array.length for batch in batches))


def _schema(data: bytes, message: Message) -> tuple[ArrowSchema, dict[str, str]]:
    if message.metadata_bytes > MAX_SCHEMA_BYTES:
        raise ArrowError(f"the Arrow schema is above {MAX_SCHEMA_BYTES} bytes")
    header = Table(data[message.metadata_at : message.body_at], message.header_at)
    # Values of the metadata change from request to request; without them equal schemas are equal bytes.
    blank = bytearray(header.data)
    metadata: dict[str, str] = {}
    for entry in header.children(2, MAX_COLUMNS):
        start, length = entry.vector(1, 1)
        metadata[entry.text(0)] = entry.text(1)
        blank[start : start + length] = bytes(length)
    return _columns(bytes(blank), header.at, _index_columns(metadata.get("pandas", ""))), metadata


@lru_cache(maxsize=32)
def _index_columns(pandas: str) -> frozenset[str]:
    """Return the columns that are the index of a data frame, out of what pandas writes beside its columns.

    An index that counts rows is described there and no column.
    """
    try:
        found = json.loads(pandas)["index_columns"]
        return frozenset(name for name in found if isinstance(name, str))
    except (ValueError, TypeError, KeyError, RecursionError):
        return frozenset()


@lru_cache(maxsize=32)
def _columns(metadata: bytes, position: int, index: frozenset[str]) -> ArrowSchema:
    header = Table(metadata, position)
    if header.scalar(0, INT16) != 0:
        raise ArrowError("big-endian Arrow streams are not read")
    columns: dict[str, ArrowColumn] = {}
    outer: list[int] = []
    nullable: list[tuple[int, int]] = []
    view_buffers: list[int] = []
    node = buffer = 0
    for field in header.children(1, MAX_COLUMNS):
        column = _column(field, node, buffer, len(view_buffers))
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
        if column.values.code == TEXT_VIEWS and column.dictionary is None:
            view_buffers.append(buffer)
    layout = BatchLayout(outer, nullable, node, buffer)
    return ArrowSchema(columns, index, layout, tuple(outer), tuple(nullable), tuple(view_buffers))


def _column(field: Table, node: int, buffer: int, view: int) -> ArrowColumn:
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
    return ArrowColumn(name, values, list_bytes, dictionary, index, node, buffer, view)


def _values(field: Table) -> Values | None:
    kind = field.scalar(2, UINT8)
    if kind == _NULL:
        return Values("null", 0, "", 0)
    if kind == _INT:
        return _integer(field.child(3))
    if kind == _FLOAT:
        name, code, dtype = _FLOATS[field.child(3).scalar(0, INT16)]
        return Values(name, code, dtype, 2)
    if kind == _BOOL:
        return Values("bool", 101, "", 2)
    code = _TEXT_CODES.get(kind, 0)
    if code:
        return Values(_TYPE_NAMES[kind], code, "", 2 if code == TEXT_VIEWS else 3)
    return Values(_TYPE_NAMES[kind], 0, "", 2, is_read=False) if kind in _NOT_READ else None


def _integer(kind: Table) -> Values:
    bits, signed = kind.scalar(0, INT32), kind.scalar(1, UINT8)
    if bits not in (8, 16, 32, 64):
        raise ValueError(f"integers of {bits} bits")
    width = bits // 8
    letter = "i" if signed else "u"
    return Values(f"{'' if signed else 'u'}int{bits}", width if signed else -width, f"<{letter}{width}", 2)


def _batch(data: bytes, message: Message, schema: ArrowSchema) -> ArrowArray:
    """Return a batch of the columns of a schema. Raises ArrowError."""
    layout = schema.layout
    counts: tuple[int, ...] = ()
    if schema.view_buffers:
        start, count = Table(data[message.metadata_at : message.body_at], message.header_at).vector(4, 8)
        at = message.metadata_at + start
        counts = struct.unpack_from(f"<{count}q", data, at)
    texts = sum(counts)
    if (
        len(counts) != len(schema.view_buffers)
        or min(counts, default=0) < 0
        or (message.nodes, message.buffers) != (layout.nodes, layout.buffers + texts)
    ):
        raise ArrowError("the Arrow stream is broken: a record batch does not have the columns of the schema")
    if not schema.view_buffers:
        return _array(data, message, layout)
    # Texts come behind the buffers of their column: without them each buffer is where the schema says.
    is_text = np.zeros(message.buffers, np.bool_)
    before = 0
    for buffer, count in zip(schema.view_buffers, counts, strict=True):
        is_text[buffer + before : buffer + before + count] = True
        before += count
    others = np.flatnonzero(~is_text)
    nullable = [(node, int(others[buffer])) for node, buffer in schema.nullable]
    whole = _array(data, message, BatchLayout(list(schema.outer), nullable, message.nodes, message.buffers))
    places = np.concatenate([whole.places[others], whole.places[-1:]])
    return ArrowArray(whole.length, whole.nodes, places, whole.places[:-1][is_text], (0, *accumulate(counts)))


def _array(data: bytes, message: Message, layout: BatchLayout) -> ArrowArray:
    """Return a batch or dictionary of a layout. Raises ArrowError."""
    if message.is_compressed:
        raise ArrowError(
            "compressed Arrow buffers are not read: compress the body (Content-Encoding: gzip) instead"
        )
    fault, nodes, places = layout.places(data, message, MAX_LENGTH)
    if fault:
        raise ArrowError(f"the Arrow stream is broken: {_BATCH_FAULTS[fault]}")
    return ArrowArray(message.length, nodes, places)
