"""Graphs as steps of the kernel: what is read gives what ONNX Runtime gives, what is not read says so."""

import numpy as np
import onnx
import pytest
from artifacts import OPSET, onnx_model
from onnx import helper
from rounding import assert_same_logits, graph_logits

from slimctr.errors import EngineError
from slimctr.native.network import NativeNetwork, runs_here
from slimctr.scoring.network import NetworkRuntime
from slimctr.scoring.network_steps import read_steps
from slimctr.scoring.onnx_file import check_onnx
from slimctr.scoring.onnx_graph import Unread
from slimctr.scoring.onnx_session import OnnxSession

WIDTH = 12
RNG = np.random.default_rng(4)
CONSTANTS = {
    "a": RNG.normal(size=(WIDTH, 5)).astype(np.float32),
    "b": RNG.normal(size=(5, WIDTH)).astype(np.float32),
    "square": RNG.normal(size=(WIDTH, WIDTH)).astype(np.float32),
    "same": np.array([-1, WIDTH], np.int64),
    "column": RNG.normal(size=(WIDTH, 1)).astype(np.float32),
    "five": RNG.normal(size=5).astype(np.float32),
    "row": RNG.normal(size=(1, WIDTH)).astype(np.float32),
    "codes": RNG.integers(-8, 8, (WIDTH, 5)).astype(np.int8),
    "scales": RNG.uniform(0.1, 1, 5).astype(np.float32),
    "block": RNG.normal(size=(3, 4)).astype(np.float32),
    "half": np.float32(0.5),
    "two": np.float32(2),
    "one": np.array([1], np.int64),
    "both": np.array([1, 2], np.int64),
    "from": np.array([2], np.int64),
    "to": np.array([-3], np.int64),
    "fields": np.array([-1, 3, 4], np.int64),
    "negative": np.array([0], np.int64),
    "end": np.array([2**63 - 1], np.int64),
}
TOTAL = ("ReduceSum", ["x", "one"], "logit", {"keepdims": 0})

READ = {
    "gemm": [("Gemm", ["stored", "b", "five"], "x", {"transB": 1}), TOTAL],
    "gemm of one output": [
        ("Gemm", ["stored", "column"], "x", {}),
        ("Squeeze", ["x", "one"], "logit", {}),
    ],
    "relu of a map that others need": [
        ("Gemm", ["stored", "a"], "map", {}),
        ("Relu", ["map"], "positive", {}),
        ("Sub", ["map", "positive"], "x", {}),
        TOTAL,
    ],
    "relu of a map that others need under another name": [
        ("MatMul", ["stored", "square"], "map", {}),
        ("Reshape", ["map", "same"], "again", {}),
        ("Relu", ["again"], "positive", {}),
        ("Sub", ["positive", "map"], "x", {}),
        TOTAL,
    ],
    "relu of a map": [("MatMul", ["stored", "a"], "map", {}), ("Relu", ["map"], "x", {}), TOTAL],
    "codes": [
        ("DequantizeLinear", ["codes", "scales"], "weights", {"axis": 1}),
        ("MatMul", ["stored", "weights"], "x", {}),
        TOTAL,
    ],
    "cross": [
        ("MatMul", ["stored", "column"], "s", {}),
        ("Mul", ["s", "stored"], "m", {}),
        ("Add", ["row", "m"], "x", {}),
        TOTAL,
    ],
    "pairs of fields": [
        ("Reshape", ["stored", "fields"], "e", {"allowzero": 1}),
        ("Add", ["e", "block"], "shifted", {}),
        ("ReduceSum", ["shifted", "one"], "s", {"keepdims": 0}),
        ("Pow", ["s", "two"], "ss", {}),
        ("Mul", ["shifted", "shifted"], "q", {}),
        ("ReduceSum", ["q", "one"], "sq", {"keepdims": 0}),
        ("Sub", ["ss", "sq"], "d", {}),
        ("Mul", ["half", "d"], "x", {}),
        TOTAL,
    ],
    "slices, joined": [
        ("Slice", ["stored", "from", "to", "one", "one"], "s", {}),
        ("Slice", ["s", "to", "end", "one"], "t", {}),
        ("Concat", ["t", "stored", "s"], "x", {"axis": 1}),
        TOTAL,
    ],
    "a product that is summed, and needed": [
        ("Mul", ["stored", "row"], "m", {}),
        ("ReduceSum", ["m", "one"], "s", {"keepdims": 1}),
        ("Mul", ["m", "s"], "x", {}),
        TOTAL,
    ],
    "a product by one number a row, summed": [
        ("MatMul", ["stored", "column"], "s", {}),
        ("Mul", ["stored", "s"], "x", {}),
        TOTAL,
    ],
}

