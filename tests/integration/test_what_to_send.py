"""A client learns from the service what to send: fields, examples, and a body that is scored as it is."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from artifacts import build_artifact
from live_service import LiveService, live_service
from schema_kinds import KINDS, PRICE, publish_kinds

from model_store.store import ModelStore
from service.models.inputs import read_fields
from slimctr.clicklogs import PrepareSettings, prepare
from slimctr.features import FeatureSchema

pytestmark = pytest.mark.slow  # serves every kind of schema

SCORES = "0123456789abcdef"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("kinds")
    publish_kinds(folder)
    with live_service(folder / "models", folder) as running:
        yield running


def described(service: LiveService, model: str, **headers: str) -> dict[str, Any]:
    response = service.http.get(f"/v1/models/{model}", headers=headers)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_body_is_scored_as_it_is(service: LiveService, kind: str) -> None:
    body = described(service, kind)["example"]
    [row] = body["instances"]
    assert list(row) == [field["name"] for field in KINDS[kind]]
    response = service.http.post("/v1/predict", json=body)
    assert response.status_code == 200, response.text
    assert len(response.json()["scores"]) == 1
    if kind != "never-listed":  # nothing but unlisted values there
        assert response.json()["oov"]["total"] == 0


def test_the_example_of_a_number_is_one_that_was_logged(tmp_path: Path) -> None:
    """Also where all logged numbers are edges of buckets, which are golden values, too."""
    columns = ["label,price", *(f"{row % 2},{1 + row % 3}" for row in range(90))]
    (tmp_path / "log.csv").write_text("\n".join(columns))
    FeatureSchema.parse({"fields": [PRICE]}).save(tmp_path / "schema.yaml")
    prepare(PrepareSettings("csv", tmp_path / "log.csv", schema=tmp_path / "schema.yaml"), tmp_path / "data")
    store = ModelStore(tmp_path / "models")
    build_artifact(tmp_path / "models", dataset=tmp_path / "data", keeps_values=True)
    [field] = read_fields(store, "ctr", 1)
    assert field.example in (1, 2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fields_say_what_a_row_takes(service: LiveService, kind: str) -> None:
    document = described(service, kind)
    [version] = document["versions"]
    for field, declared in zip(version["fields"], KINDS[kind], strict=True):
        required = declared.get("required", False)
        assert (field["name"], field["kind"], field["required"]) == (
            declared["name"],
            declared["kind"],
            required,
        )
        assert (
            field["multivalued"] == declared.get("multivalued", False) == isinstance(field["example"], list)
        )
        assert field["example"] is not None
        assert "refused" in field["missing"] if required else field["missing"].startswith("absent")


@pytest.mark.parametrize("kind", ["all", "all-required"])
def test_missing_is_sent_as_the_fields_say(service: LiveService, kind: str) -> None:
    row = described(service, kind)["example"]["instances"][0]
    [version] = described(service, kind)["versions"]
    for field in version["fields"]:
        ways = [None] + ([[]] if field["multivalued"] else [""] if field["kind"] == "categorical" else [])
        rows = [{**row, field["name"]: value} for value in ways]
        rows.append({name: value for name, value in row.items() if name != field["name"]})
        statuses = [
            service.http.post("/v1/predict", json={"model": kind, "instances": [row]}).status_code
            for row in rows
        ]
        assert statuses == [422 if field["required"] else 200] * len(rows), field


@pytest.mark.parametrize("kind", KINDS)
def test_the_api_pages_show_fields_and_the_same_example(service: LiveService, kind: str) -> None:
    document = service.http.get("/openapi.json").json()
    content = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert content["examples"][kind]["value"] == described(service, kind)["example"]
    schema = document["components"]["schemas"][f"Row.{kind}"]
    assert list(schema["properties"]) == [field["name"] for field in KINDS[kind]]
    assert schema["required"] == [field["name"] for field in KINDS[kind] if field.get("required")]
    page = service.http.get("/docs").text
    assert f'<details id="Row.{kind}">' in page
    assert f'<a href="#Row.{kind}">' in page


def test_a_version_without_golden_values_has_fields_and_no_example(tmp_path: Path) -> None:
    store = tmp_path / "models"
    old = build_artifact(store, label="stable")
    (old / "golden.json").unlink()
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["files"]["golden.json"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    Path(f"{old}.sha256").unlink()
    broken = build_artifact(store)
    (broken / "golden.json").write_text('{"base_vocabulary": "", "values": {"user": [{}]}}')
    refused = build_artifact(store)
    (refused / "manifest.json").write_text("{")
    with live_service(store, tmp_path) as service:
        document = described(service, "ctr")
        assert document["example"] is None
        without, unreadable, none = document["versions"]
        for version in (without, unreadable):
            assert [field["name"] for field in version["fields"]] == ["user", "ad", "price", "site", "tags"]
            assert {field["example"] for field in version["fields"]} == {None}
        assert none["fields"] == []
        assert (
            "examples" not in service.http.get("/docs").text or service.http.get("/docs").status_code == 200
        )
        assert "Row.ctr" in service.http.get("/openapi.json").json()["components"]["schemas"]


def test_the_example_is_of_the_version_that_answers(tmp_path: Path) -> None:
    store = tmp_path / "models"
    build_artifact(store)
    with live_service(store, tmp_path) as service:
        assert described(service, "ctr")["example"] is None  # no label leads to a version yet
        ModelStore(store).set_label("ctr", "stable", 1)
        service.settle()
        body = described(service, "ctr")["example"]
        assert service.http.post("/v1/predict", json=body).json()["version"] == "1"


def test_values_of_a_log_are_shown_to_those_who_may_score(tmp_path: Path) -> None:
    build_artifact(tmp_path / "models", label="stable")
    keys = [{"sha256": hashlib.sha256(SCORES.encode()).hexdigest(), "scopes": ["infer"]}]
    with live_service(tmp_path / "models", tmp_path, api_keys=keys) as service:
        key = {"X-API-Key": SCORES}
        value = json.dumps(described(service, "ctr", **key)["example"]["instances"][0]["tags"])
        assert service.http.get("/v1/models/ctr").status_code == 401
        for path in ("/docs", "/openapi.json"):
            assert "Row.ctr" not in service.http.get(path).text
            assert "Row.ctr" in service.http.get(path, headers=key).text
        for headers, shown in (({}, False), (key, True)):
            document = json.dumps(service.http.get("/openapi.json", headers=headers).json())
            assert (value in document) == shown
