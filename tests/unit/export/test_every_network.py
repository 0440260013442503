"""Every network is exported as one clean graph, and onnxruntime scores it like torch at any batch size."""

import onnx
import onnxruntime
import pytest
import torch
from rounding import assert_same_logits, exact_logits, folded_error

from slimctr.export.onnx_network import OPSET, FoldedNetwork, onnx_bytes
from slimctr.native.network import runs_here
from slimctr.networks import NETWORKS, ExpandSpec, ModelSpec, TableSpec, build_model, float_spec
from slimctr.scoring.network import NetworkRuntime

pytestmark = pytest.mark.slow  # exports every network

FIELDS, DIM, RANK = 5, 8, 3
ON_THE_KERNEL = {"dnn", "deepfm", "dcn", "dcnv2", "nfm"}
NEEDLESS = {"Identity", "Dropout", "BatchNormalization", "Cast", "Constant", "Shape", "Expand", "Einsum"}
# Most nodes of a network with two hidden layers and a factored table; the expand, its reshape, the MLP, the head
# and the two slices of a wide network are among them.
NODES = {
    "dnn": 6,
    "deepfm": 20,
    "dcn": 21,
    "dcnv2": 21,
    "ipnn": 13,
    "autoint": 10 + 3 * 17,
    "nfm": 18,
    "fibinet": 34,
    "gdcn": 27,
    "xdeepfm": 28,
}


@pytest.fixture(scope="module", params=NETWORKS)
def model(request):
    """A network with random weights whose first field is of low rank."""
    spec = float_spec(
        request.param,
        dim=DIM,
        field_names=list("abcde"),
        rows=[9] * FIELDS,
        pooling=[None] * FIELDS,
        params={"hidden": [16, 12]},
    )
    low_rank = {
        "tables": (TableSpec(dim=RANK), *spec.tables[1:]),
        "expands": (ExpandSpec(kind="affine", rank=RANK), *spec.expands[1:]),
    }
    made = build_model(ModelSpec.model_validate({**dict(spec), **low_rank})).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def graph(model):
    return onnx.load_from_string(onnx_bytes(FoldedNetwork(model)))


def test_graph_scores_like_torch_at_any_batch_size(model, graph):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    stored = torch.randn(53, model.spec.stored_width, generator=torch.Generator().manual_seed(6))
    exact, error = exact_logits(model, stored), folded_error(model, stored)
    assert exact.std() > 0.1
    for rows in (1, 2, 53):
        (logits,) = session.run(None, {"stored": stored[:rows].numpy()})
        assert_same_logits(logits, exact[:rows], error[:rows])


def test_the_kernel_runs_networks_of_linear_maps_like_torch(model, graph):
    width = model.spec.stored_width
    network = NetworkRuntime(graph.SerializeToString(), width, OPSET)
    assert (network.runtime == "native") == (model.spec.network in ON_THE_KERNEL and runs_here())
    stored = torch.randn(53, width, generator=torch.Generator().manual_seed(6))
    exact, error = exact_logits(model, stored), folded_error(model, stored)
    for rows in (1, 2, 53):
        assert_same_logits(network.run(stored[:rows].numpy()), exact[:rows], error[:rows])


def test_graph_has_no_needless_node(model, graph):
    kinds = [node.op_type for node in graph.graph.node]
    assert not NEEDLESS & set(kinds)
    assert len(kinds) <= NODES[model.spec.network]


def test_graph_holds_the_weights_once_and_little_else(model, graph):
    folded = FoldedNetwork(model)
    weights = sum(parameter.numel() for parameter in folded.parameters())
    expands = sum(buffer.numel() for buffer in folded.buffers())
    constants = {
        kind: sum(
            torch.Size(tensor.dims).numel() for tensor in graph.graph.initializer if tensor.data_type == kind
        )
        for kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT64)
    }
    assert weights <= constants[onnx.TensorProto.FLOAT] <= weights + expands + 4
    pairs = FIELDS * (FIELDS - 1) // 2
    assert constants[onnx.TensorProto.INT64] <= 4 * pairs + 50


def test_codes_enter_layer_1_where_the_network_lets_them(model):
    before = model.spec.layers[0].inputs
    after = FoldedNetwork(model).folded.backbone.mlp.blocks[0].linear.in_features
    assert before - after == (DIM - RANK if NETWORKS[model.spec.network].mlp_reads_embeddings else 0)
