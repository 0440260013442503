import pytest
from rounding import SUMS64

from slimctr.training.schedule import one_cycle_rate, plateau_rate


def test_plateau_rate_falls_by_the_decay_for_each_epoch_without_gain():
    assert [plateau_rate(0.01, 0.1, stale) for stale in range(3)] == pytest.approx([1e-2, 1e-3, 1e-4])


def test_one_cycle_rises_to_its_peak_and_ends_at_zero():
    assert one_cycle_rate(1.0, 0.2, 0.0) == pytest.approx(0.1)
    assert one_cycle_rate(1.0, 0.2, 0.1) == pytest.approx(0.55)
    assert one_cycle_rate(1.0, 0.2, 0.2) == pytest.approx(1.0)
    assert one_cycle_rate(1.0, 0.2, 0.6) == pytest.approx(0.5)
    assert one_cycle_rate(1.0, 0.2, 1.0) == pytest.approx(0.0, abs=SUMS64)


def test_one_cycle_without_warmup_starts_at_its_peak():
    assert one_cycle_rate(1.0, 0.0, 0.0) == pytest.approx(1.0)
