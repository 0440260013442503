"""One of two workers is killed again and again under load: nobody is told that a model is missing or not ready."""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from artifacts import build_artifact, raw_rows
from served import START_SECONDS, Served, served, wait_until_ready

from service import supervise

pytestmark = pytest.mark.alone  # a service under load, whose clients may not time out

KILLS = 4
THREADS = 4
# Between the requests of a thread: the replacement needs the cores, too.
PAUSE_S = 0.01
REQUEST = json.dumps({"instances": raw_rows(2)})


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Served]:
    build_artifact(tmp_path / "models", label="stable")
    with served(tmp_path / "models", "--workers", "2", SLIMCTR_DRAIN_DELAY_S="0") as service:
        with httpx.Client(base_url=service.address()) as client:
            wait_until_ready(client)
        wait_for(lambda: supervise.__file__ in command_of(service.process.pid))
        yield service
        assert service.stop() == 0


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def workers_of(service: Served) -> list[int]:
    pid = service.process.pid
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def serves(pid: int, port: int) -> bool:
    """Return whether a process has answered something: it holds an established connection to the port."""
    held = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    fields = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return any(
        field[1].endswith(f":{port:04X}") and field[3] == "01" and f"socket:[{field[9]}]" in held
        for field in fields
    )


class Load:
    """Threads that post rows without end, each second one over connections that it opens anew for each request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(place % 2 == 0,)) for place in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, keeps: bool) -> None:
        client = httpx.Client(timeout=START_SECONDS)
        while not self._ending.wait(PAUSE_S):
            try:
                answer = str(client.post(f"{self.url}/v1/predict", content=REQUEST).status_code)
            except httpx.TransportError as error:
                answer = type(error).__name__
            with self._lock:
                self.answers[answer] += 1
            if not keeps:
                client.close()
                client = httpx.Client(timeout=START_SECONDS)
        client.close()

    def answered(self) -> int:
        with self._lock:
            return self.answers["200"]

    def stop(self) -> Counter[str]:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        return self.answers


def test_kills_cost_only_what_was_in_flight_on_the_killed_worker(service: Served) -> None:
    load = Load(service.address())
    port = httpx.URL(load.url).port
    assert port is not None
    try:
        for _ in range(KILLS):
            before = workers_of(service)
            victim = before[0]
            os.kill(victim, signal.SIGKILL)
            wait_for(
                lambda victim=victim: victim not in workers_of(service) and len(workers_of(service)) == 2
            )
            (new,) = set(workers_of(service)) - set(before)
            wait_for(lambda new=new: serves(new, port))
            answered = load.answered()
            wait_for(lambda answered=answered: load.answered() > answered + 20)
    finally:
        answers = load.stop()
    failures = {answer: count for answer, count in answers.items() if answer != "200"}
    # resets and closed connections, which a client sees of a request that the dead worker had taken
    assert failures.keys() <= {"ReadError", "WriteError", "RemoteProtocolError"}, answers
    assert sum(failures.values()) <= KILLS * THREADS, answers


def test_new_connections_go_to_the_living_until_a_replacement_serves(service: Served, tmp_path: Path) -> None:
    """While the store is away a replacement has no labels: it waits, and the other worker answers everything."""
    url = httpx.URL(service.address())
    (tmp_path / "models").rename(tmp_path / "unmounted")
    before = workers_of(service)
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: before[0] not in workers_of(service) and len(workers_of(service)) == 2)
    (new,) = set(workers_of(service)) - set(before)
    wait_for(lambda: "service.worker" in command_of(new))
    for _ in range(40):
        answer = httpx.post(f"{url}/v1/predict", content=REQUEST, timeout=START_SECONDS)
        assert answer.status_code == 200
    assert not serves(new, url.port or 0)
    (tmp_path / "unmounted").rename(tmp_path / "models")

    def takes_connections() -> bool:
        with socket.create_connection((url.host, url.port), START_SECONDS) as connection:
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: slimctr\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            return serves(new, url.port or 0)

    wait_for(takes_connections)


def test_a_replacement_that_cannot_open_a_model_still_answers(service: Served, tmp_path: Path) -> None:
    """With what it knows: the version is not ready, and why."""
    tables = next((tmp_path / "models").rglob("tables.safetensors"))
    tables.rename(tables.with_name("elsewhere"))
    for worker in workers_of(service):
        os.kill(worker, signal.SIGKILL)
    answer = httpx.post(f"{service.address()}/v1/predict", content=REQUEST, timeout=START_SECONDS)
    assert answer.status_code == 503
    assert "tables.safetensors" in answer.json()["detail"]
    assert httpx.get(f"{service.address()}/livez", timeout=START_SECONDS).status_code == 200
