"""Runs the scoring service of the demo as a child process and stops it again."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slimctr.errors import ConfigError, EngineError


@dataclass(frozen=True)
class RunningService:
    """A service that answered ready: its address, process id and log file."""

    url: str
    pid: int
    log: Path

    def proportional_bytes(self) -> int:
        """Return the proportional set size of the process: private pages plus its share of shared ones."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return 1024 * int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1])

    def has_torch(self) -> bool:
        """Return whether the process has mapped any library of torch."""
        return "libtorch" in Path(f"/proc/{self.pid}/maps").read_text()


def refuse_taken_port(host: str, port: int) -> None:
    """Raise ConfigError when something already listens on `host:port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} on {host} is taken: stop what listens there, or pass --port"
            ) from error


@contextmanager
def running_service(
    *,
    store: Path,
    experiment: Path | None,
    state: Path,
    host: str,
    port: int,
    ready_within_seconds: float = 60.0,
) -> Iterator[RunningService]:
    """Start `slimctr serve` and yield once `/readyz` answers 200; on exit drain it and wait.

    Raises EngineError with the end of the service's log when it stops or is not ready in time.
    """
    log = state / "service.log"
    environment = {
        **os.environ,
        "SLIMCTR_STATE_URL": f"sqlite:///{state / 'state.db'}",
        "SLIMCTR_DRAIN_DELAY_S": "0",
    }
    command = [sys.executable, "-m", "slimctr", "serve", "--store", str(store), "--insecure"]
    command += ["--host", host, "--port", str(port)]
    if experiment is not None:
        command += ["--experiment", str(experiment)]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment, start_new_session=True)
    service = RunningService(f"http://{host}:{port}", process.pid, log)
    try:
        deadline = time.monotonic() + ready_within_seconds
        while not _ready(service.url):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise EngineError(f"the service did not become ready; its log {log} ends with:\n{tail}")
            time.sleep(0.1)
        yield service
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
