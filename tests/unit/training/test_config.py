import pytest

from slimctr.errors import ConfigError
from slimctr.training import TrainConfig, parse_assignments, preset_names, read_settings


def test_later_layers_win_and_params_merge_key_by_key():
    config = TrainConfig.resolve(
        {"network": "dcn", "params": {"dropout": 0.1, "cross_layers": 5}, "seed": 1},
        {"params": {"dropout": 0.3}, "seed": 2},
    )
    assert config.seed == 2
    assert config.params == {"hidden": [400, 400, 400], "batch_norm": True, "dropout": 0.3, "cross_layers": 5}


def test_a_resolved_configuration_resolves_to_itself():
    config = TrainConfig.resolve({"network": "dcnv2"})
    assert TrainConfig.resolve(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learnin_rate": 1}, "unknown training setting 'learnin_rate' .did you mean 'learning_rate'"),
        ({"zzz": 1}, "unknown training setting 'zzz'$"),
        ({"epochs": 0}, "training setting 'epochs': .*got 0"),
        ({"learning_rate": "fast"}, "training setting 'learning_rate'.*'fast'"),
        ({"learning_rate": float("nan")}, "training setting 'learning_rate'"),
        ({"schedule": "cosine"}, "training setting 'schedule'"),
        ({"params": [1]}, "training setting 'params'"),
        ({"params": {"hiden": [1]}}, "no setting 'hiden' .did you mean 'hidden'"),
        ({"network": "deepfn"}, "did you mean 'deepfm'"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.resolve(settings)


def test_assignments_are_yaml_and_reach_into_params():
    settings = parse_assignments(
        ["seed=3", "params.hidden=[8, 4]", "params.dropout=0.5", "network=dnn", "learning_rate=2e-3"]
    )
    config = TrainConfig.resolve(settings)
    assert (config.seed, config.network, config.learning_rate) == (3, "dnn", 0.002)
    assert config.params == {"hidden": [8, 4], "batch_norm": True, "dropout": 0.5}


@pytest.mark.parametrize("text", ["seed", "=3", "seed=[1"])
def test_assignments_that_do_not_parse_are_quoted(text):
    with pytest.raises(ConfigError, match="'" + text.replace("[", r"\[")):
        parse_assignments([text])


def test_every_preset_resolves():
    assert preset_names()
    for name in preset_names():
        config = TrainConfig.resolve(read_settings(name))
        # their figures are published: nothing that a default changes may reach them
        assert (config.select, config.bias_start, config.batch_norm_statistics) == ("auc", "zero", "running")


def test_a_file_is_read_and_wrong_ones_are_named(tmp_path):
    good, broken, listing = tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml"
    good.write_text("seed: 9\n")
    broken.write_text("seed: [")
    listing.write_text("- seed\n")
    assert read_settings(good) == {"seed": 9}
    with pytest.raises(ConfigError, match=r"b\.yaml' is not YAML"):
        read_settings(broken)
    with pytest.raises(ConfigError, match=r"c\.yaml' must hold key: value"):
        read_settings(listing)
    with pytest.raises(ConfigError, match=r"'frape' .did you mean 'frappe'"):
        read_settings("frape")


def test_changed_settings_are_checked():
    config = TrainConfig.resolve({})
    assert config.changed(epochs=2, params={"dropout": 0.0}).params["dropout"] == 0.0
    with pytest.raises(ConfigError, match="unknown training setting 'epoch'"):
        config.changed(epoch=2)
