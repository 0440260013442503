"""docs/training.md describes every setting with its true default, every network setting and every preset."""

import json
from pathlib import Path

import pytest

from slimctr.networks import NETWORKS
from slimctr.training import TrainConfig, preset_names

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|")
]
FIRST_CELLS = {row[0] for row in ROWS}
DEFAULTS = {row[0].strip("`"): row[1] for row in ROWS}


@pytest.mark.parametrize("key", TrainConfig.model_fields)
def test_every_setting_has_a_row_with_its_default(key):
    default = TrainConfig.model_fields[key].default
    written = DEFAULTS[key].strip("`")
    if key == "params":
        assert written == "of the network"
    elif default is None:
        assert written == "none"
    elif isinstance(default, str):
        assert written == default
    else:
        assert float(written) == default


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_setting_has_a_row(network):
    missing = {f"`{name}`" for name in NETWORKS[network].Params.model_fields} - FIRST_CELLS
    assert not missing


def test_every_preset_has_a_row():
    assert {f"`{name}`" for name in preset_names()} <= FIRST_CELLS


def test_no_row_describes_a_setting_that_is_gone():
    settings = {key.strip("`") for key in FIRST_CELLS if key.startswith("`")}
    params = {name for network in NETWORKS.values() for name in network.Params.model_fields}
    assert settings == set(TrainConfig.model_fields) | params | set(preset_names())


def test_the_measured_table_is_the_results_file():
    runs = json.loads((ROOT / "benchmarks" / "results" / "frappe_originals.json").read_text())["runs"]
    expected = [
        [
            f"{run['preset']}, {run['network']}, {run['seed']}",
            f"{run['test']['auc']:.5f}",
            f"{run['published_test_auc']:.5f}",
            f"{run['test']['logloss']:.5f}",
            f"{run['test']['calibration']:.4f}",
            f"{run['valid']['auc']:.5f}",
            str(run["epochs"]),
            f"{run['cpu_seconds']:.0f}",
        ]
        for run in runs
    ]
    assert [
        row for row in ROWS if row[0].count(", ") == 2 and row[0].startswith(tuple(preset_names()))
    ] == expected
