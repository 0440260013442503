"""The load generator replays any prepared directory: in every form, the service reads what it sends."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from artifacts import build_artifact
from live_service import LiveService, live_service
from realdata import real_data
from schema_kinds import KINDS, publish_kinds

from loadtest.calls import complaint_about, exposure_id, write_named_calls
from loadtest.profile import ID_ENCODINGS, Profile
from loadtest.rows import open_source
from slimctr.clicklogs import Dataset, PrepareSettings, prepare
from slimctr.clicklogs.synthetic import SyntheticSpec
from slimctr.features import FeatureSchema

ENCODINGS = get_args(Profile.model_fields["encoding"].annotation)
MADE_LOGS = ("synthetic", "odd-values")
ODD_ROWS = [
    {
        "label": row % 2,
        "tags": [[None, "a"], [], None, [""], ["b", "b"]][row % 5],
        "number": ["123456789012345678901234567890", "-0.0", ".5", "1e300", None][row % 5],
        "text": ["NaN", "null", "3.0", 'say "so"', "\u2028\U0001f600"][row % 5],
        "count": [3.0, None, -7.0][row % 3],
        "is_new": [True, False, None][row % 3],
    }
    for row in range(300)
]
ODD_FIELDS = [
    {"name": "tags", "kind": "categorical", "multivalued": True},
    {"name": "number", "kind": "numeric", "bucketing": {"kind": "log_squared"}},
    *({"name": name, "kind": "categorical"} for name in ("text", "count", "is_new")),
]
REAL_LOGS = ("criteo", "avazu", "frappe", "movielens")
CALLS = 6
EXPERIMENT = {
    "key": "small",
    "model": "all",
    "default": "stable",
    "variants": [{"name": "stable", "version": "stable", "weight": 1}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model of every kind of schema, and their prepared directories."""
    folder = tmp_path_factory.mktemp("forms")
    publish_kinds(folder)
    for name in MADE_LOGS:
        publish_log(name, folder)
    return folder


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a model of each real log, and their prepared directories."""
    folder = tmp_path_factory.mktemp("real")
    for name in REAL_LOGS:
        publish_log(name, folder)
    return folder


def publish_log(name: str, folder: Path) -> None:
    (folder / name).mkdir()
    prepare_log(name, folder / name)
    build_artifact(folder / "models", name, label="stable", dataset=folder / name / "data", keeps_values=True)


def prepare_log(name: str, folder: Path) -> Dataset:
    if name == "synthetic":
        return prepare(
            PrepareSettings("synthetic", synthetic=SyntheticSpec(rows=2_000, ids=3_000)), folder / "data"
        )
    if name == "odd-values":
        pq.write_table(pa.Table.from_pylist(ODD_ROWS), folder / "log.parquet")
        FeatureSchema.parse({"fields": ODD_FIELDS}).save(folder / "schema.yaml")
        settings = PrepareSettings("parquet", folder / "log.parquet", schema=folder / "schema.yaml")
        return prepare(settings, folder / "data")
    if name in ("criteo", "avazu"):
        source = real_data({"criteo": "criteo_kaggle_first8k", "avazu": "avazu_first9k"}[name])
        return prepare(PrepareSettings(name, source), folder / "data")
    logged = real_data("frappe_x1") / "raw_values" if name == "frappe" else real_data("ml-1m_ctr")
    [test] = logged.glob("test*.csv.zst")
    with pa.CompressedInputStream(pa.OSFile(str(test)), "zstd") as stream:
        head = stream.read(100_000)
    (folder / "log.csv").write_bytes(head[: head.rindex(b"\n") + 1])
    return prepare(PrepareSettings("csv", folder / "log.csv"), folder / "data")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[LiveService]:
    experiment = folder / "experiment.yaml"
    experiment.write_text(json.dumps(EXPERIMENT))
    with live_service(folder / "models", folder, experiment=experiment) as running:
        yield running


@pytest.fixture(scope="module")
def real_service(real_folder: Path) -> Iterator[LiveService]:
    with live_service(real_folder / "models", real_folder) as running:
        yield running


def profile_for(encoding: str, fields: list[str], **changes: Any) -> Profile:
    document = {
        "name": "p",
        "encoding": encoding,
        "rows_per_request": {1: 0.5, 40: 0.5},
        "rows": {"kind": "replay"},
    }
    if encoding == "slate":
        document["candidate_fields"] = fields[: len(fields) // 2 + 1]
    return Profile.model_validate({**document, **changes})


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", [*KINDS, *MADE_LOGS])
def test_every_form_of_every_kind_is_scored(
    service: LiveService, folder: Path, name: str, encoding: str
) -> None:
    check_form(service, folder, name, encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", REAL_LOGS)
def test_every_form_of_every_real_log_is_scored(
    real_service: LiveService, real_folder: Path, name: str, encoding: str
) -> None:
    check_form(real_service, real_folder, name, encoding)


def check_form(service: LiveService, folder: Path, name: str, encoding: str) -> None:
    """Every call is answered, and all forms that send the same rows get the same scores."""
    data = folder / name / "data"
    profile = profile_for(encoding, list(Dataset(data).schema.names))
    source = open_source(profile, data)
    rows = profile.model_copy(update={"encoding": "rows"})
    for call, plain in zip(
        write_named_calls(profile, source, name, CALLS),
        write_named_calls(rows, source, name, CALLS),
        strict=True,
    ):
        response = service.http.post(call.path, content=call.body, headers=call.headers)
        assert response.status_code == 200, response.text
        assert complaint_about(call, response.content) is None
        if encoding != "slate":  # its rows share a context
            answer = service.http.post(plain.path, content=plain.body, headers=plain.headers).json()
            np.testing.assert_array_equal(scores_of(response.json()), np.float32(answer["scores"]))


def scores_of(answer: dict[str, Any]) -> npt.NDArray[np.float32]:
    outputs = {output["name"]: output["data"] for output in answer.get("outputs", [])}
    return np.float32(answer["scores"] if "scores" in answer else outputs["pctr"])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_units_and_outcomes_go_with_every_form(service: LiveService, folder: Path, encoding: str) -> None:
    data = folder / "all" / "data"
    changes = {"unit_field": "user", "outcomes": True}
    profile = profile_for(encoding, ["price", "tags"], **changes)
    reported = [
        call for call in write_named_calls(profile, open_source(profile, data), "all", 12) if call.clicks
    ]
    assert reported
    for call in reported:
        answer = service.http.post(call.path, content=call.body, headers=call.headers).json()
        items = [
            {
                "request_id": exposure_id(answer),
                "index": index,
                "clicked": clicked,
                "occurred_at": time.time(),
            }
            for index, clicked in enumerate(call.clicks or ())
        ]
        found = service.http.post("/v1/outcomes", json={"outcomes": items}).json()
        assert found["joined"] == call.rows, (found, encoding)


def test_a_field_of_the_log_that_the_model_lacks_is_said(service: LiveService, folder: Path) -> None:
    profile = profile_for("rows", [])
    for name in ("hashed", "multivalued"):
        [call] = write_named_calls(profile, open_source(profile, folder / name / "data"), "numeric", 1)
        response: httpx.Response = service.http.post(call.path, content=call.body, headers=call.headers)
        assert response.status_code == 422
        assert "the schema has no such field" in response.json()["detail"]


def test_the_id_encodings_are_those_of_the_open_inference_protocol() -> None:
    assert set(ID_ENCODINGS) == {name for name in ENCODINGS if name.startswith("v2")}
