"""`slimctr serve --workers 2`: what workers share, and who takes care of them."""

import hashlib
import json
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from artifacts import build_artifact, raw_rows
from served import START_SECONDS, Served, served, wait_until_ready

from service import supervise

pytestmark = pytest.mark.alone  # counts connections and memory of several processes, kills them under load


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


def supervised(service: Served) -> int:
    """Return the process id of the service once it is that of the supervisor."""
    deadline = time.monotonic() + START_SECONDS
    while supervise.__file__ not in Path(f"/proc/{service.process.pid}/cmdline").read_text():
        assert time.monotonic() < deadline
    return service.process.pid


def replaced(service: Served, victims: set[int]) -> set[int]:
    """Kill workers and return those that took their places."""
    others = workers_of(service) - victims
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
        service.wait_for_line(rf'"event":"(worker ended)".*pid {victim}, status -9')
    deadline = time.monotonic() + START_SECONDS
    while len(workers_of(service) - victims - others) < len(victims):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return workers_of(service) - others


def wait_for_rows(client: httpx.Client, rows: int) -> None:
    """Wait until the metrics count `rows`: each worker adds its counts up once a second."""
    deadline = time.monotonic() + START_SECONDS
    while total(client.get("/metrics").text, "slimctr_inference_rows_total") != rows:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_workers_share_a_port_and_their_metrics_and_the_dead_are_replaced(store: Path) -> None:
    """By processes that start anew, in the same metric files; first one of the workers, then all of them."""
    with served(store, "--workers", "2", SLIMCTR_DRAIN_DELAY_S="0") as service:
        url = service.address()
        supervised(service)
        answered = 0
        for victims in (0, 1, 2):
            before = workers_of(service)
            new = replaced(service, set(list(before)[:victims]))
            assert len(new) == victims
            assert len(workers_of(service)) == 2
            with httpx.Client(base_url=url, timeout=20) as client:
                wait_until_ready(client)
            begin = answered
            for _ in range(20):
                response = httpx.post(f"{url}/v1/predict", json={"instances": raw_rows(1)}, timeout=20)
                answered += response.status_code == 200  # the other worker may still be loading
            assert answered > begin
            with httpx.Client(base_url=url, timeout=20) as client:
                wait_for_rows(client, answered)
        assert service.stop() == 0


