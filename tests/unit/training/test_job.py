import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rounding import FLOAT32, SUMS64

from slimctr import quality
from slimctr.clicklogs import Dataset, PrepareSettings, prepare
from slimctr.clicklogs.synthetic import SyntheticSpec
from slimctr.errors import ConfigError
from slimctr.folders import sole_writer
from slimctr.training import Silent, TensorSplit, evaluate, initial_model, load_run, score, train
from slimctr.training.job import set_untrained_oov_rows


def test_a_run_holds_what_was_trained(config, click_data, dataset, tmp_path):
    run = train(config.changed(gauc_field="C1"), click_data, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    scores = evaluate(loaded.model, dataset, "test")
    assert run.metrics == loaded.metrics
    assert loaded.metrics["test"]["auc"] == quality.auc(scores.labels, scores.logits) > 0.7
    assert set(loaded.metrics["valid"]) >= {"auc", "logloss", "ne", "calibration", "gauc"}
    users = TensorSplit.of(dataset.load("test")).ids[:, 0].numpy()
    assert loaded.metrics["test"]["gauc"] == quality.gauc(scores.labels, scores.logits, users)
    assert loaded.lineage.seed == config.seed
    digests = {entry["file"]: entry["sha256"] for entry in dataset.info["files"]}
    assert loaded.lineage.data_sha256 == digests
    assert loaded.lineage.oov_fields_set_to_mean == ("C1", "C2", "C3", "C4")
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 3
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_an_untrained_oov_row_becomes_the_mean_row_weighted_by_count(config, dataset):
    model = initial_model(config, dataset)
    for table in [*model.tables, *model.wide]:
        torch.nn.init.normal_(table.weight)
    counts = [np.ones(rows, np.int64) for rows in dataset.rows_per_field]
    counts[1] = np.arange(dataset.rows_per_field[1])
    kept = model.tables[0].weight[0].clone()
    rows = model.tables[1].weight[1:].detach().double().numpy()
    expected = np.average(rows, axis=0, weights=counts[1][1:])
    wide = np.average(model.wide[1].weight[1:, 0].detach().double().numpy(), weights=counts[1][1:])
    assert set_untrained_oov_rows(model, counts) == [1]
    assert model.tables[1].weight[0].tolist() == pytest.approx(expected, rel=2 * FLOAT32, abs=SUMS64)
    assert model.wide[1].weight[0].item() == pytest.approx(wide, rel=2 * FLOAT32, abs=SUMS64)
    assert torch.equal(model.tables[0].weight[0], kept)


def test_an_existing_run_is_not_overwritten_and_a_finished_one_is_returned(config, click_data, tmp_path):
    first = train(config.changed(epochs=1), click_data, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"holds a run already.*--resume"):
        train(config.changed(epochs=1), click_data, tmp_path / "run")
    again = train(config.changed(epochs=1), click_data, tmp_path / "run", resume=True)
    assert again.metrics == first.metrics


def test_resuming_with_other_settings_or_other_data_is_refused(config, click_data, tmp_path):
    train(config.changed(epochs=1), click_data, tmp_path / "run")
    with pytest.raises(ConfigError, match="epochs was 1, is 3"):
        train(config, click_data, tmp_path / "run", resume=True)
    spec = SyntheticSpec(rows=6_000, cardinalities=(4, 12, 40, 150), seed=8)
    prepare(PrepareSettings(log_format="synthetic", synthetic=spec), tmp_path / "other")
    with pytest.raises(ConfigError, match="started on other data"):
        train(config.changed(epochs=1), tmp_path / "other", tmp_path / "run", resume=True)


def test_a_gauc_field_that_does_not_exist_is_refused_before_anything_is_written(config, click_data, tmp_path):
    with pytest.raises(ConfigError, match=r"gauc_field 'user'.*choose from C1, C2, C3, C4"):
        train(config.changed(gauc_field="user"), click_data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Told(Silent):
    """What a training told, in order."""

    def __init__(self):
        self.lines = []

    def note(self, sentence):
        self.lines.append(sentence)

    def epoch(self, record):
        self.lines.append(record.epoch)


@pytest.fixture(scope="module")
def single_rows(tmp_path_factory):
    """A log with a field that is another value in every row."""
    folder, draw = tmp_path_factory.mktemp("single"), np.random.default_rng(2)
    table = pa.table(
        {
            "label": draw.integers(0, 2, 400),
            "user": [f"u{row}" for row in range(400)],
            "color": [f"c{c}" for c in draw.integers(0, 4, 400)],
        }
    )
    schema = {"fields": [{"name": name, "kind": "categorical"} for name in ("user", "color")]}
    pq.write_table(table, folder / "log.parquet")
    (folder / "schema.json").write_text(json.dumps(schema))
    settings = PrepareSettings(
        "parquet", folder / "log.parquet", "label", folder / "schema.json", hash_rows={"user": 10**6}
    )
    prepare(settings, folder / "data")
    return folder / "data"


def test_a_gauc_that_no_group_defines_is_left_out_and_said_before_the_first_epoch(
    config, single_rows, tmp_path
):
    told = Told()
    settings = config.changed(gauc_field="user", epochs=2)
    run = train(settings, single_rows, tmp_path / "run", progress=told)
    assert told.lines[2:] == [1, 2]
    for split, line in zip(("valid", "test"), told.lines, strict=False):
        assert line.startswith(
            f"gAUC of the {split} rows is left out: no value of gauc_field 'user' has both"
        )
        assert "gauc" not in run.metrics[split]
        assert run.metrics[split]["logloss"] > 0
    assert load_run(tmp_path / "run").metrics == run.metrics


def test_a_training_that_ended_before_its_metrics_is_completed_by_resume(
    config, single_rows, tmp_path, monkeypatch
):
    """As runs do whose last epoch was followed by a fault: the checkpoint has everything."""

    def fails(*_):
        raise RuntimeError

    settings, out = config.changed(epochs=2), tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("slimctr.training.job.measure", fails)
        with pytest.raises(RuntimeError):
            train(settings, single_rows, out)
    told = Told()
    run = train(config.changed(epochs=2), single_rows, tmp_path / "run", resume=True, progress=told)
    assert told.lines == []
    assert run.metrics["test"]["auc"] > 0


def test_metrics_of_scores_that_are_not_finite_are_left_out_and_the_run_is_saved(
    config, single_rows, tmp_path, monkeypatch
):
    told, rows = Told(), Dataset(single_rows).info["splits"]["test"]["rows"]
    monkeypatch.setattr(
        "slimctr.training.job.score",
        lambda model, split: score(model, split) * (np.nan if len(split) == rows else 1),
    )
    run = train(config.changed(epochs=1), single_rows, tmp_path / "run", progress=told)
    assert run.metrics["test"] == {}
    assert "auc" in run.metrics["valid"]
    assert "metrics of the test rows are left out: logit of row 0 is nan" in told.lines[-1]
    assert load_run(tmp_path / "run").metrics == run.metrics


def test_memory_and_disk_that_do_not_suffice_are_refused_before_anything_is_written(
    config, single_rows, tmp_path, monkeypatch
):
    huge = config.changed(dim=4096, params={"hidden": [65_536] * 64})
    with pytest.raises(ConfigError, match=r"takes .* GB of memory and .* are free: lower dim \(now 4096\)"):
        train(huge, single_rows, tmp_path / "run")
    monkeypatch.setattr("slimctr.training.room.free_memory", lambda: None)
    with pytest.raises(ConfigError, match=r"take .* GB of disk and .* are free at .*make room"):
        train(huge, single_rows, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_trainings_into_one_folder_do_not_mix(config, single_rows, tmp_path):
    with sole_writer(tmp_path / "run"), pytest.raises(ConfigError, match="another command writes into"):
        train(config, single_rows, tmp_path / "run")


@pytest.mark.parametrize("clicks", [1, 2])
def test_an_epoch_without_a_step_is_refused_before_the_first(config, clicks, tmp_path):
    (tmp_path / "log").mkdir()
    for split in ("train", "valid", "test"):
        rows = "".join(f"{int(row < clicks)},c{row % 3}\n" for row in range(20))
        (tmp_path / "log" / f"{split}.csv").write_text("label,color\n" + rows)
    prepare(PrepareSettings(log_format="csv", source=tmp_path / "log"), tmp_path / "data")
    rare = config.changed(negative_sampling_rate=1e-300, network="dnn", epochs=2)
    if clicks == 2:
        assert train(rare, tmp_path / "data", tmp_path / "run").metrics["valid"]["clicks"] == 2
        return
    with pytest.raises(
        ConfigError, match=r"negative_sampling_rate is 1e-300 .* 1 click.* set negative_sampling_rate=1"
    ):
        train(rare, tmp_path / "data", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_rate_of_negative_sampling_travels_with_the_model(config, click_data, dataset, tmp_path):
    settings = config.changed(negative_sampling_rate=0.3)
    run = train(settings, click_data, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    assert loaded.spec.negative_sampling_rate == 0.3
    assert loaded.model.logit_correction == pytest.approx(np.log(0.3))
    split = TensorSplit.of(dataset.load("test"))
    assert np.array_equal(score(loaded.model, split), score(run.model, split))


def test_a_split_without_clicks_is_refused(config, tmp_path):
    (tmp_path / "log").mkdir()
    for split, labels in [("train", "01"), ("valid", "00"), ("test", "01")]:
        rows = "".join(f"{label},{value}\n" for label, value in zip(labels, "ab", strict=True))
        (tmp_path / "log" / f"{split}.csv").write_text("label,color\n" + rows)
    prepare(PrepareSettings(log_format="csv", source=tmp_path / "log"), tmp_path / "data")
    with pytest.raises(ConfigError, match=r"the valid split .* has no click or nothing but clicks"):
        train(config, tmp_path / "data", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_multi_valued_fields_train_through_their_bags(config, tmp_path):
    """Only the tags tell clicks apart, and only their set: a model that ignores bags cannot learn them."""
    draw = np.random.default_rng(4)
    for split, rows in [("train", 4_000), ("valid", 1_000), ("test", 1_000)]:
        tags = [[f"t{tag}" for tag in draw.integers(0, 8, draw.integers(1, 4))] for _ in range(rows)]
        labels = [int("t1" in bag or "t5" in bag) for bag in tags]
        colors = [f"c{color}" for color in draw.integers(0, 3, rows)]
        table = pa.table({"label": labels, "color": colors, "tags": tags})
        (tmp_path / "log").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "log" / f"{split}.parquet")
    prepare(PrepareSettings(log_format="parquet", source=tmp_path / "log"), tmp_path / "data")
    run = train(config.changed(epochs=6), tmp_path / "data", tmp_path / "run")
    assert run.spec.pooling == (None, "mean")
    assert run.metrics["test"]["auc"] > 0.95
