"""A client that left before its answer: no exposure, no shadow, no success, and no work that nobody waits for."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import yaml
from arrow_streams import stream, table_of
from artifacts import build_artifact, raw_rows
from live_service import WAIT_SECONDS, LiveService, live_service

from service import batching
from service.batching import BatchQueue
from service.http import protocol
from service.intake import LARGE_BODY_BYTES
from service.wire import v1

EXPERIMENT = {
    "key": "gone",
    "model": "ctr",
    "variants": [
        {"name": "float", "version": "stable", "weight": 1},
        {"name": "small", "version": "canary", "weight": 0},
    ],
    "default": "float",
    "shadow": {"variant": "small", "percent": 100},
}
JSON = "application/json"


class GatedEngine:
    """The engine of a version, which works only while its gate is open."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.rows: list[int] = []

    def lookup(self, batch: Any) -> Any:
        self.entered.release()
        assert self.gate.wait(WAIT_SECONDS)
        self.rows.append(len(batch))
        return self._engine.lookup(batch)

    def run_network(self, stored: Any) -> Any:
        return self._engine.run_network(stored)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("client-gone")
    build_artifact(folder / "models", label="stable", compressed=False)
    build_artifact(folder / "models", label="canary")
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT))
    with live_service(folder / "models", folder, experiment=path) as running:
        yield running


@pytest.fixture
def queue(service: LiveService, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchQueue]:
    """The queue of the version that answers; its batches run in the thread and wait for the engine's gate."""
    monkeypatch.setattr(batching, "PATIENCE_S", 0.0)
    monkeypatch.setattr(protocol, "HALF_CLOSE_S", 0.0)
    found = service.pool.version("ctr", 1).ready().queue
    engine = found.engine
    monkeypatch.setattr(found, "inline_rows", 0)
    monkeypatch.setattr(found, "engine", GatedEngine(engine))
    yield found
    gated: Any = found.engine
    gated.gate.set()


def predict(body: dict[str, Any]) -> tuple[str, str, bytes]:
    return "/v1/predict", JSON, json.dumps(body).encode()


def rows_of(name: str) -> tuple[str, str, bytes]:
    return predict({"request_id": name, "unit_id": "u1", "instances": raw_rows(2)})


def slate_of(name: str) -> tuple[str, str, bytes]:
    return predict({"request_id": name, "unit_id": "u1", "context": {}, "candidates": raw_rows(2)})


def arrow_of(name: str) -> tuple[str, str, bytes]:
    body = stream(table_of(raw_rows(2)), request_id=name, unit_id="u1")
    return "/v1/predict", "application/vnd.apache.arrow.stream", body


def tensors_of(name: str) -> tuple[str, str, bytes]:
    inputs = {
        "sparse_ids": np.ones((2, 4), int),
        "tags.values": np.ones(2, int),
        "tags.offsets": np.arange(3),
    }
    document = {
        "id": name,
        "parameters": {"unit_id": "u1"},
        "inputs": [
            {"name": key, "datatype": "INT64", "shape": list(value.shape), "data": value.ravel().tolist()}
            for key, value in inputs.items()
        ],
    }
    return "/v2/models/ctr/infer", JSON, json.dumps(document).encode()


FORMS: dict[str, Callable[[str], tuple[str, str, bytes]]] = {
    "rows": rows_of,
    "slate": slate_of,
    "arrow": arrow_of,
    "open inference protocol": tensors_of,
}


def send(service: LiveService, request: tuple[str, str, bytes]) -> socket.socket:
    path, media_type, body = request
    client = socket.create_connection((service.host, service.port), WAIT_SECONDS)
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def counts(service: LiveService) -> dict[str, float]:
    """What is counted as answered, and what as canceled."""
    text = service.http.get("/metrics").text
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))

    def total(name: str, *labels: str) -> float:
        return sum(
            float(value)
            for key, value in found.items()
            if key.startswith(name + "{") and all(label in key for label in labels)
        )

    stats = service.http.get("/v2/models/ctr/versions/1/stats").json()["model_stats"][0]["inference_stats"]
    return {
        "canceled": total("slimctr_inference_failures_total", 'reason="canceled"'),
        "failed": stats["fail"]["count"],
        "succeeded": stats["success"]["count"],
        "rows": total("slimctr_inference_rows_total"),
        "exposed": total("slimctr_exposures_total"),
        "shadowed": total("slimctr_shadow_selected_total"),
        "status 499": total("http_server_request_duration_seconds_count", 'status_code="499"'),
        "in flight": total("slimctr_in_flight_requests"),
    }


def change(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in before}


CANCELED = {"canceled": 1, "failed": 1, "status 499": 1, "in flight": 0}
ANSWERED = {"succeeded": 1, "rows": 2, "exposed": 1, "shadowed": 1}
NOTHING = dict.fromkeys(ANSWERED, 0)


