"""Starts several server processes on one address and leaves them to a supervisor.

The workers are forked from a parent that has imported the application and does nothing with it: they share its
pages until they write to them, and start without importing anything. Once one serves, the parent becomes the program
`service.supervise`, so that what it has imported and opened is in memory for the workers only.
"""

import gc
import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import NoReturn

from model_store.scratch import scratch
from service import supervise
from service.ahead import Ahead
from service.loader import open_ahead
from service.resident import return_free_memory
from service.server import address_of, listening_sockets
from service.settings import PREFIX, Settings
from service.supervise import SERVES, Worker, read_news
from service.telemetry.logs import configure_logging
from service.worker import STARTUP_FAILURE, STOP_SIGNALS, run_forked
from slimctr.errors import ConfigError

# Of the folder in the temporary folder that the workers of a service share.
FOLDER_PREFIX = "slimctr-workers-"

logger = logging.getLogger("slimctr.workers")


def serve_workers(settings: Settings, ahead: Ahead | None = None) -> int:
    """Serve with `settings.workers` processes until a signal ends them; return the exit status.

    Does not return from a service that stands: this process is replaced by the supervisor, which ends with status 0.
    The versions of `ahead` are opened here, before the workers are forked, which share what they read and hold.
    Raises ConfigError as `service.server.serve` does, also for what a worker refuses at its start.
    """
    configure_logging(settings.log_level)
    with (
        scratch(Path(tempfile.gettempdir()), FOLDER_PREFIX, 0o700, inheritable=True) as folder,
        listening_sockets(settings) as listeners,
    ):
        # Read by the metrics of a worker when it makes them; a fresh folder knows nothing of earlier runs.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        if ahead is not None:
            logger.info("opening the labeled versions")
            open_ahead(ahead, settings)
        # What exists now is never garbage: a collection in a worker shall not write to all the pages it shares.
        gc.collect()
        gc.freeze()
        start = Start(settings, listeners, ahead)
        status = start.run()
        if status is None:
            start.hand_over(str(folder))
        return status


class Start:
    """Starts the workers and passes signals on until the service stands, which it does once a worker serves.

    Each worker has a listening socket of its own, which its replacement inherits. A worker that ends before the service
    stands ends the service: the next one would fail for the same reason.
    """

    def __init__(
        self, settings: Settings, listeners: Sequence[socket.socket], ahead: Ahead | None = None
    ) -> None:
        self._settings = settings
        self._ahead = ahead
        self._listeners = listeners
        self._processes = multiprocessing.get_context("fork")
        self._workers: dict[BaseProcess, Worker] = {}
        self._life = os.pipe()
        self._stopping = False

    def run(self) -> int | None:
        """Return None when the service stands, with stop signals blocked, or the exit status when it has ended.

        Raises ConfigError for what a worker refused.
        """
        for sig in STOP_SIGNALS:
            signal.signal(sig, self._pass_on)
        logger.info("workers share one address", extra={"detail": address_of(self._listeners[0])})
        for slot in range(len(self._listeners)):
            self._start(slot)
        if self._ahead is not None:
            # The first workers have it; the labels may have moved when a replacement starts.
            self._ahead.close()
            return_free_memory()
        told = self._read_news()
        if told and all(news == SERVES for news in told.values()):
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            if not self._stopping:
                return None
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        status = 0
        for process in [process for process, news in told.items() if news != SERVES]:
            process.join()
            if not self._stopping:
                detail = f"pid {process.pid}, status {process.exitcode}"
                logger.error("worker ended", extra={"detail": detail})
                status = STARTUP_FAILURE
                self._pass_on(signal.SIGTERM, None)
        for process in self._workers:
            process.join()
        told |= self._read_news()
        refusal = next((news for news in told.values() if news not in ("", SERVES)), None)
        if refusal is not None:
            raise ConfigError(refusal)
        return status

    def hand_over(self, metrics_folder: str) -> NoReturn:
        """Turn this process into the supervisor of the workers, which deletes `metrics_folder` at its end.

        Stop signals have to be blocked: those that come meanwhile wait for the supervisor.
        """
        workers = {process.pid: worker for process, worker in self._workers.items()}
        listeners = [listener.fileno() for listener in self._listeners]
        document = {
            "program": [sys.executable, "-P", "-m", "service.worker"],
            "settings": self._settings.model_dump(mode="json"),
            "metrics": metrics_folder,
            "listeners": listeners,
            "life": self._life,
            "workers": workers,
        }
        handover = os.memfd_create("slimctr-handover")
        with open(handover, "wb", closefd=False) as file:
            file.write(json.dumps(document).encode())
        unread = [worker.news for worker in workers.values() if worker.news is not None]
        for inherited in (handover, *self._life, *listeners, *unread):
            os.set_inheritable(inherited, True)
        # A replacement finds what was found here, and no secrets where other processes of the user could read them.
        environment = {name: text for name, text in os.environ.items() if not name.upper().startswith(PREFIX)}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        command = [sys.executable, "-S", "-P", supervise.__file__, str(handover), "slimctr", *sys.argv[1:]]
        try:
            os.execve(command[0], command, environment)
        except OSError:
            self._pass_on(signal.SIGTERM, None)
            raise

    def _start(self, slot: int) -> None:
        # A signal waits until the worker is listed here, and there until it has handlers of its own.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            if not self._stopping:
                news, told = os.pipe()
                process = self._processes.Process(
                    target=run_forked,
                    args=(slot, self._life, told, self._settings, self._listeners, self._ahead),
                    name="slimctr-worker",
                )
                process.start()
                os.close(told)
                self._workers[process] = Worker(slot, news)
                if self._stopping:  # a thread without the mask took the signal, before the worker was listed
                    process.terminate()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _read_news(self) -> dict[BaseProcess, str]:
        """Return what workers tell that have told nothing so far, once there is some; nothing for those that ended."""
        unread = {
            worker.news: process for process, worker in self._workers.items() if worker.news is not None
        }
        ready = wait(list(unread)) if unread else []
        told = {process: read_news(news) for news, process in unread.items() if news in ready}
        for process in told:
            self._workers[process] = self._workers[process]._replace(news=None)
        return told

    def _pass_on(self, sig: int, frame: FrameType | None) -> None:
        self._stopping = True
        for process in self._workers:
            # Its number may be another's by now if it was found dead, together with the one that ended the service.
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, sig)
