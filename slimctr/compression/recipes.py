"""Chains of methods: written `a+b`, or under the name of a recipe with its settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slimctr.compression.method import METHODS, Method, Settings, find_method
from slimctr.errors import CompressionError


@dataclass(frozen=True)
class Recipe:
    """A named chain: the settings of each method, in order, and what it is for."""

    purpose: str
    steps: Mapping[str, Mapping[str, Any]]


_LAYERS_ALONE = {"tables": False, "epochs": 0, "statistics_rows": 20_000}
RECIPES: dict[str, Recipe] = {
    "rows8": Recipe("tables in 8 bits a value, the network as it is", {"ptq": {"bits": 8}}),
    "rows4": Recipe("tables in 4 bits a value, the network as it is", {"ptq": {"bits": 4}}),
    "compact8": Recipe(
        "tables in 8 bits a value, layers 2 and up in two factors; no training",
        {"feature_pca": {**_LAYERS_ALONE, "mlp_rank_ratio": 0.08}, "ptq": {"bits": 8}},
    ),
    "compact4": Recipe(
        "tables in 4 bits a value, every hidden layer in two factors; no training",
        {
            "feature_pca": {**_LAYERS_ALONE, "mlp_rank_ratio": 0.05, "first_layer_ratio": 0.08},
            "ptq": {"bits": 4},
        },
    ),
    "compact4w8": Recipe(
        "compact4 with network weights in 8 bits and recalibrated logits; no training",
        {
            "feature_pca": {**_LAYERS_ALONE, "mlp_rank_ratio": 0.05, "first_layer_ratio": 0.08},
            "ptq": {"bits": 4},
            "network_ptq": {"bits": 8},
            "recalibrate": {},
        },
    ),
    "trained4w8": Recipe(
        "compact4w8 whose layers imitate the original for four epochs before anything is rounded",
        {
            "feature_pca": {
                **_LAYERS_ALONE,
                **{"mlp_rank_ratio": 0.05, "first_layer_ratio": 0.08, "epochs": 4, "kd_weight": 0.3},
            },
            "ptq": {"bits": 4},
            "network_ptq": {"bits": 8},
            "recalibrate": {},
        },
    ),
}


@dataclass(frozen=True)
class Step:
    """One method of a chain with its checked settings."""

    method: Method
    config: Settings


def chain(text: str, settings: Mapping[str, Any]) -> list[Step]:
    """Return the steps of `text`: a method, several joined by '+', or a recipe.

    Settings of a single method are plain keys. In a chain and in a recipe they are grouped by method
    (`{"ptq": {"bits": 4}}`) and add to those of the recipe. Raises CompressionError for an unknown name,
    setting or a method that occurs twice.
    """
    if text in METHODS:
        return [Step(METHODS[text], METHODS[text].configure(settings))]
    if text in RECIPES:
        defaults = RECIPES[text].steps
    else:
        names = text.split("+")
        if len(names) == 1:
            find_method_or_recipe(text)
        if len(set(names)) < len(names):
            raise CompressionError(f"chain '{text}' names a method twice; run it as two commands")
        defaults = {find_method(name).name: {} for name in names}
    for name, group in settings.items():
        if name not in defaults or not isinstance(group, Mapping):
            raise CompressionError(
                f"setting '{name}' of chain '{text}' must say for which method it is: "
                + ", ".join(f"{method}.SETTING" for method in defaults)
            )
    methods = ((find_method(name), {**given, **settings.get(name, {})}) for name, given in defaults.items())
    return [Step(method, method.configure(merged)) for method, merged in methods]


def find_method_or_recipe(name: str) -> None:
    """Raise CompressionError for a name that is neither, listing both."""
    try:
        find_method(name)
    except CompressionError as unknown:
        raise CompressionError(f"{unknown}; recipes: {', '.join(RECIPES)}") from None
