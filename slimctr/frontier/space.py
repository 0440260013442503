"""The search space: which chains of methods with which settings a trial may try."""

from collections.abc import Callable
from typing import Any, Protocol

from slimctr.networks import ModelSpec

Chain = dict[str, dict[str, Any]]
"""Methods in order, each with its settings."""


class Trial(Protocol):
    """What the space needs of an Optuna trial."""

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """Choose one of several values."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Choose a number."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Choose a whole number."""


def _ptq(trial: Trial, spec: ModelSpec) -> Chain:
    return {"ptq": {"bits": trial.suggest_categorical("ptq_bits", [8, 4, 2])}}


def _lsq_plus(trial: Trial, spec: ModelSpec) -> Chain:
    return {"lsq_plus": {"bits": trial.suggest_int("lsq_bits", 2, 8)}}


def _mpe(trial: Trial, spec: ModelSpec) -> Chain:
    cost = trial.suggest_float("precision_cost", 1e-4, 1e-1, log=True)
    zero_rows = trial.suggest_categorical("mpe_zero_rows", ["keyed", "oov"])
    return {"mpe": {"start": "trained", "precision_cost": cost, "zero_rows": zero_rows}}


def _frequency_rule(trial: Trial, spec: ModelSpec) -> Chain:
    settings = {
        "start": "trained",
        "kept_share": trial.suggest_float("kept_share", 0.01, 1.0, log=True),
        "bits": trial.suggest_int("rule_bits", 3, 8),
        "zero_rows": trial.suggest_categorical("rule_zero_rows", ["keyed", "oov"]),
    }
    return {"frequency_rule": settings}


def _low_rank(trial: Trial, spec: ModelSpec) -> Chain:
    rank = trial.suggest_int("table_rank", 1, max(1, spec.dim - 1))
    return {
        "feature_pca": {"table_rank": rank},
        "ptq": {"bits": trial.suggest_categorical("code_bits", [8, 4])},
    }


def _magnitude(trial: Trial, spec: ModelSpec) -> Chain:
    share = trial.suggest_float("column_share", 0.3, 0.9)
    return {
        "magnitude": {"budget_ratio": share},
        "ptq": {"bits": trial.suggest_categorical("column_bits", [8, 4])},
    }


def _magnitude_elements(trial: Trial, spec: ModelSpec) -> Chain:
    settings = {
        "budget_ratio": trial.suggest_float("element_share", 0.15, 0.9),
        "value_bits": trial.suggest_categorical("value_bits", [32, 16]),
    }
    return {"magnitude_elements": settings}


TABLES: dict[str, Callable[[Trial, ModelSpec], Chain]] = {
    "float": lambda trial, spec: {},
    "ptq": _ptq,
    "lsq_plus": _lsq_plus,
    "mpe": _mpe,
    "frequency_rule": _frequency_rule,
    "low_rank": _low_rank,
    "magnitude": _magnitude,
    "magnitude_elements": _magnitude_elements,
}
"""What may be done to the tables."""

KD_WEIGHTS = [0.3, 0.0]
TRAINED = {"feature_pca", "lsq_plus", "mpe", "frequency_rule", "magnitude", "magnitude_elements"}
"""Methods that train on, and may imitate the run meanwhile."""
LAYER_RATIOS = [None, 0.03, 0.05, 0.08, 0.12, 0.16, 0.25]
STARTS = (
    {"tables": "ptq", "ptq_bits": 8, "layers": None, "first_layer": None, "network_bits": 32},
    {
        "tables": "ptq",
        "ptq_bits": 8,
        "layers": 0.08,
        "first_layer": None,
        "kd_weight": 0.3,
        "network_bits": 8,
    },
    {
        "tables": "ptq",
        "ptq_bits": 4,
        "layers": 0.05,
        "first_layer": 0.08,
        "kd_weight": 0.3,
        "network_bits": 8,
    },
    {
        "tables": "ptq",
        "ptq_bits": 4,
        "layers": 0.05,
        "first_layer": 0.08,
        "kd_weight": 0.0,
        "network_bits": 4,
    },
    {
        **{"tables": "mpe", "precision_cost": 1e-3, "mpe_zero_rows": "oov"},
        **{"layers": 0.05, "first_layer": 0.08, "kd_weight": 0.3, "network_bits": 8},
    },
)
"""Trials to begin with."""


def suggest_chain(trial: Trial, spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    """Return a method text and its settings, as `compress` takes them.

    Tables first, then the layers of the MLP, the bits of the network's weights, and the calibration of the logits.
    A run whose tables or layers are compressed already keeps those parts as they are.
    """
    chain: Chain = {}
    if all(table.kind == "float" for table in spec.tables) and not spec.row_maps:
        chain |= TABLES[trial.suggest_categorical("tables", list(TABLES))](trial, spec)
    if all(layer.kind == "linear" for layer in spec.layers):
        ratio = trial.suggest_categorical("layers", LAYER_RATIOS)
        first = trial.suggest_categorical("first_layer", LAYER_RATIOS)
        _add_layers(chain, ratio, first)
    kd_weight = trial.suggest_categorical("kd_weight", KD_WEIGHTS)
    for method in TRAINED & chain.keys():
        chain[method]["kd_weight"] = kd_weight
    if spec.network_bits is None and (bits := trial.suggest_categorical("network_bits", [32, 8, 4])) != 32:
        chain["network_ptq"] = {"bits": bits}
    if spec.calibration is None:
        chain["recalibrate"] = {}
    return "+".join(chain), chain


def _add_layers(chain: Chain, ratio: float | None, first: float | None) -> None:
    """Factor the MLP: in the low-rank step of the tables where there is one, else in a step of its own after them."""
    if "feature_pca" not in chain and ratio is not None:
        chain["feature_pca"] = {"tables": False}
    if "feature_pca" in chain:
        settings = {"mlp": False} if ratio is None else {"mlp_rank_ratio": ratio, "first_layer_ratio": first}
        chain["feature_pca"] |= settings
