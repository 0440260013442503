"""An application of the dashboard alone, over metrics of three variants whose numbers a test can foresee."""

from typing import Any

from fastapi import FastAPI

from service.routes import dashboard
from service.routes import metrics as metrics_route
from service.settings import Settings
from service.telemetry.metrics import Metrics

VARIANTS = {"original": "1", "int8": "2", "lean": "3"}


def example_metrics() -> Metrics:
    """Return metrics as a service with one experiment and a shadow has them after some traffic."""
    metrics = Metrics(revision="example")
    for index, (variant, version) in enumerate(VARIANTS.items()):
        served = ("ctr", version, variant)
        metrics.model_ready.labels("ctr", version).set(1)
        metrics.move_label("ctr", "stable" if variant == "original" else variant, int(version))
        for kind, original_bytes in (
            ("payload", 8_000_000),
            ("artifact", 9_000_000),
            ("resident", 12_000_000),
        ):
            metrics.model_memory_bytes.labels("ctr", version, kind).set(original_bytes / (1 + 2 * index))
            metrics.compression_ratio.labels("ctr", version, kind).set(1 + 2 * index)
        if variant == "lean":
            continue
        metrics.inference_requests_total.labels(*served, "v1").inc(200)
        metrics.inference_rows_total.labels(*served).inc(3000 + 1000 * index)
        metrics.inference_failures_total.labels(*served, "timeout").inc(index)
        for number in range(200):
            seconds = (0.8 + number % 9 + index) / 1000
            metrics.request_duration_seconds.labels("ctr", variant).observe(seconds)
            metrics.queue_duration_seconds.labels("ctr", variant).observe(seconds / 8)
            metrics.compute_infer_duration_seconds.labels("ctr", variant).observe(seconds / 2)
        for name, value in (
            ("auc", 0.9836),
            ("logloss", 0.1451),
            ("ne", 0.253),
            ("calibration_ratio", 1.012),
        ):
            getattr(metrics, name).labels("ctr", variant, "24h").set(value + 0.0004 * index)
        metrics.eval_rows.labels("ctr", variant, "24h").set(2990)
        metrics.variant_weight_ratio.labels("original-against-int8", variant).set(0.5)
        metrics.exposures_total.labels("original-against-int8", variant).inc(200)
    metrics.shadow_selected_total.labels("original-against-int8").inc(100)
    metrics.shadow_scored_total.labels("original-against-int8").inc(97)
    metrics.shadow_dropped_total.labels("original-against-int8", "bytes").inc(3)
    metrics.shadow_logit_abs_diff.labels("original-against-int8").observe(0.02)
    metrics.outcomes_total.labels("original-against-int8", "joined").inc(5980)
    metrics.label_coverage_ratio.labels("original-against-int8").set(0.997)
    metrics.shed_total.labels("queue_full").inc(4)
    return metrics


class ExampleExperiments:
    """Answers like the running experiment of `example_metrics`."""

    async def results(self) -> dict[str, Any]:
        paired = {"rows": 2400, "logloss_diff": 0.00031, "standard_error": 0.00004}
        return {
            "key": "original-against-int8",
            "model": "ctr",
            "default": "original",
            "variants": [{"name": name, "version": VARIANTS[name]} for name in ("original", "int8")],
            "shadow": {"variant": "int8", "percent": 20},
            "windows": {"24h": {"shadow": {"paired": paired}}},
        }


class NoExperiments:
    """Answers like a service without an experiment."""

    async def results(self) -> dict[str, Any]:
        return {}


def example_application(metrics: Metrics, experiments: Any) -> FastAPI:
    """Return an application of the two telemetry routers alone."""
    application = FastAPI()
    application.state.settings = Settings(insecure=True)
    application.state.metrics = metrics
    application.state.experiments = experiments
    application.include_router(metrics_route.router)
    application.include_router(dashboard.router)
    return application
