"""Runs the network of an artifact: on the native kernel where it can, else in ONNX Runtime."""

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from model_store.pacing import pause
from slimctr.native.network import NativeNetwork, runs_here
from slimctr.scoring.network_steps import read_steps
from slimctr.scoring.onnx_file import INPUT, OUTPUT, check_onnx
from slimctr.scoring.onnx_graph import Unread

if TYPE_CHECKING:
    from slimctr.scoring.onnx_session import OnnxSession

Floats = npt.NDArray[np.float32]
Runtime = Literal["native", "onnxruntime"]


class NetworkRuntime:
    """The network of one artifact; `run` may be called from several threads at once.

    `runtime` is "native" for a graph of linear maps and elementwise steps, one thread and a processor that has what
    the kernel needs. There, a row scores the same bits in every batch.
    """

    def __init__(self, data: bytes, width: int, opset: int, threads: int = 1) -> None:
        """Check and load `data`; raise EngineError when it is not the network that the format allows."""
        check_onnx(data, opset)
        self._width = width
        native = _native(data, width) if threads == 1 and runs_here() else None
        self.runtime: Runtime = "native" if native else "onnxruntime"
        self._run = native.run if native else _onnx_session(data, width, threads).run

    def run(self, stored: Floats) -> Floats:
        """Return the logits, float32 (B,), of the stored matrix, float32 (B, W)."""
        if stored.dtype != np.float32 or stored.ndim != 2 or stored.shape[1] != self._width:
            raise ValueError(
                f"the network reads float32 (B, {self._width}), not {stored.dtype} {stored.shape}"
            )
        return self._run(stored)


def _native(data: bytes, width: int) -> NativeNetwork | None:
    """Return the network for the native kernel, None when that cannot run it."""
    try:
        pause()
        return NativeNetwork(read_steps(data, INPUT, width, OUTPUT), width)
    except (Unread, ValueError):
        return None


def _onnx_session(data: bytes, width: int, threads: int) -> "OnnxSession":
    # imported where it is needed: 28 MB and 0.4 s that most scoring processes do without
    from slimctr.scoring.onnx_session import OnnxSession

    return OnnxSession(data, width, threads)
