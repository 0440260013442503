"""One connection of a client: uvicorn's protocol with the limits, the time and the refusals of the service.

Every error is answered as a request is, through the application, so it is a problem document with an id, a log line and
a count. After an error nothing more of the connection is read as a request.
"""

import asyncio
import logging
import time
import urllib.parse
from contextlib import suppress
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import (
    BadRequest,
    HeadTooLarge,
    NotOffered,
    ReceiveTimeout,
    ServiceError,
    TargetTooLong,
    VersionNotSupported,
)
from service.http.connections import HALF_CLOSE_S, SWEEP_S, Connection, Connections
from service.http.exchange import Exchange, ExpectingExchange

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
# What the framing of a chunked body may take: this and some times the body, which allows chunks of one byte.
MAX_FRAMING_BYTES = 64 * 1024
MAX_FRAMING_RATIO = 8
# Requests of one connection that wait for the answers before theirs.
MAX_PIPELINED = 100
# After an error the client may go on sending for so long, or it could not read the answer.
LINGER_S = 2.0
LINGER_BYTES = 16 * 1024 * 1024
# Headers that mean something to the protocol itself.
FRAMING_HEADERS = frozenset({b"expect", b"host", b"transfer-encoding"})
UNKNOWN_METHOD = "_OTHER"

logger = logging.getLogger("slimctr.server")


class _Full(Exception):
    """More requests came than may wait for their answers."""


