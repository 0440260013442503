"""Paths are those of this machine: every option, argument, setting and variable that takes one refuses a URL by name."""

import inspect
import os
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer
from typer.models import ArgumentInfo

from loadtest.errors import LoadTestError
from loadtest.profile import load_profile
from model_store.errors import StoreError
from model_store.local_path import remote_fault
from model_store.store import ModelStore
from service.settings import Settings
from slimctr import cli
from slimctr.commands.local_paths import Commands
from slimctr.errors import ConfigError
from slimctr.quickstart.pipeline import find_clicks
from slimctr.training import read_settings

URLS = [
    "s3://bucket/models",
    "gs://bucket/x",
    "https://example.com/x",
    "abfs://a@b.c/x",
    "hdfs:/x",
    "S3://Bucket/x",
]


def commands(app: typer.Typer, prefix: tuple[str, ...] = ()):
    for command in app.registered_commands:
        function = command.callback
        yield (*prefix, command.name or function.__name__), function
    for group in app.registered_groups:
        yield from commands(group.typer_instance, (*prefix, group.name))


def path_options():
    """Every parameter of every command that takes a path: words of the command, name on the command line, the others."""
    found = []
    for words, function in commands(cli.app):
        hints = get_type_hints(function, include_extras=True)
        spelled, needed = {}, {}
        for name, parameter in inspect.signature(function).parameters.items():
            kind, *infos = get_args(hints[name]) or (hints[name],)
            is_argument = any(isinstance(info, ArgumentInfo) for info in infos)
            is_path = kind is Path or Path in get_args(kind)
            declared = [str(info.default) for info in infos if str(info.default).startswith("--")]
            place = () if is_argument else (declared[0] if declared else f"--{name.replace('_', '-')}",)
            if parameter.default is inspect.Parameter.empty:
                is_choice = isinstance(kind, type) and issubclass(kind, Enum)
                needed[name] = (*place, next(iter(kind)).value if is_choice else "local")
            if is_path:
                spelled[name] = place
        for name, place in spelled.items():
            others = [text for other, texts in needed.items() if other != name for text in texts]
            found.append(pytest.param(words, place, others, id=" ".join((*words, *place, name))))
    return found


def run(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> str:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["slimctr", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(("words", "place", "others"), path_options())
def test_every_path_of_every_command_refuses_a_url_by_name(
    words, place, others, tmp_path, monkeypatch, capsys
):
    told = run([*words, *others, *place, "s3://bucket/models"], tmp_path, monkeypatch, capsys)
    assert "'s3://bucket/models' is a URL of the scheme 's3'" in told
    assert (place[0] if place else "error") in told
    assert list(tmp_path.iterdir()) == []


def test_every_command_is_registered_with_the_rule():
    assert isinstance(cli.app, Commands)
    assert all(isinstance(group.typer_instance, Commands) for group in cli.app.registered_groups)
    assert len(path_options()) > 20


@pytest.mark.parametrize("url", URLS)
def test_schemes_are_named_and_a_path_that_lost_a_slash_is_one_still(url):
    for given in (url, Path(url)):
        fault = remote_fault(given)
        assert fault is not None
        assert f"scheme '{url.split(':')[0].lower()}'" in fault
        assert "mount" in fault
        assert "sync" in fault


def test_file_urls_say_to_give_the_path():
    assert "give the path itself" in (remote_fault("file:///models") or "")


@pytest.mark.parametrize(
    "path",
    ["models", "./models", "/models", "a:b/c", "C:/models", "runs/s3://x", "dt=2026-01-01T10:00/x", "~/x"],
)
def test_other_paths_are_taken(path):
    assert remote_fault(path) is None
    assert remote_fault(Path(path)) is None


@pytest.mark.parametrize(
    "name", [name for name, field in Settings.model_fields.items() if "Path" in str(field.annotation)]
)
def test_every_setting_of_the_service_that_is_a_path_refuses_a_url(name, monkeypatch):
    monkeypatch.setenv(f"SLIMCTR_{name.upper()}", "gs://bucket/models")
    with pytest.raises(ValueError, match=rf"{name}\n.*'gs://bucket/models' is a URL of the scheme 'gs'"):
        Settings(insecure=True)


def test_state_is_a_local_file_or_redis():
    for url in ("sqlite:///state/x.db", "sqlite:////state/x.db", "redis://127.0.0.1:6379/0"):
        assert Settings(insecure=True, state_url=url).state_url == url
    with pytest.raises(ValueError, match=r"'s3://bucket/x\.db' is a URL of the scheme 's3'"):
        Settings(insecure=True, state_url="sqlite:///s3://bucket/x.db")


def test_the_store_itself_refuses_a_url():
    for root in ("s3://bucket/models", Path("s3://bucket/models")):
        with pytest.raises(StoreError, match="'s3://bucket/models' is a URL"):
            ModelStore(root)


def test_configuration_files_and_data_folders_refuse_a_url(monkeypatch):
    with pytest.raises(ConfigError, match=r"configuration file 's3://bucket/x\.yaml' is a URL"):
        read_settings("s3://bucket/x.yaml")
    monkeypatch.setenv("SLIMCTR_DATA", "s3://bucket/data")
    with pytest.raises(ConfigError, match="SLIMCTR_DATA 's3://bucket/data' is a URL"):
        find_clicks()


def test_the_load_test_refuses_a_url():
    """In a process of its own: importing locust changes this one."""
    with pytest.raises(LoadTestError, match="'s3://bucket/x' is a URL"):
        load_profile("s3://bucket/x")
    code = (
        "import sys; from loadtest.__main__ import parse\n"
        "for option in ('--data', '--out', '--html'):\n"
        "    try: parse(['--host', 'h', '--profile', 'p', '--p99-ms', '1', option, 's3://bucket/x'])\n"
        "    except SystemExit: pass\n"
    )
    ended = run_python(code)
    for option in ("--data", "--out", "--html"):
        assert f"argument {option}: 's3://bucket/x' is a URL of the scheme 's3'" in ended.stderr


def test_serve_refuses_the_variable(tmp_path):
    ended = run_python(
        "import sys; from slimctr.cli import main; sys.argv = ['slimctr', 'serve']; main()",
        SLIMCTR_STORE="s3://bucket/models",
    )
    assert ended.returncode == 2
    assert "'s3://bucket/models' is a URL of the scheme 's3'" in ended.stderr


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
