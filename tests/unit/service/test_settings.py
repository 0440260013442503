import hashlib

import pytest
from pydantic import ValidationError

from service.settings import Settings, is_loopback, unknown_variables

KEY = {"sha256": hashlib.sha256(b"secret").hexdigest(), "scopes": ["infer"]}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SLIMCTR_{name.upper()}", raising=False)


def test_variables_are_read_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMCTR_PORT", "9000")
    monkeypatch.setenv("SLIMCTR_INSECURE", "true")
    monkeypatch.setenv("SLIMCTR_REQUIRED_LABELS", '["stable", "canary"]')
    settings = Settings(port=9001)
    assert (settings.port, settings.insecure, settings.required_labels) == (9001, True, ("stable", "canary"))


def test_settings_cannot_be_changed() -> None:
    settings = Settings(insecure=True)
    with pytest.raises(ValidationError):
        settings.port = 1


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "no api_keys"),
        ({"insecure": True, "host": "0.0.0.0"}, "loopback"),
        ({"insecure": True, "api_keys": [KEY]}, "exclude each other"),
        ({"api_keys": [{"sha256": "secret", "scopes": ["infer"]}]}, "sha256"),
        ({"api_keys": [{**KEY, "scopes": []}]}, "scopes"),
        ({"api_keys": [{**KEY, "scopes": ["everything"]}]}, "scopes"),
        ({"insecure": True, "state_url": "postgres://x"}, "sqlite:///PATH"),
        ({"insecure": True, "default_deadline_ms": 20_000}, "max_deadline_ms"),
        ({"insecure": True, "max_request_rows": 20_000}, "max_queue_rows"),
        ({"insecure": True, "drain_delay_s": 30}, "shutdown_timeout_s"),
        ({"insecure": True, "model_control": "explicit", "workers": 2}, "workers"),
        ({"insecure": True, "prot": 1}, "prot"),
        ({"insecure": True, "label_poll_seconds": float("nan")}, "label_poll_seconds"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Settings(**given)


def test_a_misspelled_variable_is_named_with_the_nearest_setting() -> None:
    environment = {"SLIMCTR_PROT": "1", "SLIMCTR_PORT": "1", "SLIMCTR_DATA": "x", "PATH": "x"}
    assert unknown_variables(environment) == ["SLIMCTR_PROT is no setting; did you mean SLIMCTR_PORT?"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("a.example", False),
    ],
)
def test_loopback_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