UNREAD = {
    "another operator": [("Sigmoid", ["stored"], "x", {}), TOTAL],
    "scaled gemm": [("Gemm", ["stored", "a"], "x", {"alpha": 2.0}), TOTAL],
    "a matrix that is no constant": [
        ("Reshape", ["stored", "fields"], "e", {}),
        ("MatMul", ["e", "e"], "x", {}),
        TOTAL,
    ],
    "a cube": [("Pow", ["stored", "half"], "x", {}), TOTAL],
    "a sum over two axes": [
        ("Reshape", ["stored", "fields"], "e", {}),
        ("ReduceSum", ["e", "both"], "logit", {"keepdims": 0}),
    ],
    "a number of each row against others of all rows": [
        ("ReduceSum", ["stored", "one"], "s", {"keepdims": 0}),
        ("Mul", ["s", "stored"], "x", {}),
        TOTAL,
    ],
    "a step that is no number": [("Softmax", ["stored"], "x", {}), TOTAL],
    "another reshape": [("Reshape", ["stored", "negative"], "x", {}), TOTAL],
    "columns from the end on": [("Slice", ["stored", "end", "end", "one"], "x", {}), TOTAL],
    "fields joined": [
        ("Reshape", ["stored", "fields"], "e", {}),
        ("Concat", ["e", "e"], "x", {"axis": 1}),
        TOTAL,
    ],
}


def file_of(graph) -> bytes:
    nodes = [
        helper.make_node(kind, inputs, [output], **attributes) for kind, inputs, output, attributes in graph
    ]
    used = {name for node in nodes for name in node.input}
    constants = {name: value for name, value in CONSTANTS.items() if name in used}
    data = onnx_model(nodes, constants, WIDTH).SerializeToString()
    check_onnx(data, OPSET)
    return data


@pytest.mark.skipif(not runs_here(), reason="the kernel needs x86-64 with AVX2 and FMA")
@pytest.mark.parametrize("name", READ)
def test_what_is_read_scores_as_in_onnx_runtime(name):
    data = file_of(READ[name])
    stored = np.random.default_rng(6).normal(size=(101, WIDTH)).astype(np.float32)
    exact, error = graph_logits(data, stored)
    assert exact.std() > 0.1
    assert_same_logits(OnnxSession(data, WIDTH).run(stored), exact, error, "ONNX Runtime")
    logits = NativeNetwork(read_steps(data, "stored", WIDTH, "logit"), WIDTH).run(stored)
    assert_same_logits(logits, exact, error, "kernel")


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read_says_so(name):
    with pytest.raises(Unread):
        read_steps(file_of(UNREAD[name]), "stored", WIDTH, "logit")


def test_a_relu_after_its_map_is_part_of_it():
    kinds = [step.kind for step in read_steps(file_of(READ["relu of a map"]), "stored", WIDTH, "logit")]
    assert kinds == ["linear", "sum"]


def test_a_sum_of_squares_is_one_step():
    steps = read_steps(file_of([("Mul", ["stored", "stored"], "x", {}), TOTAL]), "stored", WIDTH, "logit")
    assert [step.kind for step in steps] == ["sum_products"]


def test_an_operator_without_inputs():
    data = onnx.load_from_string(file_of(READ["relu of a map"]))
    del data.graph.node[1].input[:]
    with pytest.raises(Unread, match="Relu of 0 inputs"):
        read_steps(data.SerializeToString(), "stored", WIDTH, "logit")


def test_a_constant_that_no_memory_could_hold():
    data = onnx.load_from_string(file_of(READ["gemm"]))
    data.graph.initializer[0].dims[:] = [2**62] * 20
    with pytest.raises(Unread, match="values for"):
        read_steps(data.SerializeToString(), "stored", WIDTH, "logit")


def test_an_input_whose_type_is_cut_short_is_left_to_onnx_runtime():
    """`check_onnx` does not look into types: the bytes reach the reader of the graph."""
    data = onnx.load_from_string(file_of(READ["gemm"]))
    cut = data.graph.SerializeToString() + b"\x5a\x03\x12\x01\xff"  # one more input, of a type of one byte
    data.ClearField("graph")
    size = len(cut)
    whole = data.SerializeToString() + b"\x3a" + bytes([size & 0x7F | 0x80, size >> 7]) + cut
    check_onnx(whole, OPSET)
    with pytest.raises(Unread):
        read_steps(whole, "stored", WIDTH, "logit")
    with pytest.raises(EngineError, match=r"network\.onnx"):
        NetworkRuntime(whole, WIDTH, OPSET)


@pytest.mark.parametrize("width", [WIDTH - 1, WIDTH + 1])
def test_another_width(width):
    with pytest.raises(Unread, match="inputs"):
        read_steps(file_of(READ["gemm"]), "stored", width, "logit")


@pytest.mark.parametrize("name", READ)
def test_altered_bytes_are_read_refused_or_left_to_onnx_runtime(name):
    """Whatever steps altered bytes give, they fit the kernel or are refused before it runs."""
    data = file_of(READ[name])
    stored = np.ones((7, WIDTH), np.float32)
    rng = np.random.default_rng(5)
    outcomes = set()
    for _ in range(1500):
        altered = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            altered[rng.integers(len(altered))] = rng.choice(
                [0, 1, 2, 5, 0x7F, 0x80, 0xFF, rng.integers(256)]
            )
        try:
            network = NativeNetwork(read_steps(bytes(altered), "stored", WIDTH, "logit"), WIDTH)
        except (Unread, ValueError) as problem:
            outcomes.add(type(problem))
            continue
        assert network.run(stored).shape == (7,)
        outcomes.add(NativeNetwork)
    assert {Unread, NativeNetwork} <= outcomes
