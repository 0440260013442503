"""Checks the bytes of an ONNX file before a runtime sees them: opset, no custom operator, no external data.

Reads the protocol buffer wire format directly, so that a scoring process needs no onnx package.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from slimctr.errors import EngineError

MIN_OPSET, MAX_OPSET = 13, 25
INPUT, OUTPUT = "stored", "logit"
"""Names of the input (B, W) and the output (B,) of a network."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 32


class _Message(NamedTuple):
    """The fields of one kind of ONNX message (onnx.proto) that matter here, by field number."""

    inner: dict[int, str]
    refused: dict[int, str]
    domain: int | None = None


_MESSAGES = {
    "model": _Message({7: "graph", 8: "opset"}, {20: "training information", 25: "functions"}),
    "graph": _Message({1: "node", 5: "tensor", 15: "sparse tensor"}, {}),
    "node": _Message({5: "attribute"}, {}, domain=7),
    "attribute": _Message(
        {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
        {},
    ),
    "sparse tensor": _Message({1: "tensor", 2: "tensor"}, {}),
    "tensor": _Message({}, {13: "external data", 14: "external data"}),
    "opset": _Message({}, {}),
}


def check_onnx(data: bytes, opset: int) -> None:
    """Raise EngineError unless `data` is an ONNX model of exactly this default-domain opset."""
    opsets: list[tuple[str, int]] = []
    try:
        _check("model", memoryview(data), opsets, 0)
    except (IndexError, UnicodeDecodeError, ValueError) as problem:
        raise EngineError(f"network.onnx is not a well-formed ONNX file ({problem})") from None
    if opsets != [("", opset)] or not MIN_OPSET <= opset <= MAX_OPSET:
        raise EngineError(
            f"network.onnx imports {opsets}; only the default domain at opset {opset}, "
            f"from {MIN_OPSET} to {MAX_OPSET}, is allowed"
        )


def _check(kind: str, data: memoryview, opsets: list[tuple[str, int]], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    message = _MESSAGES[kind]
    if kind == "opset":
        values: dict[int, Any] = dict(fields(data))
        version = values.get(2, 0)
        if not isinstance(version, int):
            raise ValueError("the version of an opset is no number")
        opsets.append((_domain(values.get(1, b"")), version))
        return
    for number, value in fields(data):
        if number in message.refused and value != 0:
            raise EngineError(f"network.onnx has {message.refused[number]}, which an artifact may not have")
        if number == message.domain and _domain(value) != "":
            raise EngineError(f"network.onnx uses an operator of the domain {bytes(value).decode()!r}")
        if number in message.inner:
            _check(message.inner[number], _view(value), opsets, depth + 1)


def _domain(name: Any) -> str:
    """Return the name of an operator domain; the default domain has two spellings."""
    text = bytes(_view(name)).decode("utf-8")
    return "" if text == "ai.onnx" else text


def _view(value: Any) -> memoryview:
    """Return the bytes of a field; `bytes` of a number would be that many zeros."""
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")
    return memoryview(value)


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of a protocol buffer: an int for a varint, the bytes for anything else.

    Raises IndexError or ValueError for bytes that are none.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError("truncated")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of over ten bytes")
