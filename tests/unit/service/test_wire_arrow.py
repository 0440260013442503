"""Arrow requests over HTTP: who asks, of what, how the answer is written, what is refused and how."""

import gzip
import json
from collections.abc import Iterator
from itertools import product

import httpx
import numpy as np
import pyarrow as pa
import pytest
from arrow_streams import stream, table_of
from artifacts import build_artifact, raw_rows
from live_service import LiveService, live_service

from service.wire import arrow

ROWS = raw_rows(6)
TABLE = table_of(ROWS)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("arrow")
    store = folder / "models"
    build_artifact(store, label="stable")
    build_artifact(store, label="original", compressed=False)
    with live_service(store, folder, max_body_bytes=50_000, max_request_rows=50) as running:
        yield running


def ask(service: LiveService, body: bytes, **headers: str) -> httpx.Response:
    return service.http.post(
        "/v1/predict", content=body, headers={"content-type": arrow.MEDIA_TYPE, **headers}
    )


def test_the_metadata_of_the_schema_say_who_asks_of_what(service: LiveService) -> None:
    response = ask(service, stream(TABLE, unit_id="u 1", request_id="r:1", model="ctr", label="original"))
    answer = response.json()
    assert (answer["request_id"], answer["model"], answer["label"]) == ("r:1", "ctr", "original")
    assert answer["version"] == "2"
    assert response.headers["x-request-id"] == "r:1"
    pinned = ask(service, stream(TABLE, version="2", include="logits,timing")).json()
    assert pinned["variant"] == "pinned"
    assert len(pinned["logits"]) == len(ROWS)
    assert pinned["scores"] == answer["scores"] == service.predict(instances=ROWS, version="2")["scores"]


@pytest.mark.parametrize(
    "accept", [arrow.MEDIA_TYPE, f"application/json;q=0.1, {arrow.MEDIA_TYPE.upper()}; q=1"]
)
def test_the_answer_is_arrow_when_accept_asks(service: LiveService, accept: str) -> None:
    response = ask(service, stream(TABLE, include="logits"), accept=accept)
    assert response.headers["content-type"] == arrow.MEDIA_TYPE
    table = pa.ipc.open_stream(response.content).read_all()
    table.validate(full=True)
    assert table.schema.names == ["scores"]
    assert table.schema.field("scores").type == pa.float32()
    expected = service.predict(instances=ROWS, include=["logits"])
    np.testing.assert_array_equal(table["scores"].to_numpy(), np.array(expected["scores"], np.float32))
    rest = json.loads(table.schema.metadata[b"slimctr.response"])
    assert rest["logits"] == expected["logits"]
    assert rest["oov"] == expected["oov"]


def test_json_requests_may_have_arrow_answers(service: LiveService) -> None:
    response = service.http.post(
        "/v1/predict", json={"instances": ROWS}, headers={"accept": arrow.MEDIA_TYPE}
    )
    assert pa.ipc.open_stream(response.content).read_all().num_rows == len(ROWS)


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "text/html, */*;q=0.1", f"{arrow.MEDIA_TYPE};q=0, application/json"]
)
def test_the_answer_is_json_unless_accept_prefers_arrow(service: LiveService, accept: str) -> None:
    assert ask(service, stream(TABLE), accept=accept).headers["content-type"] == "application/json"


def test_accept_may_come_on_several_lines(service: LiveService) -> None:
    lines = [("accept", "application/json;q=0.5"), ("accept", arrow.MEDIA_TYPE)]
    response = service.http.post("/v1/predict", json={"instances": ROWS}, headers=lines)
    assert response.headers["content-type"] == arrow.MEDIA_TYPE


def test_other_metadata_is_none_of_ours(service: LiveService) -> None:
    table = TABLE.replace_schema_metadata({"pandas": "{}", "origin": "here"})
    assert ask(service, stream(table)).status_code == 200


def test_gzip_is_read(service: LiveService) -> None:
    body = gzip.compress(stream(TABLE))
    assert ask(service, body, **{"content-encoding": "gzip"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "slug", "pointer"),
    [
        (stream(TABLE)[:-8], 400, "bad-arrow", None),
        (b"{}", 400, "bad-arrow", None),
        (b"", 400, "bad-arrow", None),
        (stream(TABLE, unit="u1"), 422, "invalid-input", "#/unit"),
        (stream(TABLE, unit_id=""), 422, "invalid-input", "#/unit_id"),
        (stream(TABLE, instances="x"), 422, "invalid-input", "#/instances"),
        (stream(TABLE, include="everything"), 422, "invalid-input", "#/include"),
        (stream(TABLE.slice(0, 0)), 422, "invalid-input", "#/columns"),
        (stream(pa.table({"ad": [{"x": 1}]})), 422, "invalid-input", "#/columns/ad"),
        (stream(pa.table({"ad": [None, "a1"]})), 422, "invalid-input", "#/columns/ad/0"),
        (stream(pa.table({"ad": ["a1"], "bogus": ["x"]})), 422, "invalid-input", "#/columns/bogus"),
        (stream(pa.table({"ad": ["a1"] * 51})), 413, "too-large", None),
        (stream(pa.table({"ad": ["a" * 60_000]})), 413, "too-large", None),
        (stream(TABLE, model="nope"), 404, "unknown-name", None),
    ],
)
def test_what_is_wrong_is_a_problem_document(
    service: LiveService, body: bytes, status: int, slug: str, pointer: str | None
) -> None:
    response = ask(service, body, accept=arrow.MEDIA_TYPE)
    document = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, document["type"]) == (status, f"/problems/{slug}"), document["detail"]
    if pointer is not None:
        assert [error["pointer"] for error in document["errors"]] == [pointer]


def test_answers_of_any_length_are_readable() -> None:
    for rows, model in product((0, 1, 2, 3, 1000, 3), ("ctr", "???", "?", "", "x" * 300, "ads")):
        scores = np.random.default_rng(rows).random(rows, dtype=np.float32)
        table = pa.ipc.open_stream(arrow.write_predict({"scores": scores, "model": model})).read_all()
        table.validate(full=True)
        np.testing.assert_array_equal(table["scores"].to_numpy(), scores)
        assert table.schema.metadata == {b"slimctr.response": b'{"model":"%s"}' % model.encode()}
