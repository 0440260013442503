"""docs/training.md describes every network, every setting with its true default, and every preset."""

import re
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from slimctr.commands.train import train
from slimctr.networks import NETWORKS
from slimctr.training import TrainConfig, preset_names
from slimctr.training.auto import AUTO

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|")
]
FIRST_CELLS = {row[0] for row in ROWS}
NAMED = [row for row in ROWS if row[0].startswith("`")]
DEFAULTS = {row[0].strip("`"): row[1] for row in NAMED}
MEANINGS = {row[0].strip("`"): row[2] for row in NAMED if len(row) == 3}
NETWORK_SETTINGS = [(network, name) for network in NETWORKS for name in NETWORKS[network].Params.model_fields]


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


@pytest.mark.parametrize(("network", "name"), NETWORK_SETTINGS)
def test_every_network_setting_has_a_row_with_its_default(network, name):
    whose = MEANINGS[name].split(":")[0]
    assert whose == "all" or f"`{network}`" in whose
    usual, _, others = DEFAULTS[name].partition(" (")
    own = re.search(rf"`{network}`: ([^,)]+)", others)
    written = yaml.safe_load(own[1] if own else usual)
    default = NETWORKS[network].Params.model_fields[name].default
    assert (None if written == "none" else written) == (
        list(default) if isinstance(default, tuple) else default
    )


def test_rows_name_no_network_without_the_setting():
    for name, meaning in MEANINGS.items():
        for network in re.findall(r"`(\w+)`", meaning.split(":")[0]):
            if network in NETWORKS:
                assert name in NETWORKS[network].Params.model_fields, (name, network)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_has_its_formula_and_is_offered_by_the_command(network):
    formula = DEFAULTS[network]
    assert formula.startswith("head(")
    assert ("+ wide" in formula) == NETWORKS[network].has_wide
    (option,) = get_type_hints(train, include_extras=True)["network"].__metadata__
    assert re.search(rf"\b{network}\b", option.help)


def test_every_preset_has_a_row():
    assert {f"`{name}`" for name in preset_names()} <= FIRST_CELLS


def test_no_row_describes_a_setting_that_is_gone():
    settings = {key.strip("`") for key in FIRST_CELLS if key.startswith("`")}
    params = {name for network in NETWORKS.values() for name in network.Params.model_fields}
    known = set(TrainConfig.model_fields) | params | set(NETWORKS) | set(preset_names())
    assert settings == known | {AUTO}
