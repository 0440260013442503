"""The report: percentiles, verdicts, and the change of the server's counters."""

import pytest

from loadtest.problems import Problem, problem_of
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


def test_the_first_problem_of_each_status_is_shown() -> None:
    seen = measurements(failures=3)
    for problem in (
        Problem(422, "invalid-input", "#/instances/0/price: a numeric field takes a number"),
        Problem(422, "invalid-input", "another one"),
        Problem(0, None, "connection refused"),
    ):
        seen.note("score", problem)
    seen.note("outcomes", Problem(404, "unknown-experiment", "no experiment runs"))
    report = summarize(seen, served(), {}, p99_ms=100.0)
    assert report["problems"] == [
        {
            "request": "outcomes",
            "count": 1,
            "status": 404,
            "slug": "unknown-experiment",
            "detail": "no experiment runs",
        },
        {"request": "score", "count": 1, "status": 0, "slug": None, "detail": "connection refused"},
        {
            "request": "score",
            "count": 2,
            "status": 422,
            "slug": "invalid-input",
            "detail": "#/instances/0/price: a numeric field takes a number",
        },
    ]
    text = table(report)
    assert "2 x score: 422 invalid-input, first: #/instances/0/price: a numeric field takes a number" in text
    assert "1 x score: no answer, first: connection refused" in text
    assert "1 x outcomes: 404 unknown-experiment, first: no experiment runs" in text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"type":"/ctr/problems/too-large","detail":"above the limit"}', ("too-large", "above the limit")),
        (b"<h1>502 Bad Gateway</h1>", (None, "<h1>502 Bad Gateway</h1>")),
        (b'{"detail": "of somebody else"}', (None, '{"detail": "of somebody else"}')),
        (b'["x"]', (None, '["x"]')),
        (b"\xff" * 1000, (None, "\ufffd" * 300)),
        (b"", (None, "timed out")),
        (None, (None, "timed out")),
    ],
)
def test_an_answer_that_is_no_problem_document_is_shown_too(
    content: bytes | None, problem: tuple[str, str]
) -> None:
    assert problem_of(502, content, TimeoutError("timed out")) == (502, *problem)
