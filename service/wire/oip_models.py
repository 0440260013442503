"""What the Open Inference Protocol says about the server and its models: metadata and configuration."""

from typing import Any

import slimctr
from service.wire.oip import OUTPUTS, input_names
from service.wire.tensors import DATATYPE
from slimctr.features import FeatureSchema

PLATFORM = "slimctr_artifact"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


def server_metadata() -> dict[str, Any]:
    """Return the answer of `GET /v2`."""
    return {"name": "slimctr", "version": slimctr.__version__, "extensions": EXTENSIONS}


def model_metadata(model: str, versions: list[int], schema: FeatureSchema) -> dict[str, Any]:
    """Return names, types and shapes of the tensors; -1 is a variable dimension."""
    return {
        "name": model,
        "versions": [str(version) for version in versions],
        "platform": PLATFORM,
        "inputs": [
            {"name": name, "datatype": DATATYPE, "shape": shape} for name, shape in _input_shapes(schema)
        ],
        "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, 1]} for name in OUTPUTS],
    }


def model_config(
    model: str, versions: list[int], schema: FeatureSchema, max_batch_rows: int
) -> dict[str, Any]:
    """Return the model configuration; `max_batch_size` is 0 because the shapes name the batch dimension themselves."""
    return {
        "name": model,
        "platform": PLATFORM,
        "backend": "slimctr",
        "max_batch_size": 0,
        "input": [
            {"name": name, "data_type": "TYPE_INT64", "dims": shape} for name, shape in _input_shapes(schema)
        ],
        "output": [{"name": name, "data_type": "TYPE_FP32", "dims": [-1, 1]} for name in OUTPUTS],
        "version_policy": {"specific": {"versions": versions}},
        "dynamic_batching": {"preferred_batch_size": [max_batch_rows], "max_queue_delay_microseconds": 0},
    }


def _input_shapes(schema: FeatureSchema) -> list[tuple[str, list[int]]]:
    names = input_names(schema)
    singles = len(schema.single)
    return [
        (name, [-1, singles] if position == 0 and singles else [-1]) for position, name in enumerate(names)
    ]
