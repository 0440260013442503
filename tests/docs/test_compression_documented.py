"""docs/compression.md describes every setting of every method with its true default, and every recipe as it is.

A line "Of `a` and `b`:" says which methods the table after it is about; a table about named methods goes before the
one about every method.
"""

import re
from pathlib import Path

import pytest

from slimctr.compression import METHODS, RECIPES
from slimctr.networks import NETWORKS

PAGE = (Path(__file__).parents[2] / "docs" / "compression.md").read_text()
SETTINGS = sorted({(name, key) for name, method in METHODS.items() for key in method.config.model_fields})
WORDS_FOR_NONE = {
    "epochs": "by `start`",
    "learning_rate_factor": "by `start`",
    "table_rank": "0.16 D, rounded",
    "statistics_rows": "all",
    "first_layer_ratio": "none",
    "initial_step": "from the values",
    ("ham", "epochs"): "by `retrain`",
    ("ham", "learning_rate_factor"): "by `retrain`",
    ("small_dim", "epochs"): "as the run",
    ("small_dim", "learning_rate_factor"): "as the run",
    ("hash_qr", "epochs"): "as the run",
    ("hash_qr", "learning_rate_factor"): "as the run",
    ("mpe", "search_epochs"): "as `epochs`",
    ("frequency_rule", "kept_share"): "one of two",
    ("frequency_rule", "mean_bits"): "one of two",
    "search_steps": "one epoch",
    "dim": "by `budget_ratio`",
}


def described():
    """Rows of the settings tables as {(method, key): default}, rows of recipes as {name: command}."""
    every, named, recipes = {}, {}, {}
    target, methods = recipes, [None]
    for line in PAGE.splitlines():
        if line.startswith("## "):
            target, methods = (recipes, [None]) if line == "## Recipes" else (None, [])
        if line == "Of every method:":
            target, methods = every, list(METHODS)
        elif line.startswith("Of `") and line.endswith(":"):
            target, methods = named, re.findall(r"`(\w+)`", line)
        elif line.startswith("| `") and target is not None:
            key, second = (cell.strip() for cell in line.strip("|").split("|")[:2])
            for method in methods:
                target[key.strip("`") if method is None else (method, key.strip("`"))] = second
    return every | named, recipes


DEFAULTS, COMMANDS = described()


@pytest.mark.parametrize(("method", "key"), SETTINGS)
def test_every_setting_has_a_row_with_its_default(method, key):
    default = METHODS[method].config.model_fields[key].default
    written = DEFAULTS[method, key]
    if default is None:
        assert written == (WORDS_FOR_NONE.get((method, key)) or WORDS_FOR_NONE[key])
    else:
        assert written.strip("`") == (str(default) if isinstance(default, str) else str(default).lower())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_row_with_its_command(name):
    steps = RECIPES[name].steps
    chain = "+".join(steps)
    settings = "".join(f" --set {m}.{key}={v}" for m, given in steps.items() for key, v in given.items())
    if len(steps) == 1:
        settings = settings.replace(f" --set {chain}.", " --set ")
    assert COMMANDS[name] == f"`--method {chain}{settings.replace('False', 'false')}`"


def test_no_row_describes_what_is_gone():
    assert set(DEFAULTS) == set(SETTINGS)
    assert set(COMMANDS) == set(RECIPES)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_page_says_where_codes_enter(network):
    table = PAGE.split("| codes enter |")[1].split("\n\n")[0]
    (row,) = [line for line in table.splitlines() if f"`{network}`" in line]
    assert row.startswith("| nowhere") != NETWORKS[network].mlp_reads_embeddings
