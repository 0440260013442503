"""A training killed without warning goes on and ends with the bits of one that was never interrupted."""

import signal
import subprocess
import sys

import pytest
import torch

from slimctr.errors import ConfigError
from slimctr.training import load_run, train

pytestmark = pytest.mark.slow  # trains in processes that are killed

KILLED_TRAINING = """
import os, signal, sys, yaml
from pathlib import Path
import torch
from slimctr.training import Silent, TrainConfig, train

class Killer(Silent):
    def step(self, epoch, step, steps, loss):
        if sys.argv[4] == f"step {epoch}.{step}":
            os.kill(os.getpid(), signal.SIGKILL)

    def epoch(self, record):
        if sys.argv[4] == f"epoch {record.epoch}":
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
config = TrainConfig.resolve(yaml.safe_load(sys.argv[1]))
train(config, Path(sys.argv[2]), Path(sys.argv[3]), progress=Killer())
"""


@pytest.fixture(scope="module")
def straight(config, click_data, tmp_path_factory):
    return train(config, click_data, tmp_path_factory.mktemp("straight") / "run")


@pytest.mark.parametrize("moment", ["step 1.4", "epoch 1", "step 3.7", "epoch 3"])
def test_a_killed_training_ends_with_the_same_weights(moment, straight, config, click_data, tmp_path):
    arguments = [config.model_dump_json(), str(click_data), str(tmp_path / "killed"), moment]
    process = subprocess.run(
        [sys.executable, "-c", KILLED_TRAINING, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    with pytest.raises(ConfigError, match="unfinished training"):
        load_run(tmp_path / "killed")
    resumed = train(config, click_data, tmp_path / "killed", resume=True)
    assert resumed.metrics == straight.metrics
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    history = (tmp_path / "killed" / "history.jsonl").read_text().splitlines()
    assert len(history) == 3


def test_a_damaged_checkpoint_is_named(config, click_data, tmp_path):
    train(config.changed(epochs=1), click_data, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match=r"checkpoint '.*checkpoint\.pt' is damaged"):
        train(config.changed(epochs=1), click_data, tmp_path / "run", resume=True)
