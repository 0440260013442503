"""Undoes the content codings of a body within a limit: gzip and deflate, as the RFCs say and as clients send them."""

import re
import zlib
from collections.abc import Callable
from typing import Any

from service.errors import BadRequest, TooLarge, UnsupportedCoding
from service.http.headers import members

CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "identity": "identity"}
MAX_CODINGS = 4
# A writer starts a member for 64 KiB of plain text at the earliest; each costs some microseconds however short it is.
MAX_MEMBERS = 4096
# What is left of a piece is copied when a member ends: small pieces keep the work in proportion to the body.
PIECE_BYTES = 32 * 1024
_NOT_ZERO = re.compile(rb"[^\0]")


def codings_of(header: str) -> tuple[str, ...]:
    """Return the codings of a `Content-Encoding` list in the order they were applied; identity is none.

    Raises UnsupportedCoding.
    """
    given = members(header)
    codings = [CODINGS.get(coding.lower(), "") for coding in given]
    if "" in codings or len(given) > MAX_CODINGS:
        raise UnsupportedCoding(
            f"content encoding '{header[:40]}' is not read; send gzip, deflate or none, {MAX_CODINGS} at most"
        )
    return tuple(coding for coding in codings if coding != "identity")


def decoded(body: bytes, codings: tuple[str, ...], max_bytes: int, limit: str) -> bytes:
    """Return the plain body; every step has `max_bytes` at most, which `limit` explains to the caller.

    Raises TooLarge as soon as there is more, BadRequest.
    """
    for coding in reversed(codings):
        if body:  # nothing stays nothing
            read = _gunzip if coding == "gzip" else _inflate
            try:
                body = read(body, _Room(max_bytes, limit))
            except zlib.error as error:
                raise BadRequest(f"the body is not valid {coding}: {error}") from None
    return body


class _Room:
    """Collects plain bytes up to a limit."""

    def __init__(self, max_bytes: int, limit: str) -> None:
        self._left, self._limit = max_bytes, limit
        self.pieces: list[bytes] = []

    def read(self, decompress: Callable[[Any, int], bytes], piece: Any) -> None:
        """Take what `decompress` makes of a piece. Raises TooLarge."""
        plain = decompress(piece, self._left + 1)
        self._left -= len(plain)
        if self._left < 0:
            raise TooLarge(f"the decompressed body is above {self._limit}")
        self.pieces.append(plain)


def _gunzip(body: bytes, room: _Room) -> bytes:
    """Return the text of all members one after another (RFC 1952, 2.2); zeros behind the last are padding."""
    view, at, count = memoryview(body), 0, 0
    while at < len(body):
        if count and _NOT_ZERO.search(body, at) is None:
            break
        if count == MAX_MEMBERS:
            raise BadRequest(f"the gzip body has more than {MAX_MEMBERS} members: compress it as one")
        reader = zlib.decompressobj(16 + zlib.MAX_WBITS)
        at, count = _read_stream(reader, view, at, room, "gzip"), count + 1
    return b"".join(room.pieces)


def _inflate(body: bytes, room: _Room) -> bytes:
    """Return the text of a zlib stream, or of the bare deflate stream that some clients send in its place."""
    is_zlib = len(body) > 1 and body[0] & 0x8F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    reader = zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
    if _read_stream(reader, memoryview(body), 0, room, "deflate") != len(body):
        raise BadRequest("the deflate body has bytes behind its end")
    return b"".join(room.pieces)


def _read_stream(reader: Any, view: memoryview, at: int, room: _Room, coding: str) -> int:
    """Read one compressed stream from byte `at` on; return the byte behind it. Raises BadRequest, TooLarge."""
    while not reader.eof:
        piece = view[at : at + PIECE_BYTES]
        if not piece:
            raise BadRequest(f"the {coding} body is truncated")
        room.read(reader.decompress, piece)
        at += len(piece) - len(reader.unused_data)
    return at
