import numpy as np
import onnx
import pytest
from artifacts import OPSET, onnx_model
from onnx import helper

from slimctr.native.network import runs_here
from slimctr.scoring.network import NetworkRuntime
from slimctr.scoring.onnx_session import BLOCK_ROWS, session_options
from slimctr.scoring.runtime import onnxruntime

WIDTH = 4


@pytest.fixture(scope="module")
def rounded() -> bytes:
    """The logit is the product of a row with codes 1, 2, 3, 4 of step 0.5."""
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "step"], ["weight"]),
        helper.make_node("MatMul", ["stored", "weight"], ["product"]),
        helper.make_node("Squeeze", ["product", "axes"], ["logit"]),
    ]
    weights = {
        "codes": np.array([[1], [2], [3], [4]], np.int8),
        "step": np.float32(0.5),
        "axes": np.array([1], np.int64),
    }
    return onnx_model(nodes, weights, WIDTH).SerializeToString()


def test_rounded_weights_are_multiplied_out_when_the_network_is_loaded(rounded, tmp_path):
    options = session_options(1)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(rounded, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert "DequantizeLinear" not in {node.op_type for node in optimized.graph.node}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [0, 1, BLOCK_ROWS, BLOCK_ROWS + 1, 3 * BLOCK_ROWS])
def test_rows_are_scored_in_blocks_and_stay_in_order(rounded, rows, threads):
    stored = np.random.default_rng(0).integers(-8, 8, (rows, WIDTH)).astype(np.float32)
    network = NetworkRuntime(rounded, WIDTH, OPSET, threads)
    assert network.runtime == ("native" if threads == 1 and runs_here() else "onnxruntime")
    logits = network.run(stored)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, stored @ np.array([0.5, 1, 1.5, 2], np.float32))
