"""`slimctr serve`: every setting counts, wherever it is given, and what cannot work ends before anything listens."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from service.settings import OTHER_VARIABLES, Settings
from slimctr.cli import app
from slimctr.commands.serve import serve
from slimctr.errors import ConfigError

ROOT = Path(__file__).parents[3]
KEYS = [{"sha256": "0" * 64, "scopes": ["infer"]}]
# Values that are not the default, of settings for which a number or a choice cannot be made up.
OTHERS: dict[str, Any] = {
    "store": "other",
    "default_model": "ctr",
    "required_labels": ["canary"],
    "experiment": "experiment.yaml",
    "state_url": "redis://127.0.0.1:1/0",
    "host": "127.0.0.2",
    "api_keys": KEYS,
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SLIMCTR_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)
    for folder in ("models", "other"):
        (tmp_path / folder).mkdir()
    variant = "{name: a, version: stable, weight: 1}"
    (tmp_path / "experiment.yaml").write_text(f"key: k\nmodel: ctr\nvariants: [{variant}]\ndefault: a\n")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Return what runs `slimctr serve` with some arguments as far as it would listen, and returns the settings."""
    taken: list[Settings] = []

    def take(settings: Settings, ahead: object) -> int:
        taken.append(settings)
        return 0

    monkeypatch.setattr("service.server.serve", take)
    monkeypatch.setattr("service.workers.serve_workers", take)

    def run(*arguments: str) -> Settings:
        result = CliRunner().invoke(app, ["serve", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return taken.pop()

    return run


def other_value(name: str) -> Any:
    """Return a value of a setting that is not its default, as JSON has it."""
    if name in OTHERS:
        return OTHERS[name]
    field = Settings.model_fields[name]
    default = field.default
    if get_origin(field.annotation) is Literal:
        return next(choice for choice in get_args(field.annotation) if choice != default)
    return not default if isinstance(default, bool) else default + 1


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_counts_as_a_variable(
    name: str, start: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = other_value(name)
    text = value if isinstance(value, str) else json.dumps(value)
    monkeypatch.setenv(f"SLIMCTR_{name.upper()}", text)
    needed = {"api_keys": KEYS} if name == "insecure" else {"insecure": name != "api_keys"}
    if name == "insecure":  # the default without keys on a loopback address; a variable can say no
        monkeypatch.setenv("SLIMCTR_INSECURE", "false")
        monkeypatch.setenv("SLIMCTR_API_KEYS", json.dumps(KEYS))
        value = False
    expected = Settings(**{**needed, name: value})
    assert getattr(start(), name) == getattr(expected, name)


@pytest.mark.parametrize("option", list(get_command(app).commands["serve"].params))  # type: ignore[attr-defined]
def test_options_win_over_variables(
    option: Any, start: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = option.name
    default = Settings.model_fields[name].default
    monkeypatch.setenv(f"SLIMCTR_{name.upper()}", str(other_value(name)))
    if name == "insecure":
        monkeypatch.setenv("SLIMCTR_INSECURE", "false")
        assert start("--insecure").insecure is True
        return
    given = str(tmp_path / "experiment.yaml") if name == "experiment" else str(default)
    expected = Path(given) if name == "experiment" else default
    assert getattr(start(option.opts[0], given), name) == expected


def test_an_empty_variable_is_none(start: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    """As compose files and CI write a variable that is not set."""
    for name in Settings.model_fields:
        monkeypatch.setenv(f"SLIMCTR_{name.upper()}", "")
    assert start() == Settings(insecure=True)


def test_variables_count_in_any_case(start: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("slimctr_api_keys", json.dumps(KEYS))
    assert start().insecure is False


def test_image_and_compose_file_name_settings_that_exist() -> None:
    known = {f"SLIMCTR_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    files = [
        ROOT / "Dockerfile",
        ROOT / "docker-compose.yml",
        *(ROOT / "deploy").rglob("*"),
        ROOT / "README.md",
    ]
    files += (ROOT / "docs").glob("*.md")
    for file in files:
        if file.is_file():
            named = set(re.findall(r"\bSLIMCTR_[A-Z_]*[A-Z]\b", file.read_text(errors="replace")))
            assert named <= known, file


@pytest.mark.parametrize(
    ("arguments", "variables", "complaint"),
    [
        ({"host": "0.0.0.0"}, {}, "no api_keys"),
        ({"host": "0.0.0.0", "insecure": True}, {}, "loopback"),
        ({"insecure": False}, {}, "no api_keys"),
        ({}, {"SLIMCTR_HOST": "0.0.0.0"}, "no api_keys"),
        ({}, {"slimctr_host": "0.0.0.0"}, "no api_keys"),
        ({}, {"SLIMCTR_INSECURE": "false"}, "no api_keys"),
        ({}, {"SLIMCTR_API_KEYS": '[{"sha256": "key", "scopes": ["infer"]}]'}, "api_keys.0.sha256"),
        ({}, {"SLIMCTR_API_KEYS": "not json"}, "api_keys"),
        ({}, {"SLIMCTR_PROT": "1"}, "did you mean SLIMCTR_PORT"),
        ({"port": 99_999}, {}, "port"),
        ({}, {"SLIMCTR_MAX_BATCH_ROWS": "many"}, "max_batch_rows"),
        ({}, {"SLIMCTR_DEFAULT_MODEL": "stats"}, "default_model: 'stats' cannot name a model"),
        ({}, {"SLIMCTR_REQUIRED_LABELS": '["7"]'}, "required_labels.0: '7' cannot name a label"),
        ({"experiment": Path("absent.yaml")}, {}, "absent.yaml.*No such file"),
        ({"experiment": Path("models")}, {}, "models.*directory"),
        ({}, {"SLIMCTR_EXPERIMENT": "absent.yaml"}, "absent.yaml.*No such file"),
        ({"store": Path("/nope")}, {}, "store '/nope' cannot be used: No such file.*SLIMCTR_STORE"),
        ({"store": Path("experiment.yaml")}, {}, "store 'experiment.yaml' cannot be used: Not a directory"),
        ({}, {"SLIMCTR_STORE": "/nope"}, "store '/nope' cannot be used: No such file"),
        ({}, {"SLIMCTR_STATE_URL": "sqlite:///"}, "state_url names no file"),
        ({}, {"SLIMCTR_STATE_URL": "postgres://u:hunter2@h/0"}, "'postgres:…' names no known backend"),
        ({}, {"SLIMCTR_STATE_URL": "redis://h:port/0"}, "state_url is no address"),
        ({}, {"SLIMCTR_STATE_URL": "redis://h:1/first"}, "state_url is no address"),
        ({}, {"SLIMCTR_STATE_URL": "rediss://u:hunter/2@h:1/0"}, "state_url is no address"),
    ],
)
def test_settings_that_cannot_work_end_the_start(
    arguments: dict[str, Any], variables: dict[str, str], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=complaint) as caught:
        serve(**arguments)
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the value, unless it may hold a secret."""
    variable, value = f"SLIMCTR_{name.upper()}", "s3://hunter2/no value of any setting"
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        serve()
    message = str(caught.value)
    assert "\n" not in message
    if name == "host":  # any name may be one of a host, which only the system can tell
        assert f"loopback address only, not on '{value}'" in message or "no api_keys" in message
        return
    assert variable in message
    assert ("hunter2" in message) == (name not in ("api_keys", "state_url", "required_labels"))


def test_a_wrong_value_is_one_line_that_names_the_option() -> None:
    result = CliRunner().invoke(app, ["serve", "--port", "99999"])
    assert isinstance(result.exception, ConfigError)
    assert "(--port is 99999)" in str(result.exception)


def test_a_folder_that_cannot_be_listed_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the system, since the user of a test may be one that reads everything."""

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(ConfigError, match="'models' cannot be used: Permission denied"):
        serve()


def test_an_empty_folder_is_a_store(start: Callable[..., Settings]) -> None:
    assert start().store == Path("models")
