"""An answer that is there before the request is: the client can read it, and what follows is read in its place."""

import socket
import struct
from collections.abc import Iterator

import pytest
from asgi_server import WAIT_SECONDS, answer, answers, asgi_server, exchange, read_all

from service.errors import TooLarge

Address = tuple[str, int]
BODY = bytes(3 << 20)
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"


def post(path: bytes, *headers: bytes, body: bytes = BODY) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST %s HTTP/1.1\r\nHost: test\r\n%s%s\r\n%s" % (path, b"".join(headers), length, body)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Address, list[str]]]:
    seen = []

    async def early(scope, receive, send) -> None:
        """Answer without reading the body."""
        seen.append(scope["path"])
        if scope["path"] == "/refused":
            raise TooLarge("too large")
        await answer(send, scope["path"].encode())

    with asgi_server(early, receive_timeout_s=2, keep_alive_s=5) as (address, _):
        yield address, seen


def test_the_rest_of_a_body_is_read_and_the_next_request_behind_it(
    running: tuple[Address, list[str]],
) -> None:
    last = b"GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    found = exchange(running[0], post(b"/a"), post(b"/refused"), post(b"/b", body=SMUGGLED * 1000), last)
    assert [one.status for one in found] == [200, 413, 200, 200]
    assert [one.body for one in found if one.status == 200] == [b"/a", b"/b", b"/last"]
    assert "/smuggled" not in running[1]


@pytest.mark.parametrize("path", [b"/a", b"/refused"])
def test_a_client_that_is_still_sending_can_read_the_answer_that_closes(
    running: tuple[Address, list[str]], path: bytes
) -> None:
    with socket.create_connection(running[0], WAIT_SECONDS) as client:
        head, _, body = post(path, b"Connection: close\r\n").partition(b"\r\n\r\n")
        client.sendall(head + b"\r\n\r\n" + body[:1000])
        received = client.recv(65536)
        client.sendall(body[1000:] + SMUGGLED)  # no reset before everything is sent
        received += read_all(client)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    [found] = answers(received)
    assert found.headers["connection"] == "close"
    assert "/smuggled" not in running[1]


def test_a_body_that_nobody_waits_for_and_that_does_not_come_ends_the_connection(
    running: tuple[Address, list[str]],
) -> None:
    with socket.create_connection(running[0], WAIT_SECONDS) as client:
        client.sendall(post(b"/a")[:-10])
        [found] = answers(read_all(client))
    assert found.status == 200


def test_a_client_that_resets_in_the_middle_leaves_nothing(running: tuple[Address, list[str]]) -> None:
    for cut in (10, 60, 100_000, len(BODY)):
        with socket.create_connection(running[0], WAIT_SECONDS) as client:
            client.sendall(post(b"/a")[:cut])
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    [found] = exchange(running[0], b"GET /x HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    assert found.status == 200
