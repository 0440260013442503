"""Calls: the same seed gives the same bytes, every encoding is well formed, wrong answers are found."""

import json

import pytest

from loadtest.calls import Call, complaint_about, write_id_calls, write_named_calls
from loadtest.profile import Profile, ZipfIds
from loadtest.rows import ReplaySource

LOGGED = [{"user": f"u{i % 4}", "hour": i, "item": f"i{i}", "label": i % 2} for i in range(12)]
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
    source = ReplaySource(LOGGED)
    first, again = (write_named_calls(profile(seed=1), source, "ctr", 20) for _ in range(2))
    assert first == again
    assert first != write_named_calls(profile(seed=2), source, "ctr", 20)
    assert {call.rows for call in first} == {1, 3}


def test_rows_carry_model_unit_and_clicks() -> None:
    calls = write_named_calls(profile(unit_field="user", outcomes=True), ReplaySource(LOGGED), "ctr", 10)
    for call in calls:
        document = json.loads(call.body)
        assert call.path == "/v1/predict"
        assert document["model"] == "ctr"
        assert document["unit_id"] == f"user:{document['instances'][0]['user']}"
        assert len(document["instances"]) == call.rows
        assert call.clicks is not None
        assert call.clicks == tuple(row["hour"] % 2 for row in document["instances"])


def test_columns_are_as_long_as_the_rows() -> None:
    for call in write_named_calls(profile(encoding="columns"), ReplaySource(LOGGED), None, 5):
        document = json.loads(call.body)
        assert set(document) == {"columns"}
        assert {len(column) for column in document["columns"].values()} == {call.rows}
        assert call.clicks is None


def test_a_slate_has_one_context_and_no_field_twice() -> None:
    slate = profile(encoding="slate", candidate_fields=["item"])
    for call in write_named_calls(slate, ReplaySource(LOGGED), None, 5):
        document = json.loads(call.body)
        assert set(document["context"]) == {"user", "hour"}
        assert all(set(candidate) == {"item"} for candidate in document["candidates"])
        assert len(document["candidates"]) == call.rows


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
