"""Streaming sums against the exact metrics."""

import numpy as np
import pytest
from rounding import SUMS64

from slimctr import quality
from slimctr.quality.streaming import BINS, QualitySums, bin_of


def clicks(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-3.2, 1.0, rows).astype(np.float32)
    return (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.float32), logits


def test_bins_cover_the_range_and_clamp_beyond_it() -> None:
    edges = [-1e9, -16.0, -16 + 1 / 128, 0.0, np.nextafter(16.0, 0.0), 16.0, 1e9]
    assert bin_of(edges).tolist() == [0, 0, 1, 2048, BINS - 1, BINS - 1, BINS - 1]


def test_sums_give_the_exact_logloss_ne_and_calibration() -> None:
    labels, logits = clicks(1, 20_000)
    sums = QualitySums.of(labels, logits)
    assert (sums.count, sums.clicks) == (20_000, labels.sum())
    for name in ("logloss", "ne", "calibration"):
        assert getattr(sums, name) == pytest.approx(getattr(quality, name)(labels, logits), rel=SUMS64)


def test_the_histogram_auc_stays_within_its_stated_bound() -> None:
    labels, logits = clicks(2, 200_000)
    sums = QualitySums.of(labels, logits)
    assert sums.auc is not None
    assert sums.auc_error_bound is not None
    error = abs(sums.auc - quality.auc(labels, logits))
    assert error <= sums.auc_error_bound
    assert error < 2e-5  # of given rows: pairs within one bin of 1/128 mostly cancel


def test_logits_on_bin_edges_give_the_exact_auc() -> None:
    labels, logits = clicks(3, 5000)
    logits = np.round(logits * 128) / 128
    assert QualitySums.of(labels, logits).auc == pytest.approx(quality.auc(labels, logits), abs=SUMS64)


def test_metrics_without_their_classes_are_none() -> None:
    assert QualitySums().summary() == {
        "rows": 0,
        "clicks": 0,
        "auc": None,
        "auc_error_bound": None,
        "logloss": None,
        "ne": None,
        "calibration": None,
    }
    only_clicks = QualitySums.of([1, 1], [0.0, 0.0])
    assert only_clicks.auc is None
    assert only_clicks.ne is None
    assert only_clicks.calibration == pytest.approx(0.5)
    assert QualitySums.of([0], [0.0]).calibration is None


def test_unusable_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="logit of row 1 is nan"):
        QualitySums.of([0, 1], [0.0, float("nan")])
