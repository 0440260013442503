"""`scope["slimctr.connection"]`: whether an answer can still be handed over."""

import asyncio
import socket
import struct
import threading

import httpx
import pytest
from asgi_server import WAIT_SECONDS, Echo, answer, answers, asgi_server, read_all, read_body

RESET = struct.pack("ii", 1, 0)  # SO_LINGER that makes close() send RST
SIZES = {"no body": 0, "small body": 100, "body that pauses reading": 300_000}


class Asking:
    """Holds each request back and asks, at a moment that the test names, whether its client is gone."""

    def __init__(self) -> None:
        self.arrived, self.ask = threading.Semaphore(0), threading.Event()
        self.asked = threading.Event()
        self.gone: list[bool] = []

    async def __call__(self, scope, receive, send) -> None:
        await read_body(receive)
        connection = scope["slimctr.connection"]
        self.arrived.release()
        self.ask.wait(WAIT_SECONDS)  # the event loop stands still, as it does while it scores
        self.gone.append(connection.gone)
        self.asked.set()
        await answer(send, b"done")


def request(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("how", ["close", "reset", "half close"])
def test_a_client_that_left_while_the_loop_was_busy_is_gone(how: str, size: int) -> None:
    app = Asking()
    with asgi_server(app) as (address, _), socket.create_connection(address, WAIT_SECONDS) as client:
        client.sendall(request(size))
        assert app.arrived.acquire(timeout=WAIT_SECONDS)
        if how == "half close":
            client.shutdown(socket.SHUT_WR)
        else:
            if how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
        app.ask.set()
        assert app.asked.wait(WAIT_SECONDS)
    assert app.gone == [True]


def test_a_client_that_waits_is_not_gone_also_on_its_second_request() -> None:
    app = Asking()
    app.ask.set()
    with asgi_server(app) as ((host, port), _), httpx.Client(base_url=f"http://{host}:{port}") as client:
        for size in SIZES.values():
            assert client.post("/", content=b"x" * size).text == "done"
    assert app.gone == [False] * len(SIZES)


def test_a_connection_that_is_over_stays_gone() -> None:
    kept = []

    async def keep(scope, receive, send) -> None:
        kept.append(scope["slimctr.connection"])
        await answer(send, b"")

    with asgi_server(keep) as ((host, port), _):
        httpx.get(f"http://{host}:{port}/")
    assert kept[0].gone


HALF_CLOSED = {
    "GET": b"GET /x HTTP/1.1\r\nHost: test\r\n\r\n",
    "HTTP/1.0": b"GET /x HTTP/1.0\r\n\r\n",
    "small body": request(100),
    "large body": request(300_000),
    "chunks": b"POST /x HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "upgrade": b"GET /x HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "pipeline": b"GET /x HTTP/1.1\r\nHost: test\r\n\r\n" * 3,
    "a request and half of one": b"GET /x HTTP/1.1\r\nHost: test\r\n\r\nGET /y HT",
}


@pytest.mark.parametrize("sent", HALF_CLOSED.values(), ids=HALF_CLOSED)
def test_a_client_that_closes_its_sending_side_reads_its_answers(sent: bytes) -> None:
    closed = threading.Event()

    async def late(scope, receive, send) -> None:
        await read_body(receive)
        while not closed.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # the loop has read the end
        await answer(send, b"x" * 3_000_000)

    with asgi_server(late) as (address, _), socket.create_connection(address, WAIT_SECONDS) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        closed.set()
        found = answers(read_all(client))
    requests = 3 if sent == HALF_CLOSED["pipeline"] else 1
    assert [(one.status, len(one.body)) for one in found] == [(200, 3_000_000)] * requests


def test_a_client_that_closes_its_sending_side_within_a_body_reads_why_it_is_refused() -> None:
    with asgi_server(Echo()) as (address, _), socket.create_connection(address, WAIT_SECONDS) as client:
        client.sendall(request(100)[:-1])
        client.shutdown(socket.SHUT_WR)
        (refused,) = answers(read_all(client))
    assert refused.status == 400
    assert "before the body was complete" in refused.problem["detail"]
