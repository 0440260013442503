"""Runs several server processes on one listening socket and replaces those that die."""

import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from service.server import serve
from service.settings import Settings
from service.telemetry.logs import configure_logging

# A worker that ends sooner than this failed to start; replacing it would only fail again.
START_SECONDS = 5.0
STARTUP_FAILURE = 3

logger = logging.getLogger("slimctr.workers")


def serve_workers(settings: Settings) -> int:
    """Serve with `settings.workers` processes until a signal ends them; return the exit status."""
    configure_logging(settings.log_level)
    with (
        tempfile.TemporaryDirectory(prefix="slimctr-metrics-") as metrics_folder,
        listening_socket(settings) as listener,
    ):
        # Read by the metrics client when a worker imports it; a fresh folder knows nothing of earlier runs.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_folder
        return Supervisor(settings, listener).run()


@contextmanager
def listening_socket(settings: Settings) -> Generator[socket.socket, None, None]:
    """Bind host and port; the workers inherit the socket and share its queue of connections."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        yield listener


class Supervisor:
    """Starts the workers, passes signals on, replaces the dead, waits for the last."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._spawn = multiprocessing.get_context("spawn")
        self._workers: dict[BaseProcess, float] = {}
        self._status = 0
        self._stopping = False

    def run(self) -> int:
        """Run until every worker has ended; return the exit status."""
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, self._pass_on)
        for _ in range(self._settings.workers):
            self._start()
        while self._workers:
            wait([process.sentinel for process in self._workers])
            for process in [process for process in self._workers if not process.is_alive()]:
                self._ended(process)
        return self._status

    def _start(self) -> None:
        process = self._spawn.Process(
            target=run_worker, args=(self._settings, self._listener), name="slimctr-worker"
        )
        process.start()
        self._workers[process] = time.monotonic()

    def _ended(self, process: BaseProcess) -> None:
        age_s = time.monotonic() - self._workers.pop(process)
        process.join()
        if process.pid is not None:
            mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
        if self._stopping:
            return
        logger.error("worker ended", extra={"detail": f"pid {process.pid}, status {process.exitcode}"})
        if age_s < START_SECONDS:
            self._status = STARTUP_FAILURE
            self._pass_on(signal.SIGTERM, None)
        else:
            self._start()

    def _pass_on(self, sig: int, frame: FrameType | None) -> None:
        self._stopping = True
        for process in self._workers:
            if process.pid is not None:
                os.kill(process.pid, sig)


def run_worker(settings: Settings, listener: socket.socket) -> None:
    """Serve on the inherited socket; end with the supervisor, even when that was killed."""
    os.setpgid(0, 0)  # Ctrl-C reaches a worker once, through the supervisor
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()
    serve(settings, [listener])


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
