"""How long a connection may let the service wait: for a request, for its reading, and when there are too many."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from asgi_server import WAIT_SECONDS, Echo, answer, answers, asgi_server, read_all, read_body, wait_until

from service.server import DrainingServer

pytestmark = pytest.mark.slow  # waits for clients

Address = tuple[str, int]
GET = b"GET /x HTTP/1.1\r\nHost: test\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: test\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with asgi_server(Echo(), receive_timeout_s=0.3, keep_alive_s=1) as (address, _):
        yield address


def connected(address: Address) -> socket.socket:
    return socket.create_connection(address, WAIT_SECONDS)


PARTS = {
    "half a request line": b"GET /x HT",
    "a request line": b"GET /x HTTP/1.1\r\n",
    "half a header": b"GET /x HTTP/1.1\r\nHost: te",
    "all but the end of the head": GET[:-2],
    "no body": POST + b"Content-Length: 5\r\n\r\n",
    "half a body": POST + b"Content-Length: 5\r\n\r\nab",
    "half a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    "chunks without an end": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    "half a trailer": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nT: a",
    "half a head to upgrade": POST + UPGRADE,
    "half a body to upgrade": POST + UPGRADE + b"Content-Length: 5\r\n\r\nab",
    "no body, which it waits to be asked for": POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
}


def left_alone(address: Address, sent: list[bytes]) -> list[bytes]:
    """Return what each of several connections gets until the service closes it; all of them wait together."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(address)) for _ in sent]
        for client, data in zip(clients, sent, strict=True):
            client.sendall(data)
        return [read_all(client) for client in clients]


@pytest.mark.parametrize("before", [b"", GET], ids=["first", "behind another"])
def test_a_request_that_does_not_arrive_is_408_and_the_connection_closes(
    address: Address, before: bytes
) -> None:
    received = left_alone(address, [before + part for part in PARTS.values()])
    for name, found in zip(PARTS, map(answers, received), strict=True):
        *earlier, last = found
        assert [one.status for one in earlier] == [200] * bool(before), name
        assert (last.status, last.headers["connection"]) == (408, "close"), name
        assert last.problem["type"] == "/problems/receive-timeout"


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"], ids=["nothing", "empty lines"])
def test_a_connection_without_a_request_is_closed_in_silence(address: Address, sent: bytes) -> None:
    never, idle = left_alone(address, [sent, GET + sent])
    assert never == b""
    assert [one.status for one in answers(idle)] == [200]


@pytest.mark.parametrize(
    "part", [POST + b"X-Long: ", POST + b"Content-Length: 100000\r\n\r\n"], ids=["head", "body"]
)
def test_a_byte_now_and_then_does_not_help(address: Address, part: bytes) -> None:
    over = threading.Event()
    with connected(address) as client:
        client.sendall(part)

        def drip() -> None:
            with suppress(OSError):
                while not over.wait(0.05):
                    client.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        [last] = answers(read_all(client))
        over.set()
        dripping.join()
    assert last.status == 408


class Held:
    """Answers once it may."""

    def __init__(self) -> None:
        self.arrived, self.may = threading.Semaphore(0), threading.Event()

    async def __call__(self, scope, receive, send) -> None:
        await read_body(receive)
        self.arrived.release()
        while not self.may.is_set():
            await asyncio.sleep(0.01)
        await answer(send, b"done")


def sweeps(server: DrainingServer, seconds: float) -> None:
    """Wait until the connections are `seconds` older."""
    start = server._connections.now
    wait_until(lambda: server._connections.now >= start + seconds)


def test_a_client_that_waits_for_its_answer_is_never_too_late_nor_what_it_sends_meanwhile() -> None:
    app = Held()
    with (
        asgi_server(app, receive_timeout_s=0.3, keep_alive_s=1) as (address, server),
        connected(address) as alone,
        connected(address) as hasty,
    ):
        alone.sendall(GET)
        hasty.sendall(GET + GET[:-2])
        for _ in range(2):
            assert app.arrived.acquire(timeout=WAIT_SECONDS)
        sweeps(server, 2.0)
        hasty.sendall(GET[-2:])
        app.may.set()
        assert [one.body for one in answers(read_all(alone))] == [b"done"]
        assert [one.body for one in answers(read_all(hasty))] == [b"done", b"done"]


def test_an_answer_that_nobody_reads_is_given_up_with_its_connection() -> None:
    async def large(scope, receive, send) -> None:
        await answer(send, bytes(8 << 20))

    with asgi_server(large, send_timeout_s=0.3) as (address, server), ExitStack() as stack:
        for sent in (GET, GET * 200, GET[:-2] + b"Connection: close\r\n\r\n"):
            client = stack.enter_context(connected(address))
            client.sendall(sent)
        wait_until(lambda: server.server_state.total_requests == 3)
        assert len(server.server_state.connections) == 3
        wait_until(lambda: not server.server_state.connections)


def test_a_client_that_keeps_sending_after_a_refusal_is_left(address: Address) -> None:
    def send_on(client: socket.socket) -> None:
        client.sendall(b"hello\r\n\r\n")
        for _ in range(10_000):
            client.sendall(bytes(65536))

    with connected(address) as client, pytest.raises(OSError, match=r"[Bb]roken pipe|reset"):
        send_on(client)


@pytest.mark.parametrize("silent", [b"", GET[:-2], GET], ids=["nothing sent", "half a head", "idle"])
def test_with_too_many_connections_the_longest_idle_make_room_and_no_running_request(silent: bytes) -> None:
    app = Held()
    with asgi_server(app) as (address, server), ExitStack() as stack:
        server._connections.most = 20
        app.may.set()

        def opened(sent: bytes) -> socket.socket:
            client = stack.enter_context(connected(address))
            client.sendall(sent)
            if sent == GET:
                assert answers(client.recv(65536))[0].status == 200
            return client

        idle = [opened(silent) for _ in range(10)]
        wait_until(lambda: len(server.server_state.connections) == 10)
        app.may.clear()
        running = [stack.enter_context(connected(address)) for _ in range(10)]
        for client in running:
            client.sendall(GET)
        wait_until(lambda: sum(map(_is_busy, server.server_state.connections)) == 10)
        app.may.set()
        late = [opened(GET) for _ in range(5)]
        assert [answers(client.recv(65536))[0].status for client in running] == [200] * 10
        assert [read_all(client) for client in idle[:5]] == [b""] * 5
        assert len(late) == 5


def _is_busy(protocol: object) -> bool:
    return protocol.waits_since() is None  # type: ignore[attr-defined]
