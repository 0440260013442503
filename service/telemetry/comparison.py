"""The comparison of variants on the dashboard: quality, latency, memory and traffic, from the metrics."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.telemetry.reading import Bucket, Reading, quantile, since

REQUESTS = "slimctr_inference_requests_total"
FAILURES = "slimctr_inference_failures_total"
ROWS = "slimctr_inference_rows_total"
LATENCY = "slimctr_request_duration_seconds"
STAGES = ("queue", "compute_input", "embedding_lookup", "compute_infer", "compute_output")
QUALITY = ("auc", "logloss", "ne", "calibration_ratio")
RECENT_NAMES = frozenset({REQUESTS, ROWS, f"{LATENCY}_bucket"})
# The widest window first: it has the most labels behind it.
WINDOWS = ("24h", "1h", "15m")
PAIRED_WINDOW = WINDOWS[0]
MILLISECONDS = 1000.0


@dataclass(frozen=True, order=True)
class VariantKey:
    """A row of the comparison."""

    model: str
    variant: str


class RecentReadings:
    """Keep the readings of the last `span_seconds`, so that rates and recent percentiles have a start."""

    def __init__(self, span_seconds: float = 60.0) -> None:
        self._span_seconds = span_seconds
        self._readings: deque[Reading] = deque()

    def add(self, reading: Reading) -> Reading | None:
        """Append `reading` and return the oldest one within the span before it, None when it is the first."""
        while self._readings and reading.taken_at - self._readings[0].taken_at > self._span_seconds:
            self._readings.popleft()
        self._readings.append(reading)
        return self._readings[0] if len(self._readings) > 1 else None


def compare_variants(
    reading: Reading, earlier: Reading | None, bound: dict[VariantKey, str]
) -> list[dict[str, Any]]:
    """Return one row per variant that is bound to a version (`bound`), has a label or has served requests.

    Percentiles and shares count from the start of the process; `recent` covers the time since `earlier`. What
    is not known is None, never 0.
    """
    versions = _versions(reading, bound)
    rows_of_model = {key.model: reading.total(ROWS, model=key.model) for key in versions}
    return [
        {
            "model": key.model,
            "variant": key.variant,
            "version": version,
            "labels": sorted(
                found["label"]
                for found, value in reading.series("slimctr_label_info", model=key.model, version=version)
                if value == 1
            ),
            "ready": reading.value("slimctr_model_ready", model=key.model, version=version) == 1,
            "info": _info(reading, key.model, version),
            "quality": _quality(reading, key),
            "latency": _latency(reading, earlier, key),
            "memory": _memory(reading, key.model, version),
            "traffic": _traffic(reading, earlier, key, rows_of_model[key.model]),
        }
        for key, version in sorted(versions.items(), key=lambda item: (item[0].model, int(item[1]), item[0]))
    ]


def shed_by_reason(reading: Reading) -> dict[str, float]:
    """Return the refused requests by reason, reasons that occurred only."""
    return {found["reason"]: value for found, value in reading.series("slimctr_shed_total") if value}


def _versions(reading: Reading, bound: dict[VariantKey, str]) -> dict[VariantKey, str]:
    """Return the version each variant stands for: as bound, else its label's, else the newest that served."""
    versions: dict[VariantKey, str] = {}
    for name in (REQUESTS, ROWS):
        for found, _ in reading.series(name):
            key = VariantKey(found["model"], found["variant"])
            versions[key] = max(versions.get(key, "0"), found["version"], key=int)
    versions.update(bound)
    shown = {(key.model, version) for key, version in versions.items()}
    for found, value in reading.series("slimctr_label_info"):
        key, version = VariantKey(found["model"], found["label"]), found["version"]
        # A label that nobody used is a row only when no variant stands for its version already.
        if value == 1 and (key in versions or (key.model, version) not in shown):
            versions[key] = version
    return versions


def _info(reading: Reading, model: str, version: str) -> dict[str, str]:
    found = next(reading.series("slimctr_model_info", model=model, version=version), ({}, 0.0))[0]
    return {name: value for name, value in found.items() if name not in ("model", "version") and value}


def _quality(reading: Reading, key: VariantKey) -> dict[str, Any] | None:
    labels = {"model": key.model, "variant": key.variant}
    windows = {found["window"] for found, rows in reading.series("slimctr_eval_rows", **labels) if rows > 0}
    if not windows:
        return None
    window = min(windows, key=lambda name: WINDOWS.index(name) if name in WINDOWS else -1)
    return {
        "window": window,
        "rows": reading.value("slimctr_eval_rows", window=window, **labels),
        **{name: _finite(reading.value(f"slimctr_{name}", window=window, **labels)) for name in QUALITY},
    }


