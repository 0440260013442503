"""The open connections of one process: how long each may make the service wait, and which goes if there are too many."""

import asyncio
import ctypes
import logging
import os
import resource
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from starlette.types import ASGIApp
from uvicorn.server import ServerState

from service.settings import Settings

if TYPE_CHECKING:
    from service.http.protocol import ServiceProtocol

# Between two sweeps; nobody is cut off early, and at most two sweeps late.
SWEEP_S = 0.5
# Descriptors kept for connections that are being accepted and for everything else: files, the state, models.
RESERVED_DESCRIPTORS = 2048

# A client that closes its sending side so soon after its request did so on purpose and reads on: nobody gives up then.
HALF_CLOSE_S = 0.002
# How long an answer may take to a client of which only the answer can tell whether it left.
DOUBT_S = 2.0
DOUBT_STEP_S = 0.005

_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_ESTABLISHED, _CLOSED, _CLOSE_WAIT = 1, 7, 8  # linux/include/net/tcp_states.h
# Through ctypes, which keeps the interpreter's lock and owns no descriptor: a transport offers no cheap way to ask.
_getsockopt = ctypes.PyDLL(None).getsockopt
_tcp_state = ctypes.c_ubyte()  # the first member of struct tcp_info
_one_byte = ctypes.c_uint32(1)

logger = logging.getLogger("slimctr.server")


class Connection:
    """The connection of a request, as `scope["slimctr.connection"]`; test clients have none.

    To be used on the event loop only. `receiving_since` is when a request began that has not arrived completely yet, on
    the clock of `Connections`; None between requests. `half_closed` says that this side sends no more, `reads_on` that
    the client does not, and waits for its answers, `in_doubt` that only the end of the answers tells whether it does.
    """

    __slots__ = (
        "_descriptor",
        "_is_whole",
        "_transport",
        "half_closed",
        "in_doubt",
        "reads_on",
        "receiving_since",
        "write",
    )

    def __init__(self, transport: asyncio.Transport, now: float) -> None:
        self._transport = transport
        self._descriptor: int = transport.get_extra_info("socket").fileno()
        self.write = transport.write
        self.receiving_since: float | None = now
        self.half_closed = False
        self.reads_on = False
        self.in_doubt = False
        self._is_whole: bool | None = None

    @property
    def gone(self) -> bool:
        """Whether the client has closed its side, the connection broke, or this side is closing it; takes 1 µs.

        The kernel is asked, because the event loop reads that a client left only when it turns to its sockets again.
        False means that an answer can be handed to the kernel, not that it will arrive. A client that closed its
        sending side only, together with its request, is not gone (`reads_on`).
        """
        state = self._state()
        return state != _ESTABLISHED and not (self.reads_on and state == _CLOSE_WAIT)

    def begin_answer(self) -> bool | None:
        """Return whether the client is there as its answer begins; None when only `arrived` can tell.

        A client that closed the connection and one that closed its sending side look alike until bytes reach them.
        """
        state = self._state()
        if state == _ESTABLISHED:
            return True
        if state != _CLOSE_WAIT:
            return False
        self.in_doubt = True
        return None

    async def arrived(self) -> bool:
        """Return whether the client's system acknowledged all that was answered, then end the connection.

        That of a client that left refuses it with a reset. Called where `begin_answer` was None, once all is written.
        """
        left = round(DOUBT_S / DOUBT_STEP_S)
        while self._is_whole is None:
            if self._state() == _CLOSED:
                self._is_whole = not self._transport.is_closing() and self._error() == 0
            elif left == 0:
                self._is_whole = False
            else:
                left -= self.half_closed  # before, others of its requests are answered
                await asyncio.sleep(DOUBT_STEP_S)
        self._transport.abort()
        return self._is_whole

    def _state(self) -> int:
        if self._transport.is_closing():
            return _CLOSED
        if _TCP_INFO is None:
            return _ESTABLISHED
        failed = _getsockopt(
            self._descriptor, socket.IPPROTO_TCP, _TCP_INFO, ctypes.byref(_tcp_state), ctypes.byref(_one_byte)
        )
        return _CLOSED if failed else _tcp_state.value

    def _error(self) -> int:
        found: int = self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return found

    def is_closing(self) -> bool:
        """Return whether nothing can be written any more."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close once everything is written.

        In the middle of a request only this side is closed: with bytes of the client unread the kernel would reset the
        connection, and the client would lose the answer that says why. So it is while it is in doubt whether the client
        is there: `arrived` closes the rest.
        """
        if self.receiving_since is None and not self.in_doubt:
            self._transport.close()
        elif not self.half_closed and not self._transport.is_closing():
            self.half_closed = True
            self._transport.write_eof()


class Connections(ServerState):
    """What the connections of one process share. `now` is their clock: seconds, read once per sweep.

    One sweep over all connections costs less than a timer for each request. The clock stands still while the event loop
    does, so a process that was stopped does not blame its clients.
    """

    def __init__(self, settings: Settings, refuse: ASGIApp) -> None:
        super().__init__()
        self.keep_alive_s = settings.keep_alive_s
        self.receive_timeout_s = settings.receive_timeout_s
        self.send_timeout_s = settings.send_timeout_s
        self.refuse = refuse
        self.now = 0.0
        self.most = 0
        self.taken = 0
        self._swept_at = time.monotonic()
        self._crowded_out = 0

    def limit_descriptors(self) -> None:
        """Raise the limit of descriptors as far as allowed, and learn how many connections fit below it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):  # a hard limit above what the kernel takes
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        free = soft - len(os.listdir("/dev/fd"))
        self.most = max(1, free - min(RESERVED_DESCRIPTORS, free // 4))

    def sweep(self) -> None:
        """Move the clock and look at every connection."""
        at = time.monotonic()
        self.now += min(at - self._swept_at, 2 * SWEEP_S)
        self._swept_at = at
        for protocol in list(self.connections):
            cast("ServiceProtocol", protocol).check(self.now)
        if self._crowded_out:
            logger.warning(
                "the limit of open files is reached; idle connections were closed",
                extra={"detail": f"{self._crowded_out} of {self.most}; raise `ulimit -n`"},
            )
            self._crowded_out = 0

    def make_room(self) -> None:
        """Close the connections that have made the service wait longest, some at a time.

        Those of which nothing or half of a head has arrived and those between two requests go first, then those whose
        body is on its way; never one that waits for its answer.
        """
        waiting = [(protocol.waits_since(), protocol) for protocol in self._protocols()]
        oldest = sorted((since, number) for number, (since, _) in enumerate(waiting) if since is not None)
        for _, number in oldest[: max(1, self.most // 64)]:
            waiting[number][1].transport.close()
            self._crowded_out += 1

    def _protocols(self) -> list["ServiceProtocol"]:
        return cast("list[ServiceProtocol]", list(self.connections))
