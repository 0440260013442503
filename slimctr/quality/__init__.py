"""AUC, logloss, NE, calibration, their errors and streaming forms, and what they say against a model."""

from slimctr.quality.delong import auc_difference, auc_error
from slimctr.quality.exact import (
    auc,
    calibration,
    ece,
    gauc,
    has_gauc,
    logloss,
    ne,
    probabilities,
    row_losses,
    summary,
)
from slimctr.quality.guard import figures_by_split, told, unsound, warnings
from slimctr.quality.streaming import QualitySums

__all__ = [
    "QualitySums",
    "auc",
    "auc_difference",
    "auc_error",
    "calibration",
    "ece",
    "figures_by_split",
    "gauc",
    "has_gauc",
    "logloss",
    "ne",
    "probabilities",
    "row_losses",
    "summary",
    "told",
    "unsound",
    "warnings",
]
