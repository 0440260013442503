"""Assignment against the vectors published for GrowthBook SDKs, hash version 2."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.experiments.assignment import bucket, choose, drawn_for_shadow, fnv1a32, ranges


@pytest.mark.parametrize(
    ("seed", "unit", "expected"),
    [
        ("seed", "a", 505),
        ("seed", "b", 2696),
        ("foo", "ab", 2575),
        ("foo", "def", 2019),
        ("89123klj", "8952klfjas09ujkasdf", 1240),
        ("90850943850283058242805", "123", 7516),
    ],
)
def test_published_buckets(seed: str, unit: str, expected: int) -> None:
    assert bucket(seed, unit) == expected


def test_fnv1a32_of_known_text() -> None:
    assert fnv1a32("") == 0x811C9DC5
    assert fnv1a32("a") == 0xE40C292C
    assert fnv1a32("foobar") == 0xBF9CF968


def test_text_outside_ascii_is_refused() -> None:
    with pytest.raises(ValueError, match="ascii"):
        bucket("seed", "ü")


def test_published_ranges() -> None:
    assert ranges(0.5, [0.4, 0.6]) == [(0.0, 0.2), (0.4, 0.7)]


def test_edges_follow_doubles_not_decimals() -> None:
    # 0.1 + 0.2 is above 0.3, so bucket 3000 still belongs to the second variant.
    assert choose(3000, ranges(1.0, [0.1, 0.2, 0.7])) == 1


def test_a_unit_outside_every_range_is_not_covered() -> None:
    assert choose(2000, ranges(0.5, [0.4, 0.6])) is None
    assert choose(0, ranges(0.0, [0.5, 0.5])) is None


def test_weights_decide_the_shares() -> None:
    bounds = ranges(1.0, [0.2, 0.8])
    chosen = [choose(bucket("split", f"u{number}"), bounds) for number in range(20_000)]
    assert chosen.count(0) / 20_000 == pytest.approx(
        0.2, abs=0.014
    )  # five standard errors of a share of 0.2 in 20,000
    assert None not in chosen


@given(st.integers(0, 9999), st.floats(0, 1), st.floats(0, 1))
def test_more_coverage_never_moves_an_assigned_unit(position: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    before = choose(position, ranges(low, [0.25, 0.25, 0.5]))
    assert before is None or choose(position, ranges(high, [0.25, 0.25, 0.5])) == before


def test_the_shadow_draws_its_percentage_of_requests_independently_of_the_split() -> None:
    drawn = [drawn_for_shadow("e1", f"r{number}", 10.0) for number in range(20_000)]
    assert sum(drawn) / 20_000 == pytest.approx(
        0.1, abs=0.011
    )  # five standard errors of a share of 0.1 in 20,000
    assert all(drawn_for_shadow("e1", f"r{number}", 100.0) for number in range(200))
