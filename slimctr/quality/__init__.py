"""AUC, logloss, NE, calibration and their streaming forms."""

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
from slimctr.quality.streaming import QualitySums

__all__ = [
    "QualitySums",
    "auc",
    "calibration",
    "ece",
    "gauc",
    "has_gauc",
    "logloss",
    "ne",
    "probabilities",
    "row_losses",
    "summary",
]
