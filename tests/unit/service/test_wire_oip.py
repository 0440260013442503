import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from artifacts import SCHEMA, VALUES

from model_store.names import LABEL
from service.errors import BadHeader, BadJson, BadRequest, BadTensor, NotOffered, ServiceError, TooLarge
from service.wire import oip, oip_models, tensors
from slimctr.features import Encoder, FeatureSchema, Vocabulary

ENCODER = Encoder(SCHEMA, Vocabulary.build(SCHEMA, VALUES))
IDS = [[1, 2, 3, 4], [-1, 999, 0, 1]]
SINGLE = FeatureSchema.parse(
    {"fields": [{"name": "ad", "kind": "categorical"}, {"name": "u", "kind": "categorical"}]}
)


def tensor(name: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": "INT64", "data": data}


def document(**changes: Any) -> dict[str, Any]:
    inputs = [
        tensor("sparse_ids", [2, 4], IDS),
        tensor("tags.values", [3], [1, -1, 2]),
        tensor("tags.offsets", [3], [0, 1, 3]),
    ]
    return {"id": "x", "inputs": inputs, **changes}


def read(body: dict[str, Any], max_rows: int = 10, schema: FeatureSchema = SCHEMA) -> oip.Infer:
    return oip.fitted(oip.read_infer(json.dumps(body).encode(), None), schema, max_rows)


def binary(*blobs: bytes, sizes: list[int] | None = None, **changes: Any) -> tuple[bytes, str]:
    """Return body and header of a request whose three tensors are binary."""
    body = document(**changes)
    for item, size in zip(body["inputs"], sizes or [len(blob) for blob in blobs], strict=True):
        del item["data"]
        item["parameters"] = {"binary_data_size": size}
    head = json.dumps(body).encode()
    return head + b"".join(blobs), str(len(head))


BLOBS = [np.array(values, "<i8").tobytes() for values in (IDS, [1, -1, 2], [0, 1, 3])]


def test_json_nested_flat_and_binary_tensors_are_one_request() -> None:
    nested = read(document())
    flat = document()
    flat["inputs"][0]["data"] = [value for row in IDS for value in row]
    raw = oip.fitted(oip.read_infer(*binary(*BLOBS)), SCHEMA, 10)
    for other in (read(flat), raw):
        for name, values in nested.inputs.items():
            np.testing.assert_array_equal(other.inputs[name], values)
    assert nested.rows == 2


def test_ids_outside_a_table_are_oov_and_minus_one_is_missing() -> None:
    batch = oip.encode(read(document()), ENCODER)
    assert batch.ids[1, 1] == 0
    assert batch.oov.sum() == 2
    assert batch.missing.sum() == 2


def test_an_empty_batch_is_legal() -> None:
    inputs = [
        tensor("sparse_ids", [0, 4], []),
        tensor("tags.values", [0], []),
        tensor("tags.offsets", [1], [0]),
    ]
    infer = read({"inputs": inputs})
    assert len(oip.encode(infer, ENCODER)) == 0
    body, _ = oip.write_infer(infer, "m", 1, {}, {name: np.empty(0, np.float32) for name in oip.OUTPUTS})
    assert [output["shape"] for output in json.loads(body)["outputs"]] == [[0, 1], [0, 1]]


def test_a_raw_body_is_the_one_tensor_of_a_one_input_model() -> None:
    body = np.array([[1, 2], [3, 4], [5, 6]], "<i8").tobytes()
    infer = oip.fitted(oip.read_infer(body, "0"), SINGLE, 10)
    assert infer.inputs["sparse_ids"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert infer.outputs == {"pctr": True, "logit": True}
    with pytest.raises(BadTensor, match="whole number of rows"):
        oip.fitted(oip.read_infer(body[:-8], "0"), SINGLE, 10)
    with pytest.raises(BadHeader, match="one input"):
        oip.fitted(oip.read_infer(body, "0"), SCHEMA, 10)


def test_outputs_default_to_all_and_their_own_flag_beats_the_general_one() -> None:
    assert read(document()).outputs == {"pctr": False, "logit": False}
    asked = document(
        parameters={"binary_data_output": True},
        outputs=[{"name": "logit"}, {"name": "pctr", "parameters": {"binary_data": False}}],
    )
    assert read(asked).outputs == {"logit": True, "pctr": False}


def test_binary_outputs_follow_the_json_in_order() -> None:
    infer = read(document(parameters={"binary_data_output": True}))
    scores = {"pctr": np.array([0.5, 0.25], np.float32), "logit": np.array([0.0, -1.0], np.float32)}
    body, json_bytes = oip.write_infer(infer, "m", 3, {"variant": "v"}, scores)
    head = json.loads(body[:json_bytes])
    assert (head["model_name"], head["model_version"], head["id"]) == ("m", "3", "x")
    assert np.frombuffer(body[json_bytes:], "<f4").tolist() == [0.5, 0.25, 0.0, -1.0]


def change_input(position: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["inputs"][position].update(changes)


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        (lambda body: body.update(inputs={}), BadRequest, "inputs"),
        (lambda body: body["inputs"].pop(), BadTensor, "tags.offsets' is missing"),
        (lambda body: body["inputs"].append(tensor("more", [1], [1])), BadTensor, "'more' is unknown"),
        (lambda body: body["inputs"].append(tensor("sparse_ids", [1], [1])), BadTensor, "no other input has"),
        (change_input(0, datatype="FP32"), BadTensor, "INT64"),
        (change_input(0, shape=[2, 3]), BadTensor, "does not fit"),
        (change_input(0, shape=[8], data=[1] * 8), BadTensor, r"\[rows, 4\]"),
        (change_input(0, shape=[2, -4]), BadTensor, "non-negative"),
        (change_input(0, shape="2,4"), BadTensor, "non-negative"),
        (change_input(0, shape=[True, 4]), BadTensor, "non-negative"),
        (change_input(0, data=[[1, 2], [3]]), BadTensor, "ragged"),
        (change_input(0, data=[[1.5] * 4] * 2), BadTensor, "something else"),
        (change_input(0, data=[["1"] * 4] * 2), BadTensor, "something else"),
        (change_input(0, data=[[True] * 4] * 2), BadTensor, "something else"),
        (change_input(0, data=[[2**63] * 4] * 2), BadTensor, "something else"),
        (change_input(0, data=[[None] * 4] * 2), BadTensor, "something else"),
        (change_input(0, data="1"), BadTensor, "must be a list"),
        (change_input(0, parameters={"binary_data_size": 64}), BadTensor, "exclude each other"),
        (change_input(0, parameters=3), BadRequest, "must be an object"),
        (change_input(0, parameters={"x": {}}), BadRequest, "string, number or boolean"),
        (change_input(2, data=[0, 2, 1]), BadTensor, "must rise"),
        (change_input(2, data=[1, 2, 3]), BadTensor, "must rise"),
        (change_input(2, data=[0, 1, 4]), BadTensor, "must rise"),
        (change_input(2, shape=[2], data=[0, 3]), BadTensor, "must rise"),
        (change_input(1, shape=[3, 1]), BadTensor, r"must be \[n\]"),
        (lambda body: body.update(id=3), BadRequest, "id"),
        (lambda body: body.update(parameters=[]), BadRequest, "parameters"),
        (lambda body: body.update(parameters={"sequence_id": 7}), NotOffered, "sequence_id"),
        (lambda body: body.update(parameters={"binary_data_output": 1}), BadRequest, "boolean"),
        (lambda body: body.update(outputs=[{"name": "score"}]), BadTensor, "unknown"),
        (lambda body: body.update(outputs=["pctr"]), BadRequest, "objects"),
    ],
)
def test_everything_wrong_in_a_body_is_refused(
    change: Callable[[dict[str, Any]], None], error: type[ServiceError], complaint: str
) -> None:
    body = document()
    change(body)
    with pytest.raises(error, match=complaint):
        read(body)


def test_binary_sizes_must_add_up() -> None:
    body, header = binary(*BLOBS)
    for wrong, complaint in [(body + b"x", "left after"), (body[:-8], "no size within")]:
        with pytest.raises(BadTensor, match=complaint):
            oip.read_infer(wrong, header)
    with pytest.raises(BadTensor, match="needs 64"):
        oip.read_infer(*binary(*BLOBS, sizes=[56, 24, 24]))
    for header in ("-1", "many", str(len(body) + 1), ""):
        with pytest.raises(BadHeader):
            oip.read_infer(body, header)
    with pytest.raises(BadJson):
        oip.read_infer(body, "5")


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(TooLarge, match="2 rows"):
        read(document(), max_rows=1)


def test_parameters_are_checked_when_they_are_used() -> None:
    infer = read(document(parameters={"timeout": -1, "label": "../x", "priority": 3}))
    with pytest.raises(BadRequest, match="timeout"):
        _ = infer.timeout_us
    with pytest.raises(BadRequest, match="label"):
        infer.text("label", LABEL)


def test_metadata_and_configuration_name_the_same_tensors() -> None:
    metadata = oip_models.model_metadata("ctr", [1, 2], SCHEMA)
    config = oip_models.model_config("ctr", [1, 2], SCHEMA, 2048)
    assert [item["name"] for item in metadata["inputs"]] == ["sparse_ids", "tags.values", "tags.offsets"]
    assert [item["shape"] for item in metadata["inputs"]] == [[-1, 4], [-1], [-1]]
    assert [item["dims"] for item in config["input"]] == [item["shape"] for item in metadata["inputs"]]
    assert metadata["versions"] == ["1", "2"]


def test_strings_in_json_data_are_refused_before_numpy_pads_them() -> None:
    """As an array of text the shortest string takes the bytes of the longest: gigabytes from a small body."""
    data = ["x" * 1_000, *[""] * 1_000]
    tracemalloc.start()
    try:
        with pytest.raises(BadTensor, match="something else than INT64"):
            tensors.from_json("sparse_ids", (1_001,), data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_000_000


@pytest.mark.parametrize(
    "data", [[True, 1], [[1], [False]], [[[[[[[[[1]]]]]]]]], [1, [2]], [1, None], [2**63]]
)
def test_json_data_is_integers_of_64_bits_only(data: list[Any]) -> None:
    with pytest.raises(BadTensor):
        tensors.from_json("sparse_ids", (len(data),), data)


def test_a_shape_that_no_array_can_have_is_refused() -> None:
    shape = [0, 2**31 - 1, 2**31 - 1, 2**31 - 1]
    for item in (
        tensor("sparse_ids", shape, []),
        {**tensor("sparse_ids", shape, []), "parameters": {"binary_data_size": 0}},
    ):
        if "parameters" in item:
            del item["data"]
        with pytest.raises(BadTensor, match="shape"):
            read(document(inputs=[item]))


def test_a_header_length_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(BadHeader):
        oip.read_infer(b"{}", "9" * 5_000)


def test_offsets_without_an_entry_are_refused_where_nothing_else_says_the_rows() -> None:
    schema = FeatureSchema.parse({"fields": [{"name": "tags", "kind": "categorical", "multivalued": True}]})
    body = {"inputs": [tensor("tags.values", [0], []), tensor("tags.offsets", [0], [])]}
    with pytest.raises(BadTensor, match="offsets"):
        read(body, schema=schema)
