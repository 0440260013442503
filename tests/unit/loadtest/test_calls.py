"""Calls: the same seed gives the same bytes, every encoding is well formed, wrong answers are found."""

import json

import numpy as np
import pyarrow.ipc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.calls import Call, complaint_about, unit_of, write_id_calls, write_named_calls
from loadtest.errors import LoadTestError
from loadtest.profile import Profile, ZipfIds
from loadtest.rows import ReplaySource
from model_store.names import UNIT_ID

LOGGED = [{"user": f"u{i % 4}", "hour": i, "item": f"i{i}"} for i in range(12)]
SOURCE = ReplaySource(LOGGED, [i % 2 for i in range(12)])
INPUTS = [
    {"name": "sparse_ids", "datatype": "INT64", "shape": [-1, 3]},
    {"name": "tags.values", "datatype": "INT64", "shape": [-1]},
    {"name": "tags.offsets", "datatype": "INT64", "shape": [-1]},
]


def profile(**changes: object) -> Profile:
    document = {
        "name": "p",
        "encoding": "rows",
        "rows_per_request": {1: 0.5, 3: 0.5},
        "rows": {"kind": "replay"},
    }
    return Profile.model_validate({**document, **changes})


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not() -> None:
    source = SOURCE
    first, again = (write_named_calls(profile(seed=1), source, "ctr", 20) for _ in range(2))
    assert first == again
    assert first != write_named_calls(profile(seed=2), source, "ctr", 20)
    assert {call.rows for call in first} == {1, 3}


def test_rows_carry_model_unit_and_clicks() -> None:
    calls = write_named_calls(profile(unit_field="user", outcomes=True), SOURCE, "ctr", 10)
    for call in calls:
        document = json.loads(call.body)
        assert call.path == "/v1/predict"
        assert document["model"] == "ctr"
        assert document["unit_id"] == f"user:{document['instances'][0]['user']}"
        assert len(document["instances"]) == call.rows
        assert call.clicks is not None
        assert call.clicks == tuple(row["hour"] % 2 for row in document["instances"])


def test_without_a_unit_no_outcomes_are_sent() -> None:
    assert {call.clicks for call in write_named_calls(profile(outcomes=True), SOURCE, "ctr", 10)} == {None}


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        ("7", "user:7"),
        (7, "user:7"),
        (0, "user:0"),
        (None, None),
        ("", None),
        ("x" * 251, "user:" + "x" * 251),
    ],
)
def test_the_unit_is_the_value_of_its_field(value: object, unit: str | None) -> None:
    assert unit_of("user", {"user": value}) == unit
    assert unit_of("user", {}) is None


@given(st.text(min_size=1) | st.integers() | st.booleans())
def test_every_value_makes_a_unit_id(value: object) -> None:
    unit = unit_of("user", {"user": value})
    assert unit is not None
    assert UNIT_ID.fits(unit)


def test_columns_are_those_of_all_rows() -> None:
    source = ReplaySource([{"user": "u1"}, {"item": 3}], None)
    calls = write_named_calls(profile(encoding="columns", rows_per_request={20: 1}), source, None, 3)
    for call in calls:
        assert set(json.loads(call.body)["columns"]) == {"user", "item"}


def test_arrow_columns_take_the_type_of_their_values_and_say_which_do_not() -> None:
    wanted = profile(encoding="arrow", unit_field="user")
    for call in write_named_calls(wanted, SOURCE, "ctr", 5):
        with pyarrow.ipc.open_stream(call.body) as reader:
            table = reader.read_all()
        assert call.headers["Content-Type"] == "application/vnd.apache.arrow.stream"
        assert table.num_rows == call.rows
        unit = f"user:{table['user'][0].as_py()}".encode()
        assert table.schema.metadata == {b"slimctr.model": b"ctr", b"slimctr.unit_id": unit}
    mixed = ReplaySource([{"user": "u1"}, {"user": 3}], None)
    with pytest.raises(LoadTestError, match=r"field 'user': no Arrow column holds.*encoding rows"):
        write_named_calls(profile(encoding="arrow", rows_per_request={20: 1}), mixed, None, 3)


def test_columns_are_as_long_as_the_rows() -> None:
    for call in write_named_calls(profile(encoding="columns"), SOURCE, None, 5):
        document = json.loads(call.body)
        assert set(document) == {"columns"}
        assert {len(column) for column in document["columns"].values()} == {call.rows}
        assert call.clicks is None


def test_a_slate_has_one_context_and_no_field_twice() -> None:
    slate = profile(encoding="slate", candidate_fields=["item"])
    for call in write_named_calls(slate, SOURCE, None, 5):
        document = json.loads(call.body)
        assert set(document["context"]) == {"user", "hour"}
        assert all(set(candidate) == {"item"} for candidate in document["candidates"])
        assert len(document["candidates"]) == call.rows


def test_binary_tensors_lie_behind_their_json() -> None:
    ids = ZipfIds(kind="zipf_ids", exponent=1.0, ids_per_field=50)
    forms = [profile(encoding=name, rows=ids.model_dump()) for name in ("v2-json", "v2-binary")]
    for text, binary in zip(*(write_id_calls(form, ids, "ctr", INPUTS, 5) for form in forms), strict=True):
        length = int(binary.headers["Inference-Header-Content-Length"])
        head, rest = json.loads(binary.body[:length]), binary.body[length:]
        for tensor, plain in zip(head["inputs"], json.loads(text.body)["inputs"], strict=True):
            size = tensor["parameters"]["binary_data_size"]
            assert np.frombuffer(rest[:size], "<i8").tolist() == plain["data"]
            assert tensor["shape"] == plain["shape"]
            rest = rest[size:]
        assert rest == b""


def test_ids_fill_the_tensors_that_the_metadata_lists() -> None:
    ids = ZipfIds(kind="zipf_ids", exponent=1.0, ids_per_field=50)
    wanted = profile(encoding="v2-json", rows=ids.model_dump())
    for call in write_id_calls(wanted, ids, "ctr", INPUTS, 5):
        tensors = {tensor["name"]: tensor for tensor in json.loads(call.body)["inputs"]}
        assert call.path == "/v2/models/ctr/infer"
        assert tensors["sparse_ids"]["shape"] == [call.rows, 3]
        assert len(tensors["sparse_ids"]["data"]) == call.rows * 3
        offsets, values = tensors["tags.offsets"]["data"], tensors["tags.values"]["data"]
        assert offsets[0] == 0
        assert len(offsets) == call.rows + 1
        assert offsets[-1] == len(values) == tensors["tags.values"]["shape"][0]
        assert all(1 <= value <= 50 for value in values)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b'{"scores":[0.1,0.9]}', None),
        (b'{"outputs":[{"name":"logit","data":[1,2]},{"name":"pctr","data":[0.1,0.2]}]}', None),
        (b'{"scores":[0.1]}', "1 scores for 2 rows"),
        (b'{"scores":[0.1,1.2]}', "no probability"),
        (b'{"scores":[0.1,null]}', "no probability"),
        (b'{"outputs":[{"name":"logit","data":[1,2]}]}', "no scores"),
        (b'{"detail":"x"}', "no scores"),
        (b"<html>", "no scores"),
        (b"[1]", "no scores"),
    ],
)
def test_a_wrong_answer_is_found(answer: bytes, complaint: str | None) -> None:
    found = complaint_about(Call("/v1/predict", b"", 2), answer)
    assert (found is None) if complaint is None else (found is not None and complaint in found)