def _latency(reading: Reading, earlier: Reading | None, key: VariantKey) -> dict[str, Any] | None:
    labels = {"model": key.model, "variant": key.variant}
    buckets = reading.buckets(LATENCY, **labels)
    count = buckets[-1].cumulative if buckets else 0.0
    if not count:
        return None
    recent = since(earlier.buckets(LATENCY, **labels), buckets) if earlier else []
    return {
        "requests": count,
        "p50_ms": _milliseconds(buckets, 0.50),
        "p95_ms": _milliseconds(buckets, 0.95),
        "p99_ms": _milliseconds(buckets, 0.99),
        "recent_p99_ms": _milliseconds(recent, 0.99),
        "last_bound_ms": buckets[-2].upper_bound * MILLISECONDS,
        "mean_stage_ms": {stage: _mean_milliseconds(reading, stage, labels) for stage in STAGES},
        "distribution": [
            {"up_to_ms": bucket.upper_bound * MILLISECONDS, "share": bucket.cumulative / count}
            for bucket in buckets[:-1]
        ],
    }


def _milliseconds(buckets: Sequence[Bucket], share: float) -> float | None:
    seconds = quantile(buckets, share)
    return None if seconds is None else seconds * MILLISECONDS


def _mean_milliseconds(reading: Reading, stage: str, labels: dict[str, str]) -> float | None:
    count = reading.total(f"slimctr_{stage}_duration_seconds_count", **labels)
    if not count:
        return None
    return reading.total(f"slimctr_{stage}_duration_seconds_sum", **labels) / count * MILLISECONDS


def _memory(reading: Reading, model: str, version: str) -> dict[str, Any]:
    labels = {"model": model, "version": version}
    kinds = ("payload", "artifact", "resident")
    return {
        **{
            f"{kind}_bytes": reading.value("slimctr_model_memory_bytes", kind=kind, **labels)
            for kind in kinds
        },
        **{
            f"{kind}_ratio": reading.value("slimctr_compression_ratio", kind=kind, **labels) for kind in kinds
        },
    }


def _traffic(
    reading: Reading, earlier: Reading | None, key: VariantKey, rows_of_model: float
) -> dict[str, Any]:
    labels = {"model": key.model, "variant": key.variant}
    rows = reading.total(ROWS, **labels)
    traffic: dict[str, Any] = {
        "requests": reading.total(REQUESTS, **labels),
        "rows": rows,
        "failures": reading.total(FAILURES, **labels),
        "share": rows / rows_of_model if rows_of_model else None,
        "recent_rows_per_second": None,
        "recent_requests_per_second": None,
    }
    if earlier and reading.taken_at > earlier.taken_at:
        seconds = reading.taken_at - earlier.taken_at
        traffic["recent_rows_per_second"] = (rows - earlier.total(ROWS, **labels)) / seconds
        traffic["recent_requests_per_second"] = (
            traffic["requests"] - earlier.total(REQUESTS, **labels)
        ) / seconds
    return traffic


def bound_versions(results: dict[str, Any]) -> dict[VariantKey, str]:
    """Return the version of each variant of a running experiment, from `Experiments.results()`."""
    return {
        VariantKey(results["model"], variant["name"]): variant["version"]
        for variant in results.get("variants", ())
    }


def describe_experiments(reading: Reading, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each experiment's weights, exposures, outcomes and coverage, and what its shadow found.

    Counts come from the metrics, the paired difference from `Experiments.results()` ({} when there is none).
    """
    keys = sorted({found["experiment"] for found, _ in reading.series("slimctr_variant_weight_ratio")})
    return [
        {
            "key": key,
            "variants": [
                {
                    "name": found["variant"],
                    "weight": weight,
                    "exposures": reading.total(
                        "slimctr_exposures_total", experiment=key, variant=found["variant"]
                    ),
                }
                for found, weight in reading.series("slimctr_variant_weight_ratio", experiment=key)
            ],
            "outcomes": {
                found["status"]: value
                for found, value in reading.series("slimctr_outcomes_total", experiment=key)
            },
            "label_coverage": _finite(reading.value("slimctr_label_coverage_ratio", experiment=key)),
            "shadow": _shadow(reading, key, results if results.get("key") == key else {}),
        }
        for key in keys
    ]


def _shadow(reading: Reading, experiment: str, results: dict[str, Any]) -> dict[str, Any] | None:
    selected = reading.value("slimctr_shadow_selected_total", experiment=experiment)
    declared = results.get("shadow")
    if selected is None and declared is None:
        return None
    rows = reading.total("slimctr_shadow_logit_abs_diff_count", experiment=experiment)
    differences = reading.total("slimctr_shadow_logit_abs_diff_sum", experiment=experiment)
    return {
        "variant": declared["variant"] if declared else None,
        "compared_with": results.get("default"),
        "selected": selected or 0.0,
        "scored": reading.total("slimctr_shadow_scored_total", experiment=experiment),
        "dropped": reading.total("slimctr_shadow_dropped_total", experiment=experiment),
        "rows": rows,
        "mean_logit_abs_diff": differences / rows if rows else None,
        "paired": results["windows"][PAIRED_WINDOW]["shadow"]["paired"] if declared else None,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
