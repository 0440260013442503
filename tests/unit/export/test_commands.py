"""`slimctr compress` and `slimctr publish` as a person runs them."""

import json
import shutil
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from model_store.errors import InvalidName
from model_store.store import ModelStore
from slimctr.commands.compress import compress
from slimctr.commands.publish import publish
from slimctr.errors import CompressionError, ExportError
from slimctr.export import publish_run


@pytest.fixture
def app():
    commands = typer.Typer()
    commands.command()(compress)
    commands.command()(publish)
    return commands


def test_a_run_is_compressed_and_published(app, run, tmp_path):
    small, store = tmp_path / "small", tmp_path / "models"
    command = ["compress", "--run", run.path, "--method", "ptq", "--set", "bits=4", "--out", small]
    told = CliRunner().invoke(app, list(map(str, command)), catch_exceptions=False)
    assert told.exit_code == 0
    assert "ptq bits=4 ..." in told.output
    assert "|Δlogit|, mean" in told.output
    command = ["publish", "--run", small, "--store", store, "--name", "tiny", "--label", "stable"]
    told = CliRunner().invoke(app, list(map(str, command)), catch_exceptions=False)
    assert told.exit_code == 0
    assert "tiny@1 = tiny@stable" in told.output
    manifest = ModelStore(store).manifest("tiny", 1)
    assert f"{manifest.artifact_bytes:,}" in told.output
    assert max(map(len, told.output.splitlines())) <= 80


def test_a_model_whose_probabilities_are_wrong_is_published_only_when_that_is_allowed(app, run, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(run.path, bad)
    metrics = json.loads((bad / "metrics.json").read_text())
    metrics["test"]["calibration"] = 2.0
    (bad / "metrics.json").write_text(json.dumps(metrics))
    store = tmp_path / "models"
    command = ["publish", "--run", str(bad), "--store", str(store), "--name", "tiny"]
    with pytest.raises(ExportError, match=r"test: calibration is 2\.00.*--allow-uncalibrated"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert ModelStore(store).models() == []
    told = CliRunner().invoke(app, [*command, "--allow-uncalibrated"], catch_exceptions=False)
    assert told.exit_code == 0
    assert "warning: test: calibration is 2.00" in told.output
    assert ModelStore(store).versions("tiny") == [1]


def test_a_wrong_setting_is_an_expected_error(app, run, tmp_path):
    command = [
        "compress",
        "--run",
        run.path,
        "--method",
        "ptq",
        "--set",
        "bit=4",
        "--out",
        tmp_path / "small",
    ]
    with pytest.raises(CompressionError, match="did you mean 'bits'"):
        CliRunner().invoke(app, list(map(str, command)), catch_exceptions=False)


def test_help_does_not_load_torch():
    code = "import slimctr.commands.compress, slimctr.commands.publish, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("names", [("a b", "stable"), ("tiny", "7")])
def test_a_name_that_none_may_have_publishes_nothing(run, tmp_path, names):
    store = ModelStore(tmp_path / "models")
    with pytest.raises(InvalidName):
        publish_run(run, store, *names)
    assert store.models() == []
