"""The HTTP surface over a real server and a real artifact: statuses, bodies, headers, keys."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from artifacts import SCHEMA, build_artifact, raw_rows
from live_service import LiveService, live_service

from model_store.names import REQUEST_ID
from service.errors import problem_kinds
from slimctr.scoring import Scorer, sigmoid

LIMITS = {"max_body_bytes": 100_000, "max_request_rows": 50, "max_batch_rows": 16, "max_queue_rows": 50}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("service")
    store = folder / "models"
    build_artifact(store, label="stable")
    build_artifact(store, label="original", compressed=False)
    build_artifact(store)
    with live_service(store, folder, **LIMITS) as running:
        yield running


def problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """Return the problem document after checking what every problem has."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"/problems/{slug}"
    assert document["status"] == status
    assert document["error"] == document["detail"] != ""
    assert document["request_id"] == response.headers["x-request-id"]
    return document


def predict(service: LiveService, body: Any = None, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body or {"instances": raw_rows(2)}).encode()
    return service.http.post(
        "/v1/predict", content=content, headers={"content-type": "application/json", **headers}
    )


def test_scores_are_those_of_the_engine(service: LiveService) -> None:
    rows = raw_rows(10)
    answer = service.predict(instances=rows, include=["logits", "oov_rows", "timing"], request_id="r1")
    scorer = Scorer.open(service.app.state.settings.store / "ctr" / "1")
    batch = scorer.encoder.encode_rows(rows)
    logits = scorer.logits(batch)
    np.testing.assert_array_equal(np.array(answer["logits"], np.float32), logits)
    np.testing.assert_array_equal(np.array(answer["scores"], np.float32), sigmoid(logits))
    assert (answer["model"], answer["version"], answer["variant"]) == ("ctr", "1", "stable")
    assert (answer["label"], answer["experiment"], answer["defaulted_rows"]) == (None, None, 0)
    assert answer["request_id"] == "r1"
    assert answer["oov"]["total"] == int(batch.oov.sum())
    assert set(answer["timing"]) == {"input_ms", "queue_ms", "lookup_ms", "infer_ms"}


def test_label_and_version_choose_who_answers(service: LiveService) -> None:
    rows = raw_rows(3)
    labeled = service.predict(instances=rows, label="original")
    pinned = service.predict(instances=rows, version="2")
    assert (labeled["version"], labeled["variant"], labeled["label"]) == ("2", "original", "original")
    assert (pinned["version"], pinned["variant"]) == ("2", "pinned")
    assert labeled["scores"] == pinned["scores"] != service.predict(instances=rows)["scores"]


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        (b"{", 400, "bad-json"),
        (b"[]", 400, "bad-json"),
        (b'{"instances": [{"ad": "a1", "price": NaN}]}', 422, "invalid-input"),
        ({"instances": []}, 422, "invalid-input"),
        ({"instances": [{"ad": "a1", "color": "red"}]}, 422, "invalid-input"),
        ({"instances": [{"user": "u1"}]}, 422, "invalid-input"),
        ({"instances": raw_rows(51)}, 413, "too-large"),
        (b" " * 100_001, 413, "too-large"),
        ({"instances": raw_rows(1), "model": "nothing"}, 404, "unknown-name"),
        ({"instances": raw_rows(1), "version": "9"}, 404, "unknown-name"),
        ({"instances": raw_rows(1), "version": "3"}, 404, "unknown-name"),
        ({"instances": raw_rows(1), "label": "nothing"}, 404, "unknown-name"),
    ],
)
def test_a_bad_request_is_refused(service: LiveService, body: Any, status: int, slug: str) -> None:
    problem(predict(service, body), status, slug)


def test_wrong_values_are_pointed_to_and_never_logged(
    service: LiveService, caplog: pytest.LogCaptureFixture
) -> None:
    rows = raw_rows(4)
    rows[3]["price"] = "cheap"
    with caplog.at_level("INFO", logger="slimctr"):
        document = problem(predict(service, {"instances": rows}), 422, "invalid-input")
        service.http.get("/v2")  # the line of a request is written after its answer
    [fault] = document["errors"]
    assert fault["pointer"] == "#/instances/3/price"
    assert "cheap" in fault["detail"]
    [record] = [record for record in caplog.records if getattr(record, "slug", None) == "invalid-input"]
    assert record.__dict__["status"] == 422
    assert record.__dict__["request_id"] == document["request_id"]
    assert "cheap" not in str(record.__dict__)


def test_outcomes_of_another_content_type_are_refused(service: LiveService) -> None:
    for path in ("/v1/predict", "/v1/outcomes"):
        answer = service.http.post(path, content=b"{}", headers={"Content-Type": "text/csv"})
        problem(answer, 415, "unsupported-media-type")


