"""Turns the graph of a network into the steps of the native kernel, where every operator is one that it has.

Read are: linear maps (Gemm, MatMul by a constant), Relu, Add, Sub, Mul, squares, sums over fields or elements, slices
and concatenations of columns, changes of shape, and weights rounded to codes. Anything else is Unread.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.pacing import pause
from slimctr.native.network import Kind, Place, Step
from slimctr.scoring.onnx_graph import Graph, Node, Unread, Value, read_graph

Array = npt.NDArray[Any]


class _Rows(NamedTuple):
    """A value of the graph: of each row of the batch, floats of this shape."""

    place: Place
    shape: tuple[int, ...]


def read_steps(data: bytes, source: str, width: int, target: str) -> list[Step]:
    """Return the steps from `source` (B, width) to `target` (B,) of an ONNX file that `check_onnx` accepted.

    Raises Unread for a graph with other inputs, outputs or operators.
    """
    graph = read_graph(data)
    if graph.inputs != (Value(source, (None, width)),) or graph.outputs != (Value(target, (None,)),):
        raise Unread(f"inputs {graph.inputs} and outputs {graph.outputs}")
    pause()
    return _Reader(graph, source, width).steps(target)


class _Reader:
    def __init__(self, graph: Graph, source: str, width: int) -> None:
        self._nodes = graph.nodes
        self._constants = dict(graph.constants)
        self._values = {source: _Rows(Place(width), (width,))}
        self._uses = Counter(name for node in graph.nodes for name in node.inputs)
        self._steps: list[Step] = []
        self._buffers = 0

    def steps(self, target: str) -> list[Step]:
        """Return the steps; the last of them gives `target`."""
        self._uses[target] += 1
        for node in self._nodes:
            read = _OPERATORS.get(node.operator)
            if read is None or not node.inputs or len(node.outputs) != 1:
                raise Unread(f"{node.operator} of {len(node.inputs)} inputs and {len(node.outputs)} outputs")
            if node.outputs[0] in self._values or node.outputs[0] in self._constants:
                raise Unread(f"two values are called '{node.outputs[0]}'")
            read(self, node)
        result = self._rows(target)
        if result.shape != () or not self._steps or self._steps[-1].out != result.place:
            raise Unread(f"'{target}' is not the last value, or not one number a row")
        return self._steps

    def _rows(self, name: str) -> _Rows:
        if name not in self._values:
            raise Unread(f"'{name}' is no value of the rows")
        return self._values[name]

    def _constant(self, node: Node, position: int) -> Array:
        name = node.inputs[position] if position < len(node.inputs) else ""
        if name not in self._constants:
            raise Unread(f"input {position} of {node.operator} is no constant")
        return self._constants[name]

    def _integers(self, node: Node, position: int) -> list[int]:
        constant = self._constant(node, position)
        if constant.dtype != np.int64 or constant.ndim != 1:
            raise Unread(f"input {position} of {node.operator} is {constant.dtype} {constant.shape}")
        integers: list[int] = constant.tolist()
        return integers

    def _place(self, width: int) -> Place:
        self._buffers += 1
        return Place(width, self._buffers)

    def _keep(self, node: Node, step: Step, shape: tuple[int, ...]) -> None:
        self._steps.append(step)
        self._values[node.outputs[0]] = _Rows(step.out, shape)

    def _replaces_last(self, name: str, kind: Kind) -> Step | None:
        """Remove and return the last step when it made `name`, is of `kind`, and nothing else needs what it made."""
        last = self._steps[-1] if self._steps else None
        if last is None or last.kind != kind or self._uses[name] != 1 or self._rows(name).place != last.out:
            return None
        names = [rows.place.buffer for rows in self._values.values()].count(last.out.buffer)
        return self._steps.pop() if names == 1 else None  # under another name it may be needed again

    def _matrix(self, node: Node, name: str, weights: Array, bias: Array | None) -> None:
        rows = self._rows(name)
        if weights.dtype != np.float32 or weights.ndim != 2 or rows.shape != (weights.shape[0],):
            raise Unread(f"{node.operator} of {rows.shape} by {weights.dtype} {weights.shape}")
        outputs = weights.shape[1]
        if bias is None:
            bias = np.zeros(outputs, np.float32)
        if bias.dtype != np.float32 or bias.shape not in ((outputs,), (1, outputs)):
            raise Unread(f"a bias of {bias.dtype} {bias.shape}")
        kind: Kind = "dot" if outputs == 1 else "linear"
        step = Step(kind, self._place(outputs), rows.place, weights=weights, bias=bias.reshape(-1))
        self._keep(node, step, (outputs,))

    def gemm(self, node: Node) -> None:
        numbers = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **node.attributes}
        if numbers["alpha"] != 1 or numbers["beta"] != 1 or numbers["transA"] != 0 or len(numbers) != 4:
            raise Unread(f"Gemm with {numbers}")
        weights = self._constant(node, 1)
        bias = self._constant(node, 2) if len(node.inputs) > 2 else None
        self._matrix(node, node.inputs[0], weights.T if numbers["transB"] else weights, bias)

    def matmul(self, node: Node) -> None:
        self._matrix(node, node.inputs[0], self._constant(node, 1), None)

    def relu(self, node: Node) -> None:
        rows = self._rows(node.inputs[0])
        if linear := self._replaces_last(node.inputs[0], "linear"):
            self._keep(node, replace(linear, relu=True), rows.shape)
        else:
            self._keep(node, Step("relu", self._place(rows.place.width), rows.place), rows.shape)

    def add(self, node: Node) -> None:
        self._elementwise(node, "add")

    def subtract(self, node: Node) -> None:
        self._elementwise(node, "subtract")

    def multiply(self, node: Node) -> None:
        self._elementwise(node, "multiply")

    def _elementwise(self, node: Node, kind: Kind) -> None:
        if len(node.inputs) != 2:
            raise Unread(f"{node.operator} of {len(node.inputs)}")
        first, second = node.inputs
        if kind != "subtract" and (first in self._constants or self._is_narrower(first, second)):
            first, second = second, first
        rows = self._rows(first)
        other = (
            self._constant_rows(self._constants[second], rows)
            if second in self._constants
            else self._rows(second)
        )
        spreads = other.place.width == 1 and len(other.shape) == len(rows.shape)
        if other.shape != rows.shape and not spreads and other.place.constant is None:
            raise Unread(f"{node.operator} of {rows.shape} and {other.shape}")
        self._keep(node, Step(kind, self._place(rows.place.width), rows.place, other.place), rows.shape)

    def _is_narrower(self, first: str, second: str) -> bool:
        rows, other = self._values.get(first), self._values.get(second)
        return rows is not None and other is not None and rows.place.width < other.place.width

    def _constant_rows(self, constant: Array, rows: _Rows) -> _Rows:
        """Return a constant that is the same for every row of the batch: of the shape of a row, or one number."""
        fits = constant.shape in (rows.shape, (1, *rows.shape))
        is_one = constant.size == 1 and constant.ndim <= len(rows.shape) + 1
        if constant.dtype != np.float32 or not (fits or is_one):
            raise Unread(f"a constant of {constant.dtype} {constant.shape} with rows of {rows.shape}")
        return _Rows(Place(constant.size, constant=constant.reshape(-1)), rows.shape)

    def power(self, node: Node) -> None:
        if self._constant(node, 1).tolist() not in (2.0, [2.0]):
            raise Unread("a power that is no square")
        rows = self._rows(node.inputs[0])
        self._keep(node, Step("multiply", self._place(rows.place.width), rows.place, rows.place), rows.shape)

    def sum(self, node: Node) -> None:
        name = node.inputs[0]
        rows = self._rows(name)
        keeps = node.attributes.get("keepdims", 1)
        if self._integers(node, 1) != [1] or not rows.shape or keeps not in (0, 1):
            raise Unread(f"ReduceSum of {rows.shape}")
        rest = rows.shape[1:]
        shape = (1, *rest) if keeps else rest
        out = self._place(math.prod(rest))
        product = self._replaces_last(name, "multiply") if not rest else None
        if product and product.b is not None and product.b.width == product.a.width:
            self._keep(node, Step("sum_products", out, product.a, product.b), shape)
            return
        if product:
            self._steps.append(product)
        self._keep(node, Step("sum", out, rows.place), shape)

    def slice(self, node: Node) -> None:
        rows = self._rows(node.inputs[0])
        starts, ends, axes = (self._integers(node, position) for position in (1, 2, 3))
        steps = self._integers(node, 4) if len(node.inputs) > 4 else [1]
        if len(rows.shape) != 1 or (len(starts), len(ends), axes, steps) != (1, 1, [1], [1]):
            raise Unread(f"Slice of {rows.shape} along {axes} by {steps}")
        start, end, _ = slice(starts[0], ends[0]).indices(rows.shape[0])
        if end <= start:
            raise Unread("an empty slice")
        place = replace(rows.place, width=end - start, start=rows.place.start + start)
        self._values[node.outputs[0]] = _Rows(place, (end - start,))

    def concatenate(self, node: Node) -> None:
        parts = [self._rows(name) for name in node.inputs]
        if node.attributes.get("axis") not in (1, -1) or any(len(part.shape) != 1 for part in parts):
            raise Unread("Concat of other than columns")
        whole = self._place(sum(part.place.width for part in parts))
        start = 0
        for part in parts:
            out = replace(whole, width=part.place.width, start=start)
            self._steps.append(Step("copy", out, part.place))
            start += part.place.width
        self._values[node.outputs[0]] = _Rows(whole, (whole.width,))

    def reshape(self, node: Node) -> None:
        rows = self._rows(node.inputs[0])
        batch, *shape = self._integers(node, 1) or [0]
        if batch != -1 or any(size < 1 for size in shape) or math.prod(shape) != rows.place.width:
            raise Unread(f"Reshape of {rows.shape} to {[batch, *shape]}")
        self._values[node.outputs[0]] = _Rows(rows.place, tuple(shape))

    def squeeze(self, node: Node) -> None:
        rows = self._rows(node.inputs[0])
        if self._integers(node, 1) != [1] or rows.shape[:1] != (1,):
            raise Unread(f"Squeeze of {rows.shape}")
        self._values[node.outputs[0]] = _Rows(rows.place, rows.shape[1:])

    def dequantize(self, node: Node) -> None:
        codes, scales = self._constant(node, 0), self._constant(node, 1)
        axis = node.attributes.get("axis", 1)
        if len(node.inputs) != 2 or codes.ndim != 2 or axis not in (0, 1) or codes.dtype != np.int8:
            raise Unread(f"DequantizeLinear of {codes.dtype} {codes.shape} with {len(node.inputs)} inputs")
        if scales.dtype != np.float32 or scales.shape not in ((), (codes.shape[int(axis)],)):
            raise Unread(f"scales of {scales.dtype} {scales.shape}")
        spread = scales[:, None] if axis == 0 and scales.shape else scales
        with np.errstate(over="ignore", invalid="ignore"):  # the scores are checked to be finite
            self._constants[node.outputs[0]] = codes.astype(np.float32) * spread


_OPERATORS: dict[str, Callable[[_Reader, Node], None]] = {
    "Gemm": _Reader.gemm,
    "MatMul": _Reader.matmul,
    "Relu": _Reader.relu,
    "Add": _Reader.add,
    "Sub": _Reader.subtract,
    "Mul": _Reader.multiply,
    "Pow": _Reader.power,
    "ReduceSum": _Reader.sum,
    "Slice": _Reader.slice,
    "Concat": _Reader.concatenate,
    "Reshape": _Reader.reshape,
    "Squeeze": _Reader.squeeze,
    "DequantizeLinear": _Reader.dequantize,
}
