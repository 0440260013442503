"""An experiment through the whole service: real artifacts, real state, requests and outcomes over HTTP."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from artifacts import build_artifact, raw_rows
from live_service import LiveService, live_service
from redis_server import redis_server
from rounding import SUMS64, gamma

from service.app import create_app
from service.experiments import assignment
from service.settings import Settings
from slimctr import quality
from slimctr.errors import ConfigError
from slimctr.scoring import Scorer

EXPERIMENT: dict[str, Any] = {
    "key": "ctr-small",
    "model": "ctr",
    "variants": [
        {"name": "original", "version": 1, "weight": 0.5},
        {"name": "small", "version": "canary", "weight": 0.5},
    ],
    "default": "original",
    "shadow": {"variant": "small", "percent": 100},
}

Start = Callable[..., LiveService]


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    build_artifact(root, label="stable", compressed=False)
    build_artifact(root, label="canary")
    return root


@pytest.fixture
def service(store: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts the service, as often as asked, on one store and one state; all stop at the end."""
    with ExitStack() as running:

        def start(
            experiment: dict[str, Any] | None = EXPERIMENT, state_url: str | None = None
        ) -> LiveService:
            settings = {} if experiment is None else {"experiment": written(tmp_path, experiment)}
            url = state_url or f"sqlite:///{tmp_path / 'state.sqlite3'}"
            return running.enter_context(live_service(store, tmp_path, state_url=url, **settings))

        yield start


def written(directory: Path, experiment: dict[str, Any]) -> Path:
    path = directory / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return path


