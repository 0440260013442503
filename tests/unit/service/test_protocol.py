"""Requests that begin in the turn of the loop that reads them: whole, in pieces, one behind another."""

import gzip
import json
import socket
import time
from collections.abc import Iterator
from http.client import parse_headers
from typing import Any

import pytest
from artifacts import build_artifact, raw_rows
from live_service import LiveService, live_service
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.batching import LONE_TURNS


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("protocol")
    build_artifact(folder / "models", label="stable")
    with live_service(folder / "models", folder, receive_timeout_s=0.5) as running:
        yield running


@pytest.fixture
def client(service: LiveService) -> Iterator[socket.socket]:
    with socket.create_connection((service.host, service.port), timeout=20) as connection:
        yield connection


def request(name: str, rows: int = 1, pack: Any = bytes, headers: str = "") -> bytes:
    body = pack(json.dumps({"request_id": name, "instances": raw_rows(rows)}).encode())
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def answers(client: socket.socket, count: int) -> list[dict[str, Any]]:
    documents = []
    with client.makefile("rb") as stream:
        for _ in range(count):
            status = int(stream.readline().split()[1])
            headers = parse_headers(stream)
            body = stream.read(int(headers["content-length"]))
            documents.append(json.loads(body) | {"status_code": status})
    return documents


def names(documents: list[dict[str, Any]]) -> list[str]:
    return [document["request_id"] for document in documents]


def test_a_request_that_never_waits_needs_no_task(
    service: LiveService, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    start = HttpToolsProtocol._start_asgi_task

    def started(protocol: HttpToolsProtocol, cycle: Any, app: Any) -> None:
        begun.append(cycle.scope["path"])
        start(protocol, cycle, app)

    monkeypatch.setattr(HttpToolsProtocol, "_start_asgi_task", started)
    for _ in range(LONE_TURNS + 1):
        client.sendall(request("a"))
        assert names(answers(client, 1)) == ["a"]
    assert begun == []
    service.http.get("/livez")
    assert begun == ["/livez"]


def test_requests_sent_at_once_are_answered_in_order(client: socket.socket) -> None:
    client.sendall(request("a") + request("b", rows=50) + request("c"))
    documents = answers(client, 3)
    assert names(documents) == ["a", "b", "c"]
    assert [len(document["scores"]) for document in documents] == [1, 50, 1]


def test_a_request_may_come_in_pieces(client: socket.socket) -> None:
    whole = request("a") + request("b")
    for start in range(0, len(whole), 100):
        client.sendall(whole[start : start + 100])
        time.sleep(0.01)
    assert names(answers(client, 2)) == ["a", "b"]


def test_a_request_that_waits_goes_on_in_a_task(client: socket.socket) -> None:
    packed = request("a", rows=3, pack=gzip.compress, headers="Content-Encoding: gzip\r\n")
    client.sendall(packed + request("b"))
    documents = answers(client, 2)
    assert names(documents) == ["a", "b"]
    assert len(documents[0]["scores"]) == 3


def test_a_body_that_does_not_arrive_is_given_up(client: socket.socket) -> None:
    client.sendall(request("a")[:-1])
    (document,) = answers(client, 1)
    assert document["status_code"] == 408
    assert document["type"] == "/problems/receive-timeout"


def test_what_is_not_a_request_behind_one_is_refused(client: socket.socket) -> None:
    client.sendall(request("a") + b"nonsense\r\n\r\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 400")