def test_each_outcome_that_cannot_be_read_says_why(service: LiveService) -> None:
    good = {"outcome_id": "o", "request_id": "r", "index": 0, "clicked": 1, "occurred_at": 1.0}
    without = {name: value for name, value in good.items() if name != "clicked"}
    items = [3, without, good | {"clicked": 2}, good | {"index": -1}, good | {"click": 1}]
    document = problem(service.http.post("/v1/outcomes", json={"outcomes": items}), 422, "invalid-input")
    assert [(fault["pointer"], fault["detail"].split(", not ")[-1]) for fault in document["errors"]] == [
        (
            "#/outcomes/0",
            "must be an object with outcome_id, request_id, index, clicked, occurred_at, restate",
        ),
        ("#/outcomes/1/clicked", "is required"),
        ("#/outcomes/2/clicked", "2"),
        ("#/outcomes/3/index", "-1"),
        ("#/outcomes/4/click", "this key is not known here"),
    ]


def test_a_body_without_length_is_cut_off_at_the_limit(service: LiveService) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(200):
            yield b" " * 1000

    response = service.http.post(
        "/v1/predict", content=chunks(), headers={"content-type": "application/json"}
    )
    problem(response, 413, "too-large")


def test_compressed_bodies_are_read_and_bombs_are_not(service: LiveService) -> None:
    body = json.dumps({"instances": raw_rows(2)}).encode()
    assert predict(service, gzip.compress(body), **{"content-encoding": "gzip"}).status_code == 200
    bomb = gzip.compress(b" " * 10_000_000)
    problem(predict(service, bomb, **{"content-encoding": "gzip"}), 413, "too-large")
    problem(predict(service, body, **{"content-encoding": "br"}), 415, "unsupported-media-type")


@pytest.mark.parametrize(
    ("headers", "status", "slug"),
    [
        ({"content-type": "text/csv"}, 415, "unsupported-media-type"),
        ({"x-request-deadline-ms": "soon"}, 400, "bad-header"),
    ],
)
def test_a_bad_header_is_refused(
    service: LiveService, headers: dict[str, str], status: int, slug: str
) -> None:
    problem(predict(service, None, **headers), status, slug)


def test_a_request_without_ids_gets_one_that_is_both(service: LiveService) -> None:
    answers = [predict(service) for _ in range(3)]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3
    assert all(answer.headers["x-request-id"] == answer.json()["request_id"] for answer in answers)


def test_the_body_names_the_answer_and_the_header_the_trace(service: LiveService) -> None:
    body = {"instances": raw_rows(1), "request_id": "from-body"}
    response = predict(service, body)
    assert response.headers["x-request-id"] == response.json()["request_id"] == "from-body"
    response = predict(service, body, **{"x-request-id": "of-the-proxy"})
    assert response.headers["x-request-id"] == "of-the-proxy"
    assert response.json()["request_id"] == "from-body"
    bodies = [b"{", json.dumps({"instances": [], "request_id": "from-body"}).encode()]
    for faulty, status, slug in zip(bodies, (400, 422), ("bad-json", "invalid-input"), strict=True):
        problem(predict(service, faulty, **{"x-request-id": "of-the-proxy"}), status, slug)


def test_calls_that_share_a_trace_id_get_names_of_their_own(service: LiveService) -> None:
    answers = [predict(service, None, **{"x-request-id": "one-page-view"}) for _ in range(3)]
    assert {answer.headers["x-request-id"] for answer in answers} == {"one-page-view"}
    names = {answer.json()["request_id"] for answer in answers}
    assert len(names) == 3
    assert "one-page-view" not in names


ODD_IDS = (
    *("a b", "x" * 129, "", "{}", "Root=1-67891233-abcdef012345678912345678", "a,b", "ü"),
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01/2",
)


@pytest.mark.parametrize("odd", ODD_IDS)
def test_no_trace_id_is_a_reason_to_refuse(service: LiveService, odd: str) -> None:
    headers = {"x-request-id": odd.encode()}
    routes = ["/livez", "/readyz", "/metrics", "/v1/models", "/v2/health/live", "/v2/health/ready", "/v2"]
    routes += [
        "/v2/models/stats",
        "/v2/models/ctr/ready",
        "/dashboard/data",
        "/v1/experiments",
        "/openapi.json",
    ]
    answers = [service.http.get(route, headers=headers) for route in routes]
    body = json.dumps({"instances": raw_rows(1), "request_id": "mine"}).encode()
    answers.append(service.http.post("/v1/predict", content=body, headers=headers))
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert REQUEST_ID.fits(answer.headers["x-request-id"])
        assert answer.headers["x-request-id"] != odd
    missing = service.http.get("/no-such-route", headers=headers)
    problem(missing, 404, "not-found")


