import json
from pathlib import Path

import pytest
import torch

from slimctr.errors import ConfigError
from slimctr.networks import build_model, float_spec
from slimctr.training import (
    EpochRecord,
    Lineage,
    MethodStep,
    Run,
    TrainConfig,
    git_revision,
    load_run,
    save_run,
)


def make_run(path: Path) -> Run:
    spec = float_spec(
        "dcnv2", dim=3, field_names=["a", "b"], rows=[5, 6], pooling=[None, "sum"], params={"hidden": [4]}
    )
    quantized = spec.tables[0].model_copy(update={"kind": "quantized", "bits": 4, "scale": "row"})
    spec = spec.model_copy(update={"tables": (quantized, spec.tables[1])})
    model = build_model(spec)
    model.tables[0].codes.random_(0, 16)
    model.tables[0].scales.fill_(0.3)
    with torch.no_grad():
        model.train()(*inputs())
    step = MethodStep(method="ptq", settings={"bits": 4}, seconds=0.1, statistics={"a": [1.0]})
    lineage = Lineage(
        seed=1, git_revision=None, data="data", data_sha256={"train.parquet": "0" * 64}, methods=(step,)
    )
    return Run(
        path, spec, model.eval(), TrainConfig.resolve({"network": "dcnv2"}), lineage, {"test": {"auc": 0.75}}
    )


def inputs():
    ids = torch.tensor([[1], [4], [0]], dtype=torch.int32)
    return ids, [
        (torch.tensor([5, 2, 2, 1], dtype=torch.int32), torch.tensor([0, 1, 3, 4], dtype=torch.int32))
    ]


def test_a_saved_run_loads_with_the_same_bits(tmp_path):
    run = make_run(tmp_path / "nested" / "run")
    record = EpochRecord(1, 0.5, 0.7, 0.6, 1e-3, 2.0, True)
    save_run(run, [record])
    loaded = load_run(run.path)
    assert (loaded.spec, loaded.config, loaded.lineage, loaded.metrics) == (
        run.spec,
        run.config,
        run.lineage,
        run.metrics,
    )
    assert torch.equal(loaded.model(*inputs()), run.model(*inputs()))
    assert loaded.model.tables[0].scales.dtype == torch.float16
    assert not loaded.model.training
    assert json.loads((run.path / "history.jsonl").read_text()) == {
        "epoch": 1,
        "loss": 0.5,
        "valid_auc": 0.7,
        "valid_logloss": 0.6,
        "learning_rate": 1e-3,
        "seconds": 2.0,
        "is_best": True,
    }


def test_loading_does_not_disturb_the_global_generator(tmp_path):
    save_run(make_run(tmp_path / "run"))
    before = torch.random.get_rng_state()
    load_run(tmp_path / "run")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "name", ["spec.json", "weights.safetensors", "lineage.json", "metrics.json", "config.yaml"]
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_run_is_refused(name, damage, tmp_path):
    save_run(make_run(tmp_path / "run"))
    file = tmp_path / "run" / name
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2] if name != "config.yaml" else b"network: [")
    with pytest.raises(ConfigError, match="run"):
        load_run(tmp_path / "run")


def test_weights_of_another_model_are_refused(tmp_path):
    save_run(make_run(tmp_path / "run"))
    spec = json.loads((tmp_path / "run" / "spec.json").read_text())
    spec["rows"][1] = 9
    (tmp_path / "run" / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(ConfigError, match=r"size mismatch for tables\.1"):
        load_run(tmp_path / "run")


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match="is no run directory"):
        load_run(tmp_path)


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        save_run(make_run(tmp_path / "run"))


def test_the_revision_is_a_commit_or_absent():
    revision = git_revision()
    assert revision is None or len(revision.removesuffix("-dirty")) == 40
