"""A live service over a small real model with an experiment and a shadow, for tests that look at it from outside."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from artifacts import build_artifact, raw_rows

from service.app import create_app
from service.server import build_server
from service.settings import Settings

READY_SECONDS = 60.0


@dataclass(frozen=True)
class LiveService:
    """Where the service listens, and the store it serves from."""

    url: str
    store: Path


@contextmanager
def telemetry_service(folder: Path, **settings: Any) -> Iterator[LiveService]:
    """Serve the float and the compressed version of one model, half of the units each, until the block ends."""
    store = folder / "models"
    build_artifact(store, label="stable", compressed=False)
    build_artifact(store, label="canary", compressed=True)
    experiment = folder / "experiment.yaml"
    variants = [{"name": name, "version": name, "weight": 0.5} for name in ("stable", "canary")]
    document = {"key": "stable-against-canary", "model": "ctr", "default": "stable", "variants": variants}
    experiment.write_text(yaml.safe_dump({**document, "shadow": {"variant": "canary", "percent": 50}}))
    chosen: dict[str, Any] = {
        "store": store,
        "experiment": experiment,
        "state_url": f"sqlite:///{folder}/state.sqlite3",
        "port": 0,
        "insecure": True,
        "drain_delay_s": 0,
        "log_level": "warning",
    }
    server = build_server(app := create_app(config := Settings(**{**chosen, **settings})), config)
    thread = threading.Thread(target=server.run, name="service")
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, thread)
        yield LiveService(url, store)
    finally:
        app.state.lifecycle.draining = True
        server.should_exit = True
        thread.join()


def wait_until_ready(url: str, thread: threading.Thread) -> None:
    """Return when `/readyz` answers 200."""
    for _ in range(int(READY_SECONDS / 0.05)):
        answer = httpx.get(f"{url}/readyz")
        if answer.status_code == 200:
            return
        thread.join(0.05)
    raise AssertionError(f"the service did not become ready: {answer.text}")


def send_traffic(
    url: str, requests: int, rows_per_request: int = 4, headers: dict[str, str] | None = None
) -> None:
    """Score rows for `requests` different units and report all of them as clicks or no-clicks."""
    with httpx.Client(base_url=url, headers=headers) as client:
        outcomes = []
        for number in range(requests):
            body = {"unit_id": f"unit-{number}", "instances": raw_rows(rows_per_request, seed=number)}
            answer = client.post("/v1/predict", json=body)
            assert answer.status_code == 200, answer.text
            request_id = answer.json()["request_id"]
            outcomes += [
                {
                    "outcome_id": f"{request_id}-{index}",
                    "request_id": request_id,
                    "index": index,
                    "clicked": int((number + index) % 3 == 0),
                    "occurred_at": time.time(),
                }
                for index in range(rows_per_request)
            ]
        joined = client.post("/v1/outcomes", json={"outcomes": outcomes})
        assert joined.json()["joined"] == len(outcomes), joined.text
