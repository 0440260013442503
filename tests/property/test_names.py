"""Store, manifest, experiment file, settings, wire, state and command line take and refuse the same names."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from artifacts import build_artifact
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from redis_server import redis_server
from typer.testing import CliRunner

from model_store import names
from model_store.errors import InvalidName, NotFound
from model_store.labels import parse_labels
from model_store.names import EXPERIMENT, LABEL, MODEL, OUTCOME_ID, REQUEST_ID, UNIT_ID, VERSION, NameRule
from model_store.store import ModelStore
from service.errors import BadJson, BadRequest, InvalidInput
from service.experiments.outcomes import Ledger, Status
from service.experiments.record import Exposure, Kind, Outcome
from service.experiments.spec import load_experiment
from service.experiments.state import State, open_state
from service.routes.outcomes import OutcomeItem
from service.settings import Settings
from service.wire import v1
from service.wire.oip import read_infer
from slimctr.cli import app
from slimctr.errors import ConfigError

EDGES = (
    *("stats", "statss", "8bit", "8", "0", "007", "1_000", "1e3", "٣", "²", "a", "a" * 128, "a" * 129, "9" * 18),
    *("9" * 19, "", ".a", "-a", "_a", "a.", "a\n", "\na", "a b", "a/b", "..", "a:b", "a@b", "é", "a\x00", "~", "no"),
    *("on", "null", "1.5", "0x10", "2024-01-01", "stable", "Stable", "pinned", " ", " a", "a\x7f", "\ud800", "|"),
    *("u" * 64, "u" * 65, "u" * 256, "u" * 257),
)  # fmt: skip
NAMES = st.sampled_from(EDGES) | st.text(
    st.sampled_from("abZ019._-:@/ ~\n|é") | st.characters(), max_size=12
)  # fmt: skip


def accepts(read: Callable[[], object], *refusals: type[Exception]) -> bool:
    """Return whether `read` takes what it is given; it may refuse with one of `refusals` only."""
    try:
        read()
    except refusals:
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("names")


@pytest.fixture(scope="module")
def store(folder: Path) -> ModelStore:
    build_artifact(folder / "models", label="stable")
    return ModelStore(folder / "models")


def experiment(folder: Path, **changes: object) -> object:
    """Read an experiment file with some keys changed."""
    document: dict[str, object] = {
        "key": "k",
        "model": "ctr",
        "variants": [{"name": "a", "version": "stable", "weight": 1}],
        "default": "a",
        "seed": "s",
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(document | changes))
    return load_experiment(path)


def predict(**members: object) -> object:
    return v1.read_predict(json.dumps({"instances": [{}], **members}).encode(), 10)


def infer_parameter(name: str, text: str, rule: NameRule) -> object:
    body = {"inputs": [], "parameters": {name: text}}
    return read_infer(json.dumps(body).encode(), None).text(name, rule)


@given(NAMES)
@settings(max_examples=150, deadline=None)
def test_models(folder: Path, store: ModelStore, name: str) -> None:
    fits = MODEL.fits(name)
    assert accepts(lambda: store.labels(name), InvalidName) is fits
    assert accepts(lambda: TypeAdapter(names.ModelName).validate_python(name), ValidationError) is fits
    assert accepts(lambda: experiment(folder, model=name), ConfigError) is fits
    assert accepts(lambda: Settings(insecure=True, default_model=name), ValidationError) is fits
    assert accepts(lambda: predict(model=name), BadJson, InvalidInput) is fits
    if "@" not in name:
        result = CliRunner().invoke(app, ["models", "show", "--store", str(folder / "models"), "--", name])
        assert isinstance(result.exception, NotFound if fits else InvalidName)


@given(NAMES)
@settings(max_examples=150, deadline=None)
def test_labels(folder: Path, store: ModelStore, name: str) -> None:
    fits = LABEL.fits(name)
    assert accepts(lambda: store.set_label("ctr", name, 1), InvalidName) is fits
    document = json.dumps({"labels": {name: "1"}, "revision": 1}).encode()
    assert accepts(lambda: parse_labels(document, "labels"), Exception) is fits
    if not VERSION.fits(name):
        variants = [{"name": "a", "version": name, "weight": 1}]
        assert accepts(lambda: experiment(folder, variants=variants), ConfigError) is fits
    assert accepts(lambda: Settings(insecure=True, required_labels=(name,)), ValidationError) is fits
    assert accepts(lambda: predict(label=name), BadJson, InvalidInput) is fits
    assert accepts(lambda: infer_parameter("label", name, LABEL), BadJson, BadRequest) is fits
    if fits:
        assert store.resolve(f"ctr@{name}") == ("ctr", 1)
        store.remove_label("ctr", name)


@given(NAMES)
@settings(max_examples=150, deadline=None)
def test_versions(folder: Path, store: ModelStore, name: str) -> None:
    fits = VERSION.fits(name)
    document = json.dumps({"labels": {"stable": name}, "revision": 1}).encode()
    assert accepts(lambda: parse_labels(document, "labels"), Exception) is fits
    assert accepts(lambda: predict(version=name), BadJson, InvalidInput) is fits
    if not LABEL.fits(name):
        variants = [{"name": "a", "version": name, "weight": 1}]
        assert accepts(lambda: experiment(folder, variants=variants), ConfigError) is fits


@given(NAMES)
@settings(max_examples=150, deadline=None)
def test_experiments_and_variants(folder: Path, name: str) -> None:
    fits = EXPERIMENT.fits(name)
    assert accepts(lambda: experiment(folder, key=name), ConfigError) is fits
    variants = [{"name": name, "version": "stable", "weight": 1}]
    takes = accepts(lambda: experiment(folder, variants=variants, default=name), ConfigError)
    assert takes is (fits and name != "pinned")


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def state(request: pytest.FixtureRequest, folder: Path) -> Iterator[State]:
    if request.param == "sqlite":
        yield from opened(f"sqlite:///{folder / 'state.sqlite3'}")
    else:
        with redis_server(folder) as url:
            yield from opened(url)


def opened(url: str) -> Iterator[State]:
    state = open_state(url)
    state.open()
    yield state
    state.close()


@given(NAMES)
@settings(max_examples=150, deadline=None)
def test_requests_units_and_outcomes(name: str) -> None:
    for rule, member in ((REQUEST_ID, "request_id"), (UNIT_ID, "unit_id")):
        assert accepts(lambda member=member: predict(**{member: name}), BadJson, InvalidInput) is rule.fits(
            name
        )
    assert accepts(lambda: infer_parameter("unit_id", name, UNIT_ID), BadJson, BadRequest) is UNIT_ID.fits(
        name
    )
    fields = {"index": 0, "clicked": 1, "occurred_at": 1.0}
    assert accepts(
        lambda: OutcomeItem(outcome_id="o", request_id=name, **fields), ValidationError
    ) is REQUEST_ID.fits(name)
    assert accepts(
        lambda: OutcomeItem(outcome_id=name, request_id="r", **fields), ValidationError
    ) is OUTCOME_ID.fits(name)


AT = 4_000_000_000.0
REQUESTS = [
    "a",
    "A",
    "a:b",
    "a:",
    ":a",
    "request:a",
    "0",
    "00",
    "-",
    "..",
    "a" * 128,
    "outcome:a",
    "due",
    "early",
]
OUTCOMES = ["a", "A", " a", "a ", "a|b", "{a}", "*", "%s", "'", '"', "\\", "~", "a" * 256, "outcome:a"]


def test_the_state_keeps_apart_whatever_the_rules_allow(state: State) -> None:
    """Each click joins the exposure of its own request, whatever characters the names are made of."""
    assert all(map(REQUEST_ID.fits, REQUESTS))
    assert all(map(OUTCOME_ID.fits, OUTCOMES))
    for key in ("e", "E", "e.e", "0", "experiments"):
        assert state.register(key, f"definition of {key}") == f"definition of {key}"
    for request_id in REQUESTS:
        exposure = Exposure(Kind.LIVE, "e", request_id, "a", AT, 1800, 2700, np.zeros(1, np.float32))
        state.transact([request_id], [], partial(Ledger.expose, exposure=exposure), AT)
    for request_id, outcome_id in zip(REQUESTS, OUTCOMES, strict=True):
        outcome = Outcome(outcome_id, request_id, 0, True, AT + 1)
        verdict = state.transact([request_id], [outcome_id], partial(Ledger.report, outcome=outcome), AT + 1)
        assert verdict.status is Status.JOINED
