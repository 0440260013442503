"""Runs a bare ASGI application under the server of the service, in a thread, on a free port."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvloop
from fastapi import FastAPI

from service.lifecycle import Lifecycle
from service.server import DrainingServer, build_server
from service.settings import Settings

WAIT_SECONDS = 20.0
Serve = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class BareApp(FastAPI):
    """Hands each HTTP request to one coroutine function."""

    def __init__(self, serve: Serve) -> None:
        super().__init__()
        self.state.lifecycle = Lifecycle()
        self._serve = serve

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


def exchange(address: tuple[str, int], *packets: bytes) -> bytes:
    """Send packets, each once the one before has left, and return everything that comes until the server closes."""
    with socket.create_connection(address, WAIT_SECONDS) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for packet in packets:
            client.sendall(packet)
        return read_all(client)


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
