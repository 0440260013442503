"""The service answers others, and its memory stays, while clients do what no client should."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from artifacts import build_artifact
from served import Served, served, wait_until_ready

from benchmarks.hostile_clients import ATTACKS, measure

DESCRIPTORS = 256
# The machine of a test may be slow and busy; a service that is held up by another client takes seconds.
WATCHDOG_SECONDS = 2.0
# A body of 15 MB is there in packets and as a whole for a moment, while the next one comes: 45 MB more or less.
WARM_BYTES, FLAT_BYTES = 96 << 20, 64 << 20


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


def test_others_are_answered_and_memory_stays_while_clients_misbehave(store: Path) -> None:
    with limited(store, 1024, 1024) as (service, address):
        seconds, (before, halfway, after) = measure(address, lambda: resident_bytes(service), ATTACKS)
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
