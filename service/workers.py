"""Runs several server processes on one address and replaces those that die.

The workers are forked from a parent that has imported the application and does nothing with it: they share its
pages until they write to them, and start without importing anything.
"""

import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from types import FrameType
from typing import NamedTuple

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

from service.ahead import Ahead
from service.experiments.errors import ExperimentError
from service.loader import open_ahead
from service.resident import return_free_memory
from service.server import address_of, listening_sockets, serve_on
from service.settings import Settings
from service.telemetry.logs import configure_logging
from slimctr.errors import ConfigError

STARTUP_FAILURE = 3
RETRY_SECONDS = 1.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

logger = logging.getLogger("slimctr.workers")


def serve_workers(settings: Settings, ahead: Ahead | None = None) -> int:
    """Serve with `settings.workers` processes until a signal ends them; return the exit status.

    The versions of `ahead` are opened here, before the workers are forked, which share what they read and hold.
    Raises ConfigError as `service.server.serve` does, also for what a worker refuses at its start.
    """
    configure_logging(settings.log_level)
    with (
        tempfile.TemporaryDirectory(prefix="slimctr-metrics-") as metrics_folder,
        listening_sockets(settings) as listeners,
    ):
        # Read by the metrics of a worker when it makes them; a fresh folder knows nothing of earlier runs.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_folder
        if ahead is not None:
            logger.info("opening the labeled versions")
            open_ahead(ahead, settings)
        # What exists now is never garbage: a collection in a worker shall not write to all the pages it shares.
        gc.collect()
        gc.freeze()
        return Supervisor(settings, listeners, ahead).run()


class Worker(NamedTuple):
    """The place of a worker among the workers, which its replacement takes, and whether it ever served."""

    slot: int
    served: Event


class Supervisor:
    """Starts the workers, passes signals on, replaces the dead, waits for the last.

    Each worker has a listening socket of its own, which its replacement inherits. A worker that ends before any served
    ends the service: the next one would fail for the same reason. Once the service stands, a replacement that cannot
    start is tried again: what it needs may be away for a moment, and the other workers serve on.
    """

    def __init__(
        self, settings: Settings, listeners: Sequence[socket.socket], ahead: Ahead | None = None
    ) -> None:
        self._settings = settings
        self._ahead = ahead
        self._listeners = listeners
        self._processes = multiprocessing.get_context("fork")
        self._workers: dict[BaseProcess, Worker] = {}
        self._refusals: SimpleQueue[str] = self._processes.SimpleQueue()
        self._life = os.pipe()
        self._status = 0
        self._stands = False
        self._stopping = False

    def run(self) -> int:
        """Run until every worker has ended; return the exit status, or raise ConfigError for a refusal."""
        for sig in STOP_SIGNALS:
            signal.signal(sig, self._pass_on)
        logger.info("workers share one address", extra={"detail": address_of(self._listeners[0])})
        for slot in range(len(self._listeners)):
            self._start(slot)
        if self._ahead is not None:
            # The first workers have it; the labels may have moved when a replacement starts.
            self._ahead.close()
            return_free_memory()
        while self._workers:
            wait([process.sentinel for process in self._workers])
            for process in [process for process in self._workers if not process.is_alive()]:
                self._ended(process)
        if not self._refusals.empty():
            raise ConfigError(self._refusals.get())
        return self._status

    def _start(self, slot: int) -> None:
        # A signal waits until the worker is listed here, and there until it has handlers of its own.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            if not self._stopping:
                served = self._processes.Event()
                process = self._processes.Process(
                    target=run_worker,
                    args=(
                        *(slot, self._life, self._settings, self._listeners[slot]),
                        *(served, self._refusals, self._ahead),
                    ),
                    name="slimctr-worker",
                )
                process.start()
                self._workers[process] = Worker(slot, served)
                if self._stopping:  # a thread without the mask took the signal, before the worker was listed
                    process.terminate()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _ended(self, process: BaseProcess) -> None:
        worker = self._workers.pop(process)
        process.join()
        mark_process_dead(worker.slot)  # type: ignore[no-untyped-call]
        if self._stopping:
            return
        logger.error("worker ended", extra={"detail": f"pid {process.pid}, status {process.exitcode}"})
        self._stands |= any(known.served.is_set() for known in (worker, *self._workers.values()))
        if not self._stands:
            self._status = STARTUP_FAILURE
            self._pass_on(signal.SIGTERM, None)
            return
        if not worker.served.is_set():
            reason = "" if self._refusals.empty() else self._refusals.get()
            logger.error("a worker could not start and is tried again", extra={"detail": reason})
            time.sleep(RETRY_SECONDS)
        self._start(worker.slot)

    def _pass_on(self, sig: int, frame: FrameType | None) -> None:
        self._stopping = True
        for process in self._workers:
            # Its number may be another's by now if it was found dead, together with the one that ended the service.
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, sig)


def run_worker(
    slot: int,
    life: tuple[int, int],
    settings: Settings,
    listener: socket.socket,
    served: Event,
    refusals: "SimpleQueue[str]",
    ahead: Ahead | None,
) -> None:
    """Serve on the inherited socket; end with the supervisor, even when that was killed.

    `life` is a pipe whose writing end only the supervisor keeps open.
    """
    os.setpgid(0, 0)  # Ctrl-C reaches a worker once, through the supervisor
    take_signals()
    read_end, write_end = life
    os.close(write_end)
    threading.Thread(target=_follow, args=(read_end,), daemon=True).start()
    write_metrics_as(slot)
    try:
        serve_on(listener, settings, served.set, ahead)
    except (ConfigError, ExperimentError) as error:
        refusals.put(str(error))
        sys.exit(STARTUP_FAILURE)


def take_signals() -> None:
    """Let stop signals end this process, as before the supervisor took and then blocked them."""
    for sig in STOP_SIGNALS:
        signal.signal(sig, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def write_metrics_as(slot: int) -> None:
    """Keep the metrics of this process in the files of `slot`, going on from what they hold.

    Files named by process, the client's default, stay for ever: each restart would add some to every scrape.
    """
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def _follow(life: int) -> None:
    wait([life])
    os.kill(os.getpid(), signal.SIGTERM)
