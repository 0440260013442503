"""`auto` gives settings for the size of a log, and they train it better than the click rate alone."""

import pytest
import yaml
from typer import Typer
from typer.testing import CliRunner

from slimctr.clicklogs import PrepareSettings, prepare
from slimctr.clicklogs.dataset import Dataset
from slimctr.clicklogs.synthetic import SyntheticSpec
from slimctr.commands.train import train as command
from slimctr.networks import NETWORKS
from slimctr.training import TrainConfig, train
from slimctr.training.auto import auto_settings

pytestmark = pytest.mark.slow  # trains


class Sized:
    """A data set of which only the size is known."""

    def __init__(self, rows, clicks):
        self.info = {"splits": {"train": {"rows": rows, "clicks": clicks}}}


def shape(rows, clicks):
    settings = auto_settings(Sized(rows, clicks))
    return settings["batch_rows"], settings["dim"], settings["params"]["hidden"]


def test_larger_logs_get_larger_batches_and_networks():
    assert shape(7_000, 1_500) == (256, 4, [64, 32])
    assert shape(90_000, 30_000) == (512, 4, [64, 32])
    assert shape(200_000, 60_000) == (1024, 8, [64, 32])
    assert shape(3_000_000, 900_000) == (4096, 10, [400, 400, 400])


def test_rare_clicks_make_a_large_log_a_small_one():
    assert shape(3_000_000, 3_000) == (4096, 4, [64, 32])
    assert shape(200_000, 0) == (1024, 4, [64, 32])


@pytest.mark.parametrize("network", NETWORKS)
def test_its_settings_fit_every_network(network):
    for rows in (10, 50_000, 10**7):
        TrainConfig.resolve(auto_settings(Sized(rows, rows // 3)), {"network": network})


def test_the_command_takes_it_by_default_and_the_run_says_what_was_used(click_data, tmp_path):
    app = Typer()
    app.command()(command)
    arguments = ["--data", str(click_data), "--set", "epochs=1", "--out"]
    for name, more in (("default", []), ("named", ["--config", "auto"])):
        result = CliRunner().invoke(app, [*arguments, str(tmp_path / name), *more])
        assert result.exit_code == 0, result.output
    used = yaml.safe_load((tmp_path / "default" / "config.yaml").read_text())
    assert used == yaml.safe_load((tmp_path / "named" / "config.yaml").read_text())
    assert (used["epochs"], used["batch_rows"], used["dim"]) == (1, 256, 4)
    assert used["params"]["hidden"] == [64, 32]


@pytest.mark.parametrize("network", ["deepfm", "dcnv2"])
def test_a_log_of_rare_clicks_is_not_scored_worse_than_by_its_click_rate(network, tmp_path):
    """The defaults of before gave NE 1.1 and 3.3 here, and 2.7 and 13.8 times too many clicks."""
    spec = SyntheticSpec(rows=24_000, ids=20_000, click_rate=0.02, seed=3)
    prepare(PrepareSettings(log_format="synthetic", synthetic=spec), tmp_path / "data")
    dataset = Dataset(tmp_path / "data")
    config = TrainConfig.resolve(auto_settings(dataset), {"network": network})
    figures = train(config, dataset.path, tmp_path / "run").metrics["valid"]
    assert figures["ne"] < 1
    assert 0.5 < figures["calibration"] < 2  # 36 clicks know it to 0.17, one standard error
