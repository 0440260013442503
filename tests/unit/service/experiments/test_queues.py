"""The two queues beside the response path: bounded in bytes, dropping the newest, every event accounted for."""

import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.experiments.exposures import ExposureQueue
from service.experiments.record import Exposure, Kind, Logits
from service.experiments.shadow import ShadowJob, ShadowScorer
from service.telemetry.metrics import Metrics
from slimctr.features import EncodedBatch


def exposure(rows: int = 2, name: str = "r") -> Exposure:
    return Exposure(Kind.SHADOW, "e1", name, "a", 1.0, 10, 20, np.zeros(rows, np.float32), shadow_variant="b")


def value(metrics: Metrics, metric: str, suffix: str = "", **labels: str) -> float:
    """The sum of the series of one metric that carry the labels."""
    return sum(
        sample.value
        for family in getattr(metrics, metric).collect()
        for sample in family.samples
        if sample.name == f"slimctr_{metric}{suffix}" and labels.items() <= sample.labels.items()
    )


def test_a_full_exposure_queue_drops_the_newest() -> None:
    metrics = Metrics()
    queue = ExposureQueue(metrics, limit_bytes=2 * exposure().nbytes)
    assert [queue.put(exposure(name=name)) for name in ("r1", "r2", "r3")] == [True, True, False]
    taken = queue.take(10)
    assert [found.request_id for found in taken] == ["r1", "r2"]
    assert not queue.put(exposure())
    queue.sent(taken)
    assert queue.put(exposure())
    assert value(metrics, "event_log_dropped_total") == 2
    assert value(metrics, "event_log_sent_total") == 2


def test_what_is_put_back_keeps_its_place() -> None:
    queue = ExposureQueue(Metrics())
    for name in ("r1", "r2", "r3"):
        queue.put(exposure(name=name))
    queue.put_back(queue.take(2))
    assert [found.request_id for found in queue.take_all()] == ["r1", "r2", "r3"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["put", "take", "sent", "failed", "back"]), max_size=60))
def test_exposure_counters_balance_at_all_times(steps: list[str]) -> None:
    metrics = Metrics()
    queue = ExposureQueue(metrics, limit_bytes=5 * exposure().nbytes)
    produced, held = 0, []
    for step in steps:
        if step == "put":
            queue.put(exposure())
            produced += 1
        elif step == "take":
            held += queue.take(2)
        else:
            {"sent": queue.sent, "failed": queue.failed, "back": queue.put_back}[step](held)
            held = []
        done = sum(
            value(metrics, f"event_log_{name}_total", sink="state") for name in ("sent", "dropped", "failed")
        )
        assert produced == done + queue.queued_bytes / exposure().nbytes
        assert queue.queued_bytes == value(metrics, "event_log_queue_bytes") <= 5 * exposure().nbytes


class GatedScorer:
    """Scores with logits of one, when its gate is open; may fail or give NaN."""

    def __init__(self, result: float = 1.0, error: Exception | None = None) -> None:
        self.started = threading.Event()
        self.gate = threading.Event()
        self._result = result
        self._error = error

    def logits(self, batch: EncodedBatch) -> Logits:
        self.started.set()
        assert self.gate.wait(10)
        if self._error is not None:
            raise self._error
        return np.full(len(batch), self._result, np.float32)


def job(rows: int = 2) -> ShadowJob:
    none = np.zeros(0, np.int64)
    return ShadowJob(EncodedBatch(np.zeros((rows, 3), np.int32), (), none, none), exposure(rows))


def balance(metrics: Metrics) -> tuple[float, float, float]:
    return tuple(
        value(metrics, f"shadow_{name}_total", experiment="e1") for name in ("selected", "scored", "dropped")
    )


def test_a_shadow_delivers_pairs_and_observes_differences() -> None:
    metrics, delivered, scorer = Metrics(), [], GatedScorer()
    shadow = ShadowScorer("e1", lambda: scorer, delivered.append, metrics)
    shadow.start()
    scorer.gate.set()
    assert shadow.submit(job(3))
    assert shadow.wait_until_idle(10)
    shadow.stop()
    (found,) = delivered
    assert found.kind is Kind.SHADOW
    assert found.shadow_variant == "b"
    assert found.shadow_logits.tolist() == [1, 1, 1]
    assert balance(metrics) == (1, 1, 0)
    assert value(metrics, "shadow_logit_abs_diff", "_count") == 3
    assert value(metrics, "shadow_logit_abs_diff", "_sum") == pytest.approx(3)


def test_an_idle_shadow_holds_no_request() -> None:
    scorer = GatedScorer()
    scorer.gate.set()
    shadow = ShadowScorer("e1", lambda: scorer, lambda _: None, Metrics())
    shadow.start()
    kept = job()
    last = weakref.ref(kept)
    shadow.submit(kept)
    del kept
    assert shadow.wait_until_idle(10)
    assert last() is None
    shadow.stop()


@pytest.mark.promise(14)
def test_a_stalled_shadow_holds_no_more_than_its_bound_and_never_waits() -> None:
    metrics, scorer = Metrics(), GatedScorer()
    shadow = ShadowScorer("e1", lambda: scorer, lambda _: None, metrics, limit_bytes=3 * job().nbytes)
    shadow.start()
    shadow.submit(job())
    assert scorer.started.wait(10)
    taken = [shadow.submit(job()) for _ in range(10)]
    assert taken == [True, True] + 8 * [False]
    assert value(metrics, "shadow_dropped_total", reason="bytes") == 8
    assert (
        value(metrics, "shadow_queue_bytes") == 3 * job().nbytes == value(metrics, "shadow_queue_limit_bytes")
    )
    stopper = threading.Thread(target=shadow.stop)
    stopper.start()
    scorer.gate.set()
    stopper.join(10)
    assert not stopper.is_alive()
    assert value(metrics, "shadow_dropped_total", reason="draining") == 2
    assert not shadow.submit(job())
    assert balance(metrics) == (12, 1, 11)
    assert value(metrics, "shadow_queue_bytes") == 0


@pytest.mark.parametrize(
    ("scorer", "reason"),
    [
        (None, "not_ready"),
        (GatedScorer(error=RuntimeError("a fault in the scorer")), "error"),
        (GatedScorer(result=float("nan")), "error"),
    ],
)
def test_a_shadow_that_cannot_score_drops_and_goes_on(scorer: GatedScorer | None, reason: str) -> None:
    metrics, delivered = Metrics(), []
    shadow = ShadowScorer("e1", lambda: scorer, delivered.append, metrics)
    shadow.start()
    if scorer is not None:
        scorer.gate.set()
    for _ in range(2):
        shadow.submit(job())
    assert shadow.wait_until_idle(10)
    shadow.stop()
    assert delivered == []
    assert balance(metrics) == (2, 0, 2)
    assert value(metrics, "shadow_dropped_total", reason=reason) == 2
