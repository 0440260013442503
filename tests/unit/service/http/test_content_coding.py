"""What the RFCs call gzip and deflate is read, and nothing that is more than the limit."""

import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadRequest, TooLarge, UnsupportedCoding
from service.http import content_coding
from service.http.content_coding import codings_of, decoded
from service.intake import decompressed_limit
from service.settings import Settings

ROOM = 1 << 20
TEXT = b'{"instances": [{"ad": "a1"}]}' * 100


def raw_deflate(text: bytes) -> bytes:
    writer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return writer.compress(text) + writer.flush()


def read(body: bytes, *codings: str, max_bytes: int = ROOM) -> bytes:
    return decoded(body, codings, max_bytes, "the limit")


@given(
    parts=st.lists(st.binary(max_size=300), min_size=1, max_size=6),
    level=st.integers(0, 9),
    zeros=st.integers(0, 600),
)
def test_every_member_counts_and_zeros_behind_the_last_do_not(
    parts: list[bytes], level: int, zeros: int
) -> None:
    body = b"".join(gzip.compress(part, level, mtime=0) for part in parts) + bytes(zeros)
    assert read(body, "gzip") == b"".join(parts)


@given(text=st.binary(max_size=2000), level=st.integers(0, 9), window=st.integers(9, 15))
def test_deflate_is_zlib_and_the_bare_stream_that_some_send(text: bytes, level: int, window: int) -> None:
    for bits in (window, -window):
        writer = zlib.compressobj(level, wbits=bits)
        assert read(writer.compress(text) + writer.flush(), "deflate") == text


def test_members_with_every_optional_part_of_the_head_are_read() -> None:
    head = bytearray(b"\x1f\x8b\x08\x1e" + bytes(4) + b"\0\xff")  # FHCRC, FEXTRA, FNAME, FCOMMENT
    head += b"\x03\0abc" + b"name\0" + b"comment\0"
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    trailer = zlib.crc32(TEXT).to_bytes(4, "little") + len(TEXT).to_bytes(4, "little")
    assert read(bytes(head) + raw_deflate(TEXT) + trailer, "gzip") == TEXT


def test_large_bodies_are_read_over_many_pieces() -> None:
    text = random.Random(1).randbytes(300_000)
    assert read(gzip.compress(text) + gzip.compress(text), "gzip") == text + text
    assert read(zlib.compress(text), "deflate") == text


def test_codings_are_undone_from_the_last_to_the_first() -> None:
    assert read(zlib.compress(gzip.compress(TEXT)), "gzip", "deflate") == TEXT
    assert read(b"", "gzip") == b""


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate])
def test_a_body_at_the_limit_is_read_and_one_byte_more_is_not(pack: object) -> None:
    coding = "gzip" if pack is gzip.compress else "deflate"
    packed = pack(TEXT)  # type: ignore[operator]
    assert read(packed, coding, max_bytes=len(TEXT)) == TEXT
    with pytest.raises(TooLarge, match="the limit"):
        read(packed, coding, max_bytes=len(TEXT) - 1)
    for length in range(1, len(packed)):
        with pytest.raises(BadRequest):
            read(packed[:length], coding)


def test_what_a_step_in_between_becomes_is_limited_too() -> None:
    inner = gzip.compress(b"x" * 5000, 0)
    with pytest.raises(TooLarge):
        read(gzip.compress(inner), "gzip", "gzip", max_bytes=5000)


@pytest.mark.parametrize(
    ("body", "coding", "words"),
    [
        (b"plain text", "gzip", "not valid gzip"),
        (gzip.compress(TEXT) + b"x", "gzip", "not valid gzip|truncated"),
        (gzip.compress(TEXT) + b"\0x", "gzip", "not valid gzip|truncated"),
        (bytes(30), "gzip", "not valid gzip"),
        (gzip.compress(TEXT)[:-8] + bytes(8), "gzip", "not valid gzip"),
        (zlib.compress(TEXT) + b"x", "deflate", "behind its end"),
        (zlib.compress(TEXT)[:-4] + bytes(4), "deflate", "not valid deflate"),
        (b"plain text", "deflate", "deflate"),
        (zlib.compressobj(zdict=b"ad").flush(), "deflate", "deflate"),
    ],
)
def test_what_is_no_such_stream_is_refused(body: bytes, coding: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        read(body, coding)


def test_members_are_counted() -> None:
    member = gzip.compress(b"")
    assert read(member * content_coding.MAX_MEMBERS, "gzip") == b""
    with pytest.raises(BadRequest, match="members"):
        read(member * (content_coding.MAX_MEMBERS + 1), "gzip")


@pytest.mark.parametrize(
    ("header", "codings"),
    [
        ("gzip", ("gzip",)),
        ("GZip", ("gzip",)),
        ("x-gzip", ("gzip",)),
        ("Deflate", ("deflate",)),
        ("", ()),
        ("identity", ()),
        ("gzip, identity", ("gzip",)),
        (" ,gzip ,, deflate\t", ("gzip", "deflate")),
    ],
)
def test_content_encoding_is_a_list_without_case(header: str, codings: tuple[str, ...]) -> None:
    assert codings_of(header) == codings


@pytest.mark.parametrize("header", ["br", "zstd", "gzip, br", "gzip;q=1", "gz ip", "gzip," * 5])
def test_other_codings_are_refused_and_the_answer_says_which_are_read(header: str) -> None:
    with pytest.raises(UnsupportedCoding) as caught:
        codings_of(header)
    assert caught.value.headers["Accept-Encoding"] == "gzip, deflate"


def test_growth_counts_only_above_the_largest_body() -> None:
    settings = Settings(insecure=True, max_body_bytes=1000, max_decompressed_bytes=100_000)
    assert decompressed_limit(1, settings)[0] == 1000
    assert decompressed_limit(20, settings)[0] == 2000
    assert "max_body_bytes (1000)" in decompressed_limit(20, settings)[1]
    assert decompressed_limit(1000, settings) == (100_000, "max_decompressed_bytes (100000)")