class ServiceProtocol(HttpToolsProtocol):
    """Reads requests within limits of size and time, and ignores requests to upgrade the protocol."""

    server_state: Connections
    cycle: Exchange

    def __init__(
        self,
        config: Config,
        server_state: Connections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.connection: Connection = None  # type: ignore[assignment]
        self._facade: Any = None  # the same, in place of a transport
        self._number = server_state.taken = server_state.taken + 1
        self._idle_since = self._arrived_s = 0.0
        self._stalled_since: float | None = None
        self._ends_at: float | None = None
        # The exchange whose answer is being made; `cycle` is the one that came last.
        self._answering: Exchange | None = None
        # Nothing that still comes is read.
        self._deaf = False
        self._ignored_bytes = 0
        # Of the message that comes in: `_raw_bytes` are its earlier packets, without its first if that held others.
        self._messages = 0
        self._in_head = self._chunked = self._has_host = False
        self._raw_bytes = self._packet_bytes = self._body_bytes = 0

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection that was accepted; close others when there are too many."""
        super().connection_made(transport)
        state = self.server_state
        self._idle_since = state.now
        self.connection = self._facade = Connection(transport, state.now)
        if len(state.connections) > state.most:
            state.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever answers that nobody listens."""
        answering, self._answering = self._answering, None
        if answering is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)
        # They refer to each other, and the last request of a connection can be large.
        self.cycle = self.scope = self.headers = None  # type: ignore[assignment]

    def eof_received(self) -> bool:  # type: ignore[override]
        """Note that the client sends no more; return whether it is owed an answer, for which this side stays open."""
        exchange, connection = self.cycle, self.connection
        connection.receiving_since = None
        if not self._is_answering():
            if connection.in_doubt:
                connection.close()
            return connection.in_doubt
        self._deaf = True
        connection.reads_on = time.perf_counter() - self._arrived_s <= HALF_CLOSE_S
        exchange.keep_alive = False
        if exchange.more_body:
            exchange.fail(BadRequest("the connection was closed before the body was complete"))
        return True

    def pause_writing(self) -> None:
        """Wait with answers until the client reads."""
        super().pause_writing()
        self._stalled_since = self.server_state.now

    def resume_writing(self) -> None:
        """Go on with answers."""
        super().resume_writing()
        self._stalled_since = None

    def check(self, now: float) -> None:
        """End what has lasted too long at `now`."""
        state = self.server_state
        if self.connection.half_closed or self.transport.is_closing():
            if self._ends_at is None:
                unsent = self.transport.get_write_buffer_size() > 0
                self._ends_at = now + (state.send_timeout_s if unsent else LINGER_S)
            elif now >= self._ends_at:
                self.transport.abort()
            return
        if self._stalled_since is not None:
            if now - self._stalled_since >= state.send_timeout_s + SWEEP_S:
                self.transport.abort()
            return
        since = self.connection.receiving_since
        if since is None:
            if not self._is_answering() and now - self._idle_since >= state.keep_alive_s + SWEEP_S:
                self.transport.close()
        elif now - since >= state.receive_timeout_s + SWEEP_S and not self._holds_back():
            self._take_too_long()

    def waits_since(self) -> tuple[int, float, int] | None:
        """Return a key that sorts the connections whose client lets the service wait; None while it waits itself."""
        if self.transport.is_closing():
            return None
        since = self.connection.receiving_since
        if not self._is_answering():
            return 0, self._idle_since if since is None else since, self._number
        if since is None or self._in_head:
            return None
        return 1, since, self._number

    def _is_answering(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def _holds_back(self) -> bool:
        """Return whether the rest of the request is late for the sake of an answer, not of the client."""
        return self.flow.read_paused or (self._in_head and self._is_answering())

    def _take_too_long(self) -> None:
        if not self._in_head and (self.cycle is None or not self.cycle.more_body):
            self.transport.close()  # not a byte of a request came
            return
        limit_s = self.server_state.receive_timeout_s
        self._fail(ReceiveTimeout(f"the request did not arrive within {limit_s} s (receive_timeout_s)"))

    # What comes in

    def data_received(self, data: bytes) -> None:
        """Read a packet."""
        if self._deaf:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > LINGER_BYTES:
                self.transport.close()
            return
        messages, in_head, since = self._messages, self._in_head, self.connection.receiving_since
        self._packet_bytes = len(data)
        try:
            try:
                self.parser.feed_data(data)
                end = None
            except httptools.HttpParserUpgrade as upgrade:
                end = upgrade.args[0]
            if end is not None:  # outside of the handler, which would give errors another cause
                self._ignore_upgrade(data, end)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _Full):
                self._deaf = True
            else:
                self._fail(self._error_of(error))
            return
        if self.connection.receiving_since is None:
            return
        # The rest comes with another packet.
        if not self._in_head:
            if self._messages == messages and not in_head:
                self._raw_bytes += len(data)
            framing = self._raw_bytes - self._body_bytes
            if self._chunked and framing > MAX_FRAMING_BYTES + MAX_FRAMING_RATIO * self._body_bytes:
                self._fail(_head_too_large())
        elif self._messages == messages or (
            (since is None or messages == 0) and self._messages == messages + 1
        ):
            self._raw_bytes += len(data)
            if self._raw_bytes > MAX_HEAD_BYTES:
                self._fail(_head_too_large())

    def _ignore_upgrade(self, data: bytes | memoryview, end: int) -> None:
        """Read a request to upgrade the protocol, whose head ends in `data`, as one without it, and what follows.

        For the parser the head ends such a request, and all that follows belongs to the other protocol. RFC 9110 lets a
        server ignore the wish (7.8): then a body follows.
        """
        while True:
            version = self.parser.get_http_version().encode()
            head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
            head += [b"%s: %s" % pair for pair in self.headers if pair[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(b"\r\n".join(head) + b"\r\n\r\n")
            data = memoryview(data)[end:]
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                end = upgrade.args[0]

    def on_message_begin(self) -> None:
        """Begin a request."""
        connection = self.connection
        if connection.receiving_since is None:
            connection.receiving_since = self.server_state.now
        self._messages += 1
        self._in_head = True
        self._raw_bytes = self._body_bytes = 0
        self._chunked = self._has_host = False
        super().on_message_begin()
        scope: Any = self.scope
        scope["slimctr.connection"] = connection

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self.url += url
        if len(self.url) > MAX_HEAD_BYTES:
            raise TargetTooLong(f"the target has more than {MAX_HEAD_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer, of which nobody hears."""
        name, value = name.lower(), value.rstrip(b" \t")  # which are no part of the value (RFC 9112, 5.1)
        if name in FRAMING_HEADERS:
            self._note(name, value)
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEADERS:
            raise _head_too_large()

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"host":
            if self._has_host:
                raise BadRequest("the request has more than one Host header")
            self._has_host = True
        elif value.lower() != b"chunked" or self._chunked:
            raise NotOffered(f"Transfer-Encoding '{value[:40].decode('latin-1')}' is not read; send chunked")
        else:
            self._chunked = True

    def on_headers_complete(self) -> None:
        """Hand the request to the application, or queue it behind those before it."""
        longest = self._raw_bytes + self._packet_bytes
        if longest > MAX_HEAD_BYTES and len(self.url) + _size(self.headers) > MAX_HEAD_BYTES:
            raise _head_too_large()
        version, method = self.parser.get_http_version(), self.parser.get_method()
        if version not in ("1.1", "1.0"):
            raise VersionNotSupported(f"HTTP/{version} is not spoken here; send HTTP/1.1")
        if self._chunked and version == "1.0":
            raise BadRequest("a request of HTTP/1.0 cannot have a Transfer-Encoding")
        if method == b"CONNECT":
            raise NotOffered("CONNECT is not offered: this is no proxy")
        if self.parser.should_upgrade():
            return
        raw_path, path, query = _target(self.url)
        scope = self.scope
        scope["method"] = method.decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
            self.expect_100_continue = False  # that version does not know it (RFC 9110, 10.1.1)
        scope["path"] = self.root_path + path
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["query_string"] = query
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        self._serve(self.app, keep_alive)
        self._in_head = False
        self._raw_bytes = 0
        if self._chunked:
            self.headers = []  # of trailers

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        exchange = self.cycle
        if exchange.response_complete:
            return
        self._body_bytes += len(body)
        exchange.body += body
        if len(exchange.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        exchange.message_event.set()

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        if self._in_head:
            return  # of a request to upgrade, which is read again
        if self._chunked and _size(self.headers) > MAX_HEAD_BYTES:
            raise _head_too_large()
        self.connection.receiving_since = None
        self._arrived_s = time.perf_counter()
        exchange = self.cycle
        if not exchange.response_complete:
            exchange.more_body = False
            exchange.message_event.set()
            if self.flow.read_paused and not self.pipeline:
                # For a large body; as long as it is, nobody notices that the client leaves.
                self.flow.resume_reading()

    # What goes out

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        state = self.server_state
        state.total_requests += 1
        connection = self.connection
        if connection.half_closed:
            self._deaf = True
            self.flow.resume_reading()
            return
        if self.transport.is_closing():
            return
        self._idle_since = state.now
        if self.pipeline:
            exchange, app = self.pipeline.pop()
            self._answer(cast(Exchange, exchange), app)
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self._in_head:
            connection.receiving_since = state.now  # it had to wait for this answer

    def _serve(self, app: Any, keep_alive: bool) -> None:
        kind = ExpectingExchange if self.expect_100_continue else Exchange
        self.cycle = exchange = kind(
            scope=self.scope,
            transport=self._facade,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        answering = self._answering
        if answering is None or answering.response_complete:
            self._answer(exchange, app)
        elif len(self.pipeline) < MAX_PIPELINED:
            self.flow.pause_reading()
            self.connection.reads_on = True  # nobody sees now when it closes its side
            self.pipeline.appendleft((exchange, app))
        else:
            last, _ = self.pipeline[0]
            last.keep_alive = False
            self.cycle = cast(Exchange, last)
            raise _Full

    def _answer(self, exchange: Exchange, app: Any) -> None:
        self._answering = exchange
        self._start_asgi_task(exchange, app)

    def _fail(self, error: ServiceError) -> None:
        """Answer `error` in its turn and read nothing more."""
        self._deaf = True
        exchange = self.cycle
        if self._in_head or exchange is None or not exchange.more_body:
            self._refuse(error)
        elif exchange.response_complete:
            self.connection.close()
        else:
            exchange.fail(error)

    def _refuse(self, error: ServiceError) -> None:
        if not self._in_head:
            self.on_message_begin()
        target = (b"", "", b"")
        with suppress(BadRequest):
            if self.headers:  # the target is there as a whole
                target = _target(self.url)
        scope = cast(dict[str, Any], self.scope)
        scope["method"] = self.parser.get_method().decode("ascii") if self.url else UNKNOWN_METHOD
        scope["raw_path"], scope["path"], scope["query_string"] = target
        scope["slimctr.refusal"] = error
        self.expect_100_continue = False
        with suppress(_Full):
            self._serve(self.server_state.refuse, keep_alive=False)
            self.cycle.more_body = False

    def _error_of(self, error: httptools.HttpParserError) -> ServiceError:
        """Return what a request that the parser gave up is answered with."""
        cause = error.__context__
        if isinstance(cause, ServiceError):
            return cause
        if isinstance(error, httptools.HttpParserCallbackError):
            logger.error("a request could not be taken", exc_info=cause)
        if self.url == b"*" and not self.headers and self.parser.get_http_version() == "2.0":
            return VersionNotSupported("HTTP/2 is not spoken here; send HTTP/1.1")
        return BadRequest(f"the request is not HTTP/1.1: {str(error).lower() or 'it cannot be read'}")


def _target(url: bytes) -> tuple[bytes, str, bytes]:
    """Return path as sent, path without escapes and query of a request target; raise BadRequest."""
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        raise BadRequest(f"'{url[:80].decode('latin-1')}' is no target of a request") from None
    raw_path = parsed.path or b"/"  # an absolute form may have none
    path = raw_path.decode("ascii")
    return raw_path, urllib.parse.unquote(path) if "%" in path else path, parsed.query or b""


def _size(headers: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"request line and headers may have {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers, "
        "trailers and extensions of chunks included"
    )