def test_a_deadline_that_cannot_be_kept_is_504(service: LiveService) -> None:
    body = {"instances": raw_rows(50)}
    document = problem(predict(service, body, **{"x-request-deadline-ms": "1"}), 504, "deadline")
    assert "deadline passed" in document["detail"]


def test_unknown_routes_and_methods_are_problems_too(service: LiveService) -> None:
    problem(service.http.get("/nothing"), 404, "not-found")
    response = service.http.get("/v1/predict")
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"
    problem(service.http.get("/v1/models/a%20b"), 404, "not-found")


def test_every_kind_of_problem_has_a_page(service: LiveService) -> None:
    for slug, kind in problem_kinds().items():
        page = service.http.get(f"/problems/{slug}")
        assert page.status_code == 200
        assert kind.title in page.text
    problem(service.http.get("/problems/nothing"), 404, "unknown-name")


def test_the_reference_page_shows_every_operation_without_scripts(service: LiveService) -> None:
    page = service.http.get("/docs")
    assert page.status_code == 200
    assert "<script" not in page.text
    for path, operations in service.http.get("/openapi.json").json()["paths"].items():
        for verb in operations:
            assert f'<span class="verb">{verb.upper()}</span><code>{path}</code>' in page.text


def test_the_health_of_the_service(service: LiveService) -> None:
    for path in ("/livez", "/v2/health/live"):
        assert service.http.get(path).json() == {"live": True}
    for path in ("/readyz", "/v2/health/ready"):
        assert service.http.get(path).json() == {"ready": True, "live": True}


def test_models_report_their_bytes(service: LiveService) -> None:
    listed = service.http.get("/v1/models").json()
    one = service.http.get("/v1/models/ctr").json()
    assert listed["models"] == [one] or listed["models"][0]["versions"][0]["version"] == "1"
    assert one["labels"] == {"original": "2", "stable": "1"}
    first, _, third = one["versions"]
    directory = service.app.state.settings.store / "ctr" / "1"
    files = sum(path.stat().st_size for path in directory.iterdir() if path.name != "manifest.json")
    assert first["bytes"]["artifact"] == files
    assert 0 < first["bytes"]["payload"] < files
    assert first["bytes"]["mapped"] > 0
    assert first["bytes"]["resident"] > 0
    assert (first["state"], first["labels"], third["state"]) == ("ready", ["stable"], "stored")
    assert third["bytes"]["resident"] is None
    problem(service.http.get("/v1/models/nothing"), 404, "unknown-name")


def test_loading_by_request_is_off_unless_configured(service: LiveService) -> None:
    for path in ("/v1/models/ctr/versions/3/load", "/v2/repository/models/ctr/unload"):
        problem(service.http.post(path), 403, "model-control-disabled")


def test_metrics_count_requests_rows_and_failures(service: LiveService) -> None:
    def value(name: str) -> float:
        total = 0.0
        for line in service.http.get("/metrics").text.splitlines():
            if line.startswith(name) and 'variant="stable"' in line:
                total += float(line.rpartition(" ")[2])
        return total

    before = [value("slimctr_inference_requests_total{"), value("slimctr_inference_rows_total{")]
    failures = value("slimctr_inference_failures_total{")
    service.predict(instances=raw_rows(7))
    predict(service, {"instances": [{"ad": 1.5}]})
    after = [value("slimctr_inference_requests_total{"), value("slimctr_inference_rows_total{")]
    assert [after[0] - before[0], after[1] - before[1]] == [2, 7]
    assert value("slimctr_inference_failures_total{") - failures == 1
    stages = ("queue", "compute_input", "embedding_lookup", "compute_infer", "compute_output", "request")
    counts = [value(f"slimctr_{stage}_duration_seconds_count{{") for stage in stages]
    assert len(set(counts)) == 1
    total = value("slimctr_request_duration_seconds_sum{")
    # the stages follow each other: little lies between them
    assert sum(value(f"slimctr_{stage}_duration_seconds_sum{{") for stage in stages[:-1]) == pytest.approx(
        total, rel=0.05
    )


def test_v2_errors_are_400_with_a_string_error(service: LiveService) -> None:
    document = problem(service.http.post("/v2/models/ctr/infer", json={"inputs": 3}), 400, "bad-request")
    assert isinstance(document["error"], str)
    problem(service.http.post("/v2/models/nothing/infer", json={"inputs": []}), 404, "unknown-name")
    problem(service.http.post("/v2/repository/index", content=b"3"), 400, "bad-json")
    problem(service.http.get("/v2/models/ctr/versions/3/ready"), 404, "unknown-name")
    problem(service.http.get("/v2/systemsharedmemory/status"), 501, "not-offered")


