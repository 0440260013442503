"""The supervisor of several workers: the program that `slimctr serve` turns into once its service stands.

The process that started the workers imported the application and opened the models, and needs none of that any more.
This program has a few MB, for it imports nothing but the standard library. It keeps the number, the children, the
sockets and the standard streams of that process; all else it needs is a JSON document behind a descriptor, since the
settings may hold secrets. Every signal it deals with stays blocked and is waited for, so that none is lost.
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any, NamedTuple

RETRY_SECONDS = 1.0
# What a worker tells once it accepts requests; anything else is why it cannot.
SERVES = "serves"
NEWS_BYTES = 4096
SIGNALS = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)


class Worker(NamedTuple):
    """The place of a worker, which its replacement takes, and what its news come from; None once it told SERVES."""

    slot: int
    news: int | None


class Supervisor:
    """Replaces the workers that die, passes signals on, waits for the last.

    A replacement is a process of its own: it shares nothing but the mapped files. One that cannot start is tried again:
    what it needs may be away for a moment, and the other workers serve on.
    """

    def __init__(self, handover: int) -> None:
        document = read_handover(handover)
        self._handover = handover
        self._program: list[str] = document["program"]
        self._metrics: str = document["metrics"]
        self._workers = {int(pid): Worker(*worker) for pid, worker in document["workers"].items()}
        self._due: dict[int, float] = {}
        self._stopping = False
        # Nobody else may keep it open, or the others would outlive this process.
        os.set_inheritable(document["life"][1], False)

    def run(self) -> None:
        """Run until a signal has ended every worker; the files of the metrics are gone then."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._reap()  # who ended before that
        while self._workers or self._due:
            for slot in [slot for slot, due in self._due.items() if due <= time.monotonic()]:
                del self._due[slot]
                self._start(slot)
            received = self._wait()
            if received == signal.SIGCHLD:
                self._reap()
            elif received is not None:
                self._pass_on(received)
        _delete(self._metrics)
        with suppress(OSError):
            os.rmdir(self._metrics)

    def _wait(self) -> int | None:
        """Return the next signal, None when a replacement is due."""
        if not self._due:
            return signal.sigwaitinfo(SIGNALS).si_signo
        received = signal.sigtimedwait(SIGNALS, max(0.0, min(self._due.values()) - time.monotonic()))
        return None if received is None else received.si_signo

    def _start(self, slot: int) -> None:
        news, told = os.pipe()
        os.set_inheritable(told, True)
        command = [*self._program, *map(str, (self._handover, slot, told))]
        try:
            # A group of its own: Ctrl-C reaches a worker once, through this process.
            pid = os.posix_spawn(command[0], command, os.environ, setpgroup=0, setsigmask=())
            self._workers[pid] = Worker(slot, news)
        except OSError as error:
            os.close(news)
            self._try_again(slot, str(error))
        finally:
            os.close(told)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
                worker = self._workers.pop(ended[0], None)
                if worker is not None:
                    self._ended(worker, f"pid {ended[0]}, status {os.waitstatus_to_exitcode(ended[1])}")

    def _ended(self, worker: Worker, detail: str) -> None:
        told = SERVES if worker.news is None else read_news(worker.news)
        # As prometheus_client's mark_process_dead: what was true of the process only.
        _delete(self._metrics, "gauge_live", f"_{worker.slot}.db")
        if self._stopping:
            return
        _log("worker ended", detail)
        if told == SERVES:
            self._due[worker.slot] = time.monotonic()
        else:
            self._try_again(worker.slot, told)

    def _try_again(self, slot: int, reason: str) -> None:
        _log("a worker could not start and is tried again", reason)
        self._due[slot] = time.monotonic() + RETRY_SECONDS

    def _pass_on(self, received: int) -> None:
        self._stopping = True
        self._due.clear()
        for pid in self._workers:  # none of which is reaped yet, so no other process has its number
            os.kill(pid, received)


def read_handover(handover: int) -> dict[str, Any]:
    """Return the document behind a descriptor, which others read as well."""
    document: dict[str, Any] = json.loads(os.pread(handover, os.fstat(handover).st_size, 0))
    return document


def read_news(news: int) -> str:
    """Return what a worker told, or nothing if it ended before; closes the descriptor."""
    with open(news, "rb", buffering=0) as pipe:
        return (pipe.read(NEWS_BYTES) or b"").decode(errors="replace")


def _delete(folder: str, prefix: str = "", suffix: str = "") -> None:
    with suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(prefix) and name.endswith(suffix):
                os.remove(os.path.join(folder, name))


def _log(event: str, detail: str) -> None:
    """Write an error in the form of `service.telemetry.logs`."""
    now = time.time()
    line = {
        "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}+00:00",
        "level": "error",
        "event": event,
        "logger": "slimctr.workers",
        "detail": detail,
    }
    text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
    with suppress(OSError):  # a log that nobody takes any more is no reason to end the service
        os.write(1, f"{text}\n".encode())


if __name__ == "__main__":
    Supervisor(int(sys.argv[1])).run()
