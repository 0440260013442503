"""The folded network as a small ONNX graph: `stored` (B, W) float32 to `logit` (B,) float32."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slimctr.errors import ExportError
from slimctr.networks import CtrModel
from slimctr.networks.folding import folded

OPSET = 20
OPSET_OF_4_BITS = 21
_QUIET_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class FoldedNetwork(nn.Module):
    """`stored` (B, W) to logits (B,): `CtrModel.network` with its constants folded and without its tables."""

    def __init__(self, model: CtrModel) -> None:
        super().__init__()
        self.folded = folded(model)
        self.bits = model.spec.network_bits

    @property
    def opset(self) -> int:
        """The opset of its graph: codes of 4 bits need a newer one."""
        return OPSET_OF_4_BITS if self.bits == 4 else OPSET

    def forward(self, stored: Tensor) -> Tensor:
        """Return logits (B,)."""
        return self.folded.network(stored)


def onnx_bytes(network: FoldedNetwork) -> bytes:
    """Return the serialized ONNX graph of `network`; batch size is free.

    Weight matrices that were rounded are stored as codes with a scale per output, which the runtime multiplies out
    when it loads the graph; every other initializer is float32. Raises ExportError when the graph is not what
    docs/artifact-format.md allows.
    """
    example = torch.zeros(4, network.folded.spec.stored_width)
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=network.opset,
            input_names=["stored"],
            output_names=["logit"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    graph = _without_traces(program.model_proto)
    for name, (codes, scales) in network.folded.matrix_codes.items():
        _store_codes(graph.graph, f"folded.backbone.{name}.weight", codes, scales, network.bits)
    _check(graph, network.folded.spec.stored_width)
    return graph.SerializeToString(deterministic=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which reports its own internals as warnings."""
    loggers = [logging.getLogger(name) for name in _QUIET_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what the exporter notes about its own source: bytes and file paths that no reader needs."""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    del model.functions[:]
    model.graph.name = "network"
    return model


def _store_codes(graph: onnx.GraphProto, name: str, codes: Tensor, scales: Tensor, bits: int) -> None:
    """Replace the matrix (out, in) by codes and scales; the exporter may hold it transposed, as (in, out)."""
    matrix = (codes * scales.unsqueeze(1)).numpy()
    for initializer in graph.initializer:
        if initializer.data_type != onnx.TensorProto.FLOAT or len(initializer.dims) != 2:
            continue
        for axis, stored, held in ((0, matrix, codes), (1, matrix.T, codes.T)):
            if tuple(initializer.dims) != stored.shape or not _holds(initializer, stored):
                continue
            parts = (f"{initializer.name}.codes", f"{initializer.name}.scales")
            target = initializer.name
            graph.initializer.remove(initializer)
            graph.initializer.extend(
                [
                    _code_tensor(parts[0], held.numpy().astype(np.int8), bits),
                    onnx.numpy_helper.from_array(scales.numpy(), parts[1]),
                ]
            )
            graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", parts, [target], axis=axis))
            return
    raise ExportError(f"the exported network has no matrix of '{name}' to store as codes")


def _code_tensor(name: str, codes: NDArray[np.int8], bits: int) -> onnx.TensorProto:
    """Codes in bytes, or two to a byte with the first in the low half."""
    if bits == 8:
        return onnx.numpy_helper.from_array(np.ascontiguousarray(codes), name)
    flat = np.resize(codes.reshape(-1), codes.size + codes.size % 2).astype(np.uint8) & 15
    packed = (flat[0::2] | flat[1::2] << 4).tobytes()
    return onnx.helper.make_tensor(name, onnx.TensorProto.INT4, codes.shape, packed, raw=True)


def _holds(initializer: onnx.TensorProto, matrix: np.ndarray) -> bool:
    return bool(np.array_equal(onnx.numpy_helper.to_array(initializer), matrix))


def _check(model: onnx.ModelProto, width: int) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as problem:
        raise ExportError(f"the exported network is not valid ONNX: {problem}") from problem
    if domains := {node.domain for node in model.graph.node} - {""}:
        raise ExportError(f"the exported network uses operators of {', '.join(sorted(domains))}")
    shapes = {
        value.name: [size.dim_value or None for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    if shapes != {"stored": [None, width], "logit": [None]}:
        raise ExportError(f"the exported network has inputs and outputs {shapes}, expected a free batch size")
    kinds = onnx.TensorProto
    allowed = {kinds.FLOAT, kinds.INT64, kinds.INT8, kinds.INT4}
    if wrong := [tensor.name for tensor in model.graph.initializer if tensor.data_type not in allowed]:
        raise ExportError(
            f"initializers {wrong} of the exported network are neither float32 nor codes nor shapes"
        )
