from pathlib import Path

import pytest
import torch

from slimctr.clicklogs import PrepareSettings, prepare
from slimctr.clicklogs.dataset import Dataset
from slimctr.clicklogs.synthetic import SyntheticSpec
from slimctr.training import TrainConfig


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums depend on the number of threads; these tests compare bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def click_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic log of 6,000 rows and four fields, encoded."""
    spec = SyntheticSpec(rows=6_000, cardinalities=(4, 12, 40, 150), logit_std=2.5, seed=7)
    folder = tmp_path_factory.mktemp("clicks") / "data"
    prepare(PrepareSettings(log_format="synthetic", synthetic=spec), folder)
    return folder


@pytest.fixture(scope="session")
def dataset(click_data: Path) -> Dataset:
    return Dataset(click_data)


@pytest.fixture(scope="session")
def config() -> TrainConfig:
    """Settings that learn the synthetic log in three short epochs."""
    return TrainConfig.resolve(
        {"network": "deepfm", "dim": 4, "params": {"hidden": [16]}, "epochs": 3, "batch_rows": 256},
        {"learning_rate": 0.01, "seed": 5},
    )
