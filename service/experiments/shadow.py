"""Shadow scoring: the same encoded batch through a second variant, after the response and on its own thread."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from service.experiments.record import Exposure
from service.telemetry.metrics import Metrics
from slimctr.features import EncodedBatch, Encoder
from slimctr.scoring import Scorer

LIMIT_BYTES = 32 * 1024 * 1024
# A long request must not spend the interpreter on its histogram: that many of its rows are enough.
OBSERVED_ROWS = 64
_OBJECT_BYTES = 1024

DropReason = Literal["bytes", "not_ready", "error", "draining"]

logger = logging.getLogger("slimctr.shadow")


@dataclass(frozen=True, eq=False)
class ShadowJob:
    """One request to score again: its batch, and its exposure without the shadow's logits.

    `encode` is given when the shadow reads values as other rows; it holds on to the request's `request_bytes`.
    """

    batch: EncodedBatch
    exposure: Exposure
    encode: Callable[[Encoder], EncodedBatch] | None = None
    request_bytes: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes that the job holds while it waits, its Python objects estimated at 1,024."""
        batch = self.batch
        bags = sum(bag.values.nbytes + bag.offsets.nbytes for bag in batch.bags)
        counts = batch.oov.nbytes + batch.missing.nbytes
        kept = batch.ids.nbytes + bags + counts + self.exposure.logits.nbytes
        return kept + self.request_bytes + _OBJECT_BYTES


class ShadowScorer:
    """Score jobs one by one on one thread; submitting never waits and never raises.

    At all times selected = scored + dropped + queued; the job being scored counts as queued. A full queue (bound
    in bytes) drops the newest.
    """

    def __init__(
        self,
        experiment: str,
        scorer: Callable[[], Scorer | None],
        deliver: Callable[[Exposure], object],
        metrics: Metrics,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self._experiment = experiment
        self._scorer = scorer
        self._deliver = deliver
        self._metrics = metrics
        self._limit_bytes = limit_bytes
        self._jobs: deque[ShadowJob] = deque()
        self._queued_bytes = 0
        self._draining = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="slimctr-shadow", daemon=True)
        self._selected = metrics.shadow_selected_total.labels(experiment)
        self._scored = metrics.shadow_scored_total.labels(experiment)
        self._difference = metrics.shadow_logit_abs_diff.labels(experiment)

    def start(self) -> None:
        """Start the thread."""
        self._metrics.shadow_queue_limit_bytes.set(self._limit_bytes)
        self._metrics.shadow_queue_bytes.set(0)
        self._thread.start()

    def submit(self, job: ShadowJob) -> bool:
        """Queue a job; False when it was dropped."""
        self._selected.inc()
        size = job.nbytes
        with self._changed:
            if self._draining:
                self._drop("draining")
                return False
            if self._queued_bytes + size > self._limit_bytes:
                self._drop("bytes")
                return False
            self._jobs.append(job)
            self._change_bytes(size)
            self._changed.notify_all()
            return True

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Return True once nothing is queued, False after `timeout_s`; for tests and orderly ends."""
        with self._changed:
            return self._changed.wait_for(lambda: self._queued_bytes == 0, timeout_s)

    def stop(self) -> None:
        """Drop what waits, finish the job at hand, end the thread."""
        with self._changed:
            self._draining = True
            for job in self._jobs:
                self._drop("draining")
                self._change_bytes(-job.nbytes)
            self._jobs.clear()
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._jobs) or self._draining)
                if self._draining:
                    return
                job = self._jobs.popleft()
            reason = self._score(job)
            with self._changed:
                if reason is None:
                    self._scored.inc()
                else:
                    self._drop(reason)
                self._change_bytes(-job.nbytes)
                del job  # else its request would stay until the next one comes
                self._changed.notify_all()

    def _score(self, job: ShadowJob) -> DropReason | None:
        try:
            scorer = self._scorer()
            if scorer is None:
                return "not_ready"
            batch = job.batch if job.encode is None else job.encode(scorer.encoder)
            logits = np.array(scorer.logits(batch), dtype=np.float32)
            if not np.isfinite(logits).all():
                logger.warning("a shadow score is not finite", extra={"experiment": self._experiment})
                return "error"
            for difference in np.abs(logits - job.exposure.logits)[:OBSERVED_ROWS]:
                self._difference.observe(float(difference))
            self._deliver(replace(job.exposure, shadow_logits=logits))
        except Exception:
            # Whatever goes wrong here must not end the thread: the shadow is an observer.
            logger.exception("shadow scoring failed", extra={"experiment": self._experiment})
            return "error"
        return None

    def _drop(self, reason: DropReason) -> None:
        self._metrics.shadow_dropped_total.labels(self._experiment, reason).inc()

    def _change_bytes(self, change: int) -> None:
        self._queued_bytes += change
        self._metrics.shadow_queue_bytes.set(self._queued_bytes)
