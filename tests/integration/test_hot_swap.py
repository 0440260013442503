"""New versions arrive while clients send: none of them notices more than other scores."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from artifacts import build_artifact, raw_rows
from live_service import LiveService, live_service

from model_store.store import ModelStore

pytestmark = pytest.mark.alone  # no request may fail under load

CLIENTS = 8


class Traffic:
    """Clients that send until told to stop; every answer that is not 200 is a failure."""

    def __init__(self, url: str) -> None:
        self.failures: list[str] = []
        self.versions: set[str] = set()
        self.answers = 0
        self._url = url
        self._stop = threading.Event()
        self._seen = threading.Condition()
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, version: str, answers: int = 50) -> None:
        """Return when `version` has answered and that many answers came after it."""
        with self._seen:
            assert self._seen.wait_for(lambda: version in self.versions or bool(self.failures), 30)
            goal = self.answers + answers
            assert self._seen.wait_for(lambda: self.answers >= goal or bool(self.failures), 30)

    def _send(self, number: int) -> None:
        body = {"instances": raw_rows(1 + number, seed=number)}
        with httpx.Client(base_url=self._url, timeout=20) as client:
            while not self._stop.is_set():
                try:
                    response = client.post("/v1/predict", json=body)
                    failure = None if response.status_code == 200 else response.text
                except httpx.HTTPError as error:
                    failure = repr(error)
                with self._seen:
                    if failure is None:
                        self.versions.add(response.json()["version"])
                        self.answers += 1
                    else:
                        self.failures.append(failure)
                        self._stop.set()
                    self._seen.notify_all()


@contextmanager
def traffic(service: LiveService) -> Iterator[Traffic]:
    sending = Traffic(str(service.http.base_url))
    sending.start()
    try:
        yield sending
    finally:
        sending.stop()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    build_artifact(tmp_path / "models", label="stable")
    return tmp_path / "models"


@pytest.mark.promise(13)
def test_versions_change_under_load_without_a_failed_request(store: Path, tmp_path: Path) -> None:
    with live_service(store, tmp_path) as service, traffic(service) as clients:
        clients.wait_for("1")
        for seed in range(1, 4):
            build_artifact(store, label="stable", compressed=seed % 2 == 0, seed=seed)
            clients.wait_for(str(seed + 1))
        ModelStore(store).set_label("ctr", "stable", 1)
        clients.versions.clear()
        clients.wait_for("1")
        service.settle()
        assert [version.number for version in service.pool.known_versions("ctr")] == [1]
    assert clients.failures == []


@pytest.mark.promise(13)
def test_an_altered_version_is_refused_under_load_and_the_old_one_goes_on(
    store: Path, tmp_path: Path
) -> None:
    altered = build_artifact(store, seed=1) / "tables.safetensors"
    altered.chmod(0o644)
    altered.write_bytes(altered.read_bytes()[:-1] + b"\x00\x01")
    with live_service(store, tmp_path) as service, traffic(service) as clients:
        clients.wait_for("1")
        ModelStore(store).set_label("ctr", "stable", 2)
        service.settle()
        clients.wait_for("1", answers=100)
        states = {entry["version"]: entry for entry in service.http.post("/v2/repository/index").json()}
        assert states["1"]["state"] == "READY"
        assert states["2"]["state"] == "UNAVAILABLE"
        assert "tables.safetensors" in states["2"]["reason"]
        assert service.http.get("/readyz").status_code == 200
    assert clients.failures == []
    assert clients.versions == {"1"}
