"""`slimctr serve --workers 2`: what workers share, and who takes care of them."""

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from artifacts import build_artifact, raw_rows
from served import START_SECONDS, Served, served, wait_until_ready


@pytest.fixture
def store(tmp_path: Path) -> Path:
    build_artifact(tmp_path / "models", label="stable")
    return tmp_path / "models"


def workers_of(service: Served) -> set[int]:
    """Return the process ids of the workers."""
    pid = service.process.pid
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_long_lived_connections_spread_over_the_workers(store: Path) -> None:
    """By the kernel's hash of the addresses: that one of two workers gets all of 32 has a chance of 2 ** -31."""
    with served(store, "--workers", "2", SLIMCTR_DRAIN_DELAY_S="0") as service, ExitStack() as stack:
        url = httpx.URL(service.address())
        while True:
            with httpx.Client(base_url=url) as client:
                wait_until_ready(client)
            if len(workers_of(service)) == 2:
                break
        connections = [
            stack.enter_context(socket.create_connection((url.host, url.port), START_SECONDS))
            for _ in range(32)
        ]
        for connection in connections:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: slimctr\r\n\r\n")
        for connection in connections:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        taken = {worker: established(worker, url.port) for worker in workers_of(service)}
        assert sum(taken.values()) >= 32
        assert min(taken.values()) > 0, taken
        assert service.stop() == 0


def test_workers_share_what_was_opened_before_they_were_forked(store: Path) -> None:
    with served(store, "--workers", "2", SLIMCTR_DRAIN_DELAY_S="0") as service:
        url = service.address()
        with httpx.Client(base_url=url) as client:
            wait_until_ready(client)
            assert len(client.post("/v1/predict", json={"instances": raw_rows(3)}).json()["scores"]) == 3
        assert [maps_tables(pid) for pid in workers_of(service)] == [True, True]
        deadline = time.monotonic() + START_SECONDS
        while maps_tables(service.process.pid):
            assert time.monotonic() < deadline, "the parent keeps what it opened"
            time.sleep(0.05)
        assert service.stop() == 0


def maps_tables(pid: int) -> bool:
    """Return whether a process maps the tables of a version."""
    return "tables.safetensors" in Path(f"/proc/{pid}/maps").read_text()


def established(pid: int, port: int) -> int:
    """Return how many connections to `port` a process holds."""
    held = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    fields = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(
        field[1].endswith(f":{port:04X}") and field[3] == "01" and f"socket:[{field[9]}]" in held
        for field in fields
    )


def total(exposition: str, counter: str) -> float:
    """Return the sum of all series of a counter."""
    lines = [line for line in exposition.splitlines() if line.startswith(f"{counter}{{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_workers_share_a_port_and_their_metrics_and_the_dead_are_replaced(store: Path) -> None:
    with served(store, "--workers", "2", SLIMCTR_DRAIN_DELAY_S="0") as service:
        url = service.address()
        with httpx.Client(base_url=url) as client:
            wait_until_ready(client)
        answered = 0
        for _ in range(20):
            response = httpx.post(f"{url}/v1/predict", json={"instances": raw_rows(1)}, timeout=20)
            answered += response.status_code == 200  # the second worker may still be loading
        assert answered > 0
        give_up = time.monotonic() + 20  # each worker adds its counts up once a second
        while total(httpx.get(f"{url}/metrics").text, "slimctr_inference_rows_total") != answered:
            assert time.monotonic() < give_up
            time.sleep(0.1)

        before = workers_of(service)
        victim = before.pop()
        os.kill(victim, signal.SIGKILL)
        service.wait_for_line(rf'"event":"(worker ended)".*pid {victim}, status -9')
        for _ in range(3):
            assert httpx.get(f"{url}/livez", timeout=20).status_code == 200
        assert len(workers_of(service)) == 2
        assert before < workers_of(service)
        exposition = httpx.get(f"{url}/metrics", timeout=20).text
        assert total(exposition, "slimctr_inference_rows_total") == answered, "what the dead counted stays"
        assert service.stop() == 0


def test_workers_end_when_their_parent_was_killed(store: Path) -> None:
    with served(store, "--workers", "2", SLIMCTR_DRAIN_DELAY_S="0") as service:
        with httpx.Client(base_url=service.address()) as client:
            wait_until_ready(client)
        workers = workers_of(service)
        assert len(workers) == 2
        service.process.kill()
        # A worker whose parent is gone is reaped by the system, and its directory vanishes.
        deadline = time.monotonic() + START_SECONDS
        while any(running(worker) for worker in workers):
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)


def running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
