"""The folded network as a small ONNX graph: `stored` (B, W) float32 to `logit` (B,) float32."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch

from slimctr.errors import ExportError
from slimctr.export.folding import FoldedNetwork

OPSET = 20
_QUIET_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def onnx_bytes(network: FoldedNetwork) -> bytes:
    """Return the serialized ONNX graph of `network`; batch size is free, initializers are float32.

    Raises ExportError when the graph is not what docs/artifact-format.md allows.
    """
    example = torch.zeros(4, network.folded.spec.stored_width)
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["stored"],
            output_names=["logit"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    graph = _without_traces(program.model_proto)
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
    allowed = {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    if wrong := [tensor.name for tensor in model.graph.initializer if tensor.data_type not in allowed]:
        raise ExportError(f"initializers {wrong} of the exported network are neither float32 nor shapes")
