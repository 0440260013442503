"""One of several server processes: forked by `service.workers`, or run as a program by `service.supervise`."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

from prometheus_client import values

from service.ahead import Ahead
from service.experiments.errors import ExperimentError
from service.server import serve_on
from service.settings import Settings
from service.supervise import NEWS_BYTES, SERVES, read_handover
from slimctr.errors import ConfigError

STARTUP_FAILURE = 3
# How long a worker may open its models before it accepts requests; after that it answers that they are not ready.
MODELS_WAIT_S = 30.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_worker(
    slot: int,
    life: int,
    news: int,
    settings: Settings,
    listeners: Sequence[socket.socket],
    ahead: Ahead | None = None,
) -> None:
    """Serve on the socket of `slot`, one of those inherited; end with the supervisor, even when that was killed.

    `life` reads from a pipe whose writing end only the supervisor keeps open, `news` takes what it wants to know.
    Connections wait in the queue of the socket until the labeled versions passed or failed their gates.
    """
    threading.Thread(target=_follow, args=(life,), daemon=True).start()
    write_metrics_as(slot)
    for other in [*listeners[:slot], *listeners[slot + 1 :]]:
        other.close()  # held here, connections would wait for a worker that takes no more
    try:
        folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])  # of this run, and deleted by its supervisor
        serve_on(listeners[slot], settings, partial(_tell, news, SERVES), ahead, MODELS_WAIT_S, folder)
    except (ConfigError, ExperimentError) as error:
        _tell(news, str(error))
        sys.exit(STARTUP_FAILURE)


def run_forked(
    slot: int,
    life: tuple[int, int],
    news: int,
    settings: Settings,
    listeners: Sequence[socket.socket],
    ahead: Ahead | None,
) -> None:
    """Run a worker in the child of the process that made `life`, both ends of which it has inherited."""
    os.setpgid(0, 0)  # Ctrl-C reaches a worker once, through the supervisor
    take_signals()
    read_end, write_end = life
    os.close(write_end)
    run_worker(slot, read_end, news, settings, listeners, ahead)


def take_signals() -> None:
    """Let stop signals end this process, as before its parent took and then blocked them."""
    for sig in STOP_SIGNALS:
        signal.signal(sig, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def write_metrics_as(slot: int) -> None:
    """Keep the metrics of this process in the files of `slot`, going on from what they hold.

    Files named by process, the client's default, stay for ever: each restart would add some to every scrape.
    """
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


def _tell(news: int, text: str) -> None:
    os.write(news, text.encode()[:NEWS_BYTES])
    os.close(news)


def _follow(life: int) -> None:
    wait([life])
    os.kill(os.getpid(), signal.SIGTERM)


def _replace(handover: int, slot: int, news: int) -> None:
    document = read_handover(handover)
    os.close(handover)
    listeners = [socket.socket(fileno=listener) for listener in document["listeners"]]
    run_worker(slot, document["life"][0], news, Settings(**document["settings"]), listeners)


if __name__ == "__main__":
    _replace(*map(int, sys.argv[1:]))