def test_v2_bodies_need_no_content_type(service: LiveService) -> None:
    ids = np.ones((2, len(SCHEMA.single)), int).tolist()
    body = {
        "inputs": [
            {"name": "sparse_ids", "shape": [2, 4], "datatype": "INT64", "data": ids},
            {"name": "tags.values", "shape": [0], "datatype": "INT64", "data": []},
            {"name": "tags.offsets", "shape": [3], "datatype": "INT64", "data": [0, 0, 0]},
        ]
    }
    request = service.http.build_request("POST", "/v2/models/ctr/infer", content=json.dumps(body).encode())
    assert "content-type" not in request.headers
    answer = service.http.send(request).json()
    assert [output["shape"] for output in answer["outputs"]] == [[2, 1], [2, 1]]
    assert answer["parameters"]["variant"] == "stable"


def test_a_score_that_is_not_finite_never_leaves(
    service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scorer, "run_network", lambda self, stored: np.full(len(stored), np.nan, np.float32))
    document = problem(predict(service), 500, "internal")
    assert "not finite" in document["detail"]
    assert 'kind="nonfinite_score"' in service.http.get("/metrics").text


def test_a_bug_answers_500_without_details(service: LiveService, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Scorer, stored: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(Scorer, "run_network", broken)
    document = problem(predict(service), 500, "internal")
    assert "secret" not in json.dumps(document)


KEYS = {scope: f"key-of-{scope}" for scope in ("infer", "outcomes", "admin", "metrics")}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("guarded")
    build_artifact(folder / "models", label="stable")
    keys = [
        {"sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": [scope]} for scope, key in KEYS.items()
    ]
    with live_service(folder / "models", folder, api_keys=keys, model_control="explicit") as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/predict", "infer"),
        ("POST", "/v2/models/ctr/infer", "infer"),
        ("GET", "/v2/models/ctr", "infer"),
        ("GET", "/v1/models", "infer"),
        ("POST", "/v2/repository/models/ctr/load", "admin"),
        ("POST", "/v1/models/ctr/versions/1/load", "admin"),
        ("GET", "/v1/experiments", "admin"),
        ("POST", "/v1/outcomes", "outcomes"),
        ("GET", "/metrics", "metrics"),
        ("GET", "/dashboard/data", "metrics"),
    ],
)
def test_every_path_wants_a_key_of_its_scope(
    guarded: LiveService, method: str, path: str, scope: str
) -> None:
    refused = guarded.http.request(method, path)
    problem(refused, 401, "unauthenticated")
    assert refused.headers["www-authenticate"] == "Bearer"
    problem(guarded.http.request(method, path, headers={"x-api-key": "wrong"}), 401, "unauthenticated")
    other = next(key for name, key in KEYS.items() if name != scope)
    problem(guarded.http.request(method, path, headers={"x-api-key": other}), 403, "forbidden")
    for headers in ({"x-api-key": KEYS[scope]}, {"authorization": f"Bearer {KEYS[scope]}"}):
        assert guarded.http.request(method, path, headers=headers).status_code not in (401, 403)


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/v2", "/v2/health/ready", "/problems/deadline", "/openapi.json"]
)
def test_health_and_documents_need_no_key(guarded: LiveService, path: str) -> None:
    assert guarded.http.get(path).status_code == 200


def test_one_version_is_loaded_and_unloaded_by_request(guarded: LiveService, tmp_path: Path) -> None:
    build_artifact(guarded.app.state.settings.store)
    headers = {"x-api-key": KEYS["admin"]}
    path = "/v1/models/ctr/versions/2"
    assert guarded.http.post(f"{path}/load", headers=headers).json()["state"] == "ready"
    problem(guarded.http.post("/v1/models/ctr/versions/1/unload", headers=headers), 409, "version-in-use")
    assert guarded.http.post(f"{path}/unload", headers=headers).json()["state"] == "unloaded"
    problem(guarded.http.post(f"{path}/unload", headers=headers), 404, "unknown-name")
    refused = guarded.http.post(
        "/v2/repository/models/ctr/load", headers=headers, json={"parameters": {"config": "{}"}}
    )
    problem(refused, 400, "bad-request")


@pytest.mark.parametrize("version", ["abc", "0", "-1", "+1", "1_0", "9" * 19])
def test_a_version_in_the_path_that_is_no_version_is_not_found(service: LiveService, version: str) -> None:
    response = service.http.post(f"/v2/models/ctr/versions/{version}/infer", json={"inputs": []})
    problem(response, 404, "unknown-name")
