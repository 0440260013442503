"""A served file is written to under `slimctr serve`: its version is taken out within seconds, and said."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from artifacts import build_artifact, raw_rows
from served import START_SECONDS, Served, served, wait_until_ready


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("damaged") / "models"
    build_artifact(root, label="stable")
    return root


@pytest.fixture(scope="module")
def service(store: Path) -> Iterator[Served]:
    with served(store, SLIMCTR_DRAIN_DELAY_S="0", SLIMCTR_LABEL_POLL_SECONDS="0.2") as service:
        yield service
        assert service.stop() == 0


@pytest.mark.parametrize("content", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:100]])
def test_damage_is_noticed_said_and_mended(
    store: Path, service: Served, content: Callable[[bytes], bytes]
) -> None:
    path = store / "ctr" / "1" / "tables.safetensors"
    path.chmod(0o644)
    data = path.read_bytes()
    with httpx.Client(base_url=service.address()) as client:
        wait_until_ready(client)
        path.write_bytes(content(data))
        deadline = time.monotonic() + START_SECONDS
        while (ready := client.get("/readyz")).status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "tables.safetensors" in ready.json()["detail"]
        answer = client.post("/v1/predict", json={"instances": raw_rows(1)})
        assert answer.status_code == 503
        assert "tables.safetensors" in answer.json()["detail"]
        [version] = client.get("/v1/models").json()["models"][0]["versions"]
        assert version["state"] == "unavailable"
        assert "tables.safetensors" in version["reason"]
        service.wait_for_line(r'"event":"(version taken out)".*tables.safetensors')
        assert client.get("/livez").status_code == 200
        path.write_bytes(data)
        wait_until_ready(client)
        assert client.post("/v1/predict", json={"instances": raw_rows(1)}).status_code == 200
