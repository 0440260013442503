"""docs/compression.md describes every setting of every method with its true default, and every recipe as it is."""

from pathlib import Path

import pytest

from slimctr.compression import METHODS, RECIPES

PAGE = (Path(__file__).parents[2] / "docs" / "compression.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]
SECOND_CELL = {row[0].strip("`"): row[1] for row in ROWS}
SETTINGS = sorted({(name, key) for name, method in METHODS.items() for key in method.config.model_fields})
OTHERWISE = {
    ("ptq", "epochs"): ("2 (`ptq`: 0)", 0),
    ("svd", "epochs"): ("2 (`ptq`: 0)", 2),
    ("feature_pca", "epochs"): ("2 (`ptq`: 0)", 2),
    ("svd", "table_rank"): ("0.16 D, rounded", None),
    ("feature_pca", "table_rank"): ("0.16 D, rounded", None),
    ("feature_pca", "statistics_rows"): ("all", None),
    ("svd", "first_layer_ratio"): ("none", None),
    ("feature_pca", "first_layer_ratio"): ("none", None),
}


@pytest.mark.parametrize(("method", "key"), SETTINGS)
def test_every_setting_has_a_row_with_its_default(method, key):
    default = METHODS[method].config.model_fields[key].default
    written, expected = OTHERWISE.get((method, key), (str(default).lower(), default))
    assert default == expected
    assert written in (SECOND_CELL[key], SECOND_CELL[key].strip("`"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_row_with_its_command(name):
    steps = RECIPES[name].steps
    chain = "+".join(steps)
    settings = "".join(f" --set {m}.{key}={v}" for m, given in steps.items() for key, v in given.items())
    if len(steps) == 1:
        settings = settings.replace(f" --set {chain}.", " --set ")
    assert SECOND_CELL[name] == f"`--method {chain}{settings.replace('False', 'false')}`"


def test_no_row_describes_what_is_gone():
    assert set(SECOND_CELL) == {key for _, key in SETTINGS} | set(RECIPES)
