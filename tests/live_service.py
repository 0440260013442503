"""Runs the real application under the real server, in a thread of the test process, on a free port."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvloop
from fastapi import FastAPI

from service.app import create_app
from service.pool import Pool
from service.server import DrainingServer, build_server
from service.settings import Settings

Result = TypeVar("Result")
WAIT_SECONDS = 20.0


@dataclass
class LiveService:
    """A service that answers; `http` keeps its connections open."""

    host: str
    port: int
    app: FastAPI
    server: DrainingServer
    http: httpx.Client
    loop: asyncio.AbstractEventLoop

    @property
    def pool(self) -> Pool:
        """The pool of the application; use it through `call` only."""
        pool: Pool = self.app.state.pool
        return pool

    def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine on the loop of the service and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_SECONDS)

    def settle(self) -> None:
        """Look at the labels and wait until nothing is loading any more."""

        async def look() -> None:
            await self.pool._look()
            await self.pool.settled()

        self.call(look())

    def predict(self, **body: Any) -> dict[str, Any]:
        """Return the answer to a request that must succeed."""
        response = self.http.post("/v1/predict", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


@contextmanager
def live_service(
    store: Path, state: Path, prepare: Callable[[FastAPI], None] | None = None, **settings: Any
) -> Iterator[LiveService]:
    """Serve the store until the block ends; `state` is a folder for the experiment's database."""
    defaults: dict[str, Any] = {
        "store": store,
        "insecure": not settings.get("api_keys"),
        "state_url": f"sqlite:///{state}/state.sqlite3",
        "drain_delay_s": 0,
        "label_poll_seconds": 0.05,
        "default_deadline_ms": 10_000,  # slow machines are no reason to fail
    }
    config = Settings(**{**defaults, **settings})
    app = create_app(config)
    if prepare is not None:
        prepare(app)
    server = build_server(app, config)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    host, port = listener.getsockname()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve([listener])

    thread = threading.Thread(target=lambda: uvloop.run(serve()), name="live-service")
    thread.start()
    try:
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=WAIT_SECONDS) as http:
            http.get("/livez")
            service = LiveService(host, port, app, server, http, loops[0])
            service.call(service.pool.settled())
            yield service
    finally:
        server.should_exit = True
        thread.join(WAIT_SECONDS)
        listener.close()
        assert not thread.is_alive(), "the service did not stop"
