"""Exposures on their way to the state: a queue bounded in bytes that drops the newest and counts everything."""

import threading
from collections import deque
from collections.abc import Sequence

from service.experiments.record import Exposure
from service.telemetry.metrics import Metrics

LIMIT_BYTES = 8 * 1024 * 1024
SINK = "state"


class ExposureQueue:
    """Hold exposures until they are written; safe to use from several threads, never waits.

    At all times produced = sent + failed + dropped + queued; what `take` handed out stays queued until it is
    reported sent, failed or is put back.
    """

    def __init__(self, metrics: Metrics, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._waiting: deque[Exposure] = deque()
        self._queued_bytes = 0
        self._lock = threading.Lock()
        self._sent = metrics.event_log_sent_total.labels(SINK)
        self._dropped = metrics.event_log_dropped_total.labels(SINK)
        self._failed = metrics.event_log_failed_total.labels(SINK)
        self._bytes = metrics.event_log_queue_bytes.labels(SINK)

    @property
    def queued_bytes(self) -> int:
        """Bytes of exposures that are not written yet."""
        return self._queued_bytes

    def put(self, exposure: Exposure) -> bool:
        """Queue an exposure; False when it was dropped because the queue is full."""
        size = exposure.nbytes
        with self._lock:
            if self._queued_bytes + size > self._limit_bytes:
                self._dropped.inc()
                return False
            self._waiting.append(exposure)
            self._change_bytes(size)
            return True

    def take(self, limit: int) -> list[Exposure]:
        """Hand out up to `limit` exposures, oldest first."""
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    def take_all(self) -> list[Exposure]:
        """Hand out every exposure that waits."""
        return self.take(len(self._waiting))

    def put_back(self, exposures: Sequence[Exposure]) -> None:
        """Return what was taken and could not be written yet to the front."""
        with self._lock:
            self._waiting.extendleft(reversed(exposures))

    def sent(self, exposures: Sequence[Exposure]) -> None:
        """Count taken exposures as written."""
        self._sent.inc(len(exposures))
        self._release(exposures)

    def failed(self, exposures: Sequence[Exposure]) -> None:
        """Count taken exposures as given up."""
        self._failed.inc(len(exposures))
        self._release(exposures)

    def _release(self, exposures: Sequence[Exposure]) -> None:
        with self._lock:
            self._change_bytes(-sum(exposure.nbytes for exposure in exposures))

    def _change_bytes(self, change: int) -> None:
        self._queued_bytes += change
        self._bytes.set(self._queued_bytes)
