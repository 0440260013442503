"""A network as one ONNX Runtime session with fixed threads and no hidden growth."""

from typing import Any

import numpy as np
import numpy.typing as npt

from slimctr.errors import EngineError
from slimctr.scoring.onnx_file import INPUT, OUTPUT
from slimctr.scoring.runtime import onnxruntime

Floats = npt.NDArray[np.float32]

# More rows at once push each other's activations out of the cache between two operators: 5 % slower at 2,048.
BLOCK_ROWS = 512
_ERRORS_ONLY = 3


class OnnxSession:
    """A session over the bytes of an ONNX file that `check_onnx` accepted."""

    def __init__(self, data: bytes, width: int, threads: int = 1) -> None:
        """Load `data`; raise EngineError when it is not the network that the format allows."""
        try:
            self._session: Any = onnxruntime.InferenceSession(
                data, session_options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as problem:  # ONNX Runtime raises its own unrelated classes
            raise EngineError(f"network.onnx cannot be loaded: {problem}") from None
        self._block_rows = BLOCK_ROWS * threads
        _check_signature("input", self._session.get_inputs(), INPUT, [width])
        _check_signature("output", self._session.get_outputs(), OUTPUT, [])

    def run(self, stored: Floats) -> Floats:
        """Return the logits, float32 (B,), of the stored matrix, float32 (B, W); memory is that of `BLOCK_ROWS`."""
        rows, block = len(stored), self._block_rows
        if 0 < rows <= block:
            return self._run_block(stored)
        logits = np.empty(rows, np.float32)
        for start in range(0, rows, block):
            logits[start : start + block] = self._run_block(stored[start : start + block])
        return logits

    def _run_block(self, stored: Floats) -> Floats:
        logits: Floats = self._session.run((OUTPUT,), {INPUT: stored})[0]
        if logits.shape != (len(stored),):
            raise EngineError(f"the network gives logits {logits.shape} for {len(stored)} rows")
        return logits


def session_options(threads: int) -> Any:
    """Return the options of a session whose calls use so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # arena and memory pattern keep the memory of the largest batch for ever; plain allocation frees it
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    # else rounded weights would be multiplied out again in every call: 214 us a row in place of 56
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # a spinning pool thread would take the core of the event loop between batches
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _ERRORS_ONLY
    return options


def _check_signature(kind: str, values: list[Any], name: str, trailing: list[int]) -> None:
    got = [(value.name, value.type, value.shape) for value in values]
    fits = (
        len(values) == 1
        and got[0][:2] == (name, "tensor(float)")
        and len(got[0][2]) == 1 + len(trailing)
        and not isinstance(got[0][2][0], int)
        and got[0][2][1:] == trailing
    )
    if not fits:
        shape = ", ".join(["batch", *map(str, trailing)])
        raise EngineError(f"network.onnx has the {kind}s {got}; one '{name}' float32 ({shape}) is needed")
