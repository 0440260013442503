"""The comparison of variants against metrics whose answers are known."""

import asyncio
import json

import pytest
from dashboard_example import ExampleExperiments, example_metrics

from service.telemetry.comparison import (
    RecentReadings,
    VariantKey,
    bound_versions,
    compare_variants,
    describe_experiments,
    shed_by_reason,
)
from service.telemetry.metrics import Metrics
from service.telemetry.reading import Reading


def read(metrics: Metrics, at: float = 0.0) -> Reading:
    return Reading(metrics.collect(), at)


def test_each_variant_is_one_row_with_its_version_and_figures() -> None:
    original, int8, lean = compare_variants(read(example_metrics()), None, {})
    assert [(row["variant"], row["version"]) for row in (original, int8, lean)] == [
        ("original", "1"),
        ("int8", "2"),
        ("lean", "3"),
    ]
    assert original["labels"] == ["stable"]
    assert original["quality"] == {
        "window": "24h",
        "rows": 2990,
        "auc": 0.9836,
        "logloss": 0.1451,
        "ne": 0.253,
        "calibration_ratio": 1.012,
    }
    assert int8["memory"]["payload_bytes"] == pytest.approx(8_000_000 / 3)
    assert int8["memory"]["artifact_ratio"] == 3
    assert int8["traffic"]["share"] == pytest.approx(4 / 7)
    assert int8["traffic"]["failures"] == 1
    assert int8["latency"]["requests"] == 200
    assert 5 < int8["latency"]["p50_ms"] < 7.5
    assert int8["latency"]["p50_ms"] < int8["latency"]["p95_ms"] < int8["latency"]["p99_ms"] <= 10


def test_what_is_not_known_is_none_and_not_zero() -> None:
    lean = compare_variants(read(example_metrics()), None, {})[2]
    assert lean["quality"] is None
    assert lean["latency"] is None
    assert lean["traffic"]["recent_rows_per_second"] is None
    assert compare_variants(read(Metrics()), None, {}) == []


def test_rates_and_recent_percentiles_cover_the_time_between_two_readings() -> None:
    metrics = example_metrics()
    earlier = read(metrics, at=10.0)
    metrics.inference_rows_total.labels("ctr", "2", "int8").inc(600)
    metrics.inference_requests_total.labels("ctr", "2", "int8", "v1").inc(30)
    for _ in range(30):
        metrics.request_duration_seconds.labels("ctr", "int8").observe(0.2)
    original, int8, _ = compare_variants(read(metrics, at=40.0), earlier, {})
    assert int8["traffic"]["recent_rows_per_second"] == 20
    assert int8["traffic"]["recent_requests_per_second"] == 1
    assert 100 < int8["latency"]["recent_p99_ms"] <= 250
    assert original["traffic"]["recent_rows_per_second"] == 0
    assert original["latency"]["recent_p99_ms"] is None


def test_recent_readings_forget_what_is_older_than_the_span() -> None:
    recent = RecentReadings(span_seconds=60.0)
    first, second, third = (Reading((), at) for at in (0.0, 30.0, 85.0))
    assert recent.add(first) is None
    assert recent.add(second) is first
    assert recent.add(third) is second
    assert recent.add(Reading((), 500.0)) is None


def test_a_variant_stands_for_its_newest_version_unless_it_is_bound() -> None:
    metrics = Metrics()
    for version in ("9", "10"):
        metrics.inference_requests_total.labels("ctr", version, "pinned", "v1").inc()
    assert compare_variants(read(metrics), None, {})[0]["version"] == "10"
    bound = {VariantKey("ctr", "shadow"): "9"}
    assert [(row["variant"], row["version"]) for row in compare_variants(read(metrics), None, bound)] == [
        ("shadow", "9"),
        ("pinned", "10"),
    ]


def test_a_moved_label_follows_its_version() -> None:
    metrics = Metrics()
    metrics.inference_requests_total.labels("ctr", "2", "stable", "v1").inc()
    metrics.move_label("ctr", "stable", 1)
    assert compare_variants(read(metrics), None, {})[0]["version"] == "1"


def test_the_widest_window_with_rows_is_shown() -> None:
    metrics = Metrics()
    metrics.move_label("ctr", "stable", 1)
    for window, rows in (("15m", 5), ("1h", 50), ("24h", 0)):
        metrics.eval_rows.labels("ctr", "stable", window).set(rows)
        metrics.auc.labels("ctr", "stable", window).set(float("nan"))
    quality = compare_variants(read(metrics), None, {})[0]["quality"]
    assert (quality["window"], quality["rows"], quality["auc"]) == ("1h", 50, None)


def test_an_experiment_shows_weights_outcomes_and_its_shadow() -> None:
    results = asyncio.run(ExampleExperiments().results())
    (experiment,) = describe_experiments(read(example_metrics()), results)
    assert experiment["key"] == "original-against-int8"
    assert {variant["name"]: variant["weight"] for variant in experiment["variants"]} == {
        "original": 0.5,
        "int8": 0.5,
    }
    assert experiment["outcomes"] == {"joined": 5980}
    assert experiment["shadow"] == {
        "variant": "int8",
        "compared_with": "original",
        "selected": 100,
        "scored": 97,
        "dropped": 3,
        "rows": 1,
        "mean_logit_abs_diff": 0.02,
        "paired": {"rows": 2400, "logloss_diff": 0.00031, "standard_error": 0.00004},
    }


def test_without_results_the_counts_of_the_metrics_remain() -> None:
    (experiment,) = describe_experiments(read(example_metrics()), {})
    assert experiment["shadow"]["selected"] == 100
    assert experiment["shadow"]["paired"] is None
    assert bound_versions({}) == {}


def test_refusals_are_counted_by_reason_and_everything_is_json() -> None:
    reading = read(example_metrics())
    assert shed_by_reason(reading) == {"queue_full": 4}
    json.dumps([compare_variants(reading, None, {}), describe_experiments(reading, {})], allow_nan=False)
