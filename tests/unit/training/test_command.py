import json

import pytest
import typer
from typer.testing import CliRunner

from slimctr.commands.train import train
from slimctr.errors import ConfigError


@pytest.fixture
def app():
    made = typer.Typer()
    made.command()(train)
    return made


SMALL = ["--set", "params.hidden=[8]", "--set", "epochs=2", "--set", "batch_rows=512", "--set", "dim=2"]


def test_train_writes_a_run_and_shows_every_epoch(app, click_data, tmp_path):
    out = tmp_path / "run"
    result = CliRunner().invoke(
        app, ["--data", str(click_data), "--out", str(out), "--network", "dnn", "--threads", "1", *SMALL]
    )
    assert result.exit_code == 0, result.output
    assert result.output.count("valid AUC") == 2
    auc = json.loads((out / "metrics.json").read_text())["test"]["auc"]
    assert f"test   auc {auc:.5f}" in result.output
    assert str(out) in result.output
    assert "their rate has NE 1" in result.output
    assert "logistic regression  auc 0." in result.output


def test_train_warns_of_a_model_that_cannot_be_trusted(app, click_data, tmp_path):
    arguments = ["--data", str(click_data), "--out", str(tmp_path / "run"), "--network", "dnn", *SMALL]
    wrong = ["--set", "bias_start=zero", "--set", "learning_rate=1e-9", "--set", "epochs=1"]
    result = CliRunner().invoke(app, [*arguments, *wrong])
    assert result.exit_code == 0, result.output
    assert "warning: test: NE is" in result.output
    assert "warning: test: calibration is" in result.output
    assert "warning: test: a logistic regression orders the rows better" in result.output


def test_set_stands_above_network_which_stands_above_the_file(app, click_data, tmp_path):
    file, out = tmp_path / "c.yaml", tmp_path / "run"
    file.write_text("network: dcn\nseed: 4\nlearning_rate: 0.5\n")
    arguments = ["--config", str(file), "--network", "dnn", "--set", "learning_rate=0.01", *SMALL]
    result = CliRunner().invoke(app, ["--data", str(click_data), "--out", str(out), *arguments])
    assert result.exit_code == 0, result.output
    written = (out / "config.yaml").read_text()
    assert "network: dnn" in written
    assert "seed: 4" in written
    assert "learning_rate: 0.01" in written


def test_a_misspelled_setting_is_an_expected_error(app, click_data, tmp_path):
    result = CliRunner().invoke(
        app, ["--data", str(click_data), "--out", str(tmp_path / "r"), "--set", "epoch=1"]
    )
    assert isinstance(result.exception, ConfigError)
    assert "did you mean 'epochs'" in str(result.exception)
