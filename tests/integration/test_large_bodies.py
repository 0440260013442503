"""Large bodies: at most twenty faults, bounded work, the deadline covers decoding, memory has a limit."""

import gzip
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from arrow_streams import stream
from artifacts import build_artifact
from live_service import LiveService, live_service

from service.intake import LARGE_BODY_BYTES
from service.wire import arrow, forms, v1
from slimctr.features import assembly

MANY = 50_000
ARROW = {"content-type": arrow.MEDIA_TYPE}
VALUE = {"ad": "a1", "user": "u" * 80}
BINARY = {"inference-header-content-length": "0"}


def names(template: str) -> str:
    return ",".join(template % number for number in range(MANY))


def oip(**changes: object) -> bytes:
    tensor = {
        "name": "sparse_ids",
        "shape": [MANY // 4, 4],
        "datatype": "INT64",
        "data": [1] * MANY,
        **changes,
    }
    return json.dumps({"inputs": [tensor]}).encode()


BODIES: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "NaN in one list": ("/v1/predict", b'{"instances":[{"ad":"a1","tags":[' + b"NaN," * MANY + b"1]}]}", {}),
    "NaN in lists": ("/v1/predict", b'{"instances":[' + b'{"tags":[NaN,NaN]},' * MANY + b"{}]}", {}),
    "NaN at the end": ("/v1/predict", b'{"columns":{"tags":[[' + b"1," * MANY + b"NaN]]}}", {}),
    "NaN in candidates": (
        "/v1/predict",
        b'{"context":{},"candidates":[' + b'{"ad":NaN},' * 9000 + b"{}]}",
        {},
    ),
    "unknown columns": ("/v1/predict", b'{"columns":{' + names('"c%d":[1]').encode() + b"}}", {}),
    "columns that are no lists": ("/v1/predict", b'{"columns":{' + names('"c%d":1').encode() + b"}}", {}),
    "columns of other lengths": (
        "/v1/predict",
        b'{"columns":{"a":[1,2],' + names('"c%d":[1]').encode() + b"}}",
        {},
    ),
    "unknown fields of a row": ("/v1/predict", b'{"instances":[{' + names('"c%d":1').encode() + b"}]}", {}),
    "unknown fields of a context": (
        "/v1/predict",
        b'{"context":{' + names('"c%d":1').encode() + b'},"candidates":[{"ad":"a1"}]}',
        {},
    ),
    "unknown members": ("/v1/predict", b"{" + names('"c%d":1').encode() + b"}", {}),
    "rows that are no objects": ("/v1/predict", b'{"instances":[' + b"1," * MANY + b"1]}", {}),
    "wrong values": (
        "/v1/predict",
        json.dumps({"instances": [{**VALUE, "price": True}] * 5000}).encode(),
        {},
    ),
    "wrong columns": (
        "/v1/predict",
        json.dumps({"columns": {"ad": ["a"] * 9999, "price": ["x"] * 9999}}).encode(),
        {},
    ),
    "wrong candidates": (
        "/v1/predict",
        json.dumps({"context": {"user": 1.5}, "candidates": [{"ad": {}, "site": "x" * 50}] * 5000}).encode(),
        {},
    ),
    "lists of lists": ("/v1/predict", b'{"instances":[{"ad":"a1","tags":[' + b"[]," * MANY + b"[]]}]}", {}),
    "deep": ("/v1/predict", b'{"instances":' + b"[" * MANY + b"]" * MANY + b"}", {}),
    "a long name": ("/v1/predict", b'{"instances":[{"ad":"a1","' + b"n" * 200_000 + b'":1}]}', {}),
    "a long wrong value": (
        "/v1/predict",
        b'{"instances":[{"ad":"a1","price":"' + b"n" * 200_000 + b'"}]}',
        {},
    ),
    "a wrong list": ("/v1/predict", json.dumps({"instances": [{"ad": ["x" * 50] * 5000}]}).encode(), {}),
    "Arrow of wrong numbers": (
        "/v1/predict",
        stream(pa.table({"ad": ["a1"] * 9000, "price": [float("nan")] * 9000})),
        ARROW,
    ),
    "Arrow of unknown columns": (
        "/v1/predict",
        stream(pa.table({f"c{number}": ["x" * 50] for number in range(1000)})),
        ARROW,
    ),
    "OIP of text": ("/v2/models/ctr/infer", oip(data=["x"] * MANY), {}),
    "OIP of NaN": ("/v2/models/ctr/infer", oip().replace(b"1, 1", b"NaN, NaN"), {}),
    "OIP of unknown inputs": (
        "/v2/models/ctr/infer",
        b'{"inputs":[' + names('{"name":"c%d","shape":[0],"datatype":"INT64","data":[]}').encode() + b"]}",
        {},
    ),
    "OIP of unknown parameters": (
        "/v2/models/ctr/infer",
        b'{"inputs":[],"parameters":{' + names('"c%d":1').encode() + b"}}",
        {},
    ),
    "OIP of odd bytes": ("/v2/models/ctr/infer", b"\xff" * 2_000_003, BINARY),
    "OIP of another shape": ("/v2/models/ctr/infer", oip(shape=[MANY]), {}),
    "outcomes of unknown keys": ("/v1/outcomes", b'{"outcomes":[{' + names('"c%d":1').encode() + b"}]}", {}),
    "outcomes beside unknown keys": (
        "/v1/outcomes",
        b'{"outcomes":[],' + names('"c%d":1').encode() + b"}",
        {},
    ),
    "outcomes that are none": ("/v1/outcomes", b'{"outcomes":[' + b"1," * 9000 + b"1]}" + b" " * 60_000, {}),
    "outcomes of NaN": ("/v1/outcomes", b'{"outcomes":[' + b"NaN," * MANY + b"1]}", {}),
    "too many outcomes": ("/v1/outcomes", b'{"outcomes":[' + b"{}," * MANY + b"{}]}", {}),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("large")
    build_artifact(folder / "models", label="stable")
    with live_service(folder / "models", folder) as running:
        yield running


@pytest.mark.parametrize("name", BODIES)
def test_a_large_wrong_body_is_refused_with_twenty_faults_at_most(service: LiveService, name: str) -> None:
    path, body, headers = BODIES[name]
    assert len(body) > LARGE_BODY_BYTES
    answer = service.http.post(path, content=body, headers=headers)
    assert answer.status_code in (400, 413, 422), answer.text[:300]
    assert 0 <= len(answer.json().get("errors", [])) <= 20
    assert len(answer.content) < 40_000
    assert service.app.state.body_memory.held_bytes == 0


def test_faults_are_found_in_one_walk(service: LiveService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell is looked at when the batch is encoded, and twice at most when its faults are listed."""
    rows, seen = 5000, 0
    add = assembly.Assembly.add

    def counted(self: assembly.Assembly, position: int, column: Any) -> None:
        nonlocal seen
        seen += len(column)
        add(self, position, column)

    monkeypatch.setattr(assembly.Assembly, "add", counted)
    encoder = service.pool.version("ctr", 1).ready().scorer.encoder
    for value in (
        {**VALUE, "price": True},
        {**VALUE, "tags": "x"},
        {"user": "u1"},
        {**VALUE, "tags": ["a"] * 99 + [{}]},
    ):
        seen = 0
        body = json.dumps({"instances": [VALUE] * rows + [value] * rows}).encode()
        with pytest.raises(forms.InvalidInput) as caught:
            forms.encode(v1.read_predict(body, 2 * rows).form, encoder)
        assert len(caught.value.faults) == 20
        assert seen <= 4 * 2 * rows * len(encoder.schema.fields)


class Gate:
    """Holds every large body in the decoding thread while it is closed, and counts those that got there."""

    def __init__(self) -> None:
        self.open, self.entered, self.decoded = threading.Event(), threading.Event(), 0


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made, scan = Gate(), v1.scan_json

    def held(text: bytes) -> Any:
        if len(text) > LARGE_BODY_BYTES:
            made.decoded += 1
            made.entered.set()
            assert made.open.wait(30)
        return scan(text)

    monkeypatch.setattr(v1, "scan_json", held)
    yield made
    made.open.set()


LARGE = json.dumps({"instances": [VALUE] * 1000}).encode()


def post(
    service: LiveService, deadline_ms: int = 10_000, body: bytes = LARGE, **headers: str
) -> httpx.Response:
    headers = {"x-request-deadline-ms": str(deadline_ms), **headers}
    with httpx.Client(base_url=service.http.base_url, timeout=30) as client:
        return client.post("/v1/predict", content=body, headers=headers)


def test_the_deadline_covers_decoding_and_what_expired_is_never_decoded(
    service: LiveService, gate: Gate
) -> None:
    with ThreadPoolExecutor(4) as clients:
        first = clients.submit(post, service, 200)
        assert gate.entered.wait(30)
        waiting = [clients.submit(post, service, 100) for _ in range(2)]
        waiting.append(
            clients.submit(post, service, 100, gzip.compress(LARGE), **{"content-encoding": "gzip"})
        )
        for answer in (*waiting, first):
            assert answer.result().status_code == 504
            assert answer.result().json()["type"] == "/problems/deadline"
        assert service.predict(instances=[{"ad": "a1"}])["scores"]  # small bodies do not wait
        gate.open.set()
        assert post(service).status_code == 200
    assert gate.decoded == 2
    assert service.app.state.body_memory.held_bytes == 0


def test_bodies_that_wait_have_a_limit_in_all(tmp_path: Path, gate: Gate) -> None:
    build_artifact(tmp_path / "models", label="stable")
    size = len(LARGE)
    limits = {
        "max_body_bytes": size,
        "max_decompressed_bytes": 1,
        "max_pending_body_bytes": 3 * size,
    }
    with live_service(tmp_path / "models", tmp_path, **limits) as service, ThreadPoolExecutor(8) as clients:
        kept: list[Future[httpx.Response]] = [clients.submit(post, service) for _ in range(3)]
        assert gate.entered.wait(30)
        while service.app.state.body_memory.held_bytes < 3 * size:
            service.http.get("/livez")
        refused = post(service)
        assert refused.status_code == 503
        assert refused.json()["type"] == "/problems/queue-full"
        assert refused.headers["retry-after"] == "1"
        assert "max_pending_body_bytes" in refused.json()["detail"]
        assert 'slimctr_shed_total{reason="queue_full"} 1.0' in service.http.get("/metrics").text
        assert post(service, body=b'{"instances": [{"ad": "a1"}]}').status_code == 200
        gate.open.set()
        assert [answer.result().status_code for answer in kept] == [200] * 3
        assert post(service).status_code == 200
        assert service.app.state.body_memory.held_bytes == 0
