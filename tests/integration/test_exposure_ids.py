"""Outcomes find the answer they mean, whatever clients and proxies write into ids."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import yaml
from artifacts import build_artifact, raw_rows
from live_service import LiveService, live_service
from triton_http import triton_client

EXPERIMENT = {
    "key": "ids",
    "model": "ctr",
    "variants": [
        {"name": "float", "version": "stable", "weight": 0.5},
        {"name": "small", "version": "canary", "weight": 0.5},
    ],
    "default": "float",
    "coverage": 0.8,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("exposure-ids")
    build_artifact(folder / "models", label="stable", compressed=False)
    build_artifact(folder / "models", label="canary")
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT))
    with live_service(folder / "models", folder, experiment=path) as running:
        yield running


def ask(
    service: LiveService, unit: str | None, seed: int = 1, trace: str = "", **body: Any
) -> dict[str, Any]:
    headers = {"X-Request-ID": trace} if trace else {}
    more = {} if unit is None else {"unit_id": unit}
    response = service.http.post(
        "/v1/predict", json={"instances": raw_rows(2, seed=seed), **more, **body}, headers=headers
    )
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def click(service: LiveService, request_id: str, index: int = 0) -> dict[str, int]:
    """Report a click and return the statuses that were counted."""
    item = {
        "outcome_id": f"{request_id}/{index}/{time.monotonic_ns()}",
        "request_id": request_id,
        "index": index,
        "clicked": 1,
        "occurred_at": time.time(),
    }
    response = service.http.post("/v1/outcomes", json={"outcomes": [item]})
    assert response.status_code == 200, response.text
    return {status: count for status, count in response.json().items() if count}


def units(service: LiveService, variant: str, reason: str = "hash") -> Iterator[str]:
    """Units of a variant, none of them twice."""
    for number in range(10_000):
        found = service.http.get("/v1/experiments/ids/assignment", params={"unit_id": f"u{number}"}).json()
        if (found["variant"], found["reason"]) == (variant, reason):
            yield f"u{number}"


def test_the_name_in_the_answer_finds_it_whoever_gave_it(service: LiveService) -> None:
    unit = next(units(service, "small"))
    assert ask(service, unit, request_id="from-body", trace="of-nginx")["request_id"] == "from-body"
    assert click(service, "from-body") == {"joined": 1}
    for trace in ("", "page-view", "page-view", "odd / id"):
        assert click(service, ask(service, unit, trace=trace)["request_id"]) == {"joined": 1}
    assert click(service, "page-view") == {"orphan": 1}


@pytest.mark.parametrize(("given", "kept"), [("triton-1", True), ("id / with spaces", False), ("", False)])
def test_the_id_of_the_protocol_names_the_exposure(service: LiveService, given: str, kept: bool) -> None:
    tensors = {
        "sparse_ids": np.ones((2, 4), np.int64),
        "tags.values": np.ones(2, np.int64),
        "tags.offsets": np.arange(3),
    }
    inputs = []
    for name, values in tensors.items():
        inputs.append(triton.InferInput(name, list(values.shape), "INT64"))
        inputs[-1].set_data_from_numpy(values)
    unit = next(units(service, "float"))
    with triton_client(service.host, service.port) as client:
        answer = client.infer(
            "ctr", inputs, request_id=given, parameters={"unit_id": unit}, headers={"X-Request-ID": "trace"}
        ).get_response()
    name = answer["parameters"]["request_id"]
    assert (name == given) is kept
    assert name != "trace"
    assert answer.get("id", "") == given
    assert click(service, name) == {"joined": 1}
