"""Outcomes find the answer they mean, whatever clients and proxies write into ids."""

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


def repeats(service: LiveService, result: str) -> float:
    service.call(service.app.state.experiments.flush())
    line = f'slimctr_exposure_repeats_total{{experiment="ids",result="{result}"}} '
    found = [row for row in service.http.get("/metrics").text.splitlines() if row.startswith(line)]
    return float(found[0].removeprefix(line)) if found else 0.0


def test_a_repeat_is_one_exposure_in_whatever_form_it_comes(service: LiveService) -> None:
    unit, before = next(units(service, "small")), repeats(service, "repeat")
    rows = raw_rows(2, seed=8)
    columns = {
        name: [row.get(name) for row in rows] for name in sorted({name for row in rows for name in row})
    }
    first = service.predict(request_id="retried", unit_id=unit, instances=rows)
    again = service.predict(request_id="retried", unit_id=unit, columns=columns, include=["logits"])
    assert again["scores"] == first["scores"]
    assert repeats(service, "repeat") == before + 1
    assert click(service, "retried") == {"joined": 1}
    assert click(service, "retried", 1) == {"joined": 1}


OTHERS = ("another unit", "other rows", "fewer rows", "other variant", "not in the test", "no unit", "pinned")


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("reported", ["before", "after"])
def test_a_click_joins_nothing_when_its_id_has_two_answers(
    service: LiveService, other: str, reported: str
) -> None:
    name = f"{other.replace(' ', '-')}-{reported}"
    first, second = (found for found, _ in zip(units(service, "small"), range(2), strict=False))
    unit: str | None = first
    more: dict[str, Any] = {}
    if other == "another unit":
        unit = second
    elif other == "other rows":
        more["seed"] = 2
    elif other == "fewer rows":
        more["instances"] = raw_rows(2, seed=1)[:1]
    elif other == "other variant":
        unit = next(units(service, "float"))
    elif other == "not in the test":
        unit = next(units(service, "float", "not_covered"))
    elif other == "no unit":
        unit = None
    else:
        more["version"] = "1"
    before = repeats(service, "ambiguous")
    ask(service, first, request_id=name)
    if reported == "before":
        assert click(service, name) == {"joined": 1}
    ask(service, unit, request_id=name, **more)
    assert repeats(service, "ambiguous") == before + 1
    assert click(service, name, 1) == {"ambiguous": 1}


def test_the_first_answer_may_be_the_one_outside_the_test(service: LiveService) -> None:
    unit = next(units(service, "small"))
    ask(service, None, request_id="outside-first")
    assert click(service, "outside-first") == {"orphan": 1}
    ask(service, unit, request_id="outside-first")
    assert click(service, "outside-first") == {"ambiguous": 1}


def test_a_second_answer_may_come_from_another_process(service: LiveService, tmp_path: Path) -> None:
    unit = next(units(service, "small"))
    settings = service.app.state.settings
    with live_service(
        settings.store, tmp_path, experiment=settings.experiment, state_url=settings.state_url
    ) as other:
        ask(service, unit, request_id="two-workers")
        assert click(service, "two-workers") == {"joined": 1}
        ask(other, unit, seed=2, request_id="two-workers")
    # The other process has ended, and wrote what it had.
    assert click(service, "two-workers", 1) == {"ambiguous": 1}
