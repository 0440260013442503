"""`slimctr serve` as a process of its own: start, refusals, drain, workers, and what it does not load."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from artifacts import build_artifact, raw_rows

from slimctr.native.network import runs_here

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


@pytest.fixture
def store(tmp_path: Path) -> Path:
    build_artifact(tmp_path / "models", label="stable")
    return tmp_path / "models"


def test_a_scoring_process_has_no_torch_and_ends_with_status_0(store: Path) -> None:
    with served(store, SLIMCTR_DRAIN_DELAY_S="0") as service:
        with httpx.Client(base_url=service.address()) as client:
            wait_until_ready(client)
            assert len(client.post("/v1/predict", json={"instances": raw_rows(3)}).json()["scores"]) == 3
        mapped = Path(f"/proc/{service.process.pid}/maps").read_text()
        assert ("onnxruntime" in mapped) is not runs_here()
        for absent in ("libtorch", "pyarrow"):
            assert absent not in mapped
        assert service.stop() == 0


@pytest.mark.promise(13)
def test_sigterm_drains_without_a_failed_request(store: Path) -> None:
    """Clients behave like those of a load balancer: once ready says 503 they finish and go elsewhere."""
    failures: list[str] = []
    answered_while_draining = threading.Event()
    with served(store, SLIMCTR_DRAIN_DELAY_S="3") as service:
        url = service.address()
        with httpx.Client(base_url=url) as client:
            wait_until_ready(client)

        def send(number: int) -> None:
            with httpx.Client(base_url=url, timeout=20) as client:
                draining_answers = 0
                while draining_answers < 5 and not failures:
                    try:
                        response = client.post("/v1/predict", json={"instances": raw_rows(1 + number)})
                        if response.status_code != 200:
                            failures.append(response.text)
                        elif response.headers.get("connection") == "close":
                            draining_answers += 1
                            answered_while_draining.set()
                    except httpx.HTTPError as error:
                        failures.append(repr(error))

        threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        service.process.send_signal(signal.SIGTERM)
        assert answered_while_draining.wait(20)
        with httpx.Client(base_url=url) as client:
            ready = client.get("/readyz")
            assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
            assert "draining" in ready.json()["detail"]
            assert client.get("/livez").status_code == 200
        for thread in threads:
            thread.join(30)
        assert failures == []
        assert service.stop(signal.SIGCONT) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


def test_ctrl_c_stops_without_the_drain_delay(store: Path) -> None:
    with served(store, SLIMCTR_DRAIN_DELAY_S="25") as service:
        service.address()
        begin = time.monotonic()
        assert service.stop(signal.SIGINT) == 0
        assert time.monotonic() - begin < 20


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


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_experiment_that_does_not_fit_the_store_ends_the_start(
    store: Path, tmp_path: Path, workers: str
) -> None:
    variants = [{"name": "a", "version": "stable", "weight": 0.5}, {"name": "b", "version": 7, "weight": 0.5}]
    document = {"key": "k", "model": "ctr", "variants": variants, "default": "a"}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(document))
    arguments = ["--experiment", str(tmp_path / "experiment.yaml"), "--workers", workers]
    with served(store, *arguments) as service:
        assert service.process.wait(START_SECONDS) == 2
        service.stop()
        assert service.log[-1].startswith("error: ")
        assert "has no version 7" in service.log[-1]
        assert "Traceback" not in "".join(service.log)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_ends_the_start(store: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with served(store, "--port", str(port), "--workers", workers) as service:
            assert service.process.wait(START_SECONDS) == 2
            service.stop()
            assert service.log[-1].startswith(f"error: cannot listen on 127.0.0.1, port {port}: ")