def joined(service: LiveService, name: str) -> bool:
    item = {
        "outcome_id": f"{name}/{time.monotonic_ns()}",
        "request_id": name,
        "index": 0,
        "clicked": 1,
        "occurred_at": time.time(),
    }
    answer = service.http.post("/v1/outcomes", json={"outcomes": [item]}).json()
    assert answer["joined"] + answer["orphan"] == 1, answer
    return bool(answer["joined"])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_an_answer_that_reaches_nobody_is_no_exposure(
    service: LiveService, queue: BatchQueue, form: Callable[[str], tuple[str, str, bytes]]
) -> None:
    engine: Any = queue.engine
    before, name = counts(service), f"computed-{form.__name__}"
    with send(service, form(name)):
        assert engine.entered.acquire(timeout=WAIT_SECONDS)
    engine.gate.set()
    until(lambda: counts(service)["canceled"] > before["canceled"])
    assert change(before, counts(service)) == {**CANCELED, **NOTHING}
    assert engine.rows == [2], "it was computed already"
    assert not joined(service, name)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_waits_for_a_batch_is_dropped_when_its_client_leaves(
    service: LiveService, queue: BatchQueue, form: Callable[[str], tuple[str, str, bytes]]
) -> None:
    engine: Any = queue.engine
    before, name = counts(service), form.__name__
    with send(service, form(f"first-{name}")) as first:
        assert engine.entered.acquire(timeout=WAIT_SECONDS)
        with send(service, form(f"left-{name}")):
            until(lambda: queue.waiting_rows == 2)
        with send(service, form(f"stayed-{name}")) as stayed:
            until(lambda: queue.waiting_rows == 4)
            engine.gate.set()
            for client in (first, stayed):
                assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
    until(lambda: counts(service)["succeeded"] >= before["succeeded"] + 2)
    assert change(before, counts(service)) == {
        **CANCELED,
        **{key: 2 * value for key, value in ANSWERED.items()},
    }
    assert engine.rows == [2, 2], "what was dropped is not computed"
    assert [joined(service, f"{which}-{name}") for which in ("first", "left", "stayed")] == [
        True,
        False,
        True,
    ]


def test_a_client_that_reads_its_answer_and_leaves_at_once_was_exposed(service: LiveService) -> None:
    before = counts(service)
    for number in range(20):
        with send(service, rows_of(f"quick-{number}")) as client:
            assert client.recv(1).startswith(b"H")
    until(lambda: counts(service)["succeeded"] >= before["succeeded"] + 20)
    found = change(before, counts(service))
    assert (found["exposed"], found["canceled"]) == (20, 0)
    assert all(joined(service, f"quick-{number}") for number in range(20))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_client_that_closed_its_sending_side_and_read_its_answer_was_exposed(
    service: LiveService, form: Callable[[str], tuple[str, str, bytes]]
) -> None:
    before, name = counts(service), f"half-{form.__name__}"
    with send(service, form(name)) as client:
        client.shutdown(socket.SHUT_WR)
        received = b""
        while part := client.recv(65536):
            received += part
    assert received.startswith(b"HTTP/1.1 200 OK")
    until(lambda: counts(service)["succeeded"] > before["succeeded"])
    assert change(before, counts(service)) == {**dict.fromkeys(CANCELED, 0), **ANSWERED}
    assert joined(service, name)


def test_each_of_several_requests_before_the_end_is_answered_and_was_exposed(service: LiveService) -> None:
    before, rows = counts(service), raw_rows(2) * 500
    with socket.create_connection((service.host, service.port), WAIT_SECONDS) as client:
        for number in range(4):
            path, _, body = predict({"request_id": f"piped-{number}", "unit_id": "u1", "instances": rows})
            client.sendall(b"POST %s HTTP/1.1\r\nHost: test\r\n" % path.encode())
            client.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while part := client.recv(65536):
            received += part
    assert len(body) > LARGE_BODY_BYTES
    assert received.count(b"HTTP/1.1 200 OK") == 4
    until(lambda: counts(service)["succeeded"] >= before["succeeded"] + 4)
    found = change(before, counts(service))
    assert (found["exposed"], found["canceled"]) == (4, 0)
    assert all(joined(service, f"piped-{number}") for number in range(4))


def test_a_client_that_sent_its_request_and_closed_at_once_was_not_exposed(
    service: LiveService, queue: BatchQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HALF_CLOSE_S", WAIT_SECONDS)  # taken for one that reads on
    engine: Any = queue.engine
    before = counts(service)
    with send(service, rows_of("at-once")):
        assert engine.entered.acquire(timeout=WAIT_SECONDS)
    engine.gate.set()
    until(lambda: counts(service)["canceled"] > before["canceled"])
    assert change(before, counts(service)) == {**CANCELED, **NOTHING}


def test_a_large_body_that_waited_for_its_turn_is_not_encoded(
    service: LiveService, queue: BatchQueue
) -> None:
    engine: Any = queue.engine
    engine.gate.set()
    decoder, held = service.app.state.decoder, threading.Event()
    holding = asyncio.run_coroutine_threadsafe(
        decoder.run("decode", lambda: held.wait(WAIT_SECONDS), time.monotonic() + WAIT_SECONDS), service.loop
    )
    before, large = counts(service), {"unit_id": "u1", "instances": raw_rows(2000)}
    request = predict({**large, "request_id": "large"})
    assert len(request[2]) > LARGE_BODY_BYTES
    with send(service, request):
        until(lambda: len(decoder._waiting["decode"]) == 1)
    held.set()
    assert holding.result(WAIT_SECONDS)
    until(lambda: counts(service)["canceled"] > before["canceled"])
    assert change(before, counts(service)) == {**CANCELED, **NOTHING}
    assert engine.rows == []


def test_an_answer_that_could_not_be_written_is_no_exposure(
    service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(answer: object) -> bytes:
        raise LookupError("a fault in the writer")

    before = counts(service)
    with monkeypatch.context() as patched:
        patched.setattr(v1, "write_predict", broken)
        path, media_type, body = rows_of("unwritten")
        response = service.http.post(path, content=body, headers={"content-type": media_type})
    assert response.status_code == 500
    found = change(before, counts(service))
    assert {name: found[name] for name in ANSWERED} == NOTHING
    assert (found["failed"], found["canceled"]) == (1, 0)
    assert not joined(service, "unwritten")
