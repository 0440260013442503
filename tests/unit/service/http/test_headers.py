"""Lists in headers, and what a client that sends `Accept` wants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.headers import members, prefers

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("", []),
        ("a", ["a"]),
        (" a , b,\t,c ", ["a", "b", "c"]),
        ('a;x="1,2", b', ['a;x="1,2"', "b"]),
        (r'a;x="1\",2", b', [r'a;x="1\",2"', "b"]),
        ('a;x="1, b', ['a;x="1, b']),
    ],
)
def test_members_of_a_list(value: str, found: list[str]) -> None:
    assert members(value) == found


@pytest.mark.parametrize(
    ("accept", "wants_arrow"),
    [
        (ARROW, True),
        (f"{ARROW};q=0, {JSON}", False),
        (f"{ARROW};q=0", False),
        (f"{ARROW} ; q=0.0", False),
        (f"{ARROW};Q=0.000, */*", False),
        (f"{JSON};q=0.1, {ARROW.upper()}; q=1", True),
        (f"{ARROW};q=0.1, {JSON}", False),
        (f"{ARROW};q=0.1, {JSON};q=0.01", True),
        (f"{ARROW}, {JSON}", True),
        (f"{JSON}, {ARROW}", True),
        (f"{ARROW}, */*", True),
        (f"{ARROW};q=0.5, */*", False),
        (f"{ARROW};q=0.5, */*;q=0.5", True),
        (f"{ARROW};q=0.5, application/*;q=0.9, */*;q=0.1", False),
        (f"{JSON};q=0, */*", True),
        (f"{JSON};q=0, application/*;q=0.2", True),
        ("*/*", False),
        ("application/*", False),
        ("text/html, */*;q=0.1", False),
        ("text/html", False),
        ("", False),
        (f"{JSON};q=0", False),
        ("*/*;q=0", False),
        (f'{ARROW};note="a, {JSON};q=1";q=0, {JSON};q=0.1', False),
        (f'text/x;note="{ARROW}"', False),
        (f"{JSON};charset=utf-8, {ARROW};q=0.9", False),
        (f'{JSON};charset="UTF-8";q=0.1, {ARROW};q=0.9', True),
        (f"{ARROW};version=1.0", True),
        (f"{ARROW};codecs=zstd;q=0, {ARROW}", True),
        (f"{JSON};profile=x;q=0, {JSON}, {ARROW};q=0.5", False),
        (f"{ARROW};q=1;ext=0", True),
        (f"{ARROW};q=2", False),
        (f"{ARROW};q=", False),
        (f"{ARROW};q=high", False),
        (f"{ARROW}x, x{ARROW}", False),
    ],
)
def test_quality_values_decide(accept: str, wants_arrow: bool) -> None:
    assert prefers(accept, ARROW, JSON) is wants_arrow


@given(st.text(alphabet='ajson/*+;q=01.,"\\ \t', max_size=200))
def test_any_text_is_read(accept: str) -> None:
    assert prefers(accept, ARROW, JSON) in (True, False)
