"""uvicorn's HTTP protocol, except that scoring requests begin in the turn of the event loop that has read them."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.intake import continued
from service.routes.direct import DirectApp


class PromptProtocol(HttpToolsProtocol):
    """Runs a direct request that has arrived whole until it first waits; most never do and need no task of their own.

    What runs before the first wait has no current task: `DirectApp` says which requests do without one.
    """

    _read: list[tuple[Any, Any]] | None = None

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, and begin the requests in it."""
        read: list[tuple[Any, Any]] = []
        self._read = read
        try:
            super().data_received(data)
        finally:
            self._read = None
        for cycle, app in read:
            if cycle.more_body:
                self._start_asgi_task(cycle, app)
            else:
                self._begin(cycle, app)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self._read is not None and isinstance(app, DirectApp) and app.find_direct(cycle.scope):
            self._read.append((cycle, app))
        else:
            super()._start_asgi_task(cycle, app)

    def _begin(self, cycle: Any, app: DirectApp) -> None:
        running = cycle.run_asgi(app)
        try:
            waits_for = running.send(None)
        except StopIteration:
            return
        task: asyncio.Task[None] = self.loop.create_task(continued(running, waits_for))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
