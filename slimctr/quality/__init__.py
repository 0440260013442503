"""AUC, logloss, NE, calibration and their streaming forms."""

from slimctr.quality.exact import auc, calibration, ece, gauc, logloss, ne, probabilities, row_losses, summary

__all__ = ["auc", "calibration", "ece", "gauc", "logloss", "ne", "probabilities", "row_losses", "summary"]
