"""What `make reproduce` made before is taken again only where settings, files and originals are the same."""

import numpy as np
import pytest
import torch

from benchmarks.compression.measure import data_digest, is_record_of, make_run, prepare_data
from benchmarks.compression.plan import ORIGINAL, DataSource, Task
from slimctr.training import TrainConfig

CONFIG = TrainConfig.resolve(
    {
        "network": "dnn",
        "dim": 4,
        "params": {"hidden": [8]},
        "epochs": 1,
        "batch_rows": 64,
        "learning_rate": 0.01,
    }
)
SOURCE = DataSource(folder="log", log_format="csv")


@pytest.fixture
def log(tmp_path):
    (tmp_path / "log").mkdir()
    return lambda seed: write_log(tmp_path / "log", seed)


def write_log(folder, seed):
    draw = np.random.default_rng(seed)
    for split in ("train", "valid", "test"):
        rows = (
            f"{label},c{color}"
            for label, color in zip(draw.integers(0, 2, 200), draw.integers(0, 9, 200), strict=True)
        )
        (folder / f"{split}.csv").write_text("\n".join(["label,color", *rows]) + "\n")


def test_an_encoded_log_is_known_by_its_settings_and_files(log, tmp_path):
    log(1)
    work = tmp_path / "work"
    data = prepare_data("log", SOURCE, tmp_path, work)
    first, written = data_digest(data), (data / "dataset.json").stat().st_mtime_ns
    assert prepare_data("log", SOURCE, tmp_path, work) == data
    assert (data / "dataset.json").stat().st_mtime_ns == written
    log(2)
    prepare_data("log", SOURCE, tmp_path, work)
    second = data_digest(data)
    assert second != first
    prepare_data("log", SOURCE.model_copy(update={"min_count": 20}), tmp_path, work)
    assert data_digest(data) not in (first, second)
    assert is_record_of({"data_sha256": data_digest(data)}, data)
    assert not is_record_of({"data_sha256": first}, data)


def test_a_run_is_known_by_its_data_and_its_original(log, tmp_path):
    torch.set_num_threads(1)
    log(1)
    work = tmp_path / "work"
    data = prepare_data("log", SOURCE, tmp_path, work)
    variant = Task("log", CONFIG, "rows8", "ptq")
    first = make_run(variant, data, work)
    assert make_run(variant, data, work).sha256 == first.sha256
    log(2)
    prepare_data("log", SOURCE, tmp_path, work)
    second = make_run(variant, data, work)
    assert second.sha256 != first.sha256
    assert second.lineage.parent_sha256 == make_run(Task("log", CONFIG, ORIGINAL), data, work).sha256
