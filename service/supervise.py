"""The supervisor of several workers: the program that `slimctr serve` turns into once its service stands.

The process that started the workers imported the application and opened the models, and needs none of that any more.
This program has a few MB, for it imports nothing but the standard library. It keeps the number, the children, the
sockets and the standard streams of that process; all else it needs is a JSON document behind a descriptor, since the
settings may hold secrets. Every signal it deals with stays blocked and is waited for, so that none is lost.
"""

import json
import os
import select
import signal
import socket
import struct
import sys
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

RETRY_SECONDS = 1.0
# How often a starting worker is asked whether it serves.
ASK_SECONDS = 0.05
# What a worker tells once it accepts requests; anything else is why it cannot.
SERVES = "serves"
NEWS_BYTES = 4096
SIGNALS = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)
SO_ATTACH_REUSEPORT_CBPF = 51


class Worker(NamedTuple):
    """The place of a worker, which its replacement takes, what its news come from until they were read, and the news."""

    slot: int
    news: int | None
    told: str = ""


class Supervisor:
    """Replaces the workers that die, passes signals on, waits for the last.

    A replacement is a process of its own: it shares nothing but the mapped files. One that cannot start is tried again:
    what it needs may be away for a moment, and the other workers serve on. New connections go to them until the
    replacement serves; those that wait at the place of the dead are served by its replacement.
    """

    def __init__(self, handover: int) -> None:
        document = read_handover(handover)
        self._handover = handover
        self._program: list[str] = document["program"]
        self._metrics: str = document["metrics"]
        self._workers = {
            int(pid): Worker(slot, news, SERVES if news is None else "")
            for pid, (slot, news, *_) in document["workers"].items()
        }
        self._listeners = [socket.socket(fileno=listener) for listener in document["listeners"]]
        self._steered: list[int] = list(range(len(self._listeners)))
        self._due: dict[int, float] = {}
        self._stopping = False
        # Nobody else may keep it open, or the others would outlive this process.
        os.set_inheritable(document["life"][1], False)

    def run(self) -> None:
        """Run until a signal has ended every worker; the files of the metrics are gone then."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._reap()  # who ended before that
        while self._workers or self._due:
            self._hear()
            self._steer()
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
        """Return the next signal, None when a replacement is due or a starting worker should be asked."""
        pauses = [due - time.monotonic() for due in self._due.values()]
        if any(worker.news is not None for worker in self._workers.values()):
            pauses.append(ASK_SECONDS)
        if not pauses:
            return signal.sigwaitinfo(SIGNALS).si_signo
        received = signal.sigtimedwait(SIGNALS, max(0.0, min(pauses)))
        return None if received is None else received.si_signo

    def _hear(self) -> None:
        """Note what starting workers told meanwhile."""
        for pid, worker in self._workers.items():
            if worker.news is not None and select.select([worker.news], [], [], 0)[0]:
                self._workers[pid] = Worker(worker.slot, None, read_news(worker.news))

    def _steer(self) -> None:
        """Let new connections come to the workers that serve; to all when none does."""
        if self._stopping or len(self._listeners) < 2:
            return
        serving = sorted(worker.slot for worker in self._workers.values() if worker.told == SERVES)
        slots = serving or list(range(len(self._listeners)))
        if slots != self._steered:
            steer(self._listeners[0], slots)
            self._steered = slots

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
        told = worker.told if worker.news is None else read_news(worker.news)
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
        # A worker refuses late connections once nobody else holds its socket.
        for listener in self._listeners:
            listener.close()
        for pid in self._workers:  # none of which is reaped yet, so no other process has its number
            os.kill(pid, received)


def steer(listener: socket.socket, slots: Sequence[int]) -> None:
    """Let the kernel give new connections to some of the sockets that share an address, each the same share.

    `slots` count the sockets in the order in which they began to listen. Connections that wait already stay where they
    are. Where the kernel cannot, all stays as it was: connections wait at the place of a dead worker.
    """
    # A classic packet filter: load a random number (0x20, "ancillary data" 56), take it modulo the slots (0x94), and
    # where it equals the number of a slot (0x15, else skip one step) return that slot (0x06).
    steps = [(0x20, 0, 0, 0xFFFFF000 + 56), (0x94, 0, 0, len(slots))]
    for number, slot in enumerate(slots):
        steps += [(0x15, 0, 1, number), (0x06, 0, 0, slot)]
    steps.append((0x06, 0, 0, slots[0]))
    code = array("B", b"".join(struct.pack("=HBBI", *step) for step in steps))
    with suppress(OSError):
        listener.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("@HP", len(steps), code.buffer_info()[0])
        )


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