def test_workers_end_when_their_parent_was_killed(store: Path) -> None:
    with served(store, "--workers", "2", SLIMCTR_DRAIN_DELAY_S="0") as service:
        url = service.address()
        supervised(service)
        (new,) = replaced(service, {workers_of(service).pop()})
        while not maps_tables(new):
            threading.Event().wait(0.05)
        workers = workers_of(service)
        assert len(workers) == 2
        service.process.kill()
        # A worker whose parent is gone is reaped by the system, and its directory vanishes.
        deadline = time.monotonic() + START_SECONDS
        while any(running(worker) for worker in workers):
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_supervisor_takes_over_ends_the_service(
    store: Path, tmp_path: Path, sig: signal.Signals
) -> None:
    """The process is sent it as soon as it runs the supervisor's program, which cannot deal with it yet."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    with served(store, "--workers", "2", SLIMCTR_DRAIN_DELAY_S="0", TMPDIR=str(folder)) as service:
        url = service.address()
        os.kill(supervised(service), sig)
        workers = workers_of(service)
        assert service.stop(signal.SIGCONT) == 0
        assert not any(running(worker) for worker in workers)
        assert list(folder.iterdir()) == []
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


def test_what_a_killed_service_left_is_swept_by_the_next_one(store: Path, tmp_path: Path) -> None:
    """And the folder of one that runs is not."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    settings = {"SLIMCTR_DRAIN_DELAY_S": "0", "TMPDIR": str(folder)}
    with (
        served(store, "--workers", "2", **settings) as killed,
        served(store, "--workers", "2", **settings) as other,
    ):
        for service in (killed, other):
            service.address()
            supervised(service)
        replaced(other, workers_of(other))  # what took the places of the first workers holds it, too
        assert len(list(folder.iterdir())) == 2
        workers = workers_of(killed)
        killed.stop(signal.SIGKILL)
        deadline = time.monotonic() + START_SECONDS
        while any(running(worker) for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        left = set(folder.iterdir())
        with served(store, "--workers", "2", **settings) as third:
            third.address()
            supervised(third)
            assert len(left & set(folder.iterdir())) == 1
            assert len(list(folder.iterdir())) == 2
            assert httpx.get(f"{other.address()}/metrics").status_code == 200
            assert third.stop() == 0
        assert other.stop() == 0
    assert list(folder.iterdir()) == []


def test_workers_drain(store: Path, tmp_path: Path) -> None:
    """Those that were forked and those that took the places of the dead."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    with served(store, "--workers", "2", SLIMCTR_DRAIN_DELAY_S="3", TMPDIR=str(folder)) as service:
        url = service.address()
        supervised(service)
        assert len(list(folder.iterdir())) == 1
        replaced(service, {workers_of(service).pop()})
        with ExitStack() as stack:
            clients = [stack.enter_context(httpx.Client(base_url=url, timeout=20)) for _ in range(16)]
            for client in clients:
                wait_until_ready(client)
            service.process.send_signal(signal.SIGTERM)
            for client in clients:
                while (ready := client.get("/readyz")).status_code == 200:
                    threading.Event().wait(0.05)
                assert "draining" in ready.json()["detail"]
        assert service.stop(signal.SIGCONT) == 0
        assert list(folder.iterdir()) == []


def test_a_replacement_has_the_default_model_of_the_others(tmp_path: Path) -> None:
    """Also when the store was empty at the start and has two models by now."""
    store = tmp_path / "models"
    store.mkdir()
    with served(store, "--workers", "2", SLIMCTR_DRAIN_DELAY_S="0") as service:
        url = service.address()
        supervised(service)

        def answers() -> list[tuple[int, str]]:
            """Return what eight connections get, which come to both workers but for a chance of 2 ** -7."""
            found = [httpx.post(f"{url}/v1/predict", json={"instances": raw_rows(1)}) for _ in range(8)]
            return [(answer.status_code, answer.json().get("model", "")) for answer in found]

        build_artifact(store, label="stable")
        deadline = time.monotonic() + START_SECONDS
        while answers() != [(200, "ctr")] * 8:
            assert time.monotonic() < deadline
        build_artifact(store, model="another", label="stable")
        replaced(service, workers_of(service))
        assert answers() == [(200, "ctr")] * 8
        assert service.stop() == 0


def refused(address: tuple[str, int]) -> bool:
    """Return whether a new connection is refused; one that is taken gets an answer or is reset."""
    try:
        with socket.create_connection(address, START_SECONDS) as late, suppress(ConnectionResetError):
            late.sendall(b"GET /livez HTTP/1.1\r\nHost: slimctr\r\nConnection: close\r\n\r\n")
            late.recv(4096)
    except ConnectionRefusedError:
        return True
    return False


def test_late_connections_are_refused_while_the_last_requests_end(store: Path) -> None:
    """Neither the supervisor nor another worker holds the socket of a worker that takes no more."""
    body = json.dumps({"instances": raw_rows(1)}).encode()
    with served(store, "--workers", "2", SLIMCTR_DRAIN_DELAY_S="0.2") as service, ExitStack() as stack:
        url = httpx.URL(service.address())
        address = (url.host, url.port or 0)
        supervised(service)
        replaced(service, {workers_of(service).pop()})
        for _ in range(8):
            with httpx.Client(base_url=url, timeout=START_SECONDS) as client:
                wait_until_ready(client)
        running = [stack.enter_context(socket.create_connection(address, START_SECONDS)) for _ in range(16)]
        for connection in running:
            connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: slimctr\r\nConnection: close\r\n")
            connection.sendall(b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body))
            assert connection.recv(4096).startswith(b"HTTP/1.1 100")
        service.process.send_signal(signal.SIGTERM)
        while not refused(address):
            pass
        assert service.process.poll() is None
        for connection in running:
            connection.sendall(body)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        assert service.stop(signal.SIGCONT) == 0


def test_settings_reach_replacements_but_neither_arguments_nor_environment(store: Path) -> None:
    keys = [{"sha256": hashlib.sha256(b"a key").hexdigest(), "scopes": ["infer", "admin"]}]
    with served(
        store, "--workers", "2", SLIMCTR_DRAIN_DELAY_S="0", SLIMCTR_API_KEYS=json.dumps(keys)
    ) as service:
        url = service.address()
        supervisor = supervised(service)
        for pid in workers_of(service):
            assert keys[0]["sha256"] not in Path(f"/proc/{pid}/cmdline").read_text()
        for pid in {supervisor, *replaced(service, workers_of(service))}:
            for shown in ("cmdline", "environ"):
                text = Path(f"/proc/{pid}/{shown}").read_text()
                assert keys[0]["sha256"] not in text
                assert "SLIMCTR_" not in text
        with httpx.Client(base_url=url, timeout=20, headers={"authorization": "Bearer a key"}) as client:
            wait_until_ready(client)
            assert client.post("/v1/predict", json={"instances": raw_rows(3)}).status_code == 200
        assert httpx.post(f"{url}/v1/predict", json={"instances": raw_rows(3)}).status_code == 401
        assert service.stop() == 0


def running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
