"""AUC, logloss, NE, calibration and their streaming forms."""
