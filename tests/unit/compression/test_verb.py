"""`compress` from run to run: chains, recipes, fine-tuning, lineage, report, refusals."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from rounding import FLOAT32, SUMS64
from tiny_runs import tiny_run

from model_store.store import ModelStore
from slimctr.compression import RECIPES, REPORT_FILE, chain, compress, report_table
from slimctr.compression.data import CompressionData
from slimctr.compression.method import find_method
from slimctr.compression.report import model_bytes
from slimctr.compression.verb import fine_tune
from slimctr.errors import CompressionError, ConfigError, ExportError
from slimctr.export import publish_run
from slimctr.training import Silent, load_run, score

pytestmark = pytest.mark.slow  # trains


@pytest.fixture(scope="module")
def small(run, tmp_path_factory):
    settings = {"feature_pca": {"table_rank": 4, "epochs": 1}, "ptq": {"bits": 8}}
    return compress(run, "feature_pca+ptq", settings, None, tmp_path_factory.mktemp("small") / "run")


def test_chain_is_written_into_the_lineage(run, small):
    again = load_run(small.path)
    assert [step.method for step in again.lineage.methods] == ["feature_pca", "ptq"]
    assert again.lineage.methods[0].settings["table_rank"] == 4
    assert again.lineage.methods[0].statistics["kept_epoch"] == 1
    assert again.lineage.methods[1].statistics["kept_epoch"] == 0
    assert again.lineage.parent == str(run.path)
    assert again.lineage.data_sha256 == run.lineage.data_sha256
    assert again.metrics["test"]["auc"] == small.metrics["test"]["auc"]


def test_report_compares_with_the_original(run, small):
    report = json.loads((small.path / REPORT_FILE).read_text())
    assert set(report) == {"original", "compressed"}
    assert report["original"]["test"]["auc"] == pytest.approx(run.metrics["test"]["auc"])
    assert report["original"]["bytes"]["payload"] == 4 * 9 * sum(run.spec.rows)
    expected = report["original"]["bytes"]["payload"] / report["compressed"]["bytes"]["payload"]
    assert report["original"]["ratio_payload"] == pytest.approx(expected)
    assert expected > 5
    assert report["original"]["fidelity"]["mean_abs_logit_difference"] > 0
    assert report["original"]["fidelity"]["p99_abs_logit_difference"] < 5
    assert [column.header for column in report_table(report).columns][1:] == ["original", "compressed"]


def test_a_second_run_is_compared_with_parent_and_original(run, small, tmp_path):
    first = compress(run, "feature_pca", {"mlp": False, "epochs": 0}, None, tmp_path / "one")
    second = compress(first, "ptq", {"bits": 4}, None, tmp_path / "two")
    report = json.loads((second.path / REPORT_FILE).read_text())
    assert list(report) == ["original", "parent", "compressed"]
    assert (
        report["parent"]["bytes"] == json.loads((first.path / REPORT_FILE).read_text())["compressed"]["bytes"]
    )
    assert [step.method for step in second.lineage.methods] == ["feature_pca", "ptq"]


def told():
    progress = Silent()
    progress.lines = []
    progress.note = progress.lines.append
    return progress


def test_a_parent_is_known_by_its_digest(run, dataset, tmp_path):
    """Trained anew at the same path, it is another model: no column and no fidelity of it, and the run is there."""
    where = tmp_path / "original"
    shutil.copytree(run.path, where)
    first = compress(load_run(where), "ptq", {"bits": 8}, None, tmp_path / "first")
    assert first.lineage.parent_sha256 == run.sha256
    shutil.rmtree(where)
    tiny_run(dataset, where, seed=9, epochs=1)
    progress = told()
    second = compress(first, "network_ptq", {}, None, tmp_path / "second", progress=progress)
    report = json.loads((second.path / REPORT_FILE).read_text())
    assert list(report) == ["parent", "compressed"]
    assert report["parent"]["sha256"] == first.sha256
    (line,) = progress.lines
    assert "the report leaves the original out" in line
    assert "it was made anew" in line
    shutil.rmtree(where)
    third = compress(first, "recalibrate", {}, None, tmp_path / "third", progress=progress)
    assert list(json.loads((third.path / REPORT_FILE).read_text())) == ["parent", "compressed"]
    assert "is no run directory" in progress.lines[-1]
    assert publish_run(third, ModelStore(tmp_path / "store"), "m").manifest.fidelity == {}


def test_a_run_of_which_no_digest_of_the_parent_is_known_has_no_original(run, tmp_path):
    first = compress(run, "ptq", {"bits": 8}, None, tmp_path / "first")
    unknown = dataclasses.replace(first, lineage=first.lineage.model_copy(update={"parent_sha256": None}))
    second = compress(unknown, "network_ptq", {}, None, tmp_path / "second")
    assert "original" not in json.loads((second.path / REPORT_FILE).read_text())


def test_fidelity_is_that_of_the_run_that_is_published(run, tmp_path):
    first = compress(run, "ptq", {"bits": 8}, None, tmp_path / "first")
    second = compress(run, "ptq", {"bits": 4}, None, tmp_path / "second")
    store = ModelStore(tmp_path / "store")
    expected = json.loads((second.path / REPORT_FILE).read_text())["original"]["fidelity"]
    assert publish_run(second, store, "m").manifest.fidelity == expected
    shutil.copy(first.path / REPORT_FILE, second.path / REPORT_FILE)
    assert publish_run(second, store, "m").manifest.fidelity == {}


def test_a_run_that_changed_since_it_was_loaded_is_not_published(run, tmp_path):
    first = compress(run, "ptq", {"bits": 8}, None, tmp_path / "first")
    second = compress(run, "ptq", {"bits": 4}, None, tmp_path / "second")
    for name in ("spec.json", "weights.safetensors"):
        shutil.copy(second.path / name, first.path / name)
    with pytest.raises(ExportError, match="written anew since it was loaded"):
        publish_run(first, ModelStore(tmp_path / "store"), "m")
    assert ModelStore(tmp_path / "store").versions("m") == []


def test_a_calibration_is_a_part_of_what_a_run_is(run, tmp_path):
    calibrated = compress(run, "recalibrate", {}, None, tmp_path / "calibrated")
    assert calibrated.sha256["weights.safetensors"] == run.sha256["weights.safetensors"]
    assert calibrated.sha256 != run.sha256


def test_a_report_that_cannot_be_made_costs_no_run(run, tmp_path, monkeypatch):
    def fails(models):
        raise ValueError("a figure is not defined")

    monkeypatch.setattr("slimctr.compression.verb.build_report", fails)
    progress = told()
    made = compress(run, "ptq", {}, None, tmp_path / "out", progress=progress)
    assert progress.lines == ["the report is left out: a figure is not defined"]
    assert load_run(made.path).metrics == made.metrics


def test_model_bytes_count_what_is_stored(small):
    spec, counted = small.model.spec, model_bytes(small.model)
    rows = dict(zip(spec.field_names, spec.rows, strict=True))
    assert counted.tables == 4 * (sum(rows.values()) - rows["weekday"]) + (8 + 4) * rows["weekday"]
    assert counted.wide == sum(rows.values())
    assert counted.scales == 8 * (4 * 4 + 5)
    assert counted.payload + counted.scales + counted.network == counted.total


def test_fine_tuning_lowers_the_loss_and_moves_only_what_it_may(run, dataset):
    data = CompressionData(dataset, run.config)
    method = find_method("feature_pca")
    for train_codes in (True, False):
        config = method.configure({"table_rank": 2, "epochs": 1, "train_codes": train_codes})
        model = method.apply(run.model, data, config).model
        codes, basis = model.tables[0].weight.detach().clone(), model.expands[0].basis.detach().clone()
        tuned = fine_tune(model, config, data)
        assert tuned.kept_epoch == 1
        assert tuned.history[0].valid_auc > tuned.auc_before
        assert tuned.history[0].learning_rate == pytest.approx(0.1 * run.config.learning_rate)
        assert torch.equal(codes, model.tables[0].weight) != train_codes
        assert not torch.equal(basis, model.expands[0].basis)
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_imitation_brings_scores_closer_to_those_of_the_model_given(run, dataset):
    data = CompressionData(dataset, run.config, teacher=run.model)
    method, valid = find_method("feature_pca"), data.split("valid")
    original, distances = score(run.model, valid), {}
    for kd_weight in (0, 10):
        config = method.configure({"table_rank": 2, "epochs": 2, "kd_weight": kd_weight})
        model = method.apply(run.model, data, config).model
        fine_tune(model, config, data)
        distances[kd_weight] = np.square(score(model, valid) - original).mean()
    assert distances[10] < 0.7 * distances[0]


def test_imitation_without_epochs_is_refused():
    with pytest.raises(CompressionError, match="kd_weight works while epochs are trained"):
        find_method("ptq").configure({"kd_weight": 0.3})


def test_training_that_does_not_help_is_undone(run, dataset):
    data = CompressionData(dataset, run.config)
    method = find_method("ptq")
    config = method.configure({"epochs": 1, "learning_rate_factor": 100})
    model = method.apply(run.model, data, config).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = fine_tune(model, config, data)
    assert tuned.kept_epoch == 0
    assert tuned.history[0].valid_auc < tuned.auc_before
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_unread_oov_rows_follow_the_mean_after_fine_tuning(run, dataset):
    data = CompressionData(dataset, run.config)
    method = find_method("feature_pca")
    config = method.configure({"table_rank": 3, "epochs": 1})
    model = method.apply(run.model, data, config).model
    assert fine_tune(model, config, data).kept_epoch == 1  # rank 3 of 8 costs more than an epoch gives back
    assert data.counts[0][0] == 0
    share = data.counts[0] / data.counts[0].sum()
    codes = model.tables[0].weight.detach().double().numpy()
    # a sum in float64, rounded once
    rounded = FLOAT32 * np.abs(share @ codes) + SUMS64 * (share @ np.abs(codes))
    assert (np.abs(codes[0] - share @ codes) <= rounded).all()


def test_compression_does_not_touch_its_input(run, small):
    torch.testing.assert_close(load_run(run.path).model.state_dict(), run.model.state_dict(), rtol=0, atol=0)


def test_compression_is_reproducible(run, small, tmp_path):
    settings = {"feature_pca": {"table_rank": 4, "epochs": 1}, "ptq": {"bits": 8}}
    again = compress(run, "feature_pca+ptq", settings, None, tmp_path / "again")
    torch.testing.assert_close(again.model.state_dict(), small.model.state_dict(), rtol=0, atol=0)


def test_every_recipe_runs_on_a_new_model(run, tmp_path):
    for name in RECIPES:
        steps = chain(name, {})
        assert [step.method.name for step in steps] == list(RECIPES[name].steps)


def test_a_recipe_can_be_changed(run):
    assert chain("rows4", {"ptq": {"wide_bits": 32}})[0].config.model_dump(include={"bits", "wide_bits"}) == {
        "bits": 4,
        "wide_bits": 32,
    }


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("ptqq", {}, "did you mean 'ptq'.*recipes: rows8"),
        ("feature_pca+ptqq", {}, "did you mean 'ptq'"),
        ("ptq+ptq", {}, "names a method twice"),
        ("feature_pca+ptq", {"bits": 4}, r"say for which method.*feature_pca.SETTING, ptq.SETTING"),
        ("feature_pca+ptq", {"svd": {"table_rank": 2}}, "say for which method"),
        ("feature_pca+ptq", {"ptq": {"bit": 4}}, "did you mean 'bits'"),
    ],
)
def test_wrong_chains_are_refused(text, settings, message):
    with pytest.raises(CompressionError, match=message):
        chain(text, settings)


def test_chain_in_the_wrong_order_is_refused(run, tmp_path):
    with pytest.raises(CompressionError, match="factor first and quantize after"):
        compress(run, "ptq+feature_pca", {}, None, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_a_step_that_cannot_follow_is_refused_before_anything_is_trained(run, tmp_path, monkeypatch):
    monkeypatch.setattr("slimctr.compression.verb.fine_tune", lambda *_: pytest.fail("trained in vain"))
    settings = {"feature_pca": {"epochs": 1}, "ptq": {"epochs": 1}}
    for wrong in ("feature_pca+ham", "ptq+feature_pca", "ptq+magnitude_rows"):
        given = {name: settings[name] for name in wrong.split("+") if name in settings}
        with pytest.raises(CompressionError, match="cannot be applied here"):
            compress(run, wrong, given, None, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_an_existing_run_is_not_overwritten(run):
    with pytest.raises(ConfigError, match="not empty"):
        compress(run, "ptq", {}, None, run.path)


def test_the_same_compression_again_is_that_run_and_another_one_is_refused(run, tmp_path):
    first = compress(run, "ptq", {"bits": 8}, None, tmp_path / "out")
    report = (tmp_path / "out" / REPORT_FILE).read_bytes()
    (tmp_path / "out" / REPORT_FILE).unlink()
    progress = told()
    again = compress(run, "ptq", {"bits": 8}, None, tmp_path / "out", progress=progress)
    assert again.sha256 == first.sha256
    assert "made by the same steps of the same run before" in progress.lines[0]
    assert (tmp_path / "out" / REPORT_FILE).read_bytes() == report
    other = dataclasses.replace(run, sha256={**run.sha256, "spec.json": "0" * 64})
    for asked, bits in ((run, 4), (other, 8)):
        with pytest.raises(ConfigError, match="not empty"):
            compress(asked, "ptq", {"bits": bits}, None, tmp_path / "out")


def test_a_folder_of_somebody_else_is_left_as_it_is(run, tmp_path):
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        compress(run, "ptq", {}, None, tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "mine"


def test_another_data_set_is_refused(run, dataset, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in dataset.path.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    info = json.loads((other / "dataset.json").read_text())
    info["files"][0]["sha256"] = "0" * 64
    (other / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(ConfigError, match="is not the one of run"):
        compress(run, "ptq", {}, other, tmp_path / "out")