def predict(client: LiveService, unit: str | None, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    body = {"instances": rows, "include": ["logits"], **more} | (
        {"unit_id": unit} if unit is not None else {}
    )
    response = client.http.post("/v1/predict", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def outcome(answer: dict[str, Any], index: int, clicked: int, at: float) -> dict[str, Any]:
    request_id = answer["request_id"]
    return {
        "outcome_id": f"{request_id}/{index}",
        "request_id": request_id,
        "index": index,
        "clicked": clicked,
        "occurred_at": at,
    }


def report(client: LiveService, *items: dict[str, Any]) -> dict[str, Any]:
    response = client.http.post("/v1/outcomes", json={"outcomes": list(items)})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_traffic_outcomes_and_estimates_agree_to_the_last_row(service: Start, store: Path) -> None:
    check_traffic(service(), store)


def test_a_repeat_of_an_outcome_without_an_id_is_a_duplicate(service: Start) -> None:
    client = service()
    answer = predict(client, "u1", raw_rows(2))
    row = {"request_id": answer["request_id"], "index": 1, "occurred_at": time.time()}
    steps = [
        (row | {"clicked": 0}, "joined"),
        (row | {"clicked": 0}, "duplicate"),
        (row | {"clicked": 1}, "conflict"),
        (row | {"clicked": 1, "restate": True}, "restated"),
        (row | {"clicked": 1, "restate": True}, "duplicate"),
        (row | {"clicked": 1}, "duplicate"),
        (row | {"clicked": 1, "outcome_id": f"{answer['request_id']}/1"}, "duplicate"),
        (row | {"index": 0, "clicked": 1}, "joined"),
    ]
    for item, status in steps:
        assert report(client, item)[status] == 1, (item, status)
    early = {"request_id": "not-yet", "index": 0, "clicked": 1, "occurred_at": time.time()}
    assert [report(client, early)[status] for status in ("orphan", "duplicate")] == [1, 1]


def test_the_same_with_redis(service: Start, store: Path, redis_url: str) -> None:
    check_traffic(service(state_url=redis_url), store)


def check_traffic(client: LiveService, store: Path) -> None:
    """Score 60 units, report every label at once, and recompute every estimate from the answers."""
    rng = np.random.default_rng(3)
    labels: dict[str, list[int]] = {"original": [], "small": []}
    logits: dict[str, list[float]] = {"original": [], "small": []}
    shadowed: list[tuple[list[dict[str, Any]], list[int]]] = []
    items = []
    for unit in range(60):
        rows = raw_rows(5, seed=unit)
        answer = predict(client, f"u{unit}", rows)
        expected = assignment.choose(assignment.bucket("ctr-small", f"u{unit}"), [(0.0, 0.5), (0.5, 1.0)])
        assert answer["variant"] == ("original", "small")[expected or 0]
        assert answer["experiment"] == {"key": "ctr-small", "revision": 1, "reason": "hash"}
        clicked = [int(value) for value in rng.random(5) < 0.3]
        labels[answer["variant"]] += clicked
        logits[answer["variant"]] += answer["logits"]
        if answer["variant"] == "original":
            shadowed.append((rows, clicked))
        items += [outcome(answer, index, value, time.time()) for index, value in enumerate(clicked)]
    # Exposures of the last milliseconds are not written yet; the join must not depend on that.
    answer = report(client, *items)
    assert answer == {
        **{"joined": 300, "duplicate": 0, "late": 0, "orphan": 0, "conflict": 0, "restated": 0, "refused": 0},
        **{"ambiguous": 0, "errors": []},
    }
    assert report(client, *items)["duplicate"] == 300

    shadow = client.app.state.experiments._shadow
    assert shadow.wait_until_idle(20)
    client.call(client.app.state.experiments.flush())
    results = fresh_results(client)
    for variant in ("original", "small"):
        shown = results["windows"]["15m"]["variants"][variant]
        exact = quality.summary(labels[variant], np.float32(logits[variant]))
        assert (shown["rows"], shown["clicks"]) == (exact["rows"], exact["clicks"])
        for name in ("logloss", "ne", "calibration"):
            assert shown[name] == pytest.approx(exact[name], rel=SUMS64)
        assert shown["auc"] == pytest.approx(exact["auc"], abs=shown["auc_error_bound"] + SUMS64)

    paired = results["windows"]["15m"]["shadow"]["paired"]
    versions = [Scorer.open(store / "ctr" / number) for number in ("1", "2")]
    difference = np.concatenate(
        [
            quality.row_losses(clicked, versions[1].logits(versions[1].encoder.encode_rows(rows)))
            - quality.row_losses(clicked, versions[0].logits(versions[0].encoder.encode_rows(rows)))
            for rows, clicked in shadowed
        ]
    )
    for scorer in versions:
        scorer.close()
    assert paired["rows"] == len(difference)
    # a loss is off by no more than its logit, which either engine may round by 32 units of its last place
    off = 2 * gamma(64) * 8
    assert paired["logloss_diff"] == pytest.approx(difference.mean(), abs=off)
    assert paired["standard_error"] == pytest.approx(
        difference.std(ddof=1) / len(difference) ** 0.5, abs=off + gamma(8)
    )

    text = client.http.get("/metrics").text
    assert 'slimctr_outcomes_total{experiment="ctr-small",status="joined"} 300.0' in text
    assert 'slimctr_eval_rows{model="ctr",variant="small",window="15m"}' in text
    assert f'slimctr_shadow_scored_total{{experiment="ctr-small"}} {float(len(shadowed))}' in text


def fresh_results(client: LiveService) -> dict[str, Any]:
    """Read results that no earlier reader within the same second has cached."""
    client.app.state.experiments._results = None
    response = client.http.get("/v1/experiments/ctr-small/results")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_two_workers_share_the_state(service: Start) -> None:
    one, other = service(), service()
    items = []
    for unit in range(40):
        answer = predict(one, f"u{unit}", raw_rows(2, seed=unit))
        # The exposure may still wait in the other worker: then the outcome waits for it.
        items.append(outcome(answer, 0, 1, time.time()))
        found = report(other, outcome(answer, 0, 1, time.time()))
        assert found["joined"] + found["orphan"] == 1
    one.call(one.app.state.experiments.flush())
    assert report(other, *items)["duplicate"] == 40
    items = [{**item, "index": 1, "clicked": 0, "outcome_id": item["outcome_id"] + "b"} for item in items]
    assert report(other, *items)["joined"] == 40
    variants = fresh_results(other)["windows"]["all"]["variants"].values()
    assert [sum(shown[name] for shown in variants) for name in ("rows", "clicks")] == [80, 40]


def test_a_restart_keeps_what_was_reported_and_the_bound_versions(service: Start) -> None:
    first = service()
    answer = predict(first, "u1", raw_rows(2))
    assert report(first, outcome(answer, 0, 1, time.time()))["joined"] == 1
    second = service()
    assert report(second, outcome(answer, 0, 1, time.time()))["duplicate"] == 1


def test_a_changed_experiment_under_its_old_key_refuses_the_start(
    service: Start, store: Path, tmp_path: Path
) -> None:
    service()
    weights = [
        {**variant, "weight": weight}
        for variant, weight in zip(EXPERIMENT["variants"], (0.9, 0.1), strict=True)
    ]
    application = create_app(
        Settings(
            store=store,
            experiment=written(tmp_path, {**EXPERIMENT, "variants": weights}),
            state_url=f"sqlite:///{tmp_path / 'state.sqlite3'}",
            insecure=True,
        )
    )

    async def start() -> None:
        async with application.router.lifespan_context(application):
            pass

    with pytest.raises(ConfigError, match="already run with another value of: variants"):
        asyncio.run(start())


def test_requests_without_a_unit_get_the_default_and_are_not_exposed(service: Start) -> None:
    client = service({**EXPERIMENT, "shadow": None})
    answer = predict(client, None, raw_rows(1))
    assert (answer["variant"], answer["experiment"]["reason"]) == ("original", "no_unit")
    pinned = predict(client, "u1", raw_rows(1), label="canary")
    assert (pinned["variant"], pinned["version"]) == ("canary", "2")
    assert (
        report(client, outcome(answer, 0, 1, time.time()), outcome(pinned, 0, 1, time.time()))["orphan"] == 2
    )


def test_experiments_are_listed_and_explained(service: Start) -> None:
    client = service()
    listed = client.http.get("/v1/experiments").json()["experiments"]
    assert [found["key"] for found in listed] == ["ctr-small"]
    assert listed[0] == client.http.get("/v1/experiments/ctr-small").json()
    assert [variant["version"] for variant in listed[0]["variants"]] == ["1", "2"]
    assert (listed[0]["seed"], listed[0]["hash_version"], listed[0]["maturity_s"]) == ("ctr-small", 2, 2700.0)
    found = client.http.get("/v1/experiments/ctr-small/assignment", params={"unit_id": "u7"}).json()
    assert found["variant"] == predict(client, "u7", raw_rows(1))["variant"]
    assert found["bucket"] == assignment.bucket("ctr-small", "u7")
    assert client.http.get("/v1/experiments/ctr-small/assignment").status_code == 422
    assert client.http.get("/v1/experiments/ctr-small/assignment", params={"unit_id": "ü"}).status_code == 422
    for path in ("none", "none/results", "none/assignment?unit_id=u1"):
        response = client.http.get(f"/v1/experiments/{path}")
        assert response.status_code == 404
        assert response.json()["type"] == "/problems/unknown-experiment"


def test_without_an_experiment_outcomes_are_refused(service: Start) -> None:
    client = service(None)
    answer = predict(client, "u1", raw_rows(1))
    assert (answer["variant"], answer["experiment"]) == ("stable", None)
    response = client.http.post("/v1/outcomes", json={"outcomes": [outcome(answer, 0, 1, time.time())]})
    assert (response.status_code, response.json()["type"]) == (404, "/problems/unknown-experiment")
    assert client.http.get("/v1/experiments").json() == {"experiments": []}


def test_each_outcome_is_judged_alone(service: Start) -> None:
    client = service()
    answer = predict(client, "u1", raw_rows(2))
    good = outcome(answer, 0, 1, time.time())
    bad: list[tuple[Any, str]] = [
        ({**good, "clicked": 2}, "clicked"),
        ({**good, "index": -1}, "index"),
        ({**good, "index": "0"}, "index"),
        ({**good, "request_id": "a b"}, "request_id"),
        ({**good, "outcome_id": ""}, "outcome_id"),
        ({**good, "occurred_at": time.time() * 1000 * 1000}, "occurred_at"),
        ({**good, "occurred_at": "2024-01-01T00:00:00"}, "occurred_at"),
        ({**good, "surprise": 1}, "surprise"),
        ({name: good[name] for name in good if name != "occurred_at"}, "occurred_at"),
        ("not an object", ""),
    ]
    found = report(client, *(item for item, _ in bad), good)
    assert found["joined"] == 1
    for position, ((_, name), error) in enumerate(zip(bad, found["errors"], strict=True)):
        assert error["pointer"] == f"#/outcomes/{position}" + (f"/{name}" if name else "")
    assert "milliseconds" in found["errors"][5]["detail"]
    iso = {**outcome(answer, 1, 0, 0), "occurred_at": "2024-01-01T00:00:00Z"}
    assert report(client, iso)["joined"] == 1


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        (b"{", 400, "bad-json"),
        (b"[]", 422, "invalid-input"),
        (b'{"outcomes": 1}', 422, "invalid-input"),
        (b'{"outcomes": [], "watermark": 1}', 422, "invalid-input"),
        (b'{"outcomes": [{}]}', 422, "invalid-input"),
        (json.dumps({"outcomes": [{}] * 10_001}).encode(), 413, "too-large"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused(service: Start, body: bytes, status: int, slug: str) -> None:
    response = service({**EXPERIMENT, "shadow": None}).http.post("/v1/outcomes", content=body)
    assert (response.status_code, response.json()["type"]) == (status, f"/problems/{slug}")


def test_scoring_goes_on_while_the_state_server_is_down(service: Start, tmp_path: Path) -> None:
    with redis_server(tmp_path) as url:
        client = service(state_url=url)
        assert report(client, outcome(predict(client, "u1", raw_rows(1)), 0, 1, time.time()))["joined"] == 1
    answer = predict(client, "u2", raw_rows(1))
    response = client.http.post("/v1/outcomes", json={"outcomes": [outcome(answer, 0, 1, time.time())]})
    assert (response.status_code, response.json()["type"]) == (503, "/problems/state-unavailable")
    assert response.headers["retry-after"]
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    with redis_server(tmp_path, port):
        assert report(client, outcome(answer, 0, 1, time.time()))["joined"] == 1
