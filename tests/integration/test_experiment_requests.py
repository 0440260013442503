"""A running experiment seen from outside: one variant per request, the same in every answer and in the estimates."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import yaml
from artifacts import build_artifact, raw_rows
from live_service import LiveService, live_service
from triton_http import triton_client


def experiment_file(folder: Path, **changes: Any) -> Path:
    variants = [
        {"name": name, "version": label, "weight": 0.5}
        for name, label in (("float", "stable"), ("small", "canary"))
    ]
    document = {"key": "float-small", "model": "ctr", "variants": variants, "default": "float", **changes}
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def service(tmp_path: Path) -> Iterator[LiveService]:
    store = tmp_path / "models"
    build_artifact(store, label="stable", compressed=False)
    build_artifact(store, label="canary")
    with live_service(store, tmp_path, experiment=experiment_file(tmp_path)) as running:
        yield running


@pytest.mark.promise(12)
def test_one_variant_per_request_everywhere(service: LiveService) -> None:
    rows = raw_rows(4)
    expected = {
        name: service.predict(instances=rows, version=v)["scores"]
        for name, v in (("float", "1"), ("small", "2"))
    }
    outcomes = []
    seen = set()
    for number in range(40):
        unit = f"u{number}"
        answer = service.predict(instances=rows, unit_id=unit)
        explained = service.http.get(
            "/v1/experiments/float-small/assignment", params={"unit_id": unit}
        ).json()
        assert answer["experiment"] == {"key": "float-small", "revision": 1, "reason": "hash"}
        assert (answer["variant"], answer["version"]) == (explained["variant"], explained["version"])
        assert answer["scores"] == expected[answer["variant"]]
        seen.add(answer["variant"])
        outcomes += [
            {
                "outcome_id": f"{number}-{index}",
                "request_id": answer["request_id"],
                "index": index,
                "clicked": int(index == number % 4),
                "occurred_at": time.time(),
            }
            for index in range(4)
        ]
    assert seen == {"float", "small"}
    report = service.http.post("/v1/outcomes", json={"outcomes": outcomes}).json()
    assert (report["joined"], report["orphan"], report["errors"]) == (160, 0, [])
    results = service.http.get("/v1/experiments/float-small/results")
    assert results.status_code == 200
    metrics = service.http.get("/metrics").text
    exposed = [line for line in metrics.splitlines() if line.startswith("slimctr_exposures_total{")]
    assert sum(float(line.rpartition(" ")[2]) for line in exposed) == 40


def test_requests_outside_the_experiment_say_why(service: LiveService) -> None:
    rows = raw_rows(1)
    assert service.predict(instances=rows)["experiment"]["reason"] == "no_unit"
    pinned = service.predict(instances=rows, label="canary", unit_id="u1")
    assert (pinned["variant"], pinned["experiment"]["reason"]) == ("canary", "pinned")


def test_the_protocol_takes_the_unit_as_a_parameter(service: LiveService) -> None:
    ids = np.ones((2, 4), np.int64)
    tensors = {"sparse_ids": ids, "tags.values": np.ones(2, np.int64), "tags.offsets": np.arange(3)}
    inputs = []
    for name, values in tensors.items():
        inputs.append(triton.InferInput(name, list(values.shape), "INT64"))
        inputs[-1].set_data_from_numpy(values)
    with triton_client(service.host, service.port) as client:
        for number in range(10):
            unit = f"u{number}"
            parameters = client.infer("ctr", inputs, parameters={"unit_id": unit}).get_response()[
                "parameters"
            ]
            expected = service.predict(instances=raw_rows(1), unit_id=unit)
            assert parameters["variant"] == expected["variant"]
            assert parameters["experiment"] == "float-small"
            assert parameters["assignment_reason"] == "hash"


def test_a_candidate_that_failed_its_gates_is_answered_by_the_default(tmp_path: Path) -> None:
    store = tmp_path / "models"
    build_artifact(store, label="stable", compressed=False)
    network = build_artifact(store, label="canary") / "network.onnx"
    network.chmod(0o644)
    network.write_bytes(network.read_bytes()[:-1])
    with live_service(store, tmp_path, experiment=experiment_file(tmp_path)) as service:
        assert service.http.get("/readyz").status_code == 200
        answers = [service.predict(instances=raw_rows(1), unit_id=f"u{number}") for number in range(20)]
    assert {answer["version"] for answer in answers} == {"1"}
    assert {(answer["variant"], answer["experiment"]["reason"]) for answer in answers} == {
        ("float", "hash"),
        ("small", "fallback"),
    }
