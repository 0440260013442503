"""A live service over a small real model with an experiment and a shadow, and traffic for it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from artifacts import build_artifact, raw_rows
from live_service import live_service


@contextmanager
def telemetry_service(folder: Path, **settings: Any) -> Iterator[str]:
    """Serve the float and the compressed version of one model, half of the units each; yields the address."""
    store = folder / "models"
    build_artifact(store, label="stable", compressed=False)
    build_artifact(store, label="canary", compressed=True)
    variants = [{"name": name, "version": name, "weight": 0.5} for name in ("stable", "canary")]
    document = {"key": "stable-against-canary", "model": "ctr", "default": "stable", "variants": variants}
    experiment = folder / "experiment.yaml"
    experiment.write_text(yaml.safe_dump({**document, "shadow": {"variant": "canary", "percent": 50}}))
    with live_service(store, folder, experiment=experiment, **settings) as service:
        yield f"http://{service.host}:{service.port}"


def send_traffic(url: str, requests: int, rows_per_request: int) -> None:
    """Score rows for `requests` different units and report all of them as clicks or no-clicks."""
    with httpx.Client(base_url=url) as client:
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
