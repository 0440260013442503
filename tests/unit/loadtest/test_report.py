"""The report: percentiles, verdicts, and the change of the server's counters."""

import pytest

from loadtest.report import Measurements, summarize, table
from loadtest.server import server_side, sum_by_name

BEFORE = """
# HELP slimctr_inference_rows_total Rows.
# TYPE slimctr_inference_rows_total counter
slimctr_inference_rows_total{model="ctr",variant="a",version="1"} 100.0
slimctr_inference_rows_total{model="other",variant="a",version="1"} 5000.0
slimctr_inference_executions_total{model="ctr",variant="a",version="1"} 10.0
slimctr_queue_duration_seconds_sum{model="ctr",variant="a"} 1.0
slimctr_queue_duration_seconds_count{model="ctr",variant="a"} 10.0
process_cpu_seconds_total 2.5
"""
AFTER = """
slimctr_inference_rows_total{model="ctr",variant="a",version="1"} 400.0
slimctr_inference_rows_total{model="ctr",variant="b",version="2"} 100.0
slimctr_inference_rows_total{model="other",variant="a",version="1"} 9000.0
slimctr_inference_executions_total{model="ctr",variant="a",version="1"} 50.0
slimctr_queue_duration_seconds_sum{model="ctr",variant="a"} 1.2
slimctr_queue_duration_seconds_count{model="ctr",variant="a"} 60.0
process_cpu_seconds_total 4e0
"""


def served() -> dict[str, float | None]:
    return server_side(sum_by_name(BEFORE, "ctr"), sum_by_name(AFTER, "ctr"))


def measurements(**changes: object) -> Measurements:
    seen = Measurements(
        latencies_ms=[float(i) for i in range(1, 101)], rows=1000, seconds=10.0, generator_cpu_seconds=2.0
    )
    for name, value in changes.items():
        setattr(seen, name, value)
    return seen


def test_counters_of_the_model_are_summed_and_compared() -> None:
    report = served()
    assert report["rows"] == 400
    assert report["mean_batch_rows"] == 10
    assert report["mean_queue_ms"] == pytest.approx(4.0)
    assert report["mean_compute_infer_ms"] is None
    assert report["cpu_seconds"] == 1.5


def test_the_figures_are_those_of_the_measurements() -> None:
    report = summarize(measurements(), served(), {}, p99_ms=100.0)
    assert report["requests_per_second"] == 10
    assert report["rows_per_second"] == 100
    assert report["latency_ms"]["p50"] == pytest.approx(50.5)
    assert report["latency_ms"]["p99"] == pytest.approx(99.01)
    assert report["objective"] == {"p99_ms": 100.0, "max_failure_ratio": 0.001, "met": True, "missed": []}
    assert "p99 <= 100 ms: met" in table(report)
    assert "saturated" not in table(report)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"latencies_ms": [500.0] * 100}, "p99 is 500.0 ms"),
        ({"wrong_answers": 1}, "1 answers were wrong"),
        ({"failures": 1}, "1 of 100 requests failed"),
        ({"outcome_failures": 2}, "2 of 100 requests failed"),
        ({"latencies_ms": []}, "no request was answered"),
    ],
)
def test_the_objective_is_missed_with_the_reason(changes: dict[str, object], reason: str) -> None:
    report = summarize(measurements(**changes), served(), {}, p99_ms=100.0)
    assert report["objective"]["met"] is False
    assert reason in table(report)


def test_a_saturated_generator_is_said_so() -> None:
    report = summarize(measurements(generator_cpu_seconds=9.0), served(), {}, p99_ms=100.0)
    assert report["generator"]["saturated"] is True
    assert "saturated" in table(report)
