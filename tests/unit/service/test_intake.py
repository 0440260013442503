import gzip
import zlib

import pytest

from service.errors import BadHeader, BadRequest, TooLarge
from service.intake import deadline_s, decompress
from service.settings import Settings

SETTINGS = Settings(insecure=True, default_deadline_ms=1_000, max_deadline_ms=5_000)


@pytest.mark.parametrize(
    ("header", "timeout_us", "seconds"),
    [
        (None, None, 1.0),
        ("250", None, 0.25),
        (None, 250_000, 0.25),
        ("300", 200_000, 0.2),
        ("200", 300_000, 0.2),
        ("4000", None, 4.0),
        ("60000", None, 5.0),
        (None, 0, 1.0),
    ],
)
def test_the_smallest_deadline_counts(header: str | None, timeout_us: int | None, seconds: float) -> None:
    assert deadline_s(header, timeout_us, 100.0, SETTINGS) == pytest.approx(100.0 + seconds)


@pytest.mark.parametrize("header", ["", "0", "-1", "1.5", "soon", "9" * 30, "²"])
def test_a_deadline_that_is_no_positive_number_is_refused(header: str) -> None:
    with pytest.raises(BadHeader, match="X-Request-Deadline-Ms"):
        deadline_s(header, None, 0.0, SETTINGS)


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_bodies_are_read_whole(encoding: str, compress: object) -> None:
    body = b'{"instances": []}' * 100
    packed = compress(body)  # type: ignore[operator]
    assert decompress(packed, encoding, len(body)) == body
    with pytest.raises(TooLarge):
        decompress(packed, encoding, len(body) - 1)
    with pytest.raises(BadRequest, match="truncated"):
        decompress(packed[:-4], encoding, len(body))
    with pytest.raises(BadRequest, match="behind its end"):
        decompress(packed + b"x", encoding, len(body))
    with pytest.raises(BadRequest, match="not valid"):
        decompress(b"plain text", encoding, len(body))
