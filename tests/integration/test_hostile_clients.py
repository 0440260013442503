"""The service answers others, and its memory stays, while clients do what no client should."""

import http.client
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from artifacts import build_artifact
from served import Served, served, wait_until_ready

DESCRIPTORS = 256
# The machine of a test may be slow and busy; a service that is held up by another client takes seconds.
WATCHDOG_SECONDS = 2.0
# Two bodies of 15 MB at a time, of one that came and one that comes, beside what the first requests allocate once.
WARM_BYTES, FLAT_BYTES = 128 << 20, 64 << 20


pytestmark = pytest.mark.alone  # puts a service under load and measures its memory


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    build_artifact(folder / "models", label="stable")
    return folder / "models"


@contextmanager
def limited(store: Path, soft: int, hard: int) -> Iterator[tuple[Served, tuple[str, int]]]:
    """A service that may open so many files."""
    with served(store) as service:
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (soft, hard))  # long before it looks
        host, port = service.address().removeprefix("http://").split(":")
        with httpx.Client(base_url=f"http://{host}:{port}") as http:
            wait_until_ready(http)
        yield service, (host, int(port))


def resident_bytes(service: Served) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def live_seconds(address: tuple[str, int]) -> float:
    """Return how long a client of its own waited for `/livez`."""
    start = time.monotonic()
    client = http.client.HTTPConnection(*address, timeout=20)
    client.request("GET", "/livez")
    with client.getresponse() as response:
        assert response.status == 200
    client.close()
    return time.monotonic() - start


def headers_without_end(address: tuple[str, int], over: threading.Event) -> None:
    many = b"".join(b"X-%d: 1\r\n" % number for number in range(5000))
    while not over.is_set():
        with suppress(OSError), socket.create_connection(address, 5) as client:
            client.sendall(b"GET /livez HTTP/1.1\r\n")
            while not over.is_set():
                client.sendall(many)


def a_header_without_end(address: tuple[str, int], over: threading.Event) -> None:
    while not over.is_set():
        with suppress(OSError), socket.create_connection(address, 5) as client:
            client.sendall(b"GET /livez HTTP/1.1\r\nX: ")
            while not over.is_set():
                client.sendall(b"x" * 65536)


def silent_connections(address: tuple[str, int], over: threading.Event) -> None:
    with ExitStack() as stack:
        for _ in range(200):
            with suppress(OSError):
                stack.enter_context(socket.create_connection(address, 5))
        over.wait()


def answers_unread(address: tuple[str, int], over: threading.Event) -> None:
    """Ask for the largest file, many times, and read nothing."""
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(socket.create_connection(address, 5))
            with suppress(OSError):
                client.settimeout(0.1)
                client.sendall(b"GET /dashboard/static/plotly.min.js HTTP/1.1\r\nHost: x\r\n\r\n" * 90)
        over.wait()


def lists_of_nan(address: tuple[str, int], over: threading.Event) -> None:
    """Send 15 MB of values that are none, again and again."""
    body = b'{"instances":[' + b'{"tags":[NaN,NaN]},' * (15_000_000 // 19) + b"{}]}"
    while not over.is_set():
        client = http.client.HTTPConnection(*address, timeout=60)
        client.request("POST", "/v1/predict", body)
        with client.getresponse() as response:
            assert response.status in (400, 422)
        client.close()


@contextmanager
def attacked(address: tuple[str, int], *attacks: Callable[..., None]) -> Iterator[None]:
    over = threading.Event()
    threads = [threading.Thread(target=attack, args=(address, over)) for attack in attacks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_others_are_answered_and_memory_stays_while_clients_misbehave(store: Path) -> None:
    attacks = (headers_without_end, a_header_without_end, silent_connections, answers_unread, lists_of_nan)
    with limited(store, 1024, 1024) as (service, address):
        before = resident_bytes(service)
        with attacked(address, *attacks):
            time.sleep(2)  # until each has got going; the largest bodies are in memory
            seconds = [live_seconds(address) for _ in range(20)]
            halfway = resident_bytes(service)
            seconds += [live_seconds(address) for _ in range(20)]
            after = resident_bytes(service)
        print(f"slowest of 40: {max(seconds) * 1000:.0f} ms, {(after - before) / 1e6:.1f} MB more")
        assert max(seconds) < WATCHDOG_SECONDS
        assert after < before + WARM_BYTES
        assert after < halfway + FLAT_BYTES


def test_new_clients_get_in_when_others_hold_all_descriptors(store: Path) -> None:
    with limited(store, 64, DESCRIPTORS) as (service, address), ExitStack() as stack:
        limits = Path(f"/proc/{service.process.pid}/limits").read_text()
        assert f"Max open files            {DESCRIPTORS}" in limits  # the soft limit was raised
        for _ in range(3):
            for _ in range(DESCRIPTORS):
                stack.enter_context(socket.create_connection(address, 20))
            with httpx.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=20) as late:
                for _ in range(5):
                    assert late.get("/readyz").status_code == 200
                    body = {"instances": [{"ad": "a1"}]}
                    assert late.post("/v1/predict", json=body).status_code == 200
        assert service.process.poll() is None
        service.wait_for_line(r"(the limit of open files is reached)")
