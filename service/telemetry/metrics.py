"""Every Prometheus metric of the service, defined once: the attribute is its name without `slimctr_`."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import version as installed_version
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector

from service.telemetry.process_memory import ProportionalMemoryCollector
from service.telemetry.tally import Tallies

# Bucket bounds in seconds, rows or logits. The client's own first bound of 5 ms would hide a CTR service.
REQUEST_SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
STAGE_SECONDS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
)  # fmt: skip
ROWS = tuple(float(2**power) for power in range(15))
LOGIT_DIFFERENCE = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
LOAD_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
LABEL_DELAY_SECONDS = (
    1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 10800.0, 21600.0, 43200.0, 86400.0, 259200.0, 604800.0,
)  # fmt: skip

# How the workers of one service combine a gauge; only workers that are alive count.
GaugeMode = Literal["livesum", "livemin", "livemax", "livemostrecent"]


class Metrics:
    """Define the metrics in a registry of their own: two applications in one process never share a counter.

    With PROMETHEUS_MULTIPROC_DIR in the environment, and files chosen by `service.workers.write_metrics_as`, the
    values of all workers live in that folder and `render` adds them up; without it they live in this object.
    """

    def __init__(self, revision: str = "unknown") -> None:
        # The setting is one switch for the whole process; repeating it changes nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._multiprocess = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._registry = CollectorRegistry()
        self._versioned: list[Counter | Gauge] = []
        self.tallies = Tallies()
        self._define_requests()
        self._define_stages()
        self._define_models()
        self._define_experiments()
        self._define_outcomes()
        self._define_quality()
        if not self._multiprocess:
            ProcessCollector(registry=self._registry)
            self._registry.register(ProportionalMemoryCollector())
        self.build_info.labels(
            version=installed_version("slimctr"),
            revision=revision,
            python=platform.python_version(),
            runtime=f"onnxruntime-{installed_version('onnxruntime')}",
        ).set(1)

    def render(self) -> tuple[bytes, str]:
        """Return the exposition text of all metrics, of all workers in multiprocess mode, and its type."""
        return generate_latest(self._scraped_registry()), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterable[Metric]:
        """Yield the metric families that `render` writes, for readers inside the process."""
        return self._scraped_registry().collect()

    def forget_version(self, model: str, version: int) -> None:
        """Remove the series of an unloaded version.

        The files of multiprocess mode cannot forget a series: there gauges become 0 and counters stay.
        """
        labels = {"model": model, "version": str(version)}
        for metric in self._versioned:
            self._drop(metric, labels)

    def move_label(self, model: str, label: str, version: int | None) -> None:
        """Show `label` at `version`, and at no version when that is None."""
        self._drop(self.label_info, {"model": model, "label": label})
        if version is not None:
            self.label_info.labels(model=model, label=label, version=version).set(1)

    def _drop(self, metric: Counter | Gauge, labels: dict[str, str]) -> None:
        if not self._multiprocess:
            metric.remove_by_labels(labels)
        elif isinstance(metric, Gauge):
            for sample in next(iter(metric.collect())).samples:
                if labels.items() <= sample.labels.items():
                    metric.labels(**sample.labels).set(0)

    def _scraped_registry(self) -> CollectorRegistry:
        self.tallies.flush()
        if not self._multiprocess:
            return self._registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        counter = Counter(f"slimctr_{name}", meaning, labels, registry=self._registry)
        if "version" in labels:
            self._versioned.append(counter)
        return counter

    def _gauge(self, name: str, meaning: str, mode: GaugeMode, *labels: str) -> Gauge:
        gauge = Gauge(f"slimctr_{name}", meaning, labels, registry=self._registry, multiprocess_mode=mode)
        if "version" in labels and "model" in labels:
            self._versioned.append(gauge)
        return gauge

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"slimctr_{name}", meaning, labels, registry=self._registry, buckets=buckets)

    def _define_requests(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        served = ("model", "version", "variant")
        self.inference_requests_total = counter(
            "inference_requests_total",
            "Requests that named a known model; failures are among them.",
            *served,
            "api",
        )
        self.inference_failures_total = counter(
            "inference_failures_total",
            "Failed requests by reason: rejected, canceled, timeout, backend, invalid, other.",
            *served,
            "reason",
        )
        self.inference_rows_total = counter("inference_rows_total", "Rows scored for responses.", *served)
        self.inference_executions_total = counter(
            "inference_executions_total", "Executed batches; rows over executions is the mean batch.", *served
        )
        self.request_rows = histogram("request_rows", "Rows of a request.", ROWS, "model", "variant")
        self.batch_rows = histogram("batch_rows", "Rows of an executed batch.", ROWS, "model", "variant")
        self.pending_requests = gauge("pending_requests", "Requests waiting for a batch.", "livesum", "model")
        self.pending_rows = gauge("pending_rows", "Rows waiting for a batch.", "livesum", "model")
        self.in_flight_requests = gauge(
            "in_flight_requests", "Requests received and not yet answered.", "livesum", "model"
        )
        self.shed_total = counter(
            "shed_total",
            "Refused requests by reason: rate_limit, queue_full, deadline, draining, not_ready.",
            "reason",
        )
        self.input_issues_total = counter(
            "input_issues_total",
            "Inputs or scores found faulty by kind: unknown_field, missing_field, bad_type, nonfinite_score.",
            "model",
            "kind",
        )
        self.embedding_rows_total = counter(
            "embedding_rows_total",
            "Values looked up, by field and outcome: hit, oov, missing, default.",
            "model",
            "field",
            "outcome",
        )
        self.http_server_request_duration_seconds = Histogram(
            "http_server_request_duration_seconds",
            "HTTP requests by method, route template and status (OpenTelemetry name).",
            ("http_request_method", "http_route", "http_response_status_code"),
            registry=self._registry,
            buckets=REQUEST_SECONDS,
        )

    def _define_stages(self) -> None:
        self.request_duration_seconds = self._histogram(
            "request_duration_seconds",
            "From the first byte received to the last byte handed over.",
            REQUEST_SECONDS,
            "model",
            "variant",
        )
        self.queue_duration_seconds = self._stage("queue", "Waiting for a batch.")
        self.compute_input_duration_seconds = self._stage(
            "compute_input", "Decoding and encoding the request."
        )
        self.embedding_lookup_duration_seconds = self._stage("embedding_lookup", "Looking embedding rows up.")
        self.compute_infer_duration_seconds = self._stage("compute_infer", "Running the network.")
        self.compute_output_duration_seconds = self._stage("compute_output", "Writing the response.")
        self.event_loop_lag_seconds = self._histogram(
            "event_loop_lag_seconds",
            "How late the event loop wakes up; a blocked loop shows here.",
            STAGE_SECONDS,
        )

    def _stage(self, stage: str, meaning: str) -> Histogram:
        return self._histogram(f"{stage}_duration_seconds", meaning, STAGE_SECONDS, "model", "variant")

    def _define_models(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        # A version is ready only when every worker has it.
        self.model_ready = gauge(
            "model_ready", "1 when the version passed its gates and serves.", "livemin", "model", "version"
        )
        self.model_info = gauge(
            "model_info",
            "1; what a loaded version is made of.",
            "livemostrecent",
            *("model", "version", "codec", "bits", "rank", "digest12"),
        )
        self.label_info = gauge(
            "label_info", "1 at the version a label points to.", "livemostrecent", "model", "label", "version"
        )
        self.build_info = gauge(
            "build_info",
            "1; what this process runs.",
            "livemostrecent",
            *("version", "revision", "python", "runtime"),
        )
        self.model_memory_bytes = gauge(
            "model_memory_bytes",
            "Bytes of a version by kind: payload, artifact, mapped, resident, shared, device.",
            "livemax",
            *("model", "version", "kind"),
        )
        self.table_payload_bytes = gauge(
            "table_payload_bytes",
            "Bytes of the codes of one field's table.",
            "livemax",
            *("model", "version", "field", "codec"),
        )
        self.compression_ratio = gauge(
            "compression_ratio",
            "Bytes of the original over bytes of this version, by kind.",
            "livemax",
            *("model", "version", "kind"),
        )
        self.model_load_duration_seconds = histogram(
            "model_load_duration_seconds",
            "Time to verify, map, warm up and check a version.",
            LOAD_SECONDS,
            "model",
        )
        self.model_loads_total = counter(
            "model_loads_total",
            "Loads by result: ok, integrity, schema, parity, memory, error.",
            "model",
            "result",
        )
        self.parity_max_abs_logit_diff = gauge(
            "parity_max_abs_logit_diff",
            "Largest logit difference of the golden rows on this machine.",
            "livemax",
            *("model", "version"),
        )

    def _define_experiments(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.assignments_total = counter(
            "assignments_total", "Assignments by variant and reason.", "experiment", "variant", "reason"
        )
        self.exposures_total = counter(
            "exposures_total", "Assignments that reached a response.", "experiment", "variant"
        )
        self.exposure_repeats_total = counter(
            "exposure_repeats_total",
            "Answers under an id that was used before: repeat (counted once), ambiguous (another answer: none counts).",
            "experiment",
            "result",
        )
        self.variant_weight_ratio = gauge(
            "variant_weight_ratio",
            "Share of units given to a variant.",
            "livemostrecent",
            "experiment",
            "variant",
        )
        self.shadow_selected_total = counter(
            "shadow_selected_total", "Requests drawn for shadow scoring.", "experiment"
        )
        self.shadow_scored_total = counter(
            "shadow_scored_total", "Requests scored by the shadow.", "experiment"
        )
        self.shadow_dropped_total = counter(
            "shadow_dropped_total",
            "Drawn requests given up, by reason: bytes, not_ready, error, draining.",
            "experiment",
            "reason",
        )
        self.shadow_queue_bytes = gauge("shadow_queue_bytes", "Bytes waiting for shadow scoring.", "livesum")
        self.shadow_queue_limit_bytes = gauge(
            "shadow_queue_limit_bytes", "Bound of the shadow queue.", "livesum"
        )
        self.shadow_logit_abs_diff = histogram(
            "shadow_logit_abs_diff",
            "|logit of shadow - logit served|, per row.",
            LOGIT_DIFFERENCE,
            "experiment",
        )
        self.event_log_sent_total = counter("event_log_sent_total", "Events a sink accepted.", "sink")
        self.event_log_dropped_total = counter(
            "event_log_dropped_total", "Events dropped by the bound.", "sink"
        )
        self.event_log_failed_total = counter("event_log_failed_total", "Events a sink refused.", "sink")
        self.event_log_queue_bytes = gauge(
            "event_log_queue_bytes", "Bytes waiting for a sink.", "livesum", "sink"
        )

    def _define_outcomes(self) -> None:
        self.outcomes_total = self._counter(
            "outcomes_total",
            "Outcomes by status: joined, late, orphan, duplicate, conflict, restated, refused, ambiguous.",
            "experiment",
            "status",
        )
        self.label_coverage_ratio = self._gauge(
            "label_coverage_ratio",
            "Decided rows over exposed rows that are mature.",
            "livemostrecent",
            "experiment",
        )
        self.label_delay_seconds = self._histogram(
            "label_delay_seconds", "From exposure to its outcome.", LABEL_DELAY_SECONDS, "experiment"
        )

    def _define_quality(self) -> None:
        # Estimates come from the shared state, so any worker's latest reading is the service's.
        window = ("model", "variant", "window")
        self.logloss = self._gauge("logloss", "Mean log loss, in nats.", "livemostrecent", *window)
        self.ne = self._gauge("ne", "Log loss over that of the base rate.", "livemostrecent", *window)
        self.calibration_ratio = self._gauge(
            "calibration_ratio", "Predicted clicks over clicks.", "livemostrecent", *window
        )
        self.auc = self._gauge("auc", "Area under the ROC curve.", "livemostrecent", *window)
        self.eval_rows = self._gauge(
            "eval_rows", "Rows with a decided label behind the estimates.", "livemostrecent", *window
        )
        self.logloss_diff = self._gauge(
            "logloss_diff",
            "Log loss of the shadow minus that of the served variant on the same rows, by bound: point.",
            "livemostrecent",
            *("experiment", "bound"),
        )
