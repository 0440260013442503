import pytest

from service.errors import BadHeader
from service.intake import deadline_s
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
