"""Reads and writes infer bodies of the Open Inference Protocol: JSON, and JSON followed by binary tensors."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from model_store.names import NameRule
from service.errors import BadHeader, BadJson, BadRequest, BadTensor, InvalidInput, NotOffered, TooLarge
from service.wire.json_body import load_json
from service.wire.tensors import DATATYPE, ITEM_BYTES, Integers, check_shape, from_bytes, from_json
from slimctr.errors import FeatureError
from slimctr.features import EncodedBatch, Encoder, FeatureSchema
from slimctr.native.json_pieces import PIECE_BYTES, Path, discard

IDS = "sparse_ids"
OUTPUTS = ("pctr", "logit")
BINARY_SIZE = "binary_data_size"
# Parameters of extensions that this service does not have; ignoring them would give another meaning to the answer.
NOT_OFFERED = ("sequence_id", "sequence_start", "sequence_end", "shared_memory_region", "classification")
MAX_ID_LENGTH = 256
MAX_MEMBERS = 2**14
"""Members of an object, or inputs, of a body that is large."""
_SCALARS = (str, int, float, bool)
# Reading ids takes this part of the time that JSON of as many bytes takes.
BINARY_WEIGHT = 1 / 16


class Infer(NamedTuple):
    """An infer request: its tensors by name, and which outputs it wants in binary (True) or JSON.

    `raw` is a body that is the one tensor itself, until the model says what shape that has.
    """

    inputs: Mapping[str, Integers]
    outputs: Mapping[str, bool]
    id: str | None = None
    parameters: Mapping[str, Any] = MappingProxyType({})
    raw: bytes | None = None

    @property
    def rows(self) -> int:
        """Rows by the first tensor that says it: ids, or the offsets of a bag."""
        if IDS in self.inputs:
            return len(self.inputs[IDS])
        return next((len(t) - 1 for name, t in self.inputs.items() if name.endswith(".offsets")), 0)

    def text(self, name: str, rule: NameRule) -> str | None:
        """Return a string parameter; raise BadRequest when it is something else."""
        value = self.parameters.get(name)
        if value is not None and not (isinstance(value, str) and rule.fits(value)):
            raise BadRequest(f"parameter '{name}' must be a string of {rule.meaning}")
        return value

    @property
    def timeout_us(self) -> int | None:
        """Return the `timeout` parameter in microseconds; raise BadRequest when it is no positive integer."""
        value = self.parameters.get("timeout")
        if value is not None and (type(value) is not int or value < 0):
            raise BadRequest("parameter 'timeout' must be a number of microseconds")
        return value


def input_names(schema: FeatureSchema) -> list[str]:
    """Return the tensors a request must bring, in metadata order."""
    names = [IDS] if schema.single else []
    for position in schema.multi:
        names += [f"{schema.names[position]}.values", f"{schema.names[position]}.offsets"]
    return names


def weight_bytes(size_bytes: int, header: str | None) -> int:
    """Return how many bytes of JSON take as long to read and encode as a body of `size_bytes`."""
    json_bytes = size_bytes
    if header is not None and header.isascii() and header.isdigit():
        json_bytes = min(size_bytes, int(header[:18]))
    return json_bytes + int((size_bytes - json_bytes) * BINARY_WEIGHT)


def read_infer(body: bytes, header: str | None, deadline_s: float = math.inf) -> Infer:
    """Return the request; `header` is Inference-Header-Content-Length, the bytes of the JSON part.

    Raises BadHeader, BadJson, BadRequest, BadTensor, NotOffered, and DeadlineExceeded (monotonic clock).
    """
    if header is None:
        return _read_json(body, memoryview(b""), deadline_s)
    if not (header.isascii() and header.isdigit()) or len(header) > 18 or int(header) > len(body):
        raise BadHeader(f"Inference-Header-Content-Length '{header[:40]}' is no length within the body")
    json_bytes = int(header)
    if json_bytes == 0:
        return Infer({}, dict.fromkeys(OUTPUTS, True), raw=body)
    return _read_json(body[:json_bytes], memoryview(body)[json_bytes:], deadline_s)


def fitted(infer: Infer, schema: FeatureSchema, max_rows: int) -> Infer:
    """Return the request once its tensors are those of the model; raise BadHeader, BadTensor, TooLarge."""
    expected = input_names(schema)
    if infer.raw is not None:
        infer = infer._replace(inputs={IDS: _raw_ids(infer.raw, expected, len(schema.single))}, raw=None)
    for name in infer.inputs:
        if name not in expected:
            raise BadTensor(f"input '{name[:80]}' is unknown; expected are {', '.join(expected)}")
    for name in expected:
        if name not in infer.inputs:
            raise BadTensor(f"input '{name}' is missing")
    _check_tensors(infer, schema, max_rows)
    return infer


def encode(infer: Infer, encoder: Encoder) -> EncodedBatch:
    """Return the batch of the encoded ids in the request; raise BadTensor."""
    schema = encoder.schema
    ids = infer.inputs[IDS] if schema.single else np.empty((infer.rows, 0), np.int64)
    bags = [
        (infer.inputs[f"{schema.names[i]}.values"], infer.inputs[f"{schema.names[i]}.offsets"])
        for i in schema.multi
    ]
    try:
        return encoder.from_ids(ids, bags)
    except FeatureError as error:
        raise BadTensor(str(error)) from None


def write_infer(
    infer: Infer,
    model: str,
    version: int,
    parameters: Mapping[str, Any],
    scores: Mapping[str, npt.NDArray[np.float32]],
) -> tuple[bytes, int | None]:
    """Return the body and, when any output is binary, the length of its JSON part; `scores` are float32 (B,)."""
    outputs = []
    blobs = []
    for name, binary in infer.outputs.items():
        tensor = scores[name]
        output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": [len(tensor), 1]}
        if binary:
            blobs.append(tensor.astype("<f4").tobytes())
            output["parameters"] = {BINARY_SIZE: len(blobs[-1])}
        else:
            output["data"] = tensor
        outputs.append(output)
    document: dict[str, Any] = {"model_name": model, "model_version": str(version)}
    if infer.id is not None:
        document["id"] = infer.id
    document["parameters"] = parameters
    document["outputs"] = outputs
    header = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return (header + b"".join(blobs), len(header)) if blobs else (header, None)


def _read_json(data: bytes, blobs: memoryview, deadline_s: float) -> Infer:
    try:
        document = load_json(data, deadline_s, _watch)
    except InvalidInput as error:  # NaN, which is no integer either
        raise BadTensor(str(error)) from None
    try:
        if not isinstance(document, dict):
            raise BadJson("the body must be one JSON object")
        return _read_document(document, blobs)
    finally:
        if isinstance(document, dict) and len(data) > PIECE_BYTES:
            discard(document.get("inputs"))


def _watch(path: Path, whole: Any) -> None:
    if isinstance(whole, dict) and len(whole) > MAX_MEMBERS:
        raise BadRequest(f"{'/'.join(map(str, path)) or 'the request'} has more than {MAX_MEMBERS} members")
    if path == ("inputs",) and len(whole) > MAX_MEMBERS:
        raise BadRequest(f"more than {MAX_MEMBERS} inputs are more than any model has")


def _read_document(document: dict[str, Any], blobs: memoryview) -> Infer:
    parameters = _parameters(document, "the request")
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not all(isinstance(item, dict) for item in inputs):
        raise BadRequest("inputs must be a list of tensors")
    tensors: dict[str, Integers] = {}
    for item in inputs:
        name = item.get("name")
        if not isinstance(name, str) or name in tensors:
            raise BadTensor(f"input '{str(name)[:80]}': a name is a string that no other input has")
        tensors[name], blobs = _read_tensor(item, name, blobs)
    if len(blobs):
        raise BadTensor(f"{len(blobs)} bytes are left after the last tensor")
    request_id = document.get("id")
    if request_id is not None and (not isinstance(request_id, str) or len(request_id) > MAX_ID_LENGTH):
        raise BadRequest(f"id must be a string of at most {MAX_ID_LENGTH} characters")
    return Infer(tensors, _read_outputs(document, parameters), request_id, parameters)


def _raw_ids(body: bytes, expected: list[str], singles: int) -> Integers:
    if expected != [IDS]:
        raise BadHeader(
            f"Inference-Header-Content-Length 0 is for models of one input; this one has {', '.join(expected)}"
        )
    row_bytes = ITEM_BYTES * singles
    if len(body) % row_bytes:
        raise BadTensor(f"input '{IDS}': {len(body)} bytes are no whole number of rows of {row_bytes} bytes")
    return from_bytes(IDS, (len(body) // row_bytes, singles), memoryview(body))


def _read_tensor(item: dict[str, Any], name: str, blobs: memoryview) -> tuple[Integers, memoryview]:
    """Return the tensor and the blobs that are left."""
    shape = check_shape(name, item.get("shape"))
    parameters = _parameters(item, f"input '{name}'")
    size = parameters.get(BINARY_SIZE)
    if item.get("datatype") != DATATYPE:
        raise BadTensor(
            f"input '{name}': datatype must be {DATATYPE}, not '{str(item.get('datatype'))[:40]}'"
        )
    if size is None:
        if "data" not in item:
            raise BadTensor(f"input '{name}' has neither data nor {BINARY_SIZE}")
        return from_json(name, shape, item["data"]), blobs
    if "data" in item:
        raise BadTensor(f"input '{name}': data and {BINARY_SIZE} exclude each other")
    if type(size) is not int or not 0 <= size <= len(blobs):
        raise BadTensor(
            f"input '{name}': {BINARY_SIZE} {size!r} is no size within the {len(blobs)} bytes left"
        )
    return from_bytes(name, shape, blobs[:size]), blobs[size:]


def _read_outputs(document: dict[str, Any], parameters: Mapping[str, Any]) -> dict[str, bool]:
    default = _flag(parameters, "binary_data_output", False)
    requested = document.get("outputs")
    if requested is None or requested == []:
        return dict.fromkeys(OUTPUTS, default)
    if not isinstance(requested, list) or not all(isinstance(item, dict) for item in requested):
        raise BadRequest("outputs must be a list of objects")
    outputs = {}
    for item in requested:
        name = item.get("name")
        if name not in OUTPUTS:
            raise BadTensor(f"output '{str(name)[:80]}' is unknown; there are {', '.join(OUTPUTS)}")
        outputs[name] = _flag(_parameters(item, f"output '{name}'"), "binary_data", default)
    return outputs


def _parameters(item: dict[str, Any], owner: str) -> dict[str, Any]:
    parameters = item.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest(f"parameters of {owner} must be an object")
    for name, value in parameters.items():
        if not isinstance(value, _SCALARS):
            raise BadRequest(f"parameter '{name[:80]}' of {owner} must be a string, number or boolean")
        if name in NOT_OFFERED and value not in (0, False, ""):
            raise NotOffered(f"'{name}' is not offered")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f"parameter '{name}' must be a boolean")
    return value


def _check_tensors(infer: Infer, schema: FeatureSchema, max_rows: int) -> None:
    ids = infer.inputs.get(IDS)
    if ids is not None and (ids.ndim != 2 or ids.shape[1] != len(schema.single)):
        raise BadTensor(f"input '{IDS}': shape must be [rows, {len(schema.single)}], not {list(ids.shape)}")
    for name, tensor in infer.inputs.items():
        if name != IDS and tensor.ndim != 1:
            raise BadTensor(f"input '{name}': shape must be [n], not {list(tensor.shape)}")
    rows = infer.rows
    if rows > max_rows:
        raise TooLarge(f"{rows} rows are above max_request_rows ({max_rows})")
    for position in schema.multi:
        _check_offsets(schema.names[position], infer.inputs, rows)


def _check_offsets(field_name: str, inputs: Mapping[str, Integers], rows: int) -> None:
    offsets, values = inputs[f"{field_name}.offsets"], inputs[f"{field_name}.values"]
    fits = len(offsets) == rows + 1 > 0 and offsets[0] == 0 and offsets[-1] == len(values)
    if not fits or bool((np.diff(offsets) < 0).any()):
        raise BadTensor(
            f"input '{field_name}.offsets': {rows + 1} entries must rise from 0 to {len(values)}, the length of values"
        )
