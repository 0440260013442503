"""Reads `/v1/predict` bodies that are Arrow streams, and writes answers as one."""

import math
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt

from service.errors import Fault, InvalidInput
from service.wire import v1
from service.wire.forms import Batches
from service.wire.pointers import pointer_to
from slimctr.errors import BadValue
from slimctr.features.arrow_stream import read_arrow

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
PREFIX = "slimctr."
MEMBERS = v1.MEMBERS.difference(v1.FORMS)

_CONTINUATION = 0xFFFFFFFF
_END = struct.pack("<Ii", _CONTINUATION, 0)
_VERSION_5, _SCHEMA, _BATCH, _FLOATING_POINT, _SINGLE = 4, 1, 3, 3, 1


def read_predict(body: bytes, max_rows: int, deadline_s: float = math.inf) -> v1.Predict:
    """Return the request in `body`, whose schema has its values as metadata; that takes no time to speak of.

    Raises ArrowError, InvalidInput, TooLarge.
    """
    try:
        stream = read_arrow(body)
    except BadValue as error:
        raise InvalidInput([Fault(pointer_to("columns", error.field), str(error), "bad_type")]) from None
    document: dict[str, Any] = {
        key.removeprefix(PREFIX): value for key, value in stream.metadata.items() if key.startswith(PREFIX)
    }
    faults = [
        Fault(
            pointer_to(name),
            f"unknown metadata; known are {', '.join(PREFIX + known for known in sorted(MEMBERS))}",
        )
        for name in document
        if name not in MEMBERS
    ]
    if stream.rows == 0:
        faults.append(Fault(pointer_to("columns"), "the batch is empty; send at least one row"))
    if faults:
        raise InvalidInput(faults)
    if "include" in document:
        document["include"] = document["include"].split(",")
    return v1.read_document(document, Batches(stream), max_rows)


def write_predict(answer: Mapping[str, Any]) -> bytes:
    """Write an answer: `scores` as a float32 column, the rest as JSON in the metadata `slimctr.response`."""
    scores: npt.NDArray[np.float32] = answer["scores"]
    rest = v1.write_predict({name: value for name, value in answer.items() if name != "scores"})
    body = np.ascontiguousarray(scores, "<f4").tobytes()
    before, behind = _around(len(rest))
    return b"".join((before, rest, behind, _batch(len(scores)), body, bytes(-len(body) % 8), _END))


@lru_cache(maxsize=256)
def _around(length: int) -> tuple[bytes, bytes]:
    """Return what stands before and behind a response of so many bytes in the message of its schema."""
    blank = b"?" * length
    before, _, behind = _framed(_schema(blank)).partition(blank)
    return before, behind


def _framed(metadata: bytes) -> bytes:
    padding = bytes(-len(metadata) % 8)
    return struct.pack("<Ii", _CONTINUATION, len(metadata) + len(padding)) + metadata + padding


def _finish(builder: Any, kind: int, header: int, body_bytes: int) -> bytes:
    builder.StartObject(5)
    builder.PrependInt64Slot(3, body_bytes, 0)
    builder.PrependUOffsetTRelativeSlot(2, header, 0)
    builder.PrependInt16Slot(0, _VERSION_5, 0)
    builder.PrependUint8Slot(1, kind, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def _vector(builder: Any, *places: int) -> int:
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return int(builder.EndVector())


def _schema(response: bytes) -> bytes:
    """Message of a schema with one float32 column and one entry of metadata."""
    builder = flatbuffers.Builder(len(response) + 512)
    key, value = builder.CreateString("slimctr.response"), builder.CreateString(response)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, key, 0)
    builder.PrependUOffsetTRelativeSlot(1, value, 0)
    metadata = _vector(builder, builder.EndObject())
    builder.StartObject(1)
    builder.PrependInt16Slot(0, _SINGLE, 0)
    kind = builder.EndObject()
    name, children = builder.CreateString("scores"), _vector(builder)
    builder.StartObject(7)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUint8Slot(2, _FLOATING_POINT, 0)
    builder.PrependUOffsetTRelativeSlot(3, kind, 0)
    builder.PrependUOffsetTRelativeSlot(5, children, 0)
    fields = _vector(builder, builder.EndObject())
    builder.StartObject(4)
    builder.PrependUOffsetTRelativeSlot(1, fields, 0)
    builder.PrependUOffsetTRelativeSlot(2, metadata, 0)
    return _finish(builder, _SCHEMA, builder.EndObject(), 0)


@lru_cache(maxsize=256)
def _batch(rows: int) -> bytes:
    """Message of a record batch: one column of `rows` cells, none missing, without its body."""
    size = 4 * rows
    builder = flatbuffers.Builder(256)
    builder.StartVector(16, 2, 8)  # the last number comes first: no missing cells, then the scores
    for number in (size, 0, 0, 0):
        builder.PrependInt64(number)
    buffers = builder.EndVector()
    builder.StartVector(16, 1, 8)
    for number in (0, rows):
        builder.PrependInt64(number)
    nodes = builder.EndVector()
    builder.StartObject(5)
    builder.PrependInt64Slot(0, rows, 0)
    builder.PrependUOffsetTRelativeSlot(1, nodes, 0)
    builder.PrependUOffsetTRelativeSlot(2, buffers, 0)
    return _framed(_finish(builder, _BATCH, builder.EndObject(), size + -size % 8))
