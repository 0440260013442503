"""`slimctr serve` as a process of its own, whose log is read as it comes."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START_SECONDS = 60.0


class Served:
    """A running `slimctr serve` whose log is read as it comes."""

    def __init__(self, store: Path, *arguments: str, **variables: str) -> None:
        command = [sys.executable, "-m", "slimctr", "serve", "--store", str(store), "--port", "0", *arguments]
        defaults = {
            "SLIMCTR_STATE_URL": f"sqlite:///{store.parent}/state.sqlite3",
            "SLIMCTR_DEFAULT_DEADLINE_MS": "10000",  # slow machines are no reason to fail
        }
        environment = {**os.environ, **defaults, **variables}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True
        )
        self.log: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def address(self) -> str:
        """Return the URL once the log tells it."""
        return self.wait_for_line(r"(http://127\.0\.0\.1:\d+)")

    def wait_for_line(self, pattern: str) -> str:
        """Return the first group of the first line that matches."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.log if (match := re.search(pattern, line))), None)

        with self._more:
            assert self._more.wait_for(
                lambda: found() is not None or not self._reader.is_alive(), START_SECONDS
            )
            match = found()
            assert match is not None, "".join(self.log)
            return match.group(1)

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        status = self.process.wait(START_SECONDS)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self.log.append(line)
                self._more.notify_all()
        with self._more:
            self._more.notify_all()


@contextmanager
def served(store: Path, *arguments: str, **variables: str) -> Iterator[Served]:
    service = Served(store, *arguments, **variables)
    try:
        yield service
    finally:
        service.stop(signal.SIGKILL)


def wait_until_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + START_SECONDS
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
