"""The budget of a search: what a variant may lose against its original, and which one is recommended."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from slimctr.errors import ConfigError

_TERM = re.compile(r"\s*(?P<name>\w+)\s*(?P<sign><=|>=)\s*(?P<value>[0-9.eE+-]+)\s*")


def auc_drop(variant: Mapping[str, Any], original: Mapping[str, Any]) -> float:
    """How much lower the validation AUC is."""
    return original["valid"]["auc"] - variant["valid"]["auc"]


def logloss_rise(variant: Mapping[str, Any], original: Mapping[str, Any]) -> float:
    """How much higher the validation logloss is."""
    return variant["valid"]["logloss"] - original["valid"]["logloss"]


def calibration_error(variant: Mapping[str, Any], original: Mapping[str, Any]) -> float:
    """How far mean prediction over click rate is from 1, on validation rows."""
    return abs(variant["valid"]["calibration"] - 1)


def artifact_ratio(variant: Mapping[str, Any], original: Mapping[str, Any]) -> float:
    """How many times smaller the artifact is."""
    return original["bytes"]["artifact"] / variant["bytes"]["artifact"]


TERMS = {
    "auc_drop": (auc_drop, "<="),
    "logloss_rise": (logloss_rise, "<="),
    "calibration_error": (calibration_error, "<="),
    "artifact_ratio": (artifact_ratio, ">="),
}


@dataclass(frozen=True)
class Budget:
    """Limits by name; a variant is within the budget when it keeps all of them."""

    limits: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `auc_drop<=0.001` or several such terms with commas. Raises ConfigError naming the term."""
        limits = []
        for part in text.split(","):
            found = _TERM.fullmatch(part)
            known = ", ".join(f"{name}{sign}NUMBER" for name, (_, sign) in TERMS.items())
            if found is None or found["name"] not in TERMS:
                raise ConfigError(f"'{part.strip()}' is no term of a budget; terms are {known}")
            if found["sign"] != TERMS[found["name"]][1]:
                raise ConfigError(
                    f"'{part.strip()}': this limit is written {found['name']}{TERMS[found['name']][1]}"
                )
            try:
                limit = float(found["value"])
            except ValueError:
                limit = math.nan
            if not math.isfinite(limit):
                raise ConfigError(f"'{part.strip()}': '{found['value']}' is no number")
            limits.append((found["name"], limit))
        return cls(tuple(limits))

    def __str__(self) -> str:
        return ",".join(f"{name}{TERMS[name][1]}{value:g}" for name, value in self.limits)

    def holds(self, variant: Mapping[str, Any], original: Mapping[str, Any]) -> bool:
        """Say whether a variant keeps every limit."""
        for name, limit in self.limits:
            measure, sign = TERMS[name]
            value = measure(variant, original)
            if not (value <= limit if sign == "<=" else value >= limit):
                return False
        return True

    def recommend(
        self, variants: Sequence[Mapping[str, Any]], original: Mapping[str, Any]
    ) -> Mapping[str, Any] | None:
        """Return the variant of the smallest artifact within the budget, the higher AUC on a tie; None without one."""
        within = [variant for variant in variants if self.holds(variant, original)]
        return min(within, key=lambda v: (v["bytes"]["artifact"], -v["valid"]["auc"]), default=None)


def pareto_front(variants: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the variants that no other beats in both artifact bytes and validation AUC, smallest first."""
    front: list[Mapping[str, Any]] = []
    for variant in sorted(variants, key=lambda v: (v["bytes"]["artifact"], -v["valid"]["auc"])):
        if not front or variant["valid"]["auc"] > front[-1]["valid"]["auc"]:
            front.append(variant)
    return front
