"""The exported graph: small, clean, valid, of a free batch size; refusals."""

import onnx
import pytest
import torch

from slimctr.compression.data import CompressionData
from slimctr.compression.method import find_method
from slimctr.errors import ExportError
from slimctr.export.onnx_network import OPSET, FoldedNetwork, _check, onnx_bytes


@pytest.fixture(scope="module")
def small(run, dataset):
    method = find_method("feature_pca")
    config = method.configure({"table_rank": 3, "mlp_rank_ratio": 0.25})
    return method.apply(run.model, CompressionData(dataset, run.config), config).model


@pytest.fixture(scope="module")
def graph(small):
    return onnx.load_from_string(onnx_bytes(FoldedNetwork(small)))


def test_graph_has_no_needless_node(graph):
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("Gemm") == 1 + 1 + 2 + 2 + 1  # sum of the embeddings, folded layer 1, two pairs, head
    assert not {"Identity", "Dropout", "BatchNormalization", "Transpose", "Cast", "Constant"} & set(kinds)
    assert len(kinds) < 30


def test_graph_has_one_opset_and_no_source_notes(graph, small):
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", OPSET)]
    data = graph.SerializeToString()
    assert b".py" not in data
    assert b"stack_trace" not in data
    weights = sum(4 * p.numel() for p in FoldedNetwork(small).parameters())
    matrix = 4 * small.spec.code_width * 40
    assert len(data) < weights + matrix + 5_000


def test_batch_size_is_free(graph):
    sizes = graph.graph.input[0].type.tensor_type.shape.dim
    assert sizes[0].dim_param
    assert not sizes[0].HasField("dim_value")


def test_initializers_are_float32(graph):
    types = {tensor.data_type for tensor in graph.graph.initializer if len(tensor.dims) == 2}
    assert types == {onnx.TensorProto.FLOAT}
    assert not any(tensor.external_data for tensor in graph.graph.initializer)


def test_first_layer_takes_codes_and_wide_values_pass_by(graph, small):
    inputs = {tuple(tensor.dims) for tensor in graph.graph.initializer}
    assert (48, small.spec.code_width) in inputs
    assert (small.spec.code_width, 8) in inputs  # the sum of the embeddings
    assert (small.spec.code_width, 5 * 8) not in inputs


def test_export_is_silent_and_repeatable(small, graph, recwarn, capfd):
    assert onnx_bytes(FoldedNetwork(small)) == graph.SerializeToString(deterministic=True)
    assert not recwarn.list
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_export_leaves_gradients_of_the_model_on(small):
    FoldedNetwork(small)
    assert all(parameter.requires_grad for parameter in small.parameters())
    assert torch.is_grad_enabled()


def test_graph_of_another_shape_is_refused(graph):
    with pytest.raises(ExportError, match="inputs and outputs"):
        _check(graph, 99)
