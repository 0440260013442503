"""One connection of a client: uvicorn's protocol, except for what the service decides itself."""

import asyncio
import ctypes
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_ESTABLISHED = 1
# Through ctypes, which keeps the interpreter's lock and owns no descriptor: a transport offers no cheap way to ask.
_getsockopt = ctypes.PyDLL(None).getsockopt
_tcp_state = ctypes.c_ubyte()  # the first member of struct tcp_info
_one_byte = ctypes.c_uint32(1)


class Connection:
    """The connection of a request, as `scope["slimctr.connection"]`; test clients have none.

    To be used on the event loop only.
    """

    __slots__ = ("_descriptor", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._descriptor: int = transport.get_extra_info("socket").fileno()

    @property
    def gone(self) -> bool:
        """Whether the client has closed its side, the connection broke, or this side is closing it; takes 1 µs.

        The kernel is asked, because the event loop reads that a client left only when it turns to its sockets again.
        False means that an answer can be handed to the kernel, not that it will arrive.
        """
        if self._transport.is_closing():
            return True
        if _TCP_INFO is None:
            return False
        failed = _getsockopt(
            self._descriptor, socket.IPPROTO_TCP, _TCP_INFO, ctypes.byref(_tcp_state), ctypes.byref(_one_byte)
        )
        return bool(failed) or _tcp_state.value != _ESTABLISHED


class ServiceProtocol(HttpToolsProtocol):
    """Puts the connection into the scope of each request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection that was accepted."""
        super().connection_made(transport)
        self.connection = Connection(transport)

    def on_message_begin(self) -> None:
        """Begin the scope of a request."""
        super().on_message_begin()
        scope: Any = self.scope
        scope["slimctr.connection"] = self.connection
