"""`slimctr evaluate`: a version scores a prepared data set as the engine does, and refuses one it does not fit."""

import json

import numpy as np
import pytest
import typer
from artifacts import build_artifact
from rounding import auc_error, served_logits
from typer.testing import CliRunner

from model_store.errors import NotFound
from model_store.store import ModelStore
from slimctr.clicklogs import Dataset, PrepareSettings, prepare
from slimctr.commands.evaluate import base_vocabulary, evaluate
from slimctr.compression import compress
from slimctr.errors import ConfigError
from slimctr.export import publish_run
from slimctr.quality import summary
from slimctr.scoring import Scorer
from slimctr.training import TrainConfig, train

app = typer.Typer()
app.command()(evaluate)


def write_log(path, rows, seed):
    rng = np.random.default_rng(seed)
    lines = [f"{rng.integers(0, 2)},u{rng.integers(0, 40)},a{rng.integers(0, 9)}" for _ in range(rows)]
    path.write_text("\n".join(["label,user,ad", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with two data sets and a store of one model made for the first."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name, seed in (("data", 1), ("other", 2)):
        log = write_log(folder / f"{name}.csv", 3000, seed)
        prepare(PrepareSettings("csv", log, label="label"), folder / name)
    build_artifact(folder / "models", label="stable", dataset=folder / "data")
    return folder


def run(root, *arguments):
    result = CliRunner().invoke(app, ["--store", str(root / "models"), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_figures_are_those_of_the_engine(root):
    result = json.loads(run(root, "--model", "ctr@1", "--data", str(root / "data"), "--json"))
    test = Dataset(root / "data").load("test")
    logits = Scorer.open(root / "models" / "ctr" / "1").logits(test.batch)
    expected = summary(test.labels, logits)
    assert (result["model"], result["version"], result["split"]) == ("ctr", "1", "test")
    assert result["rows"] == len(test) > 100
    for figure in ("auc", "logloss", "ne", "calibration"):
        assert result[figure] == expected[figure]  # the same rows in the same batches
    assert result["rows_per_second"] > 0
    assert result["bytes"]["payload"] > 0


def test_the_batch_size_changes_nothing_but_speed(root):
    one, many = (
        json.loads(run(root, "--model", "ctr", "--data", str(root / "data"), "--json", "--batch-rows", rows))
        for rows in ("7", "4096")
    )
    assert one["rows"] == many["rows"]
    # a loss is off by no more than its logit, which ONNX Runtime may round otherwise by batch
    assert one["logloss"] == pytest.approx(many["logloss"], abs=1e-4)


def test_text_names_version_split_and_figures(root):
    output = run(root, "--model", "ctr", "--data", str(root / "data"), "--split", "valid")
    assert "ctr@1 on valid" in output
    for word in ("auc 0.", "logloss 0.", "ne ", "calibration ", "rows/s"):
        assert word in output


def test_another_data_set_is_refused(root):
    with pytest.raises(ConfigError, match="trained with another vocabulary"):
        run(root, "--model", "ctr", "--data", str(root / "other"))


def test_another_schema_over_the_same_vocabulary_is_refused(root):
    manifest = ModelStore(root / "models").manifest("ctr", 1)
    first, *others = manifest.features["fields"]
    features = {**manifest.features, "fields": [{**first, "required": True}, *others]}
    with pytest.raises(ConfigError, match="trained with another schema"):
        base_vocabulary(
            manifest.model_copy(update={"features": features, "encoder": "0" * 64}), Dataset(root / "data")
        )


def test_renumbered_rows_read_the_values_of_the_data_set(root, tmp_path):
    small = {"network": "dnn", "dim": 4, "epochs": 1, "params": {"hidden": [8]}}
    original = train(TrainConfig.resolve(small), root / "data", tmp_path / "run")
    settings = {"kept_share": 0.5, "epochs": 0, "zero_rows": "oov"}
    smaller = compress(original, "magnitude_rows", settings, root / "data", tmp_path / "fewer")
    publish_run(smaller, ModelStore(root / "models"), "fewer", data=root / "data")
    result = json.loads(run(root, "--model", "fewer", "--data", str(root / "data"), "--json"))
    test = Dataset(root / "data").load("test")
    ties = auc_error(test.labels, *served_logits(smaller.model, test.batch))
    assert result["auc"] == pytest.approx(smaller.metrics["test"]["auc"], abs=ties)


def test_an_unknown_model(root):
    with pytest.raises(NotFound, match="no model 'other'; models: ctr"):
        run(root, "--model", "other", "--data", str(root / "data"))
