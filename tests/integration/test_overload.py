"""A held executor: what does not fit is refused at once, deadlines hold, and nothing that expired is computed."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from artifacts import build_artifact, raw_rows
from live_service import LiveService, live_service

from service import loader
from slimctr.scoring import Scorer

pytestmark = pytest.mark.alone  # fills queues and waits for deadlines


class Gate:
    """Holds every lookup while it is closed and counts the rows that were looked up."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.rows = 0


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made, lookup = Gate(), Scorer.lookup

    def held(scorer: Scorer, batch: Any) -> Any:
        made.rows += len(batch)
        made.entered.set()
        assert made.open.wait(30)
        return lookup(scorer, batch)

    monkeypatch.setattr(Scorer, "lookup", held)
    monkeypatch.setattr(loader, "INLINE_CANDIDATES", ())  # the held batch must not hold the event loop
    return made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def post(service: LiveService, rows: int, deadline_ms: int = 10_000) -> httpx.Response:
    with httpx.Client(base_url=service.http.base_url, timeout=30) as client:
        headers = {"x-request-deadline-ms": str(deadline_ms)}
        return client.post("/v1/predict", json={"instances": raw_rows(rows)}, headers=headers)


def hold(service: LiveService, gate: Gate, pool: ThreadPoolExecutor) -> "Future[httpx.Response]":
    """Return a request that occupies the executor until the gate opens."""
    gate.open.clear()
    gate.entered.clear()
    first = pool.submit(post, service, 1)
    assert gate.entered.wait(30)
    return first


@pytest.mark.promise(7)
@pytest.mark.parametrize("max_batch_rows", [1, 64])
def test_a_full_queue_is_503_with_retry_after(
    tmp_path: Path, gate: Gate, pool: ThreadPoolExecutor, max_batch_rows: int
) -> None:
    build_artifact(tmp_path / "models", label="stable")
    limits = {"max_batch_rows": max_batch_rows, "max_queue_rows": 20, "max_request_rows": 20}
    with live_service(tmp_path / "models", tmp_path, **limits) as service:
        first = hold(service, gate, pool)
        waiting = pool.submit(post, service, 15)
        while 'slimctr_pending_rows{model="ctr"} 15.0' not in service.http.get("/metrics").text:
            pass
        refused = post(service, 6)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["type"] == "/problems/queue-full"
        assert service.http.get("/livez").status_code == 200
        gate.open.set()
        assert (first.result().status_code, waiting.result().status_code) == (200, 200)
        assert post(service, 6).status_code == 200
        metrics = service.http.get("/metrics").text
        assert 'slimctr_shed_total{reason="queue_full"} 1.0' in metrics
        assert 'reason="rejected"' in metrics
        assert 'slimctr_pending_rows{model="ctr"} 0.0' in metrics


@pytest.mark.promise(6)
def test_a_deadline_holds_while_the_executor_is_busy(
    tmp_path: Path, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    build_artifact(tmp_path / "models", label="stable")
    with live_service(tmp_path / "models", tmp_path) as service:
        first = hold(service, gate, pool)
        computed = gate.rows
        expired = post(service, 7, deadline_ms=50)
        assert expired.status_code == 504
        assert expired.json()["type"] == "/problems/deadline"
        gate.open.set()
        assert first.result().status_code == 200
        assert post(service, 2).status_code == 200
        assert gate.rows == computed + 2


@pytest.mark.promise(18)
def test_another_version_comes_and_goes_under_load(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    build_artifact(tmp_path / "models", label="stable")
    build_artifact(tmp_path / "models", compressed=False)
    with live_service(tmp_path / "models", tmp_path, model_control="explicit") as service:
        stop = threading.Event()

        def send() -> set[int]:
            statuses = set()
            with httpx.Client(base_url=service.http.base_url, timeout=30) as client:
                while not stop.is_set():
                    statuses.add(client.post("/v1/predict", json={"instances": raw_rows(3)}).status_code)
            return statuses

        clients = [pool.submit(send) for _ in range(4)]
        for _ in range(5):
            for action in ("load", "unload"):
                answer = service.http.post(f"/v1/models/ctr/versions/2/{action}")
                assert answer.status_code == 200, answer.text
        stop.set()
        assert [client.result() for client in clients] == [{200}] * 4
