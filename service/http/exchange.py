"""One request of a connection and its answer: when its body is asked for, and what a body that failed does."""

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.errors import ServiceError


class Exchange(RequestResponseCycle):
    """One request and its answer; a body that fails on its way raises where it is read."""

    failure: ServiceError | None = None

    def fail(self, error: ServiceError) -> None:
        """Let whoever reads the body meet `error`; the connection ends with the answer."""
        self.failure = error
        self.keep_alive = False
        self.message_event.set()

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next part of the body; raise ServiceError when it failed."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            if (
                self.more_body and not self.body
            ):  # some proxies pass the wish on and take the 100 for the answer
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete and self.failure is None:
            if self.more_body:
                self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        if self.failure is not None:
            raise self.failure
        body, self.body = self.body, bytearray()
        return {"type": "http.request", "body": bytes(body), "more_body": self.more_body}


class ExpectingExchange(Exchange):
    """One request whose client waits to be asked for the body.

    Answered without having been asked, the client may leave the body out or send it all the same: nobody can tell
    what comes next, so the connection ends.
    """

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the answer."""
        if self.waiting_for_100_continue and message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await super().send(message)
