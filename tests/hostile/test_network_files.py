"""Every network file that the engine refuses, one per refusal."""

import tracemalloc

import numpy as np
import pytest
from artifacts import OPSET, onnx_model
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from slimctr.errors import EngineError
from slimctr.scoring.network import NetworkRuntime
from slimctr.scoring.onnx_file import check_onnx

WIDTH = 3
NODES = [helper.make_node("ReduceSum", ["stored", "axes"], ["logit"], keepdims=0)]
WEIGHTS = {"axes": np.array([1], np.int64)}


def model(**settings):
    return onnx_model(NODES, WEIGHTS, WIDTH, **settings)


def load(proto, opset=OPSET):
    return NetworkRuntime(proto if isinstance(proto, bytes) else proto.SerializeToString(), WIDTH, opset)


def test_a_sound_network_runs():
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert load(model()).run(rows).tolist() == [3.0, 12.0]
    assert load(model()).run(rows[:0]).shape == (0,)


def test_the_two_spellings_of_the_default_domain():
    load(model(opset_imports=[helper.make_opsetid("ai.onnx", OPSET)]))


@pytest.mark.parametrize("data", [b"", b"hello world", b"\xff" * 40, b"ORTM" + b"\0" * 60])
def test_not_onnx(data):
    with pytest.raises(EngineError, match=r"network\.onnx"):
        load(data)


def test_truncated():
    data = model().SerializeToString()
    for size in range(len(data)):
        with pytest.raises(EngineError):
            load(data[:size])


@pytest.mark.parametrize(
    "opsets",
    [
        [("", 12)],
        [("", 26)],
        [("", 19)],
        [],
        [("", OPSET), ("com.microsoft", 1)],
        [("", OPSET), ("", OPSET)],
        [("com.microsoft", OPSET)],
    ],
)
def test_opsets(opsets):
    proto = model(opset_imports=[helper.make_opsetid(*opset) for opset in opsets])
    declared = next((version for domain, version in opsets if domain == ""), OPSET)
    with pytest.raises(EngineError, match="only the default domain"):
        load(proto, OPSET if declared == 19 else declared)


def test_operator_of_another_domain():
    nodes = [helper.make_node("Gelu", ["stored"], ["x"], domain="com.microsoft"), *NODES]
    with pytest.raises(EngineError, match=r"domain 'com\.microsoft'"):
        load(onnx_model(nodes, WEIGHTS, WIDTH))


def test_operator_of_another_domain_inside_a_branch():
    branch = helper.make_graph(
        [helper.make_node("Gelu", ["stored"], ["y"], domain="com.microsoft")],
        "branch",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    nodes = [helper.make_node("If", ["flag"], ["x"], then_branch=branch, else_branch=branch), *NODES]
    weights = {**WEIGHTS, "flag": np.array(True)}
    with pytest.raises(EngineError, match=r"domain 'com\.microsoft'"):
        load(onnx_model(nodes, weights, WIDTH))


def test_function():
    proto = model()
    proto.functions.append(
        helper.make_function("own", "f", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [])
    )
    with pytest.raises(EngineError, match="functions"):
        load(proto)


def test_training_information():
    proto = model()
    proto.training_info.add()
    with pytest.raises(EngineError, match="training information"):
        load(proto)


def test_external_data(tmp_path):
    (tmp_path / "secret").write_bytes(np.array([1], np.int64).tobytes())
    proto = model()
    external_data_helper.set_external_data(proto.graph.initializer[0], str(tmp_path / "secret"))
    proto.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(EngineError, match="external data"):
        load(proto)


def test_external_data_of_an_attribute():
    tensor = numpy_helper.from_array(np.array([1], np.int64))
    external_data_helper.set_external_data(tensor, "secret")
    nodes = [helper.make_node("Constant", [], ["axes"], value=tensor), *NODES]
    with pytest.raises(EngineError, match="external data"):
        load(onnx_model(nodes, {}, WIDTH))


def test_graphs_nested_without_end():
    data = b""
    for _ in range(200):
        # graph { node { attribute { g: ... } } } as one graph inside the other
        for tag in (0x32, 0x2A, 0x0A):
            data = bytes([tag]) + _varint(len(data)) + data
    data = bytes([0x3A]) + _varint(len(data)) + data
    with pytest.raises(EngineError, match="nested"):
        check_onnx(data, OPSET)


def _varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


@pytest.mark.parametrize(
    "change", ["width", "fixed batch", "input name", "output name", "type", "two inputs"]
)
def test_signature(change):
    proto = model()
    stored, logit = proto.graph.input[0], proto.graph.output[0]
    if change == "width":
        stored.type.tensor_type.shape.dim[1].dim_value = WIDTH + 1
    elif change == "fixed batch":
        stored.type.tensor_type.shape.dim[0].dim_value = 4
    elif change == "input name":
        stored.name = proto.graph.node[0].input[0] = "x"
    elif change == "output name":
        logit.name = proto.graph.node[0].output[0] = "y"
    elif change == "type":
        stored.type.tensor_type.elem_type = logit.type.tensor_type.elem_type = TensorProto.DOUBLE
    else:
        proto.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch"]))
    with pytest.raises(EngineError, match=r"network\.onnx"):
        load(proto)


def test_a_matrix_of_another_shape_or_type():
    network = load(model())
    for stored in (np.zeros((2, 4), np.float32), np.zeros((2, 3)), np.zeros(3, np.float32)):
        with pytest.raises(ValueError, match=r"float32 \(B, 3\)"):
            network.run(stored)


@pytest.mark.parametrize(
    "fields",
    [
        b"\x38\x05",  # the graph of the model is a number
        b"\x3a\x07\x0a\x05\x38" + b"\x80\x80\x80\x01",  # the domain of a node is the number 2^21
        b"\x42\x05\x08" + b"\x80\x80\x80\x01",  # the domain of an opset is the number 2^21
        b"\x42\x04\x12\x02ab",  # the version of an opset is text
    ],
)
def test_a_number_where_bytes_belong_is_refused_before_it_becomes_so_many_bytes(fields):
    tracemalloc.start()
    try:
        with pytest.raises(EngineError, match="well-formed"):
            check_onnx(fields, OPSET)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2**20
