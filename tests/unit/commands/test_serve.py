"""`slimctr serve` refuses settings that cannot work before anything listens."""

from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from slimctr.commands.serve import serve
from slimctr.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SLIMCTR_{name.upper()}", raising=False)


@pytest.mark.parametrize(
    ("arguments", "variables", "complaint"),
    [
        ({"host": "0.0.0.0"}, {}, "no api_keys"),
        ({"host": "0.0.0.0", "insecure": True}, {}, "loopback"),
        ({"insecure": False}, {}, "no api_keys"),
        ({}, {"SLIMCTR_HOST": "0.0.0.0"}, "no api_keys"),
        ({}, {"SLIMCTR_INSECURE": "false"}, "no api_keys"),
        ({}, {"SLIMCTR_API_KEYS": '[{"sha256": "key", "scopes": ["infer"]}]'}, "api_keys.0.sha256"),
        ({}, {"SLIMCTR_API_KEYS": "not json"}, "api_keys"),
        ({}, {"SLIMCTR_PROT": "1"}, "did you mean SLIMCTR_PORT"),
        ({"port": 99_999}, {}, "port"),
        ({}, {"SLIMCTR_MAX_BATCH_ROWS": "many"}, "max_batch_rows"),
        ({"experiment": Path("absent.yaml")}, {}, "absent.yaml"),
    ],
)
def test_settings_that_cannot_work_end_the_start(
    arguments: dict[str, Any], variables: dict[str, str], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=complaint):
        serve(**arguments)
