"""Reads the graph of a checked ONNX file: nodes, constants, and the shapes of its inputs and outputs.

Only what networks of this project hold; see `onnx_file` for what no network may hold.
"""

import math
import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.pacing import pause
from slimctr.scoring.onnx_file import fields

Array = npt.NDArray[Any]

_FLOAT, _INT8, _INT64, _INT4 = 1, 3, 7, 22
_DTYPES: dict[int, npt.DTypeLike] = {_FLOAT: "<f4", _INT8: "i1", _INT64: "<i8", _INT4: "u1"}


class Unread(Exception):
    """A graph holds something that its reader does not read, though ONNX Runtime may."""


class Node(NamedTuple):
    """One operator, the names of its inputs and outputs, and its numbers by attribute name."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, int | float]


class Value(NamedTuple):
    """A named float32 input or output; None is a size that is free."""

    name: str
    shape: tuple[int | None, ...]


class Graph(NamedTuple):
    """Nodes in the order in which they run, constants by name, inputs, outputs."""

    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def read_graph(data: bytes) -> Graph:
    """Return the graph of an ONNX file that `check_onnx` accepted; raise Unread for what is not read here."""
    graphs = [value for number, value in fields(memoryview(data)) if number == 7]
    if len(graphs) != 1:
        raise Unread(f"{len(graphs)} graphs")
    parts: dict[int, list[Any]] = {}
    try:
        for number, value in fields(graphs[0]):
            parts.setdefault(number, []).append(value)
        constants = dict(_constant(part) for part in parts.get(5, []))
        pause()
        nodes = tuple(_node(part) for part in parts.get(1, []))
        inputs, outputs = (tuple(_value(part) for part in parts.get(number, [])) for number in (11, 12))
    except (IndexError, TypeError, ValueError, struct.error) as problem:
        # altered bytes where `check_onnx` does not look: cut short, or a number where bytes belong
        raise Unread(str(problem)) from None
    if len(constants) != len(parts.get(5, [])) or 15 in parts:
        raise Unread("two constants of one name, or sparse ones")
    return Graph(nodes, constants, inputs, outputs)


def _text(value: memoryview) -> str:
    return bytes(memoryview(value)).decode("utf-8")


def _node(data: memoryview) -> Node:
    inputs, outputs, operator, attributes = [], [], "", {}
    for number, value in fields(memoryview(data)):
        match number:
            case 1:
                inputs.append(_text(value))
            case 2:
                outputs.append(_text(value))
            case 4:
                operator = _text(value)
            case 5:
                name, worth = _attribute(value)
                attributes[name] = worth
    return Node(operator, tuple(inputs), tuple(outputs), attributes)


def _attribute(data: memoryview) -> tuple[str, int | float]:
    name, worth = "", None
    for number, value in fields(memoryview(data)):
        match number:
            case 1:
                name = _text(value)
            case 2:
                (worth,) = struct.unpack("<f", value)
            case 3:
                worth = _signed(value)
            case 20:
                pass
            case _:
                raise Unread(f"attribute '{name}' is no number")
    if worth is None:
        raise Unread(f"attribute '{name}' has no value")
    return name, worth


def _signed(value: int) -> int:
    """Return the int64 of a varint of 64 bits."""
    return (value & (1 << 64) - 1) - (1 << 64 if value >> 63 & 1 else 0)


def _numbers(values: list[Any]) -> list[int]:
    """Return a repeated int64, of which each is a field of its own."""
    numbers: list[int] = []
    for value in values:
        if isinstance(value, int):
            numbers.append(_signed(value))
        else:
            raise Unread("packed numbers")
    return numbers


def _constant(data: memoryview) -> tuple[str, Array]:
    parts: dict[int, list[Any]] = {}
    for number, value in fields(memoryview(data)):
        parts.setdefault(number, []).append(value)
    name = _text(parts[8][-1]) if 8 in parts else ""
    kind = parts.get(2, [0])[-1]
    shape = tuple(_numbers(parts.get(1, [])))
    if kind not in _DTYPES or 9 not in parts or any(size < 0 for size in shape):
        raise Unread(f"constant '{name}' of type {kind}, shape {shape}, or not as raw bytes")
    raw = np.frombuffer(parts[9][-1], _DTYPES[kind])
    count = math.prod(shape)
    if kind == _INT4:
        nibbles = np.stack([raw & 15, raw >> 4], axis=1).reshape(-1)
        raw = ((nibbles ^ 8).astype(np.int8) - 8)[:count]
    if raw.size != count:
        raise Unread(f"constant '{name}' has {raw.size} values for {shape}")
    return name, raw.reshape(shape)


def _value(data: memoryview) -> Value:
    """Read ValueInfo(name 1, type 2) with tensor type (1) of element type (1) and shape (2) of dims (1)."""
    name, shape = "", None
    for number, value in fields(memoryview(data)):
        if number == 1:
            name = _text(value)
        elif number == 2:
            tensors = [part for kind, part in fields(memoryview(value)) if kind == 1]
            if len(tensors) != 1:
                raise Unread(f"'{name}' is no tensor")
            described = dict(fields(memoryview(tensors[0])))
            if described.get(1) != _FLOAT or 2 not in described:
                raise Unread(f"'{name}' is not float32, or of no shape")
            dims = [part for number, part in fields(memoryview(described[2])) if number == 1]
            shape = tuple(dict(fields(memoryview(dim))).get(1) for dim in dims)
    if shape is None:
        raise Unread(f"'{name}' has no type")
    return Value(name, shape)
