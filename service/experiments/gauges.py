"""Puts estimates into the Prometheus gauges; what is undefined becomes NaN, never a stale or zero value."""

import math

from service.experiments.estimates import WINDOWS_S, Estimates, paired_difference, quality_sums
from service.experiments.record import Kind
from service.experiments.spec import ExperimentSpec
from service.experiments.sums import CellSums
from service.telemetry.metrics import Metrics

# The shadow difference is shown over the widest window that has one.
_SHADOW_WINDOW = "24h"


def show_weights(metrics: Metrics, spec: ExperimentSpec) -> None:
    """Set the share of units of every variant."""
    for variant in spec.variants:
        metrics.variant_weight_ratio.labels(spec.key, variant.name).set(spec.coverage * variant.weight)


def show_estimates(metrics: Metrics, spec: ExperimentSpec, estimates: Estimates) -> None:
    """Set the quality gauges of every variant and window, label coverage and the paired difference."""
    for window in WINDOWS_S:
        for variant in spec.variants:
            quality = quality_sums(estimates.windows[window], variant.name).quality
            labels = spec.model, variant.name, window
            metrics.eval_rows.labels(*labels).set(quality.count)
            metrics.logloss.labels(*labels).set(_number(quality.logloss))
            metrics.ne.labels(*labels).set(_number(quality.ne))
            metrics.calibration_ratio.labels(*labels).set(_number(quality.calibration))
            metrics.auc.labels(*labels).set(_number(quality.auc))
    metrics.label_coverage_ratio.labels(spec.key).set(_number(estimates.label_coverage))
    if spec.shadow is not None:
        shadow = estimates.windows[_SHADOW_WINDOW].get((Kind.SHADOW, spec.shadow.variant), CellSums())
        difference = paired_difference(shadow)["logloss_diff"]
        metrics.logloss_diff.labels(spec.key, "point").set(_number(difference))


def _number(value: float | None) -> float:
    return math.nan if value is None else value
