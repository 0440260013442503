import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.context import ForkContext

import pytest
from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

from service import workers
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.worker import STARTUP_FAILURE, take_signals, write_metrics_as
from service.workers import Start


def sleep() -> None:
    """Stand in for a worker."""
    take_signals()
    time.sleep(60)


class SignalledAtStart(ForkContext):
    """Starts real child processes that sleep; their parent gets a SIGTERM before or after the first start."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self.before = before
        self.started: list[multiprocessing.Process] = []

    def Process(self, **ignored: object) -> multiprocessing.Process:  # noqa: N802 - its name in multiprocessing
        if self.before:
            os.kill(os.getpid(), signal.SIGTERM)
        child = super().Process(target=sleep)

        def start_and_signal() -> None:
            del child.start
            child.start()
            self.started.append(child)
            if not self.before:
                os.kill(os.getpid(), signal.SIGTERM)

        child.start = start_and_signal
        return child


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("threads", [0, 1])
def test_a_signal_around_the_start_of_a_worker_reaches_it_and_starts_no_other(
    tmp_path, monkeypatch, before, threads
):
    """Another thread of the process may take a signal that the parent holds back."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    handlers = {sig: signal.getsignal(sig) for sig in (signal.SIGINT, signal.SIGTERM)}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        start = Start(Settings(store=tmp_path, insecure=True, workers=3), [listener] * 3)
        start._processes = context = SignalledAtStart(before)
        over = threading.Event()
        for _ in range(threads):
            threading.Thread(target=over.wait).start()
        try:
            assert start.run() == 0
        finally:
            over.set()
            for sig, handler in handlers.items():
                signal.signal(sig, handler)
    assert [child.exitcode for child in context.started] == [-signal.SIGTERM]


@pytest.mark.promise(23)
def test_restarted_workers_go_on_in_the_files_of_the_dead(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    files, lives = set(), 200
    for life in range(lives):
        write_metrics_as(life % 2)
        metrics = Metrics()
        metrics.shed_total.labels("deadline").inc()
        metrics.request_rows.labels("ctr", "stable").observe(3)
        metrics.pending_rows.labels("ctr").inc(5)
        assert f'shed_total{{reason="deadline"}} {life + 1}.0' in metrics.render()[0].decode()
        files.add(len(list(tmp_path.iterdir())))
        values.ValueClass.close_all_files()
        if life < lives - 1:
            mark_process_dead(life % 2)
    assert max(files) <= 12
    samples = {sample.name: sample.value for family in metrics.collect() for sample in family.samples}
    assert samples["slimctr_request_rows_count"] == lives
    assert samples["slimctr_request_rows_sum"] == 3 * lives
    assert samples["slimctr_pending_rows"] == 5, "of the dead workers nothing waits any more"


def test_workers_that_refuse_at_the_same_time_end_the_service_with_their_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    handlers = {sig: signal.getsignal(sig) for sig in (signal.SIGINT, signal.SIGTERM)}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        start = Start(Settings(store=tmp_path, insecure=True, workers=3), [listener] * 3)
        # Found dead together: by the time the first is dealt with, no other process may get its signal.
        monkeypatch.setattr(workers, "run_forked", lambda *_: os._exit(STARTUP_FAILURE))
        monkeypatch.setattr(workers, "wait", lambda pipes: [one for one in pipes if wait([one])])
        try:
            assert start.run() == STARTUP_FAILURE
        finally:
            for sig, handler in handlers.items():
                signal.signal(sig, handler)


def test_settings_survive_the_way_to_a_replacement(tmp_path):
    key = {"sha256": "0" * 64, "scopes": ["infer", "metrics"]}
    settings = Settings(
        store=tmp_path, experiment=tmp_path / "e.yaml", api_keys=[key], workers=2, default_model="ctr"
    )
    assert Settings(**json.loads(json.dumps(settings.model_dump(mode="json")))) == settings
