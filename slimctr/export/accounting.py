"""Counts the bytes of an artifact by component, and those of the float original over the same vocabulary."""

import json
from functools import cache
from pathlib import Path

import torch

from model_store.artifact import GOLDEN_FILE, GOLDEN_VALUES_FILE, NETWORK_FILE, TABLES_FILE, VOCABULARY_FILE
from model_store.manifest import Bytes
from slimctr.export.onnx_network import FoldedNetwork, onnx_bytes
from slimctr.export.tables import StoredTables, tensor_name
from slimctr.networks import ModelSpec, build_model, float_spec


def count_bytes(
    spec: ModelSpec, tables: StoredTables, folder: Path, original_dim: int, vocabulary_bytes: int
) -> Bytes:
    """Return the byte figures of the files in `folder`; components add up to all files but the manifest.

    The original is the float32 model of the same network and golden rows with embeddings of `original_dim` and
    the vocabulary of training, whose file has `vocabulary_bytes`. Its network is exported to be measured, its
    tables are computed.
    """
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    payload = sum(tables.payload_by_role.values())
    components = {
        **tables.payload_by_role,
        "column_scales": tables.scale_bytes,
        "table_headers": sizes[TABLES_FILE] - payload - tables.scale_bytes,
        "network": sizes[NETWORK_FILE],
        "vocabulary": sizes[VOCABULARY_FILE],
        "golden": sizes[GOLDEN_FILE] + sizes[GOLDEN_VALUES_FILE],
    }
    original_payload = 4 * sum(spec.rows) * (original_dim + (1 if spec.wide else 0))
    original_tables = original_payload + _float_header_bytes(spec, original_dim)
    original_network = (
        _float_network_bytes(_float_twin(spec, original_dim).model_dump_json())
        if _is_compressed(spec) or spec.dim != original_dim
        else sizes[NETWORK_FILE]
    )
    return Bytes(
        payload=payload,
        payload_by_role=tables.payload_by_role,
        artifact_by_component=components,
        original_payload=original_payload,
        original_artifact=original_tables + original_network + vocabulary_bytes + components["golden"],
    )


def _is_compressed(spec: ModelSpec) -> bool:
    return (
        spec.network_bits is not None
        or spec.calibration is not None
        or any(
            part.kind not in ("float", "identity", "linear")
            for part in (*spec.tables, *spec.wide, *spec.expands, *spec.layers)
        )
    )


def _float_twin(spec: ModelSpec, dim: int) -> ModelSpec:
    """The float model of embeddings of `dim` with tables of one row, which its network does not see."""
    return float_spec(
        spec.network,
        dim=dim,
        field_names=spec.field_names,
        rows=[1] * len(spec.rows),
        pooling=spec.pooling,
        params=spec.params,
        negative_sampling_rate=spec.negative_sampling_rate,
    )


@cache
def _float_network_bytes(spec_json: str) -> int:
    """Bytes of the exported network; the variants of one model share the answer."""
    model = build_model(ModelSpec.model_validate_json(spec_json))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)  # the exporter leaves out biases that are zero
    return len(onnx_bytes(FoldedNetwork(model)))


def _float_header_bytes(spec: ModelSpec, dim: int) -> int:
    """Bytes before the tensor data of a safetensors file with float tables of `dim` columns."""
    widths = {"embedding": dim, "wide": 1} if spec.wide else {"embedding": dim}
    shapes = {
        tensor_name(role, field): [rows, width]
        for role, width in widths.items()
        for field, rows in zip(spec.field_names, spec.rows, strict=True)
    }
    header, end = {}, 0
    for name, (rows, width) in sorted(shapes.items()):
        begin, end = end, end + 4 * rows * width
        header[name] = {"dtype": "F32", "shape": [rows, width], "data_offsets": [begin, end]}
    length = len(json.dumps(header, separators=(",", ":")).encode())
    return 8 + -(-length // 8) * 8
