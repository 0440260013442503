"""What of a connection is a request: upgrades, framing, pipelines, limits. Nothing else is ever executed."""

import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest
from asgi_server import WAIT_SECONDS, Echo, answer, answers, asgi_server, exchange, read_all, read_body
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import TooLarge

HOST = b"Host: test\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
WEBSOCKET = b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"

Running = tuple[tuple[str, int], Echo]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    echo = Echo()
    with asgi_server(echo) as (address, _):
        yield address, echo


def post(body: bytes, *headers: bytes, path: bytes = b"/x") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST %s HTTP/1.1\r\n%s%s%s\r\n%s" % (path, HOST, b"".join(headers), length, body)


def post_chunked(
    chunks: list[bytes], *headers: bytes, path: bytes = b"/x", end: bytes = b"0\r\n\r\n"
) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end
    return b"POST %s HTTP/1.1\r\n%s%s%s\r\n%s" % (path, HOST, b"".join(headers), CHUNKED, body)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:stop] for start, stop in pairwise(edges)]


requests = st.tuples(
    st.sampled_from(["none", "length", "chunked"]),
    st.sampled_from([b"", UPGRADE, WEBSOCKET, b"Upgrade: h2c\r\n", b"Connection: Upgrade\r\n"]),
    st.sampled_from([b"", b"{}", SMUGGLED, b"x" * 300]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=st.lists(requests, min_size=1, max_size=5), places=st.lists(st.integers(0, 3000), max_size=6))
def test_a_request_to_upgrade_is_answered_as_one_without_in_every_order_and_any_packets(
    running: Running, wanted: list[tuple[str, bytes, bytes]], places: list[int]
) -> None:
    sent, expected = b"", []
    for number, (form, upgrade, body) in enumerate(wanted):
        path = b"/%d" % number
        if form == "none":
            sent += b"GET %s HTTP/1.1\r\n%s%s\r\n" % (path, HOST, upgrade)
        elif form == "length":
            sent += post(body, upgrade, path=path)
        else:
            sent += post_chunked([body] if body else [], upgrade, path=path)
        method, body = ("GET", b"") if form == "none" else ("POST", body)
        expected.append(repr((method, path.decode(), body)).encode())
    found = exchange(running[0], *cut(sent + LAST, places))
    assert [one.body for one in found] == [*expected, repr(("GET", "/last", b"")).encode()]


def test_upgrade_byte_by_byte(running: Running) -> None:
    sent = post_chunked([b"abc", SMUGGLED], UPGRADE) + post(SMUGGLED, WEBSOCKET) + LAST
    found = exchange(running[0], *cut(sent, list(range(len(sent)))))
    assert [one.status for one in found] == [200, 200, 200]
    assert found[0].body == repr(("POST", "/x", b"abc" + SMUGGLED)).encode()


def test_an_application_sees_no_upgrade_header_of_an_ignored_upgrade() -> None:
    seen = []

    async def keep(scope, receive, send) -> None:
        seen.append(dict(scope["headers"]))
        await Echo()(scope, receive, send)

    with asgi_server(keep) as (address, _):
        exchange(address, post(b"a", UPGRADE, b"Upgrade: second\r\nX-Own: kept\r\n") + LAST)
    assert b"upgrade" not in seen[0]
    assert seen[0][b"x-own"] == b"kept"


BROKEN = {
    "two lengths": (b"POST /x HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "a list of lengths": (b"POST /x HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
    "a signed length": (b"POST /x HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc", 400),
    "length, then chunks": (b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "chunks, then length": (b"POST /x HTTP/1.1\r\n" + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "length and chunks of an upgrade": (
        b"POST /x HTTP/1.1\r\n" + UPGRADE + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
        400,
    ),
    "chunks twice": (b"POST /x HTTP/1.1\r\n" + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n", (400, 501)),
    "chunks in HTTP/1.0": (b"POST /x HTTP/1.0\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "gzip as transfer": (b"POST /x HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "identity as transfer": (b"POST /x HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\nabc", 501),
    "two hosts": (b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "lone line feeds": (b"GET /x HTTP/1.1\nHost: test\n\n", 400),
    "a line feed in the headers": (b"GET /x HTTP/1.1\r\nX: a\nY: b\r\n\r\n", 400),
    "a carriage return in a header": (b"GET /x HTTP/1.1\r\nX: a\rY: b\r\n\r\n", 400),
    "a folded header": (b"GET /x HTTP/1.1\r\nX: a\r\n b\r\n\r\n", 400),
    "a space before the colon": (b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "no colon": (b"GET /x HTTP/1.1\r\nabc\r\n\r\n", 400),
    "NUL in a header": (b"GET /x HTTP/1.1\r\nX: a\0b\r\n\r\n", 400),
    "a tab for a space": (b"GET\t/x HTTP/1.1\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /x\r\n\r\n", 505),
    "HTTP/2.0": (b"GET /x HTTP/2.0\r\n\r\n", 505),
    "HTTP/2 by knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505),
    "HTTP/3.0": (b"GET /x HTTP/3.0\r\n\r\n", 400),
    "CONNECT": (b"CONNECT test:80 HTTP/1.1\r\nHost: test\r\n\r\n", 501),
    "a target in Latin-1": (b"GET /\xe9 HTTP/1.1\r\n\r\n", 400),
    "a control character as target": (b"GET /\1 HTTP/1.1\r\n\r\n", 400),
    "a scheme as target": (b"GET http:// HTTP/1.1\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3" + bytes(200), 400),
    "garbage": (b"hello\r\n\r\n", 400),
    "a body that nothing announced": (b"BREW /x HTTP/1.1\r\n\r\n", 400),
    "a chunk size with a sign": (b"POST /x HTTP/1.1\r\n" + CHUNKED + b"\r\n+3\r\nabc\r\n0\r\n\r\n", 400),
    "a chunk size that overflows": (b"POST /x HTTP/1.1\r\n" + CHUNKED + b"\r\n" + b"f" * 40 + b"\r\n", 400),
    "a chunk longer than its size": (b"POST /x HTTP/1.1\r\n" + CHUNKED + b"\r\n3\r\nabcd\r\n0\r\n\r\n", 400),
    "a chunk that ends with a line feed": (
        b"POST /x HTTP/1.1\r\n" + CHUNKED + b"\r\n3\nabc\r\n0\r\n\r\n",
        400,
    ),
}


@pytest.mark.parametrize(("broken", "status"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize(
    "first", [b"", post(b"a"), post(b"a", UPGRADE)], ids=["alone", "second", "after an upgrade"]
)
def test_what_cannot_be_read_is_refused_in_its_turn_and_nothing_behind_it_is_executed(
    running: Running, broken: bytes, status: int | tuple[int, ...], first: bytes
) -> None:
    address, echo = running
    found = exchange(address, first + broken + SMUGGLED, SMUGGLED)
    if first:
        assert found.pop(0).body == repr(("POST", "/x", b"a")).encode()
    [refusal] = found
    assert refusal.status in (status if isinstance(status, tuple) else (status,))
    assert refusal.headers["connection"] == "close"
    assert refusal.problem["status"] == refusal.status
    assert refusal.problem["request_id"] == refusal.headers["x-request-id"]
    assert not [path for _, path, _ in echo.seen if path == "/smuggled"]


GOOD = {
    "an absolute form": (b"GET http://else:1/a?b HTTP/1.1\r\nHost: test\r\n", ("GET", "/a", b"")),
    "an absolute form without a path": (b"GET http://else HTTP/1.1\r\nHost: test\r\n", ("GET", "/", b"")),
    "two slashes": (b"GET //else/a HTTP/1.1\r\nHost: test\r\n", ("GET", "//else/a", b"")),
    "escapes": (b"GET /%61%2fb HTTP/1.1\r\nHost: test\r\n", ("GET", "/a/b", b"")),
    "escapes that are no UTF-8": (b"GET /%ff%zz HTTP/1.1\r\nHost: test\r\n", ("GET", "/\ufffd%zz", b"")),
    "an asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: test\r\n", ("OPTIONS", "*", b"")),
    "HTTP/1.0": (b"GET /x HTTP/1.0\r\n", ("GET", "/x", b"")),
    "HTTP/1.0 that would stay": (b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n", ("GET", "/x", b"")),
    "HTTP/1.0 with an upgrade": (b"GET /x HTTP/1.0\r\n" + UPGRADE, ("GET", "/x", b"")),
    "empty lines before": (b"\r\n\r\nGET /x HTTP/1.1\r\nHost: test\r\n", ("GET", "/x", b"")),
    "Latin-1 in a header": (b"GET /x HTTP/1.1\r\nHost: test\r\nX: \xe9\r\n", ("GET", "/x", b"")),
}


@pytest.mark.parametrize(("head", "request_"), GOOD.values(), ids=GOOD)
def test_odd_but_legal_heads_are_read(
    running: Running, head: bytes, request_: tuple[str, str, bytes]
) -> None:
    close = b"" if b"HTTP/1.0" in head else b"Connection: close\r\n" if b"Connection" not in head else b""
    [found] = exchange(running[0], head + close + b"\r\n")
    assert (found.status, found.body) == (200, repr(request_).encode())


def test_extensions_and_trailers_of_chunks_are_read_and_dropped(running: Running) -> None:
    chunked = post_chunked(
        [], end=b'3;a=b;c="d"\r\nabc\r\n0;e\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n'
    )
    assert [one.body for one in exchange(running[0], chunked + LAST)] == [
        repr(("POST", "/x", b"abc")).encode(),
        repr(("GET", "/last", b"")).encode(),
    ]


def test_the_body_is_asked_for_when_the_client_waits_for_that(running: Running) -> None:
    with socket.create_connection(running[0], WAIT_SECONDS) as client:
        head, _, body = post(b"abc", b"Expect: 100-continue\r\nConnection: close\r\n", UPGRADE[:0]).partition(
            b"\r\n\r\n"
        )
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        [found] = answers(read_all(client))
    assert found.body == repr(("POST", "/x", b"abc")).encode()


@pytest.mark.parametrize("path", ["/taken", "/refused"])
def test_a_body_that_was_not_asked_for_is_never_read_as_a_request(path: str) -> None:
    """The client may have left it out, so what comes next is the body or a request: the connection ends."""
    seen = []

    async def early(scope, receive, send) -> None:
        seen.append(scope["path"])
        if scope["path"] == "/refused":
            raise TooLarge("too large")
        await answer(send, b"done")

    sent = post(SMUGGLED, b"Expect: 100-continue\r\n", path=path.encode())
    with asgi_server(early) as (address, _), socket.create_connection(address, WAIT_SECONDS) as client:
        client.sendall(sent.removesuffix(SMUGGLED))
        received = client.recv(1)
        client.sendall(SMUGGLED * 2)
        [found] = answers(received + read_all(client))
    assert found.headers["connection"] == "close"
    assert seen == [path]


def test_a_body_that_comes_without_being_asked_for_is_not_asked_for(running: Running) -> None:
    sent = post(b"abc", b"Expect: 100-continue\r\nConnection: close\r\n")
    with socket.create_connection(running[0], WAIT_SECONDS) as client:
        client.sendall(sent)
        received = read_all(client)
    assert received.startswith(b"HTTP/1.1 200")
    assert answers(received)[0].body == repr(("POST", "/x", b"abc")).encode()


def test_a_client_of_http_1_0_is_not_asked_for_its_body(running: Running) -> None:
    sent = post(b"abc", b"Expect: 100-continue\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")
    with socket.create_connection(running[0], WAIT_SECONDS) as client:
        client.sendall(sent)
        received = read_all(client)
    assert received.startswith(b"HTTP/1.1 200")
    assert answers(received)[0].body == repr(("POST", "/x", b"abc")).encode()


@pytest.mark.parametrize("blanks", [b" ", b"\t", b" \t  "])
def test_blanks_around_the_value_of_a_header_are_no_part_of_it(blanks: bytes) -> None:
    kept = {}

    async def keep(scope, receive, send) -> None:
        kept.update(scope["headers"])
        await answer(send, await read_body(receive))

    lines = [
        b"X-API-Key:%skey%s",
        b"Content-Length:%s3%s",
        b"Host:%stest%s",
        b"X-Empty:%s%s",
        b"Connection:%sclose%s",
    ]
    head = b"".join(line % (blanks, blanks) + b"\r\n" for line in lines)
    with asgi_server(keep) as (address, _):
        [found] = exchange(address, b"POST / HTTP/1.1\r\n" + head + b"\r\nabc")
    assert found.body == b"abc"
    expected = {
        b"x-api-key": b"key",
        b"content-length": b"3",
        b"host": b"test",
        b"x-empty": b"",
        b"connection": b"close",
    }
    assert kept == expected


def test_as_many_pipelined_requests_as_were_taken_are_answered_and_the_last_says_so(running: Running) -> None:
    count = 5000
    sent = b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(count))
    found = exchange(running[0], sent)
    assert 100 <= len(found) < count
    assert [one.body for one in found] == [repr(("GET", f"/{n}", b"")).encode() for n in range(len(found))]
    assert found[-1].headers["connection"] == "close"


LIMIT = 64 * 1024
X = b"x" * 1024


def headers(count: int, value: bytes = b"v") -> bytes:
    return b"".join(b"X-%d: %s\r\n" % (number, value) for number in range(count))


FITTING = {
    "a hundred headers": b"GET /x HTTP/1.1\r\n" + headers(99),
    "a head of almost 64 KiB": b"GET /x HTTP/1.1\r\n" + headers(62, X[:1000]),
    "a target of almost 64 KiB": b"GET /" + X * 63 + b" HTTP/1.1\r\n",
}
TOO_LARGE = {
    "a hundred and one headers": (b"GET /x HTTP/1.1\r\n" + headers(101) + b"\r\n", 431),
    "200,000 headers": (b"GET /x HTTP/1.1\r\n" + headers(200_000), 431),
    "a header of 100 MB": (b"GET /x HTTP/1.1\r\nX: " + X * 100_000, 431),
    "a name of 1 MB": (b"GET /x HTTP/1.1\r\n" + X * 1000, 431),
    "a value that is not over": (b"GET /x HTTP/1.1\r\nX: " + X * 64, 431),
    "64 KiB of headers together": (b"GET /x HTTP/1.1\r\n" + headers(65, X), 431),
    "64 KiB of target and headers": (b"GET /" + X * 40 + b" HTTP/1.1\r\n" + headers(30, X), 431),
    "a target of 5 MB": (b"GET /" + X * 5000 + b" HTTP/1.1\r\n", 414),
    "a query of 5 MB": (b"GET /?a=" + X * 5000 + b" HTTP/1.1\r\n", 414),
    "a target that is not over": (b"GET /" + X * 64, 414),
    "a target in an upgrade": (b"GET /" + X * 65 + b" HTTP/1.1\r\n" + UPGRADE, 414),
    "headers of an upgrade": (b"GET /x HTTP/1.1\r\n" + UPGRADE + headers(101) + b"\r\n", 431),
    "a trailer of 100 KB": (post_chunked([b"a"], end=b"0\r\nT: " + X * 100 + b"\r\n\r\n"), 431),
    "200 trailers": (post_chunked([b"a"], end=b"0\r\n" + headers(200)), 431),
    "a trailer that is not over": (post_chunked([b"a"], end=b"0\r\nT: " + X * 600), 431),
    "an extension of 1 MB": (post_chunked([b"a"], end=b"1;" + X * 1000), 431),
}


@pytest.mark.parametrize("head", FITTING.values(), ids=FITTING)
def test_heads_within_the_limits_are_read(running: Running, head: bytes) -> None:
    [found] = exchange(running[0], head + b"Connection: close\r\n\r\n")
    assert found.status == 200


@pytest.mark.parametrize("packet_bytes", [1 << 30, 1000], ids=["at once", "in packets"])
@pytest.mark.parametrize(("head", "status"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_head_beyond_the_limits_is_refused_and_the_connection_closed(
    running: Running, head: bytes, status: int, packet_bytes: int
) -> None:
    head = head[: 5 << 20] if packet_bytes == 1000 else head
    packets = [head[start : start + packet_bytes] for start in range(0, len(head), packet_bytes)]
    [found] = exchange(running[0], *packets)
    assert (found.status, found.headers["connection"]) == (status, "close")
    assert found.problem["status"] == status


def test_chunks_of_one_byte_are_no_abuse(running: Running) -> None:
    [found] = exchange(running[0], post_chunked([b"x"] * 100_000, b"Connection: close\r\n"))
    assert found.body == repr(("POST", "/x", b"x" * 100_000)).encode()
