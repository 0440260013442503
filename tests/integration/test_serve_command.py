"""`slimctr serve` as a process of its own: start, refusals, drain, and what it does not load."""

import re
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest
import yaml
from artifacts import build_artifact, raw_rows
from served import START_SECONDS, served, wait_until_ready

from slimctr.native.network import runs_here


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
@pytest.mark.alone
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
def test_a_store_that_is_not_there_ends_the_start(tmp_path: Path, workers: str) -> None:
    with served(tmp_path / "nope", "--workers", workers) as service:
        assert service.process.wait(START_SECONDS) == 2
        service.stop()
        assert re.match(r"error: the model store '.*/nope' cannot be used: No such file", service.log[-1])


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///{folder}",
        "sqlite:///{folder}/file/x",
        "redis://127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?nonsense=1",
    ],
)
def test_a_state_that_cannot_be_used_ends_the_start_of_an_experiment(
    store: Path, tmp_path: Path, url: str
) -> None:
    (tmp_path / "file").touch()
    variant = {"name": "a", "version": "stable", "weight": 1}
    document = {"key": "k", "model": "ctr", "variants": [variant], "default": "a"}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(document))
    arguments = ["--experiment", str(tmp_path / "experiment.yaml")]
    with served(store, *arguments, SLIMCTR_STATE_URL=url.format(folder=tmp_path)) as service:
        assert service.process.wait(START_SECONDS) == 2
        service.stop()
        assert service.log[-1].startswith("error: ")
        assert "state" in service.log[-1] or "folder" in service.log[-1]
        assert "Traceback" not in "".join(service.log)


def test_an_empty_folder_serves_what_is_published_later(tmp_path: Path) -> None:
    store = tmp_path / "models"
    store.mkdir()
    with served(store, SLIMCTR_DRAIN_DELAY_S="0", SLIMCTR_LABEL_POLL_SECONDS="0.1") as service:
        with httpx.Client(base_url=service.address()) as client:
            assert "has a required label" in client.get("/readyz").json()["detail"]
            build_artifact(store, label="stable")
            wait_until_ready(client)
            assert len(client.post("/v1/predict", json={"instances": raw_rows(3)}).json()["scores"]) == 3
        assert service.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_ends_the_start(store: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with served(store, "--port", str(port), "--workers", workers) as service:
            assert service.process.wait(START_SECONDS) == 2
            service.stop()
            assert service.log[-1].startswith(f"error: cannot listen on 127.0.0.1, port {port}: ")
