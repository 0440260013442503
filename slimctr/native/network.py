"""Runs a network that is a sequence of linear maps and elementwise steps, block by block, in one C call."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from model_store.pacing import pause
from slimctr.native.library import address, library

Floats = npt.NDArray[np.float32]
Kind = Literal["linear", "dot", "add", "subtract", "multiply", "relu", "sum", "sum_products", "copy"]

_KINDS: dict[Kind, int] = {
    **{"linear": 0, "dot": 1, "add": 2, "subtract": 3, "multiply": 4, "relu": 5, "sum": 6},
    **{"sum_products": 7, "copy": 8},
}
_SCRATCH, _STORED, _CONSTANT = 0, 1, 2
_LANES, _PANEL = 8, 16
# Six rows at a time go through a layer; more rows than these would push each other out of the first caches.
BLOCK_ROWS = 48
_MAX_ROW_FLOATS = 2**20


@dataclass(frozen=True)
class Place:
    """`width` floats of each row: in a buffer, in the stored matrix, or the same constants for every row.

    `buffer` is the number of a buffer, None for the stored matrix; `start` is the first float. A value of width 1
    stands for as many equal ones as the step needs.
    """

    width: int
    buffer: int | None = None
    start: int = 0
    constant: Floats | None = None


@dataclass(frozen=True)
class Step:
    """`out` = `kind` of `a` and `b`, row by row.

    linear: `a` @ `weights` (inputs, outputs) + `bias` (outputs,), negative ones as 0 with `relu`. dot: the same for
    one output. add, subtract, multiply: elementwise. sum: element i is the sum of elements i, i + w, i + 2 w, ... of
    `a`, where w is the width of `out`. sum_products: the sum of `a` times `b`.
    """

    kind: Kind
    out: Place
    a: Place
    b: Place | None = None
    weights: Floats | None = None
    bias: Floats | None = None
    relu: bool = False


class _Operand(ctypes.Structure):
    _fields_ = (
        ("constant", ctypes.c_void_p),
        ("place", ctypes.c_int32),
        ("buffer", ctypes.c_int32),
        ("row_stride", ctypes.c_int32),
        ("element_stride", ctypes.c_int32),
        ("start", ctypes.c_int32),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        ("a", _Operand),
        ("b", _Operand),
        ("out", _Operand),
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
        ("relu", ctypes.c_int32),
    )


@cache
def runs_here() -> bool:
    """Return whether this processor has what the kernel needs: x86-64 with AVX2 and FMA."""
    supported = library().slimctr_network_runs_here
    supported.restype = ctypes.c_int64
    return bool(supported())


class NativeNetwork:
    """The steps of a network, ready to run; `run` may be called from several threads at once."""

    def __init__(self, steps: Sequence[Step], width: int) -> None:
        """Take steps over a stored matrix of `width` columns, whose last one gives the logit.

        Each buffer is written whole before others read it. Raises ValueError when widths do not fit.
        """
        for step in steps:
            _check(step, width)
        if not steps or steps[-1].out.width != 1 or steps[-1].kind == "linear":
            raise ValueError("the last step must give one float a row, and is no 'linear'")
        self._width = width
        self._arrays: list[Floats] = []  # kept alive: the steps hold addresses
        buffers, self._row_floats = _arrange(steps)
        described = []
        for step in steps:
            pause()
            described.append(self._describe(step, buffers))
        self._steps = (_Step * len(steps))(*described)
        self._address = ctypes.addressof(self._steps)
        self._call: Any = library().slimctr_run_network
        self._call.restype = None
        self._call.argtypes = (
            *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64),
            *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p),
        )

    def run(self, stored: Floats) -> Floats:
        """Return the logits, float32 (B,), of the stored matrix, float32 (B, W)."""
        rows = len(stored)
        stored = np.ascontiguousarray(stored)
        logits = np.empty(rows, np.float32)
        block = min(rows, BLOCK_ROWS)
        scratch = np.empty(self._row_floats * block + _LANES, np.float32)
        start = address(scratch)
        self._call(
            self._address,
            len(self._steps),
            address(stored),
            self._width,
            rows,
            start + -start % (4 * _LANES),
            block,
            address(logits),
        )
        return logits

    def _describe(self, step: Step, buffers: dict[int, tuple[int, int]]) -> _Step:
        def operand(place: Place | None) -> _Operand:
            if place is None:
                return _Operand(place=_STORED)
            spread = int(place.width > 1)
            if place.constant is not None:
                return _Operand(self._keep(place.constant), _CONSTANT, 0, 0, spread)
            if place.buffer is None:
                return _Operand(None, _STORED, 0, self._width, spread, place.start)
            at, stride = buffers[place.buffer]
            return _Operand(None, _SCRATCH, at, stride, spread, place.start)

        weights = bias = None
        inputs = step.a.width
        if step.weights is not None and step.bias is not None:
            is_linear = step.kind == "linear"
            weights = self._keep(panels(step.weights) if is_linear else step.weights[:, 0])
            bias = self._keep(np.pad(step.bias, (0, -len(step.bias) % _PANEL)))
        elif step.kind == "sum":
            inputs //= step.out.width
        return _Step(
            operand(step.a),
            operand(step.b),
            operand(step.out),
            weights,
            bias,
            _KINDS[step.kind],
            inputs,
            step.out.width,
            step.relu,
        )

    def _keep(self, array: Floats) -> int:
        """Return the address of a copy of `array` that lives as long as this network, on a cache line."""
        room = np.empty(array.size + _PANEL, np.float32)
        start = -address(room) % (4 * _PANEL) // 4
        room[start : start + array.size] = array.reshape(-1)
        self._arrays.append(room)
        return address(room) + 4 * start


def panels(weights: Floats) -> Floats:
    """Return `weights` (inputs, outputs) as the kernel reads them: 16 columns after the other, the rest with zeros.

    A panel holds its 16 weights of the first input, then those of the second, and so on; up to 8 columns that are
    left over make a panel of 8.
    """
    inputs, outputs = weights.shape
    padded = np.pad(weights, ((0, 0), (0, -outputs % _LANES)))
    whole = padded.shape[1] // _PANEL * _PANEL
    parts = [padded[:, :whole].reshape(inputs, -1, _PANEL).transpose(1, 0, 2), padded[:, whole:]]
    return np.concatenate([part.reshape(-1) for part in parts])


def _arrange(steps: Sequence[Step]) -> tuple[dict[int, tuple[int, int]], int]:
    """Return where each buffer lies in a row of scratch and its stride, and the floats of such a row.

    Buffers that are not needed at the same time share their place. Raises ValueError for one that is read before it
    was written, or beyond its end.
    """
    widths: dict[int, int] = {}
    last_use: dict[int, int] = {}
    for number, step in enumerate(steps):
        for place in (step.a, step.b):
            if place is None or place.buffer is None:
                continue
            if place.start + place.width > widths.get(place.buffer, 0):
                raise ValueError(f"step {number} reads what no step before it wrote")
            last_use[place.buffer] = number
        if step.out.buffer is not None:
            written = step.out.start + step.out.width
            widths[step.out.buffer] = max(widths.get(step.out.buffer, 0), written)
            last_use[step.out.buffer] = number
    placed: dict[int, tuple[int, int]] = {}
    alive: list[tuple[int, int, int]] = []  # start, end, last use
    for number, step in enumerate(steps):
        if step.out.buffer is None or step.out.buffer in placed:
            continue
        alive = sorted(entry for entry in alive if entry[2] >= number)
        stride = widths[step.out.buffer] + -widths[step.out.buffer] % _PANEL
        at = 0
        for start, end, _ in alive:
            if at + stride <= start:
                break
            at = max(at, end)
        placed[step.out.buffer] = (at, stride)
        alive.append((at, at + stride, last_use[step.out.buffer]))
    floats = max(at + stride for at, stride in placed.values())
    if floats > _MAX_ROW_FLOATS:
        raise ValueError(f"{floats} floats a row")
    return placed, floats


def _check(step: Step, width: int) -> None:
    """Raise ValueError unless the operands of `step` lie where they can and have the widths that its kind needs."""
    for place in (step.a, step.b, step.out):
        if place is None:
            continue
        if place.constant is not None and place.constant.shape != (place.width,):
            raise ValueError(f"{step.kind}: constants {place.constant.shape} for a width of {place.width}")
        outside = place.buffer is None and place.constant is None and place.start + place.width > width
        if place.width < 1 or place.start < 0 or outside:
            raise ValueError(f"{step.kind}: floats {place.start} to {place.start + place.width} of {width}")
    fits = {
        # a linear map writes whole panels, so what it writes begins its buffer
        "linear": step.weights is not None
        and step.weights.shape == (step.a.width, step.out.width)
        and step.out.start == 0,
        "dot": step.weights is not None and step.weights.shape == (step.a.width, 1) and step.out.width == 1,
        "relu": step.a.width == step.out.width,
        "copy": step.a.width == step.out.width,
        "sum": step.a.width % step.out.width == 0,
        "sum_products": step.b is not None and step.b.width == step.a.width and step.out.width == 1,
    }
    elementwise = (
        step.b is not None and step.a.width == step.out.width and step.b.width in (1, step.out.width)
    )
    needs_bias = step.kind in ("linear", "dot")
    bias_fits = step.bias is not None and step.bias.shape == (step.out.width,)
    if not fits.get(step.kind, elementwise) or (needs_bias and not bias_fits):
        raise ValueError(f"the places of a step do not fit: {step.kind}")
    if step.out.constant is not None or step.out.buffer is None:
        raise ValueError(f"{step.kind}: a step writes to a buffer")
