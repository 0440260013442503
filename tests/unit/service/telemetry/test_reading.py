"""Quantiles of histogram buckets, and sums over series."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from service.telemetry.reading import Bucket, Reading, quantile, since

INFINITY = float("inf")
BUCKETS = [Bucket(1.0, 0.0), Bucket(2.0, 50.0), Bucket(4.0, 100.0), Bucket(INFINITY, 100.0)]


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 2.0), (0.25, 1.5), (0.75, 3.0), (1.0, 4.0), (0.99, 3.96), (0.01, 1.02)]
)
def test_quantiles_are_linear_inside_a_bucket(share: float, value: float) -> None:
    assert quantile(BUCKETS, share) == pytest.approx(value)


def test_nothing_is_claimed_without_observations_or_beyond_the_last_bound() -> None:
    assert quantile([], 0.5) is None
    assert quantile([Bucket(1.0, 0.0), Bucket(INFINITY, 0.0)], 0.5) is None
    half_beyond = [Bucket(1.0, 5.0), Bucket(INFINITY, 10.0)]
    assert quantile(half_beyond, 0.5) == 1.0
    assert quantile(half_beyond, 0.9) is None


def test_since_keeps_the_observations_between_two_readings() -> None:
    earlier = [Bucket(1.0, 3.0), Bucket(INFINITY, 4.0)]
    later = [Bucket(1.0, 5.0), Bucket(INFINITY, 10.0)]
    assert since(earlier, later) == [Bucket(1.0, 2.0), Bucket(INFINITY, 6.0)]
    assert since([], later) == later


def test_series_are_found_by_name_and_labels_and_summed() -> None:
    registry = CollectorRegistry()
    rows = Counter("rows_total", "rows", ("model", "variant"), registry=registry)
    rows.labels("ctr", "a").inc(2)
    rows.labels("ctr", "b").inc(3)
    rows.labels("other", "a").inc(7)
    seconds = Histogram("seconds", "time", ("variant",), buckets=(1.0, 2.0), registry=registry)
    seconds.labels("a").observe(0.5)
    seconds.labels("b").observe(1.5)
    reading = Reading(registry.collect(), taken_at=0.0)
    assert reading.total("rows_total", model="ctr") == 5
    assert reading.value("rows_total", model="ctr", variant="b") == 3
    assert reading.value("rows_total", model="none") is None
    assert reading.total("absent") == 0
    assert reading.buckets("seconds") == [Bucket(1.0, 1.0), Bucket(2.0, 2.0), Bucket(INFINITY, 2.0)]
    assert reading.only({"rows_total"}).buckets("seconds") == []
