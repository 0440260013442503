import multiprocessing
import os
import signal
import socket
import time
from multiprocessing.context import SpawnContext

from service.settings import Settings
from service.workers import Supervisor


class SignalledAtStart(SpawnContext):
    """Starts real child processes that sleep; at the first start the supervisor itself gets its SIGTERM."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[multiprocessing.Process] = []

    def Process(self, **ignored: object) -> multiprocessing.Process:  # noqa: N802 - its name in multiprocessing
        child = super().Process(target=time.sleep, args=(600,))

        def start_and_signal() -> None:
            del child.start  # what stays on the object travels to the child
            child.start()
            self.started.append(child)
            os.kill(os.getpid(), signal.SIGTERM)

        child.start = start_and_signal
        return child


def test_a_signal_during_the_start_of_a_worker_reaches_it_and_starts_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    handlers = {sig: signal.getsignal(sig) for sig in (signal.SIGINT, signal.SIGTERM)}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        supervisor = Supervisor(Settings(store=tmp_path, insecure=True, workers=3), [listener] * 3)
        supervisor._spawn = context = SignalledAtStart()
        try:
            assert supervisor.run() == 0
        finally:
            for sig, handler in handlers.items():
                signal.signal(sig, handler)
    assert [child.exitcode for child in context.started] == [-signal.SIGTERM]
