"""Binds the request metrics to a model, version and variant once, so that a request only adds numbers."""

from service.errors import ClientGone, DeadlineExceeded, InvalidInput, QueueFull, ServiceError
from service.statistics import Statistics
from service.telemetry.metrics import Metrics


class VariantInstruments:
    """The metrics of one variant of one version."""

    def __init__(self, metrics: Metrics, model: str, version: int, variant: str) -> None:
        served = (model, str(version), variant)
        shown = (model, variant)
        tally, total = metrics.tallies.of, metrics.tallies.total
        self._failures = metrics.inference_failures_total
        self._served = served
        self.in_flight = total(metrics.in_flight_requests.labels(model))
        self.requests = {
            api: total(metrics.inference_requests_total.labels(*served, api)) for api in ("v1", "v2")
        }
        self.rows = total(metrics.inference_rows_total.labels(*served))
        self.executions = total(metrics.inference_executions_total.labels(*served))
        self.request_rows = tally(metrics.request_rows.labels(*shown))
        self.batch_rows = tally(metrics.batch_rows.labels(*shown))
        self.total_s = tally(metrics.request_duration_seconds.labels(*shown))
        self.queue_s = tally(metrics.queue_duration_seconds.labels(*shown))
        self.input_s = tally(metrics.compute_input_duration_seconds.labels(*shown))
        self.lookup_s = tally(metrics.embedding_lookup_duration_seconds.labels(*shown))
        self.infer_s = tally(metrics.compute_infer_duration_seconds.labels(*shown))
        self.output_s = tally(metrics.compute_output_duration_seconds.labels(*shown))

    def failed(self, reason: str) -> None:
        """Count a failed request."""
        self._failures.labels(*self._served, reason).inc()


class VersionInstruments:
    """The metrics of one version; hears from its queue."""

    def __init__(self, metrics: Metrics, model: str, version: int, statistics: Statistics) -> None:
        self._metrics = metrics
        self._model = model
        self._version = version
        self._statistics = statistics
        self._variants: dict[str, VariantInstruments] = {}
        self._pending_requests = metrics.pending_requests.labels(model)
        self._pending_rows = metrics.pending_rows.labels(model)
        self._waiting = (0, 0)

    def variant(self, name: str) -> VariantInstruments:
        """Return the metrics of a variant, bound at its first request."""
        found = self._variants.get(name)
        if found is None:
            found = self._variants[name] = VariantInstruments(self._metrics, self._model, self._version, name)
        return found

    def waiting(self, requests: int, rows: int) -> None:
        """Move the gauges of the model by what changed in the queue of this version."""
        if (requests, rows) == self._waiting:
            return
        self._pending_requests.inc(requests - self._waiting[0])
        self._pending_rows.inc(rows - self._waiting[1])
        self._waiting = (requests, rows)

    def executed(self, variant: str, rows: int, lookup_s: float, infer_s: float) -> None:
        """Count a batch."""
        bound = self.variant(variant)
        bound.executions.add(1)
        bound.batch_rows.observe(rows)
        self._statistics.executed(rows, lookup_s + infer_s)


def failure_reason(error: BaseException) -> str:
    """Return the `reason` under which a failed request is counted."""
    if isinstance(error, QueueFull):
        return "rejected"
    if isinstance(error, DeadlineExceeded):
        return "timeout"
    if isinstance(error, InvalidInput):
        return "invalid"
    if isinstance(error, ClientGone):
        return "canceled"
    if isinstance(error, ServiceError):
        return "other"
    return "backend" if isinstance(error, Exception) else "canceled"
