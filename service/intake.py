"""Reads what a request brings before it is parsed: the body within its limits, and the deadline."""

from collections.abc import Callable
from functools import partial

from starlette.requests import Request
from starlette.types import Receive

from service.context import context_of
from service.errors import BadHeader, BadRequest, DeadlineExceeded, QueueFull, TooLarge, UnsupportedMediaType
from service.http.body_memory import BodyMemory
from service.http.content_coding import codings_of, decoded
from service.http.headers import list_of
from service.settings import Settings
from service.wire.decoder import Decoder

JSON = "application/json"
# A body above max_body_bytes once it is decompressed may have grown at most this much.
MAX_EXPANSION = 100
# Decompressing, decoding or encoding a body of this size takes about as long as a turn of the event loop may.
LARGE_BODY_BYTES = 64 * 1024


def check_content_type(request: Request, *others: str) -> str:
    """Return the media type of the body, JSON unless the request says otherwise.

    Raises UnsupportedMediaType when it is neither JSON nor one of `others`.
    """
    content_type = request.headers.get("content-type", JSON)
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != JSON and media_type not in others:
        raise UnsupportedMediaType(
            f"content type '{content_type[:80]}' is not read here; send {' or '.join((JSON, *others))}"
        )
    return media_type


async def read_body(request: Request, settings: Settings, due_s: float) -> bytes:
    """Return the body, decompressed before `due_s` (monotonic clock); every limit is enforced while reading.

    Raises TooLarge, QueueFull, UnsupportedMediaType, BadHeader, BadRequest, DeadlineExceeded, and what the connection
    raises: ReceiveTimeout, say.
    """
    _check_announced_length(request.headers.get("content-length"), settings.max_body_bytes)
    codings: tuple[str, ...] = ()
    if "content-encoding" in request.headers:
        codings = codings_of(list_of(request, b"content-encoding"))
    body = await _read_messages(request.receive, settings.max_body_bytes, partial(_hold, request))
    if not codings:
        return body
    return await _decompress(request, body, codings, settings, due_s)


async def _decompress(
    request: Request, body: bytes, codings: tuple[str, ...], settings: Settings, due_s: float
) -> bytes:
    limit = decompressed_limit(len(body), settings)
    if len(body) <= LARGE_BODY_BYTES:
        try:
            return decoded(body, codings, min(limit[0], LARGE_BODY_BYTES), limit[1])
        except TooLarge:
            if limit[0] <= LARGE_BODY_BYTES:
                raise
    # Tens of megabytes take a tenth of a second: too long for the event loop.
    decoder: Decoder = request.app.state.decoder
    try:
        plain = await decoder.run("decode", partial(decoded, body, codings, *limit), due_s)
    except DeadlineExceeded:
        request.app.state.metrics.shed_total.labels("deadline").inc()
        raise
    _hold(request, len(plain))
    return plain


def _hold(request: Request, size_bytes: int) -> None:
    """Count bytes of a body until the request ends. Raises QueueFull."""
    memory: BodyMemory = request.app.state.body_memory
    try:
        memory.take(size_bytes)
    except QueueFull:
        request.app.state.metrics.shed_total.labels("queue_full").inc()
        raise
    context = context_of(request)
    context.releases.append(partial(memory.give_back, size_bytes))


def decompressed_limit(size_bytes: int, settings: Settings) -> tuple[int, str]:
    """Return how many bytes a compressed body of `size_bytes` may become, and the limit in words."""
    grown = max(MAX_EXPANSION * size_bytes, settings.max_body_bytes)
    if grown >= settings.max_decompressed_bytes:
        return settings.max_decompressed_bytes, f"max_decompressed_bytes ({settings.max_decompressed_bytes})"
    return grown, (
        f"{grown} bytes: beyond max_body_bytes ({settings.max_body_bytes}) it may be "
        f"{MAX_EXPANSION} times the compressed size ({size_bytes})"
    )


def deadline_s(header: str | None, timeout_us: int | None, now: float, settings: Settings) -> float:
    """Return when the answer is due, on the clock of `now`, in seconds.

    The smallest of header (milliseconds), timeout parameter (microseconds) and the maximum counts; without either
    the default. Raises BadHeader.
    """
    if header is None and not timeout_us:
        return now + settings.default_deadline_ms / 1000
    asked_ms = []
    if header is not None:
        if not (header.isascii() and header.isdigit()) or len(header) > 9 or int(header) == 0:
            raise BadHeader(f"X-Request-Deadline-Ms '{header[:40]}' is not a positive number of milliseconds")
        asked_ms.append(float(header))
    if timeout_us:
        asked_ms.append(timeout_us / 1000)
    return now + min(*asked_ms, settings.max_deadline_ms) / 1000


def _check_announced_length(header: str | None, max_bytes: int) -> None:
    if header is None:
        return
    if not (header.isascii() and header.isdigit()):
        raise BadHeader(f"Content-Length '{header[:40]}' is not a number")
    if int(header) > max_bytes:
        raise TooLarge(f"the body of {header} bytes is above max_body_bytes ({max_bytes})")


async def _read_messages(receive: Receive, max_bytes: int, hold: Callable[[int], None]) -> bytes:
    """Return the body; `hold` is told what it has beyond LARGE_BODY_BYTES, before more of it is read."""
    chunks = []
    size = counted = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("the connection was closed before the body was complete")
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"the body is above max_body_bytes ({max_bytes})")
        if size - counted > LARGE_BODY_BYTES:
            hold(size - counted)
            counted = size
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunk if len(chunks) == 1 else b"".join(chunks)
