"""Runs a bare ASGI application under the server of the service, in a thread, on a free port."""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvloop

from service.context import ContextMiddleware
from service.lifecycle import Lifecycle
from service.routes.direct import DirectApp
from service.server import DrainingServer, build_server
from service.settings import Settings
from service.telemetry.metrics import Metrics

WAIT_SECONDS = 20.0
Serve = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class BareApp(DirectApp):
    """Hands each HTTP request to one coroutine function."""

    def __init__(self, serve: Serve) -> None:
        super().__init__()
        self.state.lifecycle = Lifecycle()
        metrics = Metrics()
        self.add_context(metrics, self.state.lifecycle)
        self._serve = ContextMiddleware(serve, metrics, self.state.lifecycle)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


@contextmanager
def asgi_server(serve: Serve, **settings: Any) -> Iterator[tuple[tuple[str, int], DrainingServer]]:
    """Serve until the block ends; gives the address and the server."""
    server = build_server(BareApp(serve), Settings(insecure=True, drain_delay_s=0, **settings))
    started = threading.Event()
    server._on_started = started.set
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        thread = threading.Thread(target=lambda: uvloop.run(server.serve([listener])))
        thread.start()
        try:
            assert started.wait(WAIT_SECONDS)
            yield address, server
        finally:
            server.should_exit = True
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), "the server did not stop"


class Echo:
    """Answers with what it took from the request, and keeps that."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = (scope["method"], scope["path"], await read_body(receive))
        self.seen.append(request)
        await answer(send, repr(request).encode())


async def read_body(receive: Callable[[], Awaitable[dict[str, Any]]]) -> bytes:
    """Return the whole body of a request."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        body, more = body + message["body"], message["more_body"]
    return body


async def answer(
    send: Callable[[dict[str, Any]], Awaitable[None]], content: bytes, status: int = 200
) -> None:
    """Send one answer."""
    headers = [(b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


class Answer(NamedTuple):
    """One answer of several on a connection."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> Any:
        """The problem document."""
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.body)


def answers(received: bytes) -> list[Answer]:
    """Take the bytes of a connection apart; every answer has a Content-Length."""
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        length = int(headers.get("content-length", "0"))
        if status != 100:
            found.append(Answer(status, headers, received[:length]))
        received = received[length:]
    return found


def exchange(address: tuple[str, int], *packets: bytes) -> list[Answer]:
    """Send packets and return the answers that come until the server closes; the last request should ask for that."""
    with socket.create_connection(address, WAIT_SECONDS) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for packet in packets:
                client.sendall(packet)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has heard enough; what it said may be there
        return answers(read_all(client))


def read_all(client: socket.socket) -> bytes:
    """Return what comes until the server closes or resets the connection."""
    received = []
    try:
        while part := client.recv(65536):
            received.append(part)
    except ConnectionResetError:
        pass
    return b"".join(received)


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds."""

    async def look() -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not condition():
                await asyncio.sleep(0.01)

    asyncio.run(look())
