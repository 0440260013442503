"""`slimctr serve` as a process tree whose start is timed and whose memory the kernel tells."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from model_store.store import ModelStore

WAIT_S = 120.0
ADDRESS = re.compile(r"http://[0-9.]+:\d+")
EVENT = re.compile(r'"event":"([^"]*)"')
KINDS = {"Rss": "rss", "Pss": "pss", "Private_Clean": "private_clean", "Private_Dirty": "private_dirty"}


class Service:
    """A running service; `started` and `ready_s` are seconds, the second from the start to the last worker ready."""

    def __init__(self, store: Path, state: Path, workers: int = 1, **variables: str) -> None:
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            "SLIMCTR_STATE_URL": f"sqlite:///{state}/state.sqlite3",
            "SLIMCTR_LABEL_POLL_SECONDS": "0.1",
            "SLIMCTR_DRAIN_DELAY_S": "0",
            **variables,
        }
        command = [
            sys.executable,
            "-m",
            "slimctr",
            "serve",
            "--insecure",
            "--store",
            str(store),
            "--port",
            "0",
        ]
        self._lines: list[tuple[float, str]] = []
        self._events: dict[str, list[tuple[float, str]]] = {}
        self._more = threading.Condition()
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--workers", str(workers)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.ready_s = self.wait_for("version ready", workers)[0] - self.started
        self.load_s = [json.loads(line)["duration_ms"] / 1000 for _, line in self.lines("version ready")]
        _, line = next(entry for entry in self._lines if ADDRESS.search(entry[1]))
        self.url = ADDRESS.findall(line)[0]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        url = httpx.URL(self.url)
        return url.host, int(url.port or 80)

    def lines(self, event: str) -> list[tuple[float, str]]:
        """Return the log lines of an event so far, each with the time it was read."""
        return list(self._events.get(event, ()))

    def wait_for(self, event: str, times: int) -> tuple[float, str]:
        """Return the line of the event that makes `times`; raise RuntimeError when the service ends before."""
        with self._more:
            arrived = self._more.wait_for(
                lambda: len(self._events.get(event, ())) >= times or self.process.poll() is not None, WAIT_S
            )
            found = self.lines(event)
            if not arrived or len(found) < times:
                raise RuntimeError(
                    f"no '{event}' from the service:\n" + "".join(line for _, line in self._lines)
                )
            return found[times - 1]

    def processes(self) -> list[int]:
        """Return the process ids of the service, the parent first."""
        return _tree(self.process.pid)

    def memory(self, folder: Path) -> list[dict[str, Any]]:
        """Return bytes by process: totals, and `files_pss` of what maps files of `folder`."""
        return [{"pid": pid, **process_memory(pid), **files_pss(pid, folder)} for pid in self.processes()]

    def close(self) -> None:
        """Stop the service and wait for its end."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            for pid in reversed(self.processes()):
                os.kill(pid, signal.SIGKILL)
            self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            entry = (time.perf_counter(), line)
            event = EVENT.search(line)
            with self._more:
                if event is None or event[1] != "request":  # thousands, which nobody asks for
                    self._lines.append(entry)
                    self._events.setdefault(event[1] if event else "", []).append(entry)
                    self._more.notify_all()
        with self._more:
            self._more.notify_all()


@contextmanager
def served(store: Path, state: Path, workers: int = 1, **variables: str) -> Iterator[Service]:
    """Serve for the length of a `with` block."""
    service = Service(store, state, workers, **variables)
    try:
        yield service
    finally:
        service.close()


def store_of(source: Path, model: str, versions: dict[str, int], target: Path) -> Path:
    """Make a store at `target` that has only some versions (label -> number) of one model, as hard links; return it."""
    for number in versions.values():
        shutil.copytree(
            source / model / str(number),
            target / model / str(number),
            copy_function=os.link,
            dirs_exist_ok=True,
        )
    for label, number in versions.items():
        ModelStore(target).set_label(model, label, number)
    return target


def warm(service: Service, fields: list[str], rows: int, seconds: float = 2.0) -> int:
    """Send requests on ever new connections, so that every worker answers some; return how many were answered."""
    body = {"instances": [{name: str(1 + 7 * row) for name in fields} for row in range(rows)]}
    answered = 0
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        with httpx.Client(base_url=service.url, timeout=30) as client:
            for _ in range(5):
                client.post("/v1/predict", json=body).raise_for_status()
                answered += 1
    return answered


def process_memory(pid: int) -> dict[str, int]:
    """Return the totals of a process in bytes."""
    values = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in KINDS:
            values[KINDS[name]] = int(rest.split()[0]) * 1024
    return values


def files_pss(pid: int, folder: Path) -> dict[str, int]:
    """Return the proportional bytes of the mappings of files under `folder`."""
    total, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, colon, rest = line.partition(":")
        if not colon or " " in name:
            columns = line.split(maxsplit=5)
            inside = len(columns) == 6 and columns[5].startswith(f"{folder}/")
        elif inside and name == "Pss":
            total += int(rest.split()[0]) * 1024
    return {"files_pss": total}


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(below for child in children for below in _tree(int(child)))]
