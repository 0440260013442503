"""The tail during loads: which requests count, and what the ratio is."""

import numpy as np
import pytest

from benchmarks.memory.tail import Window, tail_of


def test_requests_count_where_they_were_under_way() -> None:
    windows = [Window(0.0, 1.0, 2.0, 3.0)]
    begins = np.array([-0.5, 0.5, 1.5, 1.9, 2.5, 4.0])
    seconds = np.array([0.6, 0.1, 0.1, 0.2, 0.4, 0.1])
    found = tail_of(begins, seconds, windows)
    assert found["loading_requests"] == 2, "the one that was sent before the load, and the one during it"
    assert found["quiet_requests"] == 2
    assert found["quiet_p50_ms"] == pytest.approx(300)


def test_the_ratio_of_slower_requests_and_its_interval() -> None:
    rng = np.random.default_rng(1)
    windows = [Window(number, number + 0.4, number + 0.5, number + 0.9) for number in range(40)]
    begins = np.sort(rng.uniform(0, 40, 20_000))
    during = begins % 1 < 0.4
    seconds = rng.exponential(1e-3, len(begins)) * np.where(during, 2, 1)
    found = tail_of(begins, seconds, windows)
    low, high = found["p99_ratio_interval"]
    # of given draws: 8,000 and 12,000 exponential times know a 99th percentile to 3 %
    assert found["p99_ratio"] == pytest.approx(2, rel=0.15)
    assert low < found["p99_ratio"] < high
    assert high - low < 0.6
